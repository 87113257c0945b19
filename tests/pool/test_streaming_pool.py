"""Replicas whose requests come and go one by one, in one event loop: here the fake engine's, in simulated time."""

import os
from contextlib import closing

import pytest

from pytest_slmperf.core.engine import EngineSpec, StreamingEngine
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable
from pytest_slmperf.core.launch import REPLICA_VARIABLE, Load
from pytest_slmperf.core.load.prompts import Prompts, prompts
from pytest_slmperf.core.load.traffic import RUNNING, Arrivals
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.core.protocol import Play
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.engines import registry
from pytest_slmperf.testing import conforms, fake, slowed
from pytest_slmperf.worker.sending import play

BATCH = prompts([(8, 16)] * 8, vocabulary=1024, seed=1)


def pool(replicas=2, *, spread="even", loss=0.0, slow=None, **options):
    return EngineSpec(
        "fake", "tiny", options=options, planted_loss=loss, pool=Pool(replicas, spread=spread, slowed_replica=slow)
    )


def started(spec):
    engine = registry.create(spec)
    engine.start()
    return closing(_Stopping(engine))


class _Stopping:
    """An engine that ends with its block."""

    def __init__(self, engine):
        self.engine, self.close = engine, engine.stop


def seconds(served):
    return (served.ended_ns - served.started_ns) / NS_PER_S


def sent(engine, *, concurrency=8, requests=64):
    """Which replica each request of a closed loop went to, and what came of it."""
    load = Load("c", ((8, 16),) * requests, seed=1, arrivals=Arrivals(concurrency=concurrency))
    ask = Play(load, window_s=1.0, requests=requests, limit_s=60)
    return play(engine, ask, Prompts(vocabulary=1024, seed=1, shared_prefix_tokens=0)).exchanges


def test_a_pool_keeps_the_protocol_of_an_engine():
    """Every suite takes it unchanged; nothing of a replica's environment is left behind."""
    conforms(registry.create, pool(3))
    assert REPLICA_VARIABLE not in os.environ
    engine = registry.create(pool(2))
    assert isinstance(engine, StreamingEngine)
    engine.stop()


def test_a_batch_takes_as_long_as_its_slowest_replica_and_the_pools_clock_goes_on():
    """Two halves at once are faster than the whole; a replica that is slow alone makes the batch slow."""
    with started(fake("tiny")) as one, started(pool()) as two, started(pool(loss=0.5, slow=2)) as lame:
        alone, both, slow = (some.engine.serve(BATCH, observe=True) for some in (one, two, lame))
        assert seconds(both) < seconds(alone)
        assert seconds(slow) == pytest.approx(2 * seconds(both))
        assert [work.output_tokens for work in both.replicas] == [64, 64]
        assert slow.replicas[1].served_ns == pytest.approx(2 * slow.replicas[0].served_ns)
        again = lame.engine.serve(BATCH, observe=False)
        assert again.started_ns == slow.ended_ns


def test_a_batch_smaller_than_the_pool_takes_the_memory_of_all_replicas():
    """Those without a part have their model loaded; what they are asked for it is no part of the batch."""
    with started(pool(3, memory_bytes=1000, memory_bytes_per_token=1)) as three, started(pool(1)) as one:
        served, alone = (some.engine.serve(BATCH[:1], observe=False) for some in (three, one))
    assert served.peak_memory_bytes == 3 * 1000 + (8 + 16) + 2 * (8 + 1)
    assert [work.name for work in served.replicas] == ["replica 1 of 3"]
    assert seconds(served) == pytest.approx(seconds(alone))


def test_a_loss_of_the_whole_pool_is_that_of_each_replica():
    """As of an engine by itself."""
    with started(pool()) as plain, started(slowed(pool(), 0.2)) as lame:
        before, after = (some.engine.serve(BATCH, observe=False) for some in (plain, lame))
        assert seconds(after) == pytest.approx(1.25 * seconds(before))
    assert slowed(pool(), 0.2, replica=2) == pool(loss=0.2, slow=2)


def test_a_replica_that_is_to_be_slowed_by_nothing_is_refused():
    """A run that was to be red would be green."""
    with pytest.raises(EngineUnavailable, match=r"slowed_replica=2 says where a loss is planted, .*: add slowed=0\.2"):
        registry.create(pool(slow=2))


