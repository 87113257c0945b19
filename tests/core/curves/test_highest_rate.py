"""The highest rate within an SLO: on curves that are known, and on a queue whose true capacity is."""

import math
import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from queueing import open_loop, poisson

from pytest_slmperf.core.curves.highest_rate import SharesInTime, crossing, in_time
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.gate import DAY_SD
from pytest_slmperf.core.load.traffic import Arrivals
from pytest_slmperf.core.load.traffic_metrics import traffic_metrics
from pytest_slmperf.core.load.window import Window, find_window
from pytest_slmperf.core.outcome import CaseOutcome, SweepOutcome
from pytest_slmperf.core.results.claim import Fresh
from pytest_slmperf.core.results.result import Result
from pytest_slmperf.core.sample import NOT_IN_BOTH_ARMS, Measurement, Sample
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.verdict import Status

LIMIT_S = 0.5
RATES = (4, 8, 12, 16, 20, 24)


def mm1_share(rate, capacity, limit_s=LIMIT_S):
    """Of the requests of an M/M/1 queue, those that are answered within the limit."""
    return 1 - math.exp(-(capacity - rate) * limit_s) if rate < capacity else 0.0


def mm1_highest(share, capacity, limit_s=LIMIT_S):
    """The rate at which it is that share."""
    return capacity + math.log(1 - share) / limit_s


def launches_of(capacity, *, launches=20, noise=0.01, day=0.0, seed=0, requests=2000, rates=RATES):
    """Shares of a queue that is another launch by launch, each counted on so many requests."""
    draw = random.Random(seed)
    here = capacity * math.exp(draw.gauss(0, day))
    of_launches = [here * math.exp(draw.gauss(0, noise)) for _ in range(launches)]

    def counted(rate, speed):
        share = mm1_share(rate, speed)
        return min(1.0, max(0.0, draw.gauss(share, math.sqrt(share * (1 - share) / requests))))

    return SharesInTime({rate: [counted(rate, speed) for speed in of_launches] for rate in rates}, "rate/m")


@given(
    capacity=st.floats(5, 40),
    share=st.floats(0.5, 0.999),
    rates=st.lists(st.integers(1, 60), min_size=2, max_size=8, unique=True).map(sorted),
)
def test_the_true_rate_of_a_queue_lies_between_the_same_two_places(capacity, share, rates):
    """What is interpolated is no higher than the truth, but by what is said of a place past the capacity."""
    truth = mm1_highest(share, capacity)
    shares = [mm1_share(rate, capacity) for rate in rates]
    found = crossing(rates, shares, share)
    if found in (0.0, math.inf):
        assert truth <= rates[0] * (1 + 1e-9) if not found else truth >= rates[-1] * (1 - 1e-9)
        return
    below = max(rate for rate in rates if rate <= found)
    above = min((rate for rate in rates if rate > found), default=rates[-1])
    past = (1 - share) * (above - below) if above >= capacity else 0.0
    assert below <= truth * (1 + 1e-9)
    assert found <= truth + past + 1e-6


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=6),
    st.floats(0.01, 1),
    st.integers(0, 5),
    st.floats(0, 0.5),
    st.floats(0.1, 10),
)
def test_a_better_share_lowers_no_rate_and_a_unit_changes_none(shares, share, at, more, unit):
    """A place that serves more in time, or a lower share that is asked for, never gives a lower rate."""
    rates = RATES[: len(shares)]
    found = crossing(rates, shares, share)
    better = [min(1.0, one + more) if place == at else one for place, one in enumerate(shares)]
    assert crossing(rates, better, share) >= found - 1e-9
    assert crossing(rates, shares, share * (1 - more)) >= found - 1e-9
    assert crossing([rate * unit for rate in rates], shares, share) == pytest.approx(found * unit)


