"""Two recordings side by side, B judged by A: what the gate says of each metric, and what else is not the same.

The gate compares only what was measured alike. Here the engine, its version, the driver, the device and the like may
differ, for that is what is asked about; what was to be done may not.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean
from typing import Literal

from pytest_slmperf.core import gate
from pytest_slmperf.core.baselines.baseline import PLANTED, case_order
from pytest_slmperf.core.baselines.lookup import key_differences, scalar
from pytest_slmperf.core.baselines.side import RecordedCase, Side
from pytest_slmperf.core.energy.same_joules import joules_apart
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.judging import even_pace, ranks
from pytest_slmperf.core.machine import GPU_UUID, Role, Scalar, role, same, shown
from pytest_slmperf.core.metrics import CLOCK, CORE_PACE, Metric, metric
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.sweeps.sweep import DEFAULT_TOLERANCE
from pytest_slmperf.core.verdict import Effect, Status, Verdict

MAY_DIFFER = ("engine", "engine_version", "weights", "device", "dtype", "threads")
"""Fields of a key that a comparison may be about, beside the engine's options and settings. Any other, such as the
model and the workload's, says what was to be done: where it differs, nothing can be compared."""
FAMILIES = ("option.", "setting.", PLANTED)


class Meaning(StrEnum):
    """What a differing field means here."""

    INCOMPARABLE = "incomparable"
    COMPARED = "compared"
    NOTE = "note"


@dataclass(frozen=True)
class Change:
    """A field in which the sides differ, and in which cases."""

    of: Literal["machine", "key", "version", "commit"]
    field: str
    old: Scalar
    new: Scalar
    meaning: Meaning
    cases: tuple[str, ...] = ()

    def __str__(self) -> str:
        """`driver: 580.65 → 590.10`."""
        name = self.field if self.of != "version" else f"version of {self.field}"
        return f"{name}: {shown(self.old)} → {shown(self.new)}"


@dataclass(frozen=True)
class Row:
    """One metric of one case on both sides."""

    suite: str
    engine: str
    """Its name; `vllm → transformers` where the sides have one each."""
    case: str
    metric: Metric
    old: Sample | None
    new: Sample | None
    verdict: Verdict | None = None
    """None where nothing gates it."""
    effect: Effect | None = None
    """How far B is from A; None where that can't be said."""
    reason: str = ""
    """Why there is no effect, or why it isn't gated although somebody gates it."""


@dataclass(frozen=True)
class Mean:
    """The geometric mean of the ratios of a metric over the cases of a suite on an engine, with its 95 % interval."""

    suite: str
    engine: str
    metric: Metric
    cases: tuple[str, ...]
    ratio: float
    low: float
    """0 where too few launches bound it."""
    high: float
    """Infinite where too few launches bound it."""
    whole_launches: bool
    """Whether the interval rests on launches that all cases share; False where it is only an upper bound of it."""


