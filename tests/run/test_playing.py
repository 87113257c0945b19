"""A launch measures traffic: its window's metrics, the guards of it, and joules over the same."""

import re
from dataclasses import replace

import pytest
from foreign_engine import install

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineFailed, EngineHung, EngineUnavailable
from pytest_slmperf.core.launch import Load, RoundPolicy, at_once
from pytest_slmperf.core.load.traffic import Arrivals, Exchange, Sender, Traffic
from pytest_slmperf.core.load.traffic_metrics import TrafficMetrics
from pytest_slmperf.core.load.window import NoWindow
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.run import playing
from pytest_slmperf.run.launch import run_launch

POLICY = RoundPolicy(rounds=1, traffic_s=2.0, void_retries=1, answer_limit_s=60)
CLOSED = Load("serve/tiny/concurrency=8", ((32, 20),) * 64, 1, Arrivals(concurrency=8))
OPEN = Load("rate/tiny/rate=20", ((32, 20),) * 80, 1, Arrivals(tuple(place / 20 for place in range(80))))
BATCH = Load("decode/tiny/batch=4", ((32, 32),) * 4, 1)


def launch(load, policy=POLICY, loss=0.0, slo=None, **options):
    spec = EngineSpec("fake", "tiny", options=options, planted_loss=loss)
    terms = {"arm": "candidate", "index": 0, "cores": None, "quantiles": (0.5, 0.9), "slo": slo}
    return run_launch(spec, [load], policy, **terms).cases[load.case]


def test_a_closed_loop_has_the_metrics_of_its_window():
    """Those of the simulated engine's model, once a launch; its peak of memory is that of all its places at once."""
    case = launch(CLOSED, knee=1e9, level=1000, prefill_level=1e12, memory_bytes=1000, memory_bytes_per_token=1)
    assert case.void is None
    assert case.values["output_throughput"] == pytest.approx((8000,), rel=0.02)
    assert case.values["request_throughput"] == pytest.approx((400,), rel=0.02)
    assert case.values["mean_concurrency"] == pytest.approx((8,), rel=0.01)
    assert case.values["median_ttft_ms"] == pytest.approx((1,), rel=0.01)
    assert case.values["p90_e2el_ms"] == pytest.approx((20,), rel=0.01)
    assert case.values["peak_memory_bytes"] == (1000 + 8 * 52,)
    assert case.values["startup_s"] == (0.5,)
    assert "a closed loop offers no rate" in case.unmeasured["achieved_rate_share"]


def test_an_open_loop_tells_its_rate_and_who_met_the_limits():
    """All of it where the engine is quick, none of it where no answer can be."""
    good = launch(OPEN, slo=Slo(ttft_ms=50))
    assert good.values["achieved_rate_share"] == pytest.approx((1,), rel=0.05)
    assert good.values["request_goodput"] == pytest.approx(good.values["request_throughput"], rel=0.05)
    bad = launch(OPEN, slo=Slo(ttft_ms=0.001))
    assert "none of" in bad.unmeasured["request_goodput"]


def test_a_load_that_saturates_its_engine_has_a_throughput_and_no_latencies():
    """They would say how long one looked."""
    many = replace(OPEN, lengths=OPEN.lengths * 5, arrivals=Arrivals(tuple(place / 100 for place in range(400))))
    case = launch(many, replace(POLICY, answer_limit_s=600), level=100, knee=4, max_running=8)
    assert case.values["output_throughput"] < (600,)
    assert "saturated" in case.unmeasured["median_ttft_ms"]


def test_rounds_of_traffic_are_values_one_after_the_other():
    """As many as the policy says, with other prompts each."""
    case = launch(CLOSED, replace(POLICY, rounds=3), noise=0.02, seed=1)
    assert len(set(case.values["output_throughput"])) == 3
    assert len(case.values["startup_s"]) == 1


def test_a_planted_loss_takes_its_share():
    """Of a closed loop's throughput, and an open loop's answers take longer by it."""
    plain, slowed = launch(CLOSED), launch(CLOSED, loss=0.2)
    ratio = slowed.values["output_throughput"][0] / plain.values["output_throughput"][0]
    assert ratio == pytest.approx(0.8, rel=0.01)
    plain, slowed = launch(OPEN), launch(OPEN, loss=0.2)
    assert slowed.values["median_e2el_ms"][0] > 1.24 * plain.values["median_e2el_ms"][0]


