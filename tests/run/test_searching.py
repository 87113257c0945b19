"""A search on an engine: its probes are one load at other rates, and its answer is that of all places tried."""

import functools
import math
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import RoundPolicy
from pytest_slmperf.core.load.prompts import Prompts
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.sweeps.search import Search
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.core.sweeps.workload import ClosedLoop, OpenLoop, Uniform
from pytest_slmperf.engines import fake
from pytest_slmperf.run.launch import run_launch
from pytest_slmperf.run.loads import load_of
from pytest_slmperf.run.searching import ask_for, judged, load_at, search, values_of
from pytest_slmperf.worker.sending import play

POLICY = RoundPolicy(rounds=1, traffic_s=5.0, observed_requests=100, void_retries=1, answer_limit_s=600)
SLO = Slo(e2el_ms=500)
SLOW = {"level": 100, "knee": 4}
"""Options of an engine that serves some 11 requests of 16 tokens a second in time."""
OPEN = OpenLoop(Uniform(8, 16), 16)
HOW = Search(4, 32)


def load(workload=OPEN, how=HOW, policy=POLICY):
    axis = {"concurrency" if isinstance(workload, ClosedLoop) else "request_rate": how}
    sweep = Sweep("capacity", workload, slo=SLO, **axis)
    (case,) = sweep.cases(["m"])
    return load_of(sweep, case, 4096, policy)[0]


class Sent:
    """Probes of a started engine."""

    def __init__(self, slo=SLO, **options):
        self.slo, self.probes = slo, []
        self.engine = fake.create(EngineSpec("fake", "tiny", options={**SLOW, **options}))
        self.engine.start()
        self._prompts = Prompts(vocabulary=1024, seed=1)

    def close(self):
        self.engine.stop()

    def __call__(self, place, ask):
        return self.probed(place, ask).probe

    def probed(self, place, ask):
        self.traffic = play(self.engine, ask, self._prompts)
        one = judged(self.traffic, place, ask, POLICY)
        self.probes.append(one)
        return one

    def search(self, what):
        return search(what, POLICY, self.slo, self)


@pytest.fixture
def on_engine():
    """Starts engines to send probes to."""
    with ExitStack() as started:

        def start(*args, **options):
            return started.enter_context(closing(Sent(*args, **options)))

        yield start


def test_every_rate_sends_the_same_requests_in_the_same_pattern():
    """Half of them in a window that is long enough, with as many as are needed."""
    whole = load()
    fast, slow = load_at(whole, 32, POLICY), load_at(whole, 4, POLICY)
    assert fast == whole
    assert slow.lengths == whole.lengths[: len(slow.lengths)]
    both = zip(slow.arrivals.due_s, fast.arrivals.due_s, strict=False)
    assert all(math.isclose(late, 8 * early, abs_tol=1e-8) for late, early in both)
    for place in (4, 9.7, 20, 32):
        due_s = load_at(whole, place, POLICY).arrivals.due_s
        window_s = max(5.0, 100 / place)
        assert sum(at >= window_s for at in due_s) >= 100
        assert window_s < due_s[-1] < 3 * window_s


def test_users_are_as_many_as_the_place_says():
    """Of the same requests."""
    whole = load(ClosedLoop(8, 8), Search(1, 40))
    assert load_at(whole, 7, POLICY) == replace(whole, arrivals=replace(whole.arrivals, concurrency=7))


@functools.cache
def first_that_misses():
    """Of all places, a hundredth apart."""
    with closing(Sent()) as sent:
        places = (9 * 1.01**step for step in range(100))
        return next(place for place in places if not sent(place, ask_for(load(), place, POLICY, SLO)).met)


@pytest.mark.parametrize("begin", [None, 6.0, 13.0])
def test_it_finds_what_all_places_tried_would_tell(begin, on_engine):
    """On a queue in simulated time: within what it was asked for of the first place of a fine sweep that misses."""
    whole, sent = load(), on_engine()
    found = values_of(whole, sent.search(replace(whole, begin=begin)))[0]["highest_request_rate"]
    assert found == pytest.approx((first_that_misses(),), rel=0.03)
    assert len(sent.probes) <= 10


def test_where_a_queue_has_one_server_the_answer_is_that_of_theory(on_engine):
    """Of M/D/1, which serves one request at a time: where 90 % of the waits and services keep the limit."""
    service_s, limit_s = 0.05, 0.2
    how = Search(2, 19.9, share=0.9)
    policy = replace(POLICY, traffic_s=60.0)
    whole = load(OpenLoop(16, 5), how, policy)
    engine = on_engine(Slo(e2el_ms=1000 * limit_s), level=100, prefill_level=1e12, max_running=1)
    probes = search(whole, policy, engine.slo, engine)
    truth = next(rate for rate in (step / 100 for step in range(200, 2000)) if in_time(rate, service_s, limit_s) < 0.9)
    assert values_of(whole, probes)[0]["highest_request_rate"][0] == pytest.approx(truth, rel=0.05)


