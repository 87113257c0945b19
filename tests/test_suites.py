"""The shipped suites: what they state holds for the machines that they have sweeps for."""

import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pytest_slmperf import predicted_peak, shape_of

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "suites" / "test_memory.py"
MEMORY = runpy.run_path(str(SUITE))
PROCESS_BYTES = 64 * 2**20
"""An interpreter with the engine's libraries; 42 MiB were seen."""


def swept():
    """Each model and its largest batch: of the sweep itself, and of every machine where memory is the process's."""
    sweep = MEMORY["MEMORY"]
    models = [(model, max(sweep.batch_size)) for model in sweep.model]
    for machine in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["slmperf"]["machine"]:
        table = machine.get("sweep", {}).get("memory")
        if table and machine["when"].get("device") != "nvidia":
            models += [(model, max(table["batch_size"])) for model in table["model"]]
    return models


@pytest.mark.parametrize(("model", "batch_size"), swept())
def test_the_budget_has_room_for_what_is_swept(model, batch_size):
    """On no machine is the memory suite red before anything is measured."""
    peak = predicted_peak(
        shape_of(model), "float32", batch_size=batch_size, process_bytes=PROCESS_BYTES, **MEMORY["LENGTHS"]
    )
    assert peak.total < MEMORY["BUDGETS"][model]


def memory_suite(folder, *options):
    """A run of the memory suite in an empty folder, where no machine's sweep is set."""
    (folder / SUITE.name).write_text(SUITE.read_text(encoding="utf-8"), encoding="utf-8")
    command = (sys.executable, "-m", "pytest", "--slmperf", "--slmperf-no-gate", "-rs", "-p", "no:cacheprovider")
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, encoding="utf-8", check=False)
    return done.stdout + done.stderr


def test_a_gpus_memory_is_not_asked_of_an_engine_that_does_not_know_it(tmp_path):
    """The suite is skipped with the reason, before a launch."""
    said = memory_suite(tmp_path, "--slmperf-engine=ctranslate2:device=cuda")
    assert "doesn't say how much memory of a GPU it takes" in said
    assert "4 skipped" in said


def test_one_batch_size_alone_says_nothing_of_growth(tmp_path):
    """Where a machine sweeps one batch size, the tests that compare two are skipped with the reason."""
    (tmp_path / "pyproject.toml").write_text(
        "[[tool.slmperf.machine]]\nwhen = {}\nsweep.memory = { batch_size = [8] }\n", encoding="utf-8"
    )
    said = memory_suite(tmp_path, "--slmperf-engine=fake")
    assert "growth takes two batch sizes" in said
    assert "failed" not in said
