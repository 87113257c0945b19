"""What runs is what is measured; a whole run answers for what no test looks at."""

import json

import pytest
from projects import ENGINE, SUITE, UNDECIDED, prose

UNASSERTED = SUITE.split("@DECODE.each\ndef test_first_token")[0]


@pytest.mark.parametrize("selection", [["-k", "throughput and 16"], ["test_suite.py::test_throughput[batch16]"]])
def test_only_the_cases_of_selected_tests_are_measured(project, selection):
    """-k and node ids cut the measurement too."""
    project.gate(*selection, "--slmperf-report", "report.json", UNDECIDED)
    report = json.loads((project.path / "report.json").read_text())
    assert report["whole"] is False
    assert [case["case"] for sweep in report["sweeps"] for case in sweep["cases"]] == ["decode/opt-125m/batch=16"]


def test_a_curve_of_a_part_is_refused(project):
    """A test of the knee alone measures the whole sweep; bound to one batch size it is told that it can't be had."""
    project.write("test_suite.py", SUITE + "\n@DECODE.at(16)\ndef test_knee(decode):\n    assert decode.knee.batch\n")
    result = project.gate("-k", "test_knee")
    result.stdout.fnmatch_lines(
        ["*a knee needs the whole sweep, and the selected tests leave out decode/opt-125m/batch=1*"]
    )


def test_what_a_selection_leaves_unasserted_is_said_and_not_red(project):
    """Under -k, a gated metric that no selected test asserts is a remark."""
    result = project.gate("-k", "test_throughput")
    result.assert_outcomes(passed=3, deselected=2)
    assert "gates median_ttft_ms, and no test of this run asserts it for decode/opt-125m/batch=1" in prose(result)
    assert "assert point.ttft_ms <= point.baseline.ttft_ms" in prose(result)


OTHER_FILE = """
from pytest_slmperf import StaticBatch, Sweep

OTHER = Sweep("other", StaticBatch(16, 16), batch_size=[1])

@OTHER.each
def test_other(slmperf, slm_engine, batch_size):
    assert slmperf.measure(OTHER, slm_engine("opt-125m"))[batch_size].output_throughput >= 1
"""


def test_a_file_is_a_selection_and_a_folder_is_whole(project):
    """Naming files leaves the rest of the suites out; naming their folder, or what `testpaths` names, does not."""
    project.write("test_suite.py", UNASSERTED)
    project.write("test_other.py", OTHER_FILE)
    part = project.gate("test_suite.py", "--slmperf-report=report.json")
    part.assert_outcomes(passed=3)
    assert "no test of this run asserts it" in prose(part)
    assert json.loads((project.path / "report.json").read_text())["whole"] is False
    project.gate(".").assert_outcomes(passed=3, failed=1)
    declared = (project.path / "pyproject.toml").read_text() + 'testpaths = ["test_s*.py"]\n'
    project.write("pyproject.toml", declared)
    project.gate().assert_outcomes(passed=2, failed=1)


def test_a_file_named_to_workers_is_a_selection_too(project):
    """pytest-xdist's workers are told what was asked for."""
    project.write("test_suite.py", UNASSERTED)
    assert "3 passed" in project.apart("-n2", "test_suite.py", keep=("xdist",))
    assert "1 failed, 2 passed" in project.apart("-n2", ".", keep=("xdist",))


def test_what_a_failed_test_did_not_come_to_is_not_called_missing(project):
    """Its metric is said to be not reached, and not red; that of another sweep is red as ever."""
    stops = SUITE.replace("    assert point.ttft_ms", "    assert batch_size == 1\n    assert point.ttft_ms")
    project.write("test_suite.py", stops)
    result = project.gate()
    result.assert_outcomes(passed=4, failed=1)
    assert "gates median_ttft_ms, and no test came to assert it for decode/opt-125m/batch=16" in prose(result)
    assert "no test of this run asserts" not in prose(result)
    gated = OTHER_FILE.replace("[1])", "[1], gate=['ttft_ms'])")
    project.write("test_other.py", gated)
    both = project.gate()
    both.assert_outcomes(passed=4, failed=2)
    assert "sweep 'other' gates median_ttft_ms, and no test of this run asserts it" in prose(both)


