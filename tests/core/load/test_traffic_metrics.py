"""What the requests of a window come to."""

import math
import re
from statistics import fmean

import pytest
from queueing import S, exchange, mm1, open_loop, traffic_of

from pytest_slmperf.core.load.traffic import RUNNING, WAITING, Arrivals, Look, Traffic
from pytest_slmperf.core.load.traffic_metrics import traffic_metrics
from pytest_slmperf.core.load.window import Window, find_window
from pytest_slmperf.core.metrics import SCALARS
from pytest_slmperf.core.slo import Slo

OPEN, CLOSED = Arrivals(due_s=(0.0,)), Arrivals(concurrency=2)
MS = S // 1000


def steady(*, looks=(), **fields):
    """A request every 100 ms, served for 250 ms in five steps of a token: from 1 s on, for ten seconds."""
    made = [exchange(at, at, at + 250 * MS, 5, **fields) for at in range(0, 12 * S, 100 * MS)]
    return traffic_of(made, looks=looks)


WINDOW = Window(1 * S, 11 * S)


def test_throughput_is_of_what_came_within_the_window():
    """Ten requests a second of ten prompt and five output tokens, whether or not they began or end within it."""
    values = traffic_metrics(steady(), WINDOW, CLOSED).values
    assert values["output_throughput"] == 50
    assert values["total_token_throughput"] == 150
    assert values["request_throughput"] == 10


def test_concurrency_is_what_littles_law_makes_of_it():
    """Ten a second for a quarter of a second each: 2.5 under way on average, and three at most."""
    values = traffic_metrics(steady(), WINDOW, CLOSED).values
    assert values["mean_concurrency"] == pytest.approx(2.5)
    assert values["peak_concurrency"] == 3


def test_latencies_are_of_the_requests_sent_within_the_window_also_if_they_end_after_it():
    """The last ones are slow: leaving them out since they end too late would make an engine that stalls look fast."""
    quick = [exchange(at * S, at * S, at * S + 100 * MS, 2) for at in range(8)]
    slow = [exchange(at * S, at * S, at * S + 60 * S, 2) for at in (8, 9)]
    late = [exchange(10 * S, 10 * S, 11 * S, 2)]
    values = traffic_metrics(traffic_of(quick + slow + late), Window(0, 10 * S), CLOSED, quantiles=(0.9,)).values
    assert values["p90_e2el_ms"] == 60_000
    assert values["median_e2el_ms"] == 100
    assert values["median_tpot_ms"] == 50
    assert values["median_ttft_ms"] == 50


def test_an_mm1_queue_has_its_known_latencies():
    """Times in the system are exponential, with the mean of 1/(μ-λ): twenty windows come near its quantiles."""
    found = []
    for seed in range(20):
        traffic = mm1(0.5, 60, seed=seed)
        window = find_window(traffic, OPEN, least_s=10)
        found.append(traffic_metrics(traffic, window, OPEN, quantiles=(0.9,)).values)
    mean_ms = 1000 / (20 - 10)
    assert fmean(one["median_e2el_ms"] for one in found) == pytest.approx(mean_ms * math.log(2), rel=0.1)
    assert fmean(one["p90_e2el_ms"] for one in found) == pytest.approx(mean_ms * math.log(10), rel=0.1)
    assert fmean(one["mean_concurrency"] for one in found) == pytest.approx(1, rel=0.1)
    assert fmean(one["achieved_rate_share"] for one in found) == pytest.approx(1, abs=0.01)


def test_goodput_counts_requests_that_meet_every_limit():
    """Of ten a second every other takes too long in all, and one in five to its first token: six in ten are lost."""
    made = []
    for place in range(100):
        at, wait = place * 100 * MS, 500 * MS if place % 5 == 0 else 0
        made.append(exchange(at, at + wait, at + wait + 100 * MS * (3 if place % 2 else 1), 2))
    found = traffic_metrics(traffic_of(made), Window(0, 10 * S), CLOSED, slo=Slo(ttft_ms=400, tpot_ms=140))
    assert found.values["goodput_share"] == pytest.approx(0.4)
    assert found.values["request_goodput"] == pytest.approx(4)


def test_a_request_of_one_token_meets_a_limit_of_its_time_per_token():
    """It has none."""
    made = [exchange(at * S, at * S, at * S + 100 * MS, 1) for at in range(5)]
    found = traffic_metrics(traffic_of(made), Window(0, 5 * S), CLOSED, slo=Slo(tpot_ms=0.001))
    assert found.values["goodput_share"] == pytest.approx(1)
    assert found.unmeasured["median_tpot_ms"] == "no observed request has two output tokens"


def test_a_request_that_failed_is_not_good():
    """It counts among those that were sent."""
    made = [exchange(at * S, at * S, at * S + MS, 2, error="reset" if at else "") for at in range(4)]
    found = traffic_metrics(traffic_of(made), Window(0, 4 * S), CLOSED, slo=Slo(e2el_ms=100))
    assert found.values["goodput_share"] == pytest.approx(0.25)


def test_without_a_good_request_there_is_a_reason_in_place_of_a_zero():
    """A share of nothing has no ratio to a baseline."""
    found = traffic_metrics(steady(), WINDOW, CLOSED, slo=Slo(ttft_ms=1))
    assert found.unmeasured["request_goodput"].startswith("none of 100 requests met every limit")
    assert "goodput_share" not in found.values


