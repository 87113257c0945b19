"""What is said of a GPU where performance and joules are to be gated on it."""

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TypeAlias

from pytest_slmperf.core.devices.board import (
    ECC,
    SLOWDOWNS,
    THREAD_SHARE,
    BoardRound,
    BoardState,
    Effect,
    Finding,
    mps_serves,
    on_thread_share,
)
from pytest_slmperf.core.devices.edges import EnergyTrace, judge_trace
from pytest_slmperf.core.energy.window import COVERAGE_FACTOR, INTEGRATED_FLOOR, LEAST_UPDATES, SAMPLED_FLOOR
from pytest_slmperf.core.fitness.diagnosis import Grade, Line
from pytest_slmperf.core.guards.board import judge_board
from pytest_slmperf.core.machine import Scalar
from pytest_slmperf.core.units import NS_PER_S

Values: TypeAlias = dict[str, Scalar]

INSTALL = "install its driver, and pip install 'pytest-slmperf[nvml]'"
REFUSED = "NO_PERMISSION"
"""NVML's name of it, which the meter's reasons carry."""
UPDATES = 10
"""Of a counter, that a window should hold: its ends are then chosen where little work is cut in two."""
METER_ERROR = 0.01
"""Of one window, at 95 %: half of how far launches spread on a quiet machine. More of it, and the meter decides."""
LONGEST_WINDOW_S = 60.0
"""A longer one in each launch is worse than more launches."""
PART_SEEN = 0.25
"""Of each period, what a sensor that works part time sees: 25 ms of 100 on A100 and H100 (arXiv 2312.02741)."""
LEAST_MOVES = 7
"""From which something is said of how powers scatter from one to the next."""


@dataclass(frozen=True, slots=True)
class BoardWatch:
    """A board that was looked at for a moment."""

    round: BoardRound
    trace: EnergyTrace | None
    """None where it has no joules; `missing` has the reason."""
    missing: str
    driver: str
    simulated: bool
    mps_here: bool
    """Whether the daemon of MPS runs whose clients our engines would be."""
    mps_threads: str = ""
    """The share of its threads that MPS is told to leave each client, where somebody has set one."""
    loaded: tuple[EnergyTrace, ...] = ()
    """The same board while an engine worked on it, without what came before its load was steady."""
    by_zeus: bool = False
    """Whether a run has its joules of Zeus."""


@dataclass(frozen=True, slots=True)
class Sensor:
    """What the moves of a counter tell of its sensor."""

    moves: int
    every_s: float
    """From one to the next that was looked for."""
    scatter: float
    """Standard deviation of the power from one to the next, over the mean: a trend is no part of it."""

    def error(self, window_s: float) -> float:
        """Of the joules of a window, at 95 %, if the power of each move is off by chance; relative."""
        return COVERAGE_FACTOR * self.scatter / math.sqrt(max(1.0, window_s / self.every_s))

    @property
    def window_s(self) -> float:
        """The window whose error is METER_ERROR."""
        return self.every_s * (COVERAGE_FACTOR * self.scatter / METER_ERROR) ** 2


def sensor(trace: EnergyTrace) -> Sensor | None:
    """How powers scatter from one move of the counter to the next; None where there were too few."""
    edges = trace.edges
    if len(edges) < LEAST_MOVES:
        return None
    joules = [later.new.joules - earlier.new.joules for earlier, later in pairwise(edges)]
    seconds = [(later.at_ns - earlier.at_ns) / NS_PER_S for earlier, later in pairwise(edges)]
    watts = [energy / time for energy, time in zip(joules, seconds, strict=True)]
    mean = fmean(watts)
    if mean <= 0:
        return None
    every_s = fmean(seconds)
    jumps = fmean((later - earlier) ** 2 for earlier, later in pairwise(watts)) / 2 / mean**2
    # Two neighbours share an edge, whose doubtful time makes one larger and the other smaller.
    of_time = 3 * fmean(edge.standard_ns**2 for edge in edges) / (every_s * NS_PER_S) ** 2
    return Sensor(len(edges), every_s, math.sqrt(max(0.0, jumps - of_time)))


def board_lines(watch: BoardWatch, *, window_s: float, seen_s: float | None = None) -> tuple[Line, ...]:
    """Everything that is said of a board, for windows of this length; `seen_s` is what is set of its sensor."""
    findings = judge_board(watch.round)
    return (
        _identity(watch),
        *_meter(watch, window_s, seen_s),
        _privileges(watch),
        _clocks(watch),
        _power_limit(watch),
        _throttling(watch, findings),
        _processes(watch, findings),
        _mig(watch),
        _mps(watch),
        _persistence(watch),
        _memory_errors(watch),
        *_untold(watch),
    )


