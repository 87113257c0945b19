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

    So many launches are worth one independent one: (1 + r) / (1 - r). r is the autocorrelation, corrected for its bias
    in short series (Kendall) and then taken one standard error (Bartlett) higher, because a few launches cannot show
    that they are independent. The spread of an arm that is worth few is too small as well, by (n - worth) / (n - 1).
    """
    count, shortest = sum(map(len, arms)), min(map(len, arms))
    seen = _autocorrelation(*arms)
    unbiased = seen + (1 + 3 * seen) * len(arms) / count
    if abs(unbiased) >= 1:
        return math.inf if unbiased > 0 else 1.0
    correlation = unbiased + math.sqrt((1 - unbiased**2) / count)
    if correlation <= 0:
        return 1.0
    worth = math.inf if correlation >= 1 else (1 + correlation) / (1 - correlation)
    return math.sqrt(worth * (shortest - 1) / (shortest - worth)) if worth < shortest else math.inf


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
