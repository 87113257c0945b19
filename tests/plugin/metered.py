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
max_launches = 16
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

EVENTS = '''
"""Beside a run: what happens to the board and its engine a moment after its meter has begun to look at both."""

import ctypes
import os
import signal
import threading
import time
from contextlib import suppress
from itertools import cycle
from pathlib import Path

AMID_S, LASTS_S = 0.05, 0.3  # after the meter's start, while the load goes on


def meter():
    return next((one for one in threading.enumerate() if one.name == "slmperf-nvml" and one.is_alive()), None)


def engine():
    with suppress(FileNotFoundError, ProcessLookupError):  # the meter also looks before an engine's start
        found = int(Path("load").read_text().splitlines()[-1].split()[0])
        os.kill(found, 0)
        return found


def rounds():
    looking = None
    while True:
        if looking:
            looking.join()
        while not (looking := meter()):
            time.sleep(0.002)
        if found := engine():
            yield found, (time.monotonic_ns() - epoch_ns()) / 1e9 + AMID_S


def epoch_ns():
    return int(Path("scenario").read_text().split()[1])


def happen(events):
    driver = ctypes.CDLL("libnvidia-ml.so.1")
    driver.nvmlstub_say.restype = ctypes.c_char_p
    for number, ((serving, then), event) in enumerate(zip(rounds(), cycle(events)), 1):
        if event == "engine pauses":
            time.sleep(AMID_S)
            os.kill(serving, signal.SIGSTOP)
            time.sleep(LASTS_S)
            os.kill(serving, signal.SIGCONT)
        else:
            said = event.format(then=then, later=then + LASTS_S, number=number)
            assert driver.nvmlstub_say(said.encode()) is None, said


def pytest_configure():
    events = Path("events").read_text().splitlines()
    threading.Thread(target=happen, args=(events,), daemon=True).start()
'''


class MeteredProject(Project):
    """A folder with a suite that gates joules."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.write("pyproject.toml", SETTINGS)
        self.write("test_suite.py", SUITE)

    def settings(self, *lines: str) -> None:
        """Add fields to [tool.slmperf], or set them otherwise."""
        names = {line.partition(" =")[0] for line in lines}
        kept = [line for line in SETTINGS.splitlines() if line.partition(" =")[0] not in names]
        self.write("pyproject.toml", "\n".join(kept).replace("[tool.slmperf]", "\n".join(["[tool.slmperf]", *lines])))

    def happens(self, *events: str) -> None:
        """What happens in the middle of the energy rounds, in turns: `engine pauses`, or a statement of the driver's
        scenario, in which `{then}` is when, `{later}` is a moment after, and `{number}` counts the rounds.
        """
        self.write("events", "\n".join(events))
        self.write("conftest.py", EVENTS)

    def run(
        self,
        *args: str,
        scenario: Iterable[str] = (),
        idle_w: float = IDLE_W,
        busy_w: float = BUSY_W,
        engine: str = ENGINE,
    ) -> str:
        """What `pytest --slmperf` says; the last line is its exit code."""
        (self.path / "load").unlink(missing_ok=True)
        statements = [f"load {self.path / 'load'} {idle_w} {busy_w}", "period 0.02", *scenario]
        environment = nvml_standin.environment(nvml_standin.write_scenario(self.path / "scenario", statements))
        done = subprocess.run(
            self.command(*args, engine=engine),
            cwd=self.path,
            env={**os.environ, **environment, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return f"{done.stdout}{done.stderr}\nexit code {done.returncode}"
