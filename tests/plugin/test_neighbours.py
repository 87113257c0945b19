"""Other plugins beside ours."""

import json
from xml.etree import ElementTree  # noqa: ICN001 - our own file, and nobody's alias

import pytest
from projects import ENGINE, SLOWED, SUITE, UNDECIDED

ORDINARY = """
import pytest

@pytest.mark.parametrize("number", range(8))
def test_ordinary(number):
    assert number >= 0
"""


def test_one_worker_of_xdist_measures(project):
    """Under -n 2, every performance test and the run's check go to one worker, and the controller reports."""
    project.write("test_ordinary.py", ORDINARY)
    said = project.apart("-n2", "-v", "--slmperf-report", "report.json", "--junitxml", "junit.xml", keep=("xdist",))
    assert "13 passed" in said
    workers = {line.split("]")[0] for line in said.splitlines() if "test_suite.py" in line and "PASSED" in line}
    assert len(workers) == 1
    assert any(f"{worker}]" in line for worker in workers for line in said.splitlines() if "whole-run" in line)
    assert "4 unchanged; 9 launches" in said
    report = json.loads((project.path / "report.json").read_text())
    assert report["complete"] is True
    assert len(report["sweeps"][0]["cases"]) == 2
    assert "slmperf.output_throughput.verdict" in (project.path / "junit.xml").read_text()


def test_the_last_failed_run_again_after_one_of_xdist(project):
    """What failed on a worker has the id that it was collected by, so that --lf finds it, on workers and without."""
    keep = ("xdist", "cacheprovider")
    project.write(
        "test_suite.py", SUITE.replace("    assert point.output", "    assert batch_size == 1\n    assert point.output")
    )
    said = project.apart("-n1", "-rf", "-k", "throughput and 16", UNDECIDED, keep=keep)
    assert "FAILED test_suite.py::test_throughput[batch16] - " in said
    for options in (["-n1"], []):
        again = project.apart(*options, "--lf", "--slmperf-report", "report.json", UNDECIDED, keep=keep)
        assert "1 failed, 1 passed" in again
        report = json.loads((project.path / "report.json").read_text())
        assert [case["case"] for case in report["sweeps"][0]["cases"]] == ["decode/opt-125m/batch=16"]


DIES = """
import os
import signal

@DECODE.at(16)
def test_zz_dies(decode):
    {before}
    if not os.path.exists("died"):
        open("died", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("restarts", ["4", "0"])
def test_a_worker_that_dies_takes_its_measurements_with_it(project, restarts):
    """The run is red, and the report says that it is a part and why, also where another worker measured again."""
    project.write("test_suite.py", SUITE + DIES.format(before="assert decode[16].ttft_ms.median > 0"))
    options = ["-n2", "--max-worker-restart", restarts, "--slmperf-report", "report.json"]
    said = project.apart(*options, keep=("xdist",))
    assert said.endswith("exit code 1"), said
    assert "died while it measured: its measurements are lost" in " ".join(said.split())
    report = json.loads((project.path / "report.json").read_text())
    assert (report["complete"], report["whole"]) == (False, False)
    assert "died while it measured" in report["problems"][0]
    assert "no test of this run asserts" not in said


def test_a_report_that_cannot_be_written_is_said_and_red(project):
    """What stops a report after the run is a problem of the run, on workers and without."""
    blocks = "\nimport os\n\n@DECODE.at(16)\ndef test_zz(decode):\n    os.makedirs('report.json', exist_ok=True)\n"
    project.write("test_suite.py", SUITE + blocks)
    for options in (["-n1"], []):
        said = project.apart(*options, "--slmperf-no-gate", "--slmperf-report", "report.json", keep=("xdist",))
        assert "problem: the report report.json can't be written: Is a directory" in " ".join(said.split())
        assert said.endswith("exit code 1")
        (project.path / "report.json").rmdir()


def test_side_by_side_on_every_worker_is_refused(project):
    """--dist each would measure the neighbour, so it is exit code 4."""
    said = project.apart("--tx", "2*popen", "--dist", "each", keep=("xdist",))
    assert "--slmperf measures on one worker; --dist each would measure side by side" in said
    assert said.endswith("exit code 4")


def test_a_shuffled_order_changes_nothing(project):
    """pytest-randomly may shuffle the tests; the run's check stays the last."""
    result = project.gate("-v", keep=("randomly",))
    result.assert_outcomes(passed=5)
    done = [line for line in result.outlines if "PASSED" in line]
    assert done[-1].startswith("slmperf::whole-run")


