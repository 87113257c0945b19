"""How fast the engine's cores are right now: a fixed piece of work, timed on them while the engine rests.

A clock that can't be read, or a neighbour on the same physical core whom a hypervisor hides, slows a core by a fifth
and more, for a second or for minutes, and no counter of this machine tells. What is timed here is no engine's work, so
that a slow engine never looks like a slow core; and it is this process that works, so that both arms of a comparison
are held to one measure, whatever interpreter they run on.
"""

import math
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from statistics import fmean

from pytest_slmperf.run.pinning import on_core

PIECES = 6
"""Timed one after the other; the fastest counts, since an interrupt only ever adds."""
ADDITIONS = 1_200
NUMBER = random.Random(1).getrandbits(16_000)
COPIED = bytes(1 << 19)
COPY = bytearray(COPIED)
COPIES = 2
SHUFFLED = tuple(random.Random(1).sample(range(700), 700))
"""What a piece works on: about 50 µs for each of its kinds."""
REMEMBERED = 120
"""Readings of a core that its usual pace is taken from: those of a minute or so. What lasts longer is its pace now."""
MOST_CORES = 4
"""Of an engine with more of them so many are asked, evenly spread."""
FIRST_READINGS = 12
FIRST_READINGS_APART_S = 0.02
USUAL = 0.25
"""Quantile of the readings that is the usual pace: a core may be slowed for most of the time, and it still shows."""
ASK_EVERY_S = 0.02

Slowness = Mapping[int, float]
"""By core: how much longer the piece of work takes than usual; 1.2 is a fifth longer. Empty where nothing is known."""


class Pace:
    """The cores' pace over a run. Lives as long as the run, so that all its launches are held to the same."""

    def __init__(
        self, piece_ns: Callable[[], int] | None = None, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._piece_ns = piece_ns or _piece_ns
        self._sleep = sleep
        self._readings: dict[int, deque[int]] = {}
        self._latest_ns: dict[int, int] = {}

    def latest_ns(self, cores: Collection[int]) -> float | None:
        """The piece's time when it was read last, the mean of the cores that are asked; None where it was never read.

        It is kept with a baseline: another piece of work is another METHOD.
        """
        times = [self._latest_ns[core] for core in _asked(cores) if core in self._latest_ns]
        return fmean(times) if times else None

    def now(self, cores: Collection[int]) -> Slowness:
        """How slow the cores are now, and remember it. A millisecond a core: for between two rounds, never within."""
        return self._slow(_asked(cores), self._remembered)

    def settled(self, cores: Collection[int], *, tolerance: float, limit_s: float) -> Slowness:
        """Wait until no core is slower than usual by more than the tolerance, `limit_s` at most, and say how slow
        they are then. Only the first reading is remembered, or a slow spell would become what is usual.
        """
        slowness = self.now(cores)
        until = time.monotonic() + limit_s
        while slowed(slowness, tolerance) and time.monotonic() < until:
            self._sleep(ASK_EVERY_S)
            slowness = self._slow(slowness, self._read)
        return slowness

    def forget(self) -> None:
        """What was usual is so no more: the next reading of a core begins anew.

        A spell of another pace, also of a faster one, may have made usual what the machine doesn't come back to.
        """
        self._readings = {core: readings for core, readings in self._readings.items() if not readings}

    def _slow(self, cores: Iterable[int], read: Callable[[int], int]) -> Slowness:
        try:
            return {core: self._slowness(core, read(core)) for core in cores if self._reads(core)}
        except OSError:  # this process may not run there any more
            return {}

    def _reads(self, core: int) -> bool:
        """Whether the core's pace can be had; the first time, find out what is usual."""
        if core in self._readings:
            return bool(self._readings[core])
        self._readings[core] = deque(maxlen=REMEMBERED)
        try:
            for place in range(FIRST_READINGS):
                if place:
                    self._sleep(FIRST_READINGS_APART_S)
                self._remembered(core)
        except OSError:  # this process may not run there
            return False
        return True

    def _remembered(self, core: int) -> int:
        reading = self._read(core)
        self._readings[core].append(reading)
        return reading

    def _slowness(self, core: int, reading: int) -> float:
        ordered = sorted(self._readings[core])
        return reading / ordered[int(USUAL * len(ordered))]

    def _read(self, core: int) -> int:
        with on_core(core):
            self._latest_ns[core] = fastest = min(self._piece_ns() for _ in range(PIECES))
        return fastest


def _asked(cores: Collection[int]) -> list[int]:
    return sorted(cores)[:: math.ceil(len(cores) / MOST_CORES) or 1]


def slowed(slowness: Slowness, tolerance: float) -> dict[int, float]:
    """The cores that are slower than usual by more than the tolerance."""
    return {core: share for core, share in slowness.items() if share > 1 + tolerance}


def _piece_ns() -> int:
    """Branches, multipliers, caches: a neighbour may want any of them, and no kind of work alone feels all of them."""
    began_ns = time.perf_counter_ns()
    total = 0
    for number in range(ADDITIONS):
        total += number * number
    _ = NUMBER * NUMBER
    for _ in range(COPIES):
        COPY[:] = COPIED
    sorted(SHUFFLED)
    return time.perf_counter_ns() - began_ns