def no_board(reason: str, *, needed: bool, absent: bool, plugged_in: bool) -> Line:
    """What is said where no board can be read. `needed`: the engine is to run on it. `absent`: nothing is
    installed that could read it, so nothing is broken.
    """
    if absent and (plugged_in or needed):
        said = f"{reason}{', and an NVIDIA board is plugged in' if plugged_in else ''}"
        return Line("gpu", Grade.BLOCKS if needed else Grade.WARNING, said, INSTALL)
    if absent:
        return Line("gpu", Grade.NOT_SEEN, f"{reason}; a CPU's throughput can be gated without")
    return Line("gpu", Grade.BLOCKS, reason, "see to it that nvidia-smi works for this user")


def _identity(watch: BoardWatch) -> Line:
    state = watch.round.before
    memory = f", {state.memory_total_bytes / 2**30:.0f} GiB" if state.memory_total_bytes else ""
    values: Values = {
        "name": state.name, "uuid": state.uuid, "driver": watch.driver, "simulated": watch.simulated,
    }  # fmt: skip
    said = f"{state.name}{memory}, driver {watch.driver}, {state.uuid}"
    if not watch.simulated:
        return Line("gpu", Grade.OK, said, values=values)
    said = f"{said}; a stand-in for the driver says so, and nothing of it is real"
    return Line("gpu", Grade.WARNING, said, "unset LD_LIBRARY_PATH to read a real board", values)


def _meter(watch: BoardWatch, window_s: float, seen_s: float | None) -> tuple[Line, ...]:
    trace = watch.trace
    if trace is None and watch.by_zeus:
        return (told_by_zeus("meter", watch.missing),)
    if trace is None:
        said = f"no joules: {watch.missing}"
        return (Line("meter", Grade.WARNING, said, "gate throughput alone here", {"source": None}),)
    fault = judge_trace(trace)
    if fault:
        todo = "reset the board (nvidia-smi --gpu-reset), or reboot: every round that counts joules is void"
        return (Line("meter", Grade.BLOCKS, fault.reason, todo, {"source": trace.source}),)
    if trace.source != "counter":
        return (_power_meter(trace),)
    if trace.period_s is None:
        said = f"its energy counter moved {len(trace.edges)} times while it was looked at: too seldom to say how often"
        return (Line("meter", Grade.WARNING, said, _set(3 * window_s), {"source": trace.source}),)
    return (_counter(trace, trace.period_s, window_s), _sensor_line(watch, trace, window_s, seen_s))


def _power_meter(trace: EnergyTrace) -> Line:
    least = INTEGRATED_FLOOR if trace.source == "integrated power" else SAMPLED_FLOOR
    return _coarse("meter", "no energy counter, or none for this user", trace.source, least)


def told_by_zeus(topic: str, missing: str) -> Line:
    """What is said of a meter's own source that is `missing`, where Zeus has joules."""
    return _coarse(topic, missing, "zeus", SAMPLED_FLOOR)


def _coarse(topic: str, missing: str, source: str, least: float) -> Line:
    error = COVERAGE_FACTOR * least
    said = f"{missing}: joules come from {source}, ±{error:.1%} at best"
    todo = f"gate joules at no less than {2 * error:.0%}, or see whether root is told more"
    return Line(topic, Grade.WARNING, said, todo, {"source": source, "error": error})


