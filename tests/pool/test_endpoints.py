"""A pool of endpoints against testing servers on real sockets."""

import asyncio
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_slmperf.core.engine import EngineSpec, Fronted, Request
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable, RequestFailed, UsageError
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.core.load.prompts import Prompts
from pytest_slmperf.core.load.traffic import Arrivals
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.engines import registry
from pytest_slmperf.engines.address import device_of_urls
from pytest_slmperf.engines.server import Server, free_port, taken
from pytest_slmperf.engines.streaming import Streaming
from pytest_slmperf.pool.endpoints import endpoints
from pytest_slmperf.run.devices import device_of
from pytest_slmperf.run.playing import ask_for, judged
from pytest_slmperf.testing.server import Options, serving
from pytest_slmperf.worker.sending import play

QUICK = {"step_s": 0.002, "step_request_s": 0, "prefill_token_s": 0}
ASKED = Request(tuple(range(20, 36)), 8)


@pytest.fixture(scope="module")
def pair():
    """Two servers, of which the second takes five times as long for a step."""
    with serving(Options(**QUICK)) as quick, serving(Options(**{**QUICK, "step_s": 0.010})) as slow:
        yield quick, slow


@pytest.fixture
def serve():
    """Start a server with options of the test's own."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(serving(Options(**{**QUICK, **options})))


@pytest.fixture
def pool():
    """Make a pool of these servers, which is stopped at the end."""
    pools = []

    def make(*addresses, spread="even", engine="openai", replicas=None, **options):
        of = Pool(replicas or len(addresses), "endpoints", spread, tuple(addresses))
        pools.append(registry.create(EngineSpec(engine, "tiny", options=options, pool=of)))
        return pools[-1]

    yield make
    for one in pools:
        one.stop()


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def in_the_end(look, expected, limit_s=20.0):
    """What is seen once it is as expected, or at last: a server writes down an answer after it has given it."""
    until = time.monotonic() + limit_s
    while (seen := look()) != expected and time.monotonic() < until:
        time.sleep(0.02)
    return seen


def test_a_batch_is_split_evenly(pair, pool):
    """Each server answers its half, both at the same time, and the slower one says how long the whole took."""
    quick, slow = pair
    both = pool(quick.url, slow.url)
    facts = both.start()
    assert (facts.version, facts.weights, facts.settings["replicas"]) == ("vllm 0", "served:tiny", 2)
    before = len(quick.received()), len(slow.received())
    served = both.serve([ASKED] * 6, observe=True)
    assert served.output_tokens == (8,) * 6
    expected = (before[0] + 3, before[1] + 3)
    assert in_the_end(lambda: (len(quick.received()), len(slow.received())), expected) == expected
    first, second = served.replicas
    assert (first.output_tokens, second.output_tokens) == (24, 24)
    assert 3 * first.served_ns < second.served_ns
    assert served.ended_ns - served.started_ns < 1.2 * second.served_ns


def test_the_busiest_front_end_is_told_of_static_batches(pair, pool):
    """From one look to the next, of the server that has its engine in another process."""
    fronted = Path(__file__).parents[1] / "engines" / "fronted_server.py"
    port = free_port()
    server = Server([sys.executable, str(fronted), f"--port={port}", "--model=tiny"], name="a server")
    server.start()
    try:
        server.wait_until_ready(lambda: None if taken("127.0.0.1", port) else "nobody listens", 30)
        both = pool(pair[0].url, f"http://127.0.0.1:{port}/v1")
        both.start()
        assert both.front_end() is None
        both.serve([ASKED] * 6, observe=False)
        assert 0 < both.front_end() < 1.1
        assert isinstance(both, Fronted)
    finally:
        server.stop()


def test_the_shortest_queue_gets_more_of_the_quicker_one(pair, pool):
    """A request goes to the server with the fewest under way."""
    quick, slow = pair
    both = pool(quick.url, slow.url, spread="shortest-queue")
    both.start()
    answered = both.run(_places(both, 4, 40))
    assert answered.count(1) > 2 * answered.count(2) > 0


@pytest.mark.parametrize("spread", ["even", "round-robin"])
def test_other_spreads_give_each_the_same(pair, pool, spread):
    """Whatever the servers' pace."""
    both = pool(*(server.url for server in pair), spread=spread)
    both.start()
    assert both.run(_places(both, 4, 20)).count(1) == 10


async def _places(engine, places, requests):
    """Which replica answered each of so many requests, sent from so many places of a closed loop."""
    answered, left = [], iter(range(requests))

    async def one_place():
        for _ in left:
            answer = await engine.stream(ASKED, lambda _: None)
            answered.append(answer.replica)

    async with asyncio.TaskGroup() as group:
        for _ in range(places):
            group.create_task(one_place())
    return answered


def test_an_endpoint_that_refuses_is_named(pair, serve, pool):
    """By its number and address, in the error of the request; the others go on."""
    refusing = serve(server_error=1)
    quick, _ = pair
    with pytest.raises(EngineFailed, match=rf"replica 2 of 2 \(127\.0\.0\.1:{refusing.port}\): .*HTTP 500"):
        pool(quick.url, refusing.url).start()


