"""A suite that gates joules of an engine on a GPU, as whole runs over the stand-in driver: recorded, gated, refused.

Each batch lasts a tenth of a second, so that what else this machine does is a small share of it.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from few_launches import MEASURED, store
from metered import BUSY_W, IDLE_W
from onchip import IN_REAL_TIME, OTHER_BOARD, GpuProject
from projects import UNDECIDED

from pytest_slmperf.core.baselines.recordable import LEAST_LAUNCHES

pytest.importorskip("pynvml")
DEVICE = "simulated-nvidia-h100-80gb-hbm3"
BASELINE = f"baselines/{DEVICE}/580.65.06/onchip-metered.json"
JOULES = "metered/opt-125m/batch=4 joules_per_output_token"


@pytest.fixture(scope="module")
def recorded(recorded_once) -> GpuProject:
    """A project with a baseline, and the report that it is of."""
    return recorded_once(GpuProject, lambda project: store(project, project.on(*MEASURED)))


@pytest.fixture
def project(recorded: GpuProject, tmp_path: Path) -> GpuProject:
    """A project with that baseline."""
    return recorded.again(tmp_path)


def test_what_is_recorded_holds_for_a_simulated_gpu_alone(recorded):
    """Its device's name says so, and so does the board that its joules come from."""
    file = json.loads((recorded.path / BASELINE).read_text())
    assert file["machine"]["device"] == "simulated NVIDIA H100 80GB HBM3"
    (point,) = next(iter(file["cases"].values()))["points"]
    assert [board["simulated"] for board in point["boards"].values()] == [True]
    assert [path.name for path in (recorded.path / "baselines").iterdir()] == [DEVICE]


def test_unchanged_joules_are_green(project):
    """The same GPU and engine again are gated in throughput and joules."""
    said = project.on()
    assert said.endswith("exit code 0"), said
    assert "2 unchanged" in said


def test_half_as_many_watts_again_are_red_for_joules_alone(project):
    """The throughput of the same case stays unchanged."""
    said = project.on(watts=1.5)
    assert said.endswith("exit code 1"), said
    assert f"regressed: {JOULES}" in said
    assert "1 unchanged, 1 regressed" in said


def test_joules_of_another_board_are_reported_and_not_gated(project):
    """Although they are much higher there; the throughput is gated on any board of the model."""
    said = project.on("-rs", scenario=(OTHER_BOARD,), watts=1.5)
    assert said.endswith("exit code 0"), said
    assert "1 unchanged" in said
    assert "joules are reported and not gated" in said
    assert "SKIPPED" in said


ON_TWO = f"{IN_REAL_TIME},tensor_parallel_size=2"
SECOND = "GPU-00000000-0000-4000-8000-000000000001"


def test_an_engine_on_two_gpus_has_the_joules_of_both_and_a_baseline_of_its_own(recorded, project, tmp_path):
    """Of boards that take unlike power: the sum, each with its facts."""
    other = "board 1", f"load {tmp_path / 'load'} {2 * IDLE_W} {2 * BUSY_W}"
    said = project.on("--slmperf-no-gate", "--slmperf-report=report.json", scenario=("boards 2", *other), engine=ON_TWO)
    assert said.endswith("exit code 0"), said
    watts = {}
    for name, ran in (("one", recorded), ("two", project)):
        report = json.loads((ran.path / "report.json").read_text())
        (case,) = report["sweeps"][0]["cases"]
        watts[name] = median(rounds[0] for rounds in case["samples"]["mean_power_w"]["launches"])
        boards = case["boards"]
    assert watts["two"] == pytest.approx(3 * watts["one"], rel=0.1)
    assert list(boards) == ["GPU-00000000-0000-4000-8000-000000000000", SECOND]
    assert boards[SECOND]["idle_w"] == pytest.approx(2 * IDLE_W, rel=0.1)
    assert report["machine"]["device"] == "simulated 2 x NVIDIA H100 80GB HBM3"
    assert report["machine"]["fields"]["gpu_uuid"] == ", ".join(boards)
    gated = project.on(UNDECIDED, scenario=("boards 2", *other), engine=ON_TWO)
    assert gated.endswith("exit code 1"), gated
    assert f"no-baseline: {JOULES}" in gated


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("init LIB_RM_VERSION_MISMATCH", "was updated, and the machine not rebooted"),
        ("init NO_PERMISSION", "this user may not ask for it"),
        ("lost 0", "the GPU is lost"),
        ("missing *", "this driver is too old for it"),
        ("powr 0 400", "the driver refuses the question"),
    ],
)
def test_a_gpu_of_which_nothing_can_be_known_is_refused_at_once(project, fault, says):
    """Before any launch, as an error of use with the driver's reason, not as a skipped test."""
    said = project.on(scenario=(fault,))
    assert said.endswith("exit code 4"), said
    assert says in said


def test_relabelled_as_a_real_gpus_it_is_not_recorded(recorded, tmp_path):
    """A report whose machine was renamed by hand: its joules still say that a stand-in told them."""
    report = json.loads((recorded.path / "report.json").read_text().replace("simulated NVIDIA", "NVIDIA"))
    for sample in report["sweeps"][0]["cases"][0]["samples"].values():
        sample["launches"] = (sample["launches"] * LEAST_LAUNCHES)[:LEAST_LAUNCHES]
    (tmp_path / "report.json").write_text(json.dumps(report))
    shutil.copy(recorded.path / "pyproject.toml", tmp_path)
    program = "import sys; from pytest_slmperf.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "baselines", "accept", "report.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done
    assert "its joules are simulated: a stand-in driver told them" in done.stdout + done.stderr
    assert not (tmp_path / "baselines").exists()
