"""When an engine is warm, and how many batches fill a round. Pure: it sees the batches' times only."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

STEADY_STEPS = 3
STEADY_SPREAD = 0.05
STEADY_TREND = 0.02
STEP_SHARE = 0.05
"""A warm-up step lasts this share of a round at least, or the scheduler's grain would look like the engine's pace."""


def steady(steps_s: Sequence[float]) -> bool:
    """Whether the pace has settled.

    It has when the last three steps' times per batch lie within 5 % of each other, unless each is faster than the one
    before and they still gain more than 2 % together.
    """
    last = steps_s[-STEADY_STEPS:]
    if len(last) < STEADY_STEPS:
        return False
    spread = max(last) / min(last) - 1
    gaining = all(after < before for before, after in pairwise(last))
    return spread <= (STEADY_TREND if gaining else STEADY_SPREAD)


def pace_s(steps_s: Sequence[float]) -> float:
    """A batch's length at the pace of the last steps."""
    return median(steps_s[-STEADY_STEPS:])


def batches_for(steps_s: Sequence[float], wanted_s: float) -> int:
    """How many batches last about `wanted_s` at the pace of the last steps; one at least."""
    return max(1, round(wanted_s / pace_s(steps_s)))
