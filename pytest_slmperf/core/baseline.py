"""Baselines as values: what is stored, what may be compared with it, and what a change of it changes.

A baseline is raw: the launches of earlier runs, with the machine and the key that they hold for. Nothing here reads or
writes a file.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

from pytest_slmperf.core.errors import BaselineError, UsageError
from pytest_slmperf.core.machine import SIMULATED, Machine, Role, Scalar, same, slug
from pytest_slmperf.core.metrics import Metric, metric
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.core.sweep import LARGEST_TOLERANCE
from pytest_slmperf.core.verdict import quantity

LEAST_LAUNCHES = 20
"""With fewer, the gate's error rates don't hold."""

POINTS_KEPT = 4
"""The newest recording and three to fall back on when it is retired, or to read a trend from. git keeps the rest."""

SHAPE_METRIC = "output_throughput"
"""Kept although nothing gates it: a sweep's knee and frontier are read from it."""

PLANTED = "planted"
"""A key's fields that begin so mark a loss put in on purpose. Never stored, and never a difference."""


@dataclass(frozen=True)
class StoredMetric:
    """One metric of a recording."""

    sample: Sample
    unit: str
    higher_is_better: bool
    tolerance: float | None = None
    """The fraction that may be lost, as the noise of this recording supports it; None where nothing gates it."""


@dataclass(frozen=True)
class Retirement:
    """Why a recording no longer counts."""

    when: str
    reason: str
    by: str = ""


@dataclass(frozen=True)
class Point:
    """One recording of a case."""

    recorded: str
    """ISO 8601 in UTC."""
    metrics: Mapping[str, StoredMetric]
    commit: str | None = None
    by: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    retired: Retirement | None = None


@dataclass(frozen=True)
class StoredCase:
    """The recordings of one case, oldest first, all of the same key."""

    key: Mapping[str, Scalar]
    points: tuple[Point, ...]

    @cached_property
    def current(self) -> Point | None:
        """What the gate compares with: the newest recording that isn't retired."""
        return next((point for point in reversed(self.points) if not point.retired), None)


@dataclass(frozen=True)
class BaselineFile:
    """Everything stored for one machine, driver, engine and suite."""

    machine: Machine
    engine: str
    suite: str
    cases: Mapping[str, StoredCase]


@dataclass(frozen=True)
class Recording:
    """What is to be stored: measurements, and where they come from."""

    measurements: Sequence[Measurement]
    tolerances: Mapping[tuple[str, str], float]
    """By (case, metric). A metric without one is not gated, and not stored."""
    recorded: str
    """ISO 8601 in UTC."""
    commit: str | None = None
    by: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


# -- comparing


@dataclass(frozen=True)
class Against:
    """`--slmperf-against KEY=VALUE`: this field alone may differ, and its stored value must be this one."""

    field: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Against":
        """Raises UsageError for a text that isn't KEY=VALUE."""
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise UsageError(f"{text!r} is not KEY=VALUE, as in driver=580.65")
        return cls(name, value)

    def means(self, stored: object) -> bool:
        """Whether a stored value is the one asked for; a device or driver also by the name of its folder."""
        spelled = {str(stored), json.dumps(stored)}
        return self.value in spelled or (self.field in ("device", "driver") and self.value == slug(str(stored)))


@dataclass(frozen=True)
class Difference:
    """A field in which the stored samples and those of now differ."""

    field: str
    stored: Scalar
    now: Scalar
    asked: str | None = None
    """The value that `--slmperf-against` wanted, where the stored one is another."""

    def __str__(self) -> str:
        if self.asked is not None:
            return f"{self.field}: {_shown(self.stored)} (stored), {self.asked} was asked for"
        return f"{self.field}: {_shown(self.stored)} (stored) → {_shown(self.now)} (now)"


@dataclass(frozen=True)
class Comparable:
    """Stored samples that may be compared."""

    measurement: Measurement
    tolerances: Mapping[str, float]
    """By the metric's full name, for those that were gated when they were recorded."""
    point: Point
    notes: tuple[str, ...] = ()
    """Differences that void nothing and are worth knowing."""


@dataclass(frozen=True)
class NoBaseline:
    """Nothing is stored for a case."""

    reason: str


@dataclass(frozen=True)
class Incomparable:
    """Something is stored, for other circumstances than these."""

    fields: tuple[Difference, ...]

    @property
    def reason(self) -> str:
        """Every differing field in one line."""
        return "; ".join(map(str, self.fields))


Found: TypeAlias = Comparable | NoBaseline | Incomparable


