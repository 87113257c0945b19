"""A project whose suite gates joules, on the stand-in driver: each run is a process of its own, in real time.

A window is short and the tolerance wide: on a machine where ten others work, too, joules of 0.2 s are off by 5 %, and
the tests are about what is done with them.
"""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import nvml_standin
from projects import Project

ENGINE = "fake:real_time=true,load_log=load,noise=0.001,seed=1"
IDLE_W, BUSY_W = 100, 500
BASELINE = "baselines/simulated/simulated/fake-metered.json"

SETTINGS = """
[tool.slmperf]
rounds = 2
round_s = 0.02
window_s = 0.2
lead_in_s = 0.05
max_launches = 8
order_seed = 1

[tool.pytest.ini_options]
filterwarnings = ["error"]
"""

SUITE = """
import pytest

from pytest_slmperf import StaticBatch, Sweep

METERED = Sweep("metered", StaticBatch(prompt_tokens=8, output_tokens=8), batch_size=[4],
                gate={"output_throughput": 0.03, "joules_per_output_token": 0.15})


@pytest.fixture(scope="module")
def metered(slmperf, slm_engine, energy_meter):
    return slmperf.measure(METERED, slm_engine("opt-125m"))


@METERED.each
def test_throughput(metered, batch_size):
    point = metered[batch_size]
    assert point.output_throughput >= point.baseline.output_throughput


@METERED.each
def test_energy(metered, batch_size):
    point = metered[batch_size]
    assert point.joules_per_output_token <= point.baseline.joules_per_output_token
"""


class MeteredProject(Project):
    """A folder with a suite that gates joules."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.write("pyproject.toml", SETTINGS)
        self.write("test_suite.py", SUITE)

    def run(self, *args: str, scenario: Iterable[str] = (), idle_w: float = IDLE_W, busy_w: float = BUSY_W) -> str:
        """What `pytest --slmperf` says; the last line is its exit code."""
        (self.path / "load").unlink(missing_ok=True)
        statements = [f"load {self.path / 'load'} {idle_w} {busy_w}", "period 0.02", *scenario]
        environment = nvml_standin.environment(nvml_standin.write_scenario(self.path / "scenario", statements))
        done = subprocess.run(
            self.command(*args, engine=ENGINE),
            cwd=self.path,
            env={**os.environ, **environment, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return f"{done.stdout}{done.stderr}\nexit code {done.returncode}"
