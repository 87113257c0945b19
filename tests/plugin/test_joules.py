"""A suite that gates joules per token, as a whole run on the stand-in driver."""

import json
from pathlib import Path
from statistics import median

import pytest
from metered import BASELINE, IDLE_W, MeteredProject

pytest.importorskip("pynvml")
JOULES = "metered/opt-125m/batch=4 joules_per_output_token"


@pytest.fixture
def project(metered: MeteredProject, tmp_path: Path) -> MeteredProject:
    """A project with a baseline."""
    return metered.again(tmp_path)


def test_a_recording_keeps_the_board_that_its_joules_hold_for(metered):
    """The file has its UUID, whether it was simulated, and the clock that it ran at."""
    text = (metered.path / BASELINE).read_text()
    assert '"GPU-00000000-0000-4000-8000-000000000000": {' in text
    assert '"simulated": true' in text
    assert '"sm_clock_mhz": {' in text


def test_joules_net_of_idle_stand_in_the_report_and_in_no_verdict(project):
    """They come with an error, of the board's power before the engine's start, and the gate is of gross joules."""
    said = project.run("--slmperf-report=report.json")
    assert said.endswith("exit code 0"), said
    assert "2 unchanged" in said
    (sweep,) = json.loads((project.path / "report.json").read_text())["sweeps"]
    (case,) = sweep["cases"]
    (board,) = case["boards"].values()
    gross = median(rounds[0] for rounds in case["samples"]["joules_per_output_token"]["launches"])
    power = median(rounds[0] for rounds in case["samples"]["mean_power_w"]["launches"])
    assert board["idle_w"] == pytest.approx(IDLE_W, rel=0.05)
    assert case["net_of_idle"]["joules_per_output_token"] == pytest.approx(gross * (1 - IDLE_W / power), rel=0.1)
    assert 0 < case["net_of_idle"]["error"] < 0.2 * gross
    assert set(case["verdicts"]) == {"output_throughput", "joules_per_output_token"}


def test_without_a_driver_joules_are_red_with_the_reason_and_throughput_is_gated(project):
    """Where a missing meter is set to be red."""
    project.settings("missing_meter = 'red'")
    said = project.run(scenario=["init DRIVER_NOT_LOADED"])
    assert said.endswith("exit code 1"), said
    held = "the baseline holds it, and nothing tells it now"
    assert f"unmeasured: {JOULES} - {held}: no joules of NVIDIA boards: the NVIDIA driver is not loaded" in said
    assert "1 unchanged, 1 unmeasured" in said


WATCHED = """
import pytest

from pytest_slmperf import StaticBatch, Sweep

WATCHED = Sweep("watched", StaticBatch(prompt_tokens=8, output_tokens=8), batch_size=[4])


@pytest.fixture(scope="module")
def watched(slmperf, slm_engine):
    return slmperf.measure(WATCHED, slm_engine("opt-125m"))


@WATCHED.each
def test_power(watched, batch_size, energy_meter):
    assert (energy_meter.source, energy_meter.simulated, energy_meter.missing) == ("counter", True, "")
    assert watched[batch_size].joules_per_output_token <= 0.3
    assert watched[batch_size].gpu_utilisation >= 0.5
"""


def test_a_test_that_uses_the_meter_has_joules_measured_that_nothing_gates(tmp_path):
    """It may state limits of its own, and knows where the joules come from."""
    project = MeteredProject(tmp_path)
    project.write("test_suite.py", WATCHED)
    said = project.run()
    assert said.endswith("exit code 0"), said
