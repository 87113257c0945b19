"""A machine's /sys/class/powercap as files of a folder, with counters that move as a kernel's do."""

import threading
import time
from pathlib import Path
from typing import Self

RANGE_UJ = 262_143_328_850
FAR_UJ = 1_000_000_000


class Powercap:
    """Two sockets with their parts, and what else a kernel lists there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folder = root / "sys" / "class" / "powercap"
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
            self.write(f"{folder}/energy_uj", str(FAR_UJ))
        for package in (0, 1):
            self.write(f"intel-rapl:{package}/constraint_0_name", "long_term")
            self.write(f"intel-rapl:{package}/constraint_0_power_limit_uw", "205000000")
        (root / "etc").mkdir()
        (root / "etc" / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")

    def write(self, path: str, text: str) -> Path:
        """A file as a reader sees it: whole, old or new."""
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        written = target.with_name(f"{target.name}.new")
        written.write_text(f"{text}\n")
        return written.replace(target)


class Ticking:
    """The counters move every millisecond while it is open: `watts` by package, from `first_uj` and back at the range.

    What they show is true of the moment when it is written, however late that is.
    """

    def __init__(self, powercap: Powercap, watts: dict[int, float], *, first_uj: int = FAR_UJ) -> None:
        self._powercap = powercap
        self.watts = watts
        self.first_uj = first_uj
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tick)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """They stand still from now on."""
        self._done.set()
        self._thread.join()

    def _tick(self) -> None:
        while not self._done.wait(0.001):
            for package, watts in list(self.watts.items()):
                raw = self.first_uj + watts * 1e6 * (time.monotonic() - self._began)
                self._powercap.write(f"intel-rapl:{package}/energy_uj", str(int(raw) % RANGE_UJ))