def test_a_gated_metric_that_no_test_asserts_is_red_in_a_whole_run(project):
    """The run itself fails, with the line that asserts the metric; a stated limit is no such line."""
    limit = "\n@DECODE.each\ndef test_limit(decode, batch_size):\n    assert decode[batch_size].ttft_ms <= 1000\n"
    project.write("test_suite.py", UNASSERTED + limit)
    result = project.gate("--slmperf-report=report.json")
    result.assert_outcomes(passed=4, failed=1)
    (problem,) = json.loads((project.path / "report.json").read_text())["problems"]
    assert problem.startswith("sweep 'decode' gates median_ttft_ms, and no test of this run asserts it")
    result.stdout.fnmatch_lines(
        [
            "sweep 'decode' gates median_ttft_ms, and no test of this run asserts it for decode/opt-125m/batch=1, *",
            "FAILED slmperf::whole-run*",
        ]
    )


AT_SIXTEEN = (
    SUITE.replace("@DECODE.each", "@DECODE.at(16)")
    .replace("(decode, batch_size)", "(decode)")
    .replace("[batch_size]", "[16]")
)


@pytest.mark.parametrize(
    ("mode", "outcome"), [([], "passed"), (["--slmperf-accept"], "skipped")], ids=["gating", "recording"]
)
def test_a_gated_case_that_no_test_looks_at_is_red_in_a_whole_run(project, mode, outcome):
    """It is named with the way out, after what was measured is recorded; a selection leaves cases out on purpose."""
    project.write("test_suite.py", AT_SIXTEEN)
    whole = project.gate(*mode, "--slmperf-report=report.json")
    assert whole.parseoutcomes() == {outcome: 2, "failed": 1}
    (problem,) = json.loads((project.path / "report.json").read_text())["problems"]
    assert problem.startswith(
        "sweep 'decode' gates output_throughput, median_ttft_ms, and no test that runs looks at decode/opt-125m/batch=1"
    )
    assert json.loads((project.path / "report.json").read_text())["recorded"] is bool(mode)
    part = project.gate(*mode, "-k", "decode")
    assert part.ret == 0
    assert "no test that runs looks at" not in prose(part)


def test_a_case_without_a_gate_may_stay_unlooked_at(project):
    """Where nothing is judged, nothing is missed."""
    limit = "\nLIMIT = Sweep('limit', StaticBatch(16, 16), batch_size=[1, 16])\n\n@LIMIT.at(16)\n"
    test = (
        "def test_limit(slmperf, slm_engine):\n"
        "    assert slmperf.measure(LIMIT, slm_engine('opt-125m'))[16].ttft_ms <= 60_000\n"
    )
    project.write("test_suite.py", SUITE + limit + test)
    project.gate().assert_outcomes(passed=6)


@pytest.mark.parametrize("mark", ["skip(reason='later')", "skipif(True, reason='later')"])
def test_what_only_skipped_tests_look_at_is_red_in_a_whole_run(project, mark):
    """A skipped test gates nothing, whichever mark skips it; a part of a run only says so."""
    project.write("test_suite.py", SUITE.replace("@DECODE.each", f"@pytest.mark.{mark}\n@DECODE.each"))
    whole = project.gate()
    whole.assert_outcomes(skipped=4, failed=1)
    assert "sweep 'decode' is declared and nothing measured it" in prose(whole)
    part = project.gate("-k", "throughput")
    part.assert_outcomes(skipped=2, passed=1, deselected=2)
    assert "sweep 'decode' is declared and nothing measured it" in prose(part)


def test_a_whole_run_in_which_nothing_is_measured_is_red(fresh):
    """A performance test that measures nothing, and names no sweep, gates nothing."""
    fresh.write("test_suite.py", "import pytest\n\n@pytest.mark.slmperf\ndef test_marked():\n    pass\n")
    whole = fresh.gate()
    whole.assert_outcomes(passed=1, failed=1)
    assert "no test of this run measured anything, so nothing is gated" in prose(whole)


DROPS = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    dropped = [item for item in items if {condition}]
    items[:] = [item for item in items if item not in dropped]
    {tells}
