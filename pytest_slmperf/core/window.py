"""The window of a load with arrivals: the stretch of steady state over which its requests and tokens are counted."""

from dataclasses import dataclass

from pytest_slmperf.core.traffic import Arrivals, Traffic

NS_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class Window:
    """From its first instant to before its last."""

    from_ns: int
    to_ns: int
    saturated: str = ""
    """Why its latencies depend on how long one looks; an empty text where they don't."""

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.to_ns - self.from_ns) / NS_PER_S


@dataclass(frozen=True, slots=True)
class NoWindow:
    """Why there is none."""

    reason: str


def find_window(traffic: Traffic, arrivals: Arrivals, *, least_s: float) -> Window | NoWindow:
    """The steady state of what was sent, or why none of `least_s` seconds was found."""
    from_ns, to_ns = traffic.began_ns, traffic.last_sent_ns
    if to_ns - from_ns < least_s * NS_PER_S:
        return NoWindow(f"{arrivals} lasted {(to_ns - from_ns) / NS_PER_S:.3g} s, and {least_s:g} s is the least")
    return Window(from_ns, to_ns)
