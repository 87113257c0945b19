"""A board as values, and the guards that look at it: what makes its joules void, marked, or worth a note.

Guards judge by causes and never by the result. What can't be seen is said, and never taken for good.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from statistics import fmean, pstdev
from typing import Any, Literal, TypeAlias

from pytest_slmperf.core.verdict import Status

NS_PER_S = 1e9
MIB = 2**20
MPS_SERVER = "nvidia-cuda-mps-server"
NONSENSE_PIDS = frozenset({0, 2**32 - 1})
"""Driver 535 changed a structure without its version: lists with such ids are read wrongly."""
KNOWN_BELOW_PID = 2**22
"""The largest process id that a kernel gives."""

Throttle: TypeAlias = Literal["sw_power_cap", "hw_slowdown", "sync_boost", "sw_thermal", "hw_thermal", "power_brake"]
SLOWDOWNS: Mapping[Throttle, str] = {
    "hw_thermal": "its hardware slowed it down because it was hot",
    "sw_thermal": "its driver slowed it down because it was hot",
    "power_brake": "its hardware slowed it down because power was short (external power brake)",
}
"""What voids."""
REASON_BITS: Mapping[Throttle, int] = {
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal": 0x20,
    "hw_thermal": 0x40,
    "power_brake": 0x80,
}


ECC, XIDS = "ECC errors", "Xid events"
"""What a state calls them where they are not told."""


class Effect(StrEnum):
    """What a finding does to the joules of a round."""

    VOID = "void"
    MARKED = "marked"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a guard found."""

    guard: str
    """`reset`, `stuck`, `unreadable`, `throttled`, `power cap`, `foreign`, `power limit`, `board`, `ecc`,
    `xid`, `temperature`, `mig`, `persistence`, `implausible` or `blind`. Of those that void, `core.void.WAYS_OUT` says
    what helps."""
    effect: Effect
    reason: str


@dataclass(frozen=True, slots=True)
class BoardSample:
    """What a board says now and then during a round. None stands for what it doesn't tell."""

    at_ns: int
    sm_clock_mhz: int | None = None
    temperature_c: int | None = None
    throttles: frozenset[Throttle] | None = None
    """What slows it down right now."""
    utilisation: float | None = None
    """Share of time in which a kernel ran, as the driver has it."""
    memory_used_bytes: int | None = None
    processes: Mapping[int, str] | None = None
    power_w: float | None = None
    """As the driver reads it: a mean of the last second on most boards."""
    memory_clock_mhz: int | None = None


@dataclass(frozen=True, slots=True)
class BoardState:
    """A board before or after something. None stands for what it doesn't tell; `untold` has the reasons."""

    uuid: str
    at_ns: int
    name: str = ""
    power_limit_w: float | None = None
    default_power_limit_w: float | None = None
    sm_clock_mhz: int | None = None
    max_sm_clock_mhz: int | None = None
    temperature_c: int | None = None
    throttled_ns: Mapping[Throttle, int] = field(default_factory=dict)
    """Cumulative, of the kinds that the driver counts."""
    uncorrected_ecc_errors: int | None = None
    xids: tuple[int, ...] = ()
    """Since the meter was opened, in order."""
    utilisation: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    processes: Mapping[int, str] | None = None
    """Who is on the board, by process id, with a name where there is one. None where that can't be seen."""
    mig: bool | None = None
    persistence: bool | None = None
    untold: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BoardRound:
    """A round as one board saw it."""

    idle: BoardState
    """From before our engine's start."""
    before: BoardState
    after: BoardState
    during: tuple[BoardSample, ...] = ()
    steady_ns: float = 0.0
    """From when the load was steady: a board that begins to work gets warm within a second, which is no drift."""

    @property
    def masks(self) -> list[frozenset[Throttle]]:
        """What slowed it down, look by look."""
        return [sample.throttles for sample in self.during if sample.throttles is not None]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of each cause a round may have seen."""

    slowed: float = 0.001
    """Share of the round in which the board was slowed down by heat or its hardware."""
    clock: float = 0.01
    """Share by which the mean clock may differ from the baseline's."""
    power_limit: float = 0.001
    power_capped: float = 0.05
    """Share of the rounds by which the time under the power limit may differ from the baseline's. A board that is held
    back was seen to lose a fifth of its clock, and joules with it: of a twentieth of the time that is 1 % of them, as
    much as another clock may make.
    """
    power_capped_errors: float = 3.0
    """Standard errors of the launches by which it may differ at any rate: near its limit a board is held back now more
    and now less.
    """
    temperature_marked_c: float = 3
    temperature_void_c: float = 10
    """Change while joules are counted: hotter silicon draws more."""
    idle_memory_bytes: int = 768 * MIB
    """More in use before our own start is somebody's; a driver keeps up to 600 MiB for itself."""
    idle_utilisation: float = 0.05


