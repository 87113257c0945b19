"""Realistic load, which the paper names as its next step (arXiv 2404.03353): users, arrivals, a recorded trace.

It takes an engine that requests can be sent to one by one; on others it is skipped.
"""

import pytest

from pytest_slmperf import ClosedLoop, LogNormal, OpenLoop, Replay, Search, Slo, Sweep

MODELS = ["tiny-2x128"]
LENGTHS = {"prompt_tokens": LogNormal(median=64, spread=0.7, most=256), "output_tokens": 32}
LOAD = Sweep(
    "load",
    ClosedLoop(**LENGTHS),
    model=MODELS,
    concurrency=[1, 8, 32],
    gate={"output_throughput": 0.05, "tpot_ms": 0.05},
)
ARRIVALS = Sweep(
    "arrivals",
    OpenLoop(**LENGTHS),
    model=MODELS,
    request_rate=[1, 8],
    slo=Slo(ttft_ms=2000, tpot_ms=200),
    gate={"goodput_share": 0.05, "ttft_ms": 0.1, "e2el_ms": 0.1},
    percentiles=[90],
)
CAPACITY = Sweep(
    "capacity",
    OpenLoop(**LENGTHS),
    model=MODELS,
    request_rate=Search(8, 128),
    slo=Slo(ttft_ms=2000, tpot_ms=200),
    gate={"highest_request_rate": 0.05},
)
PRODUCTION = Sweep("production", Replay(seconds=60), model=MODELS, speed=[1], gate={"e2el_ms": 0.1}, percentiles=[90])


@pytest.fixture(scope="module")
def load(slmperf, slm_engine):
    """Throughput and latency against concurrency."""
    return slmperf.measure(LOAD, slm_engine)


@pytest.fixture(scope="module")
def arrivals(slmperf, slm_engine):
    """Latency and goodput against the request rate."""
    return slmperf.measure(ARRIVALS, slm_engine)


@pytest.fixture(scope="module")
def capacity(slmperf, slm_engine):
    """The highest rate that an engine serves in time: a machine's settings say between which it lies."""
    return slmperf.measure(CAPACITY, slm_engine)


@pytest.fixture(scope="module")
def production(slmperf, slm_engine):
    """A minute of a production conversation service, as its requests came."""
    return slmperf.measure(PRODUCTION, slm_engine)


@LOAD.each
def test_throughput(load, model, concurrency):
    """No number of users gets fewer tokens a second than its baseline."""
    point = load[model, concurrency]
    assert point.output_throughput >= point.baseline.output_throughput


@LOAD.each
def test_each_token(load, model, concurrency):
    """No user waits longer from token to token."""
    point = load[model, concurrency]
    assert point.tpot_ms <= point.baseline.tpot_ms


def test_knee_holds(load):
    """The fewest users that get 80 % of the largest throughput are as many as they were."""
    for model in load.models:
        part = load.of(model)
        knee, stored = (side.knee_by("share_of_maximum", share=0.8) for side in (part, part.baseline))
        assert knee.unchanged_from(stored)


def test_frontier_holds(load):
    """Whatever throughput could be had at some latency, some concurrency still gives."""
    for model in load.models:
        part = load.of(model)
        assert part.frontier.unchanged_from(part.baseline.frontier)


@ARRIVALS.each
def test_goodput(arrivals, model, request_rate):
    """At no rate fewer requests are answered in time."""
    point = arrivals[model, request_rate]
    assert point.goodput_share >= point.baseline.goodput_share


@ARRIVALS.each
def test_first_token(arrivals, model, request_rate):
    """At no rate a request waits longer for its first token."""
    point = arrivals[model, request_rate]
    assert point.ttft_ms <= point.baseline.ttft_ms


@ARRIVALS.each
def test_whole_answer(arrivals, model, request_rate):
    """At no rate a request waits longer for its last token."""
    point = arrivals[model, request_rate]
    assert point.e2el_ms <= point.baseline.e2el_ms


@CAPACITY.each
def test_highest_rate(capacity, model, request_rate):
    """The highest rate at which 99 % of the requests are answered in time is no lower."""
    point = capacity[model, request_rate]
    assert point.highest_request_rate >= point.baseline.highest_request_rate


@PRODUCTION.each
def test_as_it_was(production, model, speed):
    """No request of the trace waits longer for its last token."""
    point = production[model, speed]
    assert point.e2el_ms <= point.baseline.e2el_ms


def test_nine_of_ten_begin_in_time(production):
    """Nine of ten requests see their first token within two seconds, as MLPerf's conversational limit asks."""
    for point in production:
        assert point.ttft_ms.p90 <= 2000
