"""Energy of the CPU's packages, through RAPL as Linux shows it under /sys/class/powercap (Intel; AMD since Zen).

A package's counter holds all its cores and caches: its sub-domains `core` and `uncore` are parts of it. `psys` is more
than the CPU, and `dram` isn't everywhere. So packages alone are added up. Their counters move about every millisecond,
and wrap, some of them every few minutes.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pytest_slmperf.core.devices.board import BoardState, Throttle
from pytest_slmperf.core.devices.edges import Look
from pytest_slmperf.core.errors import MeterUnavailable
from pytest_slmperf.core.meter import MeterFacts, Recording
from pytest_slmperf.core.units import NS_PER_MS, NS_PER_S
from pytest_slmperf.meters.counters import LOOK_EVERY_S, Lookout, Watch
from pytest_slmperf.meters.machine_id import machine_digest

MICRO = 1e-6
POWERCAP = "sys/class/powercap"
EDGE_EVERY_S = 0.02
"""From one edge of a counter to the next that is looked for: each costs some 30 µs of a core."""
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
        self._lookout = Lookout(
            "slmperf-rapl", every_s=EDGE_EVERY_S, sleep=sleep, clock=clock, faults=(OSError, ValueError)
        )

    def open(self) -> MeterFacts:
        """Find the packages. Raises MeterUnavailable where there are none, or one can't be read or stands still."""
        prefix = "-".join(filter(None, ("CPU", machine_digest(self._root))))
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

    def _look(self, package: _Package) -> Look:
        """Joules since some moment, without the counter's wraps. A counter that was reset goes back."""
        before_ns = self._clock()
        raw_uj = int((package.folder / "energy_uj").read_bytes())
        after_ns = self._clock()
        if raw_uj < package.raw_uj:
            gained_j = (raw_uj + package.range_uj - package.raw_uj) * MICRO
            if 0 <= gained_j <= MOST_W * (after_ns - package.at_ns) / NS_PER_S:
                package.wrapped_uj += package.range_uj
        package.raw_uj, package.at_ns = raw_uj, after_ns
        return Look(before_ns, after_ns, (package.wrapped_uj + raw_uj) * MICRO)

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
        self._lookout.start(self._watches())

    def stop(self) -> Recording:
        """End looking, after some milliseconds."""
        return _recorded(self._lookout.stop())

    def watch(self, seconds: float) -> Recording:
        """Start, look for so long, and stop, in this thread: for whoever has a clock of his own, as tests do."""
        return _recorded(self._lookout.watch(self._watches(), seconds))

    def close(self) -> None:
        """End the session."""
        self._lookout.stop()
        self._packages = []

    def _watches(self) -> Iterator[Watch]:
        return (Watch(package.name, partial(self._look, package)) for package in self._packages)


def _recorded(watches: tuple[Watch, ...]) -> Recording:
    return Recording(tuple(watch.trace("counter") for watch in watches))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


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
