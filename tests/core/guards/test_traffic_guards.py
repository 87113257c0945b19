"""What voids a round of traffic, and what is only told of it."""

from dataclasses import replace

import pytest
from queueing import S, exchange, traffic_of

from pytest_slmperf.core.devices.board import Effect
from pytest_slmperf.core.guards.traffic import judge_traffic, latencies_at_stake
from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.load.traffic import (
    CACHED_TOKENS,
    FRONT_END,
    PREEMPTIONS,
    QUERIED_TOKENS,
    STARTED_AT,
    Arrivals,
    Look,
    Sender,
    Traffic,
)
from pytest_slmperf.core.load.window import NoWindow, Window

MS = S // 1000
LOAD = Load("case", ((10, 4),), 0, Arrivals(concurrency=4))
WINDOW = Window(2 * S, 10 * S)
TOLD = {PREEMPTIONS: 3.0, CACHED_TOKENS: 0.0, QUERIED_TOKENS: 500.0, STARTED_AT: 17.0}
IDLE = Sender(1.0, 12.0, (0.1,) * 100)
LOOKS = tuple(Look(at * S, TOLD) for at in range(13))


def requests(**fields):
    """One every 10 ms, from 0 to 12 s, the first token of each after 20 ms."""
    return [exchange(at, at, at + 80 * MS, **fields) for at in range(0, 12 * S, 10 * MS)]


def round_of(exchanges, *, looks=LOOKS, sender=IDLE):
    return traffic_of(exchanges, looks=looks, sender=sender)


def voids(traffic, window=WINDOW, load=LOAD):
    """The reasons of the findings that void it, by their guards."""
    return {one.guard: one.reason for one in judge_traffic(traffic, window, load) if one.effect is Effect.VOID}


def changed(place, **fields):
    """All requests, one of them different."""
    made = requests()
    return [*made[:place], replace(made[place], **fields), *made[place + 1 :]]


def counting(name, values):
    """Looks at one counter that has these values, second by second."""
    return tuple(Look(at * S, {**TOLD, name: value}) for at, value in enumerate(values))


def test_an_undisturbed_round_has_nothing_to_be_said():
    """Neither void nor a note."""
    assert judge_traffic(round_of(requests()), WINDOW, LOAD) == ()


def test_a_failed_request_of_the_window_voids_it_by_its_first_error():
    """With how many there were."""
    made = changed(500, error="HTTP 503: overloaded")
    made[600] = replace(made[600], error="reset")
    assert voids(round_of(made)) == {"errors": "2 of 808 requests failed, the first of them: HTTP 503: overloaded"}


def test_a_request_that_was_sent_before_and_fails_within_the_window_voids_it():
    """The engine worked for it in place of others."""
    assert "errors" in voids(round_of(changed(100, error="timed out", ended_ns=5 * S)))


@pytest.mark.parametrize("place", [3, 1100])
def test_a_request_that_failed_before_or_after_the_window_is_not_its(place):
    """Ramp-up and drain don't count."""
    assert voids(round_of(changed(place, error="reset"))) == {}


def test_answers_of_other_lengths_than_asked_for_void_it():
    """It was other work than that of the baseline."""
    found = voids(round_of(changed(500, output_tokens=2)))
    assert found["answers"] == "1 of 800 answers have other than the tokens asked for, the first of them 2 of 4"


@pytest.mark.parametrize(
    ("late_ms", "first_token_ms", "void"), [(1.9, 1, False), (2.1, 1, True), (4.9, 100, False), (5.1, 100, True)]
)
def test_late_sends_void_it_beyond_2_ms_and_a_twentieth_of_the_first_tokens_time(late_ms, first_token_ms, void):
    """One per cent of them may be later; what is sent so late finds another engine than it should have."""
    made = []
    for at in range(0, 12 * S, 10 * MS):
        sent_ns = at + int(late_ms * MS)
        one = exchange(sent_ns, sent_ns, sent_ns + 4 * first_token_ms * MS)
        made.append(replace(one, due_ns=at))
    assert ("late" in voids(round_of(made))) is void


def test_a_wait_for_a_place_is_no_lateness():
    """It was due when the place was free."""
    made = [exchange(at, at, at + MS, arrived_ns=at - S) for at in range(S, 12 * S, 10 * MS)]
    assert voids(round_of(made)) == {}