@dataclass(frozen=True)
class Comparison:
    """What came of it. Only what is gated and passes makes it pass."""

    a: Side
    b: Side
    rows: tuple[Row, ...]
    gone: tuple[str, ...]
    """Cases that only A has. What A gates of them is `unmeasured`."""
    new: tuple[str, ...]
    """Cases that only B has."""
    changes: tuple[Change, ...]
    means: tuple[Mean, ...]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Of everything that is gated."""
        return tuple(row.verdict for row in self.rows if row.verdict is not None)

    @property
    def passed(self) -> bool:
        """Whether something was judged, and all of it passes."""
        return bool(self.verdicts) and all(verdict.passed for verdict in self.verdicts)


def compare(a: Side, b: Side, tolerances: Mapping[str, float] | None = None, *, every: bool = False) -> Comparison:
    """Judge B by A. A metric is gated by the tolerance given here, or else A's, or else B's; `every` adds the others.

    Raises UsageError where both sides have no case in common or one has a case twice, and for a tolerance that is no
    fraction or of what no common case has measured.
    """
    asked = {metric(name).name: gate.Policy(fraction).tolerance for name, fraction in (tolerances or {}).items()}
    pairs, gone, new = _paired(a, b)
    if not pairs:
        raise UsageError(f"nothing in common: {_named(a)}; {_named(b)}; compare recordings of the same suites")
    measured = {name for pair in pairs for one in pair for name in one.measurement.samples}
    for name in asked:
        if name not in measured:
            known = ", ".join(sorted(measured)) or "nothing"
            raise UsageError(f"no case in common has {name}, so no tolerance of it can be given; measured is {known}")
    rows = [row for old, now in pairs for row in _rows(old, now, asked, every=every)]
    rows += [row for one in gone for row in _missing(one, asked, b)]
    rows.sort(key=lambda row: case_order(row.case))
    return Comparison(
        a=a,
        b=b,
        rows=tuple(rows),
        gone=tuple(one.measurement.case for one in gone),
        new=tuple(one.measurement.case for one in new),
        changes=tuple(_gathered(pairs)),
        means=tuple(_means(rows)),
    )


def _paired(a: Side, b: Side) -> tuple[list[tuple[RecordedCase, RecordedCase]], list[RecordedCase], list[RecordedCase]]:
    """Cases of both sides, of A alone, and of B alone.

    A case has the same name on both sides. Where a side has it of several engines, the same engine's are a pair; where
    each has it of one engine, that may be another.
    """
    pairs, gone, new = [], [], []
    names = {one.measurement.case for side in (a, b) for one in side.cases}
    for name in sorted(names, key=case_order):
        first, second = _by_engine(a, name), _by_engine(b, name)
        if len(first) == len(second) == 1:
            pairs += list(zip(first.values(), second.values(), strict=True))
            continue
        pairs += [(one, second[engine]) for engine, one in first.items() if engine in second]
        gone += [one for engine, one in first.items() if engine not in second]
        new += [one for engine, one in second.items() if engine not in first]
    return pairs, gone, new


def _by_engine(side: Side, case: str) -> dict[str, RecordedCase]:
    found: dict[str, RecordedCase] = {}
    for one in side.cases:
        if one.measurement.case == case and found.setdefault(one.engine, one) is not one:
            raise UsageError(f"{side.label} holds {case} of the engine {one.engine} twice: name one file of the two")
    return found


def _named(side: Side) -> str:
    names = sorted({one.measurement.case for one in side.cases}, key=case_order)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{side.label} has {', '.join(names[:3]) or 'no case'}{more}"


def _engine(old: RecordedCase, new: RecordedCase) -> str:
    return old.engine if old.engine == new.engine else f"{old.engine} → {new.engine}"


def _rows(old: RecordedCase, new: RecordedCase, asked: Mapping[str, float], *, every: bool) -> Iterator[Row]:
    before, after = old.measurement, new.measurement
    gating = {**new.tolerances, **old.tolerances, **asked}
    everything = [*before.samples, *after.samples] if every else []
    unlike = "; ".join(str(one) for one in _changes(old, new) if one.meaning is Meaning.INCOMPARABLE)
    for name in dict.fromkeys([*gating, *everything]):
        row = Row(
            old.suite, _engine(old, new), before.case, metric(name), before.samples.get(name), after.samples.get(name)
        )
        gated_here = name in old.tolerances or name in new.tolerances
        if not (gated_here or row.old or row.new or before.void or after.void):
            continue  # a tolerance that is given is meant for cases that measure it
        if unlike:
            yield _refused(row, gating, Status.INCOMPARABLE, unlike, "Compare recordings of the same workload.")
        elif before.void or after.void:
            void = f"A: {before.void}" if before.void else f"B: {after.void}"
            yield _refused(row, gating, Status.VOID, void, "Measure it again.")
        elif row.new is None:
            why = f"B has no value of it: {after.unmeasured.get(name, 'it was not measured, or not kept')}"
            yield _refused(row, gating, Status.UNMEASURED, why)
        elif row.old is None:
            why = f"A has no value of it: {before.unmeasured.get(name, 'it was not measured, or not kept')}"
            yield _refused(row, {**old.tolerances, **asked}, Status.NO_BASELINE, why)
        else:
            yield _judged(row, row.old, row.new, (old, new), gating.get(name))


def _missing(one: RecordedCase, asked: Mapping[str, float], b: Side) -> Iterator[Row]:
    """What A gates of a case that B lacks."""
    case, samples = one.measurement.case, one.measurement.samples
    gating = {**one.tolerances, **{name: fraction for name, fraction in asked.items() if name in samples}}
    on = f" on {one.engine}" if any(other.measurement.case == case for other in b.cases) else ""
    for name in gating:
        row = Row(one.suite, one.engine, case, metric(name), samples.get(name), None)
        why = f"B has no such case{on}" + (f": {b.absent[case]}" if case in b.absent else "")
        yield _refused(row, gating, Status.UNMEASURED, why, "Measure it, or retire it in A if nobody needs it.")


def _refused(row: Row, gating: Mapping[str, float], status: Status, reason: str, way_out: str = "") -> Row:
    tolerance = gating.get(row.metric.name)
    if tolerance is None:
        return replace(row, reason=reason)
    meaning = row.metric
    verdict = Verdict(
        status, meaning.name, meaning.unit, meaning.higher_is_better, row.case, tolerance, None, reason, way_out
    )
    return replace(row, verdict=verdict, reason=reason)


def _judged(
    row: Row, old: Sample, new: Sample, pair: tuple[RecordedCase, RecordedCase], tolerance: float | None
) -> Row:
    paces = _paces(*pair)
    looked = _look(row.metric, (old, paces[0]), (new, paces[1]), DEFAULT_TOLERANCE if tolerance is None else tolerance)
    verdict = replace(looked, case=row.case)
    row = replace(row, effect=verdict.effect)
    if tolerance is None:
        return row
    if _of_energy(row.metric) and _boards(pair[0]) != _boards(pair[1]):
        return replace(row, reason="another board, and their sensors differ by up to 5 %")
    if _of_energy(row.metric) and (apart := _joules_apart(*pair)):
        status, reason, way_out = apart
        verdict = replace(verdict, status=status, reason=reason, way_out=way_out, final=True)
        return replace(row, verdict=verdict, reason=reason)
    if old == new and pair[0].recorded == pair[1].recorded and not verdict.passed:
        verdict = replace(verdict, status=Status.UNCHANGED, reason="the same recording", way_out="", final=True)
    return replace(row, verdict=verdict)


def _paces(old: RecordedCase, new: RecordedCase) -> tuple[Sample | None, Sample | None]:
    """The cores' pace in both: of one Python on one machine, or the piece of work takes another time for it."""
    if old.versions.get("python") != new.versions.get("python") or old.machine.differences(
        new.machine, Role.MUST_MATCH
    ):
        return None, None
    return old.measurement.samples.get(CORE_PACE), new.measurement.samples.get(CORE_PACE)


