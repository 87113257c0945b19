"""The slowdown of a model beside others: its interval, a stated limit, and a stored slowdown."""

import random

import pytest

from pytest_slmperf.core.curves.slowdown import Slowdown, slowdown
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import Status

NAMED = Slowdown("output_throughput", "opt-1.3b@4", 8, case="mix/opt-125m")


def launches(value, *, count=20, seed=0, spread=0.005):
    """So many launches of about this value."""
    draw = random.Random(seed)
    return Sample.of([[value * draw.lognormvariate(0, spread) for _ in range(3)] for _ in range(count)])


def beside(alone, together, *, count=20, name="output_throughput", seed=0):
    """The slowdown of launches of about these values."""
    both = launches(alone, count=count, seed=seed), launches(together, count=count, seed=seed + 1)
    return slowdown(*both, metric(name), NAMED, seed=seed)


@pytest.mark.parametrize(("name", "alone", "together"), [("output_throughput", 1000, 800), ("median_tpot_ms", 8, 10)])
def test_of_either_direction(name, alone, together):
    """A fifth less throughput and a latency that is a quarter longer are the same slowdown, 1.25."""
    found = beside(alone, together, name=name)
    low, high = found.times.interval
    assert found.times.value == pytest.approx(1.25, rel=0.01)
    assert 1.2 < low < 1.25 < high < 1.3
    assert str(found).startswith("1.2")


@pytest.mark.parametrize(
    ("limit", "status"), [(1.5, Status.UNCHANGED), (1.25, Status.INCONCLUSIVE), (1.1, Status.REGRESSED)]
)
def test_a_stated_limit(limit, status):
    """It passes only where the whole interval keeps the limit."""
    assert beside(1000, 800).within(limit).status is status


def test_few_launches():
    """Four launches bound nothing, so no limit is kept and nothing is compared."""
    found = beside(1000, 800, count=4)
    assert found.times.interval is None
    assert found.within(9).status is Status.INCONCLUSIVE
    assert found.unchanged_from(found).status is Status.INCONCLUSIVE


@pytest.mark.parametrize(
    ("together", "status"), [(800, Status.UNCHANGED), (600, Status.REGRESSED), (980, Status.IMPROVED)]
)
def test_against_a_stored_one(together, status):
    """What both models share may be slower on another day; the slowdown is judged by itself, by the gate's rule."""
    stored = beside(1000, 800, seed=10)
    assert beside(900, 0.9 * together, seed=20).unchanged_from(stored).status is status


def test_what_was_not_measured():
    """Without the launches alone there is no slowdown, and it says so."""
    found = slowdown(None, launches(8), metric("output_throughput"), NAMED)
    assert "not measured alone" in str(found)
    assert found.within(9).status is Status.UNMEASURED
    assert found.unchanged_from(beside(1000, 800)).status is Status.INCONCLUSIVE


def test_another_slowdown():
    """Those of two neighbours are not compared, nor with a tolerance that is no gate."""
    other = slowdown(launches(9), launches(8), metric("output_throughput"), Slowdown("output_throughput", "x@1", 8))
    assert other.unchanged_from(beside(1000, 800)).status is Status.INCOMPARABLE
    with pytest.raises(SuiteError, match="tolerance=2"):
        other.unchanged_from(other, tolerance=2)
