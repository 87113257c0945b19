"""What a change of a baseline file changes: the recordings in force after it, against those before."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pytest_slmperf.core.baselines.baseline import BaselineFile, StoredMetric, case_order
from pytest_slmperf.core.baselines.lookup import Difference, key_differences
from pytest_slmperf.core.machine import Role
from pytest_slmperf.core.metrics import Metric, metric
from pytest_slmperf.core.verdict import quantity


@dataclass(frozen=True)
class Moved:
    """One metric of one case, before and after. `before` or `after` is None where there is none."""

    case: str
    metric: Metric
    before: StoredMetric | None
    after: StoredMetric | None

    @property
    def gated(self) -> bool:
        """Whether it is or was."""
        return any(kept and kept.tolerance is not None for kept in (self.before, self.after))

    @property
    def ratio(self) -> float | None:
        """The new median over the old one, where there are both."""
        return self.after.sample.median / self.before.sample.median if self.before and self.after else None


@dataclass(frozen=True)
class Rekeyed:
    """A case whose key changed, so that its other recordings were dropped."""

    case: str
    fields: tuple[Difference, ...]
    dropped: tuple[str, ...]
    """When these were recorded."""


@dataclass(frozen=True)
class Loosened:
    """A tolerance that was recorded larger than its suite asks for, since the noise supports none as tight."""

    case: str
    metric: str
    asked: float
    taken: float

    def __str__(self) -> str:
        return f"{self.case} {self.metric}: {self.asked:.1%} is asked for, and {self.taken:.1%} taken"


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
    loosened: tuple[Loosened, ...] = ()

    def __bool__(self) -> bool:
        return any((self.new, self.moved, self.gone, self.tolerances, self.rekeyed, self.machine, self.loosened))

    def __add__(self, other: "Diff") -> "Diff":
        return Diff(
            self.new + other.new,
            self.moved + other.moved,
            self.gone + other.gone,
            self.tolerances + other.tolerances,
            self.rekeyed + other.rekeyed,
            self.machine + other.machine,
            self.loosened + other.loosened,
        )

    def lines(self) -> list[str]:
        """What changed, line by line, for people; `nothing changed` where nothing did."""
        lines = [f"machine: {one}" for one in self.machine]
        lines += [f"key: {one.case} {'; '.join(map(str, one.fields))}: {_dropped(one)}" for one in self.rekeyed]
        lines += (f"new: {case}" for case in _in_a_line(self.new, lambda one: _recorded(one.after)))
        lines += _by_metric("moved", self.moved, _step)
        steps = ((one, _tolerance(one.before), _tolerance(one.after)) for one in self.tolerances)
        lines += [f"tolerance: {_name(one)} {before} → {after}" for one, before, after in steps]
        lines += [f"loosened: {one}, as its noise needs" for one in self.loosened]
        lines += (f"gone: {case}" for case in _in_a_line(self.gone, lambda one: _recorded(one.before)))
        return lines or ["nothing changed"]


def _by_case(changes: Iterable[Moved]) -> Iterator[tuple[str, list[Moved], list[Moved]]]:
    """Each case with its gated metrics, and with the others."""
    cases: dict[str, list[Moved]] = {}
    for one in changes:
        cases.setdefault(one.case, []).append(one)
    for case, ones in cases.items():
        yield case, [one for one in ones if one.gated], [one for one in ones if not one.gated]


def _in_a_line(changes: Iterable[Moved], said: Callable[[Moved], str]) -> Iterator[str]:
    """Each case with what is said of its gated metrics, and the names of the others."""
    for case, gated, others in _by_case(changes):
        told = [f"{one.metric.name} {said(one)}" for one in gated]
        told += [f"not gated: {', '.join(one.metric.name for one in others)}"] if others else []
        yield f"{case} {'; '.join(told)}"


def _by_metric(kind: str, changes: Iterable[Moved], said: Callable[[Moved], str]) -> Iterator[str]:
    """A line for each gated metric, and one for all others of a case."""
    for case, gated, others in _by_case(changes):
        yield from (f"{kind}: {_name(one)} {said(one)}" for one in gated)
        if others:
            named = ", ".join(f"{one.metric.name}{f' {one.ratio - 1:+.1%}' if one.ratio else ''}" for one in others)
            yield f"{kind}: {case}, not gated: {named}"


def _name(one: Moved) -> str:
    return f"{one.case} {one.metric.name}"


def _dropped(one: Rekeyed) -> str:
    return f"dropped what was recorded {', '.join(one.dropped)}"


def _recorded(kept: StoredMetric | None) -> str:
    if kept is None:
        return ""
    shape = f"{kept.sample.shape} launches×rounds"
    return f"{quantity(kept.sample.median)} {kept.unit} ({shape}, tolerance {_tolerance(kept)})"


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


def _order(at: tuple[str, str]) -> tuple[object, ...]:
    case, name = at
    return (*case_order(case), name)


def diff(before: BaselineFile | None, after: BaselineFile | None) -> Diff:
    """What the gate compares with after, against before. Empty for a file and itself."""
    old, new = _in_force(before), _in_force(after)
    pairs = [Moved(at[0], metric(at[1]), old.get(at), new.get(at)) for at in sorted({**old, **new}, key=_order)]
    both = [(one, one.before, one.after) for one in pairs if one.before and one.after]
    rekeyed = []
    for case, stored in sorted((after.cases if after else {}).items(), key=lambda one: case_order(one[0])):
        earlier = before.cases.get(case) if before else None
        fields = key_differences(earlier.key, stored.key) if earlier else {}
        if fields:
            dropped = tuple(point.recorded for point in earlier.points) if earlier else ()
            rekeyed.append(Rekeyed(case, tuple(Difference(name, *pair) for name, pair in fields.items()), dropped))
    told = [one for one in Role if one is not Role.IGNORED]
    notes = before.machine.differences(after.machine, *told).items() if before and after else ()
    return Diff(
        new=tuple(one for one in pairs if not one.before),
        moved=tuple(one for one, was, now in both if was.sample != now.sample),
        gone=tuple(one for one in pairs if not one.after),
        tolerances=tuple(one for one, was, now in both if was.tolerance != now.tolerance),
        rekeyed=tuple(rekeyed),
        machine=tuple(Difference(name, *pair) for name, pair in notes),
    )
