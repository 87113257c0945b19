"""What a metric may be at a batch that was not measured, and how wide an interval must be."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.advising.curve import Known, Law, fitted, law_of
from pytest_slmperf.core.advising.student import quantile
from pytest_slmperf.core.metrics import metric

BATCHES = [2**octave for octave in range(10)]


def known(law, half, batches, sd=0.005):
    return [Known(batch, 7 + law.log(batch, half), sd**2) for batch in batches]


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("output_throughput", Law.SATURATES),
        ("joules_per_output_token", Law.FALLS),
        ("itl_ms", Law.RISES),
        ("peak_memory_bytes", Law.RISES),
        ("mean_power_w", Law.RISES),
    ],
)
def test_each_metric_has_a_law(name, law):
    """Throughput saturates, joules of a token fall, latency, memory and power rise."""
    assert law_of(metric(name)) is law


@pytest.mark.parametrize("law", Law)
@pytest.mark.parametrize("half", [4.0, 32.0])
def test_three_points_tell_the_rest_of_a_curve_that_keeps_to_its_law(law, half):
    """Between and beyond them, within a few per cent."""
    curve = fitted(law, known(law, half, [1, 32, 512]), BATCHES, None)
    for batch in BATCHES:
        assert curve.at(batch).mean == pytest.approx(7 + law.log(batch, half), abs=0.06)


def test_what_is_measured_is_known_and_what_lies_between_is_less_so():
    """The uncertainty is that of the launches at a point, and grows with the octaves to the nearest."""
    curve = fitted(Law.SATURATES, known(Law.SATURATES, 16.0, [1, 64]), BATCHES, None)
    spread = {batch: max(part.sd for part in curve.at(batch).parts) for batch in (64, 32, 8, 256)}
    assert spread[64] == pytest.approx(0.005)
    assert spread[64] < spread[32] < spread[8]
    assert spread[64] < spread[256]


def test_a_curve_that_strays_is_trusted_less():
    """A step between two kernels widens what is expected beside it."""
    smooth = known(Law.SATURATES, 16.0, [1, 4, 8, 16, 64])
    stepped = [Known(one.batch, one.log - 0.4 * (one.batch > 8), one.variance) for one in smooth]
    wander = [fitted(Law.SATURATES, points, BATCHES, None).wander for points in (smooth, stepped)]
    assert wander[1] > 4 * wander[0]


def test_the_expected_improvement_is_what_lies_beyond_the_level():
    """In either direction; of what is certain it is the distance, or nothing."""
    curve = fitted(Law.SATURATES, [Known(8, 2.0, 0.0)], BATCHES, None)
    seen = curve.at(8)
    assert seen.improvement(1.5, 1) == pytest.approx(0.5)
    assert seen.improvement(2.5, 1) == 0
    assert seen.improvement(2.5, -1) == pytest.approx(0.5)
    assert (seen.below(2.1), seen.below(1.9)) == (pytest.approx(1), pytest.approx(0))


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6), st.sampled_from(BATCHES))
def test_a_prediction_is_a_distribution_whatever_was_measured(logs, batch):
    """Its weights sum to 1 and nothing of it is infinite."""
    points = [Known(size, log, 1e-4) for size, log in zip(BATCHES[::2], logs, strict=False)]
    seen = fitted(Law.RISES, points, BATCHES, None).at(batch)
    assert sum(part.weight for part in seen.parts) == pytest.approx(1)
    assert all(math.isfinite(part.mean) and part.sd >= 0 for part in seen.parts)


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (10, 2.22814), (30, 2.04227)]
)
def test_students_quantile_is_that_of_the_tables(freedom, value):
    """95 %, both sides."""
    assert quantile(0.95, freedom) == pytest.approx(value, rel=2e-4)
