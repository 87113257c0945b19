"""Whether a machine's cores are as fast as they were for the baseline: what another pace of theirs makes of a verdict.

A neighbour whom the hypervisor hides, or a clock that can't be read, slows a core for minutes: longer than a round or a
launch, so that no guard of a round sees it, and a stored baseline doesn't know of it. What is compared here is the time
of a fixed piece of work that is no engine's, before and after the rounds of now and of then.
"""

import math
from dataclasses import replace
from itertools import pairwise
from statistics import fmean

from pytest_slmperf.core.metrics import BOARD, CORE_PACE, ENERGY
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import Status, Verdict, change_within

UNTIMED = {*ENERGY, *BOARD, "peak_memory_bytes", CORE_PACE}
"""Metrics that are no matter of a core's pace."""
UNDECIDED = 0.5
"""Share of the tolerance by which slower cores may be what leaves a metric undecided."""
CERTAINTY = 1.96
"""Standard errors on either side of an interval of 95 %."""
WAY_OUT = (
    "run again when nobody shares its cores (another hour, a dedicated host, a fixed clock); record again if it is to "
    "stay so; or measure both versions interleaved (slmperf ab), which no pace can fool"
)


def depends_on_pace(name: str) -> bool:
    """Whether a metric, by its full name, is another on faster or slower cores."""
    return name not in UNTIMED


def at_its_pace(verdict: Verdict, now: Sample | None, was: Sample | None, *, share: float = 1.0) -> Verdict:
    """The verdict on a stored baseline, or `void` where the cores' own pace may be all that it has seen.

    `now` and `was` are the times of the piece of work, launch by launch; without one of them the verdict stands. Only
    that part of a change counts which is beyond the 95 % interval of the times: their noise voids nothing. `share` is
    how much of it reaches the metric at most, both as logarithms: nobody is slower than the cores. A loss that is
    larger than the pace explains stays `regressed`. A pass stays one unless the cores are faster and, at the
    baseline's pace, more than the tolerance would be lost.
    """
    if verdict.effect is None or not depends_on_pace(verdict.metric) or now is None or was is None:
        return verdict
    tolerance = verdict.tolerance or 0.0
    if min(len(now.launches), len(was.launches)) < 2:
        return verdict
    time, low, high = _longer(now, was)
    surely = low if low > 1 else min(high, 1.0)
    reaches = surely**share
    ratio = verdict.effect.ratio
    at_same_pace = ratio * reaches if verdict.higher_is_better else ratio / reaches
    lost = 1 - at_same_pace if verdict.higher_is_better else at_same_pace - 1
    match verdict.status:
        case Status.REGRESSED if reaches > 1 and lost <= tolerance:
            seen = "which may be all of this loss"
        case Status.INCONCLUSIVE if reaches - 1 > UNDECIDED * tolerance and verdict.final:
            seen = "which may be why this is undecided"
        case Status.UNCHANGED | Status.IMPROVED if reaches < 1 and lost > tolerance:
            seen = "which may hide a loss"
        case _:
            return verdict
    pace = "slower" if surely > 1 else "faster"
    took = f"a fixed piece of work takes another time ({change_within(time, low, high)})"
    reason = f"its cores are {pace} than for the baseline, {seen}: {took}"
    return replace(verdict, status=Status.VOID, reason=reason, way_out=WAY_OUT)


def _longer(now: Sample, was: Sample) -> tuple[float, float, float]:
    """How much longer the piece of work took in these launches, in the mean, between bounds of 95 %.

    What is asked is how fast the cores were then, not how fast they are in general: a pace that drifted was as it was,
    and only what a reading adds is an error. Neighbouring readings tell it (von Neumann, Annals of Mathematical
    Statistics 12, 1941). Where the pace jumps from launch to launch they tell too large a one, and nothing is sure.
    """
    times, before = (logs_of(sample) for sample in (now, was))
    log = fmean(times) - fmean(before)
    error = math.hypot(_error_of_mean(times), _error_of_mean(before))
    return math.exp(log), math.exp(log - error), math.exp(log + error)


def _error_of_mean(logs: list[float]) -> float:
    """Half of the interval of 95 %. Steps share their readings, so that they are worth fewer (von Neumann's variance);
    for the few that there are Student's quantile is taken, to the first term of its expansion.
    """
    steps = [(after - before) ** 2 for before, after in pairwise(logs)]
    freedom = 2 * len(steps) ** 2 / (3 * len(steps) - 1)
    quantile = CERTAINTY * (1 + (CERTAINTY**2 + 1) / (4 * freedom))
    return quantile * math.sqrt(fmean(steps) / 2 / len(logs))


def logs_of(pace: Sample | None) -> list[float]:
    """A launch's pace as one number: the mean of its logarithms; of no launch where it isn't known."""
    return [fmean(map(math.log, rounds)) for rounds in pace.launches] if pace else []
