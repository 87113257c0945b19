"""Guards: what voids a round, judged by its causes and never by its result.

A `Reading` is what the machine's counters say at one moment; a round has one right before and one right after it.
Whether it is void is decided by `judge_round`, from the two alone. `run.witness` takes readings, and `run.blame` finds
afterwards who it was.
"""

import math
import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pytest_slmperf.core.fitness.cpu import STOLEN
from pytest_slmperf.core.units import NS_PER_MS, NS_PER_S
from pytest_slmperf.run.pace import Slowness, slowed

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How much of each cause a round may have seen."""

    waiting: float = 0.02
    """Share of the round in which the engine's threads were ready and something else had their core; of replicas on
    cores of their own, of each."""
    waiting_floor_ns: int = 500_000
    """Waiting that is never blamed: the engine's own threads hand over to each other, and wake up."""
    stolen: float = STOLEN
    """Share of the round in which the hypervisor had the core."""
    slowed: float = 0.10
    """Share by which a core's clock may fall in a round."""
    paced: float = 0.05
    """Share by which a core's pace may fall beside a round."""
    clock: float = 0.005
    """Share by which the two monotonic clocks may disagree about the round's length."""
    shortest: float = 0.5
    """A round's least length, as a share of what it should last."""
    package: float = 0.10
    """Share of all cores' busy time that may be others' while a package's joules are counted: they are that share of
    what its cores took at most."""
    elsewhere: float = 0.25
    """Load on the other cores from which a note is made."""


@dataclass(frozen=True, slots=True)
class Turns:
    """What the scheduler counts for one thread."""

    ran_ns: int
    waited_ns: int
    """Ready to run, and without a core."""
    cores: frozenset[int] = frozenset()
    """That it may run on; empty where that isn't known."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the machine's counters say at one moment. None stands for a counter that this machine hasn't got."""

    monotonic_ns: int
    raw_ns: int
    """CLOCK_MONOTONIC_RAW: never slewed."""
    boot_ns: int
    """CLOCK_BOOTTIME: runs on while the machine sleeps."""
    threads: Mapping[int, "Turns"] | None = None
    """The threads of the engine and of all that descends from its guard, by their id."""
    steal_ticks: Mapping[int, int] = field(default_factory=dict)
    """By core."""
    busy_ticks: Mapping[int, int] = field(default_factory=dict)
    """By core: neither idle nor waiting for a disk."""
    idle_ns: Mapping[int, int] = field(default_factory=dict)
    """By core that the engine is pinned to, where the kernel counts it exactly: how long it had nothing to do."""
    own_ns: int = 0
    """What this process has worked."""
    throttles: Mapping[int, int] = field(default_factory=dict)
    """By core, where the kernel counts them: how often it was slowed down because it was hot."""
    clock_khz: Mapping[int, int] = field(default_factory=dict)
    """By core, where it can be read."""


@dataclass(frozen=True, slots=True)
class Stolen:
    """What the hypervisor took in the rounds of a case so far: one round is too short for a count in ticks of 10 ms."""

    ticks: Mapping[int, int] = field(default_factory=dict)
    """By core."""
    wall_ns: int = 0
    """Length of those rounds."""

    def and_of(self, before: Reading, after: Reading) -> "Stolen":
        """With those of one more round."""
        ticks = {
            core: self.ticks.get(core, 0) + now - before.steal_ticks.get(core, 0)
            for core, now in after.steal_ticks.items()
        }
        return Stolen(ticks, self.wall_ns + after.monotonic_ns - before.monotonic_ns)


@dataclass(frozen=True, slots=True)
class Void:
    """Why a round does not count."""

    guard: str
    """`contended`, `stolen`, `throttled`, `slowed`, `suspended`, `clock` or `short`; of an energy round also `window`,
    `package`, or the guard of a board (`core.devices.board.Finding`). `core.guards.void.WAYS_OUT` says what helps."""
    reason: str


