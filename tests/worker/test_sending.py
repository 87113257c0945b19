"""Traffic is sent when it is due, waited for to its end, and told as it was."""

import asyncio
import gc
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from pytest_slmperf.core.engine import Answer, EngineFacts, EngineSpec
from pytest_slmperf.core.errors import EngineFailed, RequestFailed
from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.load.prompts import Prompts
from pytest_slmperf.core.load.traffic import RUNNING, Arrivals
from pytest_slmperf.core.protocol import Play
from pytest_slmperf.engines import fake
from pytest_slmperf.engines.streaming import Streaming
from pytest_slmperf.worker.alarm import Alarm
from pytest_slmperf.worker.sending import HOPELESS, play

CLOSED = Play(Load("case", ((32, 20),) * 64, 1, Arrivals(concurrency=4)), window_s=2.0, requests=10, limit_s=30.0)


def open_loop(due_s, concurrency=None, **load):
    due_s = tuple(due_s)
    lengths = load.pop("lengths", ((32, 20),) * len(due_s))
    return replace(CLOSED, load=Load("case", lengths, 1, Arrivals(due_s, concurrency)))


def sent(engine, ask, *, loss=0.0):
    engine.start()
    try:
        return play(engine, ask, Prompts(vocabulary=1024, seed=ask.load.seed), loss=loss)
    finally:
        engine.stop()


def on_fake(ask, *, loss=0.0, **options):
    return sent(fake.create(EngineSpec("fake", "tiny", options=options)), ask, loss=loss)


def under_way(traffic):
    """How many requests are under way after each change, and when."""
    ends = [(one.ended_ns, -1) for one in traffic.exchanges]
    changes = sorted([*ends, *((one.sent_ns, 1) for one in traffic.exchanges)])
    now, found = 0, []
    for at_ns, change in changes:
        now += change
        found.append((at_ns, now))
    return found


def test_a_closed_loop_has_as_many_under_way_as_it_says():
    """At any time until it drains: as one ends the next is sent."""
    traffic = on_fake(CLOSED)
    before_drain = [now for at_ns, now in under_way(traffic) if at_ns < traffic.last_sent_ns]
    assert max(before_drain) == 4
    assert min(before_drain[4:]) >= 3
    first = traffic.exchanges[:4]
    later = {one.sent_ns for one in traffic.exchanges[4:]}
    assert {one.ended_ns for one in first} <= later


