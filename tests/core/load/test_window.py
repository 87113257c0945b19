"""Where the steady state of traffic is, of servers whose truth is known."""

import random
from itertools import count
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from queueing import S, closed_loop, exchange, in_turn, mm1, open_loop, poisson, traffic_of

from pytest_slmperf.core.load.concurrency import in_system
from pytest_slmperf.core.load.traffic import Arrivals
from pytest_slmperf.core.load.window import NoWindow, Window, find_window

OPEN = Arrivals(due_s=(0.0,))


def output_rate(traffic, window):
    """Tokens a second in a window."""
    stamps = (at for one in traffic.exchanges for at in one.chunk_ns)
    return sum(window.from_ns <= at < window.to_ns for at in stamps) / window.seconds


@pytest.mark.parametrize("load", [0.3, 0.5, 0.7, 0.8])
def test_the_number_in_an_mm1_queue_is_the_known_one(load):
    """Windows of sixty seconds have a mean of ρ/(1-ρ), which neither the cut nor what is rejected moves."""
    means = []
    for seed in range(30):
        traffic = mm1(load, 60, seed=seed)
        window = find_window(traffic, OPEN, least_s=20)
        assert isinstance(window, Window)
        assert not window.saturated
        means.append(in_system(traffic.exchanges).mean(window.from_ns, window.to_ns))
    assert fmean(means) == pytest.approx(load / (1 - load), rel=0.12)


@pytest.mark.parametrize("seed", range(5))
def test_while_a_system_fills_nothing_is_counted(seed):
    """Two hundred places and 1 s of service: the number grows from 0 to 30 in the first second, which is left out."""
    due = poisson(30, 20, random.Random(seed))
    window = find_window(open_loop(due, [1.0] * len(due), places=200), OPEN, least_s=5)
    assert isinstance(window, Window)
    assert window.from_ns >= 1.0 * S


def test_a_ramp_is_left_out():
    """The rate that is looked for begins with its end, and the system has to fill with it."""
    due = [0.1 * place for place in range(100)]
    window = find_window(open_loop(due, [0.3] * 100, places=9), Arrivals(due_s=(0.0,), ramp_s=4.0), least_s=1)
    assert isinstance(window, Window)
    assert window.from_ns == pytest.approx(4.3 * S)


def test_a_transient_that_outlasts_the_first_requests_is_cut():
    """The first ten are short, and the others take 2 s each: the number in the system grows until then, to 100."""
    due = [place / 50 for place in range(1000)]
    traffic = open_loop(due, [0.1] * 10 + [2.0] * 990, places=200)
    window = find_window(traffic, OPEN, least_s=1)
    assert isinstance(window, Window)
    assert in_system(traffic.exchanges).mean(window.from_ns, window.to_ns) == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize("seed", range(10))
def test_an_open_loop_that_its_engine_cannot_follow_is_saturated(seed):
    """It is told by how much; the rate of output in its window is the engine's own, four tokens in each 50 ms."""
    traffic = mm1(2, 30, seed=seed)
    window = find_window(traffic, OPEN, least_s=10)
    assert isinstance(window, Window)
    assert window.saturated.startswith("saturated: ")
    assert output_rate(traffic, window) == pytest.approx(80, rel=0.15)


@pytest.mark.parametrize("seed", range(10))
def test_a_load_a_little_beyond_the_engine_has_no_latencies_and_its_throughput(seed):
    """A tenth more than it can do: that requests pile up is seen sooner than whether they ever cease to."""
    draw = random.Random(seed)
    due = poisson(40, 30, draw)
    traffic = open_loop(due, [16 / 36 * draw.uniform(0.95, 1.05) for _ in due], places=16)
    window = find_window(traffic, OPEN, least_s=10)
    assert isinstance(window, Window)
    assert window.saturated.startswith(("saturated: ", "close to saturation: "))
    assert output_rate(traffic, window) == pytest.approx(4 * 36, rel=0.03)


def test_a_queue_at_the_limit_of_the_load_is_saturation_too():
    """No more than ten are sent at a time, and those that wait for a place are in the system."""
    due = [place / 50 for place in range(500)]
    window = find_window(open_loop(due, [0.4] * 500, places=99, limit=10), OPEN, least_s=1)
    assert isinstance(window, Window)
    assert "50 requests a second arrived and 25.1 ended" in window.saturated


def test_an_engine_that_is_overrun_from_the_start_is_saturated():
    """The first requests end after the last has arrived, and yet its output has been the same all the time."""
    traffic = in_turn([place / 100 for place in range(500)], 0.005, tokens=20)
    window = find_window(traffic, OPEN, least_s=2)
    assert isinstance(window, Window)
    assert "100 requests a second arrived and 0 ended" in window.saturated
    assert output_rate(traffic, window) == pytest.approx(200, rel=0.01)


def test_a_system_that_fills_all_the_time_is_not_said_to_be_saturated():
    """Requests last longer than others arrive, and its output grows as more are there: it was looked at too shortly."""
    traffic = open_loop([place / 100 for place in range(500)], [10.0] * 500, places=500, tokens=100)
    found = find_window(traffic, OPEN, least_s=2)
    assert isinstance(found, NoWindow)
    assert found.reason == "its first requests took up to 10 s, and all arrived in 4.99 s"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.2, 0.5, 0.7]))
def test_a_queue_that_comes_back_is_never_said_to_be_saturated(seed, load):
    """However it fluctuates: growth is judged as that of a walk, and a stable queue's is less."""
    window = find_window(mm1(load, 15, seed=seed), OPEN, least_s=1)
    assert not getattr(window, "saturated", "")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.95, 1.5]), st.integers(0, 10**15), st.sampled_from([1, 3, 10]))