def test_the_first_miss_decides():
    """A promise of a rate is one of every lower rate: a place that holds beyond one that doesn't is none."""
    assert crossing((1, 2, 4), (1.0, 0.9, 1.0), 0.95) == pytest.approx(1.5)
    assert crossing((1, 2, 4), (0.9, 1.0, 1.0), 0.95) == 0
    assert crossing((1, 2, 4), (1.0, 0.99, 0.99), 0.99) == math.inf


@pytest.mark.parametrize(
    ("capacity", "said"),
    [
        (100, "rate at least 24 .* for 99 % of the requests within the SLO: 24, the highest of the sweep, still meets"),
        (5, "no rate for 99 % of the requests within the SLO: even 4, the lowest of the sweep, misses it: sweep a low"),
    ],
)
def test_what_lies_outside_of_the_sweep_has_a_reason(capacity, said):
    """Nothing is extrapolated: the author is told in which direction to sweep."""
    found = launches_of(capacity).highest()
    assert re.match(said, str(found))
    assert found.rate == (24 if capacity == 100 else None)


def test_a_simulated_queue_has_its_known_highest_rate():
    """Requests that queue one by one, counted as traffic is: the interval lies within a close sweep of the truth."""
    capacity, share, rates = 20.0, 0.9, (10, 13, 15, 16, 18)

    def launch(rate, seed):
        draw = random.Random(seed)
        due = poisson(rate, 100, draw)
        traffic = open_loop(due, [draw.expovariate(capacity) for _ in due])
        arrivals = Arrivals(due_s=(0.0,))
        window = find_window(traffic, arrivals, least_s=10)
        assert isinstance(window, Window)
        return traffic_metrics(traffic, window, arrivals, slo=Slo(e2el_ms=1000 * LIMIT_S)).values.get(
            "goodput_share", 0.0
        )

    shares = {rate: [launch(rate, 100 * rate + seed) for seed in range(8)] for rate in rates}
    found = SharesInTime(shares).highest(share)
    truth = mm1_highest(share, capacity)
    assert 15 < truth < 16
    assert found.rate == pytest.approx(truth, rel=0.06)
    assert found.interval[0] <= truth <= found.interval[1] * 1.06


@pytest.mark.parametrize(("launches", "noise", "requests", "unchanged"), [(14, 0.01, 2000, 20), (8, 0.03, 200, 0)])
def test_no_alarm_on_noise(launches, noise, requests, unchanged):
    """The same queue, on two days, is never called regressed, and a quiet one mostly unchanged."""

    def highest(seed, launches):
        shares = launches_of(20, launches=launches, noise=noise, day=DAY_SD, requests=requests, seed=seed)
        return shares.highest(0.9, resamples=1000)

    found = [highest(seed + 1, launches).unchanged_from(highest(seed, 20)).status for seed in range(0, 50, 2)]
    assert Status.REGRESSED not in found
    assert found.count(Status.UNCHANGED) >= unchanged


def test_one_launch_decides_nothing():
    """Nobody knows how much another would differ."""
    one = launches_of(10, launches=1).highest(0.5)
    assert one.unchanged_from(launches_of(20).highest(0.5)).status is Status.INCONCLUSIVE


@pytest.mark.parametrize(("capacity", "status"), [(16, Status.REGRESSED), (25, Status.IMPROVED), (7, Status.REGRESSED)])
def test_a_capacity_that_changed_by_a_fifth_is_found(capacity, status):
    """Lower is regressed, also where not even the lowest place is left, and higher is improved."""
    stored = launches_of(20).highest(0.95)
    verdict = launches_of(capacity, launches=8, seed=1).highest(0.95).unchanged_from(stored)
    assert verdict.status is status
    assert (verdict.metric, verdict.unit, verdict.case) == ("highest_rate", "requests/s", "rate/m")
    assert verdict.reason.startswith("rate 12.98 (")