def test_without_limits_nothing_is_said_of_goodput():
    """There is nothing to meet, and nobody asked."""
    found = traffic_metrics(steady(), WINDOW, CLOSED)
    assert not {"request_goodput", "goodput_share"} & {*found.values, *found.unmeasured}


def test_the_offered_rate_is_of_an_open_loop_alone():
    """A closed loop sends as its engine answers; an open one that ends half of what came achieves a half."""
    assert "offers no rate" in traffic_metrics(steady(), WINDOW, CLOSED).unmeasured["achieved_rate_share"]
    due = [place / 50 for place in range(500)]
    traffic = open_loop(due, [0.4] * 500, places=10)
    found = traffic_metrics(traffic, find_window(traffic, OPEN, least_s=1), OPEN)
    assert found.values["achieved_rate_share"] == pytest.approx(0.5, rel=0.01)


def test_a_saturated_engine_has_a_throughput_and_no_latencies():
    """They would be as long as one looks, and so would how many are under way."""
    traffic = mm1(2, 30, seed=1)
    found = traffic_metrics(traffic, find_window(traffic, OPEN, least_s=1), OPEN, quantiles=(0.99,), slo=Slo(e2el_ms=1))
    assert found.values.keys() == {
        "output_throughput",
        "total_token_throughput",
        "request_throughput",
        "achieved_rate_share",
    }
    for name in ("median_ttft_ms", "p99_e2el_ms", "request_goodput", "goodput_share", "mean_concurrency"):
        assert found.unmeasured[name].startswith("saturated: ")
    assert not found.intervals
    assert any("pile up" in note for note in found.notes)


def test_what_the_engine_says_of_itself_is_the_mean_of_looks_within_the_window():
    """Those before and after it don't count."""
    looks = [Look(at * S, {RUNNING: at, WAITING: 0}) for at in range(13)]
    found = traffic_metrics(steady(looks=tuple(looks)), WINDOW, CLOSED)
    assert found.values["mean_running_batch"] == fmean(range(1, 11))
    assert "0 at every look" in found.unmeasured["mean_queue"]


@pytest.mark.parametrize(
    ("looks", "reason"),
    [
        ((), "doesn't tell"),
        ((Look(2 * S, {WAITING: 1}),), "doesn't tell"),
        ((Look(2 * S, {RUNNING: 1}),), "fewer than 3 looks"),
    ],
)
def test_a_running_batch_that_nobody_saw_has_a_reason(looks, reason):
    """Where the engine says nothing, or was asked too seldom."""
    assert reason in traffic_metrics(steady(looks=looks), WINDOW, CLOSED).unmeasured["mean_running_batch"]


def test_parts_of_several_tokens_are_said_to_be_parts():
    """Their gaps are no token's, and the throughput is of tokens all the same."""
    found = traffic_metrics(steady(output_tokens=15), WINDOW, CLOSED)
    assert found.values["output_throughput"] == 150
    assert any("parts of several tokens" in note for note in found.notes)
    assert not traffic_metrics(steady(), WINDOW, CLOSED).notes


def test_tokens_count_as_the_engine_says_they_came():
    """A first part of nine tokens before the window, and a second of one within it."""
    one = exchange(0, 0, 2 * S, 2, output_tokens=10, chunk_tokens=(9, 1))
    found = traffic_metrics(traffic_of([one]), Window(int(1.5 * S), int(2.5 * S)), CLOSED)
    assert found.values["output_throughput"] == 1


def test_a_wait_for_a_place_is_told():
    """Latencies count from when a request was sent, and the load's own limit kept it."""
    found = traffic_metrics(traffic_of([exchange(1 * S, 1 * S, 2 * S, arrived_ns=0)]), Window(0, 2 * S), OPEN)
    assert any("max_concurrency" in note for note in found.notes)


def test_a_quantile_comes_with_what_this_round_alone_tells_of_it():
    """Where there are requests enough; a gap isn't one, since those of one request are alike."""
    intervals = traffic_metrics(steady(), WINDOW, CLOSED, quantiles=(0.99,)).intervals
    assert intervals.keys() == {"median_ttft_ms", "median_tpot_ms", "median_e2el_ms"}
    assert intervals["median_e2el_ms"] == (250, 250)


def test_a_percentile_that_a_round_alone_cannot_bound_is_told():
    """A hundred requests have a p99, and all of them may lie below the true one."""
    found = traffic_metrics(steady(), WINDOW, CLOSED, quantiles=(0.9, 0.99))
    assert found.values["p99_ttft_ms"]
    assert found.notes == (
        "p99: a round has too few requests to bound it by itself (368 would do), so it takes several launches",
    )


def test_every_metric_of_traffic_is_told_or_has_its_reason():
    """Also where nothing came at all."""
    nothing = Traffic((), 0, 0)
    found = traffic_metrics(nothing, Window(0, S), OPEN, slo=Slo(ttft_ms=1))
    of_traffic = [name for name in SCALARS if re.search("goodput|throughput|(?<!highest_)concurrency", name)]
    assert {*of_traffic, "achieved_rate_share", "mean_queue", "median_ttft_ms"} <= found.unmeasured.keys()
    assert not found.values
