"""The shipped suite of energy: on the stand-in driver, without a meter, and on results made by hand."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from few_launches import MEASURED, longer, store
from metered import SETTINGS, MeteredProject
from nvml_fixtures import skip_unless_built
from projects import Project

from pytest_slmperf.core import gate
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import CaseOutcome, SweepOutcome
from pytest_slmperf.core.results.result import Result
from pytest_slmperf.core.sample import Measurement, Sample

SUITE = Path(__file__).parents[2] / "suites" / "test_energy.py"
TESTS = runpy.run_path(str(SUITE))
JOULES = "joules_per_output_token"
MACHINE = """
[[tool.slmperf.machine]]
when = { device = "simulated" }
sweep.energy.model = ["opt-125m"]
sweep.energy.batch_size = [1, 4]
sweep.energy.prompt_tokens = 8
sweep.energy.output_tokens = 8
sweep.energy.gate = { joules_per_output_token = 0.1 }
"""


LIMITS = """
from pytest_slmperf import StaticBatch, Sweep

FAST = Sweep("fast", StaticBatch(prompt_tokens=8, output_tokens=8), batch_size=[4])


@FAST.each
def test_throughput(slmperf, slm_engine, batch_size):
    assert slmperf.measure(FAST, slm_engine("opt-125m"))[batch_size].output_throughput >= 1
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The folder of a project with the suite, and baselines made of what a short run of it measured."""
    pytest.importorskip("pynvml")
    skip_unless_built()
    project = MeteredProject(tmp_path_factory.mktemp("energy"))
    project.write("pyproject.toml", SETTINGS + MACHINE)
    project.write("test_suite.py", "")
    project.write(SUITE.name, SUITE.read_text(encoding="utf-8"))
    return project, store(project, project.run(*MEASURED, "-rA"), costlier)


def costlier(measurement):
    """As if there had been many such launches, in which the larger batch took three quarters of its joules."""
    measured = longer(measurement)
    share = 0.75 if measurement.case.endswith("batch=4") else 1.0
    joules = [[share * value for value in launch] for launch in measured.samples[JOULES].launches]
    return replace(measured, samples={**measured.samples, JOULES: Sample.of(joules)})


def test_on_the_stand_in_driver_larger_batches_cost_less(recorded):
    """The tests of the curves see joules and power, and pass; nothing is judged by a baseline yet."""
    _, said = recorded
    assert "PASSED test_energy.py::test_a_token_costs_less_in_a_larger_batch" in said
    assert "PASSED test_energy.py::test_the_largest_throughput_costs_little_energy" in said
    assert "it takes two models, and one was measured" in said


def test_on_the_stand_in_driver_the_suite_is_red_where_joules_rose(recorded):
    """In a batch of four they were fewer when the baseline was recorded; alone they are as they were."""
    project, _ = recorded
    said = project.run("-k", "test_joules_per_token")
    assert said.endswith("exit code 1"), said
    assert f"regressed: energy/opt-125m/batch=4 {JOULES}" in said
    assert "1 test failed; 1 unchanged, 1 regressed" in said


def test_without_a_meter_the_suite_is_skipped_before_anything_is_launched(tmp_path, monkeypatch):
    """Beside another suite the whole run is green and says why; the plan says it first."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    project = Project(tmp_path)
    project.write("test_suite.py", LIMITS)
    project.write(SUITE.name, SUITE.read_text(encoding="utf-8"))
    said = project.apart("--slmperf-report=report.json")
    assert said.endswith("exit code 0"), said
    assert "slmperf: energy: skipped: CUDA_VISIBLE_DEVICES hides every GPU" in said
    assert "2 passed, 7 skipped" in said
    sweeps = json.loads((tmp_path / "report.json").read_text())["sweeps"]
    assert {sweep["sweep"]: sweep["launches"] > 0 for sweep in sweeps} == {"energy": False, "fast": True}


# -- results made by hand


def made(models, *, before=None):
    """A result of the suite: by model and batch size, tokens a second and watts; `before` is the share of joules that
    the baseline has.
    """
    cases = {}
    for model, sizes in models.items():
        for size, (rate, watts) in sizes.items():
            name = f"energy/{model}/batch={size}"
            samples = {"output_throughput": rate, "mean_power_w": watts, JOULES: watts / rate}
            now = measured(name, samples)
            was = measured(name, {metric: (before or 1) * value for metric, value in samples.items()})
            policy = gate.Policy(tolerance=0.05, max_launches=20)
            verdict = gate.judge(metric(JOULES), was.samples[JOULES], now.samples[JOULES], policy)
            verdicts = {JOULES: replace(verdict, case=name, tolerance=0.05)}
            cases[name] = CaseOutcome(name, {"model": model, "batch_size": size}, now, was, verdicts)
    specs = tuple(EngineSpec("fake", model) for model in models)
    return Result(SweepOutcome("energy", "stored", "gate", cases, specs, {}, None, 20, 1.0))


def measured(name, levels):
    samples = {
        metric: Sample.of([[level * (1 + 0.001 * (i % 5))] for i in range(20)]) for metric, level in levels.items()
    }
    return Measurement(name, {}, samples)


RISING = {1: (100, 200), 16: (1000, 300), 64: (1900, 400)}
"""Tokens a second and watts by batch size: joules per token fall all the way."""


def test_more_joules_than_the_baseline_are_red():
    """The suite's own test fails with the gate's verdict, and passes where they are as they were."""
    test = TESTS["test_joules_per_token"]
    test(made({"m": RISING}), "m", 16)
    with pytest.raises(AssertionError, match=f"regressed: energy/m/batch=16 {JOULES}"):
        test(made({"m": RISING}, before=0.9), "m", 16)


@pytest.mark.parametrize(
    ("sizes", "green"),
    [
        pytest.param(RISING, True, id="falls"),
        pytest.param({**RISING, 16: (1000, 2500)}, False, id="rises before the knee"),
        pytest.param({**RISING, 16: (1800, 300), 64: (1900, 400)}, True, id="rises after the knee"),
    ],
)
def test_joules_fall_up_to_the_knee_or_the_suite_is_red(sizes, green):
    """Beyond the knee, where a larger batch brings little, they may rise."""
    assert passes("test_a_token_costs_less_in_a_larger_batch", {"m": sizes}) is green


@pytest.mark.parametrize(("watts", "green"), [(500, True), (395, True), (300, False)])
def test_a_larger_model_that_draws_less_is_red(watts, green):
    """Within 3 % two models draw the same."""
    models = {"small": RISING, "large": {1: (50, 100), 64: (600, watts)}}
    assert passes("test_a_larger_model_draws_more_power", models) is green


@pytest.mark.parametrize(("watts", "green"), [(405, True), (650, False)])
def test_a_throughput_that_costs_much_energy_is_red(watts, green):
    """The largest throughput may take up to a tenth more joules per token than the thriftiest batch."""
    sizes = {**RISING, 16: (1800, 360), 64: (1900, watts)}
    assert passes("test_the_largest_throughput_costs_little_energy", {"m": sizes}) is green


def passes(test, models):
    """Whether a test of the suite passes on this result."""
    try:
        TESTS[test](made(models))
    except AssertionError:
        return False
    return True
