"""Points in two or three metrics: which of them no other beats, and how much of the space they reach."""

import math
from bisect import bisect_left
from collections.abc import Sequence

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.sample import BadSample

MOST_METRICS = 3


def pareto(points: Sequence[Sequence[float]], higher_is_better: Sequence[bool]) -> tuple[int, ...]:
    """Places of the points that no other dominates: none is at least as good everywhere and better somewhere.

    Equal points don't dominate each other, so they are kept or left out together. For up to three metrics, in
    O(n log n) comparisons. Raises BadSample for a value that is not finite, SuiteError for more metrics.
    """
    turned = [_turned(point, higher_is_better) for point in points]
    kept, stairs = set(), _Stairs()
    for point in sorted(set(turned), reverse=True):  # what dominates a point stands before it
        if stairs.reach(*point[1:]) is not None:
            kept.add(point)
    return tuple(place for place, point in enumerate(turned) if point in kept)


def hypervolume(
    points: Sequence[Sequence[float]], higher_is_better: Sequence[bool], reference: Sequence[float]
) -> float:
    """What lies between the reference and the frontier of the points, in the product of the metrics' units.

    Points that are not better than the reference in every metric add nothing. Only comparable for one reference. By
    sweeping over the first metric (Fonseca, Paquete and López-Ibáñez, 2006). Raises as `pareto` does.
    """
    corner = _turned(reference, higher_is_better)
    above = [
        [value - floor for value, floor in zip(_turned(point, higher_is_better), corner, strict=True)]
        for point in points
    ]
    volume, area, reached, stairs = 0.0, 0.0, 0.0, _Stairs()
    for first, *others in sorted((point for point in above if min(point) > 0), reverse=True):
        volume += area * (reached - first)
        area += stairs.reach(*others) or 0.0
        reached = first
    return volume + area * reached


class _Stairs:
    """What is reached in two more metrics, or in one: the edges of a staircase, `wide` rising and `high` falling."""

    def __init__(self) -> None:
        self._wide: list[float] = []
        self._high: list[float] = []

    def reach(self, wide: float = 1.0, high: float = 1.0) -> float | None:
        """Take a point in: the area that it adds, or None for one that others reach. Only above 0 it is an area."""
        at = bisect_left(self._wide, wide)
        if at < len(self._wide) and self._high[at] >= high:
            return None
        past = at + 1 if at < len(self._wide) and self._wide[at] == wide else at
        first, right, area = at, wide, 0.0
        below = self._high[at] if at < len(self._high) else 0.0
        while first and self._high[first - 1] <= high:
            first -= 1
            area += (right - self._wide[first]) * (high - below)
            right, below = self._wide[first], self._high[first]
        left = self._wide[first - 1] if first else 0.0
        area += (right - left) * (high - below)
        self._wide[first:past] = [wide]
        self._high[first:past] = [high]
        return area


def _turned(point: Sequence[float], higher_is_better: Sequence[bool]) -> tuple[float, ...]:
    """The point with every metric turned so that more is better."""
    if len(point) != len(higher_is_better) or not 1 <= len(point) <= MOST_METRICS:
        raise SuiteError(f"a point has up to {MOST_METRICS} metrics, each with its direction; not {tuple(point)!r}")
    if not all(map(math.isfinite, point)):
        raise BadSample(f"{tuple(point)!r} is no point: it has a value that is not a number, or infinite")
    return tuple(value if higher else -value for value, higher in zip(point, higher_is_better, strict=True))
