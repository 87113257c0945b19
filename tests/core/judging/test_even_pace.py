"""What the cores' pace explains of the launches is taken out of them, and nothing else is."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core import gate
from pytest_slmperf.core.gate import Policy, costs_of
from pytest_slmperf.core.judging import even_pace
from pytest_slmperf.core.judging.even_pace import evened
from pytest_slmperf.core.judging.tolerance import supported_tolerance
from pytest_slmperf.core.metrics import CORE_PACE, metric
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import Status

THROUGHPUT, LATENCY = metric("output_throughput"), metric("median_tpot_ms")
POLICY = Policy(tolerance=0.1)


def walk(draw, launches, alike=0.8, sd=0.05):
    """Log values that resemble their neighbours."""
    values = [draw.gauss(0, sd)]
    for _ in range(launches - 1):
        values.append(alike * values[-1] + draw.gauss(0, sd * math.sqrt(1 - alike**2)))
    return values


def paced(meaning, seed, share, *, launches=20, level=100.0, noise=0.01, pace=None, alike=0.8):
    """(values, times of the piece of work) on cores whose pace drifts, and reaches the values by a share."""
    draw = random.Random(seed)
    pace = pace or walk(draw, launches, alike)
    sign = -1 if meaning.higher_is_better else 1
    values = [[level * math.exp(sign * share * slow + draw.gauss(0, noise))] for slow in pace]
    return Sample.of(values), Sample.of([[150_000 * math.exp(slow)] for slow in pace])


def spread(sample):
    costs = costs_of(sample, higher_is_better=True)
    return math.sqrt(sum((cost - sum(costs) / len(costs)) ** 2 for cost in costs) / (len(costs) - 1))


@pytest.mark.parametrize("meaning", [THROUGHPUT, LATENCY])
@pytest.mark.parametrize("share", [0.5, 0.7, 1.0])
def test_what_a_slower_core_explains_is_taken_out(meaning, share):
    """Most of the spread goes, whichever direction is worse, and the share is found, never too large."""
    values, times = paced(meaning, 1, share)
    even = evened(meaning, (values, times))
    assert spread(even.samples[0]) < spread(values) / 2
    assert share - 0.2 < even.share <= share + 0.02
    assert even.share * spread(times) / 2 < even.spread <= even.share * spread(times)


def test_a_launch_at_the_median_pace_stays():
    """Whether the arms differ in pace is not evened: an engine that slows its own cores is not forgiven."""
    slow, fast = (paced(THROUGHPUT, seed, 0.7, launches=21, level=level) for seed, level in ((1, 90), (2, 100)))
    for (values, times), even in zip((slow, fast), evened(THROUGHPUT, slow, fast).samples, strict=True):
        middle = sorted(range(21), key=lambda launch: times.launches[launch])[10]
        assert even.launches[middle] == pytest.approx(values.launches[middle])
        assert even != values


@pytest.mark.parametrize("seed", range(5))
def test_what_no_pace_moves_stays_nearly_as_it_is(seed):
    """What is chance takes out little: the slope is believed less one standard error."""
    values, times = paced(THROUGHPUT, seed, 0.0)
    even = evened(THROUGHPUT, (values, times))
    assert even.share < 0.1
    assert spread(even.samples[0]) == pytest.approx(spread(values), rel=0.15)


def test_a_metric_that_drifts_of_itself_is_not_steadied():
    """Two series that drift look alike by chance; in the mean of many, hardly any of their spread goes."""
    left = []
    for seed in range(100):
        values, _ = paced(THROUGHPUT, seed, 1.0)
        _, times = paced(THROUGHPUT, seed + 1000, 1.0)
        left.append(spread(evened(THROUGHPUT, (values, times)).samples[0]) / spread(values))
    assert sum(left) / len(left) > 0.93


def test_nothing_is_sped_up_on_slower_cores():
    """A metric that looks better the slower the cores are has another reason for it, and is left alone."""
    values, times = paced(THROUGHPUT, 1, -0.7)
    even = evened(THROUGHPUT, (values, times))
    assert (even.samples, even.share, even.spread) == ((values,), 0.0, 0.0)


@pytest.mark.parametrize("name", ["peak_memory_bytes", "joules_per_output_token", CORE_PACE])
def test_what_is_no_matter_of_pace_is_left_alone(name):
    """However well it seems to follow the cores."""
    values, times = paced(metric(name), 1, 0.7)
    assert evened(metric(name), (values, times)).samples == (values,)


def test_without_the_times_of_each_launch_nothing_is_done():
    """An older recording, or launches of which only some have the metric, can't be put beside their times."""
    values, times = paced(THROUGHPUT, 1, 0.7)
    part = Sample(times.launches[1:])
    for pace in (None, part):
        assert evened(THROUGHPUT, (values, times), (values, pace)).samples == (values, values)