def _counter(trace: EnergyTrace, period_s: float, window_s: float) -> Line:
    widths = sorted(edge.standard_ns for edge in trace.edges)
    edge_ns = widths[len(widths) // 2]
    error = COVERAGE_FACTOR * math.sqrt(2) * edge_ns / (window_s * NS_PER_S)
    values: Values = {
        "source": trace.source,
        "period_s": period_s,
        "edge_error": error,
        "window_s": window_s,
    }
    said = (
        f"energy counter, moves every {period_s * 1000:.3g} ms, and a move is known to {edge_ns / 1e6:.2g} ms: "
        f"±{error:.2%} of a window of {window_s:g} s"
    )
    needed_s = UPDATES * period_s
    if needed_s > window_s:
        said = f"{said}, which holds {window_s / period_s:.1f} moves, and {UPDATES} are wanted: it is slow"
        return Line("meter", Grade.WARNING, said, _set(needed_s), values)
    if error > METER_ERROR:
        said = f"{said}: the driver answers slowly"
        return Line("meter", Grade.WARNING, said, _set(window_s * error / METER_ERROR), values)
    return Line("meter", Grade.OK, said, values=values)


def _sensor_line(watch: BoardWatch, trace: EnergyTrace, window_s: float, seen_s: float | None) -> Line:
    told = [one for one in map(sensor, watch.loaded) if one]
    found = max(told, key=lambda one: one.error(window_s)) if told else sensor(trace)
    if found is None:
        return Line("sensor", Grade.NOT_SEEN, f"{len(trace.edges)} moves tell nothing of it")
    error = found.error(window_s)
    values: Values = {
        "scatter": found.scatter,
        "moves": found.moves,
        "sensor_error": error,
        "under_load": bool(told),
        "sensor_seen_s": seen_s,
    }
    said = (
        f"{'under load' if told else 'without a load of ours'}, power scatters by {found.scatter:.2%} from move to "
        f"move: ±{error:.2%} of a window of {window_s:g} s"
    )
    if error > METER_ERROR:
        period_s = trace.period_s or found.every_s
        needed_s = max(found.window_s, LEAST_UPDATES * period_s)
        if seen_s:
            said = f"{said}; sensor_seen_s is set, so that the error of joules holds it"
            return Line("sensor", Grade.WARNING, said, _set(needed_s), values)
        said = f"{said}; it sees a part of the time, or the load jumps"
        todo = f"sensor_seen_s = {PART_SEEN * period_s:.2g} and {_set(needed_s)}"
        return Line("sensor", Grade.WARNING, said, todo, values)
    if not told:
        said = f"{said}; one that sees a part of the time shows under load"
        todo = "load the board: slmperf doctor --engine=NAME:device=cuda"
        return Line("sensor", Grade.NOT_SEEN, said, todo, values)
    return Line("sensor", Grade.OK, said, values=values)


def _set(window_s: float) -> str:
    """The setting that a window of this length needs, rounded up."""
    if window_s > LONGEST_WINDOW_S:
        return f"window_s = {LONGEST_WINDOW_S:g} in [tool.slmperf], and the rest by more launches"
    return f"window_s = {math.ceil(10 * window_s) / 10:g} in [tool.slmperf]"


def _privileges(watch: BoardWatch) -> Line:
    untold = {**watch.round.before.untold, **watch.round.after.untold, "joules": watch.missing}
    refused = [what for what, why in untold.items() if REFUSED in why]
    if not refused:
        return Line("privileges", Grade.OK, "this user is refused nothing")
    said = f"this user may not ask for {', '.join(refused)}"
    todo = "run as root, or let users ask: it may be MIG, a container, or NVreg_RmProfilingAdminOnly"
    return Line("privileges", Grade.WARNING, said, todo, {"refused": ", ".join(refused)})


def _untold(watch: BoardWatch) -> tuple[Line, ...]:
    shown = {"processes", "MIG", "persistence", ECC, "clock", "power limit", "UUID"}
    untold = {what: why for what, why in watch.round.before.untold.items() if what and what not in shown}
    return tuple(Line("gpu", Grade.NOT_SEEN, f"its {what}: {why}") for what, why in untold.items())


def _clocks(watch: BoardWatch) -> Line:
    state = watch.round.before
    told = [sample.sm_clock_mhz for sample in watch.round.during if sample.sm_clock_mhz]
    now = told[-1] if told else state.sm_clock_mhz
    if now is None:
        return Line("gpu clock", Grade.NOT_SEEN, _why(state, "clock"))
    limit = f" of at most {state.max_sm_clock_mhz:,} MHz" if state.max_sm_clock_mhz else ""
    heat = f", {state.temperature_c} °C" if state.temperature_c is not None else ""
    values: Values = {
        "sm_clock_mhz": now, "max_sm_clock_mhz": state.max_sm_clock_mhz, "temperature_c": state.temperature_c,
    }  # fmt: skip
    said = f"{now:,} MHz{limit}{heat}; NVML doesn't tell whether it is locked"
    return Line("gpu clock", Grade.OK, said, "to lock it: sudo nvidia-smi --lock-gpu-clocks=MHZ", values)


def _power_limit(watch: BoardWatch) -> Line:
    state = watch.round.before
    limit_w, default_w = state.power_limit_w, state.default_power_limit_w
    if limit_w is None:
        return Line("power limit", Grade.NOT_SEEN, _why(state, "power limit"))
    values: Values = {"power_limit_w": limit_w, "default_power_limit_w": default_w}
    if default_w is not None and abs(limit_w / default_w - 1) > 1e-3:
        said = f"{limit_w:.4g} W, by default {default_w:.4g} W: a baseline holds for one of them"
        todo = f"if it isn't meant: sudo nvidia-smi --power-limit={default_w:.4g}"
        return Line("power limit", Grade.WARNING, said, todo, values)
    return Line("power limit", Grade.OK, f"{limit_w:.4g} W{', the default' if default_w else ''}", values=values)


def _throttling(watch: BoardWatch, findings: tuple[Finding, ...]) -> Line:
    topic, seen = "gpu throttling", watch.round
    counted = seen.after.throttled_ns or seen.before.throttled_ns
    values: Values = {f"{kind}_s": round(ns / NS_PER_S, 3) for kind, ns in sorted(counted.items())}
    void = _voided(findings, "throttled")
    if void:
        todo = "cool the board or give it more power: every round that counts joules is void"
        return Line(topic, Grade.BLOCKS, f"now: {void.reason}", todo, values)
    before = {kind: counted[kind] / NS_PER_S for kind in SLOWDOWNS if counted.get(kind)}
    capped = [finding.reason for finding in findings if finding.guard == "power cap"]
    if before:
        listed = ", ".join(f"{SLOWDOWNS[kind]}, for {seconds:,.3g} s" for kind, seconds in before.items())
        said = f"not now; since the driver was loaded {listed}"
        return Line(topic, Grade.WARNING, said, "see to its cooling and power", values)
    missing = sorted(SLOWDOWNS.keys() - counted.keys())
    if missing:
        looked = f"; it was looked for {len(seen.masks)} times, and not found" if seen.masks else ""
        return Line(topic, Grade.NOT_SEEN, f"this driver doesn't count {', '.join(missing)}{looked}", values=values)
    said = "; ".join(["none by heat or hardware, now or since the driver was loaded", *capped])
    return Line(topic, Grade.OK, said, values=values)


def _processes(watch: BoardWatch, findings: tuple[Finding, ...]) -> Line:
    topic, state = "gpu processes", watch.round.before
    void = _voided(findings, "foreign")
    if void:
        return Line(
            topic, Grade.BLOCKS, void.reason.replace(" before our own start", ""), "end it, or wait for its end"
        )
    if state.processes is None or watch.round.after.processes is None:
        why = _why(state if state.processes is None else watch.round.after, "processes", "its list is nonsense")
        said = f"who is on the board: {why}. Its memory and utilisation say that it is free"
        todo = "run the doctor on the host, outside of containers"
        if state.memory_used_bytes is None and state.utilisation is None:
            return Line(topic, Grade.NOT_SEEN, f"who is on the board: {why}", todo)
        return Line(topic, Grade.NOT_SEEN, said, todo)
    return Line(topic, Grade.OK, "nobody else is on the board", values={"processes": len(state.processes)})


def _mig(watch: BoardWatch) -> Line:
    state = watch.round.before
    if state.mig is None:
        return Line("mig", Grade.NOT_SEEN, _why(state, "MIG"))
    if not state.mig:
        return Line("mig", Grade.OK, "off", values={"mig": False})
    said = "on: joules are those of the whole board, and who is on it is told to root alone"
    todo = "keep the other instances idle while joules are counted, or switch it off: sudo nvidia-smi -mig 0"
    return Line("mig", Grade.WARNING, said, todo, {"mig": True})


def _mps(watch: BoardWatch) -> Line:
    processes = watch.round.before.processes
    serves = mps_serves(None if processes is None else tuple(processes.values()), daemon=watch.mps_here)
    if serves is None:
        return Line("mps", Grade.NOT_SEEN, "no server of it is seen, and who is on the board isn't told")
    if watch.mps_threads:
        return Line("mps", Grade.WARNING, on_thread_share(watch.mps_threads), f"unset {THREAD_SHARE}", {"mps": serves})
    said = "on: a baseline holds with it, or without" if serves else "off"
    return Line("mps", Grade.OK, said, values={"mps": serves})


def _persistence(watch: BoardWatch) -> Line:
    state = watch.round.before
    if state.persistence is None:
        return Line("persistence", Grade.NOT_SEEN, _why(state, "persistence"))
    if state.persistence:
        return Line("persistence", Grade.OK, "on", values={"persistence": True})
    said = "off: the driver may unload between launches, and its counters with it"
    return Line("persistence", Grade.WARNING, said, "sudo nvidia-smi --persistence-mode=1", {"persistence": False})


def _memory_errors(watch: BoardWatch) -> Line:
    after, new = watch.round.after, watch.round.after.xids
    errors = after.uncorrected_ecc_errors
    values: Values = {"uncorrected_ecc_errors": errors, "xids": ", ".join(map(str, new))}
    if new:
        said = f"the driver reported Xid {', '.join(map(str, new))} just now"
        return Line("gpu errors", Grade.BLOCKS, said, "look it up, and reset the board or reboot", values)
    if errors is None:
        return Line("gpu errors", Grade.NOT_SEEN, f"uncorrected memory errors: {_why(after, ECC)}")
    if errors:
        said = f"{errors} uncorrected memory error{'' if errors == 1 else 's'} (ECC) since the driver was loaded"
        return Line("gpu errors", Grade.WARNING, said, "reset the board; if they come back, replace it", values)
    return Line("gpu errors", Grade.OK, "no uncorrected memory error since the driver was loaded", values=values)


def _voided(findings: tuple[Finding, ...], guard: str) -> Finding | None:
    return next((one for one in findings if one.guard == guard and one.effect is Effect.VOID), None)


def _why(state: BoardState, what: str, otherwise: str = "the driver doesn't tell") -> str:
    return state.untold.get(what, otherwise)
