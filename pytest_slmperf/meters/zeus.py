"""Energy through Zeus, of what NVML and RAPL don't know: AMD's GPUs, and systems on a chip (Jetson, Apple).

The only file that imports zeus. Its devices are used, and not its windows: a window of Zeus is two plain reads, wrong
by an update each, and nothing tells when its values were true. So its counters are looked at until they move, like any
other, and what is known of a move's time is known by this process's clock.

What lies under them Zeus doesn't say: an accumulator of the board (AMD), or powers that Zeus itself reads and adds up
about ten times a second (Jetson). So its joules have at least the error of power samples, see `core.energy.window`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from queue import Empty
from typing import Any

from pytest_slmperf.core.devices.board import BoardState
from pytest_slmperf.core.devices.edges import Look
from pytest_slmperf.core.errors import MeterUnavailable
from pytest_slmperf.core.meter import MeterFacts, Recording
from pytest_slmperf.meters.counters import Lookout, Watch
from pytest_slmperf.meters.machine_id import machine_digest
from pytest_slmperf.meters.nvml import is_stand_in, library

MILLI = 1e-3
EDGE_EVERY_S = 0.05
"""Rest from one edge of a counter to the next that is looked for."""
PARTS_OF_A_CHIP = ("cpu_total_mj", "gpu_mj", "gpu_sram_mj", "dram_mj", "ane_mj")
"""Of Apple's: its other fields are parts of these."""
MISSING = "Zeus, which knows AMD's GPUs, Jetson and Apple, is not installed: pip install 'pytest-slmperf[zeus]'"


@dataclass(frozen=True, slots=True)
class _Source:
    """A counter of an open meter, and what else Zeus tells of its board."""

    board: str
    model: str
    energy_mj: Callable[[], float | None]
    limit_mw: Callable[[], int] | None = None
    temperature_c: Callable[[], int] | None = None


class ZeusMeter:
    """GPUs as Zeus counts them, or the system on a chip, as one meter. See `core.meter.Meter`.

    `gpus` are the indices of CUDA or HIP, among the GPUs that this process may see; without any, it is the chip.
    """

    def __init__(
        self,
        gpus: Sequence[int] = (),
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._gpus = tuple(gpus)
        self._clock = clock
        self._sleep = sleep
        self._faults: tuple[type[Exception], ...] = ()
        self._sources: list[_Source] = []
        self._lookout: Lookout | None = None

    def open(self) -> MeterFacts:
        """Find the counters, and read each once. Raises MeterUnavailable."""
        try:
            from zeus.device import get_gpus, get_soc  # noqa: PLC0415 - takes seconds, and is not everywhere
            from zeus.exception import ZeusBaseError  # noqa: PLC0415
        except ImportError as error:
            raise MeterUnavailable(MISSING) from error
        self._faults = (ZeusBaseError, OSError, ValueError, Empty)
        machine = machine_digest(Path("/")) or "machine"
        try:
            if self._gpus:
                devices = get_gpus()
                self._sources = [_gpu(devices, index, f"zeus-{machine}-gpu-{index}") for index in self._gpus]
            else:
                chip = get_soc()
                energy_mj = partial(_chip_mj, chip)
                self._sources = [_Source(f"zeus-{machine}-chip", type(chip).__name__, energy_mj)]
            for source in self._sources:
                self._look(source)
        except self._faults as error:
            raise MeterUnavailable(f"no joules through Zeus: {error}") from error
        self._lookout = Lookout(
            "slmperf-zeus", every_s=EDGE_EVERY_S, sleep=self._sleep, clock=self._clock, faults=self._faults
        )
        boards = tuple(source.board for source in self._sources)
        return MeterFacts(
            "zeus",
            boards,
            sources=dict.fromkeys(boards, "zeus"),
            simulated=is_stand_in(library()),
            versions={"zeus": version("zeus")},
        )

    def _look(self, source: _Source) -> Look:
        before_ns = self._clock()
        energy_mj = source.energy_mj()
        if energy_mj is None:
            raise ValueError(f"of {source.model} it tells no energy")
        return Look(before_ns, self._clock(), energy_mj * MILLI)

    def states(self) -> Mapping[str, BoardState]:
        """Every board as it is now, as far as Zeus tells."""
        return {source.board: self._state(source) for source in self._sources}

    def _state(self, source: _Source) -> BoardState:
        untold = {"processes": "Zeus doesn't tell who is on a board"}

        def told(what: str, ask: Callable[[], int] | None) -> int | None:
            try:
                return ask() if ask else None
            except self._faults as error:
                untold[what] = str(error)
                return None

        limit_mw = told("power limit", source.limit_mw)
        return BoardState(
            source.board,
            self._clock(),
            source.model,
            power_limit_w=None if limit_mw is None else limit_mw * MILLI,
            temperature_c=told("temperature", source.temperature_c),
            untold=untold,
        )

    def start(self) -> None:
        """Begin to look for edges, in a thread."""
        assert self._lookout is not None  # noqa: S101 - whoever could not open it doesn't start it
        self._lookout.start(self._watches())

    def stop(self) -> Recording:
        """End looking, after some milliseconds."""
        return _recorded(self._lookout.stop() if self._lookout else ())

    def watch(self, seconds: float) -> Recording:
        """Start, look for so long, and stop, in this thread: for whoever has a clock of his own, as tests do."""
        assert self._lookout is not None  # noqa: S101 - as above
        return _recorded(self._lookout.watch(self._watches(), seconds))

    def close(self) -> None:
        """End looking. Zeus keeps its own session to the end of the process."""
        if self._lookout:
            self._lookout.stop()
        self._sources = []

    def _watches(self) -> Iterator[Watch]:
        return (Watch(source.board, partial(self._look, source)) for source in self._sources)


def zeus_is_installed() -> bool:
    """Whether there is a Zeus to ask; importing it takes seconds."""
    return find_spec("zeus") is not None


def _recorded(watches: tuple[Watch, ...]) -> Recording:
    return Recording(tuple(watch.trace("zeus") for watch in watches))


def _gpu(devices: Any, index: int, board: str) -> _Source:  # noqa: ANN401 - Zeus may be missing
    if index >= len(devices):
        raise ValueError(f"there is no GPU {index}: Zeus sees {len(devices)}")
    if not devices.supports_get_total_energy_consumption(index):
        raise ValueError(f"GPU {index} has no energy counter")
    return _Source(
        board,
        devices.get_name(index),
        partial(devices.get_total_energy_consumption, index),
        partial(devices.get_power_management_limit, index),
        partial(devices.get_gpu_temperature, index),
    )


def _chip_mj(chip: Any) -> float | None:  # noqa: ANN401 - Zeus may be missing
    return chip_mj(chip.get_total_energy_consumption())


def chip_mj(measured: object) -> float | None:
    """All that a system on a chip took: its own sum, or else that of its parts. None where it tells neither."""
    total: float | None = getattr(measured, "total_energy_mj", None)
    parts = [part for name in PARTS_OF_A_CHIP if (part := getattr(measured, name, None)) is not None]
    return total if total is not None or not parts else sum(parts)
