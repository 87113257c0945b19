"""The sections of a terminal's summary: a table for each sweep, what went wrong beside it, and one last line."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Protocol

from pytest_slmperf.core.metrics import of_any_replica
from pytest_slmperf.core.outcome import RunOutcome, SweepOutcome
from pytest_slmperf.core.sweeps.variant import series_of
from pytest_slmperf.core.verdict import Status
from pytest_slmperf.report import digest
from pytest_slmperf.report.bounds import bounds
from pytest_slmperf.report.digest import Finding, JudgedRow, MeasuredRow
from pytest_slmperf.report.table import HEADER_LINES, table, width

CHANGE = "change (95% CI)"
RIGHT = ("baseline", "candidate", "median", CHANGE, "tolerance", "MDE", "spread")
INDENT = "  "

STYLE: dict[bool | None, dict[str, bool]] = {
    True: {"green": True},
    False: {"red": True, "bold": True},
    None: {"yellow": True},
}
"""By whether a status passes; None where the gate could not tell, which does not pass either."""


class Markup(Protocol):
    """Colours a text, as the terminal writer of pytest does: `markup("void", yellow=True)`."""

    def __call__(self, text: str, /, **markup: bool) -> str:
        """The text in the terminal's control sequences; as it is where there are no colours."""
        ...


def plain(text: str, /, **_markup: bool) -> str:
    """No colours: the text as it is."""
    return text


@dataclass(frozen=True, slots=True)
class Section:
    """A headed part of the summary."""

    title: str
    lines: tuple[str, ...]


def sections(run: RunOutcome, width: int = 80, markup: Markup = plain) -> list[Section]:
    """The summary of a run for a terminal of `width` columns; empty where there is nothing to say.

    Commands are never wrapped, so that they can be copied.
    """
    if digest.quiet(run):
        return []
    parts = [
        Section(
            digest.one_line(f"slmperf {digest.title(run, sweep)}"),
            (*_sweep_lines(sweep, width, markup), *_bound_lines(run, sweep, width)),
        )
        for sweep in run.sweeps
        if sweep.cases or sweep.skipped or sweep.notes
    ]
    if run.claims:
        parts.append(Section("slmperf: asserted beside the gate", tuple(_claim_lines(run, width, markup))))
    return [*parts, Section("slmperf", tuple(_last_lines(run, width, markup)))]


def lines(run: RunOutcome, width: int = 80, markup: Markup = plain) -> list[str]:
    """The same as plain lines, each section headed by its title: for a command line without pytest."""
    return [
        line
        for section in sections(run, width, markup)
        for line in (f" {section.title} ".center(width, "-"), *section.lines)
    ]


def _sweep_lines(sweep: SweepOutcome, width: int, markup: Markup) -> Iterator[str]:
    if digest.judges(sweep):
        yield from _judged_lines(list(digest.judged_rows(sweep)), width, markup)
    else:
        yield from _measured_lines(sweep, width)
    if sweep.cases:
        yield ""
    for arms in digest.arms(sweep):
        yield from _prose(arms, width)
    changed = digest.versions(sweep)
    if changed:
        yield from _prose(f"versions: {changed}", width)
    folded = digest.judges(sweep) or digest.accepted_tolerances(sweep)
    if folded and (ungated := digest.not_gated(sweep)):
        names = dict.fromkeys(map(of_any_replica, ungated))
        yield from _prose(f"measured, not gated: {', '.join(names)}", width)
    if digest.judges(sweep):
        yield from _failure_lines(digest.failures(sweep), width)
    for finding in digest.findings(sweep):
        yield from _prose(finding.line(), width)


def _bound_lines(run: RunOutcome, sweep: SweepOutcome, width: int) -> Iterator[str]:
    for finding in bounds(run, sweep):
        yield from _prose(finding.line(), width)


