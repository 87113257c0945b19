"""What the campaign gates: cases whose weights stay in a core's own cache, so that neighbours disturb them least."""

import pytest

from pytest_slmperf import StaticBatch, Sweep

CAMPAIGN = Sweep(
    "campaign",
    StaticBatch(prompt_tokens=32, output_tokens=32),
    model=["tiny-2x128"],
    batch_size=[1, 16],
    gate={"output_throughput": 0.10},
)


@pytest.fixture(scope="module")
def campaign(slmperf, slm_engine):
    """Every case of the sweep, measured once."""
    return slmperf.measure(CAMPAIGN, slm_engine)


@CAMPAIGN.each
def test_throughput(campaign, model, batch_size):
    """No case generates fewer tokens a second than its baseline."""
    point = campaign[model, batch_size]
    assert point.output_throughput >= point.baseline.output_throughput
