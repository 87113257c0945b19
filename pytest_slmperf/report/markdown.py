"""The report as a comment on a pull request: what failed first, what passed folded away."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple

from pytest_slmperf.core.outcome import RunOutcome, SweepOutcome
from pytest_slmperf.core.verdict import Status
from pytest_slmperf.report import digest
from pytest_slmperf.report.bounds import bound_rows, bounds
from pytest_slmperf.report.digest import Finding, JudgedRow

COMMENT_LIMIT = 65_536
"""Characters that GitHub takes for one comment."""
ROOM_FOR_THE_REST = 2_000

SIGNS = {True: "✅", False: "❌"}
UNJUDGED = "➖"

_SPECIAL = re.compile(r"[\\`*\[\]<>|~#&$!{}]|(?<![^\W_])_|_(?![^\W_])|(?<!\w)@|://")
_LIST_OR_RULE = re.compile(r"^(\d*)([-+=.)])")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "@\u200b", "://": ":\u200b//"}

JUDGED_HEADERS = (
    "",
    "case",
    "metric",
    "baseline",
    "candidate",
    "change (95% CI)",
    "tolerance",
    "MDE",
    "launches",
)
CLAIM_HEADERS = ("", "case", "metric", "why")
BOUND_HEADERS = ("case", "bound by", "of its limit", "of bandwidth", "of compute", "of power", "weights", "KV cache")


def markdown(run: RunOutcome, limit: int = COMMENT_LIMIT) -> str:
    """The report in GitHub's Markdown, at most `limit` characters long; rows that don't fit are counted at the end."""
    return fitted(_lines(run), limit)


def fitted(content: Iterable[tuple[str, bool]], limit: int = COMMENT_LIMIT) -> str:
    """Lines as one text of at most `limit` characters; each comes with whether it must be kept."""
    lines: list[str] = []
    left = limit - ROOM_FOR_THE_REST
    dropped = 0
    for line, must in content:
        cost = len(line) + 1
        if must or cost <= left:
            lines.append(line)
            left -= cost
        else:
            dropped += 1
    if dropped:
        lines.append("")
        lines.append(f"{dropped} more lines did not fit here; the JSON report has everything.")
    text = "\n".join(lines) + "\n"
    return text if len(text) <= limit else f"{text[: limit - 2]}…\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line: no markup, no HTML, no table cell's end, no mention, no link."""
    return _SPECIAL.sub(_escaped, " ".join(text.split()))


def paragraph(text: str) -> str:
    """Escaped text at the beginning of a line, where some characters start a list or underline a heading."""
    return _LIST_OR_RULE.sub(r"\1\\\2", escape(text))


def _escaped(match: re.Match[str]) -> str:
    return _ENTITIES.get(match[0], f"\\{match[0]}")


def _lines(run: RunOutcome) -> Iterator[tuple[str, bool]]:
    """Lines of the comment, each with whether it must be kept: what explains and what closes an element must."""
    yield f"### slmperf: {escape(digest.closing(run))}", True
    yield "", True
    yield paragraph(_setting(run)), True
    for problem in run.problems:
        yield "", True
        first, *rest = problem.splitlines() or [""]
        yield f"- **problem**: {escape(first)}", False
        yield from _command("\n".join(rest))
    for sweep in run.sweeps:
        yield "", True
        yield f"#### {escape(digest.title(run, sweep))}", True
        for arms in digest.arms(sweep):
            yield "", True
            yield paragraph(arms), False
        yield from _judged(sweep) if digest.judges(sweep) else _measured(sweep)
        yield from _rest(sweep)
        yield from _bounds(run, sweep)
    yield from _claims(run)
    if run.failed_tests:
        names = ((f"- {paragraph(name)}", False) for name in run.failed_tests)
        yield from folded(f"{len(run.failed_tests)} failed", names)
    for remark in run.remarks:
        yield "", True
        yield f"- {paragraph(remark)}", False


def _setting(run: RunOutcome) -> str:
    commit = f", commit {run.commit}" if run.commit else ""
    return f"{run.machine.device}, {run.machine.driver}{commit}, {run.started_at}"


