"""Two drivers of one board, as recordings that the stand-in driver replays under whole runs: is the newer one worse?

The recordings are synthetic, in the format of the recorder. The engine's times are real. Most runs are on a device that
is simulated, so that what else this machine does voids nothing; where the driver is the machine's, on a GPU.
"""

import json
import random
from pathlib import Path

import nvml_recording
import pytest
from metered import BASELINE, MeteredProject
from onchip import GpuProject

from pytest_slmperf.cli import main

pytest.importorskip("pynvml")
OLD, NEW = "580.65.06", "590.48.01"
WATTS, WORSE = 400, 1.3
PERIOD_S, LASTS_S = 0.02, 5.0
JOULES = "metered/opt-125m/batch=4 joules_per_output_token"


def record(path, driver, watts, seed):
    """A recording of a board under load: its power scatters by 2 % from update to update, and drifts by 1 %."""
    draw, at_us, mj, edges, rows = random.Random(seed), 0, 7_000_000, [], []
    drift = draw.uniform(0.99, 1.01)
    while at_us < LASTS_S * 1e6:
        edges.append([at_us, at_us + 900, mj])
        power_mw = round(watts * drift * draw.gauss(1, 0.02) * 1000)
        rows.append([at_us, [power_mw] * 3, power_mw, 1980, 3201, 60, 0, [97, 60]])
        at_us += round(PERIOD_S * 1e6)
        mj += round(power_mw * PERIOD_S)
    table = {
        "Name": ["NVIDIA H200", 9.0], "UUID": ["GPU-5e9e71c0-0000-4000-8000-000000000001", 9.0],
        "SystemGetDriverVersion": [driver, 9.0],
    }  # fmt: skip
    told = {"synthetic": True, "slow": {"seconds": LASTS_S, "edges": edges, "rows": rows}, "table": table}
    path.write_text(json.dumps(told))
    return path


class RecordedBoard(MeteredProject):
    """A suite that gates joules on a board that was recorded."""

    def measure(self, *args, driver=OLD, watts=WATTS, seed=1):
        """What a run says on the board under a driver."""
        recording = record(self.path / f"nvml_{driver}.json", driver, watts, seed)
        return self.run(*args, scenario=nvml_recording.board_of(recording, self.path), idle_w=0, busy_w=0)


@pytest.fixture(scope="module")
def recorded(recorded_once) -> RecordedBoard:
    """A project with a baseline of the old driver."""
    return recorded_once(RecordedBoard, lambda project: project.measure("--slmperf-accept"))


@pytest.fixture
def project(recorded: RecordedBoard, tmp_path: Path) -> RecordedBoard:
    """A project with that baseline."""
    return recorded.again(tmp_path)


def compared(project, capsys):
    """What `slmperf compare` says of the baseline and the last run's report, and its exit code."""
    code = main(["compare", str(project.path / BASELINE), str(project.path / "report.json")])
    return capsys.readouterr().out, code


def test_a_driver_that_differs_by_noise_is_unchanged(project, capsys):
    """The gate is green, and `slmperf compare` of the same runs agrees."""
    said = project.measure("--slmperf-report=report.json", driver=NEW, seed=2)
    assert said.endswith("exit code 0"), said
    assert "2 unchanged" in said
    told, code = compared(project, capsys)
    assert code == 0, told


def test_a_driver_that_takes_more_power_is_red_for_joules_alone(project, capsys):
    """The gate and `slmperf compare` say so alike, and throughput is unchanged."""
    said = project.measure("--slmperf-report=report.json", driver=NEW, watts=WORSE * WATTS, seed=3)
    assert said.endswith("exit code 1"), said
    assert f"regressed: {JOULES}" in said
    assert "1 unchanged, 1 regressed" in said
    told, code = compared(project, capsys)
    assert code == 1, told
    assert f"1 regressed: {JOULES}" in told
    assert "1 unchanged, 1 regressed" in told


class RecordedGpu(GpuProject):
    """The same suite, whose engine runs on the GPU: its driver is the machine's."""

    def measure(self, *args, driver=OLD, watts=WATTS, seed=1):
        """What a run says on the board under a driver."""
        recording = record(self.path / f"nvml_{driver}.json", driver, watts, seed)
        return self.on(*args, scenario=nvml_recording.board_of(recording, self.path), watts=0)


@pytest.fixture(scope="module")
def on_a_gpu(recorded_once) -> RecordedGpu:
    """A project with a baseline of the old driver."""
    return recorded_once(RecordedGpu, lambda project: project.measure("--slmperf-accept"))


@pytest.mark.parametrize(
    ("watts", "code", "says"), [(WATTS, 0, "2 unchanged"), (WORSE * WATTS, 1, "1 unchanged, 1 regressed")]
)
def test_a_drivers_regression_is_told_from_noise_against_the_other_drivers_baseline(
    on_a_gpu, tmp_path, watts, code, says
):
    """The gate across the driver is the one of every day: red for joules alone, where the board takes more power."""
    project = on_a_gpu.again(tmp_path)
    said = project.measure(f"--slmperf-against=driver={OLD}", driver=NEW, watts=watts, seed=2)
    assert said.endswith(f"exit code {code}"), said
    assert says in said
    assert (f"regressed: {JOULES}" in said) is bool(code)
