"""What this machine's counters say: read right before and right after a round."""

import os
import re
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from pytest_slmperf.core.units import NS_PER_US
from pytest_slmperf.pool.pinning import CORES
from pytest_slmperf.run.guards import Reading, Turns
from pytest_slmperf.run.pinning import on_core
from pytest_slmperf.worker.bootstrap import ids

# Fields of a line of /proc/stat after the core's name, in ticks.
_IDLE, _IOWAIT, _STEAL = 3, 4, 7
_STAT = re.compile(rb"^cpu(\d+) (.+)$", re.MULTILINE)


class Witness:
    """Reads this machine's counters for a process and all that descends from it. Lives as long as the process.

    `engine` is one of them, that is known where the kernel lists no children.
    """

    def __init__(self, root: int, cores: Collection[int] | None, *, engine: int | None = None) -> None:
        self._pinned = bool(cores)
        self._counts_turns = _numbered_as_here() and os.access("/proc/thread-self/schedstat", os.R_OK)
        self._lists_children = os.access("/proc/thread-self/children", os.R_OK)
        self._known = (root,) if engine is None or self._lists_children else (root, engine)
        watched = sorted(cores) if cores is not None else sorted(os.sched_getaffinity(0))
        self._throttles = _readable(
            {core: CORES / f"cpu{core}/thermal_throttle/core_throttle_count" for core in watched}
        )
        self._clocks = _readable({core: CORES / f"cpu{core}/cpufreq/scaling_cur_freq" for core in watched})
        self._idle_states = {core: _idle_states(core) for core in cores or ()}

    @property
    def blind_to(self) -> tuple[str, ...]:
        """What this machine does not let us see, each as a note."""
        blind = []
        if not self._throttles and not self._clocks and not self._pinned:
            blind.append(
                "this machine does not show its cores' clock and throttling, and the engine is not pinned to any, so a "
                "slowed core is not noticed"
            )
        if not self._counts_turns:
            blind.append("this machine does not show how long a thread waits for a core, so contention is not noticed")
        elif not self._lists_children:
            blind.append(
                "this kernel does not list a process's children, so contention is noticed of the engine's own process "
                "alone"
            )
        return tuple(blind)

    def read(self) -> Reading:
        """The counters now. About 0.1 ms, as much for each core that the engine is pinned to, and 10 µs for each thread
        of the engine and of its guard: for right before and right after a round, never within.
        """
        threads = self._turns()
        stat = _cores_of_stat()
        idle_ns = self._idle()
        return Reading(
            monotonic_ns=time.monotonic_ns(),
            raw_ns=time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW),
            boot_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            threads=threads,
            steal_ticks={core: ticks[_STEAL] for core, ticks in stat.items()},
            busy_ticks={core: sum(ticks[:_STEAL]) - ticks[_IDLE] - ticks[_IOWAIT] for core, ticks in stat.items()},
            idle_ns=idle_ns,
            own_ns=time.process_time_ns(),
            throttles=_numbers(self._throttles),
            clock_khz=_numbers(self._clocks),
        )

    def _idle(self) -> dict[int, int]:
        """What its cores rested, as far as the kernel counts it. A rest counts when it ends, so that each is woken."""
        rested: dict[int, int] = {}
        for core, states in self._idle_states.items():
            if states:
                with suppress(OSError, ValueError), on_core(core):
                    rested[core] = NS_PER_US * sum(int(state.read_text()) for state in states)
        return rested

    def _turns(self) -> dict[int, Turns] | None:
        if not self._counts_turns:
            return None
        turns: dict[int, Turns] = {}
        family = list(self._known)
        for pid in family:
            with suppress(OSError):  # it has ended meanwhile
                for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - a quarter of the time of a Path
                    with suppress(OSError):
                        task = f"/proc/{pid}/task/{thread}"
                        with open(f"{task}/schedstat", "rb") as counters:  # noqa: PTH123 - as above
                            ran, waited, _ = counters.read().split()
                        allowed = frozenset(os.sched_getaffinity(int(thread)))
                        turns[int(thread)] = Turns(int(ran), int(waited), allowed)
                        with open(f"{task}/children", "rb") as children:  # noqa: PTH123 - as above
                            family.extend(map(int, children.read().split()))
        return turns


def _numbered_as_here() -> bool:
    """Whether /proc is that of this process's PID namespace, and not an outer one's."""
    with suppress(OSError):
        return ids("self") == [os.getpid()]
    return False


def _idle_states(core: int) -> tuple[Path, ...]:
    """Where the kernel counts the microseconds that a core spent in each of its states of rest."""
    return tuple((CORES / f"cpu{core}/cpuidle").glob("state*/time"))


def _cores_of_stat() -> dict[int, list[int]]:
    with open("/proc/stat", "rb") as file:  # noqa: PTH123 - read twice a round
        content = file.read()
    return {int(core): [int(ticks) for ticks in counted.split()] for core, counted in _STAT.findall(content)}


def _readable(paths: Mapping[int, Path]) -> dict[int, Path]:
    return {core: path for core, path in paths.items() if os.access(path, os.R_OK)}


def _numbers(paths: Mapping[int, Path]) -> dict[int, int]:
    numbers: dict[int, int] = {}
    for core, path in paths.items():
        with suppress(OSError, ValueError):
            numbers[core] = int(path.read_text())
    return numbers
