"""A comparison for people and for programs: lines for a terminal, Markdown, and JSON (`schemas/comparison.json`)."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_slmperf.core.baselines.comparison import Change, Comparison, Mean, Meaning, Row
from pytest_slmperf.core.baselines.side import Side
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import Effect, Status, percent, quantity
from pytest_slmperf.report import digest, files
from pytest_slmperf.report.digest import Finding
from pytest_slmperf.report.markdown import SIGNS, escape, failures, fitted, folded, grid, paragraph
from pytest_slmperf.report.table import table

FORMAT = "slmperf-comparison"
VERSION = 1
NOT_GATED = "not gated"
MEANINGS = {
    Meaning.INCOMPARABLE: "nothing can be compared",
    Meaning.COMPARED: "what is compared",
    Meaning.NOTE: "worth a note",
}
HEADERS = ("case", "metric", "old", "new", "change (95% CI)", "tolerance", "launches", "verdict")
RIGHT = ("old", "new", "change (95% CI)", "tolerance")
NOTHING_JUDGED = "nothing judged, so nothing has passed: give a tolerance, as in --tolerance output_throughput=0.03"


def check_path(path: Path) -> None:
    """Find out beforehand what would stop `write`. Raises UsageError."""
    _renderer(path)
    files.check_report_path(path)


def write(comparison: Comparison, path: Path) -> None:
    """Write it in the format that the file's name ends with. Raises UsageError, and SlmperfError of the disk."""
    files.write_text(_renderer(path)(comparison), path)


def lines(comparison: Comparison, width: int = 110) -> list[str]:
    """The comparison for a terminal; titles are `width` columns wide, rows as wide as they are."""
    return list(_lines(comparison, width))


def markdown(comparison: Comparison) -> str:
    """The comparison in GitHub's Markdown, short enough for a comment there."""
    return fitted(_markdown(comparison))


def text(comparison: Comparison) -> str:
    """The JSON document as one line."""
    return json.dumps(document(comparison), ensure_ascii=False, allow_nan=False) + "\n"


FORMATS: Mapping[str, Callable[[Comparison], str]] = {".json": text, ".md": markdown}
"""Renderers by the ending of a file's name."""


def document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as dicts, lists, texts and finite numbers; an unbounded number is null."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "passed": comparison.passed,
        "counts": _counts(comparison),
        "a": _side_document(comparison.a),
        "b": _side_document(comparison.b),
        "rows": [_row_document(row) for row in comparison.rows],
        "means": [_mean_document(mean) for mean in comparison.means],
        "gone": list(comparison.gone),
        "new": list(comparison.new),
        "changes": [_change_document(one) for one in comparison.changes],
    }


def closing(comparison: Comparison) -> str:
    """One line: how many verdicts there are of which kind."""
    counts = _counts(comparison)
    return ", ".join(f"{count} {status}" for status, count in counts.items()) if counts else NOTHING_JUDGED


def _renderer(path: Path) -> Callable[[Comparison], str]:
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise UsageError(f"{path}: a comparison's name ends with {' or '.join(FORMATS)}") from None


def _counts(comparison: Comparison) -> dict[str, int]:
    seen = Counter(verdict.status for verdict in comparison.verdicts)
    return {str(status): seen[status] for status in Status if seen[status]}


def _lines(comparison: Comparison, width: int) -> Iterator[str]:
    yield from _sides(comparison)
    for title, rows, means in _tables(comparison):
        yield f" {title} ".center(width, "-")
        yield from table(HEADERS, [_cells(row) for row in rows], RIGHT)
        yield ""
        yield from (_mean_line(mean) for mean in means)
    yield " compared ".center(width, "-")
    for finding in _failed(comparison):
        yield digest.one_line(finding.line())
        yield from (f"    {digest.one_line(line)}" for line in finding.way_out.splitlines())
    yield from (digest.one_line(line) for line in _remarks(comparison))
    yield closing(comparison)


def _markdown(comparison: Comparison) -> Iterator[tuple[str, bool]]:
    """Lines, each with whether it must be kept."""
    yield f"### slmperf compare: {escape(closing(comparison))}", True
    for side in _sides(comparison):
        yield "", True
        yield paragraph(side), True
    for title, rows, means in _tables(comparison):
        yield "", True
        yield f"#### {escape(title)}", True
        headers = ("", *HEADERS[:-1])
        red = [_signed(row) for row in rows if row.verdict is not None and not row.verdict.passed]
        passed = [_signed(row) for row in rows if row.verdict is not None and row.verdict.passed]
        reported = [_signed(row) for row in rows if row.verdict is None]
        if red:
            yield from grid(headers, red)
        for kind, rest in (("passed", passed), (NOT_GATED, reported)):
            if rest:
                yield from folded(f"{len(rest)} {kind}", grid(headers, rest))
        for mean in means:
            yield "", True
            yield f"- {paragraph(_mean_line(mean))}", True
    yield from failures(_failed(comparison))
    for line in _remarks(comparison):
        yield "", True
        yield f"- {paragraph(line)}", False


