"""A project whose engine runs on a GPU, of which the stand-in driver tells: each run is a process of its own."""

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import metered
import nvml_standin
from projects import Project

ENGINE = "onchip:noise=0.002,launch_noise=0.002,seed=1"
IN_REAL_TIME = "onchip:real_time=true,load_log=load,noise=0.001,seed=1"
SLOWER = {"ONCHIP_LEVEL": "8"}
"""Makes the engine 20 % slower, and no other engine of it."""
BASELINE = "baselines/simulated-nvidia-h100-80gb-hbm3/580.65.06/onchip-decode.json"
OTHER_BOARD = "uuid GPU-11111111-0000-4000-8000-000000000000"

SETTINGS = """
[tool.slmperf]
rounds = 1
round_s = 10  # of a clock that costs nothing, so that what this machine does meanwhile is a small share of it
void_retries = 10
max_launches = 8
order_seed = 1

[[tool.slmperf.machine]]
when = { device = "nvidia" }
sweep.decode = { batch_size = [4] }

[tool.pytest.ini_options]
filterwarnings = ["error"]
"""

SUITE = """
import pytest

from pytest_slmperf import StaticBatch, Sweep

DECODE = Sweep("decode", StaticBatch(prompt_tokens=16, output_tokens=16), batch_size=[1, 16],
               gate={"output_throughput": 0.05})


@pytest.fixture(scope="module")
def decode(slmperf, slm_engine):
    return slmperf.measure(DECODE, slm_engine("opt-125m"))


@DECODE.each
def test_throughput(decode, batch_size):
    point = decode[batch_size]
    assert point.output_throughput >= point.baseline.output_throughput
"""

PACKAGE = '''
"""An engine of another package that says it runs on a GPU. Its times are the fake engine's."""

import os
from dataclasses import replace

from pytest_slmperf.engines import fake


class OnChip:
    def __init__(self, spec):
        placed = ("device", "device_index", "tensor_parallel_size")
        own = {name: value for name, value in spec.options.items() if name not in placed}
        own["level"] = float(os.environ.get("ONCHIP_LEVEL", 10))
        self._engine = fake.create(replace(spec, options=own))
        self.serve, self.stop = self._engine.serve, self._engine.stop

    def start(self):
        return replace(self._engine.start(), device="cuda")


def create(spec):
    return OnChip(spec)


create.device = "cuda"
'''


class OnChipProject(Project):
    """A folder with that suite, and the engine's package."""

    def __init__(self, path: Path, package: str = PACKAGE) -> None:
        super().__init__(path)
        self.write("pyproject.toml", SETTINGS)
        self.write("test_suite.py", SUITE)
        self.write("packages/onchip_engine.py", package)
        self.write("packages/onchip-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: onchip\nVersion: 1\n")
        self.write("packages/onchip-1.dist-info/entry_points.txt", "[slmperf.engines]\nonchip = onchip_engine:create\n")

    def run(
        self,
        *args: str,
        scenario: Iterable[str] = (),
        engine: str = ENGINE,
        environment: Mapping[str, str] | None = None,
        keep: tuple[str, ...] = (),
    ) -> str:
        """What `pytest --slmperf` says; the last line is its exit code."""
        driver = nvml_standin.environment(nvml_standin.write_scenario(self.path / "scenario", scenario))
        ours = {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(self.path / "packages"), os.environ.get("PYTHONPATH")])),
            "CUDA_MPS_PIPE_DIRECTORY": str(self.path / "pipes"),  # whatever daemon this machine has
            "COLUMNS": "200",
        }
        done = subprocess.run(
            self.command(*args, engine=engine, keep=keep),
            cwd=self.path,
            env={**os.environ, **driver, **ours, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return f"{done.stdout}{done.stderr}\nexit code {done.returncode}"


class GpuProject(OnChipProject):
    """A folder with a suite that gates joules. The engine serves in real time, in batches so long that what else this
    machine does is a small share of them.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        settings = metered.SETTINGS.replace("round_s = 0.02", "round_s = 0.1").replace("rounds = 2", "rounds = 1")
        self.write("pyproject.toml", settings.replace("[tool.slmperf]", "[tool.slmperf]\nvoid_retries = 10"))
        self.write("test_suite.py", metered.SUITE.replace("0.03", "0.1"))

    def on(self, *args: str, scenario: tuple[str, ...] = (), watts: float = 1, engine: str = IN_REAL_TIME) -> str:
        """What `pytest --slmperf` says on a board with so many times the watts; the last line is its exit code."""
        (self.path / "load").unlink(missing_ok=True)
        load = f"load {self.path / 'load'} {watts * metered.IDLE_W} {watts * metered.BUSY_W}"
        return self.run(
            *args,
            scenario=(load, "period 0.02", *scenario),
            engine=engine,
            environment={"ONCHIP_LEVEL": "100"},
        )
