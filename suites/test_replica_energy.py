"""GPU utilisation, power and joules against replicas (arXiv 2404.03353; data of arXiv 2503.08311, Table IV).

The one finds that more replicas raise the GPU's utilisation. The other's data has the SMs in use for 56 % of the time
with one instance and for 89 % with two; joules per token hardly change, as power rises with throughput. All of it is
about joules, so where nothing tells them it is skipped before anything is measured; on a GPU it is red.
"""

from itertools import pairwise

import pytest

from pytest_slmperf import StaticBatch, Sweep

REPLICA_ENERGY = Sweep(
    "replica-energy",
    StaticBatch(prompt_tokens=32, output_tokens=32),
    model=["tiny-2x128"],
    batch_size=[64],
    replicas=[1, 2],
    options={"pool": ["processes"]},
    gate={"joules_per_output_token": 0.05},
)
LEVEL = 0.03
"""Share by which two medians may differ and still be the same."""


@pytest.fixture(scope="module")
def replicas_of(slmperf, slm_engine):
    """Every case of the sweep, measured once."""
    return slmperf.measure(REPLICA_ENERGY, slm_engine).of


@REPLICA_ENERGY.each
def test_joules_per_token(replicas_of, model, replicas, pool, batch_size):
    """No number of replicas takes more joules for a token than its baseline."""
    point = replicas_of(model, replicas=replicas, pool=pool)[batch_size]
    assert point.joules_per_output_token <= point.baseline.joules_per_output_token


@REPLICA_ENERGY.each
def test_thriftiest_replica_count_holds(replicas_of, model, pool):
    """As many replicas as before take the fewest joules for a token."""
    part = replicas_of(model, pool=pool)
    best, stored = (side.best_replicas_by("joules_per_output_token") for side in (part, part.baseline))
    assert best.unchanged_from(stored)


@REPLICA_ENERGY.each
def test_more_replicas_draw_more_power(replicas_of, model, pool, batch_size):
    """As power follows the throughput."""
    for fewer, more in pairwise(by_replicas(replicas_of(model, pool=pool), batch_size)):
        assert more.mean_power_w.median >= (1 - LEVEL) * fewer.mean_power_w.median, f"{more.case}"


@REPLICA_ENERGY.each
def test_more_replicas_use_more_of_the_gpu(replicas_of, model, pool, batch_size):
    """A kernel of some replica runs for more of the time."""
    for fewer, more in pairwise(by_replicas(replicas_of(model, pool=pool), batch_size)):
        if more.key["device"] == "cpu":
            pytest.skip("a GPU's driver tells it")
        assert more.gpu_utilisation.median >= (1 - LEVEL) * fewer.gpu_utilisation.median, f"{more.case}"


def by_replicas(part, batch_size):
    """The points of a batch size, from the fewest replicas to the most."""
    points = [point for point in part if point.batch_size == batch_size]
    return sorted(points, key=lambda point: point.coordinates["replicas"])
