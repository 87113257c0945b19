"""What a run will take, said before it begins."""

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_slmperf.core import gate
from pytest_slmperf.core.sweep import DEFAULT_TOLERANCE, Case, Sweep
from pytest_slmperf.run.brief import Mode
from pytest_slmperf.run.metering import UPDATE_S
from pytest_slmperf.run.settings import Settings

REPORT_LAUNCHES = 5
"""Launches of a case that has no baseline: enough for a figure with bounds, and so for a stated limit."""
STARTUP_S = 1.0
UNTIMED = 2.0
"""A case takes about twice the time of its timed rounds: warm-up and observed rounds are as long again."""


@dataclass(frozen=True, slots=True)
class Spending:
    """How launches are spent."""

    mode: Mode
    arms: int
    settings: Settings
    max_launches: int
    simulated: bool
    """By an engine whose time costs none."""
    joules: bool = False
    """Whether they are counted, in a round of its own for each case."""

    def launches(self, *, gated: bool) -> tuple[int, int]:
        """The fewest and the most launches of a configuration, in each arm, without a confirmation.

        A gate is taken to have a baseline: without one, a case gets REPORT_LAUNCHES.
        """
        design: gate.Design = "interleaved" if self.arms > 1 else "stored"
        without, beside = (
            first_launches(
                self.mode,
                gate.Policy(tolerance=DEFAULT_TOLERANCE, max_launches=self.max_launches, design=design),
                self.settings.baseline_launches,
                gated=gated,
                stored=stored,
            )
            for stored in (False, True)
        )
        if self.mode == "gate" and gated:
            return beside, self.max_launches
        if self.mode == "accept" and gated:
            return beside, longest_recording(beside)
        return min(without, beside), max(without, beside)


def longest_recording(launches: int) -> int:
    """Launches at most of a case whose noise leaves its tolerance undecided, where a recording takes so many."""
    return round(1.5 * launches)


def first_launches(mode: Mode, policy: gate.Policy, baseline_launches: int, *, gated: bool, stored: bool) -> int:
    """Launches of a case in each arm until the first look, and all of them where no metric is judged.

    `gated` says whether any metric of the sweep is, and `stored` whether the case has a baseline to be compared with.
    """
    if mode != "report" and not gated:  # nothing of it is judged, and nothing is stored
        return REPORT_LAUNCHES
    if mode == "accept":
        return baseline_launches
    return gate.first_launches(policy) if stored or policy.design == "interleaved" else REPORT_LAUNCHES


def lines(sweep: Sweep, cases: Sequence[Case], spending: Spending) -> list[str]:
    """A sweep's cases, launches and time. The time holds where a batch is shorter than a round; a simulated one costs
    none, and isn't said.
    """
    models = len({case.model for case in cases})
    timed_s = spending.settings.rounds * spending.settings.round_s
    energy_s = spending.settings.lead_in_s + spending.settings.window_s + 2 * UPDATE_S if spending.joules else 0.0
    turn_s = spending.arms * (models * STARTUP_S + len(cases) * (UNTIMED * timed_s + energy_s))
    fewest, most = spending.launches(gated=bool(sweep.tolerances))
    span = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    arms = " in each of two arms" if spending.arms > 1 else ""
    took = "" if spending.simulated else f", about {_span(fewest * turn_s, most * turn_s)}"
    return [
        f"slmperf: {sweep.name}: {len(cases)} case{'s' * (len(cases) != 1)}: {', '.join(case.name for case in cases)}",
        f"slmperf: {sweep.name}: {span} launches{arms} of {models} model{'s' * (models != 1)}{took}",
    ]


def _span(least_s: float, most_s: float) -> str:
    return _duration(least_s) if least_s == most_s else f"{_duration(least_s)} to {_duration(most_s)}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
