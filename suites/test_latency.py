"""Latency under a batch: what few requests and a full batch wait for, and the throughput it buys (arXiv 2404.03353)."""

import pytest

from pytest_slmperf import StaticBatch, Sweep

LATENCY = Sweep(
    "latency",
    StaticBatch(prompt_tokens=32, output_tokens=32),
    model=["tiny-2x128"],
    batch_size=[4, 16],
    gate={"output_throughput": 0.03, "e2el_ms": 0.03, "tpot_ms": 0.03},
    percentiles=[90],
)


@pytest.fixture(scope="module")
def latency(slmperf, slm_engine):
    """Every case of the sweep, measured once."""
    return slmperf.measure(LATENCY, slm_engine)


@LATENCY.each
def test_throughput(latency, model, batch_size):
    """No batch size generates fewer tokens a second than its baseline."""
    point = latency[model, batch_size]
    assert point.output_throughput >= point.baseline.output_throughput


@LATENCY.each
def test_whole_answer(latency, model, batch_size):
    """No request waits longer for its last token."""
    point = latency[model, batch_size]
    assert point.e2el_ms <= point.baseline.e2el_ms


@LATENCY.each
def test_each_token(latency, model, batch_size):
    """No request waits longer from token to token."""
    point = latency[model, batch_size]
    assert point.tpot_ms <= point.baseline.tpot_ms


def test_frontier_holds(latency):
    """Whatever throughput could be had at some latency, some batch size still gives."""
    for model in latency.models:
        part = latency.of(model)
        assert part.frontier.unchanged_from(part.baseline.frontier)


def test_first_token(latency):
    """Nine of ten requests see their first token within two seconds, as MLPerf's conversational limit asks."""
    for point in latency:
        assert point.ttft_ms.p90 <= 2000
