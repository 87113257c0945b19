"""The guards that look at a board: what makes its joules void, marked, or worth a note.

Guards judge by causes and never by the result. What can't be seen is said, and never taken for good.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from pytest_slmperf.core.devices.board import (
    ECC,
    MIB,
    POWER_LIMIT,
    SLOWDOWNS,
    XIDS,
    BoardRound,
    BoardSample,
    BoardState,
    Effect,
    Finding,
    Throttle,
    is_mps_server,
)

SLOWED = 0.001
"""Share of a round in which the board was slowed down by heat or its hardware."""
TEMPERATURE_MARKED_C = 3
TEMPERATURE_VOID_C = 10
"""Change while joules are counted: hotter silicon draws more."""
IDLE_MEMORY_BYTES = 768 * MIB
"""More in use before our own start is somebody's; a driver keeps up to 600 MiB for itself."""
IDLE_UTILISATION = 0.05
"""More before our own start is somebody's."""
ENOUGH_LOOKS = 3
"""At a board that isn't used. What the first tells is from before the load."""


def judge_board(
    seen: BoardRound,
    *,
    power_limit_w: float | None = None,
    ours: Collection[int] = (),
) -> tuple[Finding, ...]:
    """What is to be said of one board and one round.

    `power_limit_w` is what it was when the meter was opened, where known. `ours` are processes known to be ours. Those
    that came between our start and the round are taken for ours too, since a container may see other ids than the
    driver tells.
    """
    return (
        *_foreign(seen, ours),
        *_slowed(seen),
        *_held_back(seen),
        *_health(seen),
        *_unused(seen),
        *_settings(seen, power_limit_w),
        *_temperature(seen),
    )


def void(findings: Sequence[Finding]) -> Finding | None:
    """The first finding that voids, or None."""
    return next((finding for finding in findings if finding.effect is Effect.VOID), None)


def _void(guard: str, reason: str) -> Finding:
    return Finding(guard, Effect.VOID, reason)


def _marked(guard: str, reason: str) -> Finding:
    return Finding(guard, Effect.MARKED, reason)


def _foreign(seen: BoardRound, ours: Collection[int]) -> list[Finding]:
    idle, before, after = seen.idle, seen.before, seen.after
    if idle.processes is None:
        return [_foreign_unseen(idle)]
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


def _foreign_unseen(idle: BoardState) -> Finding:
    """Memory and utilisation before our own start stand in for the processes."""
    who = f"who, can't be seen: {_why(idle)}"
    used, busy = idle.memory_used_bytes, idle.utilisation
    if used is not None and used > IDLE_MEMORY_BYTES:
        return _void("foreign", f"{used / MIB:,.0f} MiB were in use before our own start ({who})")
    if busy is not None and busy > IDLE_UTILISATION:
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


def _strangers(processes: Mapping[int, str], ours: Collection[int]) -> dict[int, str]:
    return {pid: name for pid, name in processes.items() if pid not in ours and not is_mps_server(name)}


def _named(found: Mapping[int, str]) -> str:
    return ", ".join(f"{name or 'a process'} (pid {pid})" for pid, name in sorted(found.items()))


def _counted(seen: BoardRound) -> dict[Throttle, float]:
    """Shares of the round, from cumulative times: looking at the mask now and then misses what is short."""
    length_ns = max(1, seen.after.at_ns - seen.before.at_ns)
    was, later = seen.before.throttled_ns, seen.after.throttled_ns
    went_back = _went_back(seen)
    return {kind: (later[kind] - was[kind]) / length_ns for kind in was if kind in later and kind not in went_back}


def _went_back(seen: BoardRound) -> list[Throttle]:
    later = seen.after.throttled_ns
    return sorted(kind for kind, ns in seen.before.throttled_ns.items() if later.get(kind, ns) < ns)


def _slowed(seen: BoardRound) -> list[Finding]:
    counted, masks = _counted(seen), seen.masks
    findings: list[Finding] = []
    for kind, what in SLOWDOWNS.items():
        times = sum(kind in mask for mask in masks)
        if counted.get(kind, 0) > SLOWED:
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


def _unused(seen: BoardRound) -> list[Finding]:
    """A load that left no trace on the board ran elsewhere, on another board or a host's cores."""
    told = [sample.utilisation for sample in seen.during if sample.utilisation is not None]
    if len(told) < ENOUGH_LOOKS or any(told):
        return []
    return [_void("board", f"nothing ran on it while the load did: it was 0% busy in all of {len(told)} looks")]


def _settings(seen: BoardRound, power_limit_w: float | None) -> list[Finding]:
    before, after = seen.before, seen.after
    findings = _power_limit(seen, power_limit_w)
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


def _power_limit(seen: BoardRound, opened_w: float | None) -> list[Finding]:
    expected = opened_w or seen.before.power_limit_w
    for state, when in ((seen.before, "before"), (seen.after, "after")):
        limit_w = state.power_limit_w
        if expected and limit_w and abs(limit_w / expected - 1) > POWER_LIMIT:
            return [_void("power limit", f"its power limit was {limit_w:.4g} W {when} the round, not {expected:.4g} W")]
    if opened_w and seen.before.power_limit_w is None:
        return [_marked("blind", "its power limit can't be read, so it is compared with none")]
    return []


def _temperature(seen: BoardRound) -> list[Finding]:
    looks: tuple[BoardState | BoardSample, ...] = (seen.before, *seen.during, seen.after)
    told = [look.temperature_c for look in looks if look.at_ns >= seen.steady_ns and look.temperature_c is not None]
    change = told[-1] - told[0] if told else 0
    if abs(change) < TEMPERATURE_MARKED_C:
        return []
    effect = Effect.VOID if abs(change) >= TEMPERATURE_VOID_C else Effect.MARKED
    return [Finding("temperature", effect, f"it went from {told[0]} to {told[-1]} °C while joules were counted")]