def test_what_lies_above_the_sweep_counts_as_its_highest_place():
    """A gain beyond the sweep is not seen; neither is a loss there, and one into it is."""
    above, still, within = (launches_of(capacity, seed=at).highest() for at, capacity in enumerate((90, 60, 25)))
    assert still.unchanged_from(above).status is Status.UNCHANGED
    assert "at least 24" in still.unchanged_from(above).reason
    assert within.unchanged_from(above).status is Status.REGRESSED
    assert above.unchanged_from(within).status is Status.IMPROVED


def test_where_nothing_met_the_slo_nothing_can_be_lost():
    """Two sides without any rate are no pass; a side that has one by now is a gain."""
    none = launches_of(5).highest()
    assert none.unchanged_from(launches_of(5, seed=1).highest()).status is Status.INCONCLUSIVE
    assert launches_of(20).highest().unchanged_from(none).status is Status.IMPROVED
    nothing = SharesInTime({}).highest()
    assert "nothing was measured" in str(nothing)
    assert nothing.unchanged_from(nothing).status is Status.INCONCLUSIVE


def test_noise_that_hides_a_loss_is_no_pass():
    """With few launches that differ much, the verdict is inconclusive and says what decides it."""
    noisy = [launches_of(20, launches=8, noise=0.15, seed=seed).highest(0.95) for seed in (0, 1)]
    verdict = noisy[1].unchanged_from(noisy[0])
    assert verdict.status is Status.INCONCLUSIVE
    assert "more launches" in verdict.way_out


def test_rates_that_can_not_be_compared():
    """For another share, or of another sweep, nothing is equal and nothing lost."""
    stored = launches_of(20).highest(0.95)
    assert launches_of(20).highest(0.9).unchanged_from(stored).status is Status.INCOMPARABLE
    assert launches_of(20, rates=RATES[1:]).highest(0.95).unchanged_from(stored).status is Status.INCOMPARABLE


@pytest.mark.parametrize("share", [0, 1.01, -1, math.nan])
def test_what_is_no_share_is_refused(share):
    """Nor is what no gate tolerates."""
    with pytest.raises(SuiteError, match="a share of the requests"):
        launches_of(20).highest(share)
    with pytest.raises(SuiteError, match="tolerance="):
        launches_of(20).highest().unchanged_from(launches_of(20).highest(), tolerance=0.5)


def test_a_seed_gives_the_same_rate_and_two_sides_draw_apart():
    """Draws of one seed that were paired would make any two sides alike."""
    found = launches_of(20).highest(0.95, seed=3)
    assert found == launches_of(20).highest(0.95, seed=3)
    same = found.unchanged_from(found)
    assert same.status is Status.UNCHANGED
    assert found.interval[0] < found.rate < found.interval[1]


def measured(at, shares, *, launches=20, unmeasured=None, key=None):
    samples = {"output_throughput": Sample.of([[100.0 * at]] * launches)}
    if shares:
        samples["goodput_share"] = Sample.of([[share] for share in shares])
    key = {"slo.ttft_ms": 200.0} if key is None else key
    return Measurement(f"rate/m/rate={at}", key, samples, unmeasured or {})


def test_a_launch_without_a_share_missed():
    """Its requests piled up, or none of them was in time: left out, it would make a rate look served."""
    assert in_time(measured(8, [1.0] * 3, launches=5)) == (1.0, 1.0, 1.0, 0.0, 0.0)
    assert in_time(measured(8, [])) == (0.0,) * 20


def result(now, stored, *, fresh=None, design="stored", mode="gate", label="request_rate"):
    def case(one, other):
        at = float(one.case.rpartition("=")[2])
        return CaseOutcome(one.case, {"model": "m", label: at}, one, other, {})

    def cases(some):
        return {one.case: case(one, other) for one, other in zip(some, stored, strict=True)}

    outcome = SweepOutcome("rate", design, mode, cases(now), (EngineSpec("fake", "m"),), {}, None, 20, 1.0)
    again = Fresh(tuple(cases(fresh).values()), "", "accept it") if fresh else Fresh(missing="no time")
    return Result(outcome, fresh=lambda _model: again)


