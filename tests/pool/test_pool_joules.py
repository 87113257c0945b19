"""Joules of a pool whose replicas share a board, over the stand-in driver."""

import os
from contextlib import closing

import pytest
from nvml_fixtures import driver, stub  # noqa: F401

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.run.launch import run_launch
from pytest_slmperf.run.launch.terms import EnergyTerms
from pytest_slmperf.run.metering import open_nvml

LOAD = Load("metered/tiny/batch=4", ((8, 64),) * 4, seed=1)
IDLE_W, BUSY_W, SHARE = 100, 500, 0.4
"""Of the board, and how busy one replica makes it."""
ENGINE = """
from pytest_slmperf.engines import fake

class Engine:
    def __init__(self, spec):
        engine = fake.create(spec)
        self.start, self.serve, self.stop = engine.start, engine.serve, engine.stop
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two replicas need two cores")
def test_the_joules_of_a_shared_board_are_counted_once(driver, tmp_path, monkeypatch):  # noqa: F811 - a fixture's name
    """The watts of the one board under both replicas, over the tokens of both."""
    (tmp_path / "shared_engine.py").write_text(ENGINE)
    package = tmp_path / "shared-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: shared\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[slmperf.engines]\nshared = shared_engine:Engine\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    log = tmp_path / "load"
    driver(f"load {log} {IDLE_W} {BUSY_W}", "period 0.02", real=True)
    options = {"load_log": str(log), "load": SHARE, "real_time": True}
    with closing(open_nvml(window_s=0.5, lead_in_s=0.05)) as metering:
        record = run_launch(
            EngineSpec("shared", "tiny", options=options, pool=Pool(2)),
            [LOAD],
            RoundPolicy(rounds=1, round_s=0.02, void_retries=4, answer_limit_s=20),
            arm="candidate",
            index=0,
            cores=None,
            quantiles=(0.5,),
            energy=EnergyTerms(metering, gated=True, timed=True),
        )
    case = record.cases[LOAD.case]
    assert not case.void
    assert list(case.boards) == ["GPU-00000000-0000-4000-8000-000000000000"]
    values = {name: found[0] for name, found in case.values.items()}
    assert values["mean_power_w"] == pytest.approx(IDLE_W + 2 * SHARE * (BUSY_W - IDLE_W), rel=0.1)
    tokens_per_s = values["mean_power_w"] / values["joules_per_output_token"]
    assert tokens_per_s == pytest.approx(values["output_throughput"], rel=0.1)
    both = values["replica_1_output_throughput"] + values["replica_2_output_throughput"]
    assert tokens_per_s == pytest.approx(both, rel=0.1)
