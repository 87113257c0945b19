"""Reads a foreign file: its text, which tool wrote it, and the results that it holds."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_slmperf.core.errors import SlmperfError, UsageError
from pytest_slmperf.report import document as our_report
from pytest_slmperf.report.foreign import aiperf, guidellm, llmd, sglang, vllm
from pytest_slmperf.report.foreign.fields import Fields
from pytest_slmperf.report.foreign.result import Result
from pytest_slmperf.run import schema
from pytest_slmperf.run.regular import read_named

FORMATS: tuple[ModuleType, ...] = (sglang, vllm, guidellm, aiperf, llmd)
"""Each has `recognises(document)` and `results(fields)`. SGLang's first: it has most of vLLM's names, too."""
KNOWN = "vLLM bench serve, throughput or latency, SGLang bench_serving, GuideLLM, AIPerf, or llm-d's benchmark report"


def read(path: Path) -> list[Result]:
    """Every result in a file, in its order.

    Raises UsageError for a file that can't be read, and SlmperfError that names the file and the field for one that is
    damaged or of no known tool.
    """
    found = [result for place, document in _documents(path, read_named(path)) for result in _results(place, document)]
    if not found:
        raise SlmperfError(f"{path}: it holds no result")
    return found


def _results(place: str, document: Any) -> Iterator[Result]:  # noqa: ANN401 - any JSON
    if not isinstance(document, Mapping):
        raise SlmperfError(f"{place}: it holds no object, so it is no result of {KNOWN}")
    if document.get("format") == our_report.FORMAT:
        raise UsageError(f"{place}: this is a report of slmperf already: compare it as it is")
    for form in FORMATS:
        if form.recognises(document):
            yield from form.results(Fields(place, document))
            return
    raise SlmperfError(f"{place}: nothing here knows it: read are results of {KNOWN}")


def _documents(path: Path, content: bytes) -> Iterator[tuple[str, Any]]:
    """The documents of a file, each with what it is called: JSON, one JSON in each line, or YAML."""
    if path.suffix.lower() in (".yaml", ".yml"):
        yield str(path), _yaml(path, content)
        return
    lines = [(number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
    if len(lines) < 2 or not _whole(lines[0][1]):
        yield str(path), _parsed(str(path), content)
        return
    for number, line in lines:
        yield f"{path}, line {number}", _parsed(f"{path}, line {number}", line)


def _whole(line: bytes) -> bool:
    """Whether a line is an object by itself, so that each line is one."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _parsed(place: str, content: bytes) -> Any:  # noqa: ANN401 - any JSON
    try:
        return schema.parsed(content, finite=False)
    except ValueError as error:
        raise SlmperfError(f"{place}: {error}") from error


def _yaml(path: Path, content: bytes) -> Any:  # noqa: ANN401 - any YAML
    try:
        import yaml  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UsageError(f"{path}: YAML is read with PyYAML: pip install 'pytest-slmperf[yaml]'") from error
    try:
        return yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    except (yaml.YAMLError, ValueError) as error:
        raise SlmperfError(f"{path}: no YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise SlmperfError(f"{path}: nested too deeply") from error
