"""Recording and gating an engine on a GPU, as whole runs on the stand-in driver."""

import json
from pathlib import Path

import pytest
from onchip import BASELINE, OTHER_BOARD, PACKAGE, SLOWER, OnChipProject

pytest.importorskip("pynvml")
CASE = "decode/opt-125m/batch=4"


VARIABLES = {"VLLM_ATTENTION_BACKEND": "FLASHINFER", "VLLM_API_KEY": "sk-1", "CUDA_HOME": "/home/jane/cuda"}


@pytest.fixture(scope="module")
def recorded(recorded_once) -> OnChipProject:
    """A project with a baseline that was recorded among these variables."""
    return recorded_once(OnChipProject, lambda project: project.run("--slmperf-accept", environment=VARIABLES))


@pytest.fixture
def project(recorded: OnChipProject, tmp_path: Path) -> OnChipProject:
    """A project with that baseline."""
    return recorded.again(tmp_path)


def test_a_recording_holds_for_the_gpu_its_driver_and_how_it_is_set(recorded):
    """With the variables that engines read, and no secret or path among them; a stand-in's GPU is simulated."""
    text = (recorded.path / BASELINE).read_text()
    machine = json.loads(text)["machine"]
    assert (machine["device"], machine["driver"]) == ("simulated NVIDIA H100 80GB HBM3", "580.65.06")
    assert (machine["power_limit_w"], machine["ecc"], machine["mig"], machine["mps"]) == (700.0, True, False, False)
    assert machine["gpu_uuid"] == "GPU-00000000-0000-4000-8000-000000000000"
    assert {"cpu", "cores", "kernel", "vbios", "cuda_driver"} <= machine.keys()
    assert {name for name in machine if name.startswith("env.")} == {"env.VLLM_ATTENTION_BACKEND"}
    assert not any(secret in text for secret in ("sk-1", "jane"))


def test_a_loss_is_red(project):
    """An engine a fifth slower fails its test by name on a GPU as on a CPU."""
    said = project.run(environment=SLOWER)
    assert said.endswith("exit code 1"), said
    assert f"regressed: {CASE} output_throughput" in said


def test_it_is_gated_on_any_board_of_the_model_as_its_settings_say(project):
    """Which board it was is said; `when = { device = "nvidia" }` holds there."""
    said = project.run(scenario=[OTHER_BOARD])
    assert said.endswith("exit code 0"), said
    assert "1 unchanged" in said
    assert "gpu_uuid: GPU-00000000-0000-4000-8000-000000000000 (stored) → GPU-11111111" in said


def test_a_gpu_that_is_set_otherwise_is_incomparable(project):
    """Neither green nor a regression: the line names what is set how."""
    said = project.run(scenario=["power_limit 0 500"])
    assert said.endswith("exit code 1"), said
    assert f"incomparable: {CASE} output_throughput" in said
    assert "power_limit_w: 700.0 (stored) → 500.0 (now)" in said


def test_another_driver_is_compared_with_where_that_is_asked_for(project):
    """The baseline of the driver that is named is the one to compare with."""
    said = project.run("--slmperf-against=driver=580.65.06", scenario=["driver 590.48.01"])
    assert said.endswith("exit code 0"), said


def test_without_a_driver_a_run_on_a_gpu_is_refused_at_once(project):
    """Before any launch, since no baseline could be chosen; the reason is the driver's."""
    said = project.run(scenario=["init DRIVER_NOT_LOADED"])
    assert said.endswith("exit code 4"), said
    assert "is to run on a GPU (cuda), and what it is can't be found out: the NVIDIA driver is not loaded" in said


def test_without_the_library_a_run_on_a_gpu_says_what_to_install(project):
    """Before any launch: what the GPU is can't be found out without it."""
    project.write("packages/pynvml.py", "raise ImportError")
    said = project.run()
    assert said.endswith("exit code 4"), said
    assert "pip install 'pytest-slmperf[nvml]'" in said


def test_an_engine_that_turns_out_to_run_on_a_gpu_is_neither_recorded_nor_compared(tmp_path):
    """It didn't say so before it was started, so the machine was taken for its CPU; the way out is said."""
    project = OnChipProject(tmp_path, PACKAGE.replace("create.device", "unsaid"))
    (tmp_path / "baselines").mkdir()
    for args in (["--slmperf-accept"], []):
        said = project.run(*args)
        assert said.endswith("exit code 1"), said
        assert "the engine ran on cuda, and was taken for one on" in said
        assert "--slmperf-engine=onchip:device=cuda" in said
    assert not list(tmp_path.glob("baselines/*"))
