"""Waking at an instant: to some ten microseconds where an event loop's own timers have milliseconds."""

import asyncio
import ctypes
import os
from collections.abc import Callable

from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.engines.simulated_time import SimulatedLoop

_CLOCK_MONOTONIC = 1
_TFD_CLOEXEC_NONBLOCK = 0o2000000 | 0o4000
_TFD_TIMER_ABSTIME = 1


class _Expiry(ctypes.Structure):
    """The kernel's `struct itimerspec`: an interval, which nobody wants here, and an instant."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns"))


class Alarm:
    """Calls back in the running event loop at one instant after the other. Lives as long as something is sent.

    It is a file descriptor that the kernel makes readable at a time of CLOCK_MONOTONIC (timerfd). epoll, which event
    loops wait by, takes whole milliseconds, and rounds up. In simulated time it is a timer of the event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._timer: int | None = None
        if isinstance(loop, SimulatedLoop):
            return
        self._libc = ctypes.CDLL(None, use_errno=True)
        timer: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_CLOEXEC_NONBLOCK)
        if timer < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._timer = timer
        loop.add_reader(timer, self._ring)

    def at(self, instant_ns: int) -> None:
        """Call back then, or at once where that has passed; instead of any earlier wish."""
        if self._timer is None:
            self._loop.call_at(instant_ns / NS_PER_S, self._callback)
            return
        expiry = _Expiry(0, 0, *divmod(instant_ns, NS_PER_S))
        self._libc.timerfd_settime(self._timer, _TFD_TIMER_ABSTIME, ctypes.byref(expiry), None)

    def close(self) -> None:
        """Call no more."""
        self._callback = _nothing
        if self._timer is not None:
            self._loop.remove_reader(self._timer)
            os.close(self._timer)

    def _ring(self) -> None:
        assert self._timer is not None  # noqa: S101 - or nobody rings
        os.read(self._timer, 8)
        self._callback()


def _nothing() -> None:
    """What an alarm calls that was closed."""
