"""What a run comes to, in the words that every renderer uses: figures of one row, and findings grouped by cause."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from pytest_slmperf.core.baselines.comparison import Mean
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import CaseOutcome, RunOutcome, SweepOutcome
from pytest_slmperf.core.sample import Interval, Measurement, Sample, VoidRound
from pytest_slmperf.core.verdict import Effect, Status, Verdict, change, percent, quantity
from pytest_slmperf.report.document import counts

MOST_CAUSES = 3
"""Causes of one verdict that are said one by one; the failing tests say the rest, each with its own line."""

NOT_JUDGED = "not judged"
"""What becomes of a gated metric that can't be judged here, where that isn't red."""

_URGENCY = (Status.REGRESSED, *(status for status in Status if status is not Status.REGRESSED))


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """The figures of one gated metric, as texts; empty where there is none."""

    case: str
    """Without the sweep's name, which heads the table."""
    metric: str
    baseline: str
    candidate: str
    unit: str
    change: str
    tolerance: str
    mde: str
    launches: str
    status: Status
    judged: bool
    """False where it can't be judged and that isn't red: joules of another board, or that nothing tells."""

    @property
    def word(self) -> str:
        """The verdict; of what isn't judged its status would name a failure that there isn't."""
        return str(self.status) if self.judged else NOT_JUDGED


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """The figures of one measured metric that nothing is compared with, as texts."""

    case: str
    metric: str
    median: str
    unit: str
    spread: str
    """Half the range of the launches' medians, less the outer tenth at either end where there are 10 launches, relative
    to their median.
    """
    of_round: str
    """The 95 % interval that a round by itself has of a percentile of requests: the median of the rounds' lower bounds
    and that of their upper ones, in the unit. Empty for anything else.
    """
    launches: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause and everything that it concerns."""

    what: str
    concerns: tuple[str, ...]
    way_out: str = ""

    def line(self, names: int = 2) -> str:
        """The cause, then how many it concerns and the first names."""
        if not self.concerns:
            return self.what
        return f"{self.what}: {_some(self.concerns, names)}"


def judges(sweep: SweepOutcome) -> bool:
    """Whether a sweep's verdicts are to be judged. One that gates nothing has only figures to show."""
    gates_nothing = sweep.cases and not any(case.verdicts for case in sweep.cases.values())
    return sweep.mode == "gate" and not gates_nothing


def judged_rows(sweep: SweepOutcome) -> Iterator[JudgedRow]:
    """One row for each gated metric, in the order of the cases."""
    for case in sweep.cases.values():
        for name, verdict in case.verdicts.items():
            yield _judged_row(sweep, case, name, verdict)


def measured_rows(sweep: SweepOutcome) -> Iterator[MeasuredRow]:
    """One row for each measured metric, in the order of the cases."""
    for case in sweep.cases.values():
        for name, sample in case.measurement.samples.items():
            yield MeasuredRow(
                case=short(case.case, sweep),
                metric=name,
                median=quantity(sample.median),
                unit=metric(name).unit,
                spread=_spread(sample),
                of_round=_of_round(case.measurement.intervals.get(name, ())),
                launches=sample.shape,
            )


def accepted_tolerances(sweep: SweepOutcome) -> Mapping[tuple[str, str], str]:
    """Tolerances of a sweep that was recorded, by (short case, metric)."""
    return {
        (short(case.case, sweep), name): percent(verdict.tolerance)
        for case in sweep.cases.values()
        for name, verdict in case.verdicts.items()
        if verdict.tolerance is not None
    }


def not_gated(sweep: SweepOutcome) -> tuple[str, ...]:
    """Metrics that were measured and that no case of the sweep gates, in the order they appear."""
    gated = {name for case in sweep.cases.values() for name in case.verdicts}
    measured = dict.fromkeys(name for case in sweep.cases.values() for name in case.measurement.samples)
    return tuple(name for name in measured if name not in gated)


def failures(sweep: SweepOutcome) -> list[Finding]:
    """What did not pass, grouped by verdict, reason and way out: regressions first, a few causes of each verdict."""
    return by_cause(
        (f"{short(case.case, sweep)} {name}", verdict)
        for case in sweep.cases.values()
        for name, verdict in case.verdicts.items()
        if verdict.judged
    )