def _sides(comparison: Comparison) -> Iterator[str]:
    for letter, side in (("A", comparison.a), ("B", comparison.b)):
        machines = ", ".join(dict.fromkeys(f"{one.machine.device}, {one.machine.driver}" for one in side.cases))
        days = sorted({one.recorded[:10] for one in side.cases})
        when = f"recorded {days[0]}" + (f"…{days[-1]}" if len(days) > 1 else "")
        cases = f"{len(side.cases)} {'case' if len(side.cases) == 1 else 'cases'}"
        yield digest.one_line(f"{letter}: {side.label} ({machines}; {cases}, {when})")


def _tables(comparison: Comparison) -> Iterator[tuple[str, list[Row], list[Mean]]]:
    """A title, the rows and the means of each suite on each engine."""
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in comparison.rows:
        rows.setdefault((row.suite, row.engine), []).append(row)
    for (suite, engine), of_both in rows.items():
        means = [mean for mean in comparison.means if (mean.suite, mean.engine) == (suite, engine)]
        yield digest.one_line(f"{suite} on {engine}: B against A"), of_both, means


def _cells(row: Row) -> tuple[str, ...]:
    return (
        digest.one_line(row.case.removeprefix(f"{row.suite}/")),
        row.metric.name,
        quantity(row.old.median) if row.old else "none",
        f"{quantity(row.new.median)} {row.metric.unit}" if row.new else "none",
        digest.bounded(row.effect) if row.effect else "",
        percent(row.verdict.tolerance) if row.verdict is not None and row.verdict.tolerance else "",
        " vs ".join(sample.shape for sample in (row.old, row.new) if sample),
        NOT_GATED if row.verdict is None else str(row.verdict.status),
    )


def _signed(row: Row) -> tuple[str, ...]:
    *figures, status = _cells(row)
    sign = f"{SIGNS[row.verdict.passed]} " if row.verdict is not None else ""
    return (f"{sign}{status}", *figures)


def _mean_line(mean: Mean) -> str:
    of = "the one case" if len(mean.cases) == 1 else f"{len(mean.cases)} cases"
    return f"geometric mean over {of}: {mean.metric.name} {digest.bounded(mean)}"


def _failed(comparison: Comparison) -> list[Finding]:
    several = len({row.engine for row in comparison.rows}) > 1
    return digest.by_cause(
        (f"{row.case} {row.metric.name}{f' on {row.engine}' if several else ''}", row.verdict)
        for row in comparison.rows
        if row.verdict is not None
    )


def _remarks(comparison: Comparison) -> Iterator[str]:
    """What else is to be said: what only one side has, what isn't gated and why, and every field that differs."""
    yield from (*comparison.a.remarks, *comparison.b.remarks)
    for what, cases in (("gone: only A has", comparison.gone), ("new: only B has", comparison.new)):
        if cases:
            yield Finding(what, cases).line(5)
    reasons: dict[str, list[str]] = {}
    for row in comparison.rows:
        if row.verdict is None and row.reason:
            reasons.setdefault(row.reason, []).append(f"{row.case} {row.metric.name}")
    for reason, concerned in reasons.items():
        yield Finding(f"{NOT_GATED}: {reason}", tuple(concerned)).line()
    shared = {one.measurement.case for one in comparison.a.cases} & {one.measurement.case for one in comparison.b.cases}
    for one in comparison.changes:
        where = "" if len(one.cases) == len(shared) else f", in {len(one.cases)} of {len(shared)} cases"
        yield f"differs, {MEANINGS[one.meaning]}: {one}{where}"


def _side_document(side: Side) -> dict[str, Any]:
    return {
        "label": side.label,
        "remarks": list(side.remarks),
        "cases": [
            {
                "case": one.measurement.case,
                "suite": one.suite,
                "device": one.machine.device,
                "driver": one.machine.driver,
                "engine": one.engine,
                "recorded": one.recorded,
                "commit": one.commit,
            }
            for one in side.cases
        ],
    }


def _row_document(row: Row) -> dict[str, Any]:
    verdict = row.verdict
    return {
        "suite": row.suite,
        "engine": row.engine,
        "case": row.case,
        "metric": row.metric.name,
        "unit": row.metric.unit,
        "higher_is_better": row.metric.higher_is_better,
        "verdict": None if verdict is None else str(verdict.status),
        "tolerance": None if verdict is None else verdict.tolerance,
        "reason": row.reason if verdict is None else verdict.reason,
        "way_out": "" if verdict is None else verdict.way_out,
        "old": _launches(row.old),
        "new": _launches(row.new),
        "old_median": row.old.median if row.old else None,
        "new_median": row.new.median if row.new else None,
        **_interval(row.effect),
        "mde": None if verdict is None or row.effect is None else _finite(row.effect.mde),
    }


def _launches(sample: Sample | None) -> list[list[float]] | None:
    return [list(rounds) for rounds in sample.launches] if sample else None


def _interval(of: Effect | Mean | None) -> dict[str, float | None]:
    if of is None:
        return {"ratio": None, "low": None, "high": None}
    return {"ratio": of.ratio, "low": of.low or None, "high": _finite(of.high)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean_document(mean: Mean) -> dict[str, Any]:
    return {
        "suite": mean.suite,
        "engine": mean.engine,
        "metric": mean.metric.name,
        "cases": list(mean.cases),
        **_interval(mean),
        "whole_launches": mean.whole_launches,
    }


def _change_document(one: Change) -> dict[str, Any]:
    return {
        "of": one.of,
        "field": one.field,
        "old": one.old,
        "new": one.new,
        "meaning": str(one.meaning),
        "cases": list(one.cases),
    }
