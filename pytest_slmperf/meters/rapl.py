"""Energy of the CPU's packages, through RAPL as Linux shows it under /sys/class/powercap (Intel; AMD since Zen).

A package's counter holds all its cores and caches: its sub-domains `core` and `uncore` are parts of it. `psys` is more
than the CPU, and `dram` isn't everywhere. So packages alone are added up. Their counters move about every millisecond,
and wrap, some of them every few minutes.
"""

import hashlib
import hmac
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_slmperf.core.board import BoardState, Throttle
from pytest_slmperf.core.edges import STUCK_S, Edge, EnergyTrace, Reading
from pytest_slmperf.core.errors import MeterUnavailable
from pytest_slmperf.core.meter import MeterFacts, Recording

NS_PER_S = 1e9
NS_PER_MS = 1_000_000
MICRO = 1e-6
POWERCAP = "sys/class/powercap"
EDGE_EVERY_S = 0.02
"""From one edge of a counter to the next that is looked for: each costs some 30 µs of a core."""
LOOK_EVERY_S = 0.001
"""Between two looks for an edge: it is known to that."""
MOVES_WITHIN_S = 0.2
"""A counter that doesn't move for so long belongs to a hypervisor that doesn't fill it."""
MOST_W = 2000.0
"""No package draws more: a counter that seems to have wrapped, and to have gained more than this, was reset."""
PERMISSION = (
    "{path} is for root only, since energy tells what other users compute (CVE-2020-8694). On a machine that is yours "
    "alone, until its next start: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
)
NONE_HERE = (
    "/sys/class/powercap shows no package. Virtual machines and containers have none; elsewhere: sudo modprobe "
    "intel_rapl_msr"
)


@dataclass(slots=True)
class _Package:
    """A package of an open meter."""

    folder: Path
    name: str
    range_uj: int
    throttled_ms: Path | None
    raw_uj: int = 0
    at_ns: int = 0
    wrapped_uj: int = 0


@dataclass(slots=True)
class _Watch:
    """What was seen of a package since the start."""

    package: _Package
    edges: list[Edge] = field(default_factory=list)
    still_s: float = 0.0
    failure: str | None = None


