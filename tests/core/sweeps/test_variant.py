"""What a sweep makes of an engine: another type, more threads, a pool of replicas."""

import pytest

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.core.sweeps.variant import Variant, series_of, settings_of

ENGINE = EngineSpec("fake", "m", "float32", 4, {"level": 2, "seed": 1})


def varied(spec=ENGINE, **settings):
    return Variant(tuple(settings.items())).of(spec)


def test_a_variant_replaces_what_it_names_and_nothing_else():
    """Whoever gave the engine said the rest of it."""
    assert varied() == ENGINE
    assert varied(dtype="int8") == EngineSpec("fake", "m", "int8", 4, {"level": 2, "seed": 1})
    assert varied(threads=1, level=3) == EngineSpec("fake", "m", "float32", 1, {"level": 3, "seed": 1})


def test_replicas_make_a_pool_of_an_engine_by_itself():
    """One replica is a pool, too: what is compared differs in the number alone."""
    assert [varied(replicas=count).pool for count in (1, 4)] == [Pool(1), Pool(4)]
    assert varied(pool="threads", spread="round-robin").pool == Pool(1, "threads", "round-robin")


def test_the_pool_that_a_suite_gives_is_varied():
    """It keeps its kind and its spread; a part of many addresses is the first ones."""
    given = EngineSpec("fake", "m", pool=Pool(2, "threads", "shortest-queue"))
    assert varied(given, replicas=3).pool == Pool(3, "threads", "shortest-queue")
    served = EngineSpec("openai", "m", pool=Pool(2, "endpoints", addresses=("a:1", "b:1")))
    assert varied(served, replicas=1).pool == Pool(1, "endpoints", addresses=("a:1",))
    with pytest.raises(UsageError, match="replicas=3 of a pool that has 2 addresses"):
        varied(served, replicas=3)


def test_a_loss_that_is_planted_in_one_replica_is_none_of_a_pool_without_it():
    """So that a sweep over replicas shows whose it is."""
    slowed = EngineSpec("fake", "m", planted_loss=0.2, pool=Pool(2, slowed_replica=2))
    assert (varied(slowed, replicas=4).pool.slowed_replica, varied(slowed, replicas=4).planted_loss) == (2, 0.2)
    assert varied(slowed, replicas=1) == EngineSpec("fake", "m", pool=Pool(1))
    assert varied(EngineSpec("fake", "m", planted_loss=0.2), replicas=1).planted_loss == 0.2


def test_a_curve_is_named_by_what_its_engine_has():
    """The name says it, in the order in which it is varied, and is read again."""
    variant = Variant((("replicas", 2), ("dtype", "int8"), ("chunked", True)))
    assert variant.parts == ("replicas=2", "dtype=int8", "chunked=true")
    assert variant.coordinates == {"replicas": 2, "dtype": "int8", "chunked": "true"}
    case = "/".join(("decode", "m", *variant.parts, "batch=4"))
    assert settings_of(series_of(case)) == {"replicas": "2", "dtype": "int8", "chunked": "true"}
    assert settings_of(series_of("decode/m/batch=4")) == {}
