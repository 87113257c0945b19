"""The lengths of a batch's requests: fixed, or drawn from a recorded trace."""

import csv
import hashlib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.workload import StaticBatch, drawn, longest, sample_lengths

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

EXCERPTS = {"azure-conversation-2023": "azure_llm_2023_conv_excerpt.csv"}
"""Traces that this package ships, in its folder `traces`, whose README says where they are from."""
PROMPT_COLUMN = "ContextTokens"
OUTPUT_COLUMN = "GeneratedTokens"

RequestLengths = tuple[tuple[int, int], ...]
"""(prompt tokens, output tokens) of each request."""


def draw_lengths(workload: StaticBatch, count: int, context_tokens: int) -> tuple[RequestLengths, int]:
    """The lengths of `count` requests, and how many requests of the trace were left out as they exceed the context.

    Raises SuiteError for fixed lengths that exceed the context, and for a trace that cannot be read or of which nothing
    fits.
    """
    if workload.lengths is not None:
        recorded = read_trace(workload.lengths.trace)
        return sample_lengths(recorded, count, seed=workload.lengths.seed, context_tokens=context_tokens)
    prompt, output = workload.prompt_tokens, workload.output_tokens
    if prompt is None or output is None:
        raise SuiteError("StaticBatch needs prompt_tokens and output_tokens, or lengths=TraceLengths(…)")
    most = longest(prompt) + longest(output)
    if most > context_tokens:
        raise SuiteError(
            f"{longest(prompt)} prompt tokens and {longest(output)} output tokens exceed the model's "
            f"context of {context_tokens} tokens"
        )
    return tuple(zip(drawn(prompt, count, "prompt"), drawn(output, count, "output"), strict=True)), 0


def workload_key(workload: StaticBatch) -> Mapping[str, object]:
    """The workload's fields of a baseline's key: two samples of unlike requests are incomparable.

    An excerpt goes by its name; a file by its own and by the lengths in it, wherever it lies. Raises SuiteError for a
    trace that cannot be read.
    """
    traced = workload.lengths
    if traced is None:
        lengths = {"prompt_tokens": workload.prompt_tokens, "output_tokens": workload.output_tokens}
        said = {name: one if isinstance(one, int) else str(one) for name, one in lengths.items()}
        return {"workload": "static-batch", **said}
    name = traced.trace
    if name not in EXCERPTS:
        digest = hashlib.sha256(repr(read_trace(name)).encode()).hexdigest()
        name = f"{Path(name).name} sha256:{digest[:16]}"
    return {"workload": "static-batch", "trace": name, "trace_seed": traced.seed}


def read_trace(trace: str) -> RequestLengths:
    """The lengths of a trace's requests, in the order of the file: an excerpt's name, or the path of a CSV file.

    Raises SuiteError naming the file, the line and the column of what is wrong.
    """
    excerpt = EXCERPTS.get(trace)
    path: Path | Traversable = files("pytest_slmperf") / "traces" / excerpt if excerpt else Path(trace).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig" if excerpt is None else "utf-8")
    except (OSError, ValueError) as error:
        raise SuiteError(
            f"the trace {trace} cannot be read: {error}. A trace is a CSV file or one of {', '.join(EXCERPTS)}"
        ) from error
    lengths = tuple(_rows(trace, text))
    if not lengths:
        raise SuiteError(f"{trace}: there is no request below the header")
    return lengths


def _rows(trace: str, text: str) -> Iterator[tuple[int, int]]:
    rows = csv.DictReader(text.splitlines())
    for column in (PROMPT_COLUMN, OUTPUT_COLUMN):
        if column not in (rows.fieldnames or ()):
            raise SuiteError(f"{trace}, line 1: there is no column {column}; the header is {rows.fieldnames}")
    for row in rows:
        prompt, output = (
            _tokens(trace, rows.line_num, column, row[column]) for column in (PROMPT_COLUMN, OUTPUT_COLUMN)
        )
        yield prompt, output


def _tokens(trace: str, line: int, column: str, text: str | None) -> int:
    if text is None or not text.strip().isdecimal() or int(text) < 1:
        raise SuiteError(f"{trace}, line {line}, column {column}: {text!r} must be a whole number of at least 1")
    return int(text)
