"""A number that steps up and down."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from queueing import exchange

from pytest_slmperf.core.load.concurrency import Steps, in_system, under_way

stretches = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted), max_size=12)


def counted(spans, at):
    """How many of the stretches hold this instant, looked at one by one."""
    return sum(begin <= at < end for begin, end in spans)


@given(stretches, st.integers(0, 50), st.integers(1, 20))
def test_it_is_what_counting_at_each_instant_finds(spans, from_ns, length):
    """The level, the mean and the peak of a stretch, for any requests."""
    steps = Steps(change for begin, end in spans for change in ((begin, 1), (end, -1)))
    to_ns = from_ns + length
    levels = [counted(spans, at) for at in range(from_ns, to_ns)]
    assert [steps.at(at) for at in range(from_ns, to_ns)] == levels
    assert steps.mean(from_ns, to_ns) == pytest.approx(sum(levels) / length)
    assert steps.peak(from_ns, to_ns) == max(levels)


@given(stretches, st.integers(0, 60))
def test_it_knows_when_it_last_rose_from_0(spans, at_ns):
    """Right before an instant at which it isn't 0; else that is the instant itself."""
    steps = Steps(change for begin, end in spans for change in ((begin, 1), (end, -1)))
    idle = [at for at in range(at_ns) if not counted(spans, at)]
    busy = at_ns > 0 and counted(spans, at_ns - 1) > 0
    assert steps.risen_before(at_ns) == ((idle[-1] + 1 if idle else 0) if busy else at_ns)


def test_who_waits_for_a_place_is_in_the_system_and_not_under_way():
    """It has arrived, and isn't sent."""
    waited = [exchange(30, 30, 40, arrived_ns=10)]
    assert (under_way(waited).at(20), in_system(waited).at(20)) == (0, 1)
    assert (under_way(waited).at(35), in_system(waited).at(35)) == (1, 1)
