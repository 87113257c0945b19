"""Energy and health of NVIDIA boards, through NVML. The only file that imports pynvml (of the package nvidia-ml-py).

One session stays open from `open` to `close`. Between `start` and `stop` a thread looks for edges of the energy
counters: it sleeps until an update is due, and then looks every millisecond until the value moves. NVML's units
(mJ, mW) become ours beside the call.
"""

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from pytest_slmperf.core.devices.board import ECC, REASON_BITS, XIDS, BoardSample, BoardState, Throttle, seen_processes
from pytest_slmperf.core.devices.edges import STUCK_S, Edge, EnergyTrace, Look, PowerReading, Source
from pytest_slmperf.core.errors import MeterUnavailable
from pytest_slmperf.core.meter import MeterFacts, Recording
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.meters.counters import BROKE_OFF

MILLI = 1e-3
SM_UTIL = 2
"""GPM's number of the share of SMs that are busy. GPM tells a mean between two samples, at least 100 ms apart."""

Library = Any
"""pynvml, imported only when a meter is opened; it has no types."""
Handle = Any
Value = TypeVar("Value")

REASONS: Mapping[str, str] = {
    "NVML_ERROR_LIBRARY_NOT_FOUND": "there is no NVIDIA driver on this machine",
    "NVML_ERROR_DRIVER_NOT_LOADED": "the NVIDIA driver is not loaded",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "the NVIDIA driver was updated, and the machine not rebooted since",
    "NVML_ERROR_NO_PERMISSION": "this user may not ask for it",
    "NVML_ERROR_NOT_SUPPORTED": "this board does not support it",
    "NVML_ERROR_FUNCTION_NOT_FOUND": "this driver is too old for it",
    "NVML_ERROR_ARGUMENT_VERSION_MISMATCH": "this driver knows another version of it",
    "NVML_ERROR_GPU_IS_LOST": "the GPU is lost: it fell off the bus (Xid 79), and the machine must be rebooted",
    "NVML_ERROR_RESET_REQUIRED": "the GPU must be reset",
    "NVML_ERROR_NOT_FOUND": "there is none",
    "NVML_ERROR_INVALID_ARGUMENT": "the driver refuses the question",
    "NVML_ERROR_TIMEOUT": "the driver gave no answer in time",
    "NVML_ERROR_UNKNOWN": "the driver failed without a reason",
}
"""The errors of NVML, in our words."""
TRANSIENT = ("NVML_ERROR_UNKNOWN", "NVML_ERROR_TIMEOUT")
"""Asked once more before it counts."""
COUNTED: Mapping[Throttle, str] = {
    "sw_power_cap": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP",
    "sync_boost": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST",
    "sw_thermal": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN",
    "hw_thermal": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN",
    "power_brake": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN",
}
"""Fields that count nanoseconds; the last three are newer than the others."""
VIOLATIONS: Mapping[Throttle, str] = {
    "sw_power_cap": "NVML_PERF_POLICY_POWER",
    "sync_boost": "NVML_PERF_POLICY_SYNC_BOOST",
    "sw_thermal": "NVML_PERF_POLICY_THERMAL",
}
"""Where an older driver counts the same; its thermal time is both kinds in one."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a meter looks."""

    edge_every_s: float = 0.1
    """From one edge to the next that is looked for; rarer where that costs too much."""
    look_every_s: float = 0.001
    """Between two looks for an edge."""
    power_every_s: float = 0.05
    """Where there is no counter."""
    sample_every_s: float = 0.5
    """Clocks, throttling, processes and the like."""
    cpu_share: float = 0.01
    """Of a core, that looking for edges may take, while they come at least `edge_within_s` apart."""
    edge_within_s: float = 0.5
    """From one edge to the next at most, whatever looking costs: a window needs two, and the first edges, whose time
    is not known, cost the most.
    """


@dataclass(slots=True)
class _Board:
    """A board of an open meter."""

    handle: Handle
    uuid: str
    name: str
    source: Source | None = None
    missing: str = ""
    xids: list[int] = field(default_factory=list)
    deaf: dict[str, str] = field(default_factory=dict)
    """Why no Xid is heard of, where none is."""


