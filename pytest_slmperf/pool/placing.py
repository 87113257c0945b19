"""Looking at this machine for a pool, and holding what surrounds its replicas while they live."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from pytest_slmperf.core.devices.board import THREAD_SHARE, is_mps_server
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineUnavailable, MeterUnavailable
from pytest_slmperf.core.machine import SIMULATED
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.engines.registry import default_device
from pytest_slmperf.meters import boards
from pytest_slmperf.meters.nvml import visible_devices
from pytest_slmperf.pool import mps
from pytest_slmperf.pool.control_groups import memory_left_bytes
from pytest_slmperf.pool.devices import VISIBLE, Host, Placement, placements
from pytest_slmperf.pool.pinning import hardware_threads, numa_node


@dataclass(frozen=True)
class Placed:
    """The replicas' places, while what surrounds them is there."""

    placements: tuple[Placement, ...]
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """What of these surroundings the samples hold for, for the pool's facts."""
    _daemon: mps.Daemon | None = None

    def check(self, replicas: Mapping[str, int]) -> None:
        """Raises EngineFailed unless each of these, by its name with its process, runs where it is meant to: under MPS
        as a client of the pool's daemon. For after the start, since a process has to use its GPU before that is seen.
        """
        if self._daemon is not None:
            gpus = {uuid for one in self.placements for uuid in one.gpus}
            self._daemon.check_attached(replicas, lambda: _listed(gpus))

    def check_around(self) -> None:
        """Raises EngineFailed where the pool's daemon has ended before its replicas. Takes microseconds."""
        if self._daemon is not None:
            self._daemon.check_running()


@contextmanager
def placed(pool: Pool, spec: EngineSpec) -> Iterator[Placed]:
    """Where the replicas of this pool run on this machine, with the daemon that the kind `mps` needs.

    Raises UsageError and EngineUnavailable for what can't be; see `placements`.
    """
    host = host_here(spec)
    found = placements(pool, spec, host)
    gpus = list(dict.fromkeys(uuid for one in found for uuid in one.gpus))
    if pool.kind != "mps":
        if gpus:
            _refuse_strange_daemon(pool)
        yield Placed(found)
        return
    _refuse_strange_server(host, gpus)
    with mps.serving(gpus) as daemon:
        theirs = [replace(one, environment={**one.environment, **daemon.environment}) for one in found]
        share = os.environ.get(THREAD_SHARE)
        yield Placed(tuple(theirs), {"mps_active_thread_percentage": share} if share else {}, daemon)


def host_here(spec: EngineSpec) -> Host:
    """This machine, as far as this process may use it. Raises EngineUnavailable for a GPU that can't be asked."""
    kind = str(spec.options.get("device", default_device(spec.engine, spec.options))).partition(":")[0]
    if kind == SIMULATED:
        return Host(SIMULATED)
    cores = tuple(sorted(os.sched_getaffinity(0)))
    visible = os.environ.get(VISIBLE)
    seen = None if visible is None else visible_devices(visible)
    try:
        gpus = boards.gpus() if kind in {"cuda", "auto"} and seen != () else ()
    except MeterUnavailable as error:
        if kind == "cuda":
            raise EngineUnavailable(f"a pool on a GPU needs its driver: {error}") from error
        gpus = ()
    return Host(
        device=("cuda" if gpus else "cpu") if kind == "auto" else kind,
        cores=cores,
        nodes={core: numa_node(core) for core in cores},
        siblings={core: hardware_threads(core) for core in cores},
        gpus=gpus,
        visible=seen,
        memory_free_bytes=memory_left_bytes(),
    )


def _refuse_strange_daemon(pool: Pool) -> None:
    """Raises EngineUnavailable where CUDA would make the replicas clients of a daemon that runs already."""
    if boards.mps_daemon_runs():
        folder = os.environ.get(mps.PIPES) or boards.MPS_PIPES
        raise EngineUnavailable(
            f"an MPS daemon runs in {folder}, and CUDA would make the replicas of this pool ({pool.kind}) its clients "
            "without a word: end it (echo quit | nvidia-cuda-mps-control), or take the kind mps, which has its own"
        )


def _refuse_strange_server(host: Host, gpus: list[str]) -> None:
    """Raises EngineUnavailable where somebody else's MPS works on these GPUs."""
    with suppress(MeterUnavailable):
        for pid, name in boards.users(gpus).computing.items():
            if is_mps_server(name):
                numbers = ", ".join(str(gpu.index) for gpu in host.gpus if gpu.uuid in gpus)
                raise EngineUnavailable(
                    f"an MPS server of somebody else works on GPU {numbers} (pid {pid}), and would share it with this "
                    "pool's: end its daemon (echo quit | nvidia-cuda-mps-control), or wait for it"
                )


def _listed(gpus: set[str]) -> tuple[set[int], frozenset[int]]:
    """See mps.Listed; nobody where the driver doesn't tell."""
    try:
        found = boards.users(gpus)
    except MeterUnavailable:
        return set(), frozenset()
    return set(found.computing), found.through_mps
