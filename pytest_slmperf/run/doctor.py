"""Gathers what a diagnosis of this machine needs: looks at it while it rests, then launches an engine a few times."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

from pytest_slmperf.core.board import BoardRound, BoardState
from pytest_slmperf.core.board_fitness import BoardWatch, board_lines, no_board
from pytest_slmperf.core.cpu_fitness import CpuWatch, cpu_lines, packages_line
from pytest_slmperf.core.diagnosis import Diagnosis, Grade, Line, baselines_line, engines_line, noise_line
from pytest_slmperf.core.edges import EnergyTrace, judge_trace
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import (
    BaselineError,
    DeviceBusy,
    EngineHung,
    EngineUnavailable,
    LaunchError,
    MeterUnavailable,
    UsageError,
)
from pytest_slmperf.core.launch import CaseRecord, LaunchRecord, Load, RoundPolicy
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.meter import Meter, MeterFacts, Recording
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.recordable import LEAST_LAUNCHES
from pytest_slmperf.core.shapes import SHAPES, parameters
from pytest_slmperf.engines import registry
from pytest_slmperf.meters.boards import mps_daemon_runs
from pytest_slmperf.meters.nvml import NvmlMeter, Pace
from pytest_slmperf.meters.rapl import RaplMeter
from pytest_slmperf.run import fingerprint, pace
from pytest_slmperf.run.devices import HOST, VISIBLE, HeldDevices, boards_at, device_of, machine_of
from pytest_slmperf.run.guards import TICK_NS, Witness, blame, command_line, scan, suspects
from pytest_slmperf.run.launch import EnergyTerms, run_launch
from pytest_slmperf.run.metering import Metering, pace_for
from pytest_slmperf.run.settings import Settings
from pytest_slmperf.run.store import BaselineStore

NS_PER_S = 1e9
BYTES_PER_GB = 1e9
GPU = "cuda"
CPU_S, PACKAGES_S, BOARD_S = 1.0, 0.5, 1.5
"""How long the CPU is looked at, then its energy counters, and then the board."""
LONGER_S = 5.0
"""How long a counter is looked at that moved too seldom for its period to be known."""
NAMED = 2
"""Processes, of those that keep the CPU busy: the first ones."""
EVERY_MOVE = Pace(edge_every_s=0.0, sample_every_s=0.2, cpu_share=1.0)
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
NVIDIA, DISPLAYS = "0x10de", "0x03"
"""On the PCI bus: the vendor's number, and the first byte of the class of what displays or renders."""


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


def diagnose(wanted: Wanted, say: Callable[[str], object]) -> Diagnosis:
    """Look at this machine. `say` is told what takes its time."""
    here, settings, spec = fingerprint.probe(), wanted.settings, wanted.spec
    device = device_of(spec.engine, spec.options)
    try:
        machine = machine_of(device)
    except (EngineUnavailable, UsageError):  # the line of its board says why
        machine = here
    say("looking at this machine while it rests, for a few seconds")
    lines = [*cpu_lines(here, watch_cpu(CPU_S), spec.threads), look_at_packages(PACKAGES_S, settings.window_s)]
    # Beside an engine on the CPU, the first board that CUDA may see.
    boards, noise = boards_at(device.index), Noise()
    watch, missing = look_at_board(boards, BOARD_S) if boards else (None, "")
    if wanted.noise_s:
        say(f"launching {_named(spec)} again and again for {wanted.noise_s:g} s")
        held = HeldDevices(wait_s=min(settings.lock_wait_s, wanted.noise_s), say=say)
        noise = measure_noise(wanted, boards if watch and device.kind != HOST else (), held)
    if watch:
        loaded = replace(watch, loaded=noise.loaded)
        lines += board_lines(loaded, window_s=settings.window_s, seen_s=settings.sensor_seen_s)
    elif boards:
        needed, absent = device.kind == GPU, nothing_installed(missing)
        lines.append(no_board(missing, needed=needed, absent=absent, plugged_in=board_is_plugged_in()))
    else:
        lines.append(hidden_board(device.index, os.environ[VISIBLE], needed=device.kind == GPU))
    stored = stored_line(wanted.baselines, machine, spec.engine)
    return Diagnosis(machine, (*lines, *noise.lines, found_engines(wanted.default), stored))


# -- at rest