@pytest.mark.parametrize(
    ("fault", "guard", "says"),
    [
        ("refuses", "errors", "requests failed, the first of them: the fake engine was told to refuse"),
        ("short", "answers", "answers have other than the tokens asked for, the first of them 19 of 20"),
        ("caches", "cached", "prompt tokens came from a cache, and they share none"),
        ("preempts", "preempted", "put requests off"),
        ("restarts", "restarted", "started anew in the middle"),
    ],
)
@pytest.mark.parametrize("load", [CLOSED, OPEN], ids=["closed", "open"])
def test_what_disturbs_a_round_voids_it_and_is_named(load, fault, guard, says):
    """It is repeated, and then the case is void; no number is left."""
    case = launch(load, fault=fault)
    assert {one.guard for one in case.void_rounds} == {guard}
    assert len(case.void_rounds) == 2
    assert case.values == {}
    assert says in case.void


def test_each_repetition_is_told_with_the_reason():
    """The tries of a round, but for its first: they may last for minutes."""
    told, spec = [], EngineSpec("fake", "tiny", options={"fault": "short"})
    terms = {"arm": "candidate", "index": 0, "cores": None, "quantiles": (), "retrying": lambda *one: told.append(one)}
    run_launch(spec, [CLOSED], replace(POLICY, void_retries=2), **terms)
    assert [one[1:] for one in told] == [(2, 3), (3, 3)]
    assert all("have other than the tokens asked for" in reason for reason, _, _ in told)


def test_parts_of_several_tokens_are_noted():
    """Their gaps are of parts, and the time per token is right in spite of it."""
    whole = launch(CLOSED)
    case = launch(CLOSED, fault="coalesces", fault_every=1)
    assert any("itl_ms is between parts" in note for note in case.notes)
    assert case.values["median_e2el_ms"] == pytest.approx(whole.values["median_e2el_ms"], rel=0.01)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (
            {"fault": "raises", "fault_every": 5},
            EngineFailed,
            "failed while sending serve/tiny/concurrency=8, round 1 of 1: the fake",
        ),
        ({"fault": "hangs", "fault_every": 5}, EngineHung, "gave no answer for 5.64 s while sending"),
    ],
)
def test_an_engine_that_can_go_on_no_more_ends_the_launch(options, error, says):
    """With what it was doing."""
    with pytest.raises(error, match=says):
        launch(CLOSED, replace(POLICY, answer_limit_s=2.8), **options)


@pytest.mark.parametrize("load", [CLOSED, OPEN, replace(OPEN, lengths=((8, 4),) * 2, arrivals=Arrivals((0.0, 0.1)))])
def test_a_load_of_which_nothing_is_answered_is_void_by_itself(load):
    """At once, without a second try."""
    spec = EngineSpec("fake", "tiny", options={"fault": "refuses", "fault_every": 1})
    terms = {"arm": "candidate", "index": 0, "cores": None, "quantiles": (0.5,)}
    case = run_launch(spec, [load], POLICY, **terms).cases[load.case]
    assert [one.guard for one in case.void_rounds] == ["unanswered"]
    assert re.match(
        r"round 1 of 1 stayed void: none of \d+ requests was answered; the first that failed: the fake engine was",
        case.void,
    )
    assert case.values == {}


def test_a_load_that_has_no_room_at_once_is_measured_one_by_one():
    """What its peak of memory would be is not known then, with the reason."""
    case = launch(CLOSED, memory_bytes=1, memory_limit_bytes=10, memory_bytes_per_token=1)
    assert case.void is None
    assert "not all was served that was sent at once: 209 bytes" in case.unmeasured["peak_memory_bytes"]


