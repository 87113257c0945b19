"""What a run will take, said before it begins."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_slmperf.core import gate, roofline
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.launch import RoundPolicy
from pytest_slmperf.core.machine import SIMULATED
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.core.sweep import DEFAULT_TOLERANCE, Case, Sweep
from pytest_slmperf.engines.lengths import draw_lengths
from pytest_slmperf.run.brief import Mode
from pytest_slmperf.run.metering import UPDATE_S
from pytest_slmperf.run.progress import duration
from pytest_slmperf.run.settings import Settings
from pytest_slmperf.worker.pace import STEADY_STEPS, STEP_SHARE

REPORT_LAUNCHES = 5
"""Launches of a case that has no baseline: enough for a figure with bounds, and so for a stated limit."""
STARTUP_S = 0.5
"""Of an engine whose model weighs nothing."""
COLD_STEPS = 1
"""Of a warm-up, before its pace is steady."""


@dataclass(frozen=True, slots=True)
class Spending:
    """How launches are spent."""

    mode: Mode
    arms: int
    settings: Settings
    max_launches: int
    engine: str
    device: Literal["cpu", "cuda", "simulated"]
    """That it runs on; simulated time costs none."""
    joules: bool = False
    """Whether they are counted, in a round of its own for each case."""

    @property
    def rates(self) -> roofline.Rates:
        """Of the device."""
        return roofline.ANY_GPU if self.device == "cuda" else roofline.CPU_THREAD.of_threads(self.settings.threads)

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


def lines(sweep: Sweep, cases: Sequence[Case], spending: Spending, policy: RoundPolicy) -> list[str]:
    """A sweep's cases, launches and time: `about` so long where that is known within a factor of two or so, and
    `at least` so long where it isn't, as of a model that is none of the table. What is simulated takes none.
    """
    models = len({case.model for case in cases})
    fewest, most = spending.launches(gated=bool(sweep.tolerances))
    span = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    arms = " in each of two arms" if spending.arms > 1 else ""
    time = _time(sweep, cases, spending, policy)
    return [
        f"slmperf: {sweep.name}: {len(cases)} case{'s' * (len(cases) != 1)}: {', '.join(case.name for case in cases)}",
        f"slmperf: {sweep.name}: {span} launches{arms} of {models} model{'s' * (models != 1)}{time}",
    ]


def _time(sweep: Sweep, cases: Sequence[Case], spending: Spending, policy: RoundPolicy) -> str:
    if spending.device == SIMULATED:
        return ""
    batches = {case: _batch_s(sweep, case, spending) for case in cases}
    starts_s = sum(_start_s(model, spending) for model in {case.model for case in cases})
    cases_s = sum(sum(parts_s(batch_s or 0.0, case, spending, policy).values()) for case, batch_s in batches.items())
    # One start more, to prime; on a GPU each batch is served there.
    primes_s = starts_s + (sum(batch_s or 0.0 for batch_s in batches.values()) if spending.device == "cuda" else 0.0)
    fewest, most = (
        duration(spending.arms * (primes_s + launches * (starts_s + cases_s)))
        for launches in spending.launches(gated=bool(sweep.tolerances))
    )
    if None in batches.values() or (spending.engine, spending.device) != ("ctranslate2", "cpu"):
        return f", at least {fewest}"
    return f", about {fewest}" if fewest == most else f", about {fewest} to {most}"


def _batch_s(sweep: Sweep, case: Case, spending: Spending) -> float | None:
    """Seconds that a batch takes; None where nothing is known of the model, the type or the requests."""
    shape = SHAPES.get(case.model)
    if shape is None:
        return None
    try:
        lengths, _ = draw_lengths(sweep.workload, case.batch_size, shape.context)
        return roofline.batch_s(shape, spending.settings.dtype, lengths, spending.rates)
    except SuiteError:
        return None


def _start_s(model: str, spending: Spending) -> float:
    shape = SHAPES.get(model)
    try:
        return STARTUP_S + (roofline.load_s(shape, spending.settings.dtype, spending.rates) if shape else 0.0)
    except SuiteError:
        return STARTUP_S


def parts_s(batch_s: float, case: Case, spending: Spending, policy: RoundPolicy) -> dict[str, float]:
    """Seconds that a launch spends on each part of a case: a batch for its peak of memory, warm-up, timed and observed
    rounds, and joules. Whatever is to last for some time lasts for a batch at least.
    """
    settings = spending.settings
    return {
        "peak": batch_s,
        "warm-up": (COLD_STEPS + STEADY_STEPS) * max(batch_s, STEP_SHARE * policy.round_s),
        "timed": policy.rounds * max(batch_s, policy.round_s),
        "observed": max(policy.observed_s, batch_s * math.ceil(policy.observed_requests / case.batch_size)),
        "lead-in": max(settings.lead_in_s, batch_s) if spending.joules else 0.0,
        "window": max(settings.window_s + 2 * UPDATE_S, batch_s) if spending.joules else 0.0,
    }
