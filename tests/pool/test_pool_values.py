"""What a pool makes of its replicas' answers and facts: values, without any process."""

from dataclasses import replace

import pytest

from pytest_slmperf import replica_pool
from pytest_slmperf.core.engine import EngineFacts, EngineSpec, ReplicaWork, Served
from pytest_slmperf.core.errors import EngineFailed, UsageError
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.pool.engine import added, facts_of, merged, moved, places, refuse_unlike
from pytest_slmperf.pool.replica import own_spec

FACTS = EngineFacts("1", "cpu", "float32", "random", 4096, 1024, {"kv_blocks": 100}, phases_s={"load": 0.5})


@pytest.mark.parametrize(
    ("count", "replicas", "spread", "expected"),
    [
        (5, 2, "even", [[0, 1, 2], [3, 4]]),
        (4, 2, "even", [[0, 1], [2, 3]]),
        (2, 3, "even", [[0], [1]]),
        (5, 2, "round-robin", [[0, 2, 4], [1, 3]]),
        (5, 2, "shortest-queue", [[0, 2, 4], [1, 3]]),
        (1, 3, "round-robin", [[0]]),
    ],
)
def test_a_batch_is_spread_over_the_replicas(count, replicas, spread, expected):
    """Evenly in the order of the requests, or in turns; nobody is given an empty part."""
    assert [list(own) for own in places(count, replicas, spread)] == expected


def test_what_the_replicas_served_is_one_batch_in_the_order_of_its_requests():
    """It began with the first and ended with the last; tokens and times go back to their places; peaks are added up."""
    one = Served(10, 50, (1, 3), ((20,), (20, 30, 50)), peak_memory_bytes=100)
    other = Served(5, 40, (2,), ((15, 40),), peak_memory_bytes=50)
    whole = merged([("replica 1 of 2", [0, 2]), ("replica 2 of 2", [1])], [one, other])
    assert whole == Served(
        5,
        50,
        (1, 2, 3),
        ((20,), (15, 40), (20, 30, 50)),
        peak_memory_bytes=150,
        replicas=(ReplicaWork("replica 1 of 2", 4, 40), ReplicaWork("replica 2 of 2", 2, 35)),
    )


def test_what_a_replica_does_not_tell_the_pool_does_not_tell():
    """Neither times of tokens nor a peak of memory that is only a part of it."""
    one, other = Served(1, 2, (1,), ((2,),), peak_memory_bytes=100), Served(1, 2, (1,))
    whole = merged([("a", [0]), ("b", [1])], [one, other])
    assert (whole.token_ns, whole.peak_memory_bytes) == (None, None)


def test_replicas_without_a_part_in_a_batch_have_their_memory_all_the_same():
    """It is added up, too; where one of them doesn't tell it, the pool doesn't."""
    served = [Served(1, 2, (1,), peak_memory_bytes=100)]
    assert merged([("a", [0])], served, [70, 60]).peak_memory_bytes == 230
    assert merged([("a", [0])], served, [70, None]).peak_memory_bytes is None


def test_a_batch_in_simulated_time_is_moved_as_a_whole():
    """Each replica's clock is its own."""
    assert moved(Served(10, 20, (1,), ((15,),)), 5) == Served(15, 25, (1,), ((20,),))
    assert moved(Served(10, 20, (1,)), -5) == Served(5, 15, (1,))


def test_replicas_that_are_alike_are_one_engine():
    """Its facts are theirs, with how many there are; their starts, one after another, are added up."""
    facts = facts_of([replace(FACTS, startup_s=0.5)] * 2, {"mps_active_thread_percentage": "50"})
    assert facts.settings == {"kv_blocks": 100, "mps_active_thread_percentage": "50", "replicas": 2}
    assert (facts.startup_s, facts.phases_s, facts.own_process) == (1.0, {"load": 1.0}, False)
    assert facts_of([FACTS, replace(FACTS, phases_s={})], {}).phases_s == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "2"}, "version is 1 of a, and 2 of b"),
        ({"dtype": "int8"}, "dtype is float32 of a, and int8 of b"),
        ({"weights": "sha256:1"}, "weights is random of a, and sha256:1 of b"),
        ({"context_tokens": 64}, "context_tokens is 4096 of a, and 64 of b"),
        ({"device": "cuda"}, "device is cpu of a, and cuda of b"),
        ({"settings": {"kv_blocks": 90}}, "kv_blocks is 100 of a, and 90 of b"),
        ({"settings": {}}, "kv_blocks is 100 of a, and absent of b"),
    ],
)
def test_replicas_that_are_not_alike_are_refused(change, words):
    """Both are named, with what differs; figures would hold for neither."""
    with pytest.raises(EngineFailed, match=words):
        refuse_unlike(("a", FACTS), ("b", replace(FACTS, **change)))


def test_replicas_may_be_on_several_gpus():
    """A device's number is none of what must be alike."""
    refuse_unlike(("a", replace(FACTS, device="cuda:0")), ("b", replace(FACTS, device="cuda:1")))


def test_counters_are_those_that_all_replicas_tell():
    """Added up; what one of them leaves out is of none, and of front ends the busiest counts."""
    assert added([{"running": 2.0, "waiting": 1.0}, {"running": 3.0}]) == {"running": 5.0}
    assert added([{"front_end": 0.4}, {"front_end": 0.9}]) == {"front_end": 0.9}


def test_a_loss_is_planted_in_all_replicas_or_in_one_alone():
    """A replica's own spec has no pool."""
    spec = EngineSpec("fake", "tiny", planted_loss=0.2, pool=Pool(2))
    assert own_spec(spec, 1) == EngineSpec("fake", "tiny", planted_loss=0.2)
    alone = replace(spec, pool=Pool(2, slowed_replica=2))
    assert [own_spec(alone, number).planted_loss for number in (1, 2)] == [0.0, 0.2]
    assert own_spec(spec, 1, {"device_index": 0}).options == {"device_index": 0}


def test_a_pool_is_made_of_an_engine_or_of_what_makes_engines():
    """What isn't said stays as the engine has it."""
    engine = EngineSpec("fake", "tiny", pool=Pool(1, "mps"))
    assert replica_pool(engine, 2, spread="round-robin").pool == Pool(2, "mps", "round-robin")
    assert replica_pool(lambda model: EngineSpec("fake", model), replicas=3)("tiny").pool == Pool(3)
    assert replica_pool(engine, 1, kind="endpoints", addresses=["http://a"]).pool.addresses == ("http://a",)


@pytest.mark.parametrize(
    ("engine", "options", "words"),
    [
        (None, {"replicas": 2}, "it takes an engine, or the fixture"),
        (EngineSpec("fake", "tiny"), {"replicas": 0}, "a whole number from 1"),
        (EngineSpec("fake", "tiny"), {"replicas": 2, "kind": "pods"}, "kind='pods' of a replica pool; known are"),
        (EngineSpec("fake", "tiny"), {"replicas": 2, "spread": "random"}, "spread='random' of a replica pool"),
        (EngineSpec("fake", "tiny"), {"replicas": 2, "cores": 4}, "replica_pool has no cores"),
        (EngineSpec("fake", "tiny"), {"replicas": 1, "addresses": ["http://a"]}, "kind processes: only endpoints and"),
        (EngineSpec("fake", "tiny"), {"replicas": 1, "kind": "mps", "resource": "L4"}, "kind mps: only ray takes it"),
    ],
)
def test_what_is_no_pool_is_refused(engine, options, words):
    """The error says what there is."""
    with pytest.raises(UsageError, match=words):
        replica_pool(engine, **options)
