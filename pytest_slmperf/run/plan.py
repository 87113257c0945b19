"""What a run will take, said before it begins."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pytest_slmperf.core import gate, roofline
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.launch import RoundPolicy
from pytest_slmperf.core.machine import SIMULATED
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.core.sweeps.sweep import DEFAULT_TOLERANCE, Case, Sweep
from pytest_slmperf.core.sweeps.workload import COUNTED, OpenLoop, Replay, StaticBatch, Workload
from pytest_slmperf.engines.lengths import draw_lengths, read_arrivals, recorded
from pytest_slmperf.run.brief import Mode
from pytest_slmperf.run.fitting import lacking, static_only, too_many_threads
from pytest_slmperf.run.metering import UPDATE_S
from pytest_slmperf.run.playing import SENT_TIMES
from pytest_slmperf.run.progress import duration
from pytest_slmperf.run.settings import Settings
from pytest_slmperf.worker.pace import STEADY_STEPS, STEP_SHARE

REPORT_LAUNCHES = 5
"""Launches of a case that has no baseline: enough for a figure with bounds, and so for a stated limit."""
STARTUP_S = 0.5
"""Of an engine whose model weighs nothing."""
COLD_STEPS = 1
"""Of a warm-up, before its pace is steady."""
TOO_LARGE = "too large"
"""Of a case that this machine has too little memory for, in two words: in whole, each case has another reason."""
LEAST_PROBES = 2
"""Of a search: one place that meets, and one that misses."""
UNNAMED = "(its fixture's model)"
"""The model of a sweep that names none."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a launch takes, and how many are made."""

    mode: Mode
    arms: int
    settings: Settings
    max_launches: int
    device: Literal["cpu", "cuda", "remote", "simulated"]
    """That engines run on; simulated time costs none."""
    cores: int | None = None
    """That this process may use; None where time is simulated."""

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


@dataclass(frozen=True, slots=True)
class Planned:
    """A sweep as a run will measure it."""

    sweep: Sweep
    """As it is on this machine."""
    cases: Mapping[Case, EngineSpec | None]
    """Those that some test looks at, each with its engine; None where only a fixture names that."""
    policy: RoundPolicy
    joules: bool = False
    """Whether they are counted, in a round of its own for each case."""
    nothing_left: str = ""
    """Why none of it is measured; empty where something is."""


def lines(planned: Planned, cost: Cost, misfit: Callable[[Sweep, Case, EngineSpec], str | None]) -> list[str]:
    """A sweep's cases, launches and time: `about` so long where that is known within a factor of two or so, and
    `at least` so long where it isn't, as of a model that is none of the table. What is simulated takes none, nor what
    is skipped, as cases that are too large for the machine, or not for their engine: see `misfit`.
    """
    name = planned.sweep.name
    if planned.nothing_left:
        return [f"slmperf: {name}: skipped: {planned.nothing_left}"]
    unfit: dict[Case, str] = {}
    for case, spec in planned.cases.items():
        if spec and misfit(planned.sweep, case, spec):
            why = lacking(case, spec) or static_only(planned.sweep.workload, spec)
            unfit[case] = why or too_many_threads(case, spec, cores=cost.cores) or TOO_LARGE
    said = [
        f"slmperf: {name}: skipped, {why}: {', '.join(case.name for case, its in unfit.items() if its == why)}"
        for why in dict.fromkeys(unfit.values())
    ]
    cases = {case: spec for case, spec in planned.cases.items() if case not in unfit}
    if not cases:
        return said
    models = len({case.series for case in cases})
    of = "variant" if planned.sweep.varied else "model"
    fewest, most = cost.launches(gated=bool(planned.sweep.tolerances))
    span = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    arms = " in each of two arms" if cost.arms > 1 else ""
    time = _time(replace(planned, cases=cases), cost)
    return [
        *said,
        f"slmperf: {name}: {len(cases)} case{'s' * (len(cases) != 1)}: {', '.join(case.name for case in cases)}",
        f"slmperf: {name}: {span} launches{arms} of {models} {of}{'s' * (models != 1)}{time}",
    ]


