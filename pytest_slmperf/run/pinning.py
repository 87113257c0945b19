"""Which cores an engine gets, and keeping this process off them while it measures."""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.pool.pinning import hardware_threads, numa_node
from pytest_slmperf.run import fingerprint

_THREADS = Path("/proc/self/task")


def usable_cores(*, root: Path = Path("/")) -> int:
    """As many cores as this process may use at once: those that it may run on, or the time of them that its control
    group allows, whichever is less.
    """
    cores, allowance = len(os.sched_getaffinity(0)), fingerprint.quota(root)
    return cores if allowance is None else min(cores, max(1, int(allowance)))


def choose_cores(threads: int, replicas: int = 1, *, root: Path = Path("/")) -> tuple[int, ...]:
    """One core for each thread, the first of the ranked; of replicas, the cores of each on one NUMA node where that has
    as many.

    Raises UsageError where there are fewer cores than threads, or less time of them: the kernel lets who has used up
    its quota wait, on however many cores it is.
    """
    ranked, usable = ranked_cores(), usable_cores(root=root)
    needed = threads * replicas
    if needed > usable:
        cores = f"{usable} core{'s' if usable > 1 else ''}"
        if usable < len(ranked):
            cores += f" (that is what the control group, cgroup, gives of {len(ranked)})"
        if replicas > 1:
            raise UsageError(
                f"{replicas} replicas of {threads} thread{'s' if threads > 1 else ''} on {cores} would wait for each "
                f"other, and the scheduler would be measured: {needed} cores are needed; lower replicas or threads"
            )
        raise UsageError(
            f"{threads} threads on {cores} would wait for each other, "
            f"and the scheduler would be measured: set threads to {usable} or less"
        )
    if replicas == 1:
        return tuple(sorted(ranked[:threads]))
    return tuple(sorted(apart(ranked, threads, replicas, nodes={core: numa_node(core) for core in ranked})))


def apart(ranked: Collection[int], threads: int, replicas: int, *, nodes: Mapping[int, int]) -> list[int]:
    """Cores for so many replicas, of those that are ranked: for each the next ones of the node on which the fewest
    replicas are yet, as long as one has as many; then whatever is left.
    """
    left: dict[int, list[int]] = {}
    rank = {core: place for place, core in enumerate(ranked)}
    for core in ranked:
        left.setdefault(nodes.get(core, 0), []).append(core)
    chosen: list[int] = []
    there = dict.fromkeys(left, 0)
    for _ in range(replicas):
        roomy = [node for node, cores in left.items() if len(cores) >= threads]
        if roomy:
            node = min(roomy, key=lambda node: (there[node], rank[left[node][threads - 1]]))
            there[node] += 1
            own = left[node][:threads]
        else:
            own = sorted((core for cores in left.values() for core in cores), key=rank.__getitem__)[:threads]
        chosen += own
        left = {node: [core for core in cores if core not in own] for node, cores in left.items()}
    return chosen


def check_cores(spec: EngineSpec, cores: Collection[int] | None) -> None:
    """Raises UsageError for fewer cores than an engine needs, and for those that this process may not use."""
    if cores is None:
        return
    if len(cores) < spec.cores:
        each = f"of each of its {spec.pool.replicas} replicas" if spec.pool and spec.pool.replicas > 1 else ""
        raise UsageError(
            f"{spec.engine} needs {spec.cores} cores, one for each thread{' ' * bool(each)}{each}, and was given "
            f"{len(cores)}: lower threads{' or replicas' * bool(each)}"
        )
    allowed = os.sched_getaffinity(0)
    if missing := sorted(set(cores) - allowed):
        raise UsageError(
            f"{spec.engine} can't be pinned to core {', '.join(map(str, missing))}: the control group (cgroup) of this "
            f"run leaves it {', '.join(map(str, sorted(allowed)))}"
        )


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