def lookup(
    file: BaselineFile | None, case: str, key: Mapping[str, object], machine: Machine, against: Against | None = None
) -> Found:
    """What is stored for a case, if it holds for this key and machine.

    With `against`, its field alone may differ. Raises UsageError where neither side has such a field.
    """
    stored = file.cases.get(case) if file else None
    known = {**(file.machine.flat() if file else {}), **machine.flat(), **(stored.key if stored else {}), **key}
    if against and against.field not in known:
        raise UsageError(f"{against.field!r} is no field of {case}; its fields are {', '.join(sorted(known))}")
    if not file or not stored:
        return NoBaseline("nothing is recorded for it")
    if not stored.current:
        last = stored.points[-1].retired
        return NoBaseline(
            f"every recording of it is retired, the last one because: {last.reason if last else 'unknown'}"
        )
    differing = _differences(stored.key, key, file.machine, machine, against)
    if differing:
        return Incomparable(differing)
    return Comparable(
        Measurement(case, stored.key, {name: kept.sample for name, kept in stored.current.metrics.items()}),
        {name: kept.tolerance for name, kept in stored.current.metrics.items() if kept.tolerance is not None},
        stored.current,
        tuple(str(Difference(name, *pair)) for name, pair in file.machine.differences(machine, Role.NOTE).items()),
    )


def _differences(
    stored: Mapping[str, Scalar], key: Mapping[str, object], was: Machine, machine: Machine, against: Against | None
) -> tuple[Difference, ...]:
    """Every field that must match and doesn't, the key's first."""
    roles = [Role.MUST_MATCH, Role.PART_OF_DEVICE]
    if against and against.field == "device":
        roles.remove(Role.PART_OF_DEVICE)
    pairs = [*key_differences(stored, key).items(), *was.differences(machine, *roles).items()]
    found = [Difference(name, *pair) for name, pair in pairs]
    if not against:
        return tuple(found)
    before = {**stored, **was.flat()}.get(against.field)
    others = [one for one in found if one.field != against.field]
    if not against.means(before):
        return (*others, Difference(against.field, before, None, asked=against.value))
    if was.simulated is not machine.simulated:
        return tuple(found)
    return tuple(others)


def key_differences(stored: Mapping[str, object], key: Mapping[str, object]) -> dict[str, tuple[Scalar, Scalar]]:
    """Fields of two keys that differ, as (stored, now). A field that one of them lacks is None there."""
    names = [name for name in {**stored, **key} if not name.startswith(PLANTED)]
    return {
        name: (_scalar(stored.get(name)), _scalar(key.get(name)))
        for name in names
        if not same(stored.get(name), key.get(name))
    }


def _scalar(value: object) -> Scalar:
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def _shown(value: Scalar) -> str:
    return "absent" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# -- changing


def updated(file: BaselineFile | None, machine: Machine, engine: str, suite: str, recording: Recording) -> BaselineFile:
    """The file with the recording's measurements as the newest points of their cases; other cases stay as they are.

    Where a case's key differs from the stored one, its earlier recordings are dropped: they hold for another thing.
    Raises BaselineError for measurements that no gate may rest on, and for a file of another machine.
    """
    if file:
        unlike = file.machine.differences(machine, Role.MUST_MATCH, Role.PART_OF_DEVICE)
        if unlike:
            named = "; ".join(str(Difference(name, *pair)) for name, pair in unlike.items())
            raise BaselineError(
                f"what is stored holds for another machine: {named}. Record into another folder (--slmperf-baselines), "
                "or delete the file first"
            )
    if not recording.measurements:
        raise BaselineError("there is nothing to record: no case was measured")
    points, refused = {}, []
    for measurement in recording.measurements:
        try:
            points[measurement.case] = _point(measurement, machine, engine, recording)
        except BaselineError as error:
            refused.append(str(error))
    if refused:
        raise BaselineError("nothing was recorded:\n" + "\n".join(refused) if len(refused) > 1 else refused[0])
    cases = dict(file.cases) if file else {}
    for measurement in recording.measurements:
        key = {name: _scalar(value) for name, value in measurement.key.items() if not name.startswith(PLANTED)}
        before = cases.get(measurement.case)
        earlier = before.points if before and not key_differences(before.key, key) else ()
        point = points[measurement.case]
        if earlier and _is_same_recording(earlier[-1], point):
            earlier = earlier[:-1]
        cases[measurement.case] = StoredCase(key, (*earlier, point)[-POINTS_KEPT:])
    return BaselineFile(machine, engine, suite, cases)


def _is_same_recording(stored: Point, accepted: Point) -> bool:
    """Whether one recording is accepted for a second time: it then takes its own place."""
    samples = [{name: kept.sample for name, kept in point.metrics.items()} for point in (stored, accepted)]
    return samples[0] == samples[1] and stored.recorded == accepted.recorded and not stored.retired