@dataclass(frozen=True, slots=True)
class BoardFacts:
    """What joules hold for: whoever compares them with others needs the same board, as it was set then."""

    source: str
    """`counter`, `integrated power`, `power samples` or `zeus`."""
    power_limit_w: float | None = None
    simulated: bool = False
    """Whether a stand-in driver answered, so that nothing of it is real."""
    power_capped: tuple[float, ...] = ()
    """Share of a round in which the power limit held it back, launch by launch; empty where its driver doesn't tell."""
    idle_w: float | None = None
    """What it took before the first engine was started."""
    idle_error_w: float | None = None
    """Standard uncertainty of that."""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "BoardFacts":
        """From what a file keeps of it: the fields as JSON has them."""
        return cls(**{**stored, "power_capped": tuple(stored.get("power_capped", ()))})


def of_all_launches(launches: Iterable[Mapping[str, BoardFacts]]) -> dict[str, BoardFacts]:
    """By UUID what the joules of all these launches hold for: the last one's word, and every launch's share."""
    found: dict[str, BoardFacts] = {}
    for uuid, facts in (item for boards in launches for item in boards.items()):
        earlier = found[uuid].power_capped if uuid in found else ()
        found[uuid] = replace(facts, power_capped=(*earlier, *facts.power_capped))
    return found


def seen_processes(pids: Mapping[int, str]) -> Mapping[int, str] | None:
    """The processes of a board as its driver lists them, or None where the list is nonsense."""
    if any(pid in NONSENSE_PIDS or pid >= KNOWN_BELOW_PID for pid in pids):
        return None
    return pids


def judge_board(
    seen: BoardRound,
    *,
    power_limit_w: float | None = None,
    ours: Collection[int] = (),
    limits: Limits = Limits(),
) -> tuple[Finding, ...]:
    """What is to be said of one board and one round.

    `power_limit_w` is what it was when the meter was opened, where known. `ours` are processes known to be ours. Those
    that came between our start and the round are taken for ours too, since a container may see other ids than the
    driver tells.
    """
    return (
        *_foreign(seen, ours, limits),
        *_slowed(seen, limits),
        *_held_back(seen),
        *_health(seen),
        *_settings(seen, power_limit_w, limits),
        *_temperature(seen, limits),
    )


def void(findings: Sequence[Finding]) -> Finding | None:
    """The first finding that voids, or None."""
    return next((finding for finding in findings if finding.effect is Effect.VOID), None)


def joules_apart(
    here: Mapping[str, BoardFacts], there: Mapping[str, BoardFacts], clocks_mhz: tuple[float | None, float | None]
) -> tuple[Status, str, str] | None:
    """Why joules of now are not compared with the stored ones, what that is called and how to go on; None where they
    are. What was told of the stored ones and isn't told now has not been seen to be as it was.

    `clocks_mhz` are the means now and then, None where they weren't told.
    """
    if reason := another_board(here, there):
        return Status.INCOMPARABLE, reason, ""
    if reason := another_setting(here, there):
        return Status.VOID, reason, "set it back as it was, or record again"
    if reason := another_power_cap(here, there):
        way_out = "find what it needs another power for (nvidia-smi -q -d PERFORMANCE,POWER), or record again"
        return Status.VOID, reason, way_out
    now_mhz, was_mhz = clocks_mhz
    if now_mhz and was_mhz and (reason := another_clock(now_mhz, was_mhz)):
        return Status.VOID, reason, "find what changed its clock (nvidia-smi -q -d CLOCK), or record again"
    if reason := _untold_now(here, there, clocks_mhz):
        return Status.VOID, reason, "see what this user may not ask for any more (slmperf doctor), or record again"
    return None