def _boards(one: RecordedCase) -> set[Scalar]:
    """The boards whose joules these are: as the meter named them, or else the machine."""
    return set(one.measurement.boards) or {one.machine.fields.get(GPU_UUID)}


def _joules_apart(old: RecordedCase, new: RecordedCase) -> tuple[Status, str, str] | None:
    """Why joules of one board are not compared all the same: by the gate's own rules."""
    here, there = new.measurement.boards, old.measurement.boards
    if not here or not there:
        return None
    clocks = (one.measurement.samples.get(CLOCK) for one in (new, old))
    now_mhz, was_mhz = (clock.median if clock else None for clock in clocks)
    return joules_apart(here, there, (now_mhz, was_mhz))


def _look(
    meaning: Metric, old: tuple[Sample, Sample | None], new: tuple[Sample, Sample | None], tolerance: float
) -> Verdict:
    """One look at the launches that there are, each sample with its cores' pace, as at a stored baseline."""
    policy = gate.Policy(tolerance, len(new[0].launches), design="stored", single_look=True)
    return even_pace.judge(meaning, old, new, policy)


def _of_energy(meaning: Metric) -> bool:
    return meaning.unit.partition("/")[0] in ("J", "W")


def _changes(old: RecordedCase, new: RecordedCase) -> Iterator[Change]:
    """Every field in which two recordings of a case differ, but for those that mean nothing."""
    simulated = old.machine.simulated is not new.machine.simulated
    for name, pair in old.machine.differences(new.machine, Role.MUST_MATCH, Role.PART_OF_DEVICE, Role.NOTE).items():
        meaning = Meaning.NOTE if role(name, old.machine, new.machine) is Role.NOTE else Meaning.COMPARED
        yield Change("machine", name, *pair, Meaning.INCOMPARABLE if simulated and name == "device" else meaning)
    for name, pair in _key_changes(old.measurement.key, new.measurement.key).items():
        free = name in MAY_DIFFER or name.startswith(FAMILIES)
        yield Change("key", name, *pair, Meaning.COMPARED if free else Meaning.INCOMPARABLE)
    for name in {**old.versions, **new.versions}:
        versions = old.versions.get(name), new.versions.get(name)
        if versions[0] != versions[1]:
            yield Change("version", name, *versions, Meaning.NOTE)
    if old.commit != new.commit:
        yield Change("commit", "commit", old.commit, new.commit, Meaning.NOTE)