@pytest.mark.parametrize("spread", ["even", "round-robin"])
def test_requests_go_to_the_replicas_in_turns(spread):
    """One after the other, whatever each is doing."""
    with started(pool(spread=spread)) as two:
        exchanges = sent(two.engine)
    assert {one.replica for one in exchanges} == {1, 2}
    assert abs(sum(1 if one.replica == 1 else -1 for one in exchanges)) <= 1


def test_requests_go_to_the_shortest_queue():
    """A replica that is slow gets fewer of them."""
    with started(pool(spread="shortest-queue", loss=0.5, slow=2)) as two:
        exchanges = sent(two.engine)
    shares = [sum(one.replica == number for one in exchanges) for number in (1, 2)]
    assert shares[0] > 1.5 * shares[1]


def test_a_quiet_load_is_shared_all_the_same():
    """Where no queue is shorter, all get something to do."""
    with started(pool(spread="shortest-queue")) as two:
        exchanges = sent(two.engine, concurrency=1)
    shares = [sum(one.replica == number for one in exchanges) for number in (1, 2)]
    assert abs(shares[0] - shares[1]) <= 1


def test_a_slow_replicas_answers_take_longer_than_the_others():
    """Each part of them comes later by the share that is planted."""
    with started(pool(loss=0.5, slow=2)) as two:
        exchanges = [one for one in sent(two.engine) if not one.error]
    lasted = {n: [one.ended_ns - one.sent_ns for one in exchanges if one.replica == n] for n in (1, 2)}
    assert sum(lasted[2]) / len(lasted[2]) > 1.5 * sum(lasted[1]) / len(lasted[1])


def test_a_request_that_failed_says_which_replica_failed_it():
    """Its text begins with the name."""
    with started(pool(fault="refuses", fault_every=5)) as two:
        exchanges = sent(two.engine)
    failed = [one for one in exchanges if one.error]
    assert failed
    assert all(one.error.startswith(f"replica {one.replica} of 2: ") for one in failed)


def test_the_pools_counters_are_its_replicas_together():
    """As if one engine ran all requests."""
    with started(pool()) as two:
        assert two.engine.run(two.engine.counters())[RUNNING] == 0


def test_replicas_with_unequal_kv_caches_are_refused():
    """Both are named, with what each has."""
    engine = registry.create(pool(unequal_replica=2))
    with pytest.raises(EngineFailed, match=r"kv_blocks is 100 of replica 1 of 2, and 99 of replica 2 of 2"):
        engine.start()
    engine.stop()


def test_what_a_replica_raises_names_it():
    """With the same kind of error."""
    with started(pool(fault="memory", fault_batch=1)) as two, pytest.raises(MemoryError, match="replica 1 of 2: "):
        two.engine.serve(BATCH, observe=False)


def test_each_replica_has_noise_of_its_own():
    """Seeded, the same in every run."""
    with started(pool(seed=1, launch_noise=0.1)) as one, started(pool(seed=1, launch_noise=0.1)) as other:
        first, second = (some.engine.serve(BATCH, observe=False).replicas for some in (one, other))
    assert first == second
    assert first[0].served_ns != first[1].served_ns


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (EngineSpec("fake", "tiny", pool=Pool(2, "threads")), "fake has no replicas inside itself; ctranslate2 has"),
        (
            EngineSpec("ctranslate2", "tiny-2x64", pool=Pool(2, "threads", slowed_replica=1)),
            "no part can be slowed by itself",
        ),
    ],
)
def test_an_engine_that_has_no_replicas_inside_is_refused(spec, words):
    """With the kind that works."""
    with pytest.raises(EngineUnavailable, match=words):
        registry.create(spec)


def test_several_replicas_of_one_server_that_runs_are_refused():
    """They are the same server several times."""
    spec = EngineSpec("openai", "m", options={"url": "http://127.0.0.1:9/v1"}, pool=Pool(2))
    engine = registry.create(spec)
    with pytest.raises(EngineUnavailable, match="kind='endpoints' takes the address of each"):
        engine.start()
    engine.stop()