@dataclass(slots=True)
class _Watch:
    """What was seen of a board since the start."""

    board: _Board
    due_ns: int
    sample_due_ns: int
    edges: list[Edge] = field(default_factory=list)
    powers: list[PowerReading] = field(default_factory=list)
    samples: list[BoardSample] = field(default_factory=list)
    gaps_ns: list[float] = field(default_factory=list)
    """From one update to the next, while none was left out."""
    still_s: float = 0.0
    failure: str | None = None
    gpm: Handle | None = None

    @property
    def period_ns(self) -> float | None:
        return statistics.median(self.gaps_ns) if len(self.gaps_ns) >= 3 else None


def visible_devices(text: str) -> tuple[int | str, ...]:
    """The boards that a value of CUDA_VISIBLE_DEVICES names: indices, or UUIDs of boards or of MIG instances.

    As CUDA has it, the list ends at the first entry that names nothing. Indices are NVML's only under
    CUDA_DEVICE_ORDER=PCI_BUS_ID or where all boards are alike.
    """
    found: list[int | str] = []
    for entry in (part.strip() for part in text.split(",")):
        if entry.isdecimal():
            found.append(int(entry))
        elif entry.startswith(("GPU-", "MIG-")):
            found.append(entry)
        else:
            break
    return tuple(found)


