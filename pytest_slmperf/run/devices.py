"""Which device an engine takes, what machine that makes this one, and holding it while it is measured on."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_slmperf.core.devices.gpus import MOST_BOARDS, Gpu, Slice, first_gpu, gpus_each, visible_of
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import DeviceBusy, EngineUnavailable, MeterUnavailable, UsageError
from pytest_slmperf.core.machine import REMOTE, SIMULATED, Machine
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.engines import registry
from pytest_slmperf.engines.address import device_of_pool
from pytest_slmperf.meters import boards
from pytest_slmperf.meters.nvml import visible_devices
from pytest_slmperf.pool import mig
from pytest_slmperf.run import fingerprint, pinning
from pytest_slmperf.run.lock import device_lock

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
HOST = "cpu"
"""The lock of all cores: see `pytest_slmperf.run.lock`."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where an engine runs."""

    kind: str
    """As it calls it: `cpu`, `cuda`, `remote:HOST:PORT`, `simulated`, or what this package doesn't know."""
    index: int = 0
    """Of the first of its GPUs, among those that it may see."""
    count: int = 1
    """Of its GPUs, which follow each other."""
    slices: tuple[str, ...] = ()
    """The UUIDs of the MIG slices that it runs on instead."""

    def __str__(self) -> str:
        if self.kind != "cuda":
            return self.kind
        if self.slices:
            return f"{len(self.slices)} MIG slice{'s' if len(self.slices) > 1 else ''}"
        return f"GPU {self.index}" if self.count == 1 else f"GPUs {self.index} to {self.index + self.count - 1}"

    @property
    def boards(self) -> tuple[int | str, ...]:
        """The GPUs' numbers or UUIDs, as their driver knows them. Raises UsageError for one that the engine may not
        see.
        """
        if self.slices:
            return self.slices
        found = boards_at(self.index, self.count)
        if len(found) < self.count:
            shown, asked = len(_visible() or ()), self.index + len(found)
            raise UsageError(f"there is no GPU {asked}: {VISIBLE}={os.environ[VISIBLE]} shows {shown}")
        return found

    def is_part_of(self, other: "Device") -> bool:
        """Whether all of it is in the other, or is the other."""
        if self == other or (self.kind, other.kind) != ("cuda", "cuda"):
            return self == other
        return set(self.boards) <= set(other.boards)


def device_of(engine: str, options: Mapping[str, object], pool: Pool | None = None) -> Device:
    """Where an engine with these options runs: its `device` (`cuda`, `cuda:1`, `auto`) and `device_index`, or else what
    it runs on by default; on several GPUs where one of SPREADS says so, or where each replica of the pool has its own;
    at the addresses of replicas that are elsewhere.

    Raises UsageError for a GPU before the first: an engine may count such a number from the last one, and its joules
    would be another board's. Raises EngineUnavailable for more MIG slices than there are.
    """
    asked = str(options.get("device", registry.default_device(engine, options)))
    kind = asked.partition(":")[0]
    if kind == "auto":
        kind = "cuda" if _visible() != () and boards.count() else "cpu"
    if kind == REMOTE:
        return Device(asked)
    if pool and kind != SIMULATED and (there := device_of_pool(pool)):
        return Device(there)
    if kind != "cuda":
        return Device(kind)
    if pool and pool.kind == "mig":
        return Device(kind, slices=tuple(one.uuid for one in mig.choose(_mig_parts(), pool.replicas)))
    apart = pool.replicas if pool and pool.kind == "gpus" else 1
    return Device(kind, first_gpu(options), min(apart * gpus_each(options), MOST_BOARDS))


def too_few_gpus(spec: EngineSpec) -> str | None:
    """Why this run has surely too few GPUs or MIG slices for an engine, or None. Raises UsageError: see `device_of`."""
    try:
        there = device_of(spec.engine, spec.options, spec.pool)
    except EngineUnavailable as error:
        return str(error)
    if there.kind != "cuda" or there.slices:
        return None
    seen, needed = _visible(), there.index + there.count
    known = boards.count() if seen is None else len(seen)
    return f"it needs {there}, and this run may use {known}" if needed > known else None


def _mig_parts() -> Sequence[Gpu | Slice]:
    """The GPUs and slices that CUDA may see. Raises EngineUnavailable where they can't be asked."""
    try:
        return visible_of(boards.gpus(), _visible())
    except MeterUnavailable as error:
        raise EngineUnavailable(f"MIG slices can't be looked for: {error}") from error


