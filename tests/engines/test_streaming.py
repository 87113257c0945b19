"""What all streaming engines share: batches on top of streams, and one event loop a launch."""

import asyncio
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.engine import Answer, EngineSpec, Request, StreamingEngine
from pytest_slmperf.core.errors import EngineFailed, RequestFailed
from pytest_slmperf.core.load.traffic import CACHED_TOKENS, PREEMPTIONS, QUERIED_TOKENS, RUNNING, STARTED_AT, WAITING
from pytest_slmperf.engines import fake
from pytest_slmperf.engines.simulated_time import clock_of
from pytest_slmperf.engines.streaming import Streaming, each_token


@pytest.fixture
def started():
    engines = []

    def start(**options):
        engine = fake.create(EngineSpec("fake", "tiny", options=options))
        engines.append(engine)
        engine.start()
        return engine

    yield start
    for engine in engines:
        engine.stop()


def streamed(engine, requests):
    """The stamps and answers of requests that are sent at once, and when."""

    async def all_at_once():
        clock = clock_of(asyncio.get_running_loop())
        times = [[] for _ in requests]

        async def one(request, stamps):
            return await engine.stream(request, lambda tokens: stamps.append((clock(), tokens)))

        began_ns = clock()
        answers = await asyncio.gather(*map(one, requests, times), return_exceptions=True)
        return began_ns, times, answers

    return engine.run(all_at_once())


lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=8)


@given(lengths)
def test_a_batch_takes_as_long_streamed_as_served(lengths):
    """The fake engine's two ways follow one model, token by token."""
    engine = fake.create(EngineSpec("fake", "tiny", options={"level": 500, "knee": 3, "prefill_level": 5000}))
    requests = tuple(Request((16,) * prompt, output) for prompt, output in lengths)
    served, on_streams = engine.serve(requests, observe=True), Streaming.serve(engine, requests, observe=True)
    engine.stop()
    assert on_streams.output_tokens == served.output_tokens
    for one, other in zip(served.token_ns, on_streams.token_ns, strict=True):
        expected = [at - served.started_ns for at in one]
        assert [at - on_streams.started_ns for at in other] == pytest.approx(expected, abs=1000)


def test_the_fake_engine_is_one_to_which_traffic_can_be_sent(started):
    """It has all that a streaming engine has."""
    assert isinstance(started(), StreamingEngine)


def test_streams_take_no_time_in_simulated_time_and_theirs_in_real_time(started):
    """A hundred simulated seconds pass at once; with real_time a twentieth of one has passed."""
    began_ns, times, _ = streamed(started(level=1), [Request((16,), 100)])
    assert times[0][-1][0] - began_ns == pytest.approx(100e9, rel=1e-3)
    began_ns, times, _ = streamed(started(level=1000, real_time=True), [Request((16,), 50)])
    assert times[0][-1][0] - began_ns > 0.049e9


def test_who_finds_no_place_in_the_batch_queues(started):
    """Two run at a time, the third begins when they have ended, and the counters say so meanwhile."""
    engine = started(max_running=2, prefill_level=1e12, knee=1e9)
    looks = []

    async def look():
        looks.append(await engine.counters())

    async def stamp_and_look():
        loop = asyncio.get_running_loop()
        loop.call_at(loop.time() + 0.0055, lambda: loop.create_task(look()))
        clock = clock_of(loop)
        firsts = []
        requests = [Request((16,), 10)] * 3
        await asyncio.gather(*(engine.stream(one, lambda _: firsts.append(clock())) for one in requests))
        return firsts

    stamps = engine.run(stamp_and_look())
    assert [at - stamps[0] for at in stamps[::10]] == pytest.approx([0, 5e6, 10e6], abs=10)
    assert (looks[0][RUNNING], looks[0][WAITING]) == (2, 1)


