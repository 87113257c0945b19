"""Which cores there are, and keeping replicas to cores of their own, and this process off them."""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from pytest_slmperf.core.devices.cores import cores_of
from pytest_slmperf.core.errors import EngineUnavailable

CORES = Path("/sys/devices/system/cpu")


def numa_node(core: int) -> int:
    """The node whose memory is near to a core; 0 where the kernel knows of none."""
    for entry in (CORES / f"cpu{core}").glob("node[0-9]*"):
        return int(entry.name.removeprefix("node"))
    return 0


def hardware_threads(core: int) -> frozenset[int]:
    """The cores that share this one's units, itself included."""
    try:
        listed = (CORES / f"cpu{core}" / "topology" / "thread_siblings_list").read_text()
    except OSError:
        return frozenset({core})
    return cores_of(listed) | {core}


def pin(cores: Collection[int]) -> None:
    """Pin this process to all of these cores, and so what it starts.

    Raises EngineUnavailable where it may not use one of them: the kernel takes the others without a word.
    """
    before = os.sched_getaffinity(0)
    with suppress(OSError):
        os.sched_setaffinity(0, cores)
    got = os.sched_getaffinity(0)
    if got != set(cores):
        os.sched_setaffinity(0, before)
        missing = sorted(set(cores) - got) or sorted(cores)
        raise EngineUnavailable(
            f"it can't be pinned to core {_listed(missing)}: the control group (cgroup) of this run leaves it "
            f"{_listed(sorted(before))}"
        )


def _listed(cores: Collection[int]) -> str:
    return ", ".join(map(str, cores))
