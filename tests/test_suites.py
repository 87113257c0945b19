"""The shipped suites: what they state holds for the machines that they have sweeps for."""

import os
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from neighbours import without

from pytest_slmperf import Sweep, predicted_peak, shape_of
from pytest_slmperf.run.settings import read_settings

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "suites" / "test_memory.py"
MEMORY = runpy.run_path(str(SUITE))
SUITES = {path.stem: runpy.run_path(str(path)) for path in sorted((ROOT / "suites").glob("test_*.py"))}
SWEEPS = {one.name: one for suite in SUITES.values() for one in suite.values() if isinstance(one, Sweep)}
PROCESS_BYTES = 32 * 2**20
"""An interpreter that has loaded the engine's libraries; 22 MiB were seen, their pages not counted."""


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


def memory_suite(folder, *options, swept=""):
    """A run of the memory suite in an empty folder, where the machine's settings say this of its sweep."""
    return run(
        folder, SUITE, *options, settings=f"[[tool.slmperf.machine]]\nwhen = {{}}\nsweep.memory = {{ {swept} }}\n"
    )


def run(folder, suite, *options, settings=""):
    """A run of a suite in an empty folder of a project with these settings."""
    (folder / suite.name).write_text(suite.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "pyproject.toml").write_text(settings, encoding="utf-8")
    command = (sys.executable, "-m", "pytest", "--slmperf", "-rs", *without())
    environment = {**os.environ, "COLUMNS": "400"}
    done = subprocess.run(
        [*command, *options], cwd=folder, capture_output=True, encoding="utf-8", env=environment, check=False
    )
    return f"{done.stdout}{done.stderr}\nexit code {done.returncode}"


SILENT = "--slmperf-engine=fake:tells_memory=false"
"""An engine that doesn't say its memory, as CTranslate2 on a GPU."""


JUDGED = """
from pytest_slmperf import StaticBatch, Sweep

LATENCY = Sweep("latency", StaticBatch(prompt_tokens=8, output_tokens=8), model=["tiny-2x128"], batch_size=[1])

@LATENCY.each
def test_first_token(slmperf, slm_engine, batch_size):
    assert slmperf.measure(LATENCY, slm_engine)[batch_size].ttft_ms <= 60_000
"""


def test_a_run_is_green_where_the_settings_leave_out_what_the_engine_does_not_tell(tmp_path):
    """Beside a sweep that is judged: what no baseline is asked of is skipped with the reason, as the report says."""
    (tmp_path / "test_judged.py").write_text(JUDGED, encoding="utf-8")
    said = memory_suite(tmp_path, SILENT, swept="gate = []")
    assert said.endswith("exit code 0")
    assert "2 passed, 4 skipped" in said
    assert ": this machine's settings don't gate peak_memory_bytes\n" in said
    assert "note: this machine's settings don't gate peak_memory_bytes: not judged" in said


def test_a_run_is_red_where_the_engine_does_not_tell_what_is_gated(tmp_path):
    """Nothing that is gated is left out in silence, and the way out is told."""
    baselines = f"--slmperf-baselines={tmp_path / 'baselines'}"
    said = memory_suite(tmp_path, "--slmperf-engine=fake:tells_memory=true", baselines, "--slmperf-accept")
    assert said.endswith("exit code 0")
    said = memory_suite(tmp_path, SILENT, baselines, "--slmperf-against=option.tells_memory=True")
    assert "[[tool.slmperf.machine]] may leave it out of the sweep's gate" in said
    assert said.endswith("exit code 1")


@pytest.mark.parametrize(
    ("engine", "device"), [("ctranslate2", "cuda"), ("transformers", "cpu"), ("fake", "simulated")]
)
def test_the_model_of_memory_is_of_one_engine_on_one_device(engine, device):
    """Of others nothing is predicted: the tests that would compare with it are skipped."""
    point = SimpleNamespace(key={"engine": engine, "device": device, "dtype": "float32"}, batch_size=8)
    with pytest.raises(pytest.skip.Exception, match="the model of memory is of CTranslate2 on a CPU"):
        MEMORY["predicted"]("opt-125m", point)


def test_one_batch_size_alone_says_nothing_of_growth(tmp_path):
    """Where a machine sweeps one batch size, the tests that compare two are skipped with the reason."""
    said = memory_suite(tmp_path, "--slmperf-engine=fake", "--slmperf-no-gate", swept="batch_size = [8]")
    assert "growth takes two batch sizes" in said
    assert said.endswith("exit code 0")


def test_realistic_load_is_measured_on_an_engine_that_streams(tmp_path):
    """At concurrencies, at rates and as a trace has it."""
    said = run(tmp_path, ROOT / "suites" / "test_load.py", "--slmperf-engine=fake", "--slmperf-no-gate")
    assert said.endswith("exit code 0")
    assert all(case in said for case in ("tiny-2x128/concurrency=32", "tiny-2x128/rate=8", "tiny-2x128/speed=1"))
    assert "7 cases measured, nothing judged" in said


def test_models_side_by_side_are_held_to_limits_of_each(tmp_path):
    """In batches and with users of their own, where an engine streams."""
    said = run(tmp_path, ROOT / "suites" / "test_mix.py", "--slmperf-engine=fake", "-k", "slo_of")
    assert said.endswith("exit code 0")
    asked = ("@4/batch=8 at least 20 tok/s beside_1_output", "@4rps/rate=8 at least 0.9 share beside_1_goodput_share")
    words = " ".join(said.split())
    assert all(one in words for one in asked)


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_names_the_paper_that_it_repeats(suite):
    """By its arXiv number, in the docstring; and the documents have a row for it."""
    assert "arXiv 2404.03353" in SUITES[suite]["__doc__"] or "arXiv 2503.08311" in SUITES[suite]["__doc__"]
    assert f"`{suite}.py`" in (ROOT / "docs" / "suites.md").read_text(encoding="utf-8")
    assert f"suites/{suite}.py" in (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("machine", read_settings(ROOT).machine, ids=lambda machine: str(machine.when))
def test_a_table_is_of_sweeps_that_there_are(machine):
    """Each with models of the table of shapes, and a GPU has a table for every sweep."""
    for name, axes in machine.sweep.items():
        assert [shape_of(model) for model in SWEEPS[name].on(axes).model]
    if machine.when.get("device") == "nvidia":
        assert machine.sweep.keys() == SWEEPS.keys()


@pytest.mark.parametrize("name", SWEEPS)
def test_the_small_variant_is_small(name):
    """Without a table for a machine: tiny models, on no more than two cores, in few launches."""
    sweep = SWEEPS[name]
    assert all(model.startswith("tiny-") for model in sweep.model)
    assert max((*sweep.replicas, *sweep.threads, 1)) <= 2
    assert len(sweep.model) * len(sweep.variants) <= 4
    assert len(sweep.cases(sweep.model)) <= 8