def claim_failures(run: RunOutcome) -> list[Finding]:
    """The same of what tests asserted beside the gate; what is said of a sweep's cases anyhow is not said again."""
    told = {
        (verdict.status, verdict.reason)
        for sweep in run.sweeps
        for case in sweep.cases.values()
        for verdict in case.verdicts.values()
        if judges(sweep) and verdict.judged and verdict.reason
    }

    def briefly(claim: Verdict) -> Verdict:
        same = any(claim.status is status and claim.reason.endswith(reason) for status, reason in told)
        return replace(claim, reason="as its cases above", way_out="") if same else claim

    return by_cause((one_line(f"{claim.case} {claim.metric}"), briefly(claim)) for claim in run.claims)


def asserted(claim: Verdict) -> str:
    """What a test asserted beside the gate: `at most 200 ms` of a stated limit, and of a curve that it is as stored."""
    return claim.limit or "as the baseline"


def by_cause(verdicts: Iterable[tuple[str, Verdict]]) -> list[Finding]:
    """What did not pass of verdicts, each with what it concerns: grouped by verdict, reason and way out."""
    groups: dict[tuple[Status, str, str], list[str]] = {}
    for concerned, verdict in verdicts:
        if not verdict.passed:
            groups.setdefault((verdict.status, verdict.reason, verdict.way_out), []).append(concerned)
    found: list[Finding] = []
    for status in sorted({status for status, _, _ in groups}, key=_URGENCY.index):
        causes = [cause for cause in groups if cause[0] is status]
        for cause in causes[:MOST_CAUSES]:
            what = " - ".join(part for part in (f"{len(groups[cause])} {status}", cause[1]) if part)
            found.append(Finding(what, tuple(groups[cause]), cause[2]))
        rest = [name for cause in causes[MOST_CAUSES:] for name in groups[cause]]
        if rest:
            found.append(Finding(f"{len(rest)} more {status}", tuple(rest)))
    return found


def void_rounds(sweep: SweepOutcome) -> list[Finding]:
    """Rounds that a guard threw away in this run, grouped by guard: with the first reason of each, unless that is said
    of a case or a metric anyhow, and then with the cases.
    """
    groups: dict[str, list[tuple[str, VoidRound]]] = {}
    for case in sweep.cases.values():
        for measurement in _measured_now(sweep, case):
            for void in measurement.void_rounds:
                groups.setdefault(void.guard, []).append((short(case.case, sweep), void))
    told = "\n".join(_told(sweep))
    found = []
    for guard, voids in groups.items():
        case_name, first = voids[0]
        what = f"{len(voids)} {'round' if len(voids) == 1 else 'rounds'} void, {guard}"
        if first.reason in told:
            found.append(Finding(what, tuple(dict.fromkeys(name for name, _ in voids))))
        else:
            found.append(Finding(f"{what} (first: {first.reason}, launch {first.launch} of {case_name})", ()))
    return found


def _told(sweep: SweepOutcome) -> Iterator[str]:
    """The reasons that are told of a sweep's cases and metrics."""
    for case in sweep.cases.values():
        yield from (verdict.reason for verdict in case.verdicts.values())
        yield case.measurement.void or ""
        yield from case.measurement.unmeasured.values()


def void_cases(sweep: SweepOutcome) -> list[Finding]:
    """Cases without a valid measurement, grouped by reason; without those whose verdicts say so."""

    def fails(case: CaseOutcome) -> bool:
        return any(verdict.judged and verdict.status is Status.VOID for verdict in case.verdicts.values())

    cases = [case for case in sweep.cases.values() if not (judges(sweep) and fails(case))]
    return _grouped(
        "void", ((case.measurement.void, short(case.case, sweep)) for case in cases if case.measurement.void)
    )


def unmeasured(sweep: SweepOutcome) -> list[Finding]:
    """Metrics without a sample, grouped by reason and cases."""
    missing: dict[tuple[str, str], list[str]] = {}
    for case in sweep.cases.values():
        for name, reason in case.measurement.unmeasured.items():
            missing.setdefault((reason, name), []).append(short(case.case, sweep))
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (reason, name), cases in missing.items():
        alike.setdefault((reason, tuple(cases)), []).append(name)
    return [Finding(f"unmeasured: {', '.join(names)}: {reason}", cases) for (reason, cases), names in alike.items()]


def skipped(sweep: SweepOutcome) -> list[Finding]:
    """Cases that don't fit this machine, grouped by reason."""
    return _grouped("skipped", ((reason, short(case, sweep)) for case, reason in sweep.skipped.items()))