def _time(planned: Planned, cost: Cost) -> str:
    if cost.device == SIMULATED:
        return ""
    cases = planned.cases
    batches = {case: _batch_s(planned.sweep, case, spec, cost) for case, spec in cases.items()}
    gated = planned.joules and bool(planned.sweep.metered)
    starts_s = sum(_start_s(spec, cost) for spec in {case.series: spec for case, spec in cases.items()}.values())
    parts = (
        traffic_parts_s(batch_s or 0.0, planned.sweep.workload, case, planned.policy)
        if not isinstance(planned.sweep.workload, StaticBatch)
        else parts_s(batch_s or 0.0, case, planned.policy, cost.settings, joules=planned.joules, gated=gated)
        for case, batch_s in batches.items()
    )
    probes = LEAST_PROBES if planned.sweep.search else 1
    cases_s = probes * sum(sum(one.values()) for one in parts)
    # One start more, to prime; on a GPU each batch is served there.
    primes_s = starts_s + (sum(batch_s or 0.0 for batch_s in batches.values()) if cost.device == "cuda" else 0.0)
    fewest, most = (
        duration(cost.arms * (primes_s + launches * (starts_s + cases_s)))
        for launches in cost.launches(gated=bool(planned.sweep.tolerances))
    )
    known = cost.device == "cpu" and all(spec and spec.engine == "ctranslate2" for spec in cases.values())
    if None in batches.values() or not known:
        return f", at least {fewest}"
    return f", about {fewest}" if fewest == most else f", about {fewest} to {most}"


def _batch_s(sweep: Sweep, case: Case, spec: EngineSpec | None, cost: Cost) -> float | None:
    """Seconds that a batch takes; None where nothing is known of the model, the type or the requests.

    Of requests that arrive, so many as a closed loop has under way; of others one.
    """
    shape = SHAPES.get(spec.model) if spec else None
    if spec is None or shape is None:
        return None
    try:
        if isinstance(sweep.workload, Replay):
            lengths = recorded(sweep.workload, shape.context)[1][:1]
        else:
            each = math.ceil(case.total / (spec.pool.replicas if spec.pool else 1))
            lengths, _ = draw_lengths(sweep.workload, each if case.axis in COUNTED else 1, shape.context)
        return roofline.batch_s(shape, spec.dtype, lengths, _rates(spec, cost))
    except SuiteError:
        return None


def _start_s(spec: EngineSpec | None, cost: Cost) -> float:
    """Of each replica, and of each model beside it: one after the other."""
    if spec is None:
        return STARTUP_S
    replicas = spec.pool.replicas if spec.pool else 1
    models = [(spec.model, spec.dtype)] * replicas + [(one.model, one.dtype or spec.dtype) for one in spec.beside]
    return sum(STARTUP_S + _load_s(model, dtype, _rates(spec, cost)) for model, dtype in models)


def _load_s(model: str, dtype: str, rates: roofline.Rates) -> float:
    try:
        return roofline.load_s(SHAPES[model], dtype, rates) if model in SHAPES else 0.0
    except SuiteError:  # a type that only the engine knows
        return 0.0


def _rates(spec: EngineSpec, cost: Cost) -> roofline.Rates:
    return roofline.ANY_GPU if cost.device == "cuda" else roofline.CPU_THREAD.of_threads(spec.threads)


def parts_s(
    batch_s: float, case: Case, policy: RoundPolicy, settings: Settings, *, joules: bool, gated: bool = False
) -> dict[str, float]:
    """Seconds that a launch spends on each part of a case: a batch for its peak of memory, warm-up, timed and observed
    rounds, and joules. Whatever is to last for some time lasts for a batch at least. Where joules are `gated`, their
    window is timed, and no other round. What ran before it is of its lead-in.
    """
    before = {
        "warm-up": (COLD_STEPS + STEADY_STEPS) * max(batch_s, STEP_SHARE * policy.round_s),
        "timed": 0.0 if gated else policy.rounds * max(batch_s, policy.round_s),
        "observed": max(policy.observed_s, batch_s * math.ceil(policy.observed_requests / case.total)),
    }
    lead_in_s = settings.lead_in_s - sum(before.values())
    return {
        "peak": batch_s,
        **before,
        "lead-in": max(lead_in_s, batch_s) if joules and lead_in_s > 0 else 0.0,
        "window": max(settings.window_s + 2 * UPDATE_S, batch_s) if joules else 0.0,
    }


def traffic_parts_s(batch_s: float, workload: Workload, case: Case, policy: RoundPolicy) -> dict[str, float]:
    """Seconds that a launch spends on requests that arrive one by one: on the peak of memory, until they are steady,
    on the window and until the last is answered. Joules are counted over the same window.
    """
    if isinstance(workload, Replay):
        try:
            rows = read_arrivals(workload.trace)
        except SuiteError:  # the test that measures it is red for the same
            rows = ()
        trace_s = rows[-1][0] if rows else 0.0
        ramp_s, window_s = 0.0, min(trace_s, workload.seconds or trace_s) / case.total
    elif isinstance(workload, OpenLoop):
        window_s = max(policy.traffic_s, policy.observed_requests / case.total)
        ramp_s = workload.ramp_s + window_s
    else:
        ramp_s = 2 * batch_s
        window_s = max(policy.traffic_s, batch_s * math.ceil(SENT_TIMES * policy.observed_requests / case.at))
    return {"peak": batch_s, "ramp": ramp_s, "window": window_s, "drain": batch_s}
