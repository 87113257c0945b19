"""Looks at a machine while it rests: its CPU, the energy counters of its packages, and its board."""

import os
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from pytest_slmperf.core.devices.board import THREAD_SHARE, BoardRound
from pytest_slmperf.core.devices.edges import judge_trace
from pytest_slmperf.core.errors import MeterUnavailable
from pytest_slmperf.core.fitness.cpu import CpuWatch, packages_line
from pytest_slmperf.core.fitness.diagnosis import Grade, Line
from pytest_slmperf.core.fitness.gpu import BoardWatch
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.meters.boards import mps_daemon_runs
from pytest_slmperf.meters.nvml import NvmlMeter, Pace
from pytest_slmperf.meters.rapl import RaplMeter
from pytest_slmperf.run.blame import blame, command_line, scan, suspects
from pytest_slmperf.run.devices import VISIBLE
from pytest_slmperf.run.guards import TICK_NS
from pytest_slmperf.run.witness import Witness

LONGER_S = 5.0
"""How long a counter is looked at that moved too seldom for its period to be known."""
NAMED = 2
"""Processes, of those that keep the CPU busy: the first ones."""
EVERY_MOVE = Pace(edge_every_s=0.0, sample_every_s=0.2, cpu_share=1.0)
NVIDIA, DISPLAYS = "0x10de", "0x03"
"""On the PCI bus: the vendor's number, and the first byte of the class of what displays or renders."""


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
    others = suspects(at_first, at_last, cores=cores, root=os.getpid())
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


def look_at_board(boards: Sequence[int | str], seconds: float) -> BoardWatch | MeterUnavailable:
    """A look at the board, or why there is none."""
    try:
        return watch_board(NvmlMeter(boards, pace=EVERY_MOVE), seconds)
    except MeterUnavailable as error:
        return error


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
        mps_threads=os.environ.get(THREAD_SHARE, ""),
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