def _untold_now(
    here: Mapping[str, BoardFacts], there: Mapping[str, BoardFacts], clocks_mhz: tuple[float | None, float | None]
) -> str | None:
    for uuid, now in here.items():
        was = there[uuid]
        if was.power_limit_w and not now.power_limit_w:
            return f"{uuid}: its power limit isn't told, and was {was.power_limit_w:.4g} W for the baseline"
        if was.power_capped and not now.power_capped:
            shares = f"{fmean(was.power_capped):.1%} of the baseline's rounds"
            return f"{uuid}: how long its power limit held it back isn't told, and was for {shares}"
    now_mhz, was_mhz = clocks_mhz
    return f"its clock isn't told, and was {was_mhz:,.0f} MHz for the baseline" if was_mhz and not now_mhz else None


def another_board(here: Collection[str], there: Collection[str]) -> str | None:
    """Why joules of these boards and of those are reported and not gated, or None where they are the same boards."""
    if set(here) == set(there):
        return None
    return (
        f"measured on {', '.join(sorted(here))} and compared with {', '.join(sorted(there))}: the power sensors of two "
        "boards differ by up to 5 %, so joules are reported and not gated; where the card changes from job to job, an "
        "A/B run gates them"
    )


def another_setting(
    here: Mapping[str, BoardFacts], there: Mapping[str, BoardFacts], limits: Limits = Limits()
) -> str | None:
    """Why joules of the same boards can't be compared: another power limit, or another source. None where they can."""
    for uuid, now in here.items():
        was = there.get(uuid)
        if was is None:
            continue
        if now.source != was.source:
            return f"{uuid}: its joules come from {now.source}, and the baseline's from {was.source}"
        now_w, was_w = now.power_limit_w, was.power_limit_w
        if now_w and was_w and abs(now_w / was_w - 1) > limits.power_limit:
            return f"{uuid}: its power limit is {now_w:.4g} W, and was {was_w:.4g} W for the baseline"
    return None


def another_clock(now_mhz: float, was_mhz: float, limits: Limits = Limits()) -> str | None:
    """Why joules at these two clocks can't be compared, or None. 1,605 MHz instead of 1,980 were seen to change them by
    20 %, at the same throughput.
    """
    if abs(now_mhz / was_mhz - 1) <= limits.clock:
        return None
    return f"its clock was {now_mhz:,.0f} MHz in the mean, and {was_mhz:,.0f} MHz for the baseline"


def another_power_cap(
    here: Mapping[str, BoardFacts], there: Mapping[str, BoardFacts], limits: Limits = Limits()
) -> str | None:
    """Why joules of the same boards can't be compared: the power limit held one back for another share of the time.
    None where it didn't, or where a driver doesn't tell. How far shares scatter is what the stored launches say.
    """
    for uuid, facts in here.items():
        now, was = facts.power_capped, there[uuid].power_capped if uuid in there else ()
        if not now or not was:
            continue
        error = pstdev(was) * math.sqrt(1 / len(now) + 1 / len(was))
        if abs(fmean(now) - fmean(was)) > max(limits.power_capped, limits.power_capped_errors * error):
            return (
                f"{uuid}: its power limit held it back for {fmean(now):.1%} of the rounds, and for {fmean(was):.1%} of "
                "the baseline's"
            )
    return None


def _void(guard: str, reason: str) -> Finding:
    return Finding(guard, Effect.VOID, reason)


def _marked(guard: str, reason: str) -> Finding:
    return Finding(guard, Effect.MARKED, reason)


# -- who else is there


def _foreign(seen: BoardRound, ours: Collection[int], limits: Limits) -> list[Finding]:
    idle, before, after = seen.idle, seen.before, seen.after
    if idle.processes is None:
        return [_foreign_unseen(idle, limits)]
    there = _strangers(idle.processes, ours)
    if there:
        return [_void("foreign", f"{_named(there)} was on the board before our own start")]
    if before.processes is None or after.processes is None:
        why = _why(before if before.processes is None else after)
        return [_marked("blind", f"who is on the board could be seen before our own start, and not later: {why}")]
    mine = {*ours, *before.processes}
    came: dict[int, str] = {}
    for processes in (*(sample.processes for sample in seen.during), after.processes):
        came |= _strangers(processes or {}, mine)
    return [_void("foreign", f"{_named(came)} came in the middle")] if came else []


