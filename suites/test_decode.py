"""Throughput against batch: the frontier that a small model reaches inside one device (arXiv 2404.03353)."""

import pytest

from pytest_slmperf import StaticBatch, Sweep

DECODE = Sweep(
    "decode",
    StaticBatch(prompt_tokens=32, output_tokens=32),
    model=["tiny-2x128"],
    batch_size=[1, 16, 64],
    gate={"output_throughput": 0.03},
)


@pytest.fixture(scope="module")
def decode(slmperf, slm_engine):
    """Every case of the sweep, measured once."""
    return slmperf.measure(DECODE, slm_engine)


@DECODE.each
def test_throughput(decode, model, batch_size):
    """No batch size generates fewer tokens a second than its baseline."""
    point = decode[model, batch_size]
    assert point.output_throughput >= point.baseline.output_throughput


def test_knee_holds(decode):
    """The smallest batch with 80 % of the largest throughput is the one that it was."""
    for model in decode.models:
        part = decode.of(model)
        knee, stored = (side.knee_by("share_of_maximum", share=0.8) for side in (part, part.baseline))
        assert knee.unchanged_from(stored)
