"""What another pace of the cores makes of a verdict: a void one where it may be all that was seen, else nothing."""

import random
from dataclasses import replace

import pytest

from pytest_slmperf.core import gate
from pytest_slmperf.core.judging.same_pace import at_its_pace
from pytest_slmperf.core.metrics import CORE_PACE, metric
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import Status

POLICY = gate.Policy(tolerance=0.05)


def sample(level, launches=16, spread=0.004, seed=0):
    draw = random.Random(f"{level}/{seed}")
    return Sample.of([[level * draw.gauss(1, spread)] for _ in range(launches)])


def judged(level, pace, name="output_throughput", spread=0.004):
    """The verdict on a level of 100 that is now this, on cores whose piece of work takes so many times as long."""
    verdict = gate.judge(metric(name), sample(100, 20, spread), sample(level, spread=spread), POLICY)
    return verdict, at_its_pace(verdict, sample(150_000 * pace, seed=1), sample(150_000, 20, seed=2))


@pytest.mark.parametrize(
    ("name", "level", "pace"),
    [("output_throughput", 86, 1.16), ("median_itl_ms", 116, 1.16), ("startup_s", 112, 1.1)],
)
def test_a_loss_that_slower_cores_explain_is_void(name, level, pace):
    """It names them and the way out, and keeps what was seen."""
    plain, here = judged(level, pace, name)
    assert plain.status is Status.REGRESSED
    assert here.status is Status.VOID
    assert here.reason.startswith("its cores are slower than for the baseline, which may be all of this loss: a fixed ")
    assert "slmperf ab" in here.way_out
    assert here.effect == plain.effect


def test_few_readings_void_no_more_often_than_many():
    """Their spread is known worse, so the interval is wider: the cores seem slower in 2.5 %, and are not."""
    verdict, _ = judged(95, 1.0)
    verdict = replace(verdict, status=Status.REGRESSED, effect=replace(verdict.effect, ratio=0.95))
    seen = [
        at_its_pace(verdict, sample(150_000, 4, 0.01, seed), sample(150_000, 20, 0.01, seed)) for seed in range(400)
    ]
    assert sum(one.status is Status.VOID for one in seen) <= 0.04 * 400


def test_a_loss_beyond_what_slower_cores_explain_stays_one():
    """A tenth of pace is no excuse for a third of throughput."""
    plain, here = judged(66, 1.1)
    assert here == plain
    assert here.status is Status.REGRESSED


@pytest.mark.parametrize(
    ("level", "pace"), [(100, 1.0), (80, 1.0), (80, 1.005), (99, 1.08), (110, 1.2), (80, 0.9), (100, 0.97), (115, 0.9)]
)
def test_a_pace_that_explains_nothing_changes_nothing(level, pace):
    """Such as one within its own noise, slower cores where the engine was as fast as ever, and faster ones where it
    gained more than they did, or would have lost no more than the tolerance without them.
    """
    plain, here = judged(level, pace)
    assert here == plain


def test_no_more_than_its_share_of_the_pace_is_laid_to_it():
    """Where no more than half of the pace reaches the metric, a tenth of it hides no loss of a twentieth."""
    now, was = sample(150_000 * 0.92, seed=1), sample(150_000, 20, seed=2)
    plain = gate.judge(metric("output_throughput"), sample(100, 20), sample(100), POLICY)
    assert at_its_pace(plain, now, was).status is Status.VOID
    assert at_its_pace(plain, now, was, share=0.5) == plain


def test_faster_cores_hide_no_loss():
    """An engine that is as fast as it was, on cores that are a tenth faster, has lost a tenth."""
    plain, here = judged(100, 0.9)
    assert plain.status is Status.UNCHANGED
    assert here.status is Status.VOID
    assert "faster than for the baseline, which may hide a loss" in here.reason


def test_what_slower_cores_leave_undecided_is_void():
    """A doubt that the machine made is the machine's."""
    baseline, now = sample(100, 20, 0.05), sample(95, 16, 0.05)
    verdict = gate.judge(metric("output_throughput"), baseline, now, POLICY)
    assert verdict.status is Status.INCONCLUSIVE
    here = at_its_pace(verdict, sample(160_000), sample(150_000, 20))
    assert here.status is Status.VOID
    assert "undecided" in here.reason


@pytest.mark.parametrize("name", ["peak_memory_bytes", "joules_per_output_token", CORE_PACE])
def test_what_no_pace_changes_is_judged_as_ever(name):
    """Memory is no matter of time."""
    plain, here = judged(130, 1.3, name)
    assert here == plain


def test_a_baseline_without_a_pace_is_judged_as_ever():
    """What was recorded before it was kept is no reason to void anything."""
    plain, _ = judged(80, 1.0)
    assert at_its_pace(plain, sample(200_000), None) == plain
    assert at_its_pace(plain, None, sample(200_000)) == plain
