"""What became of a frontier: which of its points others dominate now, by how much, and how much volume it has left.

Volumes are of rates, from the origin: a metric that is better when lower counts as its reciprocal (joules per token as
tokens per joule, an ITL as tokens per second), so that a volume needs no reference point and a share of it no unit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_slmperf.core.curves.pareto import hypervolume
from pytest_slmperf.core.curves.resampling import COVERAGE, RESAMPLES, Estimate, estimate, fewest, log_medians
from pytest_slmperf.core.metrics import Metric
from pytest_slmperf.core.sample import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Logs = NDArray[np.float64]

EQUAL = 0.02
"""Two values that differ by no more than this fraction are alike, or chance would decide which point dominates which.
It is what MLPerf's audits take for not materially different, and nearly three times what two days differ by."""

Samples = Mapping[str, tuple[Sample, ...]]
"""By case, in the order of the metrics."""


@dataclass(frozen=True)
class Dominated:
    """A point of one side that a point of the other side's frontier beats: nowhere worse, and somewhere better."""

    case: str
    by: str
    """The case of the other side: its own if that is one, else the one that is ahead the furthest."""
    often: float
    """Share of resampled launches in which any does."""
    ratios: Mapping[str, Estimate]
    """Of each metric, by its name: the point's value over that of `by`."""
    volume: Estimate
    """Ratio of the other frontier's volume with this point in the place of the same case, to the whole."""

    @property
    def sure(self) -> bool:
        """Whether 99 % of resampled launches say so."""
        return self.often >= COVERAGE

    def __str__(self) -> str:
        by = "" if self.by == self.case else f" by {self.by}"
        how = ", ".join(f"{name} {ratio.as_change}" for name, ratio in self.ratios.items())
        return f"{self.case}{by} ({how}; volume {self.volume.as_change}; in {self.often:.0%} of draws)"


@dataclass(frozen=True)
class FrontierChange:
    """A frontier against a stored one of the same metrics."""

    volume: Estimate
    """Ratio of the two volumes, now to stored."""
    ratios: Mapping[str, Mapping[str, Estimate]]
    """By stored point and metric: what the same case measures now over what it measured."""
    behind: tuple[Dominated, ...]
    """Cases of the stored frontier whose point now is dominated by the stored frontier."""
    surpassed: tuple[Dominated, ...]
    """Cases of the frontier now whose stored point is dominated by the frontier now."""
    unmeasured: tuple[str, ...]
    """Stored points that were not measured now."""

    def __str__(self) -> str:
        parts = [f"volume {self.volume.as_change}"]
        for what, points in (("behind", self.behind), ("surpassed", self.surpassed)):
            if points:
                parts.append(f"{what}: {', '.join(map(str, points))}")
        if self.unmeasured:
            parts.append(f"not measured: {', '.join(self.unmeasured)}")
        return "; ".join(parts)