def _point(measurement: Measurement, machine: Machine, engine: str, recording: Recording) -> Point:
    case = measurement.case
    _refuse_unfit(measurement, machine, engine)
    metrics = {}
    for name, sample in measurement.samples.items():
        tolerance = recording.tolerances.get((case, name))
        if tolerance is None and (name != SHAPE_METRIC or len(sample.launches) < LEAST_LAUNCHES):
            continue
        if len(sample.launches) < LEAST_LAUNCHES:
            raise BaselineError(
                f"{case} {name}: {len(sample.launches)} launches; a baseline needs at least {LEAST_LAUNCHES}: "
                "measure again with --slmperf-accept"
            )
        if tolerance is not None and not 0 < tolerance <= LARGEST_TOLERANCE:
            raise BaselineError(
                f"{case} {name}: a tolerance of {tolerance!r}; it is a fraction above 0, up to {LARGEST_TOLERANCE}"
            )
        meaning = metric(name)
        metrics[meaning.name] = StoredMetric(sample, meaning.unit, meaning.higher_is_better, tolerance)
    wanted = [name for of, name in recording.tolerances if of == case]
    missing = [name for name in wanted if name not in metrics]
    if missing:
        why = "; ".join(f"{name}: {measurement.unmeasured.get(name, 'no launch measured it')}" for name in missing)
        raise BaselineError(f"{case}: not measured, and can't be recorded: {why}")
    if not metrics:
        raise BaselineError(
            f"{case}: none of its metrics is gated, so there is nothing to record: give its sweep a gate="
        )
    return Point(recording.recorded, metrics, recording.commit, recording.by, recording.versions)


def _refuse_unfit(measurement: Measurement, machine: Machine, engine: str) -> None:
    case, key = measurement.case, measurement.key
    if measurement.void:
        raise BaselineError(f"{case}: a void measurement can't be recorded: {measurement.void}")
    planted = [f"{name}={value}" for name, value in key.items() if name.startswith(PLANTED) and value]
    if planted:
        raise BaselineError(
            f"{case}: measured with a loss planted on purpose ({', '.join(planted)}); it can't be recorded"
        )
    pretended = "fake" in (engine, key.get("engine")) or key.get("device") == SIMULATED
    if pretended and not machine.simulated:
        raise BaselineError(f"{case}: simulated samples can't be recorded for a real machine ({machine.device})")
    if key.get("engine", engine) != engine:
        raise BaselineError(f"{case}: measured on {key['engine']}, and this is a baseline of {engine}")
    for name, value in key.items():
        flat = value is None or isinstance(value, (str, int, float, bool))
        if not flat or (isinstance(value, float) and not math.isfinite(value)):
            raise BaselineError(
                f"{case}: its key's field {name} is {value!r}; a key holds texts, numbers, true, false or null"
            )


def retired(file: BaselineFile, case: str, retirement: Retirement, position: int | None = None) -> BaselineFile:
    """The file with one recording of a case retired: the current one, or the one at this position, counted from 1."""
    stored = _stored(file, case)
    places = [place for place, point in enumerate(stored.points) if not point.retired]
    if position is None:
        if not places:
            raise BaselineError(f"{case}: every recording of it is retired already")
        place = places[-1]
    else:
        place = position - 1
        if not 0 <= place < len(stored.points):
            raise UsageError(f"{case} has no recording {position}; they are 1 (the oldest) to {len(stored.points)}")
        if place not in places:
            raise BaselineError(f"{case}: recording {position} is retired already")
    points = list(stored.points)
    points[place] = replace(points[place], retired=retirement)
    return replace(file, cases={**file.cases, case: replace(stored, points=tuple(points))})


def pruned(file: BaselineFile, measured: Collection[str]) -> BaselineFile | None:
    """The file without the cases that no suite measures any more; None where none is left."""
    cases = {name: stored for name, stored in file.cases.items() if name in measured}
    return replace(file, cases=cases) if cases else None


def _stored(file: BaselineFile, case: str) -> StoredCase:
    if case not in file.cases:
        raise UsageError(f"nothing is stored for {case}; stored are {', '.join(sorted(file.cases))}")
    return file.cases[case]


# -- what a change changes


@dataclass(frozen=True)
class Moved:
    """One metric of one case, before and after. `before` or `after` is None where there is none."""

    case: str
    metric: Metric
    before: StoredMetric | None
    after: StoredMetric | None

    @property
    def ratio(self) -> float | None:
        """The new median over the old one."""
        return self.after.sample.median / self.before.sample.median if self.before and self.after else None


