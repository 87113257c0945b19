"""How far launches of an engine spread on a machine, and what its meter says while they work."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_slmperf.core.baselines.recordable import LEAST_LAUNCHES
from pytest_slmperf.core.devices.edges import EnergyTrace
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import DeviceBusy, EngineHung, LaunchError, UsageError
from pytest_slmperf.core.fitness.diagnosis import Grade, Line, noise_line
from pytest_slmperf.core.launch import CaseRecord, LaunchRecord, Load, RoundPolicy
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.shapes import SHAPES, parameters
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.run import pace
from pytest_slmperf.run.devices import HeldDevices, device_of
from pytest_slmperf.run.launch import run_launch
from pytest_slmperf.run.launch.terms import EnergyTerms
from pytest_slmperf.run.metering import Metering
from pytest_slmperf.run.settings import Settings

if TYPE_CHECKING:
    from pytest_slmperf.core.meter import Recording

BYTES_PER_GB = 1e9
ANSWER_S = 30.0
"""How long an engine may leave a question unanswered, beside what its weights take."""
ANSWER_S_PER_GB = 100.0
"""Of weights in float32, on top: ten batches of a warm-up, the longest answer, were seen to take as long on one thread
of a busy machine."""
CASE = "doctor"
LENGTHS = ((32, 32),)
"""Of the load whose noise is measured: prompt and output tokens of its one request."""
MEASURED = ("output_throughput", "joules_per_output_token")
"""What is asked of each launch; the second where a meter reads what the engine runs on."""


@dataclass(frozen=True)
class Wanted:
    """What is to be looked at."""

    spec: EngineSpec
    """What is launched; its threads are those that the cores must do for."""
    default: str | None
    """The engine that runs take by default; None where there is none that does the work it is timed for."""
    settings: Settings
    baselines: Path
    noise_s: float
    """How long engines are launched, at most; 0 leaves the noise out."""
    answer_s: float = ANSWER_S
    """How long an engine may leave a question unanswered, beside what its weights take."""


@dataclass(frozen=True)
class Noise:
    """What launches of an engine told."""

    lines: tuple[Line, ...] = ()
    loaded: tuple[EnergyTrace, ...] = ()
    """What the meter saw while they worked, once their load was steady."""


def measure_noise(wanted: Wanted, metering: Metering | None, held: HeldDevices) -> Noise:
    """Launch an engine again and again, as a run does, and say how far its launches spread.

    `metering` counts joules meanwhile; `held` holds the engine's device, and is closed at the end.
    """
    settings, spec, what = wanted.settings, wanted.spec, named(wanted.spec)
    recordings: list[Recording] = []
    if metering:
        metering.heard = recordings.append
    try:
        with closing(held):
            held.hold([device_of(spec.engine, spec.options, spec.pool)])
            began = time.monotonic()
            records = [record.cases[CASE] for record in _launches(wanted, held.cores(spec), metering)]
            lines = noise_lines(records, what, time.monotonic() - began, settings.max_launches)
    except DeviceBusy as error:
        return Noise((Line("noise", Grade.WARNING, f"not measured: {error}", "look again when it has ended"),))
    except EngineHung as error:
        return Noise((_hung(wanted, error),))
    except (LaunchError, UsageError) as error:
        return Noise((Line("noise", Grade.BLOCKS, f"{what}: {error}"),))
    traces = [trace for recording in recordings for trace in recording.traces]
    return Noise(tuple(lines), tuple(_steady(trace, settings.lead_in_s) for trace in traces))


def _launches(wanted: Wanted, cores: tuple[int, ...] | None, metering: Metering | None) -> Iterator[LaunchRecord]:
    """As many as end in time, one at least and no more than a recording has, after a throw-away launch that makes the
    weights, and compiles what is compiled.
    """
    settings = wanted.settings
    policy = RoundPolicy(
        rounds=settings.rounds,
        round_s=settings.round_s,
        observed_requests=0,
        void_retries=settings.void_retries,
        answer_limit_s=answer_limit_s(wanted),
    )
    energy = EnergyTerms(metering, gated=False) if metering else None
    cores_pace = pace.Pace()
    load = Load(CASE, LENGTHS, seed=1)
    until, longest_s = time.monotonic() + wanted.noise_s, 0.0
    for index in range(LEAST_LAUNCHES + 1):
        began = time.monotonic()
        if index > 1 and began + longest_s > until:
            return
        record = run_launch(
            wanted.spec,
            (load,) if index else (),
            policy,
            arm="candidate",
            index=index,
            cores=cores,
            quantiles=(),
            energy=energy,
            pace=cores_pace,
            prime=lambda facts: () if index or not facts.compiles else (load,),  # noqa: B023 - it is called at once
        )
        if index:
            longest_s = max(longest_s, time.monotonic() - began)
            yield record


def answer_limit_s(wanted: Wanted) -> float:
    """How long an engine may leave a question unanswered: no longer than a run allows it."""
    return min(wanted.settings.answer_limit_s, wanted.answer_s + _allowance_s(wanted))


def _allowance_s(wanted: Wanted) -> int:
    return math.ceil(ANSWER_S_PER_GB * weights_bytes(wanted.spec.model) / BYTES_PER_GB)


def weights_bytes(model: str) -> int:
    """What a model's weights take in float32, or its folder's files; 0 where neither is known."""
    if model in SHAPES:
        return 4 * parameters(SHAPES[model])
    try:
        return sum(file.stat().st_size for file in Path(model).expanduser().iterdir() if file.is_file())
    except (OSError, RuntimeError):  # no folder, or nobody's home
        return 0


def _hung(wanted: Wanted, error: EngineHung) -> Line:
    """An engine that gave no answer, and how long it was waited for."""
    if wanted.settings.answer_limit_s < wanted.answer_s + _allowance_s(wanted):
        longer = "if it is only slow, raise answer_limit_s in [tool.slmperf]"
        return Line("noise", Grade.BLOCKS, f"{named(wanted.spec)}: {error}", longer)
    allowed = f"it was given {wanted.answer_s:g} s, and {_allowance_s(wanted):.0f} s for its weights"
    longer = f"if it is only slow, wait longer: --seconds={4 * wanted.answer_s:g}"
    return Line("noise", Grade.BLOCKS, f"{named(wanted.spec)}: {error}", f"{longer}; {allowed}")


def noise_lines(records: Sequence[CaseRecord], what: str, seconds: float, max_launches: int) -> Iterator[Line]:
    """What launches of `what`, which took so many seconds, say of this machine's noise."""
    voids = [record.void for record in records if record.void]
    if voids:
        grade = Grade.BLOCKS if len(voids) > len(records) / 2 else Grade.WARNING
        said = f"{len(voids)} of {len(records)} launches of {what} were void: {voids[-1]}"
        yield Line("rounds", grade, said, "end what disturbs them", {"void": len(voids), "launches": len(records)})
    for name in MEASURED:
        values = [record.values[name] for record in records if name in record.values]
        if values or (name == MEASURED[0] and not voids):
            yield noise_line(metric(name), values, seconds, what, max_launches)


def _steady(trace: EnergyTrace, lead_in_s: float) -> EnergyTrace:
    """Without what came before the load was steady, and without the move after its end."""
    from_ns = trace.edges[0].at_ns + lead_in_s * NS_PER_S if trace.edges else 0.0
    return replace(trace, edges=tuple(edge for edge in trace.edges if edge.at_ns >= from_ns)[:-1])


def named(spec: EngineSpec) -> str:
    """Engine and model."""
    return f"{spec.engine} {spec.model_name}"
