"""Latencies and their quantiles, from token times."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.engine import Served
from pytest_slmperf.core.latency import Latencies, latencies, needed, percentile, statistics

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
