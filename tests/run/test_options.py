"""What a command line asked for."""

import math
from pathlib import Path

import pytest

from pytest_slmperf.core.baselines.lookup import Against
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.run.options import Options, parse_engine, pool_of


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engine": "fake\udcff"}, r"'--slmperf-engine' of the command line: '\\udcff' is no character"),
        ({"engine_options": {"x\udcff": 1}}, r"'x\\udcff' of the command line: '\\udcff' is no character"),
        ({"engine_options": {"dtype": "a\udcff"}}, "'dtype' of the command line: "),
        ({"engine_options": {"level": math.nan}}, "'level' of the command line: nan is no finite number"),
        ({"engine_options": {"level": -math.inf}}, "'level' of the command line: -inf is no finite number"),
        ({"engine_options": {"level": 10**400}}, "'level' of the command line: a whole number beyond 1e308"),
        ({"baselines": Path("a\udcff")}, "'--slmperf-baselines' of the command line: "),
        ({"against": Against("driver", "\udcff")}, "'--slmperf-against' of the command line: "),
        ({"reports": (Path("a.json"), Path("a\udcff.md"))}, "'--slmperf-report' of the command line: "),
    ],
)
def test_what_no_report_can_hold_is_refused(given, said):
    """A byte that is no UTF-8 and a number that isn't finite are told with the option, before anything is measured."""
    with pytest.raises(UsageError, match=said):
        Options(**given)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"model": "a\udcff/b"}, "model"),
        ({"dtype": "\udcff"}, "dtype"),
        ({"python": "\udcff/python"}, "python"),
        ({"threads": 10**400}, "threads"),
        ({"options": {"level": math.inf}}, "level"),
        ({"options": {"\udcff": "x"}}, r"\\udcff"),
    ],
)
def test_a_suite_is_refused_it_too(given, name):
    """What a suite asks of an engine is held to the same as a command line."""
    with pytest.raises(UsageError, match=f"^'{name}' of an engine: "):
        EngineSpec(**{"engine": "fake", "model": "tiny", **given})


@pytest.mark.parametrize(
    ("given", "pool", "others"),
    [
        ("fake:level=9", None, {"level": 9}),
        ("fake:level=9,replicas=2", Pool(2), {"level": 9}),
        ("vllm:replicas=4,pool=mps,spread=shortest-queue", Pool(4, "mps", "shortest-queue"), {}),
        ("vllm:pool=gpus", Pool(1, "gpus"), {}),
        (
            "openai:pool=endpoints,addresses=http://a:1/v1+http://b:2/v1",
            Pool(2, "endpoints", addresses=("http://a:1/v1", "http://b:2/v1")),
            {},
        ),
        ("fake:replicas=2,slowed_replica=2,memory_bytes=5", Pool(2, slowed_replica=2), {"memory_bytes": 5}),
        ("vllm:replicas=2,pool_memory_bytes=9,pool_power_limit_w=300", Pool(2, memory_bytes=9, power_limit_w=300), {}),
    ],
)
def test_a_command_line_makes_a_pool_of_an_engine(given, pool, others):
    """What is of the pool is no option of the engine."""
    assert pool_of(parse_engine(given)[1]) == (pool, others)


def test_what_is_not_said_of_a_pool_stays():
    """As of the other arm, or of the settings."""
    assert pool_of({"slowed_replica": 2}, Pool(2, "threads")) == (Pool(2, "threads", slowed_replica=2), {})
    assert pool_of({"level": 9}, Pool(2)) == (Pool(2), {"level": 9})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"replicas": 0}, "replicas=0; it takes a whole number from 1"),
        ({"replicas": True}, "replicas=True; it takes a whole number from 1"),
        ({"replicas": 2, "pool": "pods"}, "kind='pods' of a replica pool; known are processes, mps"),
        ({"replicas": 2, "spread": "random"}, "spread='random' of a replica pool; known are even"),
        ({"replicas": 2, "slowed_replica": 3}, "slowed_replica=3; it takes one of the 2 replicas"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(given, said):
    """With what there is."""
    with pytest.raises(UsageError, match=said):
        pool_of(given)


@pytest.mark.parametrize(
    ("given", "record", "record_only"),
    [
        ({}, "pytest --slmperf --slmperf-accept", "pytest --slmperf -k decode --slmperf-accept"),
        (
            {"chosen": ("a.py::x[1]",), "engine": "fake", "baselines": Path("my b")},
            "pytest --slmperf 'a.py::x[1]' --slmperf-engine=fake '--slmperf-baselines=my b' --slmperf-accept",
            "pytest --slmperf 'a.py::x[1]' -k decode --slmperf-engine=fake '--slmperf-baselines=my b' --slmperf-accept",
        ),
        (
            {"keyword": "batch1 or batch4"},
            "pytest --slmperf -k 'batch1 or batch4' --slmperf-accept",
            "pytest --slmperf -k '(batch1 or batch4) and decode' --slmperf-accept",
        ),
        (
            {"keyword": "decode", "engine": "fake", "engine_options": {"seed": 1, "slowed": 0.3}},
            "pytest --slmperf -k decode --slmperf-engine=fake:seed=1 --slmperf-accept",
            "pytest --slmperf -k decode --slmperf-engine=fake:seed=1 --slmperf-accept",
        ),
    ],
    ids=["everything", "one test", "a keyword", "a planted loss"],
)
def test_the_command_that_records_measures_the_same(given, record, record_only):
    """It names the same tests, engine and folder, quoted for a shell, and leaves a planted loss out."""
    assert Options(**given).record == record
    assert Options(**given).record_only("decode") == record_only
