"""Ways around the gate that a suite may take without meaning to: none of them is green."""

import json
import re
import subprocess
import sys

import pytest
from neighbours import without
from projects import ENGINE, SETTINGS, SLOWED, SUITE, UNDECIDED, prose

CATCHES = """
    try:
        assert decode[16].output_throughput >= decode[16].baseline.output_throughput
    except AssertionError:
        {then}
"""

SETUP = f"""
@pytest.fixture
def looks_{{number}}(decode):{CATCHES}

@DECODE.at(16)
def test_{{number}}(looks_{{number}}):
    pass
"""
TEARDOWN = SETUP.replace("(decode):", "(decode):\n    yield")
CALL = f"\n@DECODE.at(16)\ndef test_{{number}}(decode):{CATCHES}\n"

UNITTEST = """
class TestDecode{number}(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def measured(self, decode):
        self.point = decode[16]

    @DECODE.at(16)
    def test_{number}(self):
        {body}
"""
ASSERTS = "assert self.point.output_throughput >= self.point.baseline.output_throughput"
SKIPS = f"""try:
            {ASSERTS}
        except AssertionError:
            {{then}}"""
IN_A_UNITTEST = UNITTEST.replace("{body}", SKIPS)

CATCHING = [
    ("setup", SETUP, "pass", ["ERROR"]),
    ("setup, skip", SETUP, "pytest.skip('slow today')", ["ERROR"]),
    ("teardown", TEARDOWN, "pass", ["PASSED", "ERROR"]),
    ("teardown, skip", TEARDOWN, "pytest.skip('slow today')", ["PASSED", "ERROR"]),
    ("call", CALL, "pass", ["FAILED"]),
    ("call, skip", CALL, "pytest.skip('slow today')", ["FAILED"]),
    ("call, xfail", CALL, "pytest.xfail('slow today')", ["FAILED"]),
    ("call, SkipTest", CALL, "raise unittest.SkipTest('slow today')", ["FAILED"]),
    ("unittest", IN_A_UNITTEST, "pass", ["FAILED"]),
    ("unittest, skip", IN_A_UNITTEST, "self.skipTest('slow today')", ["FAILED"]),
    ("unittest, xfail", IN_A_UNITTEST, "pytest.xfail('slow today')", ["FAILED"]),
]
"""(where a red verdict is caught, the test, what it does then, what becomes of it)"""


@pytest.fixture(scope="module")
def caught(module_project):
    """What runs of every test that catches say, where the engine lost a fifth, and where it lost nothing."""
    tests = "".join(code.format(number=number, then=then) for number, (_, code, then, _) in enumerate(CATCHING, 10))
    expected = "\n@pytest.mark.xfail" + CALL.format(number="expected", then="raise")
    module_project.write("test_suite.py", f"import unittest\n{SUITE}{tests}{expected}")
    return [module_project.apart("-v", "-k", "not throughput and not first", engine=one) for one in (SLOWED, ENGINE)]


def outcomes(said, number):
    """What became of a test, in pytest's words: of its call, of its teardown."""
    return re.findall(rf"test_{number} ([A-Z]+)", said.partition("= ERRORS =")[0].partition("= FAILURES =")[0])


@pytest.mark.parametrize("number", range(10, 10 + len(CATCHING)), ids=[where for where, *_ in CATCHING])
def test_a_red_verdict_that_is_caught_is_red_wherever_and_whatever_follows(caught, number):
    """A fixture that catches it, a skip that follows, or unittest, makes nothing green; what is not red passes."""
    red, green = caught
    assert outcomes(red, number) == CATCHING[number - 10][-1]
    section = re.split(rf"^_+ .*test_{number} _+$", red, flags=re.MULTILINE)[1]
    section = " ".join(re.split(r"^_+ .* _+$|^=+ ", section, flags=re.MULTILINE)[0].split())
    assert "a verdict was red and the test caught its error" in section
    assert "regressed: decode/opt-125m/batch=16 output_throughput" in section
    assert outcomes(green, number) == ["PASSED"]