def watch_cpu(seconds: float) -> CpuWatch:
    """Sleep for so long, and say what the cores that this process may use did meanwhile."""
    cores = os.sched_getaffinity(0)
    witness = Witness(os.getpid(), cores)
    at_first, before = scan(), witness.read()
    time.sleep(seconds)
    after, at_last = witness.read(), scan()
    wall_ns = after.monotonic_ns - before.monotonic_ns
    used = [after.busy_ticks[core] - before.busy_ticks.get(core, 0) for core in cores if core in after.busy_ticks]
    stolen = [after.steal_ticks[core] - before.steal_ticks.get(core, 0) for core in cores if core in after.steal_ticks]
    from_boot = [after.steal_ticks[core] * TICK_NS / after.boot_ns for core in cores if core in after.steal_ticks]
    others = suspects(at_first, at_last, cores=cores, group=os.getpgrp())
    return CpuWatch(
        seconds=wall_ns / NS_PER_S,
        allowed=len(cores),
        present=os.cpu_count(),
        busy=min(1.0, sum(used) * TICK_NS / wall_ns / len(used)) if used else None,
        who=blame(others[:NAMED], command_line),
        # A tick that is counted may have been stolen before the watch for the most part.
        stolen=max(0, max(stolen) - 1) * TICK_NS / wall_ns if stolen else None,
        stolen_from_boot=max(from_boot, default=None),
        throttled=sum(after.throttles.values()) - sum(before.throttles.values()) if after.throttles else None,
        throttled_from_boot=sum(after.throttles.values()) if after.throttles else None,
        blind_to=witness.blind_to,
    )


def look_at_packages(seconds: float, window_s: float, *, root: Path = Path("/")) -> Line:
    """What the energy counters of the CPU's packages do in so many seconds, and what that is worth."""
    meter = RaplMeter(root=root)
    try:
        meter.open()
    except MeterUnavailable as error:
        return packages_line((), str(error), window_s)
    with closing(meter):
        meter.start()
        time.sleep(seconds)
        return packages_line(meter.stop().traces, "", window_s)


def look_at_board(boards: Sequence[int | str], seconds: float) -> tuple[BoardWatch | None, str]:
    """A look at the board, or None and why there is none."""
    try:
        return watch_board(NvmlMeter(boards, pace=EVERY_MOVE), seconds), ""
    except MeterUnavailable as error:
        return None, str(error)


def hidden_board(index: int, visible: str, *, needed: bool) -> Line:
    """What is said where a variable of this value shows no GPU of this number. `needed`: the engine is to run on it."""
    said = f'{VISIBLE}="{visible}" {f"shows no GPU {index}" if index else "hides every GPU"}'
    if needed:
        return Line("gpu", Grade.BLOCKS, said, f"unset it, or name the GPU's number in it: {VISIBLE}=0")
    return Line("gpu", Grade.NOT_SEEN, f"{said}; a CPU's throughput can be gated without")


def watch_board(meter: NvmlMeter, seconds: float) -> BoardWatch:
    """Look at the first board of a meter for so long, while nothing of ours runs. Raises MeterUnavailable."""
    facts = meter.open()
    with closing(meter):
        before = meter.states()
        recording = meter.watch(seconds)
        if any(trace.source == "counter" and not (trace.period_s or judge_trace(trace)) for trace in recording.traces):
            recording = meter.watch(max(seconds, LONGER_S))
        after = meter.states()
    board = facts.boards[0]
    return BoardWatch(
        round=BoardRound(before[board], before[board], after[board], tuple(recording.samples.get(board, ()))),
        trace=next((trace for trace in recording.traces if trace.board == board), None),
        missing=facts.missing.get(board, ""),
        driver=facts.versions.get("driver", ""),
        simulated=facts.simulated,
        mps_here=mps_daemon_runs(),
    )


def board_is_plugged_in(root: Path = Path("/")) -> bool:
    """Whether an NVIDIA GPU is on the PCI bus, whatever its driver says."""
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == NVIDIA and kind.startswith(DISPLAYS):
            return True
    return False


def nothing_installed(missing: str) -> bool:
    """Whether nothing is installed that could read a board: then nothing is broken."""
    return any(word in missing for word in ("LIBRARY_NOT_FOUND", "pip install"))


# -- at work


@dataclass(frozen=True)
class Noise:
    """What launches of an engine told."""

    lines: tuple[Line, ...] = ()
    loaded: tuple[EnergyTrace, ...] = ()
    """The board's counter while they worked on it, once their load was steady."""


