"""Where long work is: one line that is rewritten in a terminal, sparse lines in a log."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.sweeps.variant import series_of

QUIET_S = 15.0
"""A log gets a line at most this often."""
REDRAW_S = 0.2


Launched = tuple[str, str]
"""The arm and the curve of a launch: its cases without their places."""


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

    def __init__(self, screen: Screen, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen = screen
        self._clock = clock
        self._written = float("-inf")
        self._left: Counter[Launched] = Counter()
        """Launches that are expected to begin."""
        self._took_s: dict[Launched, float] = {}
        """The last launch of each: the fewer cases are left of one, the shorter it gets."""
        self._launched: Launched | None = None
        """What is measured now; None where an engine is only primed."""
        self._launched_at = 0.0
        self._spent = 0
        self._engine = self._case = ""
        self._drawn = False

    def planned(self, left: Mapping[Launched, int], spent: int) -> None:
        """So many launches are expected from now on, beside the `spent` ones."""
        self._left, self._spent = Counter(left), spent

    def launching(self, spec: EngineSpec, cases: Sequence[str], arm: str) -> None:
        """A launch begins; one without cases primes its engine."""
        now = self._clock()
        if self._launched:
            self._took_s[self._launched] = now - self._launched_at
        self._launched, self._launched_at = ((arm, series_of(cases[0])) if cases else None), now
        if self._launched:
            self._left[self._launched] -= 1
        self._spent += 1
        self._engine = f"{spec.engine} {spec.model_name}" + (" (the other arm)" if arm == "baseline" else "")
        self._case = cases[0] if cases else "starting"
        self._tell(f"launch {self._spent}{self._of()}")
        if not cases:  # a log would say so until the first launch that measures has lasted for QUIET_S
            self._written = float("-inf")

    def round(self, case: str, number: int, rounds: int) -> None:
        """A round of a case begins."""
        self._case = case
        self._tell(f"launch {self._spent}{self._of()}, round {number} of {rounds}")

    def retrying(self, reason: str, number: int, tries: int) -> None:
        """A round of the same case was void, for this reason, and is repeated."""
        why = f": its round was void, try {number} of {tries}: {' '.join(reason.split())}"
        self._tell(f"launch {self._spent}{self._of()}", why)

    def remark(self, line: str) -> None:
        """Say one line now, whatever was said before."""
        self._screen.show(line, replace=False)

    def done(self) -> None:
        """A campaign has ended: clear the line that was rewritten."""
        self._left.clear()
        self._took_s.clear()
        self._launched, self._spent = None, 0
        if self._drawn:
            self._screen.show("", replace=True)
            self._drawn = False

    def _tell(self, where: str, said: str = "") -> None:
        now = self._clock()
        rewrites = self._screen.rewrites
        if now - self._written < (REDRAW_S if rewrites else QUIET_S):
            return
        self._written, self._drawn = now, rewrites
        said = said or self._left_of_time(now)
        self._screen.show(f"slmperf: {self._engine}: {where}: {self._case}{said}", replace=rewrites)

    def _of(self) -> str:
        expected = self._spent + self._left.total()
        return f" of about {expected}" if self._left.total() or self._launched else ""

    def _left_of_time(self, now: float) -> str:
        """From when each engine was measured once; what primes an engine measures nothing, and is shorter."""
        coming = +self._left
        if self._launched is None or not coming.keys() | {self._launched} <= self._took_s.keys():
            return ""
        this_s = max(0.0, self._took_s[self._launched] - (now - self._launched_at))
        return f", about {duration(this_s + sum(n * self._took_s[one] for one, n in coming.items()))} left"


def duration(seconds: float) -> str:
    """Coarsely: `45 s`, `12 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