def test_an_engine_of_static_batches_says_that_it_takes_no_traffic(tmp_path, monkeypatch):
    """Where nobody saw it before the launch."""
    install(
        tmp_path,
        "batches",
        """
        from pytest_slmperf.core.engine import EngineFacts, Served

        class Engine:
            def __init__(self, spec): pass
            def start(self): return EngineFacts("1", "simulated", "float32", "random", 4096, 1024)
            def serve(self, batch, *, observe): return Served(1, 2, tuple(one.output_tokens for one in batch))
            def stop(self): pass
        """.replace("\n        ", "\n"),
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    terms = {"arm": "candidate", "index": 0, "cores": None, "quantiles": (0.5,)}
    with pytest.raises(EngineUnavailable, match="batches serves static batches only"):
        run_launch(EngineSpec("batches", "tiny"), [CLOSED], POLICY, **terms)


def test_traffic_and_batches_are_measured_in_one_launch():
    """By the same engine, and neither is in the other's way."""
    spec = EngineSpec("fake", "tiny")
    terms = {"arm": "candidate", "index": 0, "cores": None, "quantiles": (0.5,)}
    cases = run_launch(spec, [CLOSED, BATCH, OPEN], POLICY, **terms).cases
    assert [cases[load.case].void for load in (CLOSED, BATCH, OPEN)] == [None] * 3


@pytest.mark.parametrize(
    ("arrivals", "lengths", "together"),
    [
        (None, 4, 4),
        (Arrivals(concurrency=8), 3, 8),
        (Arrivals((0.0, 1.0, 2.0, 3.0), concurrency=2), 4, 2),
        (Arrivals(tuple(place / 20 for place in range(80))), 80, 21),
        (Arrivals(tuple(place / 1000 for place in range(80))), 80, 64),
        (Arrivals((5.0,)), 1, 1),
    ],
)
def test_a_peak_is_that_of_as_many_requests_as_may_be_under_way(arrivals, lengths, together):
    """All of a batch, the places of a loop, a second's arrivals in the mean."""
    load = at_once(Load("case", ((8, 4),) * lengths, 1, arrivals))
    assert len(load.lengths) == together
    assert load.arrivals is None


def test_a_request_may_take_a_tenth_of_what_an_answer_may():
    """And all of a load as long as is meant to pass beside it, or as its places need at that pace."""
    ask = playing.ask_for(OPEN, POLICY)
    assert (ask.limit_s, playing.answer_limit_s(ask, POLICY)) == (6.0, 60 + 79 / 20)
    ask = playing.ask_for(CLOSED, replace(POLICY, observed_requests=100), least_s=7)
    assert (ask.window_s, ask.requests) == (7, 200)
    assert playing.answer_limit_s(ask, POLICY) == 60 + 7 + (2 + 25) * 6


def test_a_percentile_has_what_each_round_alone_tells_of_it():
    """One interval beside each value, around it; gaps of one request are alike, so a round tells none of them."""
    case = launch(CLOSED, replace(POLICY, rounds=2), noise=0.02, seed=1)
    assert case.intervals.keys() == {
        f"{statistic}_{name}_ms" for statistic in ("median", "p90") for name in ("ttft", "tpot", "e2el")
    }
    for name, bounds in case.intervals.items():
        assert all(low <= value <= high for (low, high), value in zip(bounds, case.values[name], strict=True))


def test_rounds_that_tell_no_interval_are_told_apart():
    """They keep their places, and a metric that none bounds is left out."""
    told = [TrafficMetrics({}, {}, intervals=of) for of in ({"p90_ttft_ms": (1.0, 2.0)}, {})]
    assert playing.intervals_of(told, ["p90_ttft_ms", "p99_ttft_ms"]) == {"p90_ttft_ms": ((1.0, 2.0), None)}


@pytest.mark.parametrize(("gated", "guard"), [(set(), "sender"), ({"output_throughput"}, None)])
def test_how_late_a_sender_may_be_hangs_on_what_is_gated(gated, guard):
    """A lateness of 5 ms is much of a first token's 10 ms, and little of a whole answer's 400."""
    ms = 1_000_000
    answers = [
        Exchange(at, at, at + 400 * ms, tuple(at + (10 + 10 * step) * ms for step in range(40)), 32, 40, 40)
        for place in range(4)
        for at in range(100 * place * ms, 6_000 * ms, 400 * ms)
    ]
    sender = Sender(0.1, 6.0, (0.1,) * 98 + (5.0, 5.0))
    traffic = Traffic(tuple(sorted(answers, key=lambda one: one.due_ns)), 0, 5_900 * ms, sender=sender)
    load = replace(CLOSED, arrivals=Arrivals(concurrency=4))
    policy = replace(POLICY, gated=frozenset(gated))
    judged = playing.judged(traffic, load, policy, slo=None, quantiles=(0.5,))
    assert (judged.void.guard if judged.void else None) == guard


def test_traffic_without_a_window_is_void():
    """Nothing is counted of what was never steady."""
    one = Exchange(due_ns=0, sent_ns=0, ended_ns=10, chunk_ns=(10,), prompt_tokens=8, output_tokens=1, asked_tokens=1)
    judged = playing.judged(Traffic((one,), 0, 0, sender=Sender(0.0, 1.0)), OPEN, POLICY, slo=None, quantiles=())
    assert isinstance(judged.window, NoWindow)
    assert judged.void
    assert judged.metrics.values == {}
    assert judged.work == ()