def test_a_run_in_which_red_verdicts_were_caught_is_red(caught):
    """The run's own check has nothing to add, and its exit code says it."""
    red, green = caught
    assert red.endswith("exit code 1")
    assert green.endswith("exit code 0")
    assert all("slmperf::whole-run PASSED" in said for said in caught)


def test_an_expected_failure_may_be_caught_by_its_marker_alone(caught):
    """A regression that a marker expects is pytest's business, also where a fixture asks."""
    red, green = caught
    assert outcomes(red, "expected") == ["XFAIL"]
    assert outcomes(green, "expected") == ["XPASS"]


def test_a_unittest_is_judged_as_any_test(project):
    """Its assertion is red or green with the line, skipped where nothing is judged, and expected where it says so."""
    asserts = UNITTEST.format(number="asserts", body=ASSERTS)
    expected = UNITTEST.format(number="expected", body=ASSERTS).replace(
        "@DECODE", "@unittest.expectedFailure\n    @DECODE"
    )
    project.write("test_suite.py", f"import unittest\n{SUITE}{asserts}{expected}")
    red = project.gate("-k", "TestDecode", engine=SLOWED)
    red.assert_outcomes(passed=1, failed=1, xfailed=1, deselected=4)
    assert "AssertionError: regressed: decode/opt-125m/batch=16 output_throughput" in prose(red)
    unjudged = project.gate("-k", "TestDecode", "--slmperf-no-gate", "-rs")
    unjudged.assert_outcomes(passed=1, skipped=1, xfailed=1, deselected=4)
    unjudged.stdout.fnmatch_lines(["SKIPPED*test_suite.py:*measured, not judged"])


def test_a_test_may_ask_what_its_fixture_made(project):
    """A verdict that a fixture makes and its test asserts is asserted."""
    fixture = (
        "\n@pytest.fixture\ndef verdict(decode):\n"
        "    return decode[16].output_throughput >= decode[16].baseline.output_throughput\n"
        "\n@DECODE.at(16)\ndef test_verdict(verdict):\n    assert verdict\n"
    )
    project.write("test_suite.py", SUITE + fixture)
    project.gate("-k", "test_verdict").assert_outcomes(passed=2, deselected=4)
    project.gate("-k", "test_verdict", UNDECIDED).assert_outcomes(passed=1, failed=1, deselected=4)


OF_A_FIXTURE = """
@pytest.fixture(scope="{scope}")
def knee(decode):
    return decode.knee.unchanged_from(decode.baseline.knee)

def test_knee(knee):
    {body}

def test_later(knee):
    {later}
"""


@pytest.mark.parametrize("scope", ["function", "module"])
def test_a_verdict_of_a_fixture_that_no_test_asks_is_red(project, scope):
    """Tests that take it and forget `assert` pass, and the whole run doesn't."""
    project.write("test_suite.py", SUITE + OF_A_FIXTURE.format(scope=scope, body="knee.line()", later="assert True"))
    red = project.gate()
    red.assert_outcomes(passed=6, failed=1)
    asked_for = "a fixture made a verdict and no test asked for its truth; write `assert` before it: unchanged: "
    assert asked_for in prose(red).partition("_ slmperf::whole-run _")[2]


def test_a_verdict_of_a_fixture_that_no_test_asks_is_only_said_of_a_part_of_a_run(project):
    """The test that asks it may be among those left out; a run that judges nothing has none."""
    project.write("test_suite.py", SUITE + OF_A_FIXTURE.format(scope="module", body="knee.line()", later="assert True"))
    part = project.gate("-k", "knee")
    part.assert_outcomes(passed=2, deselected=5)
    assert "no test asked for its truth" in prose(part)
    project.gate("--slmperf-no-gate").assert_outcomes(passed=3, skipped=4)


