"""What a run will take, said before it begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_slmperf.core import gate
from pytest_slmperf.core.sweep import DEFAULT_TOLERANCE, Case
from pytest_slmperf.run.settings import Settings

STARTUP_S = 1.0
UNTIMED = 2.0
"""A case takes about twice the time of its timed rounds: warm-up and observed rounds are as long again."""


@dataclass(frozen=True, slots=True)
class Spending:
    """How launches are spent."""

    mode: Literal["gate", "accept", "report"]
    arms: int
    settings: Settings
    max_launches: int
    simulated: bool
    """By an engine whose time costs none."""

    @property
    def launches(self) -> tuple[int, int]:
        """The fewest and the most launches of a configuration, in each arm, without a confirmation."""
        if self.mode == "accept":
            return self.settings.baseline_launches, self.settings.baseline_launches
        design: gate.Design = "interleaved" if self.arms > 1 else "stored"
        policy = gate.Policy(tolerance=DEFAULT_TOLERANCE, max_launches=self.max_launches, design=design)
        return gate.first_launches(policy), self.max_launches


def lines(sweep: str, cases: Sequence[Case], spending: Spending) -> list[str]:
    """A sweep's cases, launches and time. The time holds where a batch is shorter than a round; a simulated one costs
    none, and isn't said.
    """
    models = len({case.model for case in cases})
    timed_s = spending.settings.rounds * spending.settings.round_s
    turn_s = spending.arms * (models * STARTUP_S + len(cases) * UNTIMED * timed_s)
    fewest, most = spending.launches
    span = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    arms = " in each of two arms" if spending.arms > 1 else ""
    took = "" if spending.simulated else f", about {_span(fewest * turn_s, most * turn_s)}"
    return [
        f"slmperf: {sweep}: {len(cases)} case{'s' * (len(cases) != 1)}: {', '.join(case.name for case in cases)}",
        f"slmperf: {sweep}: {span} launches{arms} of {models} model{'s' * (models != 1)}{took}",
    ]


def _span(least_s: float, most_s: float) -> str:
    return _duration(least_s) if least_s == most_s else f"{_duration(least_s)} to {_duration(most_s)}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
