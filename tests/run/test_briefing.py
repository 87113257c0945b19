"""What a campaign is told before it begins."""

import pytest

from pytest_slmperf.core.beside import Beside
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.core.sweeps.workload import ClosedLoop, StaticBatch
from pytest_slmperf.run.briefing import brief
from pytest_slmperf.run.options import Options
from pytest_slmperf.run.settings import Settings


@pytest.mark.parametrize(("percentiles", "requests"), [([], 2), ([90], 10), ([99], 100), ([1], 100), ([1, 90], 100)])
def test_as_many_requests_are_observed_as_the_declared_quantiles_need(percentiles, requests):
    """A low quantile needs as many as the high one that mirrors it."""
    sweep = Sweep("decode", StaticBatch(8, 8), batch_size=[1], percentiles=percentiles)
    assert brief(sweep, (), Options(), Settings(), budget_s=None).policy.observed_requests == requests


@pytest.mark.parametrize(
    ("gate", "rounds"),
    [
        (["peak_memory_bytes"], 1),
        (["peak_memory_bytes", "startup_s"], 1),
        (["peak_memory_bytes", "output_throughput"], 4),
        ([], 4),
    ],
)
def test_what_a_launch_tells_once_takes_one_round(gate, rounds):
    """A sweep that gates memory alone doesn't time rounds that nothing is judged by; one without a gate keeps them."""
    sweep = Sweep("memory", StaticBatch(8, 8), batch_size=[1], gate=gate)
    assert brief(sweep, (), Options(), Settings(), budget_s=None).policy.rounds == rounds


def test_requests_that_arrive_have_one_round_of_a_length_that_is_set():
    """It is long enough for some of them, also where only medians are wanted."""
    policy = brief(
        Sweep("serve", ClosedLoop(8, 8), concurrency=[1]), (), Options(), Settings(traffic_s=7), budget_s=None
    ).policy
    assert (policy.rounds, policy.traffic_s, policy.observed_requests) == (1, 7, 20)


def test_what_is_gated_is_known_where_rounds_are_judged():
    """By the metrics' full names."""
    sweep = Sweep("serve", ClosedLoop(8, 8), concurrency=[1], gate={"tpot_ms": 0.05, "output_throughput": 0.05})
    policy = brief(sweep, (), Options(), Settings(), budget_s=None).policy
    assert policy.gated == {"median_tpot_ms", "output_throughput"}


@pytest.mark.parametrize(("percentiles", "arrive"), [([], 20), ([99], 100)])
def test_a_launch_lasts_for_as_many_requests_of_a_model_beside_as_are_observed(percentiles, arrive):
    """Where they arrive at a rate: of the slowest of them, in all rounds together."""
    beside = [None, Beside("m", request_rate=4), (Beside("m", request_rate=2), Beside("n", batch_size=8))]
    sweeps = (
        Sweep("mix", StaticBatch(8, 8), batch_size=[1], beside=beside, percentiles=percentiles),
        Sweep("mix", ClosedLoop(8, 8), concurrency=[1], beside=beside, percentiles=percentiles),
    )
    batches, traffic = (brief(one, (), Options(), Settings(), budget_s=None).policy for one in sweeps)
    assert batches.rounds * batches.round_s == arrive / 2
    assert traffic.traffic_s == arrive / 2
