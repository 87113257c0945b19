"""Where long work is: one line that is rewritten in a terminal, sparse lines in a log."""

import time
from collections.abc import Sequence
from typing import Protocol

from pytest_slmperf.core.engine import EngineSpec

QUIET_S = 15.0
"""A log gets a line at most this often."""
REDRAW_S = 0.2


class Screen(Protocol):
    """Where lines go."""

    @property
    def rewrites(self) -> bool:
        """Whether a line can be replaced: a terminal, not a log."""
        ...

    def show(self, line: str, *, replace: bool) -> None:
        """Write a line; with `replace`, in the place of the last one that was shown so."""
        ...


class Progress:
    """Tells where a run is. Lives as long as the run."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._began = time.monotonic()
        self._written = float("-inf")
        self._launches = 0
        self._spent = 0
        self._engine = ""
        self._drawn = False

    def planned(self, launches: int, spent: int) -> None:
        """`launches` are expected in all by now, of which `spent` are done."""
        self._launches, self._spent = launches, spent

    def launching(self, spec: EngineSpec, cases: Sequence[str], arm: str) -> None:
        """A launch begins."""
        if not self._spent:
            self._began = time.monotonic()
        self._spent += 1
        self._engine = f"{spec.engine} {spec.model_name}" + (" (the other arm)" if arm == "baseline" else "")
        self._tell(f"launch {self._spent}{self._of()}", cases[0] if cases else "starting")

    def round(self, case: str, number: int, rounds: int) -> None:
        """A round of a case begins."""
        self._tell(f"launch {self._spent}{self._of()}, round {number} of {rounds}", case)

    def remark(self, line: str) -> None:
        """Say one line now, whatever was said before."""
        self._screen.show(line, replace=False)

    def done(self) -> None:
        """A campaign has ended: clear the line that was rewritten."""
        self._launches = self._spent = 0
        if self._drawn:
            self._screen.show("", replace=True)
            self._drawn = False

    def _tell(self, where: str, case: str) -> None:
        now = time.monotonic()
        rewrites = self._screen.rewrites
        if now - self._written < (REDRAW_S if rewrites else QUIET_S):
            return
        self._written, self._drawn = now, rewrites
        self._screen.show(f"slmperf: {self._engine}: {where}: {case}{self._left(now)}", replace=rewrites)

    def _of(self) -> str:
        return f" of about {self._launches}" if self._launches >= self._spent else ""

    def _left(self, now: float) -> str:
        done, left = self._spent - 1, self._launches - self._spent + 1
        if done < 1 or left < 1:
            return ""
        return f", about {left * (now - self._began) / done:.0f} s left"