def _key_changes(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, tuple[Scalar, Scalar]]:
    """Fields of two keys that differ. A planted loss is none to the gate; here somebody wants to know of it."""
    planted = [name for name in {**old, **new} if name.startswith(PLANTED) and not same(old.get(name), new.get(name))]
    return {**key_differences(old, new), **{name: (scalar(old.get(name)), scalar(new.get(name))) for name in planted}}


def _gathered(pairs: Iterable[tuple[RecordedCase, RecordedCase]]) -> Iterator[Change]:
    """Each change once with the cases that it concerns: what voids the comparison first, notes last."""
    concerned: dict[Change, list[str]] = {}
    for old, new in pairs:
        for change in _changes(old, new):
            concerned.setdefault(change, []).append(old.measurement.case)
    order = list(Meaning)
    for change in sorted(concerned, key=lambda one: order.index(one.meaning)):
        yield replace(change, cases=tuple(dict.fromkeys(concerned[change])))


def _means(rows: Iterable[Row]) -> Iterator[Mean]:
    """The mean of each suite, engine and metric.

    Where launches can't be told to have measured all the cases, these are taken to err together: the standard deviation
    of a mean is at most the mean of the standard deviations, whatever the cases have in common.
    """
    groups: dict[tuple[str, str, Metric], list[tuple[Row, Sample, Sample, Effect]]] = {}
    for row in rows:
        if row.effect and row.old and row.new:
            groups.setdefault((row.suite, row.engine, row.metric), []).append((row, row.old, row.new, row.effect))
    for (suite, engine, meaning), group in groups.items():
        before, after = [old for _, old, _, _ in group], [new for _, _, new, _ in group]
        whole = all(len({len(sample.launches) for sample in side}) == 1 for side in (before, after))
        launches = (
            _look(meaning, (_folded(before), None), (_folded(after), None), DEFAULT_TOLERANCE).effect if whole else None
        )
        effects = [launches] if launches else [effect for *_, effect in group]
        ratio, low, high = (_geometric([getattr(one, name) for one in effects]) for name in ("ratio", "low", "high"))
        yield Mean(suite, engine, meaning, tuple(row.case for row, *_ in group), ratio, low, high, whole)


def _folded(samples: Sequence[Sample]) -> Sample:
    """One value a launch, the geometric mean over its cases: its noise is the launch's, whatever the cases share."""
    logs = [[ranks.middle(sorted(map(math.log, rounds))) for rounds in sample.launches] for sample in samples]
    return Sample.of([[math.exp(fmean(launch))] for launch in zip(*logs, strict=True)])


def _geometric(values: Sequence[float]) -> float:
    """The geometric mean; 0 where one of the values is."""
    return math.exp(fmean(map(math.log, values))) if all(values) else 0.0