def judge_round(
    before: Reading,
    after: Reading,
    *,
    cores: Collection[int] | None,
    served_ns: int | None = None,
    earlier: Stolen = Stolen(),
    tolerances: Tolerances = Tolerances(),
) -> Void | None:
    """The first cause that makes the round void, or None. `cores` are those that the engine is pinned to.

    `served_ns` is how long the engine served by its own clock: what passes before it hears of the round, and until it
    is heard, is this process being late, and nobody's fault on the engine's cores. None for all of the time between.
    `earlier` is what was stolen from the case's rounds before.
    """
    wall_ns = after.monotonic_ns - before.monotonic_ns
    watched = set(after.busy_ticks) if cores is None else set(cores)
    return (
        _clocks(before, after, tolerances)
        or _throttled(before, after, watched)
        or _stolen(Stolen().and_of(before, after), watched, tolerances)
        or _stolen(earlier.and_of(before, after), watched, tolerances)
        or _contended(before, after, watched, wall_ns if served_ns is None else served_ns, tolerances)
        or _slowed(before, after, watched, tolerances)
    )


def judge_length(worked_ns: int, round_s: float, tolerances: Tolerances = Tolerances()) -> Void | None:
    """Void where the engine's own clock says that the round was too short for its timer."""
    least_s = tolerances.shortest * round_s
    if worked_ns / NS_PER_S >= least_s:
        return None
    return Void("short", f"it lasted {worked_ns / NS_PER_MS:.3g} ms, and {least_s * 1000:.3g} ms is the least")


def judge_pace(before: Slowness, after: Slowness, tolerances: Tolerances = Tolerances()) -> Void | None:
    """Void where a core was slower than usual beside the round: in the mean of right before and right after it."""
    mean = {core: (before[core] + after[core]) / 2 for core in before.keys() & after.keys()}
    slow = slowed(mean, tolerances.paced)
    if not slow:
        return None
    core = max(slow, key=slow.__getitem__)
    return Void(
        "slowed",
        f"a fixed piece of work took {slow[core] - 1:.0%} longer than usual on core {core} while the engine rested: "
        "its clock was lower, or its other half was somebody else's",
    )


def _clocks(before: Reading, after: Reading, tolerances: Tolerances) -> Void | None:
    monotonic = after.monotonic_ns - before.monotonic_ns
    raw = after.raw_ns - before.raw_ns
    asleep = (after.boot_ns - before.boot_ns) - monotonic
    if asleep > tolerances.clock * max(raw, 1):
        return Void("suspended", f"the machine slept for {asleep / NS_PER_S:.3g} s")
    if abs(monotonic - raw) > tolerances.clock * max(raw, 1):
        return Void(
            "clock",
            f"the system's clock was moved: {monotonic / NS_PER_MS:.4g} ms by it, {raw / NS_PER_MS:.4g} ms in truth",
        )
    return None


def _throttled(before: Reading, after: Reading, cores: Collection[int]) -> Void | None:
    hot = {core: after.throttles.get(core, 0) - before.throttles.get(core, 0) for core in sorted(cores)}
    hot = {core: times for core, times in hot.items() if times > 0}
    if not hot:
        return None
    return Void("throttled", f"core {_listed(hot)} was slowed down {max(hot.values())} times because it was hot")


def _stolen(stolen: Stolen, cores: Collection[int], tolerances: Tolerances) -> Void | None:
    """A tick that is counted in a round may have been stolen before it for the most part: one less is certain."""
    for core in sorted(cores):
        ticks = stolen.ticks.get(core, 0)
        if (ticks - 1) * TICK_NS > tolerances.stolen * stolen.wall_ns:
            share = ticks * TICK_NS / stolen.wall_ns
            return Void("stolen", f"the hypervisor took about {share:.0%} of core {core}: other guests of this host")
    return None


