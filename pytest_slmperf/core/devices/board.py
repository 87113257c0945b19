"""A board as values: what it says before, amid and after a round, what is found of it, and what its joules hold for."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import fmean
from typing import Any, Literal, TypeAlias

MIB = 2**20
MPS_SERVER = "nvidia-cuda-mps-server"
THREAD_SHARE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
"""What gives each client of MPS a share of a board's threads. Never set here: see `on_thread_share`."""
NONSENSE_PIDS = frozenset({0, 2**32 - 1})
"""Driver 535 changed a structure without its version: lists with such ids are read wrongly."""
KNOWN_BELOW_PID = 2**22
"""The largest process id that a kernel gives."""
POWER_LIMIT = 0.001
"""Share by which a power limit may differ and be the same."""
ECC, XIDS = "ECC errors", "Xid events"
"""What a state calls them where they are not told."""
Throttle: TypeAlias = Literal["sw_power_cap", "hw_slowdown", "sync_boost", "sw_thermal", "hw_thermal", "power_brake"]
SLOWDOWNS: Mapping[Throttle, str] = {
    "hw_thermal": "its hardware slowed it down because it was hot",
    "sw_thermal": "its driver slowed it down because it was hot",
    "power_brake": "its hardware slowed it down because power was short (external power brake)",
}
"""What voids."""
REASON_BITS: Mapping[Throttle, int] = {
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal": 0x20,
    "hw_thermal": 0x40,
    "power_brake": 0x80,
}


class Effect(StrEnum):
    """What a finding does to the joules of a round."""

    VOID = "void"
    MARKED = "marked"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a guard found."""

    guard: str
    """`reset`, `stuck`, `unreadable`, `throttled`, `power cap`, `foreign`, `power limit`, `board`, `ecc`,
    `xid`, `temperature`, `mig`, `persistence`, `implausible` or `blind`; of traffic those in `core.guards.traffic`. Of
    those that void, `core.guards.void.WAYS_OUT` says what helps."""
    effect: Effect
    reason: str


@dataclass(frozen=True, slots=True)
class BoardSample:
    """What a board says now and then during a round. None stands for what it doesn't tell."""

    at_ns: int
    sm_clock_mhz: int | None = None
    temperature_c: int | None = None
    throttles: frozenset[Throttle] | None = None
    """What slows it down right now."""
    utilisation: float | None = None
    """Share of time in which a kernel ran, as the driver has it."""
    memory_used_bytes: int | None = None
    processes: Mapping[int, str] | None = None
    power_w: float | None = None
    """As the driver reads it: a mean of the last second on most boards."""
    memory_clock_mhz: int | None = None


@dataclass(frozen=True, slots=True)
class BoardState:
    """A board before or after something. None stands for what it doesn't tell; `untold` has the reasons."""

    uuid: str
    at_ns: int
    name: str = ""
    power_limit_w: float | None = None
    default_power_limit_w: float | None = None
    sm_clock_mhz: int | None = None
    max_sm_clock_mhz: int | None = None
    temperature_c: int | None = None
    throttled_ns: Mapping[Throttle, int] = field(default_factory=dict)
    """Cumulative, of the kinds that the driver counts."""
    uncorrected_ecc_errors: int | None = None
    xids: tuple[int, ...] = ()
    """Since the meter was opened, in order."""
    utilisation: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    processes: Mapping[int, str] | None = None
    """Who is on the board, by process id, with a name where there is one. None where that can't be seen."""
    mig: bool | None = None
    persistence: bool | None = None
    untold: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BoardRound:
    """A round as one board saw it."""

    idle: BoardState
    """From before our engine's start."""
    before: BoardState
    after: BoardState
    during: tuple[BoardSample, ...] = ()
    steady_ns: float = 0.0
    """From when the load was steady: a board that begins to work gets warm within a second, which is no drift."""

    @property
    def masks(self) -> list[frozenset[Throttle]]:
        """What slowed it down, look by look."""
        return [sample.throttles for sample in self.during if sample.throttles is not None]


@dataclass(frozen=True, slots=True)
class BoardFacts:
    """What joules hold for: whoever compares them with others needs the same board, as it was set then."""

    source: str
    """`counter`, `integrated power`, `power samples` or `zeus`."""
    power_limit_w: float | None = None
    simulated: bool = False
    """Whether a stand-in driver answered, so that nothing of it is real."""
    power_capped: tuple[float, ...] = ()
    """Share of a round in which the power limit held it back, launch by launch; empty where its driver doesn't tell."""
    idle_w: float | None = None
    """What it took before the first engine was started."""
    idle_error_w: float | None = None
    """Standard uncertainty of that."""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "BoardFacts":
        """From what a file keeps of it: the fields as JSON has them."""
        return cls(**{**stored, "power_capped": tuple(stored.get("power_capped", ()))})


def of_all_launches(launches: Iterable[Mapping[str, BoardFacts]]) -> dict[str, BoardFacts]:
    """By UUID what the joules of all these launches hold for: the last one's word, and every launch's share."""
    found: dict[str, BoardFacts] = {}
    for uuid, facts in (item for boards in launches for item in boards.items()):
        earlier = found[uuid].power_capped if uuid in found else ()
        found[uuid] = replace(facts, power_capped=(*earlier, *facts.power_capped))
    return found


def seen_processes(pids: Mapping[int, str]) -> Mapping[int, str] | None:
    """The processes of a board as its driver lists them, or None where the list is nonsense."""
    if any(pid in NONSENSE_PIDS or pid >= KNOWN_BELOW_PID for pid in pids):
        return None
    return pids


def is_mps_server(name: str) -> bool:
    """Whether a process of this name, maybe a path, is the server of MPS: it works for others."""
    return name.rpartition("/")[2].startswith(MPS_SERVER)


def mps_serves(names: Collection[str] | None, *, daemon: bool) -> bool | None:
    """Whether work on a board goes through MPS, or None where that can't be told.

    `names` are of the processes on it, None where they can't be seen. `daemon` is whether the daemon of MPS runs whose
    clients our engines would be: it has no server before its first client, so that a board's first run would see none.
    """
    if daemon or any(map(is_mps_server, names or ())):
        return True
    return None if names is None else False


def on_thread_share(told: str) -> str:
    """What is to be said where somebody has set THREAD_SHARE to this. It was reported of an H200 with driver
    580.178.04, cuBLAS 12.6 to 13.8, and not of 100 %; nobody here has repeated it.
    """
    return (
        f"{THREAD_SHARE}={told}: of shares from 14 to 22, 28 to 46 and 52 to 89 % it was reported that MPS leaves "
        "parts of half-precision products unwritten, without an error. Compare the answers before the speed, or leave "
        "it out"
    )


def beside(samples: Sequence[BoardSample]) -> dict[str, float]:
    """What a board said during a round, by the metrics' names, the means but for a peak. What it never told is not
    there.
    """
    columns: Mapping[str, list[float | None]] = {
        "gpu_utilisation": [sample.utilisation for sample in samples],
        "gpu_memory_used_bytes": [sample.memory_used_bytes for sample in samples],
        "sm_clock_mhz": [sample.sm_clock_mhz for sample in samples],
        "memory_clock_mhz": [sample.memory_clock_mhz for sample in samples],
        "gpu_temperature_c": [sample.temperature_c for sample in samples],
    }
    told = {name: [value for value in values if value is not None] for name, values in columns.items()}
    found = {name: fmean(values) for name, values in told.items() if values}
    if told["gpu_memory_used_bytes"]:
        found["peak_gpu_memory_used_bytes"] = float(max(told["gpu_memory_used_bytes"]))
    return found
