"""A gate that judges nothing, and settings of sweeps that there are not."""

import json

import pytest
from projects import SUITE, prose

NOT_GATED = "machine = [{ sweep = { decode = { gate = [] } } }]"
OTHER = """
from pytest_slmperf import StaticBatch, Sweep

OTHER = Sweep("other", StaticBatch(16, 16), batch_size=[1])

@OTHER.each
def test_other(slmperf, slm_engine, batch_size):
    assert slmperf.measure(OTHER, slm_engine("opt-125m"))[batch_size].ttft_ms <= 60_000
"""


@pytest.mark.parametrize("selection", [(), ("-k", "throughput")], ids=["whole", "part"])
def test_a_gate_that_judges_nothing_is_red(project, selection):
    """It says which setting took everything out of the gate, and the ways out; one that reports only is as before."""
    project.settings(NOT_GATED)
    red = project.gate(*selection, "--slmperf-report=report.json")
    assert red.ret == pytest.ExitCode.TESTS_FAILED
    assert red.parseoutcomes()["failed"] == 1
    (problem,) = json.loads((project.path / "report.json").read_text())["problems"]
    assert problem.startswith(
        "nothing of what was measured was judged, so this gate could not have failed:\ndecode: the "
        "[[tool.slmperf.machine]] that holds on this machine takes output_throughput, median_ttft_ms out of its gate\n"
    )
    assert "--slmperf-no-gate" in problem


def test_a_run_that_only_reports_where_nothing_is_gated_is_green(project):
    """It could not have failed by a verdict anyway."""
    project.settings(NOT_GATED)
    assert project.gate("--slmperf-no-gate").ret == 0


def test_a_suite_that_gates_and_compares_nothing_is_red(fresh):
    """A plain number is none that the gate looks at."""
    plain = SUITE.replace('gate={"output_throughput": 0.03, "ttft_ms": 0.05}', "gate={}").partition("@DECODE.each")[0]
    fresh.write(
        "test_suite.py", f"{plain}@DECODE.at(1, 16)\ndef test_plain(decode):\n    assert decode[16].ttft_ms.median\n"
    )
    red = fresh.gate()
    red.assert_outcomes(passed=1, failed=1)
    assert "decode: its gate={…} is empty" in prose(red)


def test_one_sweep_of_several_may_be_left_out_of_the_gate(project):
    """What the other one says is judged; that the first is not, is said."""
    project.settings(NOT_GATED)
    project.write("test_other.py", OTHER)
    green = project.gate()
    green.assert_outcomes(passed=2, skipped=4)
    assert "this machine's settings don't gate output_throughput: not judged" in prose(green)


MISSPELT = "[tool.slmperf] machine[0] sets sweep.decoed, and no suite here declares it; did you mean 'decode'?"
SETS = "machine = [{{ when = {}, sweep = {{ decoed = {{ batch_size = [1] }}{} }} }}]"


@pytest.mark.parametrize("options", [(), ("-n1",)], ids=["one process", "workers"])
def test_settings_of_a_sweep_that_no_suite_declares_are_red(project, options):
    """A misspelt name leaves the sweep as it is declared, so a run of the whole project fails for it."""
    project.settings(SETS.format("{}", ""))
    said = project.apart(*options, keep=("xdist",))
    assert said.endswith("exit code 1"), said
    assert f"problem: {MISSPELT}" in " ".join(said.split())


@pytest.mark.parametrize(
    ("options", "when", "others"),
    [
        ((), '{ device = "H100" }', ""),
        (("--slmperf-no-gate",), "{}", ""),
        (("folder",), "{}", ", gpu = { batch_size = [1] }"),
    ],
    ids=["of another machine", "reporting", "a folder alone"],
)
def test_elsewhere_they_are_only_said(project, options, when, others):
    """So they are of a table of another machine, in a run that only reports, and in one of a part of the folders, which
    doesn't know the suites of the rest.
    """
    project.settings(SETS.format(when, others))
    (project.path / "folder").mkdir()
    (project.path / "test_suite.py").rename(project.path / "folder" / "test_suite.py")
    result = project.gate(*options)
    assert result.ret == 0
    assert MISSPELT in prose(result)
    assert "sweep.gpu" not in prose(result)


def test_of_a_selection_they_are_only_said(project):
    """Which sweeps the tests that are left out declare isn't looked at."""
    project.settings(SETS.format("{}", ""))
    selected = project.gate("-k", "throughput and 16")
    assert selected.ret == 0
    assert MISSPELT in prose(selected)
