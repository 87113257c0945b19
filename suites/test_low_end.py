"""Low-end devices: power, throughput and latency by threads and batch, within limits (arXiv 2404.03353's discussion).

A thread has a core of a CPU. Where nothing tells joules, those of `low-end-energy` are skipped.
"""

import pytest

from pytest_slmperf import StaticBatch, Sweep

LOW_END = Sweep(
    "low-end",
    StaticBatch(prompt_tokens=16, output_tokens=16),
    model=["tiny-2x128"],
    batch_size=[1, 4, 16],
    threads=[1, 2],
    gate={"output_throughput": 0.05, "tpot_ms": 0.05},
)
ENERGY = Sweep(
    "low-end-energy",
    LOW_END.workload,
    model=LOW_END.model,
    batch_size=[16],
    threads=[1, 2],
    gate={"joules_per_output_token": 0.05},
)
WITHIN = {"epsilon": 0.05, "k": 3, "reference": 1}
"""Tokens may take three times as long as those of a request by itself; a batch has to scale with 5 % of perfection."""


@pytest.fixture(scope="module")
def low_end(slmperf, slm_engine):
    """Every case of the sweep, measured once."""
    return slmperf.measure(LOW_END, slm_engine)


@pytest.fixture(scope="module")
def energy(slmperf, slm_engine):
    """What it draws, measured once."""
    return slmperf.measure(ENERGY, slm_engine)


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


@ENERGY.each
def test_joules_per_token(energy, model, threads, batch_size):
    """No number of threads takes more joules for a token: its power over its throughput."""
    point = energy.of(model, threads=threads)[batch_size]
    assert point.joules_per_output_token <= point.baseline.joules_per_output_token


@LOW_END.each
def test_batch_within_the_limits_holds(low_end, model, threads):
    """The largest batch that keeps the latency within limits is the one that it was."""
    part = low_end.of(model, threads=threads)
    assert part.knee_by("bca", **WITHIN).unchanged_from(part.baseline.knee_by("bca", **WITHIN))


@LOW_END.each
def test_frontier_holds(low_end, model):
    """Whatever throughput could be had at some latency, some batch on some threads still gives."""
    part = low_end.of(model)
    assert part.frontier.unchanged_from(part.baseline.frontier)
