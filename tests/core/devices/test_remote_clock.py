"""Another machine's clock: its lead is bounded by round trips, and its error becomes that of joules."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.devices.edges import Edge, EnergyTrace, Look, PowerReading
from pytest_slmperf.core.devices.remote_clock import (
    DRIFT,
    RemoteClock,
    RoundTrip,
    clock_of,
    misplaced_ns,
    trace_here,
)

DELAYS = st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), min_size=1, max_size=10)


@given(lead_ns=st.integers(-(10**15), 10**15), delays=DELAYS)
def test_the_lead_is_within_its_error(lead_ns, delays):
    """However unlike the two ways of the network are."""
    now_ns = 10**15
    trips = []
    for out_ns, back_ns in delays:
        trips.append(RoundTrip(now_ns, now_ns + out_ns + lead_ns, now_ns + out_ns + back_ns))
        now_ns += out_ns + back_ns + 1
    clock = clock_of(trips)
    assert abs(clock.lead_ns - lead_ns) <= clock.error_ns
    assert clock.error_ns <= min((sum(delay) + 1) // 2 for delay in delays)


def test_several_round_trips_tell_more_than_the_best():
    """One that was quick on its way there and one that was quick on its way back bound the lead from either side."""
    clock = clock_of([RoundTrip(0, 5_010, 100), RoundTrip(1_000, 6_090, 1_100)])
    assert (clock.lead_ns, clock.error_ns, clock.at_ns) == (5_000, 10, 1_100)


def test_a_clock_that_is_set_meanwhile():
    """Round trips that contradict each other leave the shortest one's word."""
    clock = clock_of([RoundTrip(0, 5_050, 100), RoundTrip(1_000, 9_020, 1_040)])
    assert (clock.lead_ns, clock.error_ns, clock.at_ns) == (8_000, 20, 1_040)


def test_no_round_trip_is_no_clock():
    """Nothing is assumed."""
    with pytest.raises(ValueError, match="one round trip"):
        clock_of([])


def test_the_error_grows_with_time():
    """Clocks drift apart after they were compared."""
    clock = RemoteClock(0, 1_000, at_ns=10**9)
    assert clock.error_at(10**9) == 1_000
    assert clock.error_at(3 * 10**9) == 1_000 + round(DRIFT * 2e9)


def test_work_outside_of_its_question():
    """A batch that seems to begin before it was asked for tells that the clock has jumped, beyond its error."""
    clock = RemoteClock(lead_ns=1_000, error_ns=50, at_ns=0)
    assert misplaced_ns(clock, 1_000, 1_500, sent_ns=20, received_ns=520) == 0
    assert misplaced_ns(clock, 900, 1_500, sent_ns=20, received_ns=520) == 70
    assert misplaced_ns(clock, 1_100, 1_700, sent_ns=20, received_ns=520) == 130


def test_a_trace_comes_over_with_the_clocks_error():
    """The middle of an edge is moved by the lead, and its uncertainty holds that of an offset anywhere in the error."""
    there = EnergyTrace("GPU-1", "counter", (Edge(Look(10_000, 10_000, 5.0), Look(12_000, 12_000, 6.0)),))
    here = trace_here(there, RemoteClock(lead_ns=4_000, error_ns=3_000, at_ns=7_000))
    (before,), (after,) = there.edges, here.edges
    assert after.at_ns == before.at_ns - 4_000
    assert after.standard_ns == pytest.approx(math.hypot(before.standard_ns, 3_000 / math.sqrt(3)))
    assert (after.old.joules, after.new.joules) == (5.0, 6.0)


def test_power_readings_come_over_too():
    """Their middles are moved by the lead."""
    there = EnergyTrace("GPU-1", "power samples", powers=(PowerReading(10_000, 10_200, 70.0),))
    (one,) = trace_here(there, RemoteClock(lead_ns=-500, error_ns=10, at_ns=10_500)).powers
    assert (one.before_ns, one.after_ns, one.watts) == (10_490, 10_710, 70.0)
