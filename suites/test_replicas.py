"""Replicas of one model on one device, plain and under MPS (arXiv 2404.03353; arXiv 2503.08311, Figure 13).

A batch is that of all replicas together. On a CPU each replica has a core of its own. On a GPU plain ones
(`processes`) take turns, and under NVIDIA's MPS they don't: the machine's settings name both kinds.
"""

import pytest

from pytest_slmperf import StaticBatch, Sweep

REPLICAS = Sweep(
    "replicas",
    StaticBatch(prompt_tokens=16, output_tokens=16),
    model=["tiny-2x128"],
    batch_size=[2, 32, 64],
    replicas=[1, 2],
    options={"pool": ["processes"]},
    gate={"output_throughput": 0.05, "tpot_ms": 0.05},
)


@pytest.fixture(scope="module")
def replicas_of(slmperf, slm_engine):
    """Every case of the sweep, measured once."""
    return slmperf.measure(REPLICAS, slm_engine).of


@REPLICAS.each
def test_throughput(replicas_of, model, replicas, pool, batch_size):
    """No number of replicas generates fewer tokens a second than its baseline."""
    point = replicas_of(model, replicas=replicas, pool=pool)[batch_size]
    assert point.output_throughput >= point.baseline.output_throughput


@REPLICAS.each
def test_each_token(replicas_of, model, replicas, pool, batch_size):
    """No request waits longer from token to token."""
    point = replicas_of(model, replicas=replicas, pool=pool)[batch_size]
    assert point.tpot_ms <= point.baseline.tpot_ms


@REPLICAS.each
def test_knee_holds(replicas_of, model, replicas, pool):
    """The smallest batch with 80 % of the largest throughput of so many replicas is the one that it was."""
    part = replicas_of(model, replicas=replicas, pool=pool)
    knee, stored = (side.knee_by("share_of_maximum", share=0.8) for side in (part, part.baseline))
    assert knee.unchanged_from(stored)


@REPLICAS.each
def test_frontier_holds(replicas_of, model):
    """Whatever throughput could be had at some latency, some batch size of some number of replicas still gives."""
    part = replicas_of(model)
    assert part.frontier.unchanged_from(part.baseline.frontier)


@REPLICAS.each
def test_best_replica_count_holds(replicas_of, model, pool):
    """As many replicas as before generate the most tokens a second, each number at its best batch."""
    part = replicas_of(model, pool=pool)
    assert part.best_replicas.unchanged_from(part.baseline.best_replicas)


@REPLICAS.each
def test_mps_serves_no_less_than_turns(replicas_of, model, pool):
    """The most replicas generate at least as many tokens a second under MPS as by turns, in the largest batch."""
    if pool != "mps":
        pytest.skip("of MPS, which serves several processes of a GPU at once")
    most, largest = max(REPLICAS.replicas), max(REPLICAS.batch_size)
    mps, turns = (replicas_of(model, replicas=most, pool=kind)[largest] for kind in ("mps", "processes"))
    assert mps.output_throughput >= turns.output_throughput.median
