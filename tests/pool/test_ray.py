"""A pool on Ray: a real cluster of two nodes on this machine, each of one CPU."""

import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

import pytest_slmperf
from pytest_slmperf.core.engine import EngineSpec, Request
from pytest_slmperf.core.errors import EngineDied, EngineUnavailable, UsageError
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.engines import registry
from pytest_slmperf.engines.server import free_port
from pytest_slmperf.pool.devices import Host
from pytest_slmperf.pool.ray import Identity, Place, own_cores, package_here, refuse_other_versions

on_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray isn't installed: tox run -e ray")
pytestmark = pytest.mark.timeout(420)
BATCH = (Request(tuple(range(20, 36)), 8),) * 6
LOST_WITHIN_S = 30.0


@pytest.fixture(scope="module")
def cluster():
    """A head and a node."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - where it is installed

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1, resources={"second": 1})
    yield made
    made.shutdown()


@pytest.fixture
def pool():
    """Make a pool on the cluster at this address, which is stopped at the end."""
    pools = []

    def make(address, *, engine="ctranslate2", model="tiny-2x64", replicas=2, threads=1, resource="", **options):
        of = Pool(replicas, "ray", addresses=(address,), resource=resource)
        pools.append(registry.create(EngineSpec(engine, model, threads=threads, options=options, pool=of)))
        return pools[-1]

    yield make
    for one in pools:
        one.stop()


@on_ray
def test_each_node_has_a_replica(cluster, pool):
    """On a core of its own, with as many threads as were asked for; a batch is split between them."""
    both = pool(cluster.address)
    facts = both.start()
    assert facts.device == f"remote:ray {cluster.address}"
    assert facts.settings.items() >= {"threads": 1, "replicas": 2}.items()
    sent_ns = time.monotonic_ns()
    served = both.serve(BATCH, observe=True)
    error_ns = max(one.clock_error_ns for one in served.replicas)
    assert 0 < error_ns < 20_000_000
    assert served.output_tokens == (8,) * 6
    assert [one.output_tokens for one in served.replicas] == [24, 24]
    assert sent_ns - error_ns <= served.started_ns < served.ended_ns <= time.monotonic_ns() + error_ns
    assert all(served.started_ns <= at_ns <= served.ended_ns for times in served.token_ns for at_ns in times)
    names = [one.name for one in served.replicas]
    assert len({name.partition("core ")[2] for name in names}) == 2
    assert [name.partition(" (node ")[0] for name in names] == ["replica 1 of 2", "replica 2 of 2"]
    identities = [both._replicas[0]._places.ray.get(one._actor.identity.remote()) for one in both._replicas]
    assert [one.threads for one in identities] == ["1", "1"]
    if os.getuid() == 0:  # others find a setting
        assert {os.getpriority(os.PRIO_PROCESS, one.pid) for one in identities} == {os.getpriority(os.PRIO_PROCESS, 0)}
    assert served.peak_memory_bytes > 2 * 10**7


@on_ray
def test_answers_of_each_replica(cluster, pool):
    """Both tell the tokens that they generate, and they are the same."""
    both = pool(cluster.address)
    both.start()
    first, second = both.answers(BATCH[:2], together=False)
    assert first.answers == second.answers
    assert len(first.answers[0]) == 8


@on_ray
def test_requests_stream(cluster, pool):
    """Each part is stamped when it has come; batches and requests that come one by one may take turns."""
    both = pool(cluster.address, engine="fake", real_time=True, level=200)
    both.start()
    stamps = []

    async def several():
        answers = (both.stream(BATCH[0], lambda tokens: stamps.append((time.monotonic(), tokens))) for _ in range(4))
        return await asyncio.gather(*answers), await both.counters()

    for _ in range(2):
        answers, counters = both.run(several())
        assert sorted(one.replica for one in answers) == [1, 1, 2, 2]
        assert {one.output_tokens for one in answers} == {8}
        assert counters["running"] == 0
        assert both.serve(BATCH, observe=False).output_tokens == (8,) * 6
    assert sum(tokens for _, tokens in stamps) == 2 * 4 * 8
    assert stamps[-1][0] - stamps[0][0] > 0.03


@on_ray
def test_simulated_time_does_not_stream_to_another_process(cluster, pool):
    """The traffic's time would be one process's, and the engine's another's."""
    both = pool(cluster.address, engine="fake")
    both.start()
    assert both.serve(BATCH, observe=False).output_tokens == (8,) * 6
    with pytest.raises(Exception, match=r"replica 1 of 2 .*simulated time"):
        both.run(both.stream(BATCH[0], lambda _: None))


@on_ray
def test_a_custom_resource_chooses_the_node(cluster, pool):
    """Only nodes that have it are taken, and it isn't used up."""
    one = pool(cluster.address, engine="fake", replicas=1, resource="second")
    one.start()
    ray = one._replicas[0]._places.ray
    wanted = [node["NodeID"] for node in ray.nodes() if "second" in node["Resources"]]
    table = ray.util.placement_group_table(one._replicas[0]._places._group)
    assert list(table["bundles_to_node_id"].values()) == wanted


