"""Latencies and their quantiles, from token times."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.engine import Served
from pytest_slmperf.core.load.latency import (
    Latencies,
    answered_of,
    bounding,
    interval,
    latencies,
    latencies_of,
    needed,
    percentile,
    statistics,
)
from pytest_slmperf.core.load.traffic import Exchange

MS = 1_000_000
values = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=200)
quantiles = st.floats(0.001, 0.999)


def served(*token_ms, started_ms=1000):
    """A batch whose requests' tokens come at these milliseconds after its start."""
    token_ns = tuple(tuple(int((started_ms + at) * MS) for at in request) for request in token_ms)
    return Served(started_ms * MS, max(map(max, token_ns)), tuple(map(len, token_ms)), token_ns)


def test_latencies_count_from_the_start_of_the_batch():
    """First and last token count from there, and gaps and times per token from the first token on."""
    seen = latencies([served([10, 12, 20], [11, 30])])
    assert seen.requests == 2
    assert seen.ttft_ms == (10, 11)
    assert seen.e2el_ms == (20, 30)
    assert seen.itl_ms == (2, 8, 19)
    assert seen.tpot_ms == (5, 19)


@given(st.lists(st.lists(st.integers(1, 10_000), min_size=2, max_size=20), min_size=1, max_size=8))
def test_tpot_is_what_is_left_of_e2el_after_the_first_token_over_the_other_tokens(gaps):
    """The four latencies fit together for any times of tokens, and all gaps add up to what they lie in."""
    batch = served(*[np.cumsum(request).tolist() for request in gaps])
    seen = latencies([batch])
    for place, tokens in enumerate(batch.output_tokens):
        expected = (seen.e2el_ms[place] - seen.ttft_ms[place]) / (tokens - 1)
        assert seen.tpot_ms[place] == pytest.approx(expected)
    assert sum(seen.itl_ms) == pytest.approx(sum(map(sum, (request[1:] for request in gaps))))


@given(values, quantiles)
def test_a_percentile_is_numpys(sample, quantile):
    """It is interpolated as `numpy.quantile` does by default."""
    assert percentile(sample, quantile) == pytest.approx(float(np.quantile(sample, quantile)), rel=1e-9)


@given(values, quantiles, quantiles)
def test_a_higher_percentile_is_not_smaller(sample, one, other):
    """Of the same sample, p99 is never below p90."""
    low, high = sorted((one, other))
    assert percentile(sample, low) <= percentile(sample, high) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("quantile", "requests"), [(0.5, 1), (0.75, 4), (0.9, 10), (0.99, 100), (0.999, 1000), (0.1, 10)]
)
def test_a_quantile_needs_a_request_beyond_it(quantile, requests):
    """A p99 of fewer than a hundred requests would be their maximum."""
    assert needed(quantile) == requests


def test_every_latency_has_its_median_even_of_one_request():
    """Medians are told by default and want nothing declared."""
    values, unmeasured = statistics(latencies([served([10, 12, 20])]), quantiles=())
    assert values == {"median_ttft_ms": 10, "median_tpot_ms": 5, "median_itl_ms": 5, "median_e2el_ms": 20}
    assert unmeasured == {}


def test_a_quantile_of_too_few_requests_is_unmeasured_and_says_how_many_it_needs():
    """The reason names the way out, and another quantile that has enough is told."""
    values, unmeasured = statistics(latencies([served(*[[10, 20]] * 64)]), quantiles=(0.9, 0.99))
    assert values["p90_ttft_ms"] == 10
    reason = "64 requests observed, and this quantile needs 100: declare it in percentiles=[…]"
    assert unmeasured["p99_ttft_ms"] == unmeasured["p99_e2el_ms"] == reason
    assert unmeasured["p99_itl_ms"].startswith("64 gaps observed")


def test_one_output_token_has_neither_tpot_nor_itl():
    """They are unmeasured with the reason, and the other latencies are told."""
    values, unmeasured = statistics(latencies([served([10], [10])]), quantiles=())
    assert values == {"median_ttft_ms": 10, "median_e2el_ms": 10}
    assert unmeasured == dict.fromkeys(("median_tpot_ms", "median_itl_ms"), "no observed request has two output tokens")