def notes(sweep: SweepOutcome) -> list[Finding]:
    """What is worth knowing: of the sweep, then of its cases, each said once."""
    of_cases = (
        (note, short(case.case, sweep))
        for case in sweep.cases.values()
        for note in dict.fromkeys(case.measurement.notes)
    )
    return [*(Finding(f"note: {note}", ()) for note in dict.fromkeys(sweep.notes)), *_grouped("note", _alike(of_cases))]


def _alike(notes: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Notes that differ in their figures alone, or in whom they saw, as the first of them: the JSON report has each."""
    first: dict[str, str] = {}
    for note, case in notes:
        yield first.setdefault(re.sub(r"[\d.,]+", "#", note.partition("; seen: ")[0]), note), case


def unselected(sweep: SweepOutcome) -> list[Finding]:
    """Cases that no selected test looks at."""
    left_out = tuple(short(case, sweep) for case in sweep.unselected)
    return [Finding("not selected, so not measured", left_out)] if left_out else []


def fresh_launches(sweep: SweepOutcome) -> list[Finding]:
    """How many launches confirmed, or did not confirm, what tests asserted of a curve."""
    if not sweep.fresh_launches:
        return []
    of = f"{sweep.fresh_launches} of {sweep.launches} launches"
    return [
        Finding(f"{of} were made afresh, since a claim on the whole sweep looked regressed: they judge no metric", ())
    ]


def findings(sweep: SweepOutcome) -> list[Finding]:
    """Everything beside the figures and the failures of a sweep, each cause once."""
    kinds = (fresh_launches, void_cases, void_rounds, unmeasured, skipped, unselected, notes)
    return [finding for kind in kinds for finding in kind(sweep)]


def title(run: RunOutcome, sweep: SweepOutcome) -> str:
    """What was done with a sweep, in a few words."""
    if sweep.mode == "accept":
        return f"{sweep.sweep}: {'recorded, not judged' if run.recorded else 'measured, and NOT recorded'}"
    if not judges(sweep):
        return f"{sweep.sweep}: measured, not judged"
    against = "the other arm, measured in turns" if sweep.design == "interleaved" else "the stored baseline"
    return f"{sweep.sweep}: against {against}"


def arms(sweep: SweepOutcome) -> list[str]:
    """What was measured in turns: engine and model of both arms, and the fields in which they differ."""
    pairs = zip(sweep.baseline_specs, sweep.specs, strict=False)
    return list(dict.fromkeys(_arms(baseline, candidate) for baseline, candidate in pairs))


def _arms(baseline: EngineSpec, candidate: EngineSpec) -> str:
    a, b = _given(baseline), _given(candidate)
    differing = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    if (baseline.engine, baseline.model) == (candidate.engine, candidate.model) and not differing:
        return f"A and B: {candidate.engine} {candidate.model}, alike"
    said = [
        ", ".join([f"{spec.engine} {spec.model}", *(f"{name}={given[name]}" for name in differing if name in given)])
        for spec, given in ((baseline, a), (candidate, b))
    ]
    return f"A: {said[0]}; B: {said[1]}"


def _given(spec: EngineSpec) -> dict[str, object]:
    """The fields of an engine by the names that a command line has for them; without those that are not set."""
    named = {"python": spec.python, "slowed": spec.planted_loss or None}
    pool = {"replicas": spec.pool.replicas, "pool": spec.pool.kind, "spread": spec.pool.spread} if spec.pool else {}
    return {
        "dtype": spec.dtype,
        "threads": spec.threads,
        **pool,
        **spec.options,
        **{name: value for name, value in named.items() if value is not None},
    }


def versions(sweep: SweepOutcome) -> str:
    """What differs between the versions of both arms, or an empty text."""
    if sweep.baseline_versions is None:
        return ""
    mine, theirs = sweep.versions, sweep.baseline_versions
    differing = [name for name in {**theirs, **mine} if mine.get(name) != theirs.get(name)]
    return ", ".join(f"{name} {theirs.get(name, 'absent')} → {mine.get(name, 'absent')}" for name in differing)


def closing(run: RunOutcome) -> str:
    """One line: how many tests failed, how many verdicts there are of which kind, and what they cost."""
    by_status = counts(run)
    verdicts = sum(by_status.values())
    launches = sum(sweep.launches for sweep in run.sweeps)
    spent = f"{launches} {'launch' if launches == 1 else 'launches'} in {duration(run.seconds)}"
    if verdicts:
        unjudged = sum(not row.judged for sweep in run.sweeps if judges(sweep) for row in judged_rows(sweep))
        counted = {**by_status, **({NOT_JUDGED: unjudged} if unjudged else {})}
        said = ", ".join(f"{count} {status}" for status, count in counted.items())
        cost = f"{duration(run.seconds / verdicts)} a verdict"
        line = f"{said}; {spent}, {cost}"
    else:
        cases = sum(len(sweep.cases) for sweep in run.sweeps)
        line = f"{cases} {'case' if cases == 1 else 'cases'} measured, nothing judged; {spent}"
    if run.failed_tests:
        failed = len(run.failed_tests)
        line = f"{failed} {'test' if failed == 1 else 'tests'} failed; {line}"
    return line if run.complete else f"not finished, what there is: {line}"


def quiet(run: RunOutcome) -> bool:
    """Whether there is nothing to say: nothing was measured, and nothing is wrong."""
    said = run.problems or run.remarks or run.claims or run.failed_tests
    return not (said or any(sweep.cases or sweep.skipped or sweep.notes for sweep in run.sweeps))


def short(case: str, sweep: SweepOutcome) -> str:
    """A case's name without its sweep's."""
    return one_line(case.removeprefix(f"{sweep.sweep}/"))


def one_line(text: str) -> str:
    """The text on one line, without control characters: an engine's words must not steer a terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in " ".join(text.split()))


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 10 s`, `2 h 5 min`."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _judged_row(sweep: SweepOutcome, case: CaseOutcome, name: str, verdict: Verdict) -> JudgedRow:
    candidate = case.measurement.samples.get(name)
    baseline = case.baseline.samples.get(name) if case.baseline else None
    effect = verdict.effect
    return JudgedRow(
        case=short(case.case, sweep),
        metric=name,
        baseline=quantity(effect.baseline) if effect else _median(baseline),
        candidate=quantity(effect.candidate) if effect else _median(candidate),
        unit=verdict.unit,
        change=bounded(effect) if effect else "",
        tolerance="" if verdict.tolerance is None else percent(verdict.tolerance),
        mde=percent(effect.mde) if effect else "",
        launches=f"{effect.baseline_shape} vs {effect.candidate_shape}" if effect else _shapes(baseline, candidate),
        status=verdict.status,
        judged=verdict.judged,
    )


def _measured_now(sweep: SweepOutcome, case: CaseOutcome) -> Iterator[Measurement]:
    """A stored baseline's void rounds are of another day."""
    yield case.measurement
    if sweep.design == "interleaved" and case.baseline:
        yield case.baseline


def _grouped(kind: str, pairs: Iterable[tuple[str, str]]) -> list[Finding]:
    groups: dict[str, list[str]] = {}
    for reason, concerned in pairs:
        groups.setdefault(reason, []).append(concerned)
    return [Finding(f"{kind}: {reason}", tuple(concerned)) for reason, concerned in groups.items()]


def _some(names: tuple[str, ...], first: int) -> str:
    shown = ", ".join(names[:first])
    return shown if len(names) <= first else f"{shown} and {len(names) - first} more"


def _median(sample: Sample | None) -> str:
    return quantity(sample.median) if sample else ""


def _shapes(baseline: Sample | None, candidate: Sample | None) -> str:
    return " vs ".join(sample.shape for sample in (baseline, candidate) if sample)


def bounded(of: Effect | Mean) -> str:
    """`-9.8% (-11.0…-8.6)`: the change with the bounds of its 95 % interval, as a cell of a table."""
    return f"{of.ratio - 1:+.1%} ({_bound(of.low)}…{_bound(of.high)})"


def _bound(ratio: float) -> str:
    return change(ratio).removesuffix("%")


def _of_round(launches: Sequence[Sequence[Interval | None]]) -> str:
    told = [bounds for rounds in launches for bounds in rounds if bounds]
    return "…".join(quantity(median(bounds)) for bounds in zip(*told, strict=True))


def _spread(sample: Sample) -> str:
    medians = sorted(median(rounds) for rounds in sample.launches)
    if len(medians) < 3:
        return ""
    tenth = len(medians) // 10
    return f"±{(medians[-1 - tenth] - medians[tenth]) / 2 / sample.median:.1%}"
