"""What is red beside the gated metrics is red in the reports, too."""

import json
from xml.etree import ElementTree as ET

import pytest
from projects import SUITE, Project

from pytest_slmperf.cli import main
from pytest_slmperf.run import schema

LIMITS = """
@DECODE.at(16)
def test_limit(decode):
    assert decode[16].ttft_ms <= 0.001


@DECODE.at(16)
def test_the_same_limit_again(decode):
    assert decode[16].ttft_ms <= 0.001


def test_knee(decode):
    assert decode.knee.unchanged_from(decode.baseline.knee)


def test_frontier(decode):
    assert decode.frontier.unchanged_from(decode.baseline.frontier)
"""

OWN = """
@DECODE.at(16)
def test_own(decode):
    assert len(decode) == 3


@pytest.fixture
def broken():
    raise RuntimeError("no such file")


@DECODE.at(16)
def test_with_a_broken_fixture(decode, broken):
    pass


def test_ordinary():
    raise RuntimeError("this one measures nothing")
"""


def report(project: Project) -> dict:
    written = json.loads((project.path / "report.json").read_text())
    assert schema.violation("report", written) is None
    return written


@pytest.fixture(scope="module")
def claimed(module_project):
    """A project in which a limit, a knee and a frontier were asserted, and what its run said."""
    module_project.write("test_suite.py", SUITE + LIMITS)
    reports = ("--slmperf-report=report.json", "--slmperf-report=report.md", "--junitxml=junit.xml")
    return module_project, module_project.apart(*reports)


def test_a_stated_limit_a_knee_and_a_frontier_are_in_the_reports(claimed):
    """Each is there once with its verdict, is counted, and what fails is explained at the end of the run."""
    project, said = claimed
    assert "2 failed, 7 passed" in said
    written = report(project)
    claims = [(one["case"], one["metric"], one["verdict"]) for one in written["claims"]]
    assert claims == [
        ("decode/opt-125m/batch=16", "median_ttft_ms", "regressed"),
        ("decode/opt-125m", "knee", "unchanged"),
        ("decode/opt-125m", "frontier of output_throughput and median_ttft_ms", "unchanged"),
    ]
    assert written["counts"] == {"unchanged": 6, "regressed": 1}
    assert "limit at most 0.001 ms" in written["claims"][0]["reason"]
    assert "slmperf: asserted beside the gate" in said
    assert "\n2 tests failed; 6 unchanged, 1 regressed; " in said
    assert "1 regressed - beyond the limit" in " ".join(said.split())
    page = (project.path / "report.md").read_text()
    assert page.startswith("### slmperf: 2 tests failed; 6 unchanged, 1 regressed; ")
    assert "| ❌ regressed | decode/opt-125m/batch=16 | median_ttft_ms |" in page


def test_junit_has_of_a_test_what_it_asserted(claimed):
    """A stated limit, a knee and a frontier are properties of their tests; what others asserted of a case is not."""
    project, _ = claimed
    tree = ET.parse(project.path / "junit.xml")  # noqa: S314 - our own file
    said = {
        case.attrib["name"]: {pair.attrib["name"]: pair.attrib["value"] for pair in case.iter("property")}
        for case in tree.iter("testcase")
    }
    assert said["test_throughput[batch16]"]["slmperf.output_throughput.verdict"] == "unchanged"
    limit = said["test_limit"]
    assert limit.pop("slmperf.median_ttft_ms.reason").startswith("beyond the limit: ")
    assert limit == {
        "slmperf.case": "decode/opt-125m/batch=16",
        "slmperf.median_ttft_ms.verdict": "regressed",
        "slmperf.median_ttft_ms.limit": "at most 0.001 ms",
    }
    assert "slmperf.knee.verdict" in said["test_knee"]
    assert "slmperf.frontier_of_output_throughput_and_median_ttft_ms.verdict" in said["test_frontier"]


def test_a_rerun_makes_no_second_claim(project):
    """A limit that is asked again by --reruns is there once, and its test is one."""
    project.write("test_suite.py", SUITE + LIMITS)
    project.gate("--reruns", "2", "-k", "test_limit", "--slmperf-report", "report.json", keep=("rerunfailures",))
    written = report(project)
    assert [one["metric"] for one in written["claims"]] == ["median_ttft_ms"]
    assert written["failed_tests"] == ["test_suite.py::test_limit"]


def test_what_nobody_judges_is_no_claim(project):
    """A run that only measures has no claims, whatever is asserted."""
    project.write("test_suite.py", SUITE + LIMITS)
    project.gate("--slmperf-no-gate", "--slmperf-report", "report.json")
    assert report(project)["claims"] == []


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "on a worker of xdist"])
def test_a_test_that_fails_by_itself_is_in_the_reports(project, workers):
    """An assertion of the suite's own and a broken fixture are counted and named; what measures nothing isn't ours."""
    project.write("test_suite.py", SUITE + OWN)
    said = project.apart(*workers, "--slmperf-report", "report.json", keep=("xdist",) if workers else ())
    assert said.endswith("exit code 1")
    assert "\n2 tests failed; 4 unchanged; " in said
    assert sorted(report(project)["failed_tests"]) == [
        "test_suite.py::test_own",
        "test_suite.py::test_with_a_broken_fixture",
    ]


def test_claims_come_from_the_worker_of_xdist(project):
    """The controller's report has what the measuring worker was asked."""
    project.write("test_suite.py", SUITE + LIMITS)
    project.apart("-n1", "--slmperf-report", "report.json", keep=("xdist",))
    assert len(report(project)["claims"]) == 3


def test_a_red_check_of_the_whole_run_is_a_failed_test(project):
    """A gated metric that nobody asserts makes the headline red, too."""
    project.write("test_suite.py", SUITE.partition("@DECODE.each\ndef test_first_token")[0])
    result = project.gate("--slmperf-report", "report.json")
    assert report(project)["failed_tests"] == ["slmperf::whole-run"]
    result.stdout.fnmatch_lines(["1 test failed; 4 unchanged; *"])


def test_a_comparison_says_what_it_compared(tmp_path, monkeypatch, capsys):
    """`slmperf ab` names both arms by what differs, in the terminal and the reports, and says where those are."""
    monkeypatch.chdir(tmp_path)
    reports = [part for name in ("report.json", "report.md") for part in ("--report", name)]
    arms = ["engine=fake,noise=0.002", "engine=fake,noise=0.002,slowed=0.2"]
    assert main(["ab", *arms, "--model", "opt-125m", *reports]) == 1
    said = capsys.readouterr().out
    named = "A: fake opt-125m; B: fake opt-125m, slowed=0.2"
    assert f"\n{named}\n" in said
    assert said.endswith("\nreport: report.json\nreport: report.md\n")
    assert named in (tmp_path / "report.md").read_text()
    (sweep,) = json.loads((tmp_path / "report.json").read_text())["sweeps"]
    assert [spec["planted_loss"] for spec in (*sweep["baseline_specs"], *sweep["specs"])] == [0.0, 0.2]