def curve(capacity, *, seed=0, launches=20, **rest):
    """Measurements of the queue; a place past its capacity has no share at all."""
    shares = launches_of(capacity, seed=seed, launches=launches).launches
    return [measured(at, values if all(values) else [], launches=launches, **rest) for at, values in shares.items()]


def test_a_result_has_a_highest_rate():
    """Of the one model or of one of several, by 99 % or as asked, beside its stored one."""
    found = result(curve(20, seed=1), curve(20))
    assert found.highest_rate.unchanged_from(found.baseline.highest_rate)
    part = found.of("m")
    claim = part.highest_rate_within(0.95, tolerance=0.03)
    assert claim.unchanged_from(part.baseline.highest_rate_within(0.95)).status is Status.UNCHANGED
    assert claim.value.share == 0.95
    assert found.highest_rate_within(0.9).value.rate > claim.value.rate
    with pytest.raises(SuiteError, match=r"result\.highest_rate\.unchanged_from\(result\.baseline\.highest_rate\)"):
        found.highest_rate.unchanged_from(found.highest_rate.value)


def test_a_lower_rate_is_regressed_once_fresh_launches_confirm_it():
    """Without any, or where they tell otherwise, it is inconclusive."""
    for fresh, status in ((16, Status.REGRESSED), (20, Status.INCONCLUSIVE), (None, Status.INCONCLUSIVE)):
        again = fresh and curve(fresh, seed=9, launches=8)
        found = result(curve(16, seed=1), curve(20), fresh=again)
        verdict = found.highest_rate_within(0.95).unchanged_from(found.baseline.highest_rate_within(0.95))
        assert verdict.status is status


def test_a_sweep_without_limits_has_no_highest_rate():
    """The error says what to add."""
    found = result(curve(20, key={}), curve(20, key={}))
    with pytest.raises(SuiteError, match=r"give its sweep slo=Slo"):
        _ = found.highest_rate


def test_a_baseline_without_shares_is_none():
    """One from before there was an SLO, say, is not read as one that met it nowhere."""
    found = result(curve(20), [measured(at, []) for at in RATES])
    verdict = found.highest_rate.unchanged_from(found.baseline.highest_rate)
    assert (verdict.status, verdict.reason) == (Status.NO_BASELINE, "the baseline holds no goodput_share")


def test_arms_side_by_side_that_do_not_tell_who_missed_are_inconclusive():
    """A pair of which one launch has no share is left out of both arms; where both have none, both missed."""
    both = result(curve(20, seed=1), curve(20), design="interleaved")
    assert both.highest_rate.unchanged_from(both.baseline.highest_rate)
    hidden = {"goodput_share": NOT_IN_BOTH_ARMS}
    for stored in (
        [*curve(20)[:-1], measured(24, [], unmeasured=hidden)],
        [*curve(20)[:-2], measured(20, [1.0] * 3), measured(24, [])],
    ):
        one = result(curve(20, seed=1), stored, design="interleaved")
        verdict = one.highest_rate.unchanged_from(one.baseline.highest_rate)
        assert verdict.status is Status.INCONCLUSIVE
        assert "pairs of launches have no goodput_share in one of the arms" in verdict.reason


def test_a_run_that_records_judges_no_rate():
    """It raises what becomes a skip, as other claims do."""
    found = result(curve(20), curve(20), mode="accept")
    verdict = found.highest_rate_within(0.9).unchanged_from(found.baseline.highest_rate)
    assert not verdict.judged


def test_users_are_counted_too():
    """Of a closed loop it is how many users are served within the limits."""
    found = replace(launches_of(20).highest(), label="concurrency")
    assert found.unchanged_from(found).unit == "requests"
    assert str(found).startswith("concurrency 9.807 (")