def test_a_timeout_for_tests_ends_no_measurement(project):
    """--timeout is for tests; a measurement has limits of its own."""
    slow = f"{ENGINE},start_sleep_s=0.4"
    result = project.gate("--slmperf-no-gate", "--timeout=3", engine=slow, keep=("timeout",))
    result.assert_outcomes(skipped=4, passed=1)


def test_a_rerun_buys_no_green(project):
    """--reruns repeats the tests and not the measurement: what was red stays red, with no launch more."""
    result = project.gate("--reruns", "3", "-k", "throughput and 16", engine=SLOWED, keep=("rerunfailures",))
    result.assert_outcomes(failed=1, passed=1, deselected=3)
    result.stdout.fnmatch_lines(["*1 regressed*"])
    assert "3 rerun" in result.stdout.str()
    assert "; 17 launches" in result.stdout.str()


BROKEN = """
attempts = []

@DECODE.each
def test_throughput(slmperf, slm_engine, batch_size):
    attempts.append(batch_size)
    if len(attempts) == 1:
        slmperf.measure(DECODE, "an engine")
    point = slmperf.measure(DECODE, slm_engine("opt-125m"))[batch_size]
    assert point.output_throughput >= point.baseline.output_throughput
"""


@pytest.mark.parametrize("workers", [[], ["-n1"]], ids=["one process", "workers"])
def test_a_rerun_that_passes_hides_nothing(project, workers):
    """A test that failed once and then passed is none that failed: whatever else is red in its run stays so."""
    stored = project.baseline()
    stored.with_name("fake-other.json").write_text(stored.read_text().replace('"decode', '"other'))
    project.write("test_suite.py", SUITE.partition("@DECODE.each")[0] + BROKEN)
    run = project.apart("--reruns=1", "--slmperf-report=report.json", *workers, keep=("rerunfailures", "xdist"))
    assert run.endswith("exit code 1"), run
    report = json.loads((project.path / "report.json").read_text())
    assert report["failed_tests"] == ["slmperf::whole-run"]
    for said in (
        "no test of this run asserts it for",  # ttft_ms
        "holds other, and no sweep has that name any more",
        "takes an engine, several engines",
    ):
        assert said in " ".join(run.split())
        assert any(said in problem for problem in report["problems"]), report["problems"]


def test_a_rerun_starts_no_failed_engine_again(project):
    """An engine that failed has failed for this run."""
    result = project.gate("--reruns", "2", engine=f"{ENGINE},fault=dies,fault_batch=2", keep=("rerunfailures",))
    assert result.ret == 1
    assert "; 1 launch in" in result.stdout.str()


def test_pytest_benchmark_works_beside_us(project):
    """Its fixture times as always, and its file has its benchmarks and our cases."""
    project.write("test_ordinary.py", "def test_timed(benchmark):\n    assert benchmark(lambda: 1) == 1\n")
    said = project.apart("--benchmark-json", "bench.json", "--benchmark-max-time=0.01", keep=("benchmark",))
    assert "6 passed" in said
    names = [one["name"] for one in json.loads((project.path / "bench.json").read_text())["benchmarks"]]
    assert "test_timed" in names
    assert len(names) == 3


def test_junit_counts_and_explains_failures(project):
    """The JUnit file has a failure for each red test, the run's check too, and each verdict's figures."""
    sleeping = "@DECODE.each\ndef test_first_token"
    project.write("test_suite.py", SUITE.partition(sleeping)[0])
    assert project.gate("--junitxml", "junit.xml").ret == 1
    (suite,) = ElementTree.parse(project.path / "junit.xml").getroot()  # noqa: S314 - our own file
    assert (suite.attrib["tests"], suite.attrib["failures"], suite.attrib["errors"]) == ("3", "1", "0")
    cases = {case.attrib["name"]: case for case in suite.iter("testcase")}
    assert "no test of this run asserts it" in cases["whole-run"].find("failure").text
    pairs = cases["test_throughput[batch16]"].iter("property")
    properties = {pair.attrib["name"]: pair.attrib["value"] for pair in pairs}
    assert properties["slmperf.case"] == "decode/opt-125m/batch=16"
    assert properties["slmperf.output_throughput.verdict"] == "unchanged"
    assert float(properties["slmperf.output_throughput.ratio"]) == pytest.approx(1, abs=0.03)