@on_ray
@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"replicas": 9}, r"no place for 9 replicas of 1 CPU each: its cluster has \d CPU, 1 second"),
        ({"resource": "a100"}, r"2 replicas of 1 CPU, 0.001 a100 each"),
    ],
)
def test_more_than_the_cluster_has(cluster, pool, wanted, said):
    """It is said at once, with what there is."""
    began = time.monotonic()
    with pytest.raises(EngineUnavailable, match=said):
        pool(cluster.address, engine="fake", **wanted).start()
    assert time.monotonic() - began < 30


@on_ray
def test_what_an_engine_raises_names_the_replica(cluster, pool):
    """As the error that it is, without a stack of Ray's."""
    with pytest.raises(EngineUnavailable, match=r"^replica 1 of 2 \(node [^)]*\): the fake engine was told not to be"):
        pool(cluster.address, engine="fake", fault="unavailable").start()
    both = pool(cluster.address, engine="fake", fault="memory", fault_batch=1)
    both.start()
    with pytest.raises(MemoryError, match=r"^replica 1 of 2 .*told to run out of memory"):
        both.serve(BATCH, observe=False)


@on_ray
def test_a_node_that_is_lost(cluster, pool):
    """Ray notices, and the replica that was there is named."""
    lost = cluster.add_node(num_cpus=1, resources={"lost": 1})
    one = pool(cluster.address, replicas=1, resource="lost")
    one.start()
    one.serve(BATCH, observe=False)
    cluster.remove_node(lost, allow_graceful=False)
    with pytest.raises(EngineDied, match=r"^replica 1 of 1 \(node .*\) died: "):
        _serve_for(one, LOST_WITHIN_S)
    cluster.wait_for_nodes()  # or the next test's replicas are placed on it


