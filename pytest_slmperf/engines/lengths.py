"""The lengths of requests: fixed, drawn, or of a recorded trace, which tells when they arrived, too."""

import csv
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from decimal import Decimal, InvalidOperation
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.sweeps.workload import (
    ClosedLoop,
    OpenLoop,
    Replay,
    StaticBatch,
    Workload,
    drawn,
    longest,
    sample_lengths,
)

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

EXCERPTS = {"azure-conversation-2023": "azure_llm_2023_conv_excerpt.csv"}
"""Traces that this package ships, in its folder `traces`, whose README says where they are from."""
TIME_COLUMN = "TIMESTAMP"
PROMPT_COLUMN = "ContextTokens"
OUTPUT_COLUMN = "GeneratedTokens"

RequestLengths = tuple[tuple[int, int], ...]
"""(prompt tokens, output tokens) of each request."""


def draw_lengths(
    workload: StaticBatch | ClosedLoop | OpenLoop, count: int, context_tokens: int
) -> tuple[RequestLengths, int]:
    """The lengths of `count` requests, and how many requests of the trace were left out as they exceed the context.

    Raises SuiteError for fixed lengths that exceed the context, and for a trace that cannot be read or of which nothing
    fits.
    """
    if workload.lengths is not None:
        recorded = read_trace(workload.lengths.trace)
        return sample_lengths(recorded, count, seed=workload.lengths.seed, context_tokens=context_tokens)
    prompt, output = workload.prompt_tokens, workload.output_tokens
    if prompt is None or output is None:
        raise SuiteError(f"{type(workload).__name__} needs prompt_tokens and output_tokens, or lengths=TraceLengths(…)")
    most = longest(prompt) + longest(output)
    if most > context_tokens:
        raise SuiteError(
            f"{longest(prompt)} prompt tokens and {longest(output)} output tokens exceed the model's "
            f"context of {context_tokens} tokens"
        )
    return tuple(zip(drawn(prompt, count, "prompt"), drawn(output, count, "output"), strict=True)), 0


def recorded(workload: Replay, context_tokens: int) -> tuple[tuple[float, ...], RequestLengths, int]:
    """When the requests of a trace arrived, in seconds after its first, their lengths, and how many were left out.

    Left out is what exceeds the context. Raises SuiteError for a trace that cannot be read or of which nothing fits.
    """
    rows = read_arrivals(workload.trace)
    whole = workload.seconds is None
    there = [row for row in rows if whole or row[0] < (workload.seconds or 0.0)]
    fitting = [row for row in there if row[1] + row[2] <= context_tokens]
    if not fitting:
        raise SuiteError(f"none of the trace's {len(there)} requests fits into a context of {context_tokens} tokens")
    offsets = tuple(at for at, _, _ in fitting)
    return offsets, tuple((prompt, output) for _, prompt, output in fitting), len(there) - len(fitting)


def workload_key(workload: Workload, slo: Slo | None = None) -> Mapping[str, object]:
    """The workload's fields of a baseline's key: two samples of unlike requests are incomparable.

    An excerpt goes by its name; a file by its own and by what is in it, wherever it lies. What is not set is left out.
    Raises SuiteError for a trace that cannot be read.
    """
    limits = {f"slo.{limit.name}": getattr(slo, limit.name) for limit in fields(Slo)} if slo else {}
    given = {**_key(workload), **limits}
    return {name: value for name, value in given.items() if value is not None}


def _key(workload: Workload) -> Mapping[str, object]:
    match workload:
        case StaticBatch():
            return {"workload": "static-batch", **_lengths_key(workload)}
        case ClosedLoop():
            prefix = {"shared_prefix_tokens": workload.shared_prefix_tokens}
            return {"workload": "closed-loop", **_lengths_key(workload), **prefix}
        case OpenLoop():
            return {
                "workload": "open-loop",
                **_lengths_key(workload),
                "burstiness": "inf" if workload.burstiness == math.inf else float(workload.burstiness),
                "ramp_s": float(workload.ramp_s),
                "max_concurrency": workload.max_concurrency,
                "shared_prefix_tokens": workload.shared_prefix_tokens,
            }
        case Replay():
            return {
                "workload": "replay",
                "trace": _trace_key(workload.trace, read_arrivals),
                "trace_seconds": workload.seconds,
                "max_concurrency": workload.max_concurrency,
            }


def _lengths_key(workload: StaticBatch | ClosedLoop | OpenLoop) -> Mapping[str, object]:
    traced = workload.lengths
    if traced is not None:
        return {"trace": _trace_key(traced.trace, read_trace), "trace_seed": traced.seed}
    lengths = {"prompt_tokens": workload.prompt_tokens, "output_tokens": workload.output_tokens}
    return {name: one if isinstance(one, int) else str(one) for name, one in lengths.items()}


