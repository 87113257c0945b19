"""Which device an engine takes, what machine that makes this one, and holding it while it is measured on."""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import DeviceBusy, EngineUnavailable, MeterUnavailable, UsageError
from pytest_slmperf.core.machine import REMOTE, SIMULATED, Machine
from pytest_slmperf.engines import registry
from pytest_slmperf.meters import boards
from pytest_slmperf.meters.nvml import visible_devices
from pytest_slmperf.run import fingerprint, pinning
from pytest_slmperf.run.lock import device_lock

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
MOST_DIGITS = 9
"""Of a GPU's number: with more of them it is none, and the engine says so."""
MOST_BOARDS = 1024
"""Of one engine: no machine has as many, and asking for the first that lacks says so."""
SPREADS = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
"""Options of which each says over how many GPUs an engine spreads: over as many as their product, one after the other.
"""
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

    def __str__(self) -> str:
        if self.kind != "cuda":
            return self.kind
        return f"GPU {self.index}" if self.count == 1 else f"GPUs {self.index} to {self.index + self.count - 1}"

    @property
    def boards(self) -> tuple[int | str, ...]:
        """The GPUs' numbers or UUIDs, as their driver knows them. Raises UsageError for one that the engine may not
        see.
        """
        found = boards_at(self.index, self.count)
        if len(found) < self.count:
            shown, asked = len(_visible() or ()), self.index + len(found)
            raise UsageError(f"there is no GPU {asked}: {VISIBLE}={os.environ[VISIBLE]} shows {shown}")
        return found


def device_of(engine: str, options: Mapping[str, object]) -> Device:
    """Where an engine with these options runs: its `device` (`cuda`, `cuda:1`, `auto`) and `device_index`, or else what
    it runs on by default; on several GPUs where one of SPREADS says so. Raises UsageError for a GPU before the first:
    an engine may count such a number from the last one, and its joules would be another board's.
    """
    asked = str(options.get("device", registry.default_device(engine, options)))
    kind, _, number = asked.partition(":")
    index = int(number) if number.isdecimal() and len(number) <= MOST_DIGITS else options.get("device_index", 0)
    if kind == "auto":
        kind = "cuda" if _visible() != () and boards.count() else "cpu"
    if kind == REMOTE:
        return Device(asked)
    if kind != "cuda":
        return Device(kind)
    if isinstance(index, int) and index < 0:
        raise UsageError(f"there is no GPU {index}: they are counted from 0")
    named = {name.replace("-", "_"): value for name, value in options.items()}
    spread = (named.get(name) for name in SPREADS)
    count = math.prod(size for size in spread if isinstance(size, int) and size > 0)
    return Device(kind, index if isinstance(index, int) else 0, min(count, MOST_BOARDS))


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

    def hold(self, devices: Iterable[Device]) -> None:
        """Hold these, too. Raises DeviceBusy, naming who has one of them for too long."""
        real = {device for device in devices if device.kind != SIMULATED}
        gpus = {device for device in real if device.kind == "cuda"}
        if real and HOST not in self._locked:
            self._alone = gpus != real
            self._lock(HOST, shared=not self._alone)
        # In one order, or two runs would wait for each other.
        for uuid in sorted({board.uuid for device in gpus for board in _described(device)}):
            if uuid not in self._locked:
                self._lock(uuid)

    def _lock(self, name: str, *, shared: bool = False) -> None:
        self._held.enter_context(
            device_lock(name, wait_s=self._wait_s, shared=shared, say=self._say, folder=self._folder)
        )
        self._locked.add(name)

    def cores(self, spec: EngineSpec) -> tuple[int, ...] | None:
        """The cores that an engine is pinned to, on what is held; None where nothing is, since its time is simulated.

        Beside other jobs on GPUs, they are cores that none of those has. Raises UsageError for more threads than cores,
        and DeviceBusy for more than are left.
        """
        if not self._locked:
            return None
        chosen = pinning.choose_cores(spec.threads)
        if self._alone:
            return chosen
        for core in pinning.ranked_cores():
            if len(self._cores) >= spec.threads:
                break
            if core not in self._cores:
                with suppress(DeviceBusy):
                    taken = device_lock(f"core {core}", wait_s=0, say=lambda _: None, folder=self._folder)
                    self._held.enter_context(taken)
                    self._cores.append(core)
        if len(self._cores) < spec.threads:
            raise DeviceBusy(
                f"{spec.engine} needs {spec.threads} cores, and jobs on other GPUs of this machine leave "
                f"{len(self._cores)}: lower threads, or wait for them"
            )
        return tuple(sorted(self._cores[: spec.threads]))

    def close(self) -> None:
        """Give them back."""
        self._held.close()
