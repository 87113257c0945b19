"""Comparisons inside of pytest's subtests and of unittest's."""

import json

import pytest
from projects import SLOWED, SUITE, UNDECIDED, prose

IN_A_SUBTEST = """
@DECODE.each
def test_both(decode, batch_size, subtests):
    point = decode[batch_size]
    with subtests.test("throughput"):
        assert point.output_throughput >= point.baseline.output_throughput
    with subtests.test("first token"):
        assert point.ttft_ms <= point.baseline.ttft_ms
"""

IN_A_UNITTEST = """
class TestDecode(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def measured(self, decode):
        self.decode = decode

    @DECODE.at(1, 16)
    def test_both(self):
        for size in 1, 16:
            point = self.decode[size]
            with self.subTest("throughput", size=size):
                assert point.output_throughput >= point.baseline.output_throughput
            with self.subTest("first token", size=size):
                assert point.ttft_ms <= point.baseline.ttft_ms
"""

SUITES = pytest.mark.parametrize(
    ("tests", "number"), [(IN_A_SUBTEST, 2), (IN_A_UNITTEST, 1)], ids=["pytest", "unittest"]
)
DECLARED = f"import unittest\n{SUITE.partition('@DECODE.each')[0]}"

pytestmark = pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest has subtests from 9.0 on")


@SUITES
def test_what_is_not_judged_in_a_subtest_is_no_failure(fresh, tests, number):
    """A run that only reports skips the subtest; its test goes on and isn't red."""
    fresh.write("test_suite.py", DECLARED + tests)
    result = fresh.gate("--slmperf-no-gate")
    result.assert_outcomes(passed=number + 1)
    assert result.ret == 0


def test_a_recording_of_subtests_is_no_failure(fresh):
    """It skips them as a report does, and what they compare is stored; both forms of them side by side."""
    fresh.write("test_suite.py", DECLARED + IN_A_SUBTEST + IN_A_UNITTEST)
    result = fresh.gate("--slmperf-accept")
    result.assert_outcomes(passed=4)
    assert result.ret == 0
    assert fresh.baseline().exists()


def test_a_regression_in_a_subtest_is_red(project):
    """Each subtest has its own line, its test is red with them, and nothing calls them caught; alike, all is green."""
    project.write("test_suite.py", DECLARED + IN_A_SUBTEST + IN_A_UNITTEST)
    project.gate().assert_outcomes(passed=4)
    red = project.gate("--slmperf-report=report.json", engine=SLOWED)
    assert red.ret == pytest.ExitCode.TESTS_FAILED
    assert red.parseoutcomes() == {"failed": 8 + 3, "passed": 1}
    assert red.stdout.str().count("a verdict was red in a subtest:\n") == 3
    assert "caught" not in prose(red)
    assert len(json.loads((project.path / "report.json").read_text())["failed_tests"]) == 3


def test_a_subtest_that_catches_a_red_verdict_is_told(project):
    """What a subtest swallows is swallowed: its test fails for it."""
    swallows = IN_A_SUBTEST.replace(
        "        assert point.ttft_ms <= point.baseline.ttft_ms",
        "        try:\n            assert point.ttft_ms <= point.baseline.ttft_ms\n"
        "        except AssertionError:\n            pass",
    )
    project.write("test_suite.py", DECLARED + swallows)
    red = project.gate("-k", "batch16", UNDECIDED)
    assert red.parseoutcomes() == {"failed": 2, "passed": 1, "deselected": 1}
    caught = prose(red).partition("the test caught its error; leave out what catches it:")[2]
    assert caught.lstrip().startswith("inconclusive: decode/opt-125m/batch=16 median_ttft_ms")
