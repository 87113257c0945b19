"""Frontiers: what no other point beats, and whether what is stored is still reached."""

import math
import random
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.frontier import Frontier, FrontierPolicy, frontier, hypervolume, pareto
from pytest_slmperf.core.gate import confirm
from pytest_slmperf.core.sample import BadSample, Sample
from pytest_slmperf.core.verdict import Status

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CASES = [f"batch={size}" for size in SIZES]
METRICS = ("output_throughput", "median_itl_ms")
DIRECTIONS = st.lists(st.booleans(), min_size=2, max_size=3)


def sample(centre, launches=14, noise=0.01, seed=0):
    draw = random.Random(seed)
    return Sample.of([[centre * math.exp(draw.gauss(0, noise)) for _ in range(3)] for _ in range(launches)])


def cloud(draw, metrics):
    value = st.integers(0, 4).map(float)
    return draw(st.lists(st.tuples(*[value] * metrics), max_size=12))


@given(st.data(), DIRECTIONS)
def test_a_frontier_is_what_nothing_dominates(data, directions):
    """A point is on the frontier exactly if no point is at least as good everywhere and better somewhere."""
    points = cloud(data.draw, len(directions))
    turned = [[value if up else -value for value, up in zip(point, directions, strict=True)] for point in points]

    def dominated(mine):
        return any(theirs != mine and all(map(float.__ge__, theirs, mine)) for theirs in turned)

    assert pareto(points, directions) == tuple(at for at, mine in enumerate(turned) if not dominated(mine))


@given(st.data(), DIRECTIONS)
def test_the_frontier_of_a_frontier_is_itself(data, directions):
    """Taking the frontier twice changes nothing, and only an empty set of points has an empty one."""
    points = cloud(data.draw, len(directions))
    best = [points[at] for at in pareto(points, directions)]
    assert pareto(best, directions) == tuple(range(len(best)))
    assert bool(best) == bool(points)


def test_equal_points_stay_together():
    """Two equal points don't dominate each other."""
    assert pareto([(1, 1), (1, 1), (0, 1)], (True, True)) == (0, 1)


def test_a_point_that_is_not_a_number():
    """A point with a value that is not a number is refused: it would neither dominate nor be dominated."""
    with pytest.raises(BadSample, match="not a number"):
        pareto([(1.0, math.nan)], (True, True))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=8))
def test_hypervolume_counts_what_the_points_reach(points):
    """The hypervolume is the area of the unit squares that lie below some point."""
    squares = sum(any(x > i and y > j for x, y in points) for i, j in product(range(6), range(6)))
    assert hypervolume(points, (True, True), (0.0, 0.0)) == squares


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), max_size=8), st.floats(1, 100), st.floats(1, 100))
def test_another_point_never_shrinks_the_hypervolume(points, throughput, latency):
    """Adding a point never makes the hypervolume of throughput and latency smaller."""
    reference = (0.5, 101.0)
    before = hypervolume(points, (True, False), reference)
    assert hypervolume([*points, (throughput, latency)], (True, False), reference) >= before * (1 - 1e-12)


def swept(losses=None, *, launches=14, noise=0.004, seed=0, metrics=("output_throughput", "itl_ms"), sizes=SIZES):
    """The frontier of a saturating sweep; `losses` maps a batch size to its factors on throughput and latency."""
    cases = {}
    for size in sizes:
        rate, latency = 300 * size / (1 + size / 16), 3.0 * (1 + size / 16)
        slower, later = (losses or {}).get(size, (1.0, 1.0))
        cases[f"batch={size}"] = {
            "output_throughput": sample(rate * slower, launches, noise, seed + size),
            "median_itl_ms": sample(latency * later, launches, noise, seed + 7_000 + size),
        }
    return frontier(cases, metrics, "decode/opt-125m")


STORED = swept(launches=20, seed=100_000)
POLICY = FrontierPolicy({case: dict.fromkeys(METRICS, 0.05) for case in CASES})


def test_a_frontier_stays():
    """The same engine measured again reaches every stored point."""
    verdict = swept(seed=1).unchanged_from(STORED, POLICY)
    assert (verdict.status, verdict.reason) == (Status.UNCHANGED, "all 10 stored points are reached")
    assert verdict.case == "decode/opt-125m"


def test_a_frontier_that_lost_a_point():
    """A stored point that no case reaches any more is red, and the line says which and by how much."""
    verdict = swept({64: (0.85, 1.0)}, seed=1).unchanged_from(STORED, POLICY)
    assert verdict.status is Status.REGRESSED
    assert verdict.reason.startswith("1 of 10 stored points are no longer reached by any case: batch=64")
    assert "(output_throughput -1" in verdict.reason
    assert "tolerance 5.0%" in verdict.reason
    assert "median_itl_ms" not in verdict.reason


def test_each_point_is_judged_by_its_own_tolerances():
    """A loss that one case may have is red in a case that may not."""
    now = swept({64: (0.92, 1.0)}, seed=1)
    wide = {**POLICY.tolerances, "batch=64": dict.fromkeys(METRICS, 0.15)}
    assert now.unchanged_from(STORED, POLICY).status is Status.REGRESSED
    assert now.unchanged_from(STORED, replace(POLICY, tolerances=wide)).passed


