"""Reads what a user names: a JSON report, baseline files, or a folder of these."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_slmperf.core.baselines.baseline import BaselineFile
from pytest_slmperf.core.baselines.side import Side, of_files, of_run
from pytest_slmperf.core.errors import SlmperfError, UsageError
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import RunOutcome
from pytest_slmperf.report import document
from pytest_slmperf.run import schema
from pytest_slmperf.run.regular import read_named
from pytest_slmperf.run.store import read_baseline

LEVELS = ("*.json", "*/*.json", "*/*/*.json")
"""Where baseline files lie in a driver's folder, a device's, and that of all; what lies deeper is none."""
WANTED = (
    "name a JSON report (pytest --slmperf --slmperf-report=report.json), a baseline file, or a folder of such files"
)


def read_report(path: Path) -> RunOutcome:
    """The run that a report was written from.

    Raises UsageError for a file that can't be read, and SlmperfError that names the file and the field for one that
    is no report, or one of a later version.
    """
    try:
        content = schema.parsed(read_named(path))
    except ValueError as error:
        raise SlmperfError(f"{path}: no JSON report: {error}") from error
    ours = isinstance(content, dict) and content.get("format") == document.FORMAT
    if not ours or content.get("version") == document.VERSION:
        broken = schema.violation("report", content)
        if broken:
            raise SlmperfError(f"{path}: no JSON report: {broken}")
    try:
        run = document.outcome(content)
        for name in _metrics(run):
            metric(name)
    except SlmperfError as error:
        raise SlmperfError(f"{path}: {schema.short(str(error))}") from error
    return run


def _metrics(run: RunOutcome) -> Iterator[str]:
    """Everything that a run says it measured or gates."""
    for sweep in run.sweeps:
        yield from sweep.asked
        for case in sweep.cases.values():
            yield from (*case.measurement.samples, *case.verdicts)


def read_side(path: Path) -> Side:
    """What a path holds: a report, a baseline file, or a folder with those of one machine. Raises UsageError that names
    the file and the way out.
    """
    try:
        return _read(path)
    except OSError as error:
        raise UsageError(f"{error.filename or path}: can't be read: {error.strerror or error}; {WANTED}") from error
    except UsageError:
        raise
    except SlmperfError as error:
        raise UsageError(str(error)) from error


def _read(path: Path) -> Side:
    if path.is_dir():
        return of_files(str(path), _of_one_machine(path))
    if not path.is_file():
        raise UsageError(f"{path}: {'it is no file' if path.exists() else 'there is no such file'}; {WANTED}")
    if _is_report(path):
        return of_run(str(path), read_report(path))
    return of_files(str(path), [read_baseline(path)])


def _is_report(path: Path) -> bool:
    """Whether a file says that it is a report. What is neither is told so here, and not what is wrong with it."""
    content = read_json(path)
    if isinstance(content, dict) and content.get("format") == document.FORMAT:
        return True
    if isinstance(content, dict) and {"suite", "engine", "cases"} <= content.keys():
        return False
    raise UsageError(f"{path}: neither a report nor a baseline; {WANTED}")


def read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON
    """A JSON document as it is written. Raises UsageError for what can't be read, and for text that is none."""
    try:
        return schema.parsed(read_named(path))
    except ValueError as error:
        raise UsageError(f"{path}: no JSON: {error}; {WANTED}") from error


def _of_one_machine(folder: Path) -> list[BaselineFile]:
    """The baseline files in a folder of a driver or above it, of one device and driver."""
    found = sorted(path for level in LEVELS for path in folder.glob(level))
    paths = [path for path in found if not path.name.startswith(".")]
    if not paths:
        raise UsageError(f"{folder}: there is no baseline file in it; {WANTED}")
    reports = [path for path in paths if _is_report(path)]
    if reports:
        raise UsageError(
            f"{folder}: it holds a report, and a folder is one of baselines; name {shlex.quote(str(reports[0]))} alone"
        )
    files = [read_baseline(path) for path in paths]
    if len({(file.machine.device, file.machine.driver) for file in files}) > 1:
        folders = ", ".join(dict.fromkeys(shlex.quote(str(path.parent)) for path in paths))
        raise UsageError(f"{folder}: it holds several machines; name one of {folders}")
    return files
