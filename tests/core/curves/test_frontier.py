"""Frontiers: what no other point beats, and whether what is stored is still reached."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_slmperf.core.curves.frontier import Frontier, FrontierPolicy, frontier
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.gate import confirm
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import Status

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CASES = [f"batch={size}" for size in SIZES]
METRICS = ("output_throughput", "median_itl_ms")


def sample(centre, launches=14, noise=0.01, seed=0):
    draw = random.Random(seed)
    return Sample.of([[centre * math.exp(draw.gauss(0, noise)) for _ in range(3)] for _ in range(launches)])


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


def drifting(launches, seed, *, known=True):
    """The frontier of three points on cores whose pace drifts by a tenth, and moves both metrics."""
    draw = random.Random(seed)
    paces = [0.1 * math.sin(launch / 3) for launch in range(launches)]
    cases = {}
    for size in (1, 4, 16):
        rates = [[100 * size * math.exp(draw.gauss(0, 0.005) - pace)] for pace in paces]
        waits = [[size * math.exp(draw.gauss(0, 0.005) + pace)] for pace in paces]
        cases[f"batch={size}"] = {"output_throughput": Sample.of(rates), "median_itl_ms": Sample.of(waits)}
        if known:
            cases[f"batch={size}"]["core_pace_ns"] = Sample.of([[150_000 * math.exp(pace)] for pace in paces])
    return frontier(cases, METRICS, "decode/opt-125m")


def test_what_the_drift_of_the_cores_explains_leaves_no_point_in_doubt():
    """Launches that drift with the cores' pace bound nothing, but what it explains is known."""
    assert drifting(19, 2, known=False).unchanged_from(drifting(19, 1), POLICY).status is Status.INCONCLUSIVE
    assert drifting(19, 2).unchanged_from(drifting(19, 1), POLICY).status is Status.UNCHANGED


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
    """One metric has no frontier, nor has one twice, and a metric without a tolerance is an error that names it."""
    for metrics in (("itl_ms", "median_itl_ms"), ("output_throughput", "itl_ms", "output_throughput")):
        with pytest.raises(SuiteError, match="two or three different metrics"):
            swept(metrics=metrics)
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
    assert str(STORED).startswith("frontier of output_throughput and median_itl_ms: batch=512, batch=256, ")


JOULES = {
    "batch=1": {"output_throughput": 100.0, "median_itl_ms": 10.0, "joules_per_output_token": 1.0},
    "batch=8": {"output_throughput": 400.0, "median_itl_ms": 20.0, "joules_per_output_token": 0.5},
    "batch=9": {"output_throughput": 390.0, "median_itl_ms": 25.0, "joules_per_output_token": 0.4},
    "batch=10": {"output_throughput": 390.0, "median_itl_ms": 25.0, "joules_per_output_token": 0.6},
}
THREE = ("output_throughput", "itl_ms", "joules_per_output_token")


def test_a_frontier_of_three_metrics():
    """With joules as a third metric, a point that is slower but saves energy is on the frontier, too."""
    cases = {case: {name: sample(value, noise=0) for name, value in one.items()} for case, one in JOULES.items()}
    two, three = (frontier(cases, metrics) for metrics in (THREE[:2], THREE))
    assert list(two.points) == ["batch=8", "batch=1"]
    assert list(three.points) == ["batch=8", "batch=9", "batch=1"]
    assert three.name == "frontier of output_throughput, median_itl_ms and joules_per_output_token"
    assert three.hypervolume((0.0, 100.0, 1.0)) == pytest.approx(400 * 80 * 0.5 + 390 * 75 * 0.1)


def test_a_frontier_that_did_not_change():
    """Measured again, no point is surely dominated, and the volume is what it was as far as the launches tell."""
    for seed in range(1, 9):
        change = swept(seed=seed * 1_000).change_from(STORED)
        assert not [point for point in (*change.behind, *change.surpassed) if point.sure]
        assert change.volume.interval[0] < 1 < change.volume.interval[1]