def boards_at(index: int, count: int = 1) -> tuple[int | str, ...]:
    """So many boards from this number on, of those that CUDA may see, as their driver knows them; fewer where there are
    no more.
    """
    seen = _visible()
    return tuple(range(index, index + count)) if seen is None else seen[index : index + count]


def _visible() -> tuple[int | str, ...] | None:
    """The boards that this process and its children may see, or None where that is all of them."""
    visible = os.environ.get(VISIBLE)
    return None if visible is None else visible_devices(visible)


def machine_of(device: Device) -> Machine:
    """This machine, for engines on the device. Raises EngineUnavailable for a GPU of which nothing can be known."""
    if device.kind == SIMULATED:
        return fingerprint.simulated()
    host = fingerprint.with_variables(fingerprint.probe(), os.environ)
    if device.kind.startswith(f"{REMOTE}:"):
        return fingerprint.remote(host, device.kind.partition(":")[2])
    if device.kind != "cuda":
        return host
    return fingerprint.with_compile_caches(fingerprint.with_boards(host, _described(device)), os.environ)


def _described(device: Device) -> list[boards.Board]:
    try:
        return [boards.describe(board, order=os.environ.get(ORDER)) for board in device.boards]
    except MeterUnavailable as error:
        raise EngineUnavailable(
            f"the engine is to run on a GPU (cuda), and what it is can't be found out: {error}"
        ) from error


class HeldDevices:
    """The devices that a run measures on, held from its first launch to its end; a crash gives them back."""

    def __init__(self, *, wait_s: float, say: Callable[[str], object], folder: Path | None = None) -> None:
        """`say` is told who has what is waited for. Locks lie in `folder`, or else where all users find them."""
        self._wait_s = wait_s
        self._say = say
        self._folder = folder
        self._held = ExitStack()
        self._locked: set[str] = set()
        self._alone = False
        self._cores: list[int] = []

    def hold(self, devices: Iterable[Device], *, wait_s: float | None = None) -> None:
        """Hold these, too. Raises DeviceBusy, naming who has one of them for too long: for `wait_s`, by default as long
        as this was made for. Then none of them is held that wasn't before.
        """
        limit_s = self._wait_s if wait_s is None else wait_s
        real = {device for device in devices if device.kind != SIMULATED}
        gpus = {device for device in real if device.kind == "cuda"}
        if real and HOST not in self._locked:
            self._alone = gpus != real
            self._held.enter_context(self._locked_device(HOST, self._wait_s, shared=not self._alone))
            self._locked.add(HOST)
        # In one order, or two runs would wait for each other.
        uuids = sorted({board.uuid for device in gpus for board in _described(device)} - self._locked)
        with ExitStack() as taken:
            for uuid in uuids:
                taken.enter_context(self._locked_device(uuid, limit_s))
            self._held.enter_context(taken.pop_all())
        self._locked.update(uuids)

    def _locked_device(self, name: str, wait_s: float, *, shared: bool = False) -> AbstractContextManager[None]:
        return device_lock(name, wait_s=wait_s, shared=shared, say=self._say, folder=self._folder)

    def cores(self, spec: EngineSpec) -> tuple[int, ...] | None:
        """The cores that an engine is pinned to, on what is held; None where nothing is, since its time is simulated.

        Beside other jobs on GPUs, they are cores that none of those has. Raises UsageError for more threads than cores,
        and DeviceBusy for more than are left.
        """
        if not self._locked:
            return None
        if spec.beside:
            chosen = pinning.choose_cores(spec.cores)
        else:
            chosen = pinning.choose_cores(spec.threads, spec.cores // spec.threads)
        if self._alone:
            return chosen
        for core in pinning.ranked_cores():
            if len(self._cores) >= spec.cores:
                break
            if core not in self._cores:
                with suppress(DeviceBusy):
                    taken = device_lock(f"core {core}", wait_s=0, say=lambda _: None, folder=self._folder)
                    self._held.enter_context(taken)
                    self._cores.append(core)
        if len(self._cores) < spec.cores:
            raise DeviceBusy(
                f"{spec.engine} needs {spec.cores} cores, and jobs on other GPUs of this machine leave "
                f"{len(self._cores)}: lower threads, or wait for them"
            )
        return tuple(sorted(self._cores[: spec.cores]))

    def close(self) -> None:
        """Give them back."""
        self._held.close()
