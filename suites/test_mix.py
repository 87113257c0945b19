"""Different models side by side on one device, which the paper names as future work (arXiv 2404.03353)."""

import pytest

from pytest_slmperf import Beside, StaticBatch, Sweep

LENGTHS = {"prompt_tokens": 16, "output_tokens": 32}
MIX = Sweep(
    "mix",
    StaticBatch(**LENGTHS),
    model=["tiny-2x128"],
    batch_size=[8],
    beside=[None, Beside("tiny-2x128", batch_size=4, **LENGTHS)],
    gate={"output_throughput": 0.05, "tpot_ms": 0.1},
    percentiles=[90],
)


@pytest.fixture(scope="module")
def mix(slmperf, slm_engine):
    """The model alone, and beside others."""
    return slmperf.measure(MIX, slm_engine)


@MIX.each
def test_throughput(mix, beside, batch_size):
    """The model generates no fewer tokens a second, alone or beside others."""
    point = mix.of(beside=beside)[batch_size]
    assert point.output_throughput >= point.baseline.output_throughput


@MIX.each
def test_each_token(mix, beside, batch_size):
    """Nobody waits longer from token to token."""
    point = mix.of(beside=beside)[batch_size]
    assert point.tpot_ms <= point.baseline.tpot_ms


def test_slo_of_the_mix(mix):
    """Nine of ten requests get their tokens at reading speed, whoever runs beside."""
    for point in mix:
        assert point.tpot_ms.p90 <= 200


def test_slowdown(mix):
    """Others make the model at most three times as slow, and no more than they did."""
    for beside in {curve.settings["beside"] for curve in mix.curves} - {"none"}:
        slowdown, stored = mix.slowdown(beside), mix.baseline.slowdown(beside)
        assert slowdown <= 3
        assert slowdown.unchanged_from(stored)
