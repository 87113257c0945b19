"""Exact rank distributions, and the order statistics that they make into confidence bounds.

A bound from ranks keeps its level for launches of any distribution, as long as nothing but chance decides which
launch belongs to which arm (Mann and Whitney, Hodges and Lehmann), or which of a block's two is the slower (Wilcoxon).
"""

from collections.abc import Sequence
from functools import lru_cache
from math import comb


@lru_cache(maxsize=256)
def rank_sum_distribution(first: int, second: int) -> tuple[float, ...]:
    """P(U <= u) for u = 0 … first·second, U the Mann-Whitney statistic of two samples of one distribution."""
    top = first * second
    ways = [1] + [0] * top
    # The counts are the coefficients of the Gaussian binomial: multiply by 1 - q^(first+i), divide by 1 - q^i.
    for i in range(1, second + 1):
        for u in range(top, first + i - 1, -1):
            ways[u] -= ways[u - first - i]
        for u in range(i, top + 1):
            ways[u] += ways[u - i]
    return _cumulated(ways, comb(first + second, second))


@lru_cache(maxsize=256)
def signed_rank_distribution(pairs: int) -> tuple[float, ...]:
    """P(T <= t) for t = 0 … pairs(pairs+1)/2, T Wilcoxon's signed-rank statistic of symmetric differences."""
    top = pairs * (pairs + 1) // 2
    ways = [1] + [0] * top
    for rank in range(1, pairs + 1):
        for t in range(top, rank - 1, -1):
            ways[t] += ways[t - rank]
    return _cumulated(ways, 2**pairs)


@lru_cache(maxsize=256)
def sign_distribution(count: int) -> tuple[float, ...]:
    """P(S <= s) for s = 0 … count, S the number of values below the median."""
    return _cumulated([comb(count, s) for s in range(count + 1)], 2**count)


def _cumulated(ways: Sequence[int], total: int) -> tuple[float, ...]:
    cumulated, so_far = [], 0
    for count in ways:
        so_far += count
        cumulated.append(so_far / total)
    return tuple(cumulated)


def critical(distribution: Sequence[float], level: float) -> int | None:
    """The largest value whose cumulated probability is at most the level; None where even the smallest is likelier."""
    if distribution[0] > level:
        return None
    low, high = 0, len(distribution) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if distribution[middle] <= level:
            low = middle
        else:
            high = middle - 1
    return low


def differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """All differences second - first, sorted: their median is the Hodges-Lehmann estimate of the shift."""
    return sorted([y - x for x in first for y in second])


def walsh_averages(values: Sequence[float]) -> list[float]:
    """The means of all pairs, each value with itself too, sorted: their median is the Hodges-Lehmann centre."""
    return sorted([(x + y) / 2 for i, x in enumerate(values) for y in values[i:]])


def middle(ordered: Sequence[float]) -> float:
    """The median of what is sorted already."""
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