class NvmlMeter:
    """The boards of an engine as one meter. See `core.meter.Meter`.

    `boards` are indices, UUIDs (or an unmistakable beginning of one), or UUIDs of MIG instances, whose board is read:
    an instance has no power of its own. `seen_s` is the part of each period that their sensor was found to see, where
    it works part time.
    """

    def __init__(
        self,
        boards: Sequence[int | str] = (0,),
        *,
        pace: Pace = Pace(),
        seen_s: float | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._wanted = tuple(boards)
        self._pace = pace
        self._seen_s = seen_s
        self._clock = clock
        self._sleep = sleep
        self._nvml: Library = None
        self._boards: list[_Board] = []
        self._events: Handle | None = None
        self._stop = threading.Event()
        self._watches: list[_Watch] = []
        self._thread: threading.Thread | None = None
        self._whole = True

    def open(self) -> MeterFacts:
        """Open a session and find the boards. Raises MeterUnavailable."""
        nvml = library()
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise MeterUnavailable(
                f"no joules of NVIDIA boards: {reason_of(nvml, error)}",
                nothing_installed=error.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND,
            ) from error
        self._nvml = nvml
        try:
            for handle in (find_board(nvml, wanted) for wanted in self._wanted):
                board = _Board(handle, nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle))
                if all(board.uuid != other.uuid for other in self._boards):  # two instances of one board are one board
                    self._boards.append(board)
            driver = nvml.nvmlSystemGetDriverVersion()
        except nvml.NVMLError as error:
            self.close()
            raise MeterUnavailable(f"no joules of NVIDIA boards: {reason_of(nvml, error)}") from error
        except MeterUnavailable:
            self.close()
            raise
        for board in self._boards:
            self._find_source(board)
        self._listen()
        return MeterFacts(
            name="nvml",
            boards=tuple(board.uuid for board in self._boards),
            sources={board.uuid: board.source for board in self._boards},
            simulated=is_stand_in(nvml),
            versions={"driver": driver},
            missing={board.uuid: board.missing for board in self._boards if board.missing},
        )

    def close(self) -> None:
        """End the session; other sessions of this process stay open."""
        if self._nvml is None:
            return
        self._end()
        with suppress(self._nvml.NVMLError):  # a lost board refuses even this
            if self._events is not None:
                self._nvml.nvmlEventSetFree(self._events)
        self._events = None
        with suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()
        self._nvml = None
        self._boards = []

    def _find_source(self, board: _Board) -> None:
        """The counter, or else means of power, or else its momentary values, or else none and why."""
        untold: dict[str, str] = {}
        average = self._nvml.NVML_FI_DEV_POWER_AVERAGE
        ways: Sequence[tuple[Source, Any]] = (
            ("counter", ("nvmlDeviceGetTotalEnergyConsumption", board.handle)),
            ("integrated power", (self._field, board, average)),
            ("power samples", ("nvmlDeviceGetPowerUsage", board.handle)),
        )
        for source, asked in ways:
            if self._told(untold, source, *asked) is not None:
                board.source = source
                return
        board.missing = "; ".join(f"no {name}, since {why}" for name, why in untold.items())

    def _listen(self) -> None:
        """For Xid events, on the boards that report them."""
        nvml, untold = self._nvml, dict[str, str]()
        self._events = self._told(untold, XIDS, "nvmlEventSetCreate")
        for board in self._boards:
            board.deaf = untold or board.deaf
            if self._events is not None:
                asked = (board.handle, nvml.nvmlEventTypeXidCriticalError, self._events)
                self._told(board.deaf, XIDS, "nvmlDeviceRegisterEvents", *asked)

    def _told(self, untold: dict[str, str], what: str, ask: str | Callable[..., Any], *given: Any) -> Any:  # noqa: ANN401
        """What a call of NVML (by its name) or a function of ours answers, or None and the reason in `untold`."""
        call = getattr(self._nvml, ask, None) if isinstance(ask, str) else ask
        if call is None:
            untold[what] = "this nvidia-ml-py is too old for it"
            return None
        try:
            return call(*given)
        except self._nvml.NVMLError as error:
            untold[what] = reason_of(self._nvml, error)
        return None

    def _field(self, board: _Board, number: int) -> int | float:
        """A field value; the call itself succeeds even where the field can't be had."""
        (read,) = self._nvml.nvmlDeviceGetFieldValues(board.handle, [number])
        if read.nvmlReturn != self._nvml.NVML_SUCCESS:
            raise self._nvml.NVMLError(read.nvmlReturn)
        members = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
        value: int | float = getattr(read.value, members[read.valueType])
        return value

    def _patiently(self, ask: Callable[[], Value]) -> Value:
        """Once more after an error that passes."""
        try:
            return ask()
        except self._nvml.NVMLError as error:
            if error.value not in {getattr(self._nvml, name) for name in TRANSIENT}:
                raise
            return ask()

    def _look(self, board: _Board) -> Look:
        def look() -> Look:
            before_ns = self._clock()
            joules = self._nvml.nvmlDeviceGetTotalEnergyConsumption(board.handle) * MILLI
            return Look(before_ns, self._clock(), joules)

        return self._patiently(look)

    def _power(self, board: _Board) -> PowerReading:
        nvml = self._nvml

        def look() -> PowerReading:
            before_ns = self._clock()
            if board.source == "integrated power":
                milliwatts = self._field(board, nvml.NVML_FI_DEV_POWER_AVERAGE)
            else:
                milliwatts = nvml.nvmlDeviceGetPowerUsage(board.handle)
            return PowerReading(before_ns, self._clock(), milliwatts * MILLI)

        return self._patiently(look)

    def states(self) -> Mapping[str, BoardState]:
        """Every board as it is now."""
        self._drain_events()
        return {board.uuid: self._state(board) for board in self._boards}

    def _state(self, board: _Board) -> BoardState:
        nvml, handle = self._nvml, board.handle
        untold: dict[str, str] = {}
        told = partial(self._told, untold)
        limit_mw = told("power limit", "nvmlDeviceGetEnforcedPowerLimit", handle)
        default_mw = told("default power limit", "nvmlDeviceGetPowerManagementDefaultLimit", handle)
        mig = told("MIG", "nvmlDeviceGetMigMode", handle)
        persistence = told("persistence", "nvmlDeviceGetPersistenceMode", handle)
        ecc = (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
        memory = self._memory(board, untold)
        return BoardState(
            uuid=told("UUID", "nvmlDeviceGetUUID", handle) or board.uuid,
            at_ns=self._clock(),
            name=board.name,
            power_limit_w=None if limit_mw is None else limit_mw * MILLI,
            default_power_limit_w=None if default_mw is None else default_mw * MILLI,
            sm_clock_mhz=told("clock", "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM),
            max_sm_clock_mhz=told("clock limit", "nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_SM),
            temperature_c=self._temperature(board, untold),
            throttled_ns=self._throttled_ns(board),
            uncorrected_ecc_errors=told(ECC, "nvmlDeviceGetTotalEccErrors", handle, *ecc),
            xids=tuple(board.xids),
            utilisation=self._utilisation(board, untold),
            memory_used_bytes=memory and memory[0],
            memory_total_bytes=memory and memory[1],
            processes=self._processes(board, untold),
            mig=None if mig is None else bool(mig[0]),
            persistence=None if persistence is None else bool(persistence),
            untold=untold | board.deaf,
        )

    def _sample(self, board: _Board) -> BoardSample:
        untold: dict[str, str] = {}
        told = partial(self._told, untold)
        memory = self._memory(board, untold)
        mask = told("throttling", "nvmlDeviceGetCurrentClocksEventReasons", board.handle)
        if mask is None:
            mask = told("throttling", "nvmlDeviceGetCurrentClocksThrottleReasons", board.handle)
        power_mw = told("power", "nvmlDeviceGetPowerUsage", board.handle)
        return BoardSample(
            at_ns=self._clock(),
            sm_clock_mhz=told("clock", "nvmlDeviceGetClockInfo", board.handle, self._nvml.NVML_CLOCK_SM),
            temperature_c=self._temperature(board, untold),
            throttles=None if mask is None else frozenset(kind for kind, bit in REASON_BITS.items() if mask & bit),
            utilisation=self._utilisation(board, untold),
            memory_used_bytes=memory and memory[0],
            processes=self._processes(board, untold),
            power_w=None if power_mw is None else power_mw * MILLI,
            memory_clock_mhz=told("memory clock", "nvmlDeviceGetClockInfo", board.handle, self._nvml.NVML_CLOCK_MEM),
        )

    def _memory(self, board: _Board, untold: dict[str, str]) -> tuple[int, int] | None:
        """Used and total bytes. The older call counts as used what the driver keeps for itself."""
        told = self._told(untold, "memory", "nvmlDeviceGetMemoryInfo", board.handle, self._nvml.nvmlMemory_v2)
        if told is None:
            told = self._told(untold, "memory", "nvmlDeviceGetMemoryInfo", board.handle)
        return None if told is None else (told.used, told.total)

    def _temperature(self, board: _Board, untold: dict[str, str]) -> int | None:
        for ask in ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"):  # the second until CUDA 14
            celsius = self._told(untold, "temperature", ask, board.handle, self._nvml.NVML_TEMPERATURE_GPU)
            if celsius is not None:
                return int(celsius)
        return None

    def _utilisation(self, board: _Board, untold: dict[str, str]) -> float | None:
        rates = self._told(untold, "utilisation", "nvmlDeviceGetUtilizationRates", board.handle)
        return None if rates is None else rates.gpu / 100

    def _throttled_ns(self, board: _Board) -> dict[Throttle, int]:
        nvml = self._nvml
        counted: dict[Throttle, int] = {}
        for kind, name in COUNTED.items():
            read = self._told({}, kind, self._field, board, getattr(nvml, name))
            if read is None and kind in VIOLATIONS:
                policy = getattr(nvml, VIOLATIONS[kind])
                violation = self._told({}, kind, "nvmlDeviceGetViolationStatus", board.handle, policy)
                read = None if violation is None else violation.violationTime
            if read is not None:
                counted[kind] = int(read)
        return counted

    def _processes(self, board: _Board, untold: dict[str, str]) -> Mapping[int, str] | None:
        """Who computes or draws here, or None and why not. The plain names of these calls raise another error."""
        listed = self._told(untold, "processes", "nvmlDeviceGetComputeRunningProcesses_v3", board.handle)
        if listed is None:
            return None
        for ask in ("nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v3"):
            listed = [*listed, *(self._told({}, "", ask, board.handle) or [])]
        names = {one.pid: self._told({}, "", "nvmlSystemGetProcessName", one.pid) or "" for one in listed}
        return seen_processes(names)

    def _drain_events(self) -> None:
        nvml = self._nvml
        while self._events is not None:
            try:
                event = nvml.nvmlEventSetWait_v2(self._events, 0)
            except nvml.NVMLError:  # NVML_ERROR_TIMEOUT: none is left
                return
            told = self._told({}, "", "nvmlDeviceGetUUID", event.device)
            for board in self._boards:
                if told in (None, board.uuid):  # a lost board doesn't even say which it is
                    board.xids.append(event.eventData)

    def start(self) -> None:
        """Begin to look for edges, in a thread."""
        self._begin()
        self._stop.clear()
        self._whole = False
        self._thread = threading.Thread(target=self._look_on, name="slmperf-nvml", daemon=True)
        self._thread.start()

    def stop(self) -> Recording:
        """End looking, after a millisecond or so."""
        self._end()
        for watch in self._watches:
            if not self._whole:
                watch.failure = watch.failure or BROKE_OFF
        return self._recorded()

    def _look_on(self) -> None:
        self._record(self._stop.is_set)
        self._whole = True

    def _end(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
            self._thread = None

    def watch(self, seconds: float) -> Recording:
        """Start, look for so long, and stop, in this thread."""
        self._begin()
        end_ns = self._clock() + round(seconds * NS_PER_S)
        self._record(lambda: self._clock() >= end_ns)
        return self._recorded()

    def _begin(self) -> None:
        now_ns = self._clock()
        self._watches = [_Watch(board, now_ns, now_ns) for board in self._boards if board.source]
        for watch in self._watches:
            watch.gpm = self._told({}, "", self._gpm_sample, watch.board)

    def _record(self, done: Callable[[], bool]) -> None:
        while not done():
            now_ns = self._clock()
            sound = [watch for watch in self._watches if watch.failure is None]
            watch = min(sound, key=lambda watch: min(watch.due_ns, watch.sample_due_ns), default=None)
            next_ns = min(watch.due_ns, watch.sample_due_ns) if watch else now_ns + NS_PER_S
            if watch is None or next_ns > now_ns:
                self._sleep(min(0.02, (next_ns - now_ns) / NS_PER_S))  # short, so that a stop is soon
                continue
            try:
                self._attend(watch, now_ns, done)
            except self._nvml.NVMLError as error:
                watch.failure = f"its energy could not be read: {reason_of(self._nvml, error)}"

    def _attend(self, watch: _Watch, now_ns: int, done: Callable[[], bool]) -> None:
        if watch.sample_due_ns <= now_ns:
            watch.samples.append(self._sample(watch.board))
            watch.sample_due_ns = now_ns + round(self._pace.sample_every_s * NS_PER_S)
        elif watch.board.source == "counter":
            self._find_edge(watch, done)
        else:
            watch.powers.append(self._power(watch.board))
            watch.due_ns = now_ns + round(self._pace.power_every_s * NS_PER_S)

    # Not a counters.Lookout: between edges it takes samples, and edges come as seldom as looking for them is dear.
    def _find_edge(self, watch: _Watch, done: Callable[[], bool]) -> None:
        began_cpu_ns = time.thread_time_ns()
        first = old = self._look(watch.board)
        while True:
            self._sleep(self._pace.look_every_s)
            new = self._look(watch.board)
            if new.joules != old.joules:
                break
            old = new
            watch.still_s = max(watch.still_s, (new.after_ns - first.before_ns) / NS_PER_S)
            if done() or watch.still_s > STUCK_S:
                watch.due_ns = new.after_ns
                return
        edge = Edge(old, new)
        if watch.edges and watch.period_ns is None:
            watch.gaps_ns.append(edge.at_ns - watch.edges[-1].at_ns)
        watch.edges.append(edge)
        watch.due_ns = self._next_look(watch, edge, time.thread_time_ns() - began_cpu_ns)

    def _next_look(self, watch: _Watch, edge: Edge, cpu_ns: int) -> int:
        """A little before an update is due, and where edges may be rarer, not so often that looking costs more than its
        share of a core.
        """
        period_ns = watch.period_ns
        if period_ns is None:
            return edge.new.after_ns
        look_ns = edge.new.after_ns - edge.new.before_ns
        margin_ns = max(0.05 * period_ns, 2 * look_ns + self._pace.look_every_s * NS_PER_S)
        affordable_ns = min(cpu_ns / self._pace.cpu_share, self._pace.edge_within_s * NS_PER_S)
        wanted_ns = max(self._pace.edge_every_s * NS_PER_S, affordable_ns)
        periods = max(1, round(wanted_ns / period_ns))
        return round(edge.at_ns + periods * period_ns - margin_ns)

    def _recorded(self) -> Recording:
        watches, self._watches = self._watches, []
        activity = {watch.board.uuid: self._told({}, "", self._sm_activity, watch) for watch in watches}
        return Recording(
            traces=tuple(self._trace(watch) for watch in watches),
            samples={watch.board.uuid: tuple(watch.samples) for watch in watches},
            sm_activity={uuid: share for uuid, share in activity.items() if share is not None},
            missing={board.uuid: board.missing for board in self._boards if board.missing},
        )

    def _trace(self, watch: _Watch) -> EnergyTrace:
        return EnergyTrace(
            board=watch.board.uuid,
            source=watch.board.source or "counter",
            edges=tuple(watch.edges),
            powers=tuple(watch.powers),
            failure=watch.failure,
            still_s=watch.still_s,
            period_s=_period_s(watch),
            seen_s=self._seen_s,
        )

    def _gpm_sample(self, board: _Board) -> Handle | None:
        nvml = self._nvml
        if not nvml.nvmlGpmQueryDeviceSupport(board.handle).isSupportedDevice:
            return None
        sample = nvml.nvmlGpmSampleAlloc()
        try:
            nvml.nvmlGpmSampleGet(board.handle, sample)
        except nvml.NVMLError:
            nvml.nvmlGpmSampleFree(sample)
            raise
        return sample

    def _sm_activity(self, watch: _Watch) -> float | None:
        nvml, first = self._nvml, watch.gpm
        if first is None:
            return None
        samples = [first]
        try:
            last = self._gpm_sample(watch.board)
            if last is None:
                return None
            samples.append(last)
            asked = nvml.c_nvmlGpmMetricsGet_t()
            asked.version, asked.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, 1
            asked.sample1, asked.sample2 = first, last
            asked.metrics[0].metricId = SM_UTIL
            told = nvml.nvmlGpmMetricsGet(asked)
            return told.metrics[0].value / 100 if told.metrics[0].nvmlReturn == nvml.NVML_SUCCESS else None
        finally:
            for sample in samples:
                nvml.nvmlGpmSampleFree(sample)


def _period_s(watch: _Watch) -> float | None:
    """From edge to edge over ever longer stretches: so it gets better than one edge is known."""
    period_ns = watch.period_ns
    if period_ns is None:
        return None
    first_ns = watch.edges[0].at_ns
    for edge in watch.edges[1:]:
        period_ns = (edge.at_ns - first_ns) / max(1, round((edge.at_ns - first_ns) / period_ns))
    return period_ns / NS_PER_S


def find_board(nvml: Library, wanted: int | str) -> Handle:
    """The board with this index or UUID; of a MIG instance's UUID, the board that it is a part of.

    Raises MeterUnavailable where there is none, and pynvml's errors.
    """
    count = nvml.nvmlDeviceGetCount()
    if isinstance(wanted, int):
        if wanted >= count:
            raise MeterUnavailable(f"there is no GPU {wanted}: this machine has {count}")
        return nvml.nvmlDeviceGetHandleByIndex(wanted)
    if wanted.startswith("MIG-"):
        return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvml.nvmlDeviceGetHandleByUUID(wanted))
    named = []
    for index in range(count):
        with suppress(nvml.NVMLError):  # another board may be lost, or not for this user
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            if nvml.nvmlDeviceGetUUID(handle).startswith(wanted):
                named.append(handle)
    if len(named) != 1:
        raise MeterUnavailable(f"{len(named)} GPUs of this machine have a UUID that begins with {wanted}")
    return named[0]


def library() -> Library:
    """pynvml. Raises MeterUnavailable where it isn't installed, or another package has its name."""
    try:
        import pynvml  # noqa: PLC0415 - making a meter is free of it, only opening one needs it
    except ImportError as error:
        raise MeterUnavailable(
            "NVIDIA boards say nothing without pip install 'pytest-slmperf[nvml]'", nothing_installed=True
        ) from error
    if not hasattr(pynvml, "_nvmlGetFunctionPointer"):
        raise MeterUnavailable(
            f"{pynvml.__file__} is not nvidia-ml-py, whose module has the same name: uninstall the package pynvml"
        )
    return pynvml


def is_stand_in(nvml: Library) -> bool:
    """Whether a stand-in answers in the driver's place, once a session was opened: nothing of it is real."""
    return hasattr(nvml.nvmlLib, "nvmlstub_is_stub")


def reason_of(nvml: Library, error: Exception) -> str:
    """An error of NVML in our words, with its name."""
    code = getattr(error, "value", None)
    for name, words in REASONS.items():
        if getattr(nvml, name) == code:
            return f"{words} ({name.removeprefix('NVML_ERROR_')})"
    return f"{error} (NVML error {code})"
