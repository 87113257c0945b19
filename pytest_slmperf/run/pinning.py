"""Which cores an engine gets, and keeping this process off them while it measures."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pytest_slmperf.core.errors import UsageError

CORES = Path("/sys/devices/system/cpu")
_THREADS = Path("/proc/self/task")


def choose_cores(threads: int) -> tuple[int, ...]:
    """One core for each thread, the first of the ranked.

    Raises UsageError where there are fewer cores than threads.
    """
    allowed = os.sched_getaffinity(0)
    if threads > len(allowed):
        raise UsageError(
            f"{threads} threads on {len(allowed)} core{'s' if len(allowed) > 1 else ''} would wait for each other, "
            f"and the scheduler would be measured: set threads to {len(allowed)} or less"
        )
    return tuple(sorted(ranked_cores()[:threads]))


def ranked_cores() -> list[int]:
    """The cores that this process may use, best first: the last ones, as interrupts prefer the first.

    Two hardware threads of one core share its units, so a second one comes only when no core is left untouched.
    """
    allowed = sorted(os.sched_getaffinity(0), reverse=True)
    return spread(allowed, siblings={core: hardware_threads(core) for core in allowed})


def spread(cores: Collection[int], siblings: dict[int, frozenset[int]]) -> list[int]:
    """The cores in their order, but those whose sibling comes earlier last."""
    first: list[int] = []
    second: list[int] = []
    for core in cores:
        (second if siblings[core] & set(first) else first).append(core)
    return first + second


def hardware_threads(core: int) -> frozenset[int]:
    """The cores that share this one's units, itself included."""
    try:
        listed = (CORES / f"cpu{core}" / "topology" / "thread_siblings_list").read_text()
    except OSError:
        return frozenset({core})
    return cores_of(listed) | {core}


def cores_of(listed: str) -> frozenset[int]:
    """The cores of a kernel's list: `0-2,8`."""
    cores: set[int] = set()
    for part in listed.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run this thread, and what it starts meanwhile, on the core and nowhere else. Raises OSError where it may not."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def used_cores(process: int, cores: Collection[int] | None) -> tuple[int, ...] | None:
    """The cores that an engine was given, and those that its process is on now: what sends requests to a server of its
    own moves off the server's. None where it wasn't pinned.
    """
    if not cores:
        return None
    moved = set(cores)
    with suppress(OSError):  # it has ended
        moved |= os.sched_getaffinity(process)
    return tuple(sorted(moved))


@contextmanager
def keep_off(cores: Collection[int] | None) -> Iterator[None]:
    """Keep every thread of this process off the cores, where it may use others. Undone at the end."""
    elsewhere = os.sched_getaffinity(0) - set(cores or ())
    if not cores or not elsewhere:
        yield
        return
    before: dict[int, set[int]] = {}
    try:
        for thread in _threads():
            with suppress(OSError):  # it has ended since
                allowed = os.sched_getaffinity(thread)
                if allowed - set(cores):
                    os.sched_setaffinity(thread, allowed - set(cores))
                    before[thread] = allowed
        yield
    finally:
        for thread, allowed in before.items():
            with suppress(OSError):
                os.sched_setaffinity(thread, allowed)


def _threads() -> list[int]:
    try:
        return [int(entry.name) for entry in _THREADS.iterdir()]
    except OSError:
        return [0]  # no /proc: the calling thread