def _claim_lines(run: RunOutcome, width: int, markup: Markup) -> Iterator[str]:
    def drawn(of: Markup) -> list[str]:
        rows = [
            (
                _coloured(claim.status, of),
                *map(digest.one_line, (claim.case, digest.asserted(claim), claim.metric, claim.measured)),
            )
            for claim in run.claims
        ]
        return table(("verdict", "case", "asserted", "metric", "measured"), rows)

    if _fits(drawn(plain), width):
        yield from drawn(markup)
    else:
        for claim in run.claims:
            yield f"{_coloured(claim.status, markup)} {digest.one_line(claim.case)}"
            measured = f": {claim.measured}" if claim.measured else ""
            said = _prose(f"{claim.metric} {digest.asserted(claim)}{measured}", width - len(INDENT))
            yield from (f"{INDENT}{line}" for line in said)
    failures = digest.claim_failures(run)
    if failures:
        yield ""
        yield from _failure_lines(failures, width)


def _failure_lines(failures: Sequence[Finding], width: int) -> Iterator[str]:
    for finding in failures:
        yield from _prose(finding.line(), width)
        yield from _way_out(finding.way_out)


def _last_lines(run: RunOutcome, width: int, markup: Markup) -> Iterator[str]:
    for problem in run.problems:
        first, *rest = problem.splitlines() or [""]
        for line in _prose(f"problem: {first}", width):
            yield markup(line, red=True)
        yield from _way_out("\n".join(rest))
    for remark in run.remarks:
        yield from _prose(remark, width)
    if run.sweeps or run.failed_tests:
        yield digest.closing(run)


def _judged_lines(rows: Sequence[JudgedRow], width: int, markup: Markup) -> list[str]:
    """The most telling layout that fits; the narrowest one where none does."""
    for draw in (_wide, _headed):
        drawn = draw(rows, plain)
        if _fits(drawn, width):
            return drawn if markup is plain else draw(rows, markup)
    return _stacked(rows, width, markup)


FIGURES = ("metric", "baseline", "candidate", CHANGE, "tolerance", "MDE", "launches", "verdict")


def _wide(rows: Sequence[JudgedRow], markup: Markup) -> list[str]:
    cases = [row.case for row in rows]
    cells = [(_beside(row.case, cases), *_figures(row, markup)) for row in rows]
    return list(_by_curve(table(("case", *FIGURES), cells, RIGHT), cases))


def _headed(rows: Sequence[JudgedRow], markup: Markup) -> list[str]:
    """Each case heads its metrics."""
    figures = table(FIGURES, [_figures(row, markup) for row in rows], RIGHT)
    return list(_interleaved(figures, rows, lambda _row: ()))


def _figures(row: JudgedRow, markup: Markup) -> tuple[str, ...]:
    """A row's cells, in the order of FIGURES."""
    return (
        row.metric,
        row.baseline,
        _with_unit(row),
        row.change,
        row.tolerance,
        row.mde,
        row.launches,
        _word(row, markup),
    )


def _stacked(rows: Sequence[JudgedRow], width: int, markup: Markup) -> list[str]:
    """Each case heads its metrics, and each metric has its medians on a second line."""
    headers = ("metric", CHANGE, "tolerance", "MDE", "verdict")
    cells = [(row.metric, row.change, row.tolerance, row.mde, _word(row, markup)) for row in rows]

    def medians(row: JudgedRow) -> tuple[str, ...]:
        both = " → ".join(value or "none" for value in (row.baseline, row.candidate))
        return (f"{both} {row.unit}, {row.launches}",) if row.launches else ()

    return [
        _cut(line, width) if "\x1b" not in line else line
        for line in _interleaved(table(headers, cells, RIGHT), rows, medians)
    ]