@pytest.mark.parametrize(
    ("fault", "parts", "answer", "counted"),
    [
        ("short", [1] * 11, Answer(11, 16), {QUERIED_TOKENS: 48}),
        ("coalesces", [4, 4, 4], Answer(12, 16), {QUERIED_TOKENS: 48}),
        ("caches", [1] * 12, Answer(12, 16, 8), {CACHED_TOKENS: 8, QUERIED_TOKENS: 48}),
        ("preempts", [1] * 12, Answer(12, 16), {PREEMPTIONS: 1, QUERIED_TOKENS: 48}),
        ("restarts", [1] * 12, Answer(12, 16), {STARTED_AT: 2, QUERIED_TOKENS: 48}),
    ],
)
def test_every_so_manyth_request_has_the_fault(started, fault, parts, answer, counted):
    """And the others are answered as if nothing was."""
    engine = started(fault=fault, fault_every=3)
    _, stamps, answers = streamed(engine, [Request((16,) * 16, 12)] * 3)
    assert answers == [Answer(12, 16), Answer(12, 16), answer]
    assert [tokens for _, tokens in stamps[2]] == parts
    told = engine.run(engine.counters())
    assert {name: told[name] for name in (CACHED_TOKENS, PREEMPTIONS, STARTED_AT, QUERIED_TOKENS)} == {
        CACHED_TOKENS: 0, PREEMPTIONS: 0, STARTED_AT: 1, **counted
    }  # fmt: skip


def test_a_refused_request_has_no_answer(started):
    """Its reason is told, and nothing of it was served."""
    engine = started(fault="refuses", fault_every=3)
    _, stamps, answers = streamed(engine, [Request((16,) * 16, 12)] * 3)
    assert answers[:2] == [Answer(12, 16)] * 2
    assert isinstance(answers[2], RequestFailed)
    assert stamps[2] == []


def test_a_stall_makes_all_wait(started):
    """The step after it takes a quarter of a second longer."""
    began_ns, stamps, _ = streamed(started(fault="stalls", fault_every=2), [Request((16,), 3)] * 2)
    assert [times[0][0] - began_ns > 0.25e9 for times in stamps] == [True, True]


class Scripted(Streaming):
    """An engine whose answers are given to it."""

    def __init__(self, parts, answer):
        super().__init__()
        self.parts, self.answer, self.prompts = parts, answer, []

    async def stream(self, request, stamp):
        self.prompts.append(request.prompt)
        for tokens in self.parts:
            await asyncio.sleep(0.001)
            stamp(tokens)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_no_two_batches_begin_their_prompts_alike():
    """A prefix cache would serve the second one; all have the same tokens."""
    engine = Scripted([1], Answer(1, 4))
    for _ in range(3):
        engine.serve((Request((16, 17, 18, 19), 1),), observe=False)
    engine.disconnect()
    assert engine.prompts == [(16, 17, 18, 19), (17, 18, 19, 16), (18, 19, 16, 17)]


@pytest.mark.parametrize("failure", [RequestFailed("HTTP 503"), EngineFailed("HTTP 503")])
def test_a_batch_of_which_a_request_fails_has_failed(failure):
    """There is no part of a batch, and the reason is told."""
    engine = Scripted([1], failure)
    with pytest.raises(EngineFailed, match="HTTP 503"):
        engine.serve((Request((16,), 1),) * 2, observe=False)
    engine.disconnect()


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 5)), max_size=10), st.integers(1, 20))
def test_every_token_of_an_answer_has_a_time(parts, tokens):
    """Whatever its parts say of themselves: the first has the first part's, the last the last part's."""
    times = each_token(parts, tokens)
    assert len(times) == (tokens if parts else 0)
    if parts:
        assert times[-1] == parts[-1][0]
        assert times[0] == parts[0][0] or tokens == 1
        assert set(times) <= {at for at, _ in parts}


def test_one_event_loop_serves_all_batches_of_a_launch():
    """What is connected stays so until the engine is stopped."""
    seen = []

    class Connected(Scripted):
        def connected(self):
            return Noting()

    class Noting:
        async def __aenter__(self):
            seen.append(asyncio.get_running_loop())

        async def __aexit__(self, *_):
            seen.append("closed")

    engine = Connected([1, 1], Answer(2, 1))
    served = [engine.serve((Request((16,), 2),), observe=True) for _ in range(3)]
    assert statistics.median(one.token_ns[0][1] - one.token_ns[0][0] for one in served) >= 0.9e6
    engine.disconnect()
    engine.disconnect()
    assert len(seen) == 2
    assert seen[0].is_closed()
