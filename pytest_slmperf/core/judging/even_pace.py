"""Launches as they would be, had the cores kept their mean pace: what a slower core made of one is taken out of it.

A core whose clock or neighbour changes from minute to minute makes launches drift together, and launches that resemble
their neighbours bound little. How fast the cores were is known of each launch, from a piece of work that is no
engine's (`core_pace_ns`); so it is a covariate, as in an analysis of covariance (Fisher, Statistical Methods for
Research Workers, 1932). Only what differs *within* an arm is taken out: an engine that itself slows its cores would
otherwise be forgiven. But the paces of the arms differ by chance, too, and launches that were evened no longer show by
how much. So what is decided must hold at one pace of all launches as well, and `same_pace` asks whether the arms surely
differ in pace.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, median

from pytest_slmperf.core import gate
from pytest_slmperf.core.gate import Policy, costs_of
from pytest_slmperf.core.judging.drift import undisturbed
from pytest_slmperf.core.judging.same_pace import WAY_OUT, at_its_pace, depends_on_pace, logs_of
from pytest_slmperf.core.metrics import Metric
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import Status, Verdict

MOST_ERRORS = 2
"""Standard errors above the slope: more of a change of pace surely doesn't reach the metric."""
MOST_ALIKE = 0.9
"""Two series that drift: so much of their neighbours' likeness is believed, or a slope would have no error at all."""

Arm = tuple[Sample, Sample | None]
"""A metric's values, and the times of the piece of work in the same launches, where they are known."""


@dataclass(frozen=True)
class Evened:
    """Samples, each at the median pace of its own launches, in the order they were given."""

    samples: tuple[Sample, ...]
    share: float = 0.0
    """How much of a change of pace surely reaches the metric, both as logarithms: 0 to 1."""
    spread: float = 0.0
    """Standard deviation of log values that was taken out: what the usual changes of pace alone made of a launch."""
    at_most: float = 1.0
    """How much of it may reach the metric: two standard errors above the slope, and all where nothing tells."""
    at_one_pace: tuple[Sample, ...] = ()
    """The samples, all launches of all of them at one pace, as far as it may reach the metric; none where the share
    is 0.
    """


def evened(metric: Metric, *arms: Arm) -> Evened:
    """The samples of these arms without what the pace explains within each.

    The slope is least squares' over all arms, one standard error lower, so that what may be chance takes out little:
    of series that both drift, the error is larger (Bartlett, J. Royal Statistical Society 98, 1935). It lies between 0,
    for work that no core's pace changes, and 1, for work that is as slow as the core. A metric that is no matter of
    pace, and samples of which the times aren't known launch by launch, are returned as they are. Each arm is moved
    about its median pace: about the mean, one launch on a busy core would make all the others slower.
    """
    samples = tuple(sample for sample, _ in arms)
    paces = [logs_of(pace) for _, pace in arms]
    known = all(len(logs) == len(sample.launches) for sample, logs in zip(samples, paces, strict=True))
    if not known or not depends_on_pace(metric.name):
        return Evened(samples)
    off = [_about(logs, fmean(logs)) for logs in paces]
    costs = [costs_of(sample, higher_is_better=metric.higher_is_better) for sample in samples]
    slope, error = _slope(off, [_about(arm, fmean(arm)) for arm in costs])
    share, may_be, at_most = (_fraction(slope + errors * error) for errors in (-1, 1, MOST_ERRORS))
    if share == 0:
        return Evened(samples, at_most=at_most)
    sign = 1 if metric.higher_is_better else -1
    centre = median(paces[0])
    usual = [undisturbed(logs) for logs in paces]
    usual = [_about(logs, fmean(logs)) for logs in usual]
    return Evened(
        tuple(_moved(sample, logs, median(logs), sign * share) for sample, logs in zip(samples, paces, strict=True)),
        share,
        share * math.sqrt(_dot(usual, usual) / (sum(map(len, usual)) - len(usual))),
        at_most,
        tuple(_moved(sample, logs, centre, sign * may_be) for sample, logs in zip(samples, paces, strict=True)),
    )