class RaplMeter:
    """All CPU packages of the machine as one meter. See `core.meter.Meter`.

    `root` holds its /sys, /proc and /etc; what another root than / tells is simulated.
    """

    def __init__(
        self,
        *,
        root: Path = Path("/"),
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._root = root
        self._clock = clock
        self._sleep = sleep
        self._packages: list[_Package] = []
        self._busy: tuple[int, int] | None = None
        self._stop = threading.Event()
        self._watches: list[_Watch] = []
        self._thread: threading.Thread | None = None

    def open(self) -> MeterFacts:
        """Find the packages. Raises MeterUnavailable where there are none, or one can't be read or stands still."""
        prefix = "-".join(filter(None, ("CPU", _machine(self._root))))
        for folder in sorted((self._root / POWERCAP).glob("intel-rapl:*")):
            name = _text(folder / "name") if re.fullmatch(r"intel-rapl:\d+", folder.name) else ""
            if name.startswith("package"):  # `package-0`, and `package-0-die-1` where each die has a counter
                range_uj = _text(folder / "max_energy_range_uj")
                self._packages.append(
                    _Package(
                        folder,
                        name=f"{prefix}-{name}",
                        range_uj=int(range_uj) if range_uj.isdigit() else 0,
                        throttled_ms=_throttled_ms(self._root, name),
                    )
                )
        if not self._packages:
            raise MeterUnavailable(f"no joules of the CPU: {NONE_HERE}")
        for package in self._packages:
            self._refuse_unreadable(package)
        names = tuple(package.name for package in self._packages)
        return MeterFacts(
            "rapl", names, sources=dict.fromkeys(names, "counter"), simulated=self._root.resolve() != Path("/")
        )

    def _refuse_unreadable(self, package: _Package) -> None:
        path = package.folder / "energy_uj"
        try:
            first = self._look(package)
            until_ns = first.after_ns + MOVES_WITHIN_S * NS_PER_S
            while (now := self._look(package)).joules == first.joules and now.after_ns < until_ns:
                self._sleep(LOOK_EVERY_S)
        except PermissionError as error:
            raise MeterUnavailable(f"no joules of the CPU: {PERMISSION.format(path=path)}") from error
        except (OSError, ValueError) as error:
            raise MeterUnavailable(f"no joules of the CPU: {path} can't be read: {error}") from error
        if now.joules == first.joules:
            raise MeterUnavailable(
                f"no joules of the CPU: {path} stands still at {now.joules:,.0f} J, as on a virtual machine whose "
                "hypervisor hides them"
            )

    def _look(self, package: _Package) -> Reading:
        """Joules since some moment, without the counter's wraps. A counter that was reset goes back."""
        before_ns = self._clock()
        raw_uj = int((package.folder / "energy_uj").read_bytes())
        after_ns = self._clock()
        if raw_uj < package.raw_uj:
            gained_j = (raw_uj + package.range_uj - package.raw_uj) * MICRO
            if 0 <= gained_j <= MOST_W * (after_ns - package.at_ns) / NS_PER_S:
                package.wrapped_uj += package.range_uj
        package.raw_uj, package.at_ns = raw_uj, after_ns
        return Reading(before_ns, after_ns, (package.wrapped_uj + raw_uj) * MICRO)

    def states(self) -> Mapping[str, BoardState]:
        """Every package as it is now. Utilisation is of all CPUs together, since the last call."""
        busy = self._utilisation()
        return {package.name: self._state(package, busy) for package in self._packages}

    def _state(self, package: _Package, busy: float | None) -> BoardState:
        throttled: dict[Throttle, int] = {}
        if package.throttled_ms and (told := _text(package.throttled_ms)).isdigit():
            # A package knows no other slowdown than that of its heat.
            throttled = {"hw_thermal": int(told) * NS_PER_MS, "sw_thermal": 0, "power_brake": 0}
        return BoardState(
            package.name,
            self._clock(),
            power_limit_w=_long_term_limit_w(package.folder),
            throttled_ns=throttled,
            utilisation=busy,
            untold={"processes": "a package counts the joules of all its cores, whoever uses them"},
        )

    def _utilisation(self) -> float | None:
        """Busy share of all CPUs since this was asked before; None at first."""
        line = _text(self._root / "proc" / "stat").partition("\n")[0].split()[1:9]
        if len(line) < 8:
            return None
        ticks = [int(number) for number in line]
        total, idle = sum(ticks), ticks[3] + ticks[4]
        before, self._busy = self._busy, (total - idle, total)
        if before is None or total <= before[1]:
            return None
        return max(0.0, (total - idle - before[0]) / (total - before[1]))

    def start(self) -> None:
        """Begin to look for edges, in a thread."""
        self._stop.clear()
        self._watches = [_Watch(package) for package in self._packages]
        self._thread = threading.Thread(
            target=self._record, args=(self._stop.is_set,), name="slmperf-rapl", daemon=True
        )
        self._thread.start()

    def stop(self) -> Recording:
        """End looking, after some milliseconds."""
        self._end()
        return self._recorded()

    def watch(self, seconds: float) -> Recording:
        """Start, look for so long, and stop, in this thread."""
        self._watches = [_Watch(package) for package in self._packages]
        end_ns = self._clock() + round(seconds * NS_PER_S)
        self._record(lambda: self._clock() >= end_ns)
        return self._recorded()

    def _recorded(self) -> Recording:
        return Recording(
            tuple(
                EnergyTrace(
                    watch.package.name, "counter", tuple(watch.edges), failure=watch.failure, still_s=watch.still_s
                )
                for watch in self._watches
            )
        )

    def close(self) -> None:
        """End the session."""
        self._end()
        self._packages = []

    def _end(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
            self._thread = None

    def _record(self, done: Callable[[], bool]) -> None:
        while not done():
            for watch in self._watches:
                if watch.failure is None:
                    try:
                        self._find_edge(watch, done)
                    except (OSError, ValueError) as error:
                        watch.failure = f"its energy could not be read: {error}"
            self._sleep(EDGE_EVERY_S)

    def _find_edge(self, watch: _Watch, done: Callable[[], bool]) -> None:
        first = old = self._look(watch.package)
        while not done():
            self._sleep(LOOK_EVERY_S)
            new = self._look(watch.package)
            if new.joules != old.joules:
                watch.edges.append(Edge(old, new))
                return
            old = new
            watch.still_s = max(watch.still_s, (new.after_ns - first.before_ns) / NS_PER_S)
            if watch.still_s > STUCK_S:
                return


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _machine(root: Path) -> str:
    """Which machine it is, without saying so: CPUs have no number that a user may read, and baselines are committed.

    Made from the machine's id as systemd advises (machine-id(5)): from a digest alone nobody finds the id.
    """
    known = _text(root / "etc" / "machine-id")
    return hmac.new(known.encode(), b"pytest-slmperf", hashlib.sha256).hexdigest()[:12] if known else ""


def _throttled_ms(root: Path, name: str) -> Path | None:
    """Where the kernel counts how long a package was slowed down; it does so on Intel."""
    number = re.match(r"package-(\d+)", name)
    for cpu in sorted((root / "sys" / "devices" / "system" / "cpu").glob("cpu[0-9]*")):
        path = cpu / "thermal_throttle" / "package_throttle_total_time_ms"
        if number and _text(cpu / "topology" / "physical_package_id") == number[1] and _text(path).isdigit():
            return path
    return None


def _long_term_limit_w(folder: Path) -> float | None:
    """Of the constraints that a package has, the one that holds for seconds and longer."""
    for path in sorted(folder.glob("constraint_*_name")):
        limit = _text(path.with_name(path.name.replace("_name", "_power_limit_uw")))
        if _text(path) == "long_term" and limit.isdigit() and int(limit):
            return int(limit) * MICRO
    return None