@dataclass(frozen=True)
class Rekeyed:
    """A case whose key changed, so that its earlier recordings were dropped."""

    case: str
    fields: tuple[Difference, ...]


@dataclass(frozen=True)
class Diff:
    """What the gate compares with after a change, against what it compared with before."""

    new: tuple[Moved, ...] = ()
    moved: tuple[Moved, ...] = ()
    """Recorded again: other samples, whether or not their median is another."""
    gone: tuple[Moved, ...] = ()
    tolerances: tuple[Moved, ...] = ()
    """Metrics whose tolerance is another than before."""
    rekeyed: tuple[Rekeyed, ...] = ()
    machine: tuple[Difference, ...] = ()
    """Fields of the machine that are worth a note."""

    def __bool__(self) -> bool:
        return any((self.new, self.moved, self.gone, self.tolerances, self.rekeyed, self.machine))

    def __add__(self, other: "Diff") -> "Diff":
        return Diff(
            self.new + other.new,
            self.moved + other.moved,
            self.gone + other.gone,
            self.tolerances + other.tolerances,
            self.rekeyed + other.rekeyed,
            self.machine + other.machine,
        )

    def lines(self) -> list[str]:
        """What changed, line by line, for people; `nothing changed` where nothing did."""
        lines = [f"machine: {one}" for one in self.machine]
        lines += [f"key: {one.case} {'; '.join(map(str, one.fields))}: older ones dropped" for one in self.rekeyed]
        lines += [f"new: {_name(one)} {_recorded(one.after)}" for one in self.new if one.after]
        lines += [f"moved: {_name(one)} {_step(one)}" for one in self.moved]
        steps = ((one, _tolerance(one.before), _tolerance(one.after)) for one in self.tolerances)
        lines += [f"tolerance: {_name(one)} {before} → {after}" for one, before, after in steps]
        lines += [f"gone: {_name(one)} {_recorded(one.before)}" for one in self.gone if one.before]
        return lines or ["nothing changed"]


def _name(one: Moved) -> str:
    return f"{one.case} {one.metric.name}"


def _recorded(kept: StoredMetric) -> str:
    return f"{quantity(kept.sample.median)} {kept.unit} ({kept.sample.shape} launches×rounds, {_gate(kept)})"


def _gate(kept: StoredMetric) -> str:
    return "not gated" if kept.tolerance is None else f"tolerance {_tolerance(kept)}"


def _tolerance(kept: StoredMetric | None) -> str:
    return "none" if kept is None or kept.tolerance is None else f"{kept.tolerance:.1%}"


def _step(one: Moved) -> str:
    if not one.before or not one.after or not one.ratio:
        return ""
    change = one.ratio - 1
    better = "" if change == 0 else ", better" if (change > 0) is one.metric.higher_is_better else ", worse"
    shapes = f"{one.before.sample.shape} → {one.after.sample.shape} launches×rounds"
    medians = f"{quantity(one.before.sample.median)} → {quantity(one.after.sample.median)}"
    return f"{medians} {one.after.unit} ({change:+.1%}{better}; {shapes})"


def _in_force(file: BaselineFile | None) -> dict[tuple[str, str], StoredMetric]:
    cases = file.cases if file else {}
    points = {case: stored.current for case, stored in cases.items()}
    return {(case, name): kept for case, point in points.items() if point for name, kept in point.metrics.items()}


def diff(before: BaselineFile | None, after: BaselineFile | None) -> Diff:
    """What the gate compares with after, against before. Empty for a file and itself."""
    old, new = _in_force(before), _in_force(after)
    pairs = [Moved(at[0], metric(at[1]), old.get(at), new.get(at)) for at in sorted({**old, **new})]
    both = [(one, one.before, one.after) for one in pairs if one.before and one.after]
    rekeyed = []
    for case, stored in (after.cases if after else {}).items():
        earlier = before.cases.get(case) if before else None
        fields = key_differences(earlier.key, stored.key) if earlier else {}
        if fields:
            rekeyed.append(Rekeyed(case, tuple(Difference(name, *pair) for name, pair in fields.items())))
    notes = before.machine.differences(after.machine, *Role).items() if before and after else ()
    return Diff(
        new=tuple(one for one in pairs if not one.before),
        moved=tuple(one for one, was, now in both if was.sample != now.sample),
        gone=tuple(one for one in pairs if not one.after),
        tolerances=tuple(one for one, was, now in both if was.tolerance != now.tolerance),
        rekeyed=tuple(rekeyed),
        machine=tuple(Difference(name, *pair) for name, pair in notes),
    )