@pytest.mark.parametrize(
    ("scope", "body", "later", "outcomes"),
    [
        ("module", "knee.line()", "assert knee", {"passed": 7}),
        ("function", "pytest.skip('not today')", "assert knee", {"passed": 6, "skipped": 1}),
    ],
    ids=["a later test asks", "its test was skipped"],
)
def test_a_verdict_of_a_fixture_may_wait(project, scope, body, later, outcomes):
    """One that a later test asks is asked, and of a test that was cut off it is not expected."""
    project.write("test_suite.py", SUITE + OF_A_FIXTURE.format(scope=scope, body=body, later=later))
    project.gate().assert_outcomes(**outcomes)


def test_a_verdict_that_a_teardown_never_asks_is_red(project):
    """Nobody asks after a teardown."""
    fixture = (
        "\n@pytest.fixture\ndef looks(decode):\n"
        "    yield\n    decode[16].output_throughput >= decode[16].baseline.output_throughput\n"
    )
    project.write("test_suite.py", f"{SUITE}{fixture}\n@DECODE.at(16)\ndef test_uses(looks):\n    pass\n")
    result = project.gate("-k", "test_uses")
    result.assert_outcomes(passed=2, errors=1, deselected=4)
    assert "write `assert` before it" in prose(result)


SWALLOWS = SUITE.replace(
    '    return slmperf.measure(DECODE, slm_engine("opt-125m"))',
    '    try:\n        return slmperf.measure(DECODE, slm_engine("opt-125m"))\n'
    '    except Exception:\n        pytest.skip("no engine today")',
)


@pytest.mark.parametrize("options", [[], ["--slmperf-no-gate"], ["-k", "throughput and 16"]], ids=" ".join)
def test_a_failed_measurement_that_a_suite_swallows_is_red(project, options):
    """An engine that dies, and tests that skip for it, end in a red run that says what died."""
    project.write("test_suite.py", SWALLOWS)
    result = project.gate(*options, "-rs", engine=f"{ENGINE},fault=dies,fault_batch=2")
    assert result.parseoutcomes()["failed"] == 1
    assert "passed" not in result.parseoutcomes()
    failure = result.stdout.str().partition("_ slmperf::whole-run _")[2]
    assert "decode: fake (opt-125m, float32) died while" in failure
    assert "signal SIGKILL" in failure


def test_a_damaged_baseline_that_a_suite_swallows_is_red(project):
    """A file that can't be read is red even where every test skips for it."""
    project.write("test_suite.py", SWALLOWS)
    project.baseline().write_text("{")
    result = project.gate()
    result.assert_outcomes(skipped=4, failed=1)
    assert "fake-decode.json" in result.stdout.str().partition("_ slmperf::whole-run _")[2]


def test_a_failed_measurement_is_not_told_twice(project):
    """Where a test failed for it, the run's check needs not."""
    project.gate(engine=f"{ENGINE},fault=dies,fault_batch=2").assert_outcomes(errors=4, skipped=1)


LONG = SUITE.replace("prompt_tokens=16, output_tokens=16", "prompt_tokens=16, output_tokens=4000")


def test_a_whole_run_in_which_no_case_is_left_is_red(fresh):
    """Where nothing fits, nothing is gated, and the run says why instead of being green; a part of a run only says."""
    fresh.write("test_suite.py", LONG)
    whole = fresh.gate()
    whole.assert_outcomes(skipped=4, failed=1)
    failure = prose(whole).partition("_ slmperf::whole-run _")[2]
    assert "no case of any sweep was measured, so nothing is gated:" in failure
    assert "decode/opt-125m/batch=16: 4016 tokens of prompt and output exceed the context of opt-125m" in failure
    fresh.gate("-k", "throughput").assert_outcomes(skipped=2, passed=1, deselected=2)
    fresh.gate("--slmperf-no-gate").assert_outcomes(skipped=4, passed=1)


