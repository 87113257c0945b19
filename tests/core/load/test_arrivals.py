"""When requests are due."""

import math
from itertools import pairwise
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.load.arrivals import replayed, schedule
from pytest_slmperf.core.sweeps.workload import OpenLoop


def loop(**settings):
    return OpenLoop(prompt_tokens=8, output_tokens=8, **settings)


@pytest.mark.parametrize("burstiness", [0.1, 0.5, 1, 2.5, 40, math.inf])
def test_gaps_have_the_mean_and_the_spread_that_they_should(burstiness):
    """Of twenty thousand requests the rate is that asked for, and the gaps' coefficient of variation 1/√burstiness."""
    due = schedule(loop(burstiness=burstiness), 100, seconds=200, seed=3)
    gaps = [after - before for before, after in pairwise(due)]
    variation = 0 if burstiness == math.inf else 1 / math.sqrt(burstiness)
    assert fmean(gaps) == pytest.approx(0.01, rel=4 * variation / math.sqrt(len(gaps)) + 1e-6)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(variation, rel=0.06, abs=1e-6)


@given(
    burstiness=st.sampled_from([0.25, 1.0, 3.0, math.inf]),
    rate=st.floats(0.5, 50),
    seconds=st.floats(0, 20),
    ramp_s=st.floats(0, 5),
    seed=st.integers(0, 2**32),
)
def test_a_shorter_schedule_is_the_beginning_of_a_longer_one(burstiness, rate, seconds, ramp_s, seed):
    """All ascend from 0, end before the second asked for, and are the same for the same seed."""
    workload = loop(burstiness=burstiness, ramp_s=ramp_s)
    long = schedule(workload, rate, seconds=20, seed=seed)
    assert schedule(workload, rate, seconds=seconds, seed=seed) == tuple(due for due in long if due < seconds)
    assert list(long) == sorted(long)
    assert all(0 <= due < 20 for due in long)


def test_the_rate_grows_linearly_over_the_ramp():
    """A constant rate of 100 has sent half of a full second's worth at 1 s of a ramp of 1 s, and a quarter by 0.5 s."""
    due = schedule(loop(burstiness=math.inf, ramp_s=1), 100, seconds=2, seed=0)
    assert sum(at <= 0.5 for at in due) == 12
    assert sum(at <= 1.0 for at in due) == 50
    assert due[-1] - due[-50] == pytest.approx(0.49)


def test_another_seed_draws_another_schedule():
    """Two cases don't send at the same instants."""
    assert schedule(loop(), 10, seconds=5, seed=1) != schedule(loop(), 10, seconds=5, seed=2)


def test_a_schedule_is_the_same_everywhere():
    """These instants were drawn once; another Python or machine that draws others would measure another load."""
    assert schedule(loop(), 10, seconds=0.5, seed=7) == (
        0.066992915,
        0.23023892,
        0.266905027,
        0.299947575,
        0.312027104,
        0.354604919,
        0.448864183,
    )
    assert schedule(loop(burstiness=0.5), 10, seconds=0.5, seed=7) == (
        0.083103235,
        0.412517507,
        0.454742904,
        0.473867572,
    )


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf])
def test_what_is_no_rate_is_refused(rate):
    """An endless or empty schedule is nobody's wish."""
    with pytest.raises(SuiteError, match="request rate"):
        schedule(loop(), rate, seconds=1, seed=0)


def test_a_replay_is_the_trace_at_another_speed():
    """Holes stay holes, in proportion."""
    assert replayed([0, 0.5, 0.5, 60], 2) == (0, 0.25, 0.25, 30)


@pytest.mark.parametrize(
    ("offsets", "what"),
    [
        ([0, -1], "arrival 1 .* is negative"),
        ([0, 3, 2], "arrival 2 .* comes after 3 s"),
        ([0, math.nan], "arrival 1 .* is no time"),
        ([math.inf], "arrival 0 .* is no time"),
    ],
)
def test_a_trace_whose_times_make_no_sense_is_refused_by_its_first_fault(offsets, what):
    """Sorting it would make up a load that nobody recorded."""
    with pytest.raises(SuiteError, match=what):
        replayed(offsets, 1)


def test_a_speed_is_above_0():
    """At 0 nothing would ever come."""
    with pytest.raises(SuiteError, match="speed"):
        replayed([0, 1], 0)