def _foreign_unseen(idle: BoardState, limits: Limits) -> Finding:
    """Memory and utilisation before our own start stand in for the processes."""
    who = f"who, can't be seen: {_why(idle)}"
    used, busy = idle.memory_used_bytes, idle.utilisation
    if used is not None and used > limits.idle_memory_bytes:
        return _void("foreign", f"{used / MIB:,.0f} MiB were in use before our own start ({who})")
    if busy is not None and busy > limits.idle_utilisation:
        return _void("foreign", f"the board was {busy:.0%} busy before our own start ({who})")
    told = [name for name, value in (("memory", used), ("utilisation", busy)) if value is not None]
    stood_in = f"its {' and '.join(told)} said that it was free" if told else "nothing stood in"
    return _marked(
        "blind",
        f"who is on the board can't be seen ({_why(idle)}): before our own start {stood_in}, and who came later was "
        "not noticed",
    )


def _why(state: BoardState) -> str:
    return state.untold.get("processes", "the driver's list of processes is nonsense")


def is_mps_server(name: str) -> bool:
    """Whether a process of this name, maybe a path, is the server of MPS: it works for others."""
    return name.rpartition("/")[2].startswith(MPS_SERVER)


def mps_serves(names: Collection[str] | None, *, daemon: bool) -> bool | None:
    """Whether work on a board goes through MPS, or None where that can't be told.

    `names` are of the processes on it, None where they can't be seen. `daemon` is whether the daemon of MPS runs whose
    clients our engines would be: it has no server before its first client, so that a board's first run would see none.
    """
    if daemon or any(map(is_mps_server, names or ())):
        return True
    return None if names is None else False


def _strangers(processes: Mapping[int, str], ours: Collection[int]) -> dict[int, str]:
    return {pid: name for pid, name in processes.items() if pid not in ours and not is_mps_server(name)}


def _named(found: Mapping[int, str]) -> str:
    return ", ".join(f"{name or 'a process'} (pid {pid})" for pid, name in sorted(found.items()))


# -- what slows it down


def _counted(seen: BoardRound) -> dict[Throttle, float]:
    """Shares of the round, from cumulative times: looking at the mask now and then misses what is short."""
    length_ns = max(1, seen.after.at_ns - seen.before.at_ns)
    was, later = seen.before.throttled_ns, seen.after.throttled_ns
    went_back = _went_back(seen)
    return {kind: (later[kind] - was[kind]) / length_ns for kind in was if kind in later and kind not in went_back}


def _went_back(seen: BoardRound) -> list[Throttle]:
    later = seen.after.throttled_ns
    return sorted(kind for kind, ns in seen.before.throttled_ns.items() if later.get(kind, ns) < ns)


def _slowed(seen: BoardRound, limits: Limits) -> list[Finding]:
    counted, masks = _counted(seen), seen.masks
    findings: list[Finding] = []
    for kind, what in SLOWDOWNS.items():
        times = sum(kind in mask for mask in masks)
        if counted.get(kind, 0) > limits.slowed:
            findings.append(_void("throttled", f"{what}, for {counted[kind]:.1%} of the round"))
        elif kind not in counted and times:
            findings.append(_void("throttled", f"{what}, in {times} of {len(masks)} looks"))
    # One look may find it while the clocks change, which is no fault.
    if not findings and any("hw_slowdown" in one and "hw_slowdown" in other for one, other in pairwise(masks)):
        findings.append(_void("throttled", "its hardware slowed it down, in two looks in a row"))
    went_back = _went_back(seen)
    if went_back:
        told = f"its time of {', '.join(went_back)} went back in the middle: the driver was reloaded"
        findings.append(_marked("blind", told))
    uncounted = ", ".join(sorted({*SLOWDOWNS, "sw_power_cap"} - {*counted, *went_back}))
    if uncounted and not masks:
        findings.append(_marked("blind", f"this driver tells nothing of {uncounted}: it would not have been noticed"))
    elif uncounted:
        looks = f"this driver doesn't count {uncounted}: it was looked for {len(masks)} times"
        findings.append(Finding("blind", Effect.NOTE, looks))
    return findings


def power_cap_share(seen: BoardRound) -> float | None:
    """Share of the round in which the power limit held the board back, to be compared with the baseline's; None where
    the driver doesn't tell.
    """
    return _share(seen, "sw_power_cap")