def _interleaved(
    drawn: Sequence[str], rows: Sequence[JudgedRow], below: Callable[[JudgedRow], tuple[str, ...]]
) -> Iterator[str]:
    yield from (f"{INDENT}{line}" for line in drawn[:HEADER_LINES])
    case = None
    for row, line in zip(rows, drawn[HEADER_LINES:], strict=True):
        if row.case != case:
            case = row.case
            yield case
        yield f"{INDENT}{line}"
        yield from (f"{INDENT * 2}{more}" for more in below(row))


def _measured_lines(sweep: SweepOutcome, width: int) -> list[str]:
    tolerances = digest.accepted_tolerances(sweep)
    # What a recording is for are the metrics that it gates; the others are named below, as in a gate.
    others = digest.not_gated(sweep) if tolerances else ()
    rows = [row for row in digest.measured_rows(sweep) if row.metric not in others]
    headers = ["case", "metric", "median", "spread", "launches"]
    cases = [row.case for row in rows]
    cells = [[row.case, row.metric, f"{row.median} {row.unit}", _spread(row), row.launches] for row in rows]
    if tolerances:
        headers.append("tolerance")
        for row, line in zip(rows, cells, strict=True):
            line.append(tolerances.get((row.case, row.metric), ""))
    wide = [[_beside(case, cases), *rest] for case, *rest in cells]
    drawn = list(_by_curve(table(headers, wide, RIGHT), cases))
    return drawn if _fits(drawn, width) else [_cut(line, width) for line in _cases_apart(headers, cells)]


def _spread(row: MeasuredRow) -> str:
    """How far launches spread; of one or two of them, what a round by itself tells of a percentile."""
    return row.spread or (row.of_round and f"{row.of_round} in a round")


def _beside(case: str, cases: Sequence[str]) -> str:
    """What a case is called in a row: its place alone where a heading says the rest."""
    return case.rpartition("/")[2] if _vary(cases) else case


def _by_curve(drawn: Sequence[str], cases: Sequence[str]) -> Iterator[str]:
    """The lines of a table with a heading above each curve, where there are several variants of an engine."""
    if not _vary(cases):
        yield from drawn
        return
    yield from (f"{INDENT}{line}" for line in drawn[:HEADER_LINES])
    heading = None
    for case, line in zip(cases, drawn[HEADER_LINES:], strict=True):
        if series_of(case) != heading:
            heading = series_of(case)
            yield heading
        yield f"{INDENT}{line}"


def _vary(cases: Sequence[str]) -> bool:
    return any("/" in series_of(case) for case in cases)


def _cases_apart(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> Iterator[str]:
    drawn = table(headers[1:], [row[1:] for row in cells], RIGHT)
    yield from (f"{INDENT}{line}" for line in drawn[:HEADER_LINES])
    case = None
    for row, line in zip(cells, drawn[HEADER_LINES:], strict=True):
        if row[0] != case:
            case = row[0]
            yield case
        yield f"{INDENT}{line}"


def _word(row: JudgedRow, markup: Markup) -> str:
    return _coloured(row.status, markup) if row.judged else markup(row.word, **STYLE[None])


def _coloured(status: Status, markup: Markup) -> str:
    if status.passes:
        return markup(status, **STYLE[True])
    return markup(status, **STYLE[False if status is Status.REGRESSED else None])


def _with_unit(row: JudgedRow) -> str:
    return f"{row.candidate or 'none'} {row.unit}" if row.candidate or row.baseline else ""


def _fits(drawn: Sequence[str], columns: int) -> bool:
    return width(drawn) <= columns


def _prose(text: str, width: int) -> list[str]:
    """Lines that hold words and paths whole: they are there to be copied."""
    wide = max(width, 20)
    text = digest.one_line(text)
    return wrap(text, wide, subsequent_indent=INDENT, break_on_hyphens=False, break_long_words=False) or [""]


def _way_out(text: str) -> Iterator[str]:
    yield from (f"{INDENT * 2}{digest.one_line(line)}" for line in text.splitlines())


def _cut(line: str, columns: int) -> str:
    return line if len(line) <= columns else f"{line[: columns - 1]}…"