@pytest.mark.parametrize(
    ("sender", "reason"),
    [
        (Sender(11.0, 12.0), "used 92% of a core"),
        (Sender(1.0, 12.0, (0.1,) * 98 + (30.0, 30.0)), "was late by 30 ms"),
    ],
)
def test_a_sender_at_its_own_limit_voids_it(sender, reason):
    """What comes in is stamped when it has the time to, and not when it came."""
    assert reason in voids(round_of(requests(), sender=sender))["sender"]


def test_a_sender_that_is_late_by_a_part_of_a_token_is_told():
    """A first token of 400 ms hides 10 ms, and a gap of 20 ms doesn't; its median and the time per token do."""
    steps = [exchange(at, at + 380 * MS, at + 460 * MS) for at in range(0, 12 * S, 10 * MS)]
    (found,) = judge_traffic(round_of(steps, sender=lagging(10.0)), WINDOW, LOAD)
    assert (found.guard, found.effect) == ("sender", Effect.NOTE)
    assert "percentiles of itl_ms hold" in found.reason


def lagging(by_ms):
    """A sender whose event loop is so late once in a hundred looks, and a bit more."""
    return Sender(1.0, 12.0, (0.1,) * 98 + (by_ms,) * 2)


def quick_to_begin():
    """First tokens after 10 ms, 300 ms from the first to the last one."""
    return [exchange(at, at - 90 * MS, at + 310 * MS) for at in range(S, 12 * S, 10 * MS)]


@pytest.mark.parametrize(
    ("gated", "quantiles", "allowed_ms"),
    [
        ((), (0.5,), 2.0),
        (("median_ttft_ms", "output_throughput"), (0.5,), 2.0),
        (("goodput_share",), (0.5,), 2.0),
        (("output_throughput",), (0.5, 0.9), 2.0),
        (("output_throughput", "median_tpot_ms"), (0.5,), 15.0),
        (("median_tpot_ms",), (0.5,), 15.0),
        (("output_throughput",), (0.5,), 15.5),
        (("peak_memory_bytes", "median_e2el_ms"), (0.5,), 15.5),
    ],
)
def test_how_late_a_sender_may_be_hangs_on_what_is_judged(gated, quantiles, allowed_ms):
    """A twentieth of the shortest time that it spoils: whoever judges throughput alone asks of no first token."""
    made, stake = quick_to_begin(), latencies_at_stake(gated, quantiles)
    for by_ms, void in ((allowed_ms - 0.1, False), (allowed_ms + 0.1, True)):
        found = judge_traffic(round_of(made, sender=lagging(by_ms)), WINDOW, LOAD, at_stake=stake)
        assert ({one.guard for one in found if one.effect is Effect.VOID} == {"sender"}) is void, by_ms


def test_a_lateness_that_first_tokens_hold_is_told_where_they_are_not_judged():
    """Their medians don't hold it, and nobody who reads a percentile of them is left in the dark."""
    stake = latencies_at_stake(("output_throughput",), (0.5,))
    (found,) = judge_traffic(round_of(quick_to_begin(), sender=lagging(10.0)), WINDOW, LOAD, at_stake=stake)
    assert (found.guard, found.effect) == ("sender", Effect.NOTE)
    assert "percentiles of ttft_ms and itl_ms hold" in found.reason


@pytest.mark.parametrize(("arrivals", "void"), [(Arrivals(concurrency=4), False), (Arrivals((0.0, 1.0)), True)])
def test_a_late_send_is_a_share_of_a_first_token_where_requests_have_times_of_their_own(arrivals, void):
    """A place of a closed loop is empty meanwhile, of which throughput alone hangs on the time of whole answers."""
    stake = latencies_at_stake(("output_throughput",), (0.5,))
    made = [replace(one, due_ns=one.due_ns - 5 * MS) for one in quick_to_begin()]
    found = judge_traffic(round_of(made), WINDOW, replace(LOAD, arrivals=arrivals), at_stake=stake)
    assert ("late" in {one.guard for one in found if one.effect is Effect.VOID}) is void


