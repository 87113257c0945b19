"""Launches as they would be, had the cores kept their mean pace: what a slower core made of one is taken out of it.

A core whose clock or neighbour changes from minute to minute makes launches drift together, and launches that resemble
their neighbours bound little. How fast the cores were is known of each launch, from a piece of work that is no
engine's (`core_pace_ns`); so it is a covariate, as in an analysis of covariance (Fisher, Statistical Methods for
Research Workers, 1932). Only what differs *within* an arm is taken out. Whether the arms differ in pace is another
question, and `same_pace` asks it: an engine that itself slows its cores would otherwise be forgiven.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from pytest_slmperf.core import gate
from pytest_slmperf.core.gate import Policy, costs_of
from pytest_slmperf.core.metrics import Metric
from pytest_slmperf.core.same_pace import depends_on_pace
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import Verdict

MOST_ALIKE = 0.9
"""Two series that drift: so much of their neighbours' likeness is believed, or a slope would have no error at all."""


@dataclass(frozen=True)
class Evened:
    """Samples, each at the mean pace of its own launches, in the order they were given."""

    samples: tuple[Sample, ...]
    share: float = 0.0
    """How much of a change of pace reaches the metric, both as logarithms: 0 to 1."""
    spread: float = 0.0
    """Standard deviation of log values that was taken out: what the pace alone made of a launch."""


def evened(metric: Metric, *arms: tuple[Sample, Sample | None]) -> Evened:
    """The samples of (values, times of the piece of work) without what the pace explains within each.

    The slope is least squares' over all arms, one standard error lower, so that what may be chance takes out little:
    of series that both drift, the error is larger (Bartlett, J. Royal Statistical Society 98, 1935). It lies between 0,
    for work that no core's pace changes, and 1, for work that is as slow as the core. A metric that is no matter of
    pace, and samples of which the times aren't known launch by launch, are returned as they are.
    """
    samples = tuple(sample for sample, _ in arms)
    paces = [_logs(pace) for _, pace in arms]
    known = all(len(logs) == len(sample.launches) for sample, logs in zip(samples, paces, strict=True))
    if not known or not depends_on_pace(metric.name):
        return Evened(samples)
    off = [_centred(logs) for logs in paces]
    costs = [_centred(costs_of(sample, higher_is_better=metric.higher_is_better)) for sample in samples]
    share = _surely(off, costs)
    if share == 0:
        return Evened(samples)
    spread = share * math.sqrt(_dot(off, off) / (sum(map(len, off)) - len(off)))
    sign = 1 if metric.higher_is_better else -1
    moved = tuple(_moved(sample, [sign * share * one for one in arm]) for sample, arm in zip(samples, off, strict=True))
    return Evened(moved, share, spread)


def judge(
    metric: Metric, baseline: tuple[Sample, Sample | None], now: tuple[Sample, Sample | None], policy: Policy
) -> Verdict:
    """The gate's verdict on (values, times of the piece of work), evened. It names the medians that were measured."""
    before, after = evened(metric, baseline, now).samples
    return gate.judge(metric, before, after, policy).of_medians(baseline[0].median, now[0].median)


def _moved(sample: Sample, by: Sequence[float]) -> Sample:
    return Sample.of(
        [value * math.exp(log) for value in rounds] for rounds, log in zip(sample.launches, by, strict=True)
    )


def _surely(paces: Sequence[Sequence[float]], costs: Sequence[Sequence[float]]) -> float:
    """The slope of the costs over the paces, one standard error lower, from 0 to 1; both are centred, arm by arm."""
    squares = _dot(paces, paces)
    freedom = sum(map(len, paces)) - len(paces) - 1
    if freedom < 1 or squares == 0:
        return 0.0
    slope = _dot(paces, costs) / squares
    rest = [[cost - slope * pace for pace, cost in zip(*both, strict=True)] for both in zip(paces, costs, strict=True)]
    alike = min(max(0.0, _likeness(paces) * _likeness(rest)), MOST_ALIKE)
    error = math.sqrt(_dot(rest, rest) / freedom / squares * (1 + alike) / (1 - alike))
    return min(max(0.0, slope - error), 1.0)


def _likeness(arms: Sequence[Sequence[float]]) -> float:
    """Correlation of a launch with the next one of its arm; what is given is centred."""
    squares = _dot(arms, arms)
    return sum(p * q for arm in arms for p, q in pairwise(arm)) / squares if squares else 0.0


def _dot(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> float:
    return math.fsum(_products(first, second))


def _products(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> Iterator[float]:
    for one, other in zip(first, second, strict=True):
        yield from (p * q for p, q in zip(one, other, strict=True))


def _logs(pace: Sample | None) -> list[float]:
    return [fmean(map(math.log, rounds)) for rounds in pace.launches] if pace else []


def _centred(values: Sequence[float]) -> list[float]:
    mean = fmean(values)
    return [value - mean for value in values]
