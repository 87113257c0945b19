"""The judgement: has a metric become worse than its baseline by more than the tolerance, as far as launches can tell.

Everything is done on costs: the logarithm of a value, turned so that more is worse. One launch is one number, the
median of its rounds. The shift between the arms is estimated, and bounded with two certainties: `regressed` needs a
loss at all to be sure, one beyond half the tolerance to be likely, and an estimate beyond all of it; a pass needs twice
the tolerance to be surely excluded, and the tolerance itself likely. What is neither is `inconclusive`.
docs/statistics.md argues each constant.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.guards.void import RUN_AGAIN
from pytest_slmperf.core.judging import ranks
from pytest_slmperf.core.judging.drift import drift_of, neighbour_inflation
from pytest_slmperf.core.judging.spending import look_level, quantile
from pytest_slmperf.core.metrics import Metric
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import Effect, Status, Verdict, interval

Design = Literal["interleaved", "stored"]
DESIGNS: tuple[Design, ...] = get_args(Design)

SURE = 0.002
"""Error level of what a verdict must be sure of, over all its looks: that there is a loss at all, or none of twice the
tolerance."""
LIKELY = 0.05
"""Error level of what it need only be confident of: a loss beyond half the tolerance, or within the tolerance."""
FIRST_LOOK = 8
"""Launches per arm; with fewer, one arm comes second in all blocks too often (1 in 256 here, 1 in 64 with 6)."""
LOOK_EVERY = 2
"""Launches per arm between two looks."""
DAY_SD = 0.007
"""Standard deviation of log values between two days of one machine, which a stored baseline cannot see."""
POWER = 0.80

_LARGEST_SHIFT = math.log(sys.float_info.max)
"""A bound beyond it has no ratio that a float holds: it bounds nothing."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a metric is gated. `tolerance` is the fractional loss that is allowed, `max_launches` counts per arm."""

    tolerance: float
    max_launches: int = 16
    design: Design = "stored"
    single_look: bool = False
    """The whole level is spent at once, at `max_launches`: for launches whose number was fixed beforehand."""
    confirming: bool = False
    """What is likely is enough: the launches confirm a verdict that was sure."""

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise UsageError(f"a tolerance is a fraction between 0 and 1, not {self.tolerance!r}")
        if self.max_launches < 1:
            raise UsageError(f"a gate needs at least one launch, not {self.max_launches!r}")
        if self.design not in DESIGNS:
            raise UsageError(f"unknown design {self.design!r}; known are {', '.join(DESIGNS)}")