def in_time(rate, service_s, limit_s):
    """The share of an M/D/1 queue that ends within the limit (A. K. Erlang 1909, C. D. Crommelin 1932)."""
    load, wait_s = rate * service_s, limit_s - service_s
    turns = math.floor(wait_s / service_s + 1e-9)
    terms = (
        math.exp(-rate * (turn * service_s - wait_s))
        * (rate * (turn * service_s - wait_s)) ** turn
        / math.factorial(turn)
        for turn in range(turns + 1)
    )
    return (1 - load) * sum(terms)


@pytest.mark.parametrize(("rate", "met"), [(20, True), (25, True), (52, False), (56, False), (62, False), (66, False)])
def test_where_limits_are_loose_what_piles_up_misses(rate, met, on_engine):
    """An engine that does some 48 a second is not said to be at its limit for a burst at the end of fewer."""
    whole, loose = load(OpenLoop(64, 32), Search(8, 100)), Slo(ttft_ms=60_000)
    one = on_engine(loose, knee=16, noise=0.01, seed=1).probed(rate, ask_for(whole, rate, POLICY, loose))
    assert (one.probe.met, one.void) == (met, None)
    assert met or "requests pile up" in one.probe.why


def test_where_limits_are_loose_a_search_finds_the_same_from_anywhere(on_engine):
    """What piles up is measured: launches whose noise differs agree."""
    whole, loose = load(OpenLoop(64, 32), Search(8, 100)), Slo(ttft_ms=2000, tpot_ms=200)
    rates = []
    for seed, begin in ((1, 30.0), (2, 50.0)):
        sent = on_engine(loose, knee=16, noise=0.01, launch_noise=0.002, seed=seed)
        rates += values_of(whole, sent.search(replace(whole, begin=begin)))[0]["highest_request_rate"]
    assert rates[0] == pytest.approx(rates[1], rel=0.03)


def test_what_misses_surely_ends_early(on_engine):
    """Long before all is sent, and nothing is given up that is under way: the next probe finds the engine idle."""
    whole, sent = load(), on_engine()
    ask = ask_for(whole, 32, POLICY, SLO)
    assert not sent(32, ask).met
    assert sent.traffic.given_up
    assert len(sent.traffic.exchanges) < 0.6 * len(ask.load.lengths)
    assert not any(one.error for one in sent.traffic.exchanges)
    assert not sent.probes[-1].void
    assert "requests had missed a limit by then" in sent.probes[-1].probe.why


def test_what_is_told_early_is_told_at_the_end(on_engine):
    """A probe that goes on to its end misses, too."""
    whole, sent = load(), on_engine()
    for place in (10, 12, 14, 20, 28):
        early = sent(place, ask_for(whole, place, POLICY, SLO))
        if sent.traffic.given_up:
            late = sent(place, replace(ask_for(whole, place, POLICY, SLO), may_miss=10**6))
            assert (early.met, late.met) == (False, False)


@pytest.mark.parametrize(("fault", "place", "guard"), [("refuses", 5, "errors"), ("short", 5, "answers")])
def test_a_probe_that_would_meet_is_void_as_any_round(fault, place, guard, on_engine):
    """A request that fails is never a fast one."""
    sent = on_engine(fault=fault, fault_every=150)
    one = sent.probed(place, ask_for(load(), place, POLICY, SLO))
    assert one.void.guard == guard


def test_an_engine_that_refuses_what_is_too_much_misses(on_engine):
    """That is what it does at such a rate, and no fault of a round."""
    sent = on_engine(fault="refuses", fault_every=20)
    one = sent.probed(20, ask_for(load(), 20, POLICY, SLO))
    assert (one.probe.met, one.void) == (False, None)


def test_an_engine_that_answers_nothing_misses_everywhere(on_engine):
    """And the reason why no place is found is what it said."""
    sent = on_engine(fault="refuses", fault_every=1)
    _, unmeasured, _ = values_of(load(), sent.search(load()))
    assert "requests was answered; the first that failed" in unmeasured["highest_request_rate"]
    assert "told to refuse this request" in unmeasured["highest_request_rate"]


def test_a_probe_without_an_answer_ends_the_search():
    """Nothing is told of a case whose probe stayed void."""
    assert search(load(), POLICY, SLO, lambda _place, _ask: None) is None


def launch(workload=OPEN, how=HOW, **options):
    whole = load(workload, how)
    spec = EngineSpec("fake", "tiny", options={**SLOW, **options})
    terms = {"arm": "candidate", "index": 0, "cores": None, "quantiles": (0.5, 0.99), "slo": SLO}
    return run_launch(spec, [whole], POLICY, **terms).cases[whole.case]


def test_a_launch_comes_to_one_value():
    """Nothing that is of one place is told beside it, and no peak of memory."""
    case = launch()
    assert case.void is None
    assert 9 < case.values["highest_request_rate"][0] < 13
    assert case.values.keys() == {"highest_request_rate", "startup_s"}
    assert "one place after the other" in case.unmeasured["peak_memory_bytes"]


def test_what_lies_outside_is_told_by_a_launch():
    """As a value with a note, or as the reason why there is none."""
    users = launch(ClosedLoop(8, 8), Search(1, 2))
    assert users.values["highest_concurrency"] == (2,)
    assert "highest_concurrency: at least 2, the highest of the search, still meets: search higher" in users.notes
    assert "search lower than 200" in launch(how=Search(200, 300)).unmeasured["highest_request_rate"]
