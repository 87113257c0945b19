"""What a baseline holds for."""

from pytest_slmperf.core.engine import EngineFacts, EngineSpec
from pytest_slmperf.core.launch import LaunchRecord
from pytest_slmperf.core.sweep import Sweep
from pytest_slmperf.core.workload import ClosedLoop
from pytest_slmperf.run.key import case_key

SERVE = Sweep("serve", ClosedLoop(16, 16), model=["opt-125m"], concurrency=[8])


def key_of(**options):
    facts = EngineFacts("0.32", "cpu", "float32", "random", 2048, 1024, settings={"kv_blocks": 64})
    spec = EngineSpec("openai", "opt-125m", options=options)
    return case_key(SERVE, LaunchRecord("candidate", 0, spec, facts, {}, "2026-01-01T00:00:00+00:00", 0.1, {}))


def test_an_option_of_the_engine_is_part_of_it():
    """And so is what the engine resolved: with another, it is another measurement."""
    assert key_of(api="chat") != key_of(api="completions")
    assert key_of()["setting.kv_blocks"] == 64


def test_what_changes_no_measurement_is_no_part_of_it():
    """Who waits longer for a slow start, or keeps the server's log, has the same baseline as before."""
    assert key_of(start_limit_s=900, request_limit_s=60, log="server.log", key_env="MY_KEY", device_index=1) == key_of()
