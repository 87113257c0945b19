"""Switched off, the plugin is not there; switched on with a wrong option, it says so before anything runs."""

import subprocess
import sys

import pytest
from neighbours import without
from projects import SETTINGS, SUITE

ORDINARY = """
def test_ordinary():
    assert 1 + 1 == 2
"""

LIST_MODULES = """
def pytest_unconfigure():
    import sys
    print()
    print("OURS", *sorted(name for name in sys.modules if name.split(".")[0] == "pytest_slmperf"))
    print("HEAVY", *sorted({"numpy", "scipy"} & sys.modules.keys()))
"""


def test_suites_are_skipped_with_a_reason_and_the_rest_runs(project):
    """Without the flag, what would measure says how to run it."""
    project.write("test_ordinary.py", ORDINARY)
    result = project.plain("-rs")
    result.assert_outcomes(passed=1, skipped=4)
    result.stdout.fnmatch_lines(["*measures performance: run with --slmperf*"])
    assert "slmperf:" not in result.stdout.str()


def test_ordinary_tests_run_beside_the_suites(project):
    """With the flag, other tests run as always."""
    project.write("test_ordinary.py", ORDINARY)
    project.gate().assert_outcomes(passed=6)


def test_a_marked_test_is_one_of_ours(fresh):
    """The marker makes any test a performance test."""
    fresh.write("test_suite.py", "import pytest\n\n@pytest.mark.slmperf\ndef test_marked():\n    pass\n")
    fresh.plain("--strict-markers").assert_outcomes(skipped=1)
    fresh.gate("--strict-markers", "-m", "slmperf").assert_outcomes(passed=2)


def test_help_is_shown_where_it_is_switched_on(fresh):
    """pytest answers before it knows which files it was asked for."""
    told = fresh.gate("-h")
    assert told.ret == 0
    assert "--slmperf-accept" in told.stdout.str()


@pytest.mark.parametrize("options", [[], ["-p", "no:slmperf"]], ids=["off", "blocked"])
def test_switched_off_it_costs_nothing(fresh, options):
    """At most four modules of ours are imported, and neither numpy nor scipy: not by a suite's imports either."""
    fresh.write("conftest.py", LIST_MODULES)
    fresh.write("test_suite.py", ORDINARY)
    command = [sys.executable, "-m", "pytest", *without(), *options]
    bare = subprocess.run(command, cwd=fresh.path, capture_output=True, text=True, check=True).stdout
    ours = next(line for line in bare.splitlines() if line.startswith("OURS")).split()[1:]
    assert len(ours) <= (0 if options else 4), ours
    assert "\nHEAVY\n" in bare
    if not options:
        fresh.write("test_suite.py", SUITE)
        suite = subprocess.run(command, cwd=fresh.path, capture_output=True, text=True, check=True).stdout
        assert "4 skipped" in suite
        assert "\nHEAVY\n" in suite


def test_collecting_prints_the_plan_and_measures_nothing(project):
    """`--collect-only` says which cases and launches, and starts no engine; what is simulated takes no time."""
    result = project.gate("--collect-only", "-q", "--slmperf-report", "report.json")
    result.stdout.fnmatch_lines(["slmperf: decode: 2 cases: *", "slmperf: decode: 8 launches of 1 model"])
    assert "launch 1" not in result.stdout.str()
    assert "changes" not in result.stdout.str()
    assert not (project.path / "report.json").exists()


WRONG = [
    (["--slmperf-accept"], "--slmperf-accept without --slmperf measures nothing"),
    (["--slmperf-report", "x.json"], "--slmperf-report without --slmperf measures nothing"),
    (["--slmperf", "--slmperf-acept"], "unrecognized arguments: --slmperf-acept"),
    (["--slmperf", "--slmperf-tier", "slow"], "invalid choice: 'slow'"),
    (["--slmperf", "--slmperf-budget", "-3"], "a budget is a number of minutes above 0, not '-3'"),
    (["--slmperf", "--slmperf-budget", "ten"], "a budget is a number of minutes above 0, not 'ten'"),
    (["--slmperf", "--slmperf-engine", "vlm"], "unknown engine 'vlm': known are ctranslate2, transformers,"),
    (["--slmperf", "--slmperf-engine", "fake:noise"], "'noise' is not KEY=VALUE"),
    (["--slmperf", "--slmperf-engine=:slowed=0.2"], "it takes NAME or NAME:KEY=VALUE,KEY=VALUE"),
    (["--slmperf", "--slmperf-engine=fake:noise=0.1,noise=0.2"], "noise is given twice: 0.1 and 0.2"),
    (["--slmperf", "--slmperf-against", "python"], "'python' is not KEY=VALUE"),
    (["--slmperf", "--slmperf-against", "python=/no/such"], "there is no such interpreter"),
    (["--slmperf", "--slmperf-report", "x.txt"], "a report's name ends with .json or .md"),
    (["--slmperf", "--slmperf-report", "test_suite.py/x.json"], "test_suite.py: Not a directory"),
    (["--slmperf", "--slmperf-accept", "--slmperf-no-gate"], "exclude each other"),
    (["--slmperf", "--slmperf-accept", "--slmperf-against", "driver=1"], "takes no --slmperf-against"),
    (["--slmperf", "--slmperf-accept", "--slmperf-tier", "quick"], "takes no --slmperf-tier quick"),
]


@pytest.mark.parametrize(("options", "said"), WRONG, ids=[" ".join(options) for options, _ in WRONG])
def test_a_wrong_option_ends_the_run_before_it_begins(fresh, options, said):
    """Exit code 4, and a message that names the option and what it takes."""
    result = fresh.plain(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.re_match_lines([f".*{said}"])
    assert "Traceback" not in result.stderr.str()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rond_s = 1", "did you mean 'round_s'?"),
        ("round_s = 0", "a number of at least 0.001"),
        ("round_s = ", "Invalid value"),
        ("engine = 'vlm'", "unknown engine 'vlm'"),
    ],
)
def test_a_wrong_setting_names_the_file_and_the_field(fresh, line, said):
    """What [tool.slmperf] can't mean is exit code 4 as well."""
    fresh.settings(line)
    result = fresh.plain("--slmperf")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{said}*"])


def test_settings_that_fit_no_sweep_are_an_error_of_its_module(fresh):
    """What the settings say of a sweep is checked where its tests are collected, before anything is measured, and the
    error says where it stands.
    """
    sweeps = "[[tool.slmperf.machine]]\nsweep.decode = { batch_size = [0] }\n\n[tool.pytest"
    fresh.write("pyproject.toml", SETTINGS.replace("[tool.pytest", sweeps))
    result = fresh.gate()
    result.assert_outcomes(errors=1)
    said = "Sweep 'decode': batch_size=(0,); it takes different whole numbers"
    result.stdout.fnmatch_lines([f"*[[]tool.slmperf[]] machine[[]0[]] sweep.decode: {said}*"])
    assert "session.py" not in result.stdout.str()