class _Kept:
    """A meter that remembers what it recorded. See `core.meter.Meter`."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.recordings: list[Recording] = []

    def open(self) -> MeterFacts:
        return self._meter.open()

    def states(self) -> Mapping[str, BoardState]:
        return self._meter.states()

    def start(self) -> None:
        self._meter.start()

    def stop(self) -> Recording:
        self.recordings.append(self._meter.stop())
        return self.recordings[-1]

    def close(self) -> None:
        self._meter.close()


def measure_noise(wanted: Wanted, boards: Sequence[int | str], held: HeldDevices) -> Noise:
    """Launch an engine again and again, as a run does, and say how far its launches spread.

    `boards` are those whose joules are counted meanwhile; `held` holds the engine's device, and is closed at the end.
    """
    settings, spec, what = wanted.settings, wanted.spec, _named(wanted.spec)
    meter = None
    if boards:
        meter = _Kept(NvmlMeter(boards, pace=pace_for(settings.window_s), seen_s=settings.sensor_seen_s))
    try:
        with closing(held), ExitStack() as opened:
            held.hold([device_of(spec.engine, spec.options)])
            window_s, lead_in_s = settings.window_s, settings.lead_in_s
            metering = Metering(meter, window_s=window_s, lead_in_s=lead_in_s) if meter else None
            if metering:
                opened.callback(metering.close)
            began = time.monotonic()
            records = [record.cases[CASE] for record in _launches(wanted, held.cores(spec), metering)]
            lines = noise_lines(records, what, time.monotonic() - began, settings.max_launches)
    except DeviceBusy as error:
        return Noise((Line("noise", Grade.WARNING, f"not measured: {error}", "look again when it has ended"),))
    except EngineHung as error:
        return Noise((_hung(wanted, error),))
    except (LaunchError, UsageError) as error:
        return Noise((Line("noise", Grade.BLOCKS, f"{what}: {error}"),))
    traces = [trace for recording in (meter.recordings if meter else ()) for trace in recording.traces]
    return Noise(tuple(lines), tuple(_steady(trace, settings.lead_in_s) for trace in traces))


def _launches(wanted: Wanted, cores: tuple[int, ...] | None, metering: Metering | None) -> Iterator[LaunchRecord]:
    """As many as end in time, one at least and no more than a recording has, after a throw-away launch that makes the
    weights.
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
    until, longest_s = time.monotonic() + wanted.noise_s, 0.0
    for index in range(LEAST_LAUNCHES + 1):
        began = time.monotonic()
        if index > 1 and began + longest_s > until:
            return
        loads = (Load(CASE, LENGTHS, seed=1),) if index else ()
        record = run_launch(
            wanted.spec,
            loads,
            policy,
            arm="candidate",
            index=index,
            cores=cores,
            quantiles=(),
            energy=energy,
            pace=cores_pace,
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
        return Line("noise", Grade.BLOCKS, f"{_named(wanted.spec)}: {error}", longer)
    allowed = f"it was given {wanted.answer_s:g} s, and {_allowance_s(wanted):.0f} s for its weights"
    longer = f"if it is only slow, wait longer: --seconds={4 * wanted.answer_s:g}"
    return Line("noise", Grade.BLOCKS, f"{_named(wanted.spec)}: {error}", f"{longer}; {allowed}")


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


# -- what is installed and stored


def found_engines(default: str | None) -> Line:
    """The engines of this interpreter, with the versions of their packages."""
    engines = registry.available()
    installed = {one.name: _engine_version(one.name) for one in engines if one.usable}
    return engines_line(installed, {one.name: one.missing for one in engines if one.missing}, default)


def _engine_version(name: str) -> str:
    """The versions of what an engine needs, or of the package that registers it; empty where they can't be had."""
    if name in registry.BUILT_IN:
        needs = registry.BUILT_IN[name].needs
        return ", ".join(filter(None, (_version(need, alone=len(needs) == 1) for need in needs)))
    points = entry_points(group=registry.ENTRY_POINTS, name=name)
    return next((point.dist.version for point in points if point.dist), "")


def _version(package: str, *, alone: bool) -> str:
    try:
        found = version(package)
    except PackageNotFoundError:
        return ""
    return found if alone else f"{package} {found}"


def stored_line(folder: Path, machine: Machine, engine: str) -> Line:
    """What is stored that this machine and engine can be compared with."""
    try:
        files = [stored.file for stored in BaselineStore(folder).files()]
    except BaselineError as error:
        return Line("baselines", Grade.BLOCKS, str(error))
    return baselines_line(str(folder), files, machine, engine)


def _named(spec: EngineSpec) -> str:
    return f"{spec.engine} {spec.model_name}"