def test_an_endpoint_that_dies_is_named(pair, serve, pool):
    """A request that was under way there has failed, and so does each that is sent there afterwards."""
    quick, _ = pair
    dying = serve(dies_after=4)
    both = pool(quick.url, dying.url, spread="round-robin")
    both.start()
    named = rf"replica 2 of 2 \(127\.0\.0\.1:{dying.port}\): "
    failed = []
    for _ in range(12):
        try:
            both.run(both.stream(ASKED, lambda _: None))
        except RequestFailed as error:
            failed.append(error)
    assert failed
    assert all(error.replica == 2 for error in failed)
    with pytest.raises(EngineFailed, match=named):
        both.serve([ASKED] * 2, observe=False)


def test_an_endpoint_that_dies_in_a_window_voids_it(pair, serve, pool):
    """The reason names it."""
    dying = serve(dies_after=30)
    both = pool(pair[0].url, dying.url)
    both.start()
    load = Load("load", ((16, 8),), seed=1, arrivals=Arrivals(concurrency=4))
    policy = RoundPolicy(traffic_s=1, observed_requests=100)
    traffic = play(both, ask_for(load, policy), Prompts(vocabulary=1000, seed=1))
    void = judged(traffic, load, policy, slo=None, quantiles=()).void
    assert void.guard == "errors"
    assert f"replica 2 of 2 (127.0.0.1:{dying.port}): " in void.reason


def test_nobody_at_an_address(pair, serve, pool):
    """The replica that isn't there is named."""
    gone = serve()
    gone.stop()
    with pytest.raises(EngineUnavailable, match=rf"replica 2 of 2 \(127\.0\.0\.1:{gone.port}\): .*nobody answers"):
        pool(pair[0].url, gone.url).start()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"context_tokens": 2048}, "context_tokens is 4096 of replica 1 of 2 .* and 2048 of replica 2 of 2"),
        ({"model": "other"}, "replica 2 of 2 .*: .* serves other, and not tiny"),
    ],
)
def test_endpoints_that_are_not_alike(pair, serve, pool, other, said):
    """Figures of a pool hold for one kind of server only: the error names both."""
    with pytest.raises((EngineFailed, EngineUnavailable), match=said):
        pool(pair[0].url, serve(**other).url).start()


def test_addresses_that_make_no_pool(pair):
    """Too few of them, the same one twice, an engine that asks nobody, and an option of a single server."""
    quick, slow = (server.url for server in pair)
    of = Pool(2, "endpoints", addresses=(quick, slow))
    for spec, said in (
        (EngineSpec("openai", "tiny", pool=Pool(3, "endpoints", addresses=(quick, slow))), "there are 2"),
        (EngineSpec("openai", "tiny", pool=Pool(2, "endpoints", addresses=(quick, quick))), "given twice"),
        (EngineSpec("openai", "tiny", pool=Pool(2, "endpoints", addresses=(quick, f"{quick}/"))), "given twice"),
        (EngineSpec("fake", "tiny", pool=of), "this is fake"),
        (EngineSpec("openai", "tiny", options={"url": quick}, pool=of), "url is of a single server"),
    ):
        with pytest.raises(UsageError, match=said):
            endpoints(spec, Streaming())


def test_one_gateway_is_a_pool_of_one(pair, pool):
    """Or the engine by itself, with its address."""
    one = pool(pair[0].url)
    assert one.start().settings["replicas"] == 1
    assert one.serve([ASKED], observe=False).output_tokens == (8,)


def test_the_servers_stay(pair, pool):
    """A pool that ends closes its connections, and no server."""
    quick, slow = pair
    for _ in range(2):
        both = pool(quick.url, slow.url)
        both.start()
        both.stop()


def test_servers_on_other_machines_are_one_device():
    """Others are another device, in whichever number; those on this machine are what they say."""
    there = [f"http://10.0.0.{number}:8000/v1" for number in range(1, 5)]
    assert device_of_urls(["http://127.0.0.1:8000/v1", "http://localhost/v1"]) is None
    assert device_of_urls(there[:1]) == "remote:10.0.0.1:8000"
    assert device_of_urls(there[:2]) == "remote:10.0.0.1:8000, 10.0.0.2:8000"
    many = device_of_urls(there)
    assert many.startswith("remote:10.0.0.1:8000 and 3 more (")
    assert many != device_of_urls([*there[:3], "http://10.0.0.9:8000/v1"])
    assert "127.0.0.1:1" in device_of_urls([there[0], "http://127.0.0.1:1/v1"])


def test_a_run_measures_on_the_device_of_its_endpoints(pair):
    """On this machine what the engine says, elsewhere their addresses, and of a simulated engine always `simulated`."""
    far = Pool(2, "endpoints", addresses=("http://10.0.0.1:8000/v1", "http://10.0.0.2:8000/v1"))
    near = Pool(2, "endpoints", addresses=tuple(server.url for server in pair))
    ray = Pool(2, "ray", addresses=("10.0.0.1:6379",))
    assert device_of("openai", {}, near).kind == "cpu"
    assert device_of("openai", {}, far).kind == "remote:10.0.0.1:8000, 10.0.0.2:8000"
    assert device_of("ctranslate2", {}, ray).kind == "remote:ray 10.0.0.1:6379"
    assert device_of("ctranslate2", {}, Pool(2, "ray")).kind == "cpu"
    assert device_of("fake", {}, ray).kind == "simulated"