@dataclass(frozen=True, slots=True)
class Shift:
    """How much worse the candidate is, on the log scale: an estimate, and bounds at any one-sided error level."""

    estimate: float
    bounds: Callable[[float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look of the gate sees: the estimate between what is sure, at its level, and what is likely."""

    estimate: float
    sure: tuple[float, float]
    likely: tuple[float, float]
    sure_level: float


def looks(policy: Policy) -> tuple[int, ...]:
    """Launches per arm at which the gate looks; the last is final."""
    cap = policy.max_launches
    if policy.single_look or cap <= FIRST_LOOK:
        return (cap,)
    return (*range(FIRST_LOOK, cap, LOOK_EVERY), cap)


@lru_cache(maxsize=1024)
def levels_of(policy: Policy, baseline: int, candidate: int) -> tuple[float, float]:
    """This look's share of what is to be sure and what is to be likely, given the looks that came before it."""
    before = [look for look in looks(policy) if look < candidate]
    cap = max(policy.max_launches, candidate)

    def information(launches: int) -> float:
        return launches if policy.design == "interleaved" else 1 / (1 / baseline + 1 / launches)

    times = tuple(information(look) / information(cap) for look in (*before, candidate))
    likely = look_level(LIKELY, times)
    return likely if policy.confirming else look_level(SURE, times), likely


def first_launches(policy: Policy) -> int:
    """Launches per arm before the first look."""
    return looks(policy)[0]


def more_launches(verdict: Verdict, baseline: Sample, sample: Sample, policy: Policy) -> int:
    """Further launches (per arm when interleaved, else of the candidate) until the next look; 0 for a final verdict."""
    return 0 if verdict.final else _launches_to_go(_counted(baseline, sample, policy), policy)


def confirmation(policy: Policy) -> Policy:
    """The policy by which the fresh launches that confirm a `regressed` are judged: one look, at `first_launches`."""
    return replace(policy, max_launches=first_launches(policy), single_look=True, confirming=True)


def rule(
    baseline: Sequence[Sequence[float]],
    candidate: Sequence[Sequence[float]],
    *,
    tolerance: float,
    higher_is_better: bool,
    max_runs: int,
    design: Design,
) -> tuple[str, int]:
    """The judgement on bare numbers: `regressed`, `ok`, `improved` or `inconclusive`, and the launches still wanted.

    A run of the bench that checks it is a launch here.
    """
    policy = Policy(tolerance, max_runs, design)
    before, after = Sample.of(baseline), Sample.of(candidate)
    first, second = (costs_of(sample, higher_is_better=higher_is_better) for sample in (before, after))
    look = _look(_compare(first, second, design), len(before.launches), _counted(before, after, policy), policy)
    status = status_of(look, margin_of(tolerance, higher_is_better=higher_is_better))
    if status is not Status.INCONCLUSIVE:
        return ("ok" if status is Status.UNCHANGED else status.value), 0
    return status.value, _launches_to_go(_counted(before, after, policy), policy)


rule.first_runs = FIRST_LOOK  # type: ignore[attr-defined] # the bench that checks the gate from outside reads it


def judge(metric: Metric, baseline: Sample, sample: Sample, policy: Policy) -> Verdict:
    """Compare a sample with its baseline. When interleaved, launch i of one stood next to launch i of the other."""
    higher = metric.higher_is_better
    costs = costs_of(baseline, higher_is_better=higher), costs_of(sample, higher_is_better=higher)
    shift = _compare(*costs, policy.design)
    look = _look(shift, len(baseline.launches), _counted(baseline, sample, policy), policy)
    margin = margin_of(policy.tolerance, higher_is_better=higher)
    verdict = Verdict(
        status=status_of(look, margin),
        metric=metric.name,
        unit=metric.unit,
        higher_is_better=higher,
        tolerance=policy.tolerance,
        effect=_effect(shift, _smallest_seen(look, margin), (baseline, sample), higher_is_better=higher),
    )
    if verdict.status is not Status.INCONCLUSIVE:
        return verdict
    verdict = replace(verdict, final=_launches_to_go(_counted(baseline, sample, policy), policy) == 0)
    return replace(
        verdict, reason=_doubt(look, costs, policy, higher_is_better=higher), way_out=_remedy(verdict, policy)
    )


def confirm(first: Verdict, fresh: Verdict) -> Verdict:
    """Let a `regressed` stand only if fresh launches alone, judged by `confirmation(policy)`, are regressed too.

    Of what has parts they must have lost at least one of those that were lost at first.
    """
    if first.status is not Status.REGRESSED:
        return first
    seen = _seen(fresh)
    alike = not first.lost or not set(first.lost).isdisjoint(fresh.lost)
    if fresh.status is Status.REGRESSED and alike:
        return replace(first, reason="; ".join(filter(None, (first.reason, f"confirmed by fresh launches: {seen}"))))
    found = "regressed in another way" if fresh.status is Status.REGRESSED else fresh.status
    return replace(
        first,
        status=Status.INCONCLUSIVE,
        lost=(),
        reason=f"regressed at first ({_seen(first)}), but fresh launches alone are {found}: {seen}",
        way_out="Run it again; if it stays like this, the machine changes between launches.",
        final=fresh.final,
    )


def unconfirmed(first: Verdict, why: str, way_out: str = RUN_AGAIN) -> Verdict:
    """What becomes of a `regressed` that has no fresh launches, and why it has none: it may stand, or not."""
    at_first = f" ({first.reason})" if first.reason else ""
    reason = f"it looked regressed{at_first}, and there are no fresh launches to confirm it: {why}"
    return replace(first, status=Status.INCONCLUSIVE, lost=(), reason=reason, way_out=way_out)


def costs_of(sample: Sample, *, higher_is_better: bool) -> list[float]:
    """One number per launch: the median of its log rounds, turned so that more is worse."""
    sign = -1.0 if higher_is_better else 1.0
    return [sign * ranks.middle(sorted(map(math.log, rounds))) for rounds in sample.launches]


def margin_of(tolerance: float, *, higher_is_better: bool) -> float:
    """The shift that a fractional loss of the tolerance amounts to."""
    return -math.log1p(-tolerance) if higher_is_better else math.log1p(tolerance)


def _loss(shift: float, *, higher_is_better: bool) -> float:
    """The fractional loss that a shift amounts to; the inverse of `margin_of`."""
    if higher_is_better:
        return -math.expm1(-shift)
    return math.expm1(shift) if shift < _LARGEST_SHIFT else math.inf


def _counted(baseline: Sample, sample: Sample, policy: Policy) -> int:
    count = len(sample.launches)
    return count if policy.design == "stored" else min(count, len(baseline.launches))


def _launches_to_go(count: int, policy: Policy) -> int:
    return next((look - count for look in looks(policy) if look > count), 0)


def status_of(look: Look, margin: float) -> Status:
    """What the bounds of a shift say, `margin` being the shift that is tolerated."""
    if look.sure[0] > 0 and look.likely[0] > margin / 2 and look.estimate > margin:
        return Status.REGRESSED
    if look.sure[1] < 2 * margin and look.likely[1] < margin:
        better = look.sure[1] < 0 and look.likely[1] < -margin / 2 and look.estimate < -margin
        return Status.IMPROVED if better else Status.UNCHANGED
    return Status.INCONCLUSIVE


def _look(shift: Shift, baseline: int, candidate: int, policy: Policy) -> Look:
    sure, likely = levels_of(policy, baseline, candidate)
    return Look(shift.estimate, shift.bounds(sure), shift.bounds(likely), sure)


def _compare(baseline: Sequence[float], candidate: Sequence[float], design: Design) -> Shift:
    return (_against_another_day if design == "stored" else _within_blocks)(baseline, candidate)


def _against_another_day(baseline: Sequence[float], candidate: Sequence[float]) -> Shift:
    """Mann-Whitney bounds, wider where neighbours resemble each other, with the day's effect added in quadrature."""
    pairs = ranks.differences(baseline, candidate)
    estimate = ranks.middle(pairs)
    distribution = ranks.rank_sum_distribution(len(baseline), len(candidate))
    inflation = neighbour_inflation(baseline, candidate)

    def bounds(level: float) -> tuple[float, float]:
        low, high = _widened(_order_statistics(pairs, distribution, level), estimate, inflation)
        day = quantile(level) * DAY_SD
        return estimate - math.hypot(estimate - low, day), estimate + math.hypot(high - estimate, day)

    return Shift(estimate, bounds)


def _within_blocks(baseline: Sequence[float], candidate: Sequence[float]) -> Shift:
    """Two tests at half the level each: of the arms, decisive with few launches, and of the blocks, blind to drift.

    Where the arms differ in length nobody knows the blocks, and the arms alone are compared.
    """
    pairs = ranks.differences(baseline, candidate)
    of_arms = ranks.rank_sum_distribution(len(baseline), len(candidate))
    if len(baseline) != len(candidate):
        return Shift(ranks.middle(pairs), lambda level: _order_statistics(pairs, of_arms, level / 2))
    changes = [after - before for before, after in zip(baseline, candidate, strict=True)]
    blocks = ranks.walsh_averages(changes)
    of_blocks = ranks.signed_rank_distribution(len(changes))
    estimate = ranks.middle(blocks)
    inflation = _block_inflation(baseline, candidate, changes)

    def bounds(level: float) -> tuple[float, float]:
        arms = _widened(_order_statistics(pairs, of_arms, level / 2), estimate, inflation)
        low, high = _order_statistics(blocks, of_blocks, level / 2)
        return max(arms[0], low), min(arms[1], high)

    return Shift(estimate, bounds)


def _order_statistics(ordered: Sequence[float], distribution: Sequence[float], level: float) -> tuple[float, float]:
    index = ranks.critical(distribution, level)
    return (-math.inf, math.inf) if index is None else (ordered[index], ordered[-1 - index])


def _widened(bounds: tuple[float, float], estimate: float, inflation: float) -> tuple[float, float]:
    """The bounds moved away from the estimate; one that stands on the estimate (no spread at all) stays there."""
    low, high = estimate - bounds[0], bounds[1] - estimate
    return estimate - (inflation * low if low > 0 else 0.0), estimate + (inflation * high if high > 0 else 0.0)


def _block_inflation(baseline: Sequence[float], candidate: Sequence[float], changes: Sequence[float]) -> float:
    """How much more the blocks' changes vary than those of independent arms would.

    Where a launch's place in its block matters, the spread of the arms understates the noise.
    """
    arms = _squares(baseline) + _squares(candidate)
    return math.sqrt(max(1.0, _squares(changes) / arms)) if arms > 0 else 1.0


def _squares(values: Sequence[float]) -> float:
    centre = sum(values) / len(values)
    return sum([(value - centre) ** 2 for value in values])


def _effect(shift: Shift, smallest: float, samples: tuple[Sample, Sample], *, higher_is_better: bool) -> Effect:
    sign = -1.0 if higher_is_better else 1.0
    low, high = sorted(_ratio(sign * bound) for bound in shift.bounds(0.025))
    return Effect(
        baseline=samples[0].median,
        candidate=samples[1].median,
        ratio=math.exp(sign * shift.estimate),
        low=low,
        high=high,
        mde=_loss(smallest, higher_is_better=higher_is_better) if smallest < math.inf else math.inf,
        baseline_shape=samples[0].shape,
        candidate_shape=samples[1].shape,
    )


def _smallest_seen(look: Look, margin: float) -> float:
    """The shift found with 80 % power, were the spread what it seems: what is needed, and a quantile of its noise."""
    sure, likely = look.estimate - look.sure[0], look.estimate - look.likely[0]
    noise = sure / quantile(look.sure_level)
    return max(margin, margin / 2 + likely, sure) + quantile(1 - POWER) * noise


def _doubt(
    look: Look, costs: tuple[Sequence[float], Sequence[float]], policy: Policy, *, higher_is_better: bool
) -> str:
    reason = f"{len(costs[0])} against {len(costs[1])} launches bound nothing"
    margin = margin_of(policy.tolerance, higher_is_better=higher_is_better)
    open_end, surely = (look.likely[1], "") if look.likely[1] >= margin else (look.sure[1], " surely")
    if open_end < math.inf:
        reason = f"cannot{surely} exclude a loss of {_loss(open_end, higher_is_better=higher_is_better):.1%}"
    return reason + (drift_of(*costs) if policy.design == "stored" else "")


def _remedy(verdict: Verdict, policy: Policy) -> str:
    if not verdict.final:
        return "More launches can decide it."
    remedies = ["a larger tolerance", "more launches"]
    if policy.design == "stored":
        remedies.insert(0, "measuring both versions interleaved (slmperf ab)")
    return f"What decides it: a quieter machine, {', or '.join(remedies)}."


def _seen(verdict: Verdict) -> str:
    effect = verdict.effect
    if effect is None:
        return verdict.reason or "nothing measured"
    return f"{interval(effect)}, {effect.candidate_shape}"


def _ratio(shift: float) -> float:
    return math.exp(shift) if shift < _LARGEST_SHIFT else math.inf
