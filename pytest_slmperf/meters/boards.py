"""What an NVIDIA board is and how it is set: what a measurement on it holds for."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pytest_slmperf.core.board import mps_serves
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
    nvml = library()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise MeterUnavailable(reason_of(nvml, error)) from error
    try:
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
    except nvml.NVMLError as error:
        raise MeterUnavailable(f"GPU {wanted}: {reason_of(nvml, error)}") from error
    finally:
        with suppress(nvml.NVMLError):  # a lost board refuses even this
            nvml.nvmlShutdown()


def count() -> int:
    """How many boards there are; 0 where there is no driver, or no library that could ask it."""
    try:
        nvml = library()
    except MeterUnavailable:
        return 0
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return 0
    try:
        return int(nvml.nvmlDeviceGetCount())
    except nvml.NVMLError:
        return 0
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


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
    passing = {getattr(nvml, name) for name in TRANSIENT}

    def ask(call: str, *given: Any) -> Any:  # noqa: ANN401 - NVML's answers are of all kinds
        for _ in range(2):  # once more after an error that passes: a fact that lacks makes the machine another one
            try:
                return getattr(nvml, call)(*given)
            except AttributeError:  # this nvidia-ml-py is too old for it
                return None
            except nvml.NVMLError as error:
                if error.value not in passing:
                    return None
        return None

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
    except (OSError, ValueError):
        return False
    return Path(f"/proc/{number}").exists()


def _of(told: Any, convert: Callable[[Any], Value]) -> Value | None:  # noqa: ANN401 - NVML's answers are of all kinds
    return None if told is None else convert(told)


def _watts(milliwatts: int) -> float:
    return round(milliwatts * MILLI, 1)


def _named(names: tuple[str, ...], number: int) -> str:
    return names[number] if 0 <= number < len(names) else str(number)