def _serve_for(engine, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        engine.serve(BATCH, observe=False)


@on_ray
def test_a_replica_that_is_killed_while_others_live(cluster, pool):
    """It is named, and the rest is ended."""
    both = pool(cluster.address, engine="fake", fault="dies", fault_batch=2)
    both.start()
    both.serve(BATCH, observe=False)
    with pytest.raises(EngineDied, match=r"^replica 1 of 2 .* died: "):
        both.serve(BATCH, observe=False)


@on_ray
def test_a_node_with_another_version_of_this_package(cluster, pool, tmp_path, monkeypatch):
    """Nothing is measured there: the node is named, with both versions."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")  # which Ray lets the nodes import from
    package = tmp_path / "pytest_slmperf"
    shutil.copytree(Path(pytest_slmperf.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    init = package / "__init__.py"
    init.write_text(init.read_text().replace(f'"{pytest_slmperf.__version__}"', '"0.0.1"'))
    other = cluster.add_node(num_cpus=1, resources={"other": 1}, env_vars={"PYTHONPATH": str(tmp_path)})
    try:
        with pytest.raises(EngineUnavailable, match=r"node .* has pytest-slmperf 0\.0\.1 \(sources \w+\), and this"):
            pool(cluster.address, engine="fake", replicas=1, resource="other").start()
    finally:
        cluster.remove_node(other)
        cluster.wait_for_nodes()


@on_ray
def test_a_cluster_of_another_version_of_ray(cluster):
    """Ray says so, and the way out is added."""
    from ray._raylet import GcsClient  # noqa: PLC0415 - where it is installed

    client, where = GcsClient(address=cluster.address), (b"CLUSTER_METADATA", b"cluster")
    metadata = client.internal_kv_get(*where)
    told = {**json.loads(metadata), "ray_version": "2.9.0"}
    client.internal_kv_put(where[0], json.dumps(told).encode(), True, where[1])
    try:
        # In a process of its own: a connection that broke off half-way leaves nodes that are added later without work.
        asked = f"from pytest_slmperf.pool.ray import Cluster; Cluster({cluster.address!r}).ray"
        done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=60, check=False)
        assert re.search(r"EngineUnavailable: .*Ray: 2\.9\.0.*; install the same versions of Ray and Py", done.stderr)
    finally:
        client.internal_kv_put(where[0], metadata, True, where[1])


@on_ray
def test_a_cluster_that_is_started_here():
    """Without an address: it ends with the pool, and its device is this machine's."""
    both = registry.create(EngineSpec("fake", "tiny", pool=Pool(2, "ray")))
    try:
        assert both.start().device == "simulated"
        assert both.serve(BATCH, observe=False).output_tokens == (8,) * 6
    finally:
        both.stop()


@on_ray
def test_nobody_at_the_head(pool):
    """It is said within seconds, with what to start."""
    began = time.monotonic()
    with pytest.raises(EngineUnavailable, match=r"the head of the Ray cluster at 127\.0\.0\.1:\d+ can't be reached"):
        pool(f"127.0.0.1:{free_port()}", engine="fake").start()
    assert time.monotonic() - began < 10


@on_ray
@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1:10001", "127.0.0.1"])
def test_an_address_of_no_cluster(pool, address):
    """HOST:PORT of the head is what it takes."""
    with pytest.raises(EngineUnavailable, match="no address of a Ray cluster"):
        pool(address, engine="fake").start()


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_ray_is_not_installed(pool):
    """The way out is the extra."""
    with pytest.raises(EngineUnavailable, match=r"Ray is not installed: pip install 'pytest-slmperf\[ray\]'"):
        pool("127.0.0.1:6379", engine="fake").start()


def test_one_cluster_has_one_address():
    """Others would be another cluster."""
    spec = EngineSpec("fake", "tiny", pool=Pool(2, "ray", addresses=("one:1", "two:2")))
    with pytest.raises((EngineUnavailable, UsageError), match="one cluster"):
        registry.create(spec).start()


@pytest.mark.parametrize(
    ("cores", "place", "own"),
    [
        (range(4), Place(0, 2), (0,)),
        (range(4), Place(1, 2), (1,)),
        (range(4), Place(1, 2, frozenset({0, 1})), (3,)),
        (range(2), Place(1, 2, frozenset({0})), (1,)),  # nobody has a core to spare
        (range(1), Place(0, 2), ()),
    ],
)
def test_replicas_on_one_machine_have_cores_of_their_own(cores, place, own):
    """And where there are enough, none of those of the process that asks them."""
    assert own_cores(Host("cpu", tuple(cores)), place, threads=1) == own


@pytest.mark.parametrize(
    ("package", "python", "said"),
    [
        ("0.0.1", platform.python_version(), "has pytest-slmperf 0.0.1, and this machine has"),
        (pytest_slmperf.__version__, platform.python_version(), r"has pytest-slmperf \S+, and this machine has \S+ \("),
        (package_here(), "3.10.1", "has Python 3.10.1, and this machine has"),
    ],
)
def test_versions_of_a_node_are_ours(package, python, said):
    """What is sent would mean something else there, or be measured in another way; so do other sources of one."""
    with pytest.raises(EngineUnavailable, match=f"the Ray node 10.0.0.2 {said}"):
        refuse_other_versions(Identity(package, python, "boot", 1, "1"), "10.0.0.2")
