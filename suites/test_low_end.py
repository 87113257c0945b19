"""Low-end devices: power, throughput and latency by threads and batch, within limits (arXiv 2404.03353's discussion).

A thread has a core of a CPU. Where nothing tells joules, their tests are skipped and the rest is measured.
"""

import pytest

from pytest_slmperf import StaticBatch, Sweep

LOW_END = Sweep(
    "low-end",
    StaticBatch(prompt_tokens=32, output_tokens=32),
    model=["tiny-2x128"],
    batch_size=[1, 4, 64],
    threads=[1, 2],
    gate={"output_throughput": 0.05, "tpot_ms": 0.05, "joules_per_output_token": 0.05},
)
WITHIN = {"epsilon": 0.05, "k": 2, "reference": 4}
"""The batch may make tokens wait twice as long as a batch of four does, and has to scale with 5 % of perfection."""


@pytest.fixture(scope="module")
def low_end(slmperf, slm_engine):
    """Every case of the sweep, measured once."""
    return slmperf.measure(LOW_END, slm_engine)


@LOW_END.each
def test_throughput(low_end, model, threads, batch_size):
    """No number of threads generates fewer tokens a second than its baseline."""
    point = low_end.of(model, threads=threads)[batch_size]
    assert point.output_throughput >= point.baseline.output_throughput


@LOW_END.each
def test_each_token(low_end, model, threads, batch_size):
    """No request waits longer from token to token."""
    point = low_end.of(model, threads=threads)[batch_size]
    assert point.tpot_ms <= point.baseline.tpot_ms


@LOW_END.each
def test_joules_per_token(low_end, model, threads, batch_size):
    """No number of threads takes more joules for a token."""
    point = low_end.of(model, threads=threads)[batch_size]
    assert point.joules_per_output_token <= point.baseline.joules_per_output_token


@LOW_END.each
def test_batch_within_the_limits_holds(low_end, model, threads):
    """The largest batch that keeps the latency within limits is the one that it was."""
    part = low_end.of(model, threads=threads)
    assert part.knee_by("bca", **WITHIN).unchanged_from(part.baseline.knee_by("bca", **WITHIN))


@LOW_END.each
def test_frontier_of_latency_holds(low_end, model):
    """Whatever throughput could be had at some latency, some batch on some threads still gives."""
    part = low_end.of(model)
    assert part.frontier.unchanged_from(part.baseline.frontier)


@LOW_END.each
def test_frontier_of_joules_holds(low_end, model):
    """The same of what a token costs."""
    part = low_end.of(model)
    stored = part.baseline.frontier_of("joules_per_output_token")
    assert part.frontier_of("joules_per_output_token").unchanged_from(stored)