def volume_ratio(
    metrics: Sequence[Metric], now: Samples, stored: Samples, *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Ratio of the volume that the cases reach now to that of the stored ones."""
    sides = _sides(metrics, now, stored, seed, resamples)
    return _volume_ratio(*sides)


def change_of(
    metrics: Sequence[Metric],
    now: tuple[Samples, Sequence[str]],
    stored: tuple[Samples, Sequence[str]],
    *,
    equal: float = EQUAL,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> FrontierChange:
    """What became of the stored frontier; each side is the samples of all its cases, and the cases of its frontier."""
    here, there = _sides(metrics, now[0], stored[0], seed, resamples)
    both = [case for case in stored[1] if case in here.cases]
    margin = math.log1p(equal)
    return FrontierChange(
        volume=_volume_ratio(here, there),
        ratios={case: _ratios((here, here.cases[case]), (there, there.cases[case])) for case in both},
        behind=_dominated(here, there, stored[1], margin),
        surpassed=_dominated(there, here, now[1], margin),
        unmeasured=tuple(case for case in stored[1] if case not in here.cases),
    )


@dataclass(frozen=True)
class _Side:
    """The cases of one side as logarithms that are turned so that more is better, the metrics on the last axis."""

    metrics: Sequence[Metric]
    signs: "Logs"
    """Of the metrics: 1 where more is better, -1 where less is."""
    cases: Mapping[str, int]
    values: "Logs"
    draws: "Logs"
    launches: int


def _sides(metrics: Sequence[Metric], now: Samples, stored: Samples, seed: int, resamples: int) -> tuple[_Side, _Side]:
    import numpy as np  # noqa: PLC0415 - importing a suite must cost nothing

    signs = np.array([1.0 if meaning.higher_is_better else -1.0 for meaning in metrics])
    groups = [[sample for samples in side.values() for sample in samples] for side in (now, stored)]
    launches = min(map(fewest, groups))
    drawn = np.split(log_medians(groups, seed=seed, resamples=resamples), [len(groups[0])], axis=1)
    here, there = (
        _Side(
            metrics,
            signs,
            {case: at for at, case in enumerate(side)},
            np.log([[sample.median for sample in samples] for samples in side.values()]) * signs,
            draws.reshape(resamples, len(side), len(metrics)) * signs,
            launches,
        )
        for side, draws in zip((now, stored), drawn, strict=True)
    )
    return here, there


def _volumes(values: "Logs", draws: "Logs") -> "Logs":
    """The volume that the points have by their medians, then that of each draw."""
    import numpy as np  # noqa: PLC0415 - importing a suite must cost nothing

    up, origin = [True] * values.shape[1], [0.0] * values.shape[1]
    return np.array([hypervolume(points, up, origin) for points in np.exp(np.stack([values, *draws])).tolist()])


def _ratio(volumes: "Logs", of: "Logs", launches: int) -> Estimate:
    ratios = volumes / of
    return estimate(float(ratios[0]), ratios[1:], launches=launches)


def _volume_ratio(here: _Side, there: _Side) -> Estimate:
    return _ratio(_volumes(here.values, here.draws), _volumes(there.values, there.draws), here.launches)


def _ratios(mine: tuple[_Side, int], theirs: tuple[_Side, int]) -> Mapping[str, Estimate]:
    """The one point's values over the other's, in the metrics' own directions."""
    import numpy as np  # noqa: PLC0415 - importing a suite must cost nothing

    (one, at_one), (other, at_other) = mine, theirs
    values = np.exp((one.values[at_one] - other.values[at_other]) * one.signs)
    draws = np.exp((one.draws[:, at_one] - other.draws[:, at_other]) * one.signs)
    return {
        meaning.name: estimate(float(values[at]), draws[:, at], launches=one.launches)
        for at, meaning in enumerate(one.metrics)
    }


def _dominated(points: _Side, other: _Side, frontier: Sequence[str], margin: float) -> tuple[Dominated, ...]:
    """The cases of the other side's frontier whose points on this side that frontier dominates.

    Not those that the same points of it dominate on their own side already: values that are alike may do that.
    """
    places = [other.cases[case] for case in frontier]
    values, draws, found = other.values[places], other.draws[:, places], []
    whole = _volumes(values, draws)
    for own, case in enumerate(frontier):
        if case not in points.cases:
            continue
        at = points.cases[case]
        ahead = values - points.values[at]
        news = _beaten(ahead, margin) & ~_beaten(values - values[own], margin)
        if not news.any():
            continue
        first = own if news[own] else max(news.nonzero()[0].tolist(), key=ahead.sum(axis=1).__getitem__)
        again = _beaten(draws - points.draws[:, at, None], margin) & ~_beaten(draws - draws[:, own, None], margin)
        moved, moved_draws = values.copy(), draws.copy()
        moved[own], moved_draws[:, own] = points.values[at], points.draws[:, at]
        found.append(
            Dominated(
                case,
                frontier[first],
                often=float(again.any(axis=1).mean()),
                ratios=_ratios((points, at), (other, places[first])),
                volume=_ratio(_volumes(moved, moved_draws), whole, points.launches),
            )
        )
    return tuple(found)


def _beaten(ahead: "Logs", margin: float) -> "NDArray[np.bool_]":
    """Where something that is so far ahead in each metric dominates: nowhere behind by the margin, somewhere ahead."""
    import numpy as np  # noqa: PLC0415 - importing a suite must cost nothing

    return np.logical_and((ahead >= -margin).all(axis=-1), (ahead > margin).any(axis=-1))