def test_one_sweep_that_does_not_fit_stays_a_skip(fresh):
    """A run with cases left is judged by those."""
    other = """
SHORT = Sweep("short", StaticBatch(16, 16), batch_size=[1])

@SHORT.each
def test_short(slmperf, slm_engine, batch_size):
    assert slmperf.measure(SHORT, slm_engine("opt-125m"))[batch_size].output_throughput >= 1
"""
    fresh.write("test_suite.py", LONG + other)
    fresh.gate().assert_outcomes(skipped=4, passed=2)


MEASURES = SUITE.partition("@DECODE.each")[0]
HIDDEN = """
{mark}def test_hidden(request):
    {then}
"""
LOOKS = 'assert request.getfixturevalue("decode")[16].ttft_ms.median > 0'
SKIPS_THEN = """try:
        request.getfixturevalue("decode")
    except Exception:
        pytest.skip("no engine today")"""
SWALLOWED = """
def test_hidden(request):
    try:
        request.getfixturevalue("slmperf").measure(DECODE)
    except Exception:
        pytest.skip("no engine today")
"""
REFUSED = "test_suite.py::test_hidden measures, and pytest could not know it before"


@pytest.mark.parametrize("options", [[], ["--slmperf-accept"], ["-n2"]], ids=["gating", "recording", "workers"])
@pytest.mark.parametrize("then", [LOOKS, SKIPS_THEN], ids=["fails", "skips"])
def test_a_measurement_that_pytest_could_not_foresee_is_refused(project, options, then):
    """A test that gets its fixture at run time would measure on any worker, unchecked: it is named with the way out."""
    project.write("test_suite.py", MEASURES + HIDDEN.format(mark="", then=then))
    said = project.apart(*options, "--slmperf-report=report.json", keep=("xdist",))
    assert said.endswith("exit code 1"), said
    assert "launch 1" not in said
    problems = json.loads((project.path / "report.json").read_text())["problems"]
    assert any(problem.startswith(f"decode: {REFUSED}") for problem in problems)
    assert REFUSED in " ".join(said.split())


def test_such_a_measurement_beside_others_is_red_where_it_is_swallowed(project):
    """The check of the run tells it, as it tells of every measurement that failed and no test failed for."""
    project.write("test_suite.py", SUITE + SWALLOWED)
    result = project.gate("-rs")
    result.assert_outcomes(passed=4, skipped=1, failed=1)
    assert REFUSED in prose(result).partition("_ slmperf::whole-run _")[2]


def test_a_test_that_is_marked_may_get_its_fixture_at_run_time(project):
    """The mark says before what it does."""
    project.write("test_suite.py", MEASURES + HIDDEN.format(mark="@pytest.mark.slmperf\n", then=LOOKS))
    project.gate("-k", "hidden").assert_outcomes(passed=2)


