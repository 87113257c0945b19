"""What an NVIDIA board is and how it is set: what a measurement on it holds for."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pytest_slmperf.core.devices.board import mps_serves, seen_processes
from pytest_slmperf.core.devices.gpus import Gpu, Slice
from pytest_slmperf.core.errors import MeterUnavailable
from pytest_slmperf.core.machine import GPU_UUID, Scalar
from pytest_slmperf.meters.nvml import TRANSIENT, Handle, Library, find_board, is_stand_in, library, reason_of

Value = TypeVar("Value")

MILLI = 1e-3
GIB = 2**30
COMPUTE_MODES = ("default", "exclusive thread", "prohibited", "exclusive process")
VIRTUALISATIONS = ("none", "passthrough", "vgpu", "host vgpu", "host vsga")
"""As NVML counts them."""
MPS_PIPES = "/tmp/nvidia-mps"  # noqa: S108 - where CUDA looks for it
MPS_PID_FILE = "nvidia-cuda-mps-control.pid"
MPS_PROCESSES = "nvidia-cuda-mps"
"""What the names of its daemon and servers begin with, as far as the kernel keeps them: 15 letters."""


@dataclass(frozen=True, slots=True)
class Board:
    """A GPU, or an instance of one, as its driver describes it."""

    name: str
    """The model; of a MIG instance with its profile: `NVIDIA H100 80GB HBM3 MIG 1g.10gb`."""
    uuid: str
    """Of the whole board, also where an instance of it is meant."""
    driver: str
    simulated: bool
    """Whether a stand-in answers."""
    fields: Mapping[str, Scalar] = field(default_factory=dict)
    """What else is known, by the names of a machine's fields; what the driver doesn't tell is left out."""


def describe(wanted: int | str, *, order: str | None = None) -> Board:
    """The board with this index or UUID, or the MIG instance with this UUID.

    `order` is what CUDA_DEVICE_ORDER says: FASTEST_FIRST counts unlike boards otherwise than their driver does. Where
    MIG is on, CUDA takes a board's first instance. Raises MeterUnavailable with the way out.
    """
    with _session(f"GPU {wanted}: ") as nvml:
        if isinstance(wanted, int) and order == "FASTEST_FIRST":
            _refuse_unlike(nvml, wanted)
        board = find_board(nvml, wanted)
        part = _instance(nvml, board, wanted)
        return Board(
            name=nvml.nvmlDeviceGetName(part),
            uuid=nvml.nvmlDeviceGetUUID(board),
            driver=nvml.nvmlSystemGetDriverVersion(),
            simulated=is_stand_in(nvml),
            fields={name: value for name, value in _fields(nvml, board, part) if value is not None},
        )


def count() -> int:
    """How many boards there are; 0 where there is no driver, or no library that could ask it."""
    try:
        with _session() as nvml:
            return int(nvml.nvmlDeviceGetCount())
    except MeterUnavailable:
        return 0


def gpus() -> tuple[Gpu, ...]:
    """Every GPU of this machine with its MIG slices, but those that are lost. Raises MeterUnavailable where there is
    no driver to ask.
    """
    found = []
    with _session() as nvml:
        for index in range(nvml.nvmlDeviceGetCount()):
            with suppress(nvml.NVMLError):
                found.append(_gpu(nvml, index))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Users:
    """Who computes on some GPUs, by process id, as far as the driver tells."""

    computing: Mapping[int, str]
    """With names."""
    through_mps: frozenset[int]
    """Those that it lists as clients of MPS."""


def users(uuids: Collection[str]) -> Users:
    """Who computes on the GPUs with these UUIDs; nobody where that isn't told, as on a board with MIG on. Raises
    MeterUnavailable.
    """
    with _session() as nvml:
        computing: dict[int, str] = {}
        clients: set[int] = set()
        for uuid in uuids:
            board = find_board(nvml, uuid)
            for one in _told(nvml, "nvmlDeviceGetComputeRunningProcesses_v3", board) or ():
                computing[one.pid] = str(_told(nvml, "nvmlSystemGetProcessName", one.pid) or "")
            clients |= {one.pid for one in _told(nvml, "nvmlDeviceGetMPSComputeRunningProcesses_v3", board) or ()}
    return Users(seen_processes(computing) or {}, frozenset(clients))


@contextmanager
def _session(about: str = "") -> Iterator[Library]:
    """NVML, open. Raises MeterUnavailable where it can't be, or where the body meets an error of NVML, `about` which
    board.
    """
    nvml = library()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise MeterUnavailable(reason_of(nvml, error)) from error
    try:
        yield nvml
    except nvml.NVMLError as error:
        raise MeterUnavailable(f"{about}{reason_of(nvml, error)}") from error
    finally:
        with suppress(nvml.NVMLError):  # a lost board refuses even this
            nvml.nvmlShutdown()


def _gpu(nvml: Library, index: int) -> Gpu:
    board = nvml.nvmlDeviceGetHandleByIndex(index)
    uuid = nvml.nvmlDeviceGetUUID(board)
    memory = _told(nvml, "nvmlDeviceGetMemoryInfo", board)
    on = _told(nvml, "nvmlDeviceGetMigMode", board)
    mig = bool(on and on[0])
    most = int(_told(nvml, "nvmlDeviceGetMaxMigDeviceCount", board) or 0) if mig else 0
    parts = [_told(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", board, number) for number in range(most)]
    return Gpu(
        index=index,
        uuid=uuid,
        name=nvml.nvmlDeviceGetName(board),
        memory_bytes=memory and memory.total,
        free_bytes=memory and memory.free,
        compute_mode=_of(_told(nvml, "nvmlDeviceGetComputeMode", board), lambda told: _named(COMPUTE_MODES, told)),
        power_limit_w=_of(_told(nvml, "nvmlDeviceGetEnforcedPowerLimit", board), _watts),
        mig=mig,
        slices=tuple(_slice(nvml, part, uuid) for part in parts if part is not None),  # their numbers may have gaps
    )


def _slice(nvml: Library, part: Handle, board: str) -> Slice:
    memory = _told(nvml, "nvmlDeviceGetMemoryInfo", part)
    profile = nvml.nvmlDeviceGetName(part).partition(" MIG ")[2]
    return Slice(nvml.nvmlDeviceGetUUID(part), profile or "slice", board, memory and memory.total)


def _told(nvml: Library, call: str, *given: Any) -> Any:  # noqa: ANN401 - NVML's answers are of all kinds
    """What a call answers, once more after an error that passes; None where it isn't told, or isn't known."""
    passing = {getattr(nvml, name) for name in TRANSIENT}
    for _ in range(2):
        try:
            return getattr(nvml, call)(*given)
        except AttributeError:  # this nvidia-ml-py is too old for it
            return None
        except nvml.NVMLError as error:
            if error.value not in passing:
                return None
    return None


def _refuse_unlike(nvml: Library, wanted: int) -> None:
    boards = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
    names = {nvml.nvmlDeviceGetName(board) for board in boards}
    if len(names) > 1:
        raise MeterUnavailable(
            f"which GPU is CUDA's {wanted} can't be told: the boards differ ({', '.join(sorted(names))}), and with "
            "CUDA_DEVICE_ORDER=FASTEST_FIRST it counts them otherwise than the driver does. Leave that variable out, "
            "or name the board's UUID in CUDA_VISIBLE_DEVICES"
        )


def _instance(nvml: Library, board: Handle, wanted: int | str) -> Handle:
    """The MIG instance that is meant, or the board itself where MIG is off."""
    if isinstance(wanted, str) and wanted.startswith("MIG-"):
        return nvml.nvmlDeviceGetHandleByUUID(wanted)
    with suppress(nvml.NVMLError):  # the board doesn't know MIG
        on, _ = nvml.nvmlDeviceGetMigMode(board)
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(board) if on else 0):
            with suppress(nvml.NVMLError):  # their numbers may have gaps
                return nvml.nvmlDeviceGetMigDeviceHandleByIndex(board, index)
    return board


def _fields(nvml: Library, board: Handle, part: Handle) -> Iterator[tuple[str, Scalar]]:
    ask = partial(_told, nvml)  # a fact that lacks makes the machine another one
    yield GPU_UUID, nvml.nvmlDeviceGetUUID(board)
    yield "gpu_memory_gib", _of(ask("nvmlDeviceGetMemoryInfo", part), lambda told: round(told.total / GIB, 1))
    yield "vbios", ask("nvmlDeviceGetVbiosVersion", board)
    yield "pcie_generation", ask("nvmlDeviceGetMaxPcieLinkGeneration", board)  # the current one drops at rest
    yield "pcie_width", ask("nvmlDeviceGetCurrPcieLinkWidth", board)
    version = ask("nvmlSystemGetCudaDriverVersion_v2")
    yield "cuda_driver", _of(version, lambda told: f"{told // 1000}.{told % 1000 // 10}")
    capability = ask("nvmlDeviceGetCudaComputeCapability", board)
    yield "compute_capability", _of(capability, lambda told: f"{told[0]}.{told[1]}")
    yield "max_sm_clock_mhz", ask("nvmlDeviceGetMaxClockInfo", board, nvml.NVML_CLOCK_SM)
    yield "max_memory_clock_mhz", ask("nvmlDeviceGetMaxClockInfo", board, nvml.NVML_CLOCK_MEM)
    # Of clocks that were locked (nvidia-smi --lock-gpu-clocks) NVML tells nothing, only of application clocks.
    clocks = ("nvmlDeviceGetApplicationsClock", "nvmlDeviceGetDefaultApplicationsClock")
    chosen, default = (ask(call, board, nvml.NVML_CLOCK_SM) for call in clocks)
    yield "locked_clock_mhz", chosen if default and chosen != default else None
    yield "power_limit_w", _of(ask("nvmlDeviceGetEnforcedPowerLimit", board), _watts)
    yield "default_power_limit_w", _of(ask("nvmlDeviceGetPowerManagementDefaultLimit", board), _watts)
    yield "ecc", _of(ask("nvmlDeviceGetEccMode", board), lambda told: bool(told[0]))
    yield "mig", _of(ask("nvmlDeviceGetMigMode", board), lambda told: bool(told[0]))
    listed = ask("nvmlDeviceGetComputeRunningProcesses_v3", board)
    names = _of(listed, lambda told: [str(ask("nvmlSystemGetProcessName", one.pid)) for one in told])
    yield "mps", mps_serves(names, daemon=mps_daemon_runs())
    yield "compute_mode", _of(ask("nvmlDeviceGetComputeMode", board), lambda told: _named(COMPUTE_MODES, told))
    yield "persistence", _of(ask("nvmlDeviceGetPersistenceMode", board), bool)
    mode = ask("nvmlDeviceGetVirtualizationMode", board)
    yield "gpu_virtualisation", _of(mode, lambda told: _named(VIRTUALISATIONS, told))


def mps_daemon_runs() -> bool:
    """Whether the MPS daemon runs whose clients this process's children would be."""
    folder = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or MPS_PIPES)
    try:
        number = int((folder / MPS_PID_FILE).read_text())
        name = Path(f"/proc/{number}/comm").read_text()
    except (OSError, ValueError):
        return False
    return name.startswith(MPS_PROCESSES)  # the number of one that was killed may have become another process's


def _of(told: Any, convert: Callable[[Any], Value]) -> Value | None:  # noqa: ANN401 - NVML's answers are of all kinds
    return None if told is None else convert(told)


def _watts(milliwatts: int) -> float:
    return round(milliwatts * MILLI, 1)


def _named(names: tuple[str, ...], number: int) -> str:
    return names[number] if 0 <= number < len(names) else str(number)