def test_a_prompt_from_a_cache_voids_it_where_none_is_shared():
    """By the answers' own word."""
    found = voids(round_of(requests(cached_tokens=8)))
    assert found["cached"] == "6400 of 8000 prompt tokens came from a cache, and they share none"


def test_a_shared_prefix_may_come_from_a_cache_and_no_more_than_it():
    """What is stated is measured as it is stated."""
    shared = replace(LOAD, shared_prefix_tokens=8)
    assert voids(round_of(requests(cached_tokens=8)), load=shared) == {}
    assert "beyond the prefix" in voids(round_of(requests(cached_tokens=9)), load=shared)["cached"]


def test_the_engines_count_of_cached_tokens_is_looked_at_where_answers_say_nothing():
    """What grew around the window, of what was looked up."""
    looks = tuple(Look(at * S, {**TOLD, CACHED_TOKENS: 5.0 * at, QUERIED_TOKENS: 100.0 * at}) for at in range(13))
    assert voids(round_of(requests(), looks=looks))["cached"].startswith("45 of 900 prompt tokens")


@pytest.mark.parametrize(
    ("counts", "void"),
    [([0, 0, 0] + [1] * 10, True), ([0] + [7] * 12, False), ([0] * 11 + [7, 7], False), ([0] * 10 + [7] * 3, True)],
)
def test_preemptions_void_it_where_they_may_have_been_within_the_window(counts, void):
    """Between the last look before it and the first one after."""
    assert ("preempted" in voids(round_of(requests(), looks=counting(PREEMPTIONS, counts)))) is void


@pytest.mark.parametrize(
    "looks",
    [counting(STARTED_AT, [17] * 6 + [18] * 7), counting(CACHED_TOKENS, [9] * 6 + [0] * 7)],
)
def test_a_server_that_was_started_anew_voids_it(looks):
    """By its own word, or since a count that only grows is smaller than before."""
    assert "started anew" in voids(round_of(requests(), looks=looks))["restarted"]


def test_a_front_end_at_its_limit_is_told_and_voids_nothing():
    """By the looks that tell of the window alone: no measurement erred, and an engine's change may hide behind it."""
    loads = [0.3] * 3 + [0.97] * 7 + [0.3] * 3
    (note,) = judge_traffic(round_of(requests(), looks=counting(FRONT_END, loads)), WINDOW, LOAD)
    assert (note.guard, note.effect) == ("front end", Effect.NOTE)
    assert note.reason.startswith("its front end used 97% of a core")
    loads[5] = 0.7
    assert judge_traffic(round_of(requests(), looks=counting(FRONT_END, loads)), WINDOW, LOAD) == ()


def test_where_there_is_no_window_that_is_the_last_of_the_reasons():
    """A server that fails every request leaves no steady state, either: the failure is what helps."""
    found = voids(round_of(changed(500, error="reset")), NoWindow("its rate of output still changes"))
    assert list(found) == ["errors", "unsteady"]
    assert found["unsteady"] == "its rate of output still changes"


def test_what_an_engine_does_not_count_is_told_and_voids_nothing():
    """Nobody may read from an unvoided round that there was none of it."""
    (note,) = judge_traffic(round_of(requests(), looks=()), WINDOW, LOAD)
    assert note.effect is Effect.NOTE
    assert note.reason == (
        "the engine doesn't let see preemptions, whether prompts came from a cache, whether it was started anew"
    )


def test_nothing_sent_is_judged_without_a_fault():
    """It has no window, and that is all."""
    assert list(voids(Traffic((), 0, 0, LOOKS), NoWindow("nothing was sent"))) == ["unsteady"]


def test_who_was_too_busy_to_read_is_named_before_what_came_too_late_for_it():
    """The answers may all have been in time."""
    late = changed(300, error="no whole answer within 3 s")
    assert list(voids(round_of(late, sender=Sender(11.5, 12.0)))) == ["sender", "errors"]


def test_where_nothing_was_answered_the_first_failure_is_told():
    """And not what was given up for it, though that was sent before."""
    one, two = (replace(each, chunk_ns=(), error="given up") for each in requests()[:2])
    seen = voids(round_of([one, replace(two, ended_ns=one.ended_ns - 1, error="HTTP 503")]))
    assert seen["unanswered"] == "none of 2 requests was answered; the first that failed: HTTP 503"