def judge(metric: Metric, baseline: Arm, now: Arm, policy: Policy) -> Verdict:
    """The gate's verdict on two arms, evened. It names the medians that were measured.

    What another pace explains outright is left to `same_pace`. Else a loss, a gain or a pass stands only if the gate
    says the same of all launches at one pace, and the interval covers that of both.
    """
    even = evened(metric, baseline, now)
    before, after = even.samples
    verdict = gate.judge(metric, before, after, policy).of_medians(baseline[0].median, now[0].median)
    if not even.at_one_pace or _held(verdict, even, baseline, now).status is Status.VOID:
        return verdict
    before, after = even.at_one_pace
    other = gate.judge(metric, before, after, policy)
    verdict = _covering(verdict, other)
    if verdict.status in (Status.INCONCLUSIVE, other.status):
        return verdict
    if verdict.passed and other.passed:
        return replace(verdict, status=Status.UNCHANGED)
    final = gate.more_launches(replace(verdict, final=False), baseline[0], now[0], policy) == 0
    return replace(
        verdict,
        status=Status.INCONCLUSIVE,
        final=final,
        reason="; ".join(filter(None, (f"it is {other.status} at one pace of the cores", other.reason))),
        way_out=WAY_OUT if final else "More launches can decide it.",
    )


def held_to_pace(verdict: Verdict, metric: Metric, baseline: Arm, now: Arm) -> Verdict:
    """The verdict on these, or `void` where the arms surely differ in pace, and that may be all that it has seen."""
    return _held(verdict, evened(metric, baseline, now), baseline, now)


def _held(verdict: Verdict, even: Evened, baseline: Arm, now: Arm) -> Verdict:
    return at_its_pace(verdict, now[1], baseline[1], share=even.at_most)


def _covering(verdict: Verdict, other: Verdict) -> Verdict:
    """The verdict, with an interval that covers the other's."""
    one, two = verdict.effect, other.effect
    if one is None or two is None:
        return verdict
    return replace(
        verdict,
        effect=replace(one, low=min(one.low, two.low), high=max(one.high, two.high), mde=max(one.mde, two.mde)),
    )


def _moved(sample: Sample, logs: Sequence[float], centre: float, slope: float) -> Sample:
    """The sample, had each launch been at the pace of the centre."""
    return Sample.of(
        [value * math.exp(slope * (log - centre)) for value in rounds]
        for rounds, log in zip(sample.launches, logs, strict=True)
    )


def _slope(paces: Sequence[Sequence[float]], costs: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The slope of the costs over the paces and its standard error, infinite where too little differs; both are
    centred, arm by arm.
    """
    squares = _dot(paces, paces)
    freedom = sum(map(len, paces)) - len(paces) - 1
    if freedom < 1 or squares == 0:
        return 0.0, math.inf
    slope = _dot(paces, costs) / squares
    rest = [[cost - slope * pace for pace, cost in zip(*both, strict=True)] for both in zip(paces, costs, strict=True)]
    alike = min(max(0.0, _likeness(paces) * _likeness(rest)), MOST_ALIKE)
    return slope, math.sqrt(_dot(rest, rest) / freedom / squares * (1 + alike) / (1 - alike))


def _fraction(value: float) -> float:
    return min(max(0.0, value), 1.0)


def _likeness(arms: Sequence[Sequence[float]]) -> float:
    """Correlation of a launch with the next one of its arm; what is given is centred."""
    squares = _dot(arms, arms)
    return sum(p * q for arm in arms for p, q in pairwise(arm)) / squares if squares else 0.0


def _dot(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> float:
    return math.fsum(_products(first, second))


def _products(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> Iterator[float]:
    for one, other in zip(first, second, strict=True):
        yield from (p * q for p, q in zip(one, other, strict=True))


def _about(values: Sequence[float], centre: float) -> list[float]:
    return [value - centre for value in values]