def _judged(sweep: SweepOutcome) -> Iterator[tuple[str, bool]]:
    rows = list(digest.judged_rows(sweep))
    failed = [row for row in rows if row.judged and not row.status.passes]
    passed = [row for row in rows if row.judged and row.status.passes]
    unjudged = [row for row in rows if not row.judged]
    failed.sort(key=lambda row: row.status is not Status.REGRESSED)
    if failed:
        yield from grid(JUDGED_HEADERS, [_cells(row) for row in failed])
    yield from failures(digest.failures(sweep))
    if passed:
        yield from folded(f"{len(passed)} passed", grid(JUDGED_HEADERS, [_cells(row) for row in passed]))
    if unjudged:
        yield from folded(f"{len(unjudged)} not judged", grid(JUDGED_HEADERS, [_cells(row) for row in unjudged]))


def _claims(run: RunOutcome) -> Iterator[tuple[str, bool]]:
    """What tests asserted beside the gate: stated limits, knees, frontiers."""
    if not run.claims:
        return
    rows: dict[bool, list[tuple[str, ...]]] = {False: [], True: []}
    for claim in run.claims:
        sign = f"{SIGNS[claim.passed]} {claim.status}"
        rows[claim.passed].append((sign, claim.case, claim.metric, claim.reason))
    yield "", True
    yield "#### asserted beside the gate", True
    if rows[False]:
        yield from grid(CLAIM_HEADERS[:-1], [row[:-1] for row in rows[False]])
    yield from failures(digest.claim_failures(run))
    if rows[True]:
        yield from folded(f"{len(rows[True])} passed", grid(CLAIM_HEADERS, rows[True]))


def failures(findings: Sequence[Finding]) -> Iterator[tuple[str, bool]]:
    """What did not pass, each cause with its way out."""
    for finding in findings:
        yield "", True
        yield f"- {escape(finding.line())}", False
        yield from _command(finding.way_out)


def _measured(sweep: SweepOutcome) -> Iterator[tuple[str, bool]]:
    tolerances = digest.accepted_tolerances(sweep)
    measured = list(digest.measured_rows(sweep))
    of_rounds = ["one round (95% CI)"] if any(row.of_round for row in measured) else []
    headers = ("case", "metric", "median", "spread", *of_rounds, "launches", "tolerance")
    rows = [
        (
            row.case,
            row.metric,
            f"{row.median} {row.unit}",
            row.spread,
            *(row.of_round for _ in of_rounds),
            row.launches,
            tolerances.get((row.case, row.metric), ""),
        )
        for row in measured
    ]
    if rows:
        yield from folded(f"{len(rows)} metrics", grid(headers, rows))


def _rest(sweep: SweepOutcome) -> Iterator[tuple[str, bool]]:
    """What is worth knowing beside the figures. Nothing here makes a run red that isn't already."""
    said = [finding.line() for finding in digest.findings(sweep)]
    changed = digest.versions(sweep)
    if changed:
        said.insert(0, f"versions: {changed}")
    if said:
        title = f"{len(said)} remark{'s' * (len(said) != 1)}"
        yield from folded(title, ((f"- {paragraph(line)}", False) for line in said))


def _bounds(run: RunOutcome, sweep: SweepOutcome) -> Iterator[tuple[str, bool]]:
    """What bounds the cases: what there is to say of a series, and the figures behind it."""
    for finding in bounds(run, sweep):
        yield "", True
        yield f"- {paragraph(finding.line())}", False
    rows = [astuple(row) for row in bound_rows(run, sweep)]
    if rows:
        yield from folded("what bounds it", grid(BOUND_HEADERS, rows))


def _cells(row: JudgedRow) -> tuple[str, ...]:
    sign = f"{SIGNS[row.status.passes] if row.judged else UNJUDGED} {row.word}"
    candidate = f"{row.candidate} {row.unit}" if row.candidate else ""
    return (sign, row.case, row.metric, row.baseline, candidate, row.change, row.tolerance, row.mde, row.launches)


def grid(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[tuple[str, bool]]:
    """A table, its cells escaped."""
    yield "", True
    yield f"| {' | '.join(headers)} |", True
    yield "|---" * len(headers) + "|", True
    for row in rows:
        yield f"| {' | '.join(map(escape, row))} |", False


def folded(summary: str, lines: Iterator[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """Lines behind a summary that unfolds them."""
    yield "", True
    yield f"<details><summary>{escape(summary)}</summary>", True
    yield "", True
    yield from lines
    yield "", True
    yield "</details>", True


def _command(text: str) -> Iterator[tuple[str, bool]]:
    """What to do, to be copied; in a fence longer than any run of backticks in it."""
    if not text.strip():
        return
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    body = "\n".join(f"  {line}" for line in [fence, *text.splitlines(), fence])
    yield f"\n{body}", False
