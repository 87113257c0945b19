"""Points in two or three metrics: what no other beats, and how much of the space they reach."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.curves.pareto import hypervolume, pareto
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.sample import BadSample

DIRECTIONS = st.lists(st.booleans(), min_size=1, max_size=3)


def cloud(draw, metrics):
    """Points of small numbers, negative ones too, so that many are equal or tie in one metric."""
    value = st.integers(-2, 3).map(float)
    return draw(st.lists(st.tuples(*[value] * metrics), max_size=14))


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
    """Two equal points don't dominate each other, and a single point is a frontier."""
    assert pareto([(1, 1), (1, 1), (0, 1)], (True, True)) == (0, 1)
    assert pareto([(3, 4, 5)], (True, True, False)) == (0,)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_point_that_is_not_a_number(value):
    """A value that is not a number, or infinite, is refused: it would beat nothing, or everything."""
    with pytest.raises(BadSample, match="not a number, or infinite"):
        pareto([(1.0, value)], (True, True))
    with pytest.raises(BadSample, match="not a number, or infinite"):
        hypervolume([(1.0, 1.0)], (True, True), (0.0, value))


@pytest.mark.parametrize("point", [(1.0, 1.0, 1.0), (1.0,)])
def test_a_direction_for_every_metric(point):
    """A point with more or fewer metrics than directions is an error, and so are more metrics than three."""
    with pytest.raises(SuiteError, match="each with its direction"):
        pareto([point], (True, True))
    with pytest.raises(SuiteError, match="up to 3 metrics"):
        pareto([(1.0, 1.0, 1.0, 1.0)], (True,) * 4)


@given(st.data(), st.integers(1, 3))
def test_hypervolume_counts_what_the_points_reach(data, metrics):
    """The hypervolume is the number of unit cubes that lie below some point."""
    points = cloud(data.draw, metrics)
    cubes = sum(
        any(all(map(float.__gt__, point, map(float, corner))) for point in points)
        for corner in product(range(3), repeat=metrics)
    )
    assert hypervolume(points, [True] * metrics, [0.0] * metrics) == cubes


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), max_size=8), st.floats(1, 100), st.floats(1, 100))
def test_another_point_never_shrinks_the_hypervolume(points, throughput, latency):
    """Adding a point never makes the hypervolume of throughput and latency smaller."""
    reference = (0.5, 101.0)
    before = hypervolume(points, (True, False), reference)
    assert hypervolume([*points, (throughput, latency)], (True, False), reference) >= before * (1 - 1e-12)


def test_points_beyond_the_reference_add_nothing():
    """A point that is not better than the reference in every metric has no volume, and no point none."""
    assert hypervolume([(2.0, 5.0)], (True, False), (1.0, 5.0)) == 0
    assert hypervolume([], (True, False), (1.0, 5.0)) == 0
