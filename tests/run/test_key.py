"""What a baseline holds for."""

from pytest_slmperf.core.engine import EngineFacts, EngineSpec
from pytest_slmperf.core.launch import LaunchRecord, RoundPolicy
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.sweeps.search import Search
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.core.sweeps.workload import ClosedLoop
from pytest_slmperf.run.key import case_key

SERVE = Sweep("serve", ClosedLoop(16, 16), model=["opt-125m"], concurrency=[8])
POLICY = RoundPolicy()


def key_of(pool=None, sweep=SERVE, policy=POLICY, **options):
    facts = EngineFacts("0.32", "cpu", "float32", "random", 2048, 1024, settings={"kv_blocks": 64})
    spec = EngineSpec("openai", "opt-125m", options=options, pool=pool)
    record = LaunchRecord("candidate", 0, spec, facts, {}, "2026-01-01T00:00:00+00:00", 0.1, {})
    return case_key(sweep, record, policy)


def test_an_option_of_the_engine_is_part_of_it():
    """And so is what the engine resolved: with another, it is another measurement."""
    assert key_of(api="chat") != key_of(api="completions")
    assert key_of()["setting.kv_blocks"] == 64


def test_what_changes_no_measurement_is_no_part_of_it():
    """Who waits longer for a slow start, or keeps the server's log, has the same baseline as before."""
    assert key_of(start_limit_s=900, request_limit_s=60, log="server.log", key_env="MY_KEY", device_index=1) == key_of()


def test_a_pool_is_part_of_it_with_the_nodes_that_it_may_take():
    """Replicas on nodes of one kind are no measurement of those on another; one of any kind names none."""
    here, there = (key_of(Pool(2, "ray", resource=f"accelerator_type:{board}")) for board in ("L4", "H100"))
    assert (here["replicas"], here["pool_resource"]) == (2, "accelerator_type:L4")
    assert here != there
    assert "pool_resource" not in key_of(Pool(2, "ray"))


def test_a_count_of_replicas_stands_once_in_it():
    """Also where the engine tells it as a setting that it resolved."""
    facts = EngineFacts("0.32", "cpu", "float32", "random", 2048, 1024, settings={"replicas": 2, "kv_blocks": 64})
    record = LaunchRecord(
        "candidate", 0, EngineSpec("fake", "opt-125m", pool=Pool(2)), facts, {}, "2026-01-01T00:00:00+00:00", 0.1, {}
    )
    key = case_key(SERVE, record, POLICY)
    assert (key["replicas"], key["setting.kv_blocks"]) == (2, 64)
    assert "setting.replicas" not in key


def test_how_long_a_search_probes_is_part_of_it():
    """The longer requests may pile up, the lower the rate that it finds; a listed place is the same place."""
    users = Sweep("users", ClosedLoop(16, 16), concurrency=Search(1, 64), slo=Slo(tpot_ms=30))
    longer, more = RoundPolicy(traffic_s=60), RoundPolicy(observed_requests=1000)
    assert key_of(sweep=users, policy=longer)["search.traffic_s"] == 60
    assert key_of(sweep=users, policy=more)["search.requests"] == 1000
    assert key_of(policy=longer) == key_of(policy=more) == key_of()
