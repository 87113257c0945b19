"""How an error level is spent over the looks of a gate, so that looking often costs no more than looking once."""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

SPENDING_POWER = 3
"""By a share t of the information, t to this power of a level is spent (Kim and DeMets)."""
_STEPS = 80
"""Intervals of the Simpson integrals below; six times as many change no level by more than 0.05 %."""

_NORMAL = NormalDist()


@lru_cache(maxsize=1024)
def quantile(level: float) -> float:
    """The standard normal's upper quantile."""
    return -_NORMAL.inv_cdf(level)


def look_level(level: float, times: Sequence[float]) -> float:
    """The level of the last look such that all looks so far spend `level · times[-1]^SPENDING_POWER` (Lan, DeMets).

    The score of the looks is taken as Brownian motion at the times given; the mass that no look has stopped yet is
    carried from look to look.
    """
    spent = [level * time**SPENDING_POWER for time in times]
    if len(times) == 1:
        return spent[0]
    boundary = quantile(spent[0]) * math.sqrt(times[0])
    mass = [(x, weight * _density(x, times[0])) for x, weight in _nodes(boundary, times[0])]
    for look in range(1, len(times)):
        step = times[look] - times[look - 1]
        boundary = _boundary(mass, step, spent[look] - spent[look - 1])
        if look < len(times) - 1:
            mass = [
                (x, weight * sum([m * _density(x - u, step) for u, m in mass]))
                for x, weight in _nodes(boundary, times[look])
            ]
    return _NORMAL.cdf(-boundary / math.sqrt(times[-1]))


def _boundary(mass: Sequence[tuple[float, float]], step: float, chance: float) -> float:
    """What the score exceeds with this chance, one step after it had this mass."""
    scale = math.sqrt(2 * step)
    low, high = 0.0, 8.0
    for _ in range(40):
        middle = (low + high) / 2
        if sum([m * math.erfc((middle - x) / scale) for x, m in mass]) / 2 > chance:
            low = middle
        else:
            high = middle
    return high


def _nodes(boundary: float, time: float) -> list[tuple[float, float]]:
    """Simpson's nodes and weights from six standard deviations below zero up to the boundary."""
    start = -6 * math.sqrt(time)
    width = (boundary - start) / _STEPS
    weights = [1, *([4, 2] * (_STEPS // 2))[:-1], 1]
    return [(start + width * i, width / 3 * weight) for i, weight in enumerate(weights)]


def _density(x: float, variance: float) -> float:
    return math.exp(-x * x / (2 * variance)) / math.sqrt(2 * math.pi * variance)
