"""What a token costs in joules, and uses of a GPU: by batch, size of the model and throughput (arXiv 2404.03353).

All of it is about joules, so where nothing tells them it is skipped before anything is measured; on a GPU it is red.
"""

from itertools import pairwise

import pytest

from pytest_slmperf import StaticBatch, Sweep

ENERGY = Sweep(
    "energy",
    StaticBatch(prompt_tokens=32, output_tokens=32),
    model=["tiny-2x128"],
    batch_size=[1, 16, 64],
    gate={"joules_per_output_token": 0.05},
)
LEVEL = 0.03
"""Share by which two medians may differ and still be the same."""
NEAR = 0.10
"""Share of joules that the largest throughput may cost, and by which two utilisations, each a share of what a driver
sampled, may differ and still be the same."""


@pytest.fixture(scope="module")
def energy(slmperf, slm_engine):
    """Every case of the sweep, measured once."""
    return slmperf.measure(ENERGY, slm_engine)


@ENERGY.each
def test_joules_per_token(energy, model, batch_size):
    """No batch size takes more joules for a token than its baseline."""
    point = energy[model, batch_size]
    assert point.joules_per_output_token <= point.baseline.joules_per_output_token


def test_a_token_costs_less_in_a_larger_batch(energy):
    """Up to the knee of the throughput, where the device is full, joules per token fall with the batch."""
    for model in energy.models:
        points = sorted(energy.of(model), key=lambda point: point.batch_size)
        knee = energy.of(model).knee_by("share_of_maximum", share=0.8).value.batch
        for smaller, larger in pairwise(point for point in points if knee is None or point.batch_size <= knee):
            assert joules(larger) <= (1 + LEVEL) * joules(smaller), f"{larger.case} against {smaller.case}"


def test_a_larger_batch_uses_more_of_the_gpu(energy):
    """A kernel runs for no less of the time in the largest batch than in the smallest."""
    for model in energy.models:
        smallest, *_, largest = sorted(energy.of(model), key=lambda point: point.batch_size)
        if largest.key["device"] == "cpu":
            pytest.skip("a GPU's driver tells it")
        assert largest.gpu_utilisation.median >= (1 - NEAR) * smallest.gpu_utilisation.median, f"{largest.case}"


def test_a_larger_model_draws_more_power(energy):
    """In the largest batch that both serve, as models follow each other in the sweep: from the smallest one."""
    points = [{point.batch_size: point for point in energy.of(model)} for model in energy.models]
    if len(points) < 2:
        pytest.skip("it takes two models, and one was measured")
    for of_smaller, of_larger in pairwise(points):
        batch_size = max(of_smaller.keys() & of_larger.keys())
        smaller, larger = of_smaller[batch_size], of_larger[batch_size]
        assert larger.mean_power_w.median >= (1 - LEVEL) * smaller.mean_power_w.median, f"{larger.case}"


def test_the_largest_throughput_costs_little_energy(energy):
    """The batch with the most tokens a second takes hardly more joules for one than the thriftiest batch."""
    for model in energy.models:
        fastest = max(energy.of(model), key=lambda point: point.output_throughput.median)
        cheapest = min(energy.of(model), key=joules)
        assert joules(fastest) <= (1 + NEAR) * joules(cheapest), f"{fastest.case} against {cheapest.case}"


def joules(point):
    """Joules per output token, the median of the launches."""
    return point.joules_per_output_token.median
