"""A driver is changed: today's run is gated on the other one's baseline, and recordings of both are compared."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from onchip import BASELINE, SLOWER, OnChipProject

from pytest_slmperf.cli import main

pytest.importorskip("pynvml")
OLD, NEW = "580.65.06", "590.48.01"
DEVICE = "simulated-nvidia-h100-80gb-hbm3"
CASE = "decode/opt-125m/batch=4"
ON_NEW = (f"driver {NEW}",)
ACROSS = f"--slmperf-against=driver={OLD}"


@pytest.fixture(scope="module")
def recorded(recorded_once):
    """Baselines of the old driver, and of the new one, on which the engine is 20 % slower."""
    project = recorded_once(OnChipProject)
    said = project.run("--slmperf-accept", scenario=ON_NEW, environment=SLOWER)
    assert said.endswith("exit code 0"), said
    return project.path / "baselines"


@pytest.fixture
def project(recorded: Path, tmp_path: Path) -> OnChipProject:
    """A project with the baseline of the old driver alone."""
    (tmp_path / BASELINE).parent.mkdir(parents=True)
    shutil.copy(recorded.parent / BASELINE, tmp_path / BASELINE)
    return OnChipProject(tmp_path)


@pytest.fixture
def cli(recorded, tmp_path, monkeypatch, capsys):
    """Runs the program beside the baselines of both drivers."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(recorded, "baselines")

    def run(*words):
        code = main([*words])
        return code, capsys.readouterr().out

    return run


def test_a_new_driver_has_no_baseline_and_the_old_one_is_named(project):
    """Nothing is compared unasked; the way to compare is in the line."""
    said = project.run(scenario=ON_NEW)
    assert said.endswith("exit code 1"), said
    assert f"no-baseline: {CASE} output_throughput" in said
    assert f"--slmperf-against=driver={OLD}" in said


@pytest.mark.parametrize(("environment", "code", "status"), [({}, 0, "unchanged"), (SLOWER, 1, "regressed")])
def test_a_loss_of_the_new_driver_is_told_from_noise(project, environment, code, status):
    """Across the driver alone, the gate is the one of every day."""
    said = project.run(ACROSS, scenario=ON_NEW, environment=environment)
    assert said.endswith(f"exit code {code}"), said
    assert f"1 {status}" in said


def test_more_than_the_driver_is_refused_and_named(project):
    """Another power limit beside it makes the run incomparable; the field is named, and no option offered for it."""
    said = project.run(ACROSS, scenario=[*ON_NEW, "power_limit 0 500"])
    assert said.endswith("exit code 1"), said
    assert f"incomparable: {CASE} output_throughput" in said
    assert "holds for something else: power_limit_w: 700.0 (stored) → 500.0 (now)" in said
    assert "--slmperf-against=power_limit" not in said
    assert f"driver: {OLD} (stored)" not in said


def test_a_driver_that_nobody_recorded_is_named_with_those_that_somebody_did(project):
    """A mistyped driver finds nothing, and the place that was looked into is its own."""
    said = project.run("--slmperf-against=driver=1.2.3", scenario=ON_NEW)
    assert said.endswith("exit code 1"), said
    assert f"{DEVICE}/1.2.3/onchip-decode.json" in said
    assert f"baselines exist for driver {OLD}" in said


def test_recordings_of_two_drivers_are_compared(cli, tmp_path):
    """Old, new, ratio, interval and verdict of each case; what differs of the machine; the suite's mean; two files."""
    code, said = cli(
        "compare", f"baselines/{DEVICE}/{OLD}", f"baselines/{DEVICE}/{NEW}", "--report=x.json", "--report=x.md"
    )
    assert code == 1
    (row,) = [line.split() for line in said.splitlines() if line.startswith("opt-125m/batch=4 ")]
    old, new, change, verdict = float(row[2]), float(row[3]), float(row[5].strip("%")), row[-1]
    assert verdict == "regressed"
    assert new / old - 1 == pytest.approx(change / 100, abs=0.01)
    assert change == pytest.approx(-20, abs=2)
    assert f"differs, what is compared: driver: {OLD} → {NEW}\n" in said
    assert "geometric mean over the one case: output_throughput -" in said
    told = json.loads((tmp_path / "x.json").read_text())
    assert [(one["field"], one["old"], one["new"]) for one in told["changes"]] == [("driver", OLD, NEW)]
    assert (tmp_path / "x.md").read_text().startswith("### slmperf compare: 1 regressed")


def test_the_matrix_shows_both_drivers(cli):
    """Which have a baseline, and how the throughput moved."""
    code, said = cli(*shlex.split("baselines matrix"))
    assert code == 0
    header, _, cases, moved = said.splitlines()
    assert header.split()[-2:] == [OLD, NEW]
    assert cases.count("1, ") == 2
    assert float(moved.split()[1].strip("%")) == pytest.approx(-20, abs=2)