@given(
    st.lists(st.tuples(st.floats(1, 1e6), st.floats(1e4, 1e6)), min_size=1, max_size=6),
    st.lists(st.tuples(st.floats(1, 1e6), st.floats(1e4, 1e6)), min_size=1, max_size=6),
)
def test_any_launches_can_be_evened(first, second):
    """Also few, alike, or none that differ: the share lies between none and all."""
    arms = [
        (Sample.of([[value] for value, _ in arm]), Sample.of([[time] for _, time in arm])) for arm in (first, second)
    ]
    even = evened(THROUGHPUT, *arms)
    assert 0 <= even.share <= 1
    assert [len(sample.launches) for sample in even.samples] == [len(first), len(second)]


@pytest.mark.parametrize(("level", "status"), [(100, Status.UNCHANGED), (80, Status.REGRESSED)])
def test_a_drifting_pace_leaves_nothing_undecided_that_it_explains(level, status):
    """Launches that resemble each other bound nothing; without what the pace explains they do, in both directions."""
    baseline, now = paced(THROUGHPUT, 3, 0.8), paced(THROUGHPUT, 11, 0.8, launches=16, level=level)
    assert gate.judge(THROUGHPUT, baseline[0], now[0], POLICY).status is Status.INCONCLUSIVE
    verdict = even_pace.judge(THROUGHPUT, baseline, now, POLICY)
    assert verdict.status is status
    assert (verdict.effect.baseline, verdict.effect.candidate) == (baseline[0].median, now[0].median)


def test_a_launch_on_a_busy_core_is_no_loss_of_the_others():
    """However slow it was: the gate has none in it without the pace, and has none with it."""
    draw = random.Random(5)
    quiet, busy = ([draw.gauss(0, 0.01) for _ in range(launches)] for launches in (20, 16))
    busy[3], busy[9] = 0.9, 0.7
    baseline = paced(THROUGHPUT, 3, 1.0, pace=quiet)
    now = paced(THROUGHPUT, 4, 1.0, launches=16, pace=busy)
    assert evened(THROUGHPUT, baseline, now).share > 0.9
    assert even_pace.judge(THROUGHPUT, baseline, now, POLICY).status is Status.UNCHANGED


def jumping(seed, loss, launches):
    """An arm on cores whose pace is another in each launch, with nothing alike in it."""
    return paced(THROUGHPUT, f"{seed}/{loss}/{launches}", 1.0, launches=launches, level=100 * (1 - loss), alike=0)


def test_cores_that_differ_by_chance_decide_nothing():
    """A pace that jumps makes arms differ that are evened: no loss is called one, and the tolerance passes in 5 %."""
    policy = Policy(tolerance=0.03)
    said = {
        loss: [
            even_pace.judge(THROUGHPUT, jumping(seed, 0, 20), jumping(seed, loss, 16), policy) for seed in range(150)
        ]
        for loss in (0, 0.03)
    }
    assert Status.REGRESSED not in {verdict.status for verdict in said[0]}
    assert sum(verdict.passed for verdict in said[0.03]) <= 0.05 * 150
    undecided = [verdict for verdict in said[0] if "at one pace of the cores" in verdict.reason]
    assert undecided
    assert {verdict.status for verdict in undecided} == {Status.INCONCLUSIVE}