"""
TELLS = "config.hook.pytest_deselected(items=dropped)"


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["one process", "workers"])
@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("'batch16' in item.name", "no test that runs looks at decode/opt-125m/batch=16"),
        ("'batch' in item.name", "sweep 'decode' is declared and nothing measured it"),
    ],
    ids=["a case", "all"],
)
def test_what_a_conftest_drops_in_silence_is_red(project, workers, condition, said):
    """Where a plugin leaves tests out and tells pytest, the run is a part; where it doesn't, their cases are missed."""
    project.write("test_other.py", "def test_other():\n    pass\n")
    project.write("conftest.py", DROPS.format(condition=condition, tells="pass"))
    run = project.apart(*workers, keep=("xdist",))
    assert run.endswith("exit code 1"), run
    assert said in " ".join(run.split())
    project.write("conftest.py", DROPS.format(condition=condition, tells=TELLS))
    assert project.apart(*workers, keep=("xdist",)).endswith("exit code 0")


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["one process", "workers"])
def test_a_declared_sweep_that_nothing_measures_is_red(project, workers):
    """A sweep without a measurement is a test that isn't one: red, and a problem in the report."""
    other = """
OTHER = Sweep("other", StaticBatch(16, 16), batch_size=[1])

@OTHER.each
def test_other(slmperf):
    pass
"""
    project.write("test_suite.py", SUITE.partition("@DECODE.each")[0] + other)
    said = project.apart(*workers, "--slmperf-report=report.json", keep=("xdist",))
    assert "1 failed, 1 passed" in said
    report = json.loads((project.path / "report.json").read_text())
    assert (report["complete"], report["whole"]) == (True, True)
    assert report["problems"][0].startswith("sweep 'other' is declared and nothing measured it")


def test_a_stale_case_is_red_in_a_whole_run_and_not_told_under_a_selection(project):
    """A stored case that no suite measures any more names its file and the command that removes it. Of a part, which
    another test may measure, only that no test looks at it.
    """
    project.write("test_suite.py", SUITE.replace("batch_size=[1, 16]", "batch_size=[16]"))
    whole = project.gate()
    whole.assert_outcomes(passed=2, failed=1)
    whole.stdout.fnmatch_lines(
        ["*holds decode/opt-125m/batch=1, and no suite measures that any more: slmperf baselines prune *"]
    )
    part = project.gate("-k", "test_throughput")
    part.assert_outcomes(passed=2, deselected=1)
    assert "holds decode/opt-125m/batch=1, and no test of this run looks at that: a whole run tells" in prose(part)
    assert "prune" not in prose(part)


def test_a_new_case_is_red_with_the_command_that_records_it(project):
    """A case without a baseline is `no-baseline`, and the message says how to record it."""
    project.write("test_suite.py", SUITE.replace("batch_size=[1, 16]", "batch_size=[1, 4, 16]"))
    result = project.gate()
    result.assert_outcomes(passed=5, failed=2)
    result.stdout.fnmatch_lines(
        ["*no-baseline: decode/opt-125m/batch=4 output_throughput*", f"*--slmperf-engine={ENGINE} --slmperf-accept*"]
    )
    assert project.gate("--slmperf-accept", "-k", "throughput and batch4").ret == 0
    project.gate().assert_outcomes(passed=7)


def test_a_renamed_test_loses_no_history(project):
    """A case is named by its sweep, model and batch size, not by its test or file."""
    (project.path / "test_suite.py").rename(project.path / "test_renamed.py")
    project.write("test_renamed.py", SUITE.replace("test_throughput", "test_other_name"))
    project.gate().assert_outcomes(passed=5)


def test_the_first_failure_may_end_the_run(project):
    """With -x the rest is neither run nor red, and the report says that it is not whole."""
    result = project.gate("-x", "--slmperf-report", "report.json", UNDECIDED)
    result.assert_outcomes(failed=1)
    report = json.loads((project.path / "report.json").read_text())
    assert (report["complete"], report["whole"]) == (False, False)


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["one process", "workers"])
def test_a_report_says_that_its_run_was_whole(project, workers):
    """What a whole run's report lacks is not there any more; a red test takes nothing of that."""
    text = project.apart("--slmperf-report=report.json", *workers, UNDECIDED, keep=("xdist",))
    assert "exit code 1" in text, text
    report = json.loads((project.path / "report.json").read_text())
    assert (report["complete"], report["whole"]) == (True, True)


def test_the_last_failed_run_alone(project):
    """--lf measures the cases of the tests that failed, and the run's own check still ends it."""
    project.gate("-k", "test_throughput and 16", UNDECIDED, keep=("cacheprovider",)).assert_outcomes(
        failed=1, passed=1, deselected=3
    )
    result = project.gate("--lf", "-v", keep=("cacheprovider",))
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["slmperf: decode: 1 case: *batch=16", "*slmperf::whole-run PASSED*"])


def test_a_skipped_test_has_nothing_measured(project):
    """A case that only a skipped test looks at is not measured."""
    project.write("test_suite.py", SUITE + "\n@pytest.mark.skip\n@DECODE.at(16)\ndef test_skipped(decode):\n    pass\n")
    result = project.gate("-k", "test_skipped")
    result.assert_outcomes(skipped=1, passed=1, deselected=4)
    assert "launch 1" not in result.stdout.str()
