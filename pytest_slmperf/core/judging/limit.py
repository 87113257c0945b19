"""A measured value against a number of the suite's: no baseline, and no tolerance either."""

import math
from dataclasses import replace

from pytest_slmperf.core.judging import ranks
from pytest_slmperf.core.metrics import Metric
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import Status, Verdict, quantity

CONFIDENCE = 0.95
"""Of the bound that must be within the limit."""


def judge_against_number(metric: Metric, sample: Sample, limit: float, *, at_least: bool) -> Verdict:
    """Compare a sample with a number: it passes only if the confidence bound of the median launch is within the limit.

    The bound is an order statistic of the launches, so it holds for any distribution; below 5 launches there
    is none, and the verdict is inconclusive.
    """
    values = sorted(ranks.middle(sorted(rounds)) for rounds in sample.launches)
    median = f"{quantity(sample.median)} {metric.unit}"
    verdict = Verdict(Status.INCONCLUSIVE, metric.name, metric.unit, metric.higher_is_better, measured=median)
    wanted = f"; limit {stated(metric, limit, at_least=at_least)}"
    index = ranks.critical(ranks.sign_distribution(len(values)), 1 - CONFIDENCE)
    if index is None:
        needed = math.ceil(math.log(1 - CONFIDENCE) / math.log(0.5))
        reason = f"{len(values)} launches bound nothing with {CONFIDENCE:.0%} confidence; {needed} are needed{wanted}"
        return replace(verdict, reason=reason, way_out=f"Measure at least {needed} launches.")
    low, high = values[index], values[-1 - index]
    verdict = replace(verdict, measured=f"{median} ({quantity(low)}…{quantity(high)})")
    figures = (
        f"median launch {median}, {CONFIDENCE:.0%} bounds "
        f"{quantity(low)}…{quantity(high)}, {sample.shape} launches×rounds{wanted}"
    )
    if (low >= limit) if at_least else (high <= limit):
        return replace(verdict, status=Status.UNCHANGED, reason=f"within the limit: {figures}")
    if (high < limit) if at_least else (low > limit):
        return replace(verdict, status=Status.REGRESSED, reason=f"beyond the limit: {figures}")
    return replace(verdict, reason=f"too close to the limit to tell: {figures}", way_out="Measure more launches.")


def stated(metric: Metric, limit: float, *, at_least: bool) -> str:
    """`at most 200 ms`."""
    return f"{'at least' if at_least else 'at most'} {quantity(limit)} {metric.unit}"