def _contended(
    before: Reading, after: Reading, cores: Collection[int], served_ns: int, tolerances: Tolerances
) -> Void | None:
    """What the engine waited for its cores while it served, as far as they were not busy with the engine itself.

    Two threads of one engine on one core wait for each other whenever one wakes the other. That is the engine's own
    way of working, and no more time goes lost by it than its cores were without it. Cores of a server and those of what
    sends its requests are looked at apart: the idle time of these is none that the server could have had. And others
    took no more than the cores worked for them: replicas wait for who shares out their work, and rest meanwhile.
    """
    if before.threads is None or after.threads is None:
        return None
    waited_ns: Counter[frozenset[int]] = Counter()
    ran_ns: Counter[frozenset[int]] = Counter()
    for thread, now in after.threads.items():
        earlier = before.threads.get(thread, Turns(0, 0))
        on = now.cores & frozenset(cores) or frozenset(cores)
        waited_ns[on] += now.waited_ns - earlier.waited_ns
        ran_ns[on] += now.ran_ns - earlier.ran_ns
    apart_ns = {on: min(waited_ns[on], max(0, len(on) * served_ns - ran_ns[on])) for on in waited_ns}
    counted = _counted(before, after, apart_ns)
    others_ns = _others_ns(before, after, counted, sum(ran_ns[on] for on in ran_ns if on <= counted), served_ns)
    known_ns = sum(lost for on, lost in apart_ns.items() if on <= counted)
    lost_ns = sum(apart_ns.values()) - known_ns + min(known_ns, others_ns)
    lost_ns = min(lost_ns, len(cores) * served_ns - ran_ns.total())
    # Threads on the same cores wait for each other in each step; those on cores of their own, as replicas, don't.
    parts = sum(not any(other < on for other in waited_ns) for on in waited_ns)
    if lost_ns <= max(parts * tolerances.waiting * served_ns, tolerances.waiting_floor_ns):
        return None
    its = "core" if len(cores) == 1 else f"{len(cores)} cores"
    share = lost_ns / (len(cores) * served_ns)
    return Void("contended", f"others had the engine's {its} for {share:.1%} of the round")


def _counted(before: Reading, after: Reading, groups: Collection[frozenset[int]]) -> frozenset[int]:
    """The cores of which it is told how long they rested; none where some thread may run on these and on others."""
    counted = frozenset(before.idle_ns.keys() & after.idle_ns.keys())
    return counted if all(on <= counted or on.isdisjoint(counted) for on in groups) else frozenset()


def _others_ns(before: Reading, after: Reading, cores: Collection[int], ran_ns: int, served_ns: int) -> int:
    """What these cores worked between the readings for others than the engine, which ran there for so long.

    What this process did before it asked for the round and after it heard of it is not among that.
    """
    wall_ns = after.monotonic_ns - before.monotonic_ns
    idle_ns = sum(after.idle_ns[core] - before.idle_ns[core] for core in cores)
    around_ns = min(after.own_ns - before.own_ns, max(0, wall_ns - served_ns))
    return max(0, len(cores) * wall_ns - idle_ns - ran_ns - around_ns)


def _slowed(before: Reading, after: Reading, cores: Collection[int], tolerances: Tolerances) -> Void | None:
    """Only within a round: what a machine settles at after its first seconds of load is its pace, not a fault."""
    for core in sorted(cores):
        was, is_now = before.clock_khz.get(core), after.clock_khz.get(core)
        if was and is_now and is_now < (1 - tolerances.slowed) * was:
            return Void("slowed", f"the clock of core {core} fell from {was / 1e6:.2f} to {is_now / 1e6:.2f} GHz")
    return None


def judge_package(before: Reading, after: Reading, tolerances: Tolerances = Tolerances()) -> Void | None:
    """Whether others worked so much, on whatever core, that a package's joules of this time are theirs, too. None as
    well where this machine doesn't tell.

    Busy time is counted in whole ticks: what so many cores' ticks may be off by is never blamed.
    """
    if before.threads is None or after.threads is None or not after.busy_ticks:
        return None
    busy_ns = TICK_NS * sum(ticks - before.busy_ticks.get(core, 0) for core, ticks in after.busy_ticks.items())
    none = Turns(0, 0)
    ran_ns = sum(now.ran_ns - before.threads.get(thread, none).ran_ns for thread, now in after.threads.items())
    others_ns = busy_ns - ran_ns
    if others_ns <= max(tolerances.package * busy_ns, 2 * TICK_NS * math.sqrt(len(after.busy_ticks))):
        return None
    share = others_ns / busy_ns
    return Void("package", f"{share:.0%} of all cores' work was others', and a package's joules are those of all cores")


def load_elsewhere(before: Reading, after: Reading, cores: Collection[int]) -> float:
    """Share of the time between the readings in which the cores that the engine is not pinned to were busy."""
    others = set(after.busy_ticks) - set(cores)
    wall_ns = after.monotonic_ns - before.monotonic_ns
    if not others or wall_ns <= 0:
        return 0.0
    busy = sum(after.busy_ticks[core] - before.busy_ticks.get(core, 0) for core in others)
    return min(1.0, busy * TICK_NS / wall_ns / len(others))


def _listed(cores: Collection[int]) -> str:
    return ", ".join(map(str, sorted(cores)))