def _share(seen: BoardRound, kind: Throttle) -> float | None:
    counted, masks = _counted(seen), seen.masks
    if kind in counted:
        return counted[kind]
    return sum(kind in mask for mask in masks) / len(masks) if masks else None


def _held_back(seen: BoardRound) -> list[Finding]:
    findings = []
    if share := _share(seen, "sw_power_cap"):
        findings.append(_marked("power cap", f"its power limit held it back for {share:.1%} of the round"))
    if share := _share(seen, "sync_boost"):
        findings.append(_marked("throttled", f"it waited for another board's clock for {share:.1%} of the round"))
    return findings


# -- its health and settings


def _health(seen: BoardRound) -> list[Finding]:
    findings = []
    was, now = seen.before.uncorrected_ecc_errors, seen.after.uncorrected_ecc_errors
    if was is not None and now is not None and now > was:
        findings.append(_void("ecc", f"{now - was} uncorrected memory errors (ECC)"))
    new = seen.after.xids[len(seen.before.xids) :]
    if new:
        findings.append(_void("xid", f"the driver reported Xid {', '.join(map(str, new))}"))
    unseen = [f"{what} ({seen.after.untold[what]})" for what in (ECC, XIDS) if what in seen.after.untold]
    if unseen:
        told = f"this board tells nothing of {' and '.join(unseen)}: none would have been noticed"
        findings.append(Finding("blind", Effect.NOTE, told))
    return findings


def _settings(seen: BoardRound, power_limit_w: float | None, limits: Limits) -> list[Finding]:
    before, after = seen.before, seen.after
    findings = _power_limit(seen, power_limit_w, limits)
    if seen.during and not any(sample.sm_clock_mhz for sample in seen.during):
        findings.append(_marked("blind", "its clock can't be read, so it is compared with none"))
    if before.uuid != after.uuid:
        findings.append(_void("board", f"the round began on {before.uuid} and ended on {after.uuid}"))
    if before.mig or after.mig:
        told = "MIG is on: the joules are those of the whole board, of all its instances"
        findings.append(Finding("mig", Effect.NOTE, told))
    if before.persistence is False:
        findings.append(_marked("persistence", "its persistence mode is off: the driver may unload between launches"))
    return findings


def _power_limit(seen: BoardRound, opened_w: float | None, limits: Limits) -> list[Finding]:
    expected = opened_w or seen.before.power_limit_w
    for state, when in ((seen.before, "before"), (seen.after, "after")):
        limit_w = state.power_limit_w
        if expected and limit_w and abs(limit_w / expected - 1) > limits.power_limit:
            return [_void("power limit", f"its power limit was {limit_w:.4g} W {when} the round, not {expected:.4g} W")]
    if opened_w and seen.before.power_limit_w is None:
        return [_marked("blind", "its power limit can't be read, so it is compared with none")]
    return []


def _temperature(seen: BoardRound, limits: Limits) -> list[Finding]:
    looks: tuple[BoardState | BoardSample, ...] = (seen.before, *seen.during, seen.after)
    told = [look.temperature_c for look in looks if look.at_ns >= seen.steady_ns and look.temperature_c is not None]
    change = told[-1] - told[0] if told else 0
    if abs(change) < limits.temperature_marked_c:
        return []
    effect = Effect.VOID if abs(change) >= limits.temperature_void_c else Effect.MARKED
    return [Finding("temperature", effect, f"it went from {told[0]} to {told[-1]} °C while joules were counted")]


# -- what a suite may plot


def beside(samples: Sequence[BoardSample]) -> dict[str, float]:
    """What a board said during a round, by the metrics' names, the means but for a peak. What it never told is not
    there.
    """
    columns: Mapping[str, list[float | None]] = {
        "gpu_utilisation": [sample.utilisation for sample in samples],
        "gpu_memory_used_bytes": [sample.memory_used_bytes for sample in samples],
        "sm_clock_mhz": [sample.sm_clock_mhz for sample in samples],
        "memory_clock_mhz": [sample.memory_clock_mhz for sample in samples],
        "gpu_temperature_c": [sample.temperature_c for sample in samples],
    }
    told = {name: [value for value in values if value is not None] for name, values in columns.items()}
    found = {name: fmean(values) for name, values in told.items() if values}
    if told["gpu_memory_used_bytes"]:
        found["peak_gpu_memory_used_bytes"] = float(max(told["gpu_memory_used_bytes"]))
    return found