@pytest.mark.parametrize("how", ["-O", "PYTHONOPTIMIZE"])
def test_a_python_without_assertions_is_refused(fresh, how):
    """Where `assert` is stripped, nothing would be judged: exit code 4; switched off, the plugin doesn't mind."""
    fresh.write("pyproject.toml", SETTINGS.replace('["error"]', "[]"))  # pytest warns of it, too
    options, environment = (["-O"], {}) if how == "-O" else ([], {"PYTHONOPTIMIZE": "1"})
    command = [sys.executable, *options, "-m", "pytest", *without()]
    done = subprocess.run(
        [*command, "--slmperf", "--slmperf-engine", ENGINE],
        cwd=fresh.path,
        env={"PATH": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
    assert "python -O removes the assertions; run without it" in done.stderr
    assert subprocess.run(command, cwd=fresh.path, capture_output=True, check=False).returncode == 0


def test_the_quick_tier_of_a_whole_suite_is_green(fresh):
    """What a tier leaves out is neither stale nor an error: a test that looks it up, or at the curve, is skipped."""
    curve = (
        "\ndef test_middle(decode):\n    assert decode[4].ttft_ms <= 200\n"
        "\ndef test_knee(decode):\n    assert decode.knee.unchanged_from(decode.baseline.knee)\n"
    )
    fresh.write("test_suite.py", SUITE.replace("[1, 16]", "[1, 4, 16]") + curve)
    fresh.gate("--slmperf-accept").assert_outcomes(skipped=8, passed=1)
    quick = fresh.gate("--slmperf-tier", "quick", "-rs")
    quick.assert_outcomes(passed=5, skipped=2)
    assert "the tier quick leaves it out" in prose(quick)
    assert "a knee needs the whole sweep, and the tier quick leaves out decode/opt-125m/batch=4" in prose(quick)
    fresh.gate("-k", "not knee").assert_outcomes(passed=8, deselected=1)
    fresh.write("test_suite.py", SUITE)
    stale = fresh.gate("--slmperf-tier", "quick")
    stale.assert_outcomes(passed=4, failed=1)
    assert "holds decode/opt-125m/batch=4, and no suite measures that any more" in prose(stale)


@pytest.mark.parametrize("option", ["--setup-only", "--setup-plan"])
def test_a_run_that_runs_no_test_gates_nothing_and_is_refused(project, option):
    """Fixtures alone would measure a loss, and end green."""
    result = project.gate(option, engine=SLOWED)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--setup-only and --setup-plan run no test, so that nothing would be gated"])


def test_settings_of_a_folder_that_is_not_the_root_are_not_ignored_in_silence(project):
    """A project within a project, each with settings of its own: which of them holds is asked."""
    project.write("inner/pyproject.toml", '[tool.slmperf]\nengine = "nope"\n')
    project.write("inner/test_suite.py", SUITE)
    command = project.command(f"--rootdir={project.path}", f"--slmperf-baselines={project.path / 'baselines'}")
    done = subprocess.run(command, cwd=project.path / "inner", capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
    assert "has [tool.slmperf], and pytest took" in done.stderr


def test_the_report_is_written_though_another_hook_fails_at_the_end(project):
    """What was measured is told all the same."""
    project.write("conftest.py", "def pytest_sessionfinish():\n    raise RuntimeError('somebody else')\n")
    project.apart("--slmperf-report=x.json", UNDECIDED)
    assert (project.path / "x.json").exists()


def test_a_run_without_a_terminal_is_judged(project):
    """Nothing that is judged needs a screen."""
    said = project.apart("-p", "no:terminal", UNDECIDED)
    assert "INTERNALERROR" not in said
    assert said.endswith("exit code 1"), said


@pytest.mark.parametrize("hook", ["pytest_runtest_setup(item)", "pytest_runtest_call(item)"])
@pytest.mark.parametrize("options", [[], ["-n1"]], ids=["alone", "workers"])
def test_a_hook_that_skips_everything_skips_the_gate_in_vain(project, hook, options):
    """The check of the run is skipped with the tests, and a run that nothing vouches for is not green."""
    project.write("conftest.py", f"import pytest\ndef {hook}:\n    pytest.skip('needs a GPU')\n")
    said = project.apart(*options, UNDECIDED, keep=("xdist",))
    assert said.endswith("exit code 1"), said
    assert "nothing vouches for this run" in " ".join(said.split())


def test_a_test_that_ends_the_session_as_a_success_does_not(project):
    """Whatever return code it names: the tests behind it never ran."""
    project.write("test_a_first.py", "import pytest\ndef test_end():\n    pytest.exit('done', returncode=0)\n")
    said = project.apart(UNDECIDED)
    assert not said.endswith("exit code 0"), said


SWALLOWS_CALL = """
import pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except AssertionError:
        return None
"""
CALLS_IT_PASSED = """
import pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    report.outcome = "passed"
    return report
"""


@pytest.mark.parametrize("hook", [SWALLOWS_CALL, CALLS_IT_PASSED], ids=["call", "report"])
@pytest.mark.parametrize("options", [[], ["-n1"], ["-k", "batch16"]], ids=["alone", "workers", "a part"])
def test_a_hook_that_hides_a_red_verdict_hides_it_in_vain(project, hook, options):
    """Who asked a verdict that was red is reported as failed, or the run is red."""
    project.write("conftest.py", hook)
    said = project.apart(*options, UNDECIDED, keep=("xdist",))
    assert said.endswith("exit code 1"), said
    hidden = "a verdict was red and its test not reported as failed"
    assert f"{hidden}; some hook, of a conftest.py or a plugin, hid it: test_suite.py::" in " ".join(said.split())


CALLS_IT_EXPECTED = """
import pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        report.outcome, report.wasxfail = "skipped", "as always"
    return report
"""
FAILING = """
@DECODE.at(16)
def test_hidden_verdict(decode):
    assert decode[16].output_throughput >= decode[16].baseline.output_throughput

@DECODE.at(16)
def test_hidden_unasked(decode):
    decode[16].output_throughput >= decode[16].baseline.output_throughput

@DECODE.at(16)
def test_hidden_error(decode):
    raise ValueError("before it asks")

@pytest.mark.xfail
@DECODE.at(16)
def test_hidden_by_its_suite(decode):
    assert decode[16].output_throughput >= decode[16].baseline.output_throughput
"""


@pytest.mark.parametrize("hook", [CALLS_IT_EXPECTED, CALLS_IT_PASSED], ids=["expected", "passed"])
def test_a_test_that_failed_and_is_reported_as_something_else_is_red_in_a_part_of_a_run_too(project, hook):
    """Whatever it failed with: it may not have come to what it asserts. Which failure is expected, its suite says."""
    project.write("conftest.py", hook)
    project.write("test_suite.py", SUITE + FAILING)
    red = project.gate("-k", "hidden", UNDECIDED, "--slmperf-report=report.json")
    assert red.ret == pytest.ExitCode.TESTS_FAILED
    problems = json.loads((project.path / "report.json").read_text())["problems"]
    hid = "its test not reported as failed; some hook, of a conftest.py or a plugin, hid it: test_suite.py::test_hidden"
    hidden = [problem.partition(hid)[::2] for problem in problems]
    assert [why for why, _ in hidden] == ["a verdict was red and ", *["something failed and "] * 2]
    assert hidden[0][1].startswith("_verdict: inconclusive: decode/opt-125m/batch=16 output_throughput - ")
    assert hidden[1][1].startswith("_unasked: Failed: the test made a verdict and never asked for its truth")
    assert hidden[2][1] == "_error: ValueError: before it asks"


def test_a_hook_that_would_hide_failures_is_none_of_ours(project):
    """Where no performance test failed, it hid nothing."""
    project.write("conftest.py", SWALLOWS_CALL)
    assert project.apart().endswith("exit code 0")


@pytest.mark.parametrize("around", ["", "@pytest.hookimpl(wrapper=True, tryfirst=True)\n"], ids=["inside", "around"])
@pytest.mark.parametrize("options", [[], ["-n1"]], ids=["alone", "workers"])
def test_a_hook_that_ends_the_sessions_end_as_a_success_does_not(project, around, options):
    """pytest takes its return code and writes no summary: the exit code tells, and standard error says why."""
    then = "    yield\n" if around else ""
    hook = f"{around}def pytest_sessionfinish(session):\n    pytest.exit('done', returncode=0)\n{then}"
    project.write("conftest.py", f"import pytest\n{hook}")
    said = project.apart(*options, UNDECIDED, keep=("xdist",))
    assert said.endswith("exit code 1"), said
    assert "slmperf: a hook ended the session as a success, and it is none:\ntests failed: " in said


@pytest.mark.parametrize("options", [[], ["-n1"]], ids=["alone", "workers"])
def test_a_suite_that_has_vanished_is_not_green(project, options):
    """Nothing is measured, and what is stored is nobody's any more."""
    project.write("test_suite.py", "def test_nothing():\n    pass\n")
    said = project.apart(*options, keep=("xdist",))
    assert said.endswith("exit code 1"), said
    assert "no test of this run measured anything, so nothing is gated" in " ".join(said.split())
