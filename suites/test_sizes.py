"""Frontier and knee by the size of the model (arXiv 2404.03353, abstract and introduction).

Small models reach their frontier within one accelerator, "and beyond this point doubling the size of the batch results
in minimal or no improvement". Figures 2 and 3 of arXiv 2503.08311 have such curves of four models.
"""

from itertools import pairwise

import pytest

from pytest_slmperf import StaticBatch, Sweep

SIZES = Sweep(
    "sizes",
    StaticBatch(prompt_tokens=16, output_tokens=16),
    model=["tiny-2x64", "tiny-2x128"],
    batch_size=[1, 8, 64],
    gate={"output_throughput": 0.05, "tpot_ms": 0.05},
)

LEVEL = 0.03
"""Share by which two medians may differ and still be the same."""


@pytest.fixture(scope="module")
def sizes(slmperf, slm_engine):
    """Every case of the sweep, measured once."""
    return slmperf.measure(SIZES, slm_engine)


@SIZES.each
def test_throughput(sizes, model, batch_size):
    """No model generates fewer tokens a second than its baseline, at any batch size."""
    point = sizes[model, batch_size]
    assert point.output_throughput >= point.baseline.output_throughput


@SIZES.each
def test_each_token(sizes, model, batch_size):
    """No request waits longer from token to token."""
    point = sizes[model, batch_size]
    assert point.tpot_ms <= point.baseline.tpot_ms


@SIZES.each
def test_frontier_holds(sizes, model):
    """Whatever throughput a model could have at some latency, some batch size still gives."""
    part = sizes.of(model)
    assert part.frontier.unchanged_from(part.baseline.frontier)


@SIZES.each
def test_knee_holds(sizes, model):
    """The smallest batch with 80 % of a model's largest throughput is the one that it was."""
    part = sizes.of(model)
    assert part.knee_by("share_of_maximum", share=0.8).unchanged_from(
        part.baseline.knee_by("share_of_maximum", share=0.8)
    )


def test_a_larger_model_generates_no_more_tokens(sizes):
    """At its best batch, as models follow each other in the sweep: from the smallest one."""
    best = [max(point.output_throughput.median for point in sizes.of(model)) for model in sizes.models]
    assert all(larger <= (1 + LEVEL) * smaller for smaller, larger in pairwise(best)), best
