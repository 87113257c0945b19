"""A machine's /sys/class/powercap as files of a folder, with counters that move as a kernel's do."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

RANGE_UJ = 262_143_328_850
FAR_UJ = 1_000_000_000
NS_PER_S = 1e9
MS_NS = 1_000_000


class Powercap:
    """Two sockets with their parts, and what else a kernel lists there.

    `watts` by package move the counters every millisecond of a clock of its own, which `sleep` moves on. `events` are
    done when their second has come.
    """

    def __init__(self, root: Path, watts: tuple[float, float] = (0, 0), *, first_uj: int = FAR_UJ) -> None:
        self.root = root
        self.folder = root / "sys" / "class" / "powercap"
        self.watts = list(watts)
        self.raw_uj = [float(first_uj)] * 2
        self.now_ns = 0
        self._moved_ms = 0
        self.events: dict[float, Callable[[], object]] = {}
        names = {
            "intel-rapl:0": "package-0",
            "intel-rapl:0:0": "core",
            "intel-rapl:0:1": "dram",
            "intel-rapl:1": "package-1",
            "intel-rapl:2": "psys",
            "intel-rapl-mmio:0": "package-0",
        }
        for folder, name in names.items():
            self.write(f"{folder}/name", name)
            self.write(f"{folder}/max_energy_range_uj", str(RANGE_UJ))
            self.write(f"{folder}/energy_uj", str(first_uj))
        for package in (0, 1):
            self.write(f"intel-rapl:{package}/constraint_0_name", "long_term")
            self.write(f"intel-rapl:{package}/constraint_0_power_limit_uw", "205000000")
        (root / "etc").mkdir()
        (root / "etc" / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")

    def write(self, path: str, text: str) -> Path:
        """A file as a reader sees it: whole, old or new."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        written = target.with_name(f"{target.name}.new")
        written.write_text(f"{text}\n")
        return written.replace(target)

    def clock(self) -> int:
        """What time it is; asking takes some microseconds."""
        self.now_ns += 3_000
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        """Time passes, and the counters move on to its last whole millisecond."""
        self.now_ns += round(seconds * NS_PER_S)
        for at_s in [at_s for at_s in self.events if at_s * NS_PER_S <= self.now_ns]:
            self.events.pop(at_s)()
        moved_ms, self._moved_ms = self._moved_ms, self.now_ns // MS_NS
        self.move(self._moved_ms - moved_ms)

    def move(self, milliseconds: float) -> None:
        """Every counter gains what its package draws in so long."""
        for package, watts in enumerate(self.watts):
            path = self.folder / f"intel-rapl:{package}" / "energy_uj"
            if watts and path.exists():
                self.raw_uj[package] = (self.raw_uj[package] + 1000 * watts * milliseconds) % RANGE_UJ
                self.write(f"intel-rapl:{package}/energy_uj", str(int(self.raw_uj[package])))
