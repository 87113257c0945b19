"""Quantisation with replicas: the frontier of types, replica counts and batches (arXiv 2404.03353 names it as next).

The types are CTranslate2's. vLLM takes quantised weights by an option, and knows none of these.
"""

import pytest

from pytest_slmperf import StaticBatch, Sweep

QUANTISED = Sweep(
    "quantised-replicas",
    StaticBatch(prompt_tokens=16, output_tokens=16),
    model=["tiny-2x128"],
    batch_size=[4, 32],
    replicas=[1, 2],
    dtype=["float32", "int8"],
    gate={"output_throughput": 0.05, "tpot_ms": 0.05},
)


@pytest.fixture(scope="module")
def quantised(slmperf, slm_engine):
    """Every case of the sweep, measured once."""
    return slmperf.measure(QUANTISED, slm_engine)


@QUANTISED.each
def test_throughput(quantised, model, replicas, dtype, batch_size):
    """No variant generates fewer tokens a second than its baseline."""
    point = quantised.of(model, replicas=replicas, dtype=dtype)[batch_size]
    assert point.output_throughput >= point.baseline.output_throughput


@QUANTISED.each
def test_each_token(quantised, model, replicas, dtype, batch_size):
    """No request waits longer from token to token."""
    point = quantised.of(model, replicas=replicas, dtype=dtype)[batch_size]
    assert point.tpot_ms <= point.baseline.tpot_ms


@QUANTISED.each
def test_frontier_holds(quantised, model):
    """Whatever throughput could be had at some latency, some type, number of replicas and batch size still give."""
    part = quantised.of(model)
    assert part.frontier.unchanged_from(part.baseline.frontier)


@QUANTISED.each
def test_best_replica_count_holds(quantised, model, dtype):
    """In each type, as many replicas as before generate the most tokens a second."""
    part = quantised.of(model, dtype=dtype)
    assert part.best_replicas.unchanged_from(part.baseline.best_replicas)
