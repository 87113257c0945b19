"""An event loop in simulated time: its clock jumps to the next timer, so that nobody waits for what is only said."""

import asyncio
import math
import selectors
import time
from collections.abc import Callable

from pytest_slmperf.core.units import NS_PER_S


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Runs what any event loop runs, and no time passes but that of its timers.

    Its clock begins at a second: seconds are floats there, which tell nanoseconds for a month.
    """

    def __init__(self) -> None:
        self.now_ns = int(NS_PER_S)
        super().__init__(_Jumping(self))

    def time(self) -> float:
        """Seconds of simulated time."""
        return self.now_ns / NS_PER_S


class _Jumping(selectors.DefaultSelector):
    """Moves its loop's clock on instead of waiting; who waits without a timer waits for the real world."""

    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready and timeout > 0:
            self._loop.now_ns += math.ceil(timeout * NS_PER_S)
        return ready


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], int]:
    """What tells the nanoseconds that pass in an event loop: CLOCK_MONOTONIC, but in simulated time."""
    if isinstance(loop, SimulatedLoop):
        return lambda: loop.now_ns
    return time.monotonic_ns
