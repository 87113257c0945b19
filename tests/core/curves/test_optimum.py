"""The best points in two metrics: which may be, whether they differ, and what the best in one loses in the other."""

import math
import random

import pytest
from mind_the_memory_gap import REPLICATION

from pytest_slmperf.core.curves.optimum import optima
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.sample import Sample

BOTH = ("output_throughput", "joules_per_output_token")


def swept(points, *, launches=14, noise=0.005, seed=0):
    """Samples of throughput and joules per token, by the name of each point."""
    draw = random.Random(seed)

    def sample(centre):
        return Sample.of([[centre * math.exp(draw.gauss(0, noise)) for _ in range(3)] for _ in range(launches)])

    return {name: dict(zip(BOTH, map(sample, values), strict=True)) for name, values in points.items()}


def test_the_best_points_of_the_paper():
    """On the paper's data, two replicas serve the most, and one at its largest batch takes the fewest joules."""
    runs = {f"replicas={n}/batch={batch}": (rate, joules) for n, batch, rate, _, joules in REPLICATION}
    found = optima(swept(runs, launches=1, noise=0.0), *BOTH)
    assert (found.first.case, found.second.case) == ("replicas=2/batch=256", "replicas=1/batch=768")
    assert found.first_at_second.value == pytest.approx(0.7476, abs=0.001)
    assert found.second_at_first.value == pytest.approx(1.0276, abs=0.001)
    assert (found.differ, found.first_at_second.interval) == (None, None)  # one run each tells no more
    assert "that they differ is not sure" in str(found)


def test_points_that_differ():
    """Where the fastest point surely takes more joules than another, they differ, and what each loses is bounded."""
    found = optima(swept({"replicas=1": (100.0, 1.0), "replicas=2": (125.0, 1.2)}), *BOTH)
    assert found.differ is True
    low, high = found.first_at_second.interval
    assert low < 0.8 < high < 0.85
    assert found.second_at_first.interval[0] > 1.15
    said = (
        "output_throughput is best at replicas=2, joules_per_output_token is best at replicas=1: output_throughput -2"
    )
    assert str(found).startswith(said)


def test_one_point_that_is_best_in_both():
    """Where one point is surely the best in both metrics, they don't differ."""
    found = optima(swept({"batch=1": (100.0, 1.0), "batch=8": (300.0, 0.5)}), *BOTH)
    assert found.differ is False
    assert str(found) == "output_throughput is best at batch=8, joules_per_output_token is best at batch=8"
    assert optima(swept({"batch=1": (100.0, 1.0)}), *BOTH).differ is False


def test_points_that_can_not_be_told_apart():
    """Where several may be the best in a metric they are all named, and that the best points differ is open."""
    points = {"batch=256": (100.0, 0.5), "batch=512": (100.2, 0.4999), "batch=1": (1.0, 3.0)}
    found = optima(swept(points), *BOTH)
    assert set(found.first.undecided) == set(found.second.undecided) == {"batch=256", "batch=512"}
    assert found.differ is None
    assert "(or batch=" in str(found)


def test_points_need_both_metrics():
    """A case without one of the metrics is no point, and without any point, or of one metric twice, it is an error."""
    cases = swept({"batch=1": (100.0, 1.0)})
    only = {"batch=8": {BOTH[0]: cases["batch=1"][BOTH[0]]}}
    assert optima({**cases, **only}, *BOTH).first.undecided == ("batch=1",)
    for wrong in ((only, BOTH), (cases, (BOTH[0], BOTH[0]))):
        with pytest.raises(SuiteError, match="two metrics that a case has both of"):
            optima(wrong[0], *wrong[1])


def test_the_true_best_is_among_the_named():
    """Where three points are equally good, all three are named in nearly every measurement."""
    missed = 0
    for seed in range(60):
        found = optima(swept(dict.fromkeys("abc", (100.0, 1.0)), seed=seed), *BOTH, resamples=300)
        missed += len(found.first.undecided) < 3
    assert missed <= 2  # stated: each of them is left out in at most 1 %
