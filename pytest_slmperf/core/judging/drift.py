"""Whether launches resemble their neighbours, and how much less such launches say than independent ones."""

import math
from collections.abc import Sequence
from itertools import pairwise

from pytest_slmperf.core.judging import ranks

_ROUNDING = 1e-9
"""Log values that spread less than this differ by the arithmetic, not by the machine."""


def drift_of(*arms: Sequence[float]) -> str:
    """That the launches drift, in words, where neighbours resemble each other by more than two standard errors."""
    correlation = _autocorrelation(*arms)
    if correlation <= 2 / math.sqrt(sum(map(len, arms))):
        return ""
    return f"; the launches drift (each resembles the next, correlation {correlation:.1f})"


def neighbour_inflation(*arms: Sequence[float]) -> float:
    """How much wider than for independent launches an interval must be.

    The spread of an arm that is worth few launches is too small as well, by (n - worth) / (n - 1).
    """
    shortest = min(map(len, arms))
    worth = _worth_one(*arms)
    if worth <= 1:
        return 1.0
    return math.sqrt(worth * (shortest - 1) / (shortest - worth)) if worth < shortest else math.inf


def spread_of_mean(arm: Sequence[float], launches: int) -> float:
    """Standard deviation of the mean of so many launches as a share of that of one, by how the arm's resemble each
    other: at most 1, where all of them may come at once from one end.
    """
    return math.sqrt(min(1.0, _worth_one(arm, errors=2) / launches))


def _worth_one(*arms: Sequence[float], errors: float = 1) -> float:
    """So many launches are worth one independent one: (1 + r) / (1 - r), at least 1.

    r is the autocorrelation, corrected for its bias in short series (Kendall) and then taken so many standard errors
    (Bartlett) higher, because a few launches cannot show that they are independent.
    """
    count = sum(map(len, arms))
    seen = _autocorrelation(*arms)
    unbiased = seen + (1 + 3 * seen) * len(arms) / count
    if abs(unbiased) >= 1:
        return math.inf if unbiased > 0 else 1.0
    correlation = max(0.0, unbiased + errors * math.sqrt((1 - unbiased**2) / count))
    return math.inf if correlation >= 1 else (1 + correlation) / (1 - correlation)


def _autocorrelation(*arms: Sequence[float]) -> float:
    """Correlation of a launch with the next one of its arm, pooled over the arms."""
    products = squares = 0.0
    for arm in arms:
        costs = undisturbed(arm)
        centre = sum(costs) / len(costs)
        off = [cost - centre for cost in costs]
        products += sum([p * q for p, q in pairwise(off)])
        squares += sum([p * p for p in off])
    return products / squares if squares > len(arms) * _ROUNDING**2 else 0.0


def undisturbed(costs: Sequence[float]) -> list[float]:
    """The costs, none farther above their median than the best is below it.

    A machine is slowed by others, and never sped up: what lies beyond that was disturbed. Unclipped, two slow launches
    in a row among twenty quiet ones would look like a drift, and four as if all were worth a single one.
    """
    ordered = sorted(costs)
    limit = 2 * ranks.middle(ordered) - ordered[0]
    return [min(cost, limit) for cost in costs]
