"""The monotonic clock of another machine, as this one's sees it: how far it is ahead, and how sure that is.

A question that is sent here, answered there with the time of that clock, and back here tells that the answer was given
between the two instants: so each round trip bounds the offset from both sides, whatever the network did with it, and
all of them together bound it better than the best (D. L. Mills, Internet time synchronization: the Network Time
Protocol, IEEE Transactions on Communications 39(10), 1991; K. Marzullo and S. Owicki, Maintaining the time in a
distributed system, PODC 1983). Such bounds are no standard deviations: the true offset is within them, as long as both
clocks run alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_slmperf.core.devices.edges import Edge, EnergyTrace, Look, PowerReading

DRIFT = 1e-4
"""By which two machines' clocks may drift apart: two crystals of 50 parts in a million."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A question for the time there, by the clock here but for the answer itself."""

    sent_ns: int
    there_ns: int
    """What that clock showed at some moment in between."""
    received_ns: int


@dataclass(frozen=True, slots=True)
class RemoteClock:
    """That clock's lead over ours, of some instant on."""

    lead_ns: int
    """Its time less ours."""
    error_ns: int
    """The lead is within so much of the truth, at `at_ns`."""
    at_ns: int
    """When it was measured, by our clock."""

    def here_ns(self, there_ns: int) -> int:
        """What our clock showed when that one showed this."""
        return there_ns - self.lead_ns

    def error_at(self, here_ns: int) -> int:
        """By how much a converted time may be wrong at this instant: more, the longer ago it was measured."""
        return self.error_ns + round(DRIFT * abs(here_ns - self.at_ns))


def clock_of(trips: Sequence[RoundTrip]) -> RemoteClock:
    """The clock that all of these round trips agree on; where a clock was set meanwhile, what the shortest tells.

    Raises ValueError without any.
    """
    if not trips:
        raise ValueError("a clock is known from one round trip at least")
    least = max(trip.there_ns - trip.received_ns for trip in trips)
    most = min(trip.there_ns - trip.sent_ns for trip in trips)
    at_ns = trips[-1].received_ns
    if least > most:
        best = min(trips, key=lambda trip: trip.received_ns - trip.sent_ns)
        least, most, at_ns = best.there_ns - best.received_ns, best.there_ns - best.sent_ns, best.received_ns
    return RemoteClock((least + most) // 2, (most - least + 1) // 2, at_ns)


def misplaced_ns(clock: RemoteClock, began_there_ns: int, ended_there_ns: int, sent_ns: int, received_ns: int) -> int:
    """By how much more than its error a clock is wrong, as work shows that began there after it was asked for here, and
    ended before it was answered; 0 where it fits.
    """
    early = sent_ns - clock.here_ns(began_there_ns)
    late = clock.here_ns(ended_there_ns) - received_ns
    return max(0, early - clock.error_at(sent_ns), late - clock.error_at(received_ns))


def trace_here(trace: EnergyTrace, clock: RemoteClock) -> EnergyTrace:
    """A meter's trace by our clock. Every look becomes longer by the error on both sides: its value is of some moment
    of it, and so is the doubt that is added to an edge.
    """
    return replace(
        trace,
        edges=tuple(Edge(_look(edge.old, clock), _look(edge.new, clock)) for edge in trace.edges),
        powers=tuple(PowerReading(*_span(one.before_ns, one.after_ns, clock), watts=one.watts) for one in trace.powers),
    )


def _look(look: Look, clock: RemoteClock) -> Look:
    return Look(*_span(look.before_ns, look.after_ns, clock), joules=look.joules)


def _span(before_ns: int, after_ns: int, clock: RemoteClock) -> tuple[int, int]:
    here = clock.here_ns(before_ns), clock.here_ns(after_ns)
    return here[0] - clock.error_at(here[0]), here[1] + clock.error_at(here[1])