def test_tokens_that_come_in_one_piece_have_no_gap_to_report():
    """Where most gaps are nothing, a median of 0 ms would say that tokens cost no time."""
    values, unmeasured = statistics(latencies([served([10, 10, 10, 12])]), quantiles=())
    assert "median_itl_ms" not in values
    assert "several tokens at once" in unmeasured["median_itl_ms"]


def test_nothing_observed_is_nothing_measured():
    """Every latency is listed as unmeasured, with that reason."""
    values, unmeasured = statistics(Latencies(0, (), (), (), ()), quantiles=(0.9,))
    assert values == {}
    assert set(unmeasured.values()) == {"no request was observed"}
    assert len(unmeasured) == 8


def sent(*stamps_ms, output_tokens, error="", ended_ms=999):
    """A request that was due at 3 ms, sent at 5 ms, and whose parts came then."""
    stamps = tuple(at * MS for at in stamps_ms)
    return Exchange(3 * MS, 5 * MS, ended_ms * MS, stamps, 8, output_tokens, output_tokens, error=error)


def test_requests_that_come_and_go_count_from_when_each_was_sent():
    """To its first and last part of output: what the server says after it is no part of it."""
    seen = latencies_of(answered_of([sent(15, 25, 45, output_tokens=3)]))
    assert (seen.ttft_ms, seen.e2el_ms, seen.itl_ms, seen.tpot_ms) == ((10,), (40,), (10, 20), (15,))


def test_time_per_token_is_right_where_parts_hold_several():
    """Nine tokens in three parts have eight gaps; how many parts there are makes no difference to it."""
    seen = latencies_of(answered_of([sent(15, 25, 55, output_tokens=9), sent(15, 55, output_tokens=9)]))
    assert seen.tpot_ms == (5, 5)
    assert seen.itl_ms == (10, 30, 40)


def test_a_failed_request_has_no_latency():
    """However soon it failed, it isn't a fast one; and whose answer is empty has no first token."""
    assert answered_of([sent(15, output_tokens=1, error="reset"), sent(output_tokens=0)]) == []


def chance(count, share, hits):
    """Of so many hits, by the definition."""
    return math.comb(count, hits) * share**hits * (1 - share) ** (count - hits)


@given(st.integers(1, 120), st.sampled_from([0.1, 0.5, 0.9, 0.99]), st.sampled_from([0.8, 0.95, 0.99]))
def test_a_quantile_lies_between_its_order_statistics_with_their_confidence(count, quantile, level):
    """Each side errs with half of the rest at most, and one order statistic further in would err with more."""
    found = interval(range(count), quantile, level=level)
    below = [sum(chance(count, quantile, hits) for hits in range(rank + 1)) for rank in range(count)]
    above = [sum(chance(count, quantile, hits) for hits in range(rank + 1, count + 1)) for rank in range(count)]
    tail = (1 - level) / 2
    # The value at `rank` lies above the quantile where `rank` or fewer do below, and below it where more do.
    lows = [rank for rank in range(count) if below[rank] <= tail]
    highs = [rank for rank in range(count) if above[rank] <= tail]
    assert found == ((lows[-1], highs[0]) if lows and highs else None)


def test_intervals_hold_the_true_quantile_as_often_as_they_say():
    """Of a skewed distribution, in at least 95 % of two thousand draws and not in nearly all."""
    hits, truth = 0, -math.log(0.1)
    for seed in range(2000):
        draw = random.Random(seed)
        low, high = interval([draw.expovariate(1) for _ in range(100)], 0.9)
        hits += low <= truth <= high
    assert 0.94 < hits / 2000 < 0.98


@pytest.mark.parametrize(("quantile", "count"), [(0.5, 6), (0.9, 36), (0.1, 36), (0.99, 368), (0.999, 3688)])
def test_too_few_requests_have_no_interval(quantile, count):
    """It takes so many that it is unlikely that all of them lie on one side of the quantile."""
    assert bounding(quantile) == count
    assert interval(range(count - 1), quantile) is None
    assert interval(range(count), quantile)