def test_what_is_undecided_at_one_pace_may_be_decided_by_more_launches():
    """Up to the cap, where the way out is another hour."""
    early, late = Policy(0.03, 32), Policy(0.03, 16)
    for seed in range(150):
        arms = jumping(seed, 0, 20), jumping(seed, 0, 16)
        verdict = even_pace.judge(THROUGHPUT, *arms, late)
        if "at one pace of the cores" in verdict.reason:
            assert verdict.final
            assert "another hour" in verdict.way_out
        verdict = even_pace.judge(THROUGHPUT, *arms, early)
        assert not (verdict.final and "at one pace of the cores" in verdict.reason)


def test_a_recording_of_drifting_cores_supports_a_tolerance():
    """One that none is supported by without the cores' pace; and a larger one than steady cores would."""
    values, times = paced(THROUGHPUT, 1, 0.8)
    steady, _ = paced(THROUGHPUT, 1, 0.8, pace=[0.0] * 20)
    assert supported_tolerance(values, THROUGHPUT, POLICY) is None
    found = supported_tolerance(values, THROUGHPUT, POLICY, times)
    assert supported_tolerance(steady, THROUGHPUT, POLICY) < found <= 0.12


def test_a_launch_on_a_busy_core_is_no_reason_to_refuse_a_recording():
    """The gate takes out of it what it was slower, and the median of an arm hardly moves for it."""
    draw = random.Random(5)
    pace = [draw.gauss(0, 0.01) for _ in range(20)]
    quiet = paced(THROUGHPUT, 3, 1.0, pace=pace)
    busy = paced(THROUGHPUT, 3, 1.0, pace=[*pace[:7], 0.7, *pace[8:]])
    supported = [supported_tolerance(values, THROUGHPUT, POLICY, times) for values, times in (quiet, busy)]
    assert supported == [0.05, 0.05]


@pytest.mark.parametrize(("share", "passes"), [(0.4, True), (1.0, False)])
def test_faster_cores_are_held_against_a_pass_by_as_much_as_may_reach_it(share, passes):
    """How much does is told by the launches: an engine bound by memory hides no loss on cores a tenth faster."""
    draw = random.Random(5)
    slow, fast = ([shift + draw.gauss(0, 0.04) for _ in range(20)] for shift in (0.0, -0.11))
    baseline = paced(THROUGHPUT, 3, share, pace=slow)
    now = paced(THROUGHPUT, 4, share, pace=fast, level=100 * math.exp(-0.11 * share))
    verdict = even_pace.judge(THROUGHPUT, baseline, now, POLICY)
    assert even_pace.held_to_pace(verdict, THROUGHPUT, baseline, now).passed is passes


def test_all_of_a_change_of_pace_may_reach_what_nothing_tells_of():
    """Cores that keep their pace within each arm say nothing of what another would do."""
    values, _ = paced(THROUGHPUT, 1, 0.0)
    steady = Sample.of([[150_000]] * 20)
    assert evened(THROUGHPUT, (values, steady)).at_most == 1.0


def test_a_pace_that_jumps_leaves_a_tighter_tolerance_than_one_that_drifts():
    """The mean of many launches at paces that have nothing to do with each other is always near the same."""
    draw = random.Random(2)
    wave = [0.04 * math.sin(launch / 3) for launch in range(20)]
    drifting, jumping = wave, draw.sample(wave, len(wave))
    found = [
        supported_tolerance(values, THROUGHPUT, POLICY, times)
        for values, times in (paced(THROUGHPUT, 1, 0.8, pace=pace) for pace in (jumping, drifting))
    ]
    assert found[0] < found[1]