def _trace_key(name: str, read: Callable[[str], object]) -> str:
    if name in EXCERPTS:
        return name
    digest = hashlib.sha256(repr(read(name)).encode()).hexdigest()
    return f"{Path(name).name} sha256:{digest[:16]}"


def read_trace(trace: str) -> RequestLengths:
    """The lengths of a trace's requests, in the order of the file: an excerpt's name, or the path of a CSV file.

    Raises SuiteError naming the file, the line and the column of what is wrong.
    """
    return tuple(_lengths(trace, line, row) for line, row in _rows(trace, PROMPT_COLUMN, OUTPUT_COLUMN))


def read_arrivals(trace: str) -> tuple[tuple[float, int, int], ...]:
    """Of a trace's requests the seconds after the first, prompt and output tokens, in the order of the file.

    Times are dates as of ISO 8601, all with an offset from UTC or none, or seconds; fractions to the microsecond.
    Raises SuiteError naming the file, the line and the column of what is wrong: times ascend, and none is missing.
    """
    found: list[tuple[float, int, int]] = []
    times: list[datetime | Decimal] = []
    for line, row in _rows(trace, TIME_COLUMN, PROMPT_COLUMN, OUTPUT_COLUMN):
        at = _time(trace, line, row[TIME_COLUMN])
        first, before = (times[0], times[-1]) if times else (at, at)
        since_first, since_before = _seconds_between(first, at), _seconds_between(before, at)
        where = f"{trace}, line {line}, column {TIME_COLUMN}: {row[TIME_COLUMN]!r}"
        if since_first is None or since_before is None:
            raise SuiteError(f"{where} is another kind of time than the first")
        if since_before < 0:
            raise SuiteError(f"{where} is before the request above; the requests of a trace are in the order of time")
        times.append(at)
        found.append((since_first, *_lengths(trace, line, row)))
    return tuple(found)


def _rows(trace: str, *columns: str) -> Iterator[tuple[int, Mapping[str, str | None]]]:
    """Each request with its line. Raises SuiteError for a column that isn't there, and where there is no request."""
    excerpt = EXCERPTS.get(trace)
    path: Path | Traversable = files("pytest_slmperf") / "traces" / excerpt if excerpt else Path(trace).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig" if excerpt is None else "utf-8")
    except (OSError, ValueError) as error:
        raise SuiteError(
            f"the trace {trace} cannot be read: {error}. A trace is a CSV file or one of {', '.join(EXCERPTS)}"
        ) from error
    rows = csv.DictReader(text.splitlines())
    for column in columns:
        if column not in (rows.fieldnames or ()):
            raise SuiteError(f"{trace}, line 1: there is no column {column}; the header is {rows.fieldnames}")
    empty = True
    for row in rows:
        empty = False
        yield rows.line_num, row
    if empty:
        raise SuiteError(f"{trace}: there is no request below the header")


def _time(trace: str, line: int, text: str | None) -> datetime | Decimal:
    said = (text or "").strip()
    try:
        seconds = Decimal(said)
    except InvalidOperation:
        try:
            return datetime.fromisoformat(said)
        except ValueError:
            seconds = Decimal("NaN")
    if not seconds.is_finite() or seconds < 0:
        raise SuiteError(
            f"{trace}, line {line}, column {TIME_COLUMN}: {text!r} is no time: it must be a date as 2023-11-16 "
            "18:15:46.68, or seconds, at least 0"
        )
    return seconds


def _seconds_between(earlier: datetime | Decimal, later: datetime | Decimal) -> float | None:
    """None for times of two kinds: a date and a number, or a date of a known zone and one of none."""
    try:
        if isinstance(earlier, datetime) and isinstance(later, datetime):
            return (later - earlier).total_seconds()
        if isinstance(earlier, Decimal) and isinstance(later, Decimal):
            return float(later - earlier)
    except TypeError:  # of dates, one of which says no zone
        pass
    return None


def _lengths(trace: str, line: int, row: Mapping[str, str | None]) -> tuple[int, int]:
    prompt, output = (_tokens(trace, line, column, row[column]) for column in (PROMPT_COLUMN, OUTPUT_COLUMN))
    return prompt, output


def _tokens(trace: str, line: int, column: str, text: str | None) -> int:
    if text is None or not text.strip().isdecimal() or int(text) < 1:
        raise SuiteError(f"{trace}, line {line}, column {column}: {text!r} must be a whole number of at least 1")
    return int(text)