def test_a_confirmation_need_only_be_likely():
    """What is not sure enough for an alarm is enough to confirm one."""
    sizes = (64, 128, 256)
    stored = swept(launches=20, seed=100_000, sizes=sizes)
    now = swept({64: (0.9, 1.0)}, launches=8, noise=0.05, seed=21, sizes=sizes)
    assert now.unchanged_from(stored, POLICY).status is Status.INCONCLUSIVE
    assert now.unchanged_from(stored, replace(POLICY, confirming=True)).status is Status.REGRESSED


@pytest.mark.parametrize("other", [{4: (0.85, 1.0)}, {64: (1.0, 1.2)}], ids=["another point", "another metric"])
def test_the_loss_of_something_else_confirms_nothing(other):
    """Fresh launches confirm a point and a metric; what they lost besides is told, and is no confirmation."""
    first = swept({64: (0.85, 1.0)}, seed=1).unchanged_from(STORED, POLICY)
    fresh = swept(other, seed=2).unchanged_from(STORED, POLICY)
    assert {first.status, fresh.status} == {Status.REGRESSED}
    unlike = confirm(first, fresh)
    assert unlike.status is Status.INCONCLUSIVE
    assert "but fresh launches alone are regressed in another way: 1 of 10" in unlike.reason
    more = swept({64: (0.85, 1.0), 128: (0.85, 1.0)}, seed=2).unchanged_from(STORED, POLICY)
    assert confirm(first, more).status is Status.REGRESSED


def test_a_point_that_another_case_reaches():
    """A case that lost throughput is no loss of the frontier where another batch size serves as well."""
    stored = replace(STORED, points={"batch=64": STORED.points["batch=64"]})
    now = swept({64: (0.85, 1.0)}, seed=1)
    as_good = {**now.samples, "batch=60": swept(seed=5).samples["batch=64"]}
    assert replace(now, samples=as_good).unchanged_from(stored, POLICY).status is Status.UNCHANGED


def test_a_frontier_that_improved():
    """Points that are surpassed are named, and nothing is lost by it."""
    verdict = swept(dict.fromkeys(SIZES, (1.2, 1 / 1.2)), seed=1).unchanged_from(STORED, POLICY)
    assert verdict.status is Status.IMPROVED
    assert "batch=64" in verdict.reason


def test_a_frontier_that_can_not_be_told():
    """Where the launches scatter too much to say, the frontier is inconclusive."""
    verdict = swept(noise=0.1, launches=8, seed=1).unchanged_from(STORED, POLICY)
    assert verdict.status is Status.INCONCLUSIVE
    assert "can't be told" in verdict.reason
    few = swept(noise=0.1, launches=2, seed=1).unchanged_from(swept(launches=2, seed=100_000), POLICY)
    assert "%, 95 % CI -∞…+∞, tolerance 5.0%" in few.reason


def test_a_point_that_was_not_measured():
    """A stored point whose case was not measured, and that no other reaches, is unmeasured: not a pass."""
    verdict = swept(seed=1, sizes=SIZES[1:]).unchanged_from(STORED, POLICY)
    assert verdict.status is Status.UNMEASURED
    assert "batch=1 (not measured)" in verdict.reason


def test_frontiers_that_can_not_be_compared():
    """Frontiers in other metrics are incomparable, and one without a stored point has no baseline."""
    turned = swept(metrics=("itl_ms", "output_throughput"))
    assert turned.unchanged_from(STORED, POLICY).status is Status.INCOMPARABLE
    assert STORED.unchanged_from(Frontier(STORED.metrics, {}, {}), POLICY).status is Status.NO_BASELINE


def test_a_frontier_needs_two_metrics_and_their_tolerances():
    """One metric has no frontier, and a metric without a tolerance is an error that names it."""
    with pytest.raises(SuiteError, match="two different metrics"):
        swept(metrics=("itl_ms", "median_itl_ms"))
    part = FrontierPolicy({case: {"output_throughput": 0.05} for case in CASES})
    with pytest.raises(SuiteError, match="the frontier is of median_itl_ms too, and batch=512 has no tolerance for it"):
        STORED.unchanged_from(STORED, part)


def test_cases_without_a_metric_are_no_points():
    """A case that lacks a sample of one metric is no point of the frontier."""
    measured = {"batch=1": {"output_throughput": sample(1.0)}}
    assert frontier(measured, ("output_throughput", "itl_ms")).points == {}


def test_the_best_throughput_stands_first():
    """The points come in the order of the first metric, the best first, and the hypervolume is theirs."""
    assert next(iter(STORED.points)) == "batch=512"
    assert STORED.hypervolume((0.0, 1000.0)) > 0
    three = swept(metrics=("output_throughput", "itl_ms", "output_throughput"))
    with pytest.raises(SuiteError, match="of two metrics"):
        three.hypervolume((0.0, 1.0))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.floats(0.3, 0.85))
def test_a_loss_is_never_a_pass(seed, factor):
    """Whatever the noise, a frontier that lost 15 % or more of its throughput everywhere never passes."""
    slower = swept(dict.fromkeys(SIZES, (factor, 1 / factor)), seed=seed)
    assert not slower.unchanged_from(STORED, POLICY).passed