def test_a_closed_loops_first_answers_are_cut_to_lengths_evenly_spread():
    """Or requests of one length would march in step for ever; all others are as long as they were asked for."""
    exchanges = on_fake(replace(CLOSED, load=replace(CLOSED.load, arrivals=Arrivals(concurrency=10)))).exchanges
    assert sorted(one.asked_tokens // 2 for one in exchanges[:10]) == pytest.approx(range(10), abs=1)
    assert {one.asked_tokens for one in exchanges[10:]} == {20}
    assert [one.output_tokens for one in exchanges] == [one.asked_tokens for one in exchanges]


def test_a_closed_loop_lasts_as_long_as_asked_once_every_place_was_taken_again():
    """And until it has sent as many as are wanted."""
    traffic = on_fake(CLOSED)
    again_ns = max(one.ended_ns for one in traffic.exchanges[:4])
    assert (traffic.last_sent_ns - again_ns) / 1e9 == pytest.approx(2, abs=0.1)
    few = on_fake(replace(CLOSED, window_s=0.001, requests=33))
    again_ns = max(one.ended_ns for one in few.exchanges[:4])
    assert sum(one.sent_ns > again_ns for one in few.exchanges) == 33


@pytest.mark.parametrize("loss", [0.05, 0.2, 1 / 3])
def test_a_slowed_clock_never_wakes_before_a_request_is_due(loss):
    """Times that no factor divides evenly are reached in simulated time, too."""
    traffic = on_fake(open_loop([place * 0.0123457 for place in range(50)]), loss=loss)
    assert all(0 <= one.sent_ns - one.due_ns < 10 for one in traffic.exchanges)


def test_an_open_loop_sends_each_request_when_it_is_due_however_slow_the_engine():
    """Nothing waits for an answer, and nothing drifts."""
    due_s = [place * 0.05 for place in range(40)]
    traffic = on_fake(open_loop(due_s), level=10)
    assert [(one.due_ns - traffic.began_ns) / 1e9 for one in traffic.exchanges] == pytest.approx(due_s)
    assert max(one.sent_ns - one.due_ns for one in traffic.exchanges) < 1000
    assert max(now for _, now in under_way(traffic)) == 40
    assert traffic.last_sent_ns < min(one.ended_ns for one in traffic.exchanges)


def test_who_finds_no_place_below_the_limit_queues_and_its_wait_is_told():
    """It is due when a place is free; no more than the limit are ever under way."""
    traffic = on_fake(open_loop([0.0, 0.0, 0.01, 0.02], concurrency=2), knee=1e9, prefill_level=1e12)
    assert max(now for _, now in under_way(traffic)) == 2
    assert [one.queued_ns / 1e6 for one in traffic.exchanges] == pytest.approx([0, 0, 10, 0], abs=0.01)
    assert traffic.exchanges[2].due_ns == min(one.ended_ns for one in traffic.exchanges)


def test_requests_due_in_one_moment_are_sent_in_it():
    """A burst is a burst."""
    traffic = on_fake(open_loop([0.1] * 50))
    assert {one.sent_ns for one in traffic.exchanges} == {traffic.exchanges[0].sent_ns}


def test_each_part_of_an_answer_is_stamped_with_its_tokens():
    """In order, and the last one ends the request."""
    one = on_fake(open_loop([0.0]), fault="coalesces", fault_every=1).exchanges[0]
    assert one.chunk_tokens == (4, 4, 4, 4, 4)
    assert all(before < after for before, after in pairwise((one.sent_ns, *one.chunk_ns)))
    assert one.ended_ns == one.chunk_ns[-1]


def test_a_loss_stretches_everything_that_the_engine_does_and_nothing_that_is_due():
    """An open loop keeps its rate, and its answers take twice as long under a loss of a half."""
    ask = open_loop([place * 0.05 for place in range(40)])
    plain, slowed = on_fake(ask), on_fake(ask, loss=0.5)
    assert [one.due_ns - plain.began_ns for one in plain.exchanges] == pytest.approx(
        [one.due_ns - slowed.began_ns for one in slowed.exchanges], abs=10
    )
    lasted = [[one.ended_ns - one.sent_ns for one in traffic.exchanges] for traffic in (plain, slowed)]
    assert lasted[1] == pytest.approx([2 * one for one in lasted[0]], rel=0.01)


@pytest.mark.parametrize("loss", [0.1, 0.5, 0.8])
def test_a_loss_takes_its_share_of_a_closed_loops_throughput(loss):
    """Also of an engine that is busy anyway."""
    rates = []
    for share in (0.0, loss):
        traffic = on_fake(replace(CLOSED, window_s=20), knee=0.01, level=20_000, loss=share)
        steady = [one for one in traffic.exchanges[20:] if one.sent_ns < traffic.last_sent_ns]
        rates.append((len(steady) - 1) / (steady[-1].sent_ns - steady[0].sent_ns))
    assert rates[1] / rates[0] == pytest.approx(1 - loss, rel=0.02)


def test_a_request_that_fails_is_told_and_the_others_go_on():
    """A closed loop gives its place to the next a moment later."""
    traffic = on_fake(CLOSED, fault="refuses", fault_every=5)
    failed = [one for one in traffic.exchanges if one.error]
    assert {one.error for one in failed} == {"the fake engine was told to refuse this request"}
    assert len(failed) == len(traffic.exchanges) // 5
    assert all(one.output_tokens == 0 and one.chunk_ns == () for one in failed)


def test_where_nothing_is_answered_no_more_is_sent():
    """After a few requests, not after all; each says why it failed."""
    closed = on_fake(CLOSED, fault="refuses", fault_every=1)
    refused = [one for one in closed.exchanges if "refuse" in one.error]
    given_up = [one for one in closed.exchanges if "given up" in one.error]
    assert HOPELESS == len(refused) == len(closed.exchanges) - len(given_up)
    assert all(one.ended_ns >= one.sent_ns > 0 for one in closed.exchanges)
    few = on_fake(open_loop([0.0, 0.1]), fault="refuses", fault_every=1)
    assert ["refuse" in one.error for one in few.exchanges] == [True, True]


@pytest.mark.parametrize(("fault", "error"), [("raises", EngineFailed), ("memory", MemoryError)])
def test_an_engine_that_fails_ends_the_load(fault, error):
    """What it raised is raised, and nothing more is sent."""
    with pytest.raises(error, match="the fake engine was told to"):
        on_fake(CLOSED, fault=fault, fault_every=7)


def test_an_answer_that_takes_too_long_has_failed():
    """Within its limit and one look more; what it had sent is kept."""
    traffic = on_fake(replace(open_loop([0.0, 1.0], lengths=((8, 100), (8, 1))), limit_s=5.0), level=10, knee=1e9)
    slow, quick = traffic.exchanges
    assert slow.error == "no whole answer within 5 s"
    assert 5 <= (slow.ended_ns - slow.sent_ns) / 1e9 <= 5.6
    assert 50 <= len(slow.chunk_ns) <= 56
    assert not quick.error


def test_what_the_engine_says_of_itself_is_looked_at_twice_a_second():
    """Before, during and after."""
    looks = on_fake(CLOSED).looks
    assert [(after.at_ns - before.at_ns) / 1e9 for before, after in pairwise(looks)][:-1] == pytest.approx(
        [0.5] * (len(looks) - 2), abs=0.01
    )
    assert [look.counters[RUNNING] for look in (looks[0], looks[2], looks[-1])] == [0, 4, 0]


def test_an_engine_that_says_nothing_has_no_looks():
    """And one whose numbers can't be had for a moment serves on."""

    class Silent(Quick):
        async def counters(self):
            raise RequestFailed("HTTP 404")

    assert sent(Quick(), open_loop([0.0])).looks == ()
    assert sent(Silent(), open_loop([0.0])).looks == ()


class Quick(Streaming):
    """Answers in real time, at once."""

    def __init__(self):
        super().__init__()
        self.collected = []

    def start(self):
        return EngineFacts("1", "cpu", "float32", "random", 64, 1024)

    async def stream(self, request, stamp):
        self.collected.append(gc.isenabled())
        await asyncio.sleep(0)
        stamp(0)
        return Answer(request.output_tokens, len(request.prompt))

    def stop(self):
        self.disconnect()


@pytest.mark.alone
def test_requests_are_sent_on_time_in_real_time():
    """Half of them within a fifth of a millisecond: timers of an event loop have whole ones."""
    for _ in range(20):  # other programs can only make a request later
        traffic = sent(Quick(), open_loop([place * 0.0037 for place in range(50)]))
        late_ms = sorted((one.sent_ns - one.due_ns) / 1e6 for one in traffic.exchanges)
        assert late_ms[0] >= 0
        if late_ms[25] < 0.2:
            break
    assert late_ms[25] < 0.2


def test_the_sender_tells_how_busy_it_was():
    """Its own processor time, and how late its event loop was, look by look; in simulated time neither."""
    sender = sent(Quick(), open_loop([place * 0.01 for place in range(40)])).sender
    assert 0 < sender.cpu_s < sender.wall_s
    assert 0.39 < sender.wall_s < 5
    assert len(sender.lag_ms) > 5
    assert min(sender.lag_ms) >= 0
    simulated = on_fake(open_loop([0.0, 100.0])).sender
    assert (simulated.cpu_s, simulated.lag_ms) == (0.0, ())
    assert simulated.wall_s < 5


def test_no_garbage_is_collected_while_traffic_is_sent():
    """And afterwards it is again, also where an engine has failed."""
    engine = Quick()
    sent(engine, open_loop([0.0, 0.01]))
    assert engine.collected == [False, False]
    assert gc.isenabled()
    with pytest.raises(EngineFailed):
        on_fake(CLOSED, fault="raises")
    assert gc.isenabled()


def test_tokens_of_parts_are_told_where_the_engine_tells_them():
    """An engine that says 0 leaves them open."""
    one = sent(Quick(), open_loop([0.0])).exchanges[0]
    assert (len(one.chunk_ns), one.chunk_tokens, one.output_tokens) == (1, (), 20)


def test_a_load_that_is_sent_again_has_other_prompts():
    """A prefix cache must not know them: the prompts of a launch go on."""
    engine = fake.create(EngineSpec("fake", "tiny"))
    engine.start()
    prompts, seen = Prompts(vocabulary=1024, seed=1), []
    stream = engine.stream

    class Noting(Quick):
        async def stream(self, request, stamp):
            seen.append(request.prompt)
            return await stream(request, stamp)

        def event_loop(self):
            return engine.event_loop()

    noting = Noting()
    for _ in range(2):
        play(noting, open_loop([0.0, 0.0, 0.5]), prompts)
    noting.stop()
    assert len({prompt[:2] for prompt in seen}) == len(seen) == 6


def test_an_alarm_rings_at_its_instant():
    """Not before, and at once where it has passed."""
    rung = []

    async def ring():
        done = asyncio.get_running_loop().create_future()
        due_ns = [time.monotonic_ns() + 10_000_000]

        def heard():
            rung.append(time.monotonic_ns() - due_ns[-1])
            due_ns.append(time.monotonic_ns() - 5_000_000)
            alarm.at(due_ns[-1])
            if len(rung) == 2:
                done.set_result(None)

        alarm = Alarm(asyncio.get_running_loop(), heard)
        alarm.at(due_ns[-1])
        await asyncio.wait_for(done, 5)
        alarm.close()

    asyncio.run(ring())
    assert rung[0] >= 0
    assert rung[1] >= 5_000_000