def test_a_window_hangs_on_no_clock(seed, load, shift_ns, stretch):
    """Hours later, or all of it so many times as slow, it is the same window."""
    traffic = mm1(load, 10, seed=seed)

    def moved(at_ns):
        return shift_ns + stretch * at_ns

    other = [
        exchange(moved(one.sent_ns), 0, moved(one.ended_ns), chunk_ns=tuple(map(moved, one.chunk_ns)))
        for one in traffic.exchanges
    ]
    window = find_window(traffic, OPEN, least_s=1)
    there = find_window(traffic_of(other, began_ns=shift_ns), OPEN, least_s=1)
    assert isinstance(there, Window) is isinstance(window, Window)
    if isinstance(window, Window):
        assert there.from_ns == pytest.approx(moved(window.from_ns), rel=0, abs=100 * stretch)
        assert there.to_ns == moved(window.to_ns)
        assert bool(there.saturated) is bool(window.saturated)


def test_a_burst_in_a_constant_load_is_kept():
    """It isn't the beginning of anything; a rule that minimises the spread alone would cut up to its end."""
    due = sorted([place / 20 for place in range(400)] + [5.0] * 30)
    window = find_window(open_loop(due, [0.02] * 430), OPEN, least_s=1)
    assert isinstance(window, Window)
    assert window.seconds > 19


def test_a_replayed_trace_is_counted_whole():
    """Its rate changes as it did when it was recorded, which is neither a transient nor saturation."""
    due = [place / 10 for place in range(100)] + [10 + place / 60 for place in range(600)]
    window = find_window(open_loop(due, [0.1] * 700, places=2), Arrivals(due_s=(0.0,), recorded=True), least_s=1)
    assert window == Window(int(0.1 * S), int(max(due) * S))


@pytest.mark.parametrize("concurrency", [1, 8, 64])
@pytest.mark.parametrize("seconds", [5, 13.4])
def test_requests_that_march_in_step_are_counted_in_whole_turns(concurrency, seconds):
    """Equal lengths end together for ever; from one sending to another, a window of any length has the right rate."""
    traffic = closed_loop(concurrency, lambda: 1.0, seconds=seconds, tokens=20)
    window = find_window(traffic, Arrivals(concurrency=concurrency), least_s=1)
    assert isinstance(window, Window)
    assert output_rate(traffic, window) == pytest.approx(20 * concurrency, rel=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_a_closed_loop_of_mixed_lengths_has_its_known_rate(seed):
    """It begins after each place was taken a second time, and ends with the last that was sent."""
    draw = random.Random(seed)
    traffic = closed_loop(32, lambda: draw.uniform(0.5, 1.5), seconds=20, tokens=20)
    window = find_window(traffic, Arrivals(concurrency=32), least_s=5)
    assert isinstance(window, Window)
    assert window.from_ns >= sorted(one.ended_ns for one in traffic.exchanges)[31]
    assert window.to_ns == max(one.sent_ns for one in traffic.exchanges)
    assert output_rate(traffic, window) == pytest.approx(640, rel=0.05)


def test_a_slow_beginning_of_a_closed_loop_is_cut():
    """Its first three turns take twice as long: the rate is that of the later ones."""
    turns = count()
    traffic = closed_loop(16, lambda: 2.0 if next(turns) < 48 else 1.0, seconds=30, tokens=20)
    window = find_window(traffic, Arrivals(concurrency=16), least_s=5)
    assert isinstance(window, Window)
    assert output_rate(traffic, window) == pytest.approx(320, rel=0.01)


def test_a_closed_loop_that_slows_down_for_ever_has_no_steady_state():
    """Each answer takes a little longer than the one before: no stretch of it stands for the others."""
    lengths, draw = count(), random.Random(5)
    traffic = closed_loop(8, lambda: draw.uniform(0.08, 0.12) * (1 + next(lengths) / 500), seconds=20, tokens=10)
    found = find_window(traffic, Arrivals(concurrency=8), least_s=5)
    assert isinstance(found, NoWindow)
    assert "still changes" in found.reason


@pytest.mark.parametrize(
    ("traffic", "arrivals", "reason"),
    [
        (closed_loop(4, lambda: 10.0, seconds=5), Arrivals(concurrency=4), "taken a second time"),
        (open_loop([0, 1, 2], [10, 10, 10], places=3), OPEN, "took up to 10 s, and all arrived in 2 s"),
        (open_loop([0, 1], [0.5, 0.5]), Arrivals(due_s=(0.0,), ramp_s=9), "all arrived in 0 s"),
        (closed_loop(4, lambda: 1.0, seconds=3.5), Arrivals(concurrency=4), "lasted 2 s, and 3 s is the least"),
    ],
)
def test_why_there_is_no_window_is_told(traffic, arrivals, reason):
    """With what was seen, so that whoever reads it knows what to lengthen."""
    found = find_window(traffic, arrivals, least_s=3)
    assert isinstance(found, NoWindow)
    assert reason in found.reason


def test_a_window_has_a_length_even_where_none_is_asked_for():
    """All that is left after the second turn was sent at one instant: nothing can be divided by that."""
    traffic = closed_loop(4, lambda: 1.0, seconds=1.5)
    assert isinstance(find_window(traffic, Arrivals(concurrency=4), least_s=0), NoWindow)


def test_where_nothing_was_sent_there_is_no_window():
    """Nor anything else to say."""
    nothing = traffic_of([exchange(0, 0, 1)])
    assert find_window(type(nothing)((), 0, 0), OPEN, least_s=1) == NoWindow("nothing was sent")