def test_a_point_that_is_dominated_now():
    """A point that lost throughput is dominated by its own stored one: by how much, metric by metric, and in volume."""
    change = swept({64: (0.85, 1.0)}, seed=1).change_from(STORED)
    (behind,) = change.behind
    assert (behind.case, behind.by, behind.sure, change.surpassed) == ("batch=64", "batch=64", True, ())
    low, high = behind.ratios["output_throughput"].interval
    assert 0.83 < low < behind.ratios["output_throughput"].value < high < 0.87
    assert change.ratios["batch=64"] == pytest.approx(behind.ratios)
    assert change.ratios["batch=32"]["output_throughput"].interval[1] > 1
    assert behind.volume.interval[1] < 1  # and this point is all that the volume lost
    assert behind.volume.value == pytest.approx(change.volume.value, abs=0.01)
    assert "behind: batch=64 (output_throughput -1" in str(change)


def test_a_gain_is_no_loss():
    """What became faster surpasses the stored points, and seen from there it is behind."""
    faster, slower = swept(dict.fromkeys(SIZES, (1.2, 1 / 1.2)), seed=1), STORED
    gain, loss = faster.change_from(slower), slower.change_from(faster)
    assert {point.case for point in gain.surpassed} == set(CASES) == {point.case for point in loss.behind}
    assert all(point.sure for point in (*gain.surpassed, *loss.behind))
    assert gain.volume.value == pytest.approx(1.44, rel=0.02) == 1 / loss.volume.value


def test_a_stored_point_that_was_not_measured():
    """A stored point without a measurement is named, and neither behind nor surpassed."""
    change = swept(seed=1, sizes=SIZES[:-1]).change_from(STORED)
    assert change.unmeasured == ("batch=512",)
    assert change.volume.value < 1


def test_a_frontier_of_one_point():
    """A single point is a frontier: it stays, and what it loses is lost of the volume."""
    stored, now = swept(launches=20, sizes=(64,)), swept({64: (0.8, 1.0)}, seed=1, sizes=(64,))
    assert list(stored.points) == ["batch=64"]
    assert swept(seed=1, sizes=(64,)).unchanged_from(stored, POLICY).status is Status.UNCHANGED
    change = now.change_from(stored)
    assert change.volume.value == pytest.approx(0.8, abs=0.01) == change.behind[0].volume.value


def test_points_that_tie():
    """Two cases that measure the very same are both on the frontier, and neither dominates the other."""
    same = {name: sample(value, noise=0) for name, value in JOULES["batch=8"].items()}
    tied = frontier({"a": same, "b": same}, THREE)
    assert set(tied.points) == {"a", "b"}
    assert tied.change_from(tied).behind == ()


def test_few_launches_bound_nothing():
    """With one launch there are figures and no intervals: nothing says what another one would have given."""
    change = swept({64: (0.85, 1.0)}, seed=1, launches=1).change_from(STORED)
    assert change.volume.interval is None
    assert "not bounded" in str(change)


def test_changes_that_can_not_be_told():
    """Two kinds of frontier, and one without a point, are errors."""
    with pytest.raises(SuiteError, match="two kinds of frontier"):
        swept(metrics=("itl_ms", "output_throughput")).change_from(STORED)
    with pytest.raises(SuiteError, match="without a point"):
        STORED.change_from(Frontier(STORED.metrics, {}, {}))


def test_the_verdict_says_the_volume():
    """Beside the points that are reached stands what became of the volume."""
    verdict = swept(dict.fromkeys(SIZES, (0.8, 1.0)), seed=1).unchanged_from(STORED, POLICY)
    assert verdict.measured.startswith("0 of 10 points reached, volume -2")


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.floats(0.3, 0.85))
def test_a_loss_is_never_a_pass(seed, factor):
    """Whatever the noise, a frontier that lost 15 % or more of its throughput everywhere never passes."""
    slower = swept(dict.fromkeys(SIZES, (factor, 1 / factor)), seed=seed)
    assert not slower.unchanged_from(STORED, POLICY).passed
