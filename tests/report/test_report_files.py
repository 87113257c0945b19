"""Writing a report to a file."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rendered_runs import case_outcome, run_outcome, sweep_outcome

from pytest_slmperf.core.errors import SlmperfError, UsageError
from pytest_slmperf.core.verdict import Status
from pytest_slmperf.report.document import outcome
from pytest_slmperf.report.files import check_report_path, write_report
from pytest_slmperf.report.junit import properties

RUN = run_outcome(sweep_outcome(case_outcome(4, Status.REGRESSED)))
FULL_DISK = """
import resource, sys
from pathlib import Path
from pytest_slmperf.core.errors import SlmperfError
from pytest_slmperf.report.document import outcome
from pytest_slmperf.report.files import write_report
import json
path = Path(sys.argv[1])
run = outcome(json.loads(path.read_text(encoding="utf-8")))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_report(run, path)
except SlmperfError as error:
    print(error)
"""


def test_json(tmp_path):
    """A report that ends with .json reads back as the run."""
    path = tmp_path / "deep" / "er" / "Report.JSON"
    write_report(RUN, path)
    assert outcome(json.loads(path.read_text(encoding="utf-8"))) == RUN


def test_markdown(tmp_path):
    """A report that ends with .md is a comment."""
    write_report(RUN, tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("### slmperf: 1 unchanged, 1 regressed")


@pytest.mark.parametrize("name", ["report.json", "report.md"])
def test_a_test_whose_path_is_no_text(tmp_path, name):
    """A byte that is no UTF-8 in a test's path costs no report: a question mark stands for it."""
    write_report(replace(RUN, problems=("suites/\udcff.py: died",)), tmp_path / name)
    assert "suites/?.py: died" in (tmp_path / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["report.html", "report", "report.json.gz", ".json"])
def test_unknown_ending(tmp_path, name):
    """An unknown ending is wrong usage, found before the run, and the known ones are named."""
    with pytest.raises(UsageError, match=r"\.json or \.md"):
        check_report_path(tmp_path / name)
    with pytest.raises(UsageError, match=r"\.json or \.md"):
        write_report(RUN, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_paths_that_work_are_not_touched(tmp_path):
    """Checking a path makes nothing, neither the file nor its folders."""
    check_report_path(tmp_path / "new" / "folder" / "report.json")
    check_report_path(Path("report.json"))
    assert not list(tmp_path.iterdir())


def test_a_directory(tmp_path):
    """A directory is refused, whatever its name ends with."""
    (tmp_path / "report.json").mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        check_report_path(tmp_path / "report.json")


def test_a_file_in_the_way(tmp_path):
    """A folder that can't be made is found before the run, and named after it too."""
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "sub" / "report.json"
    with pytest.raises(UsageError, match="file: Not a directory"):
        check_report_path(path)
    with pytest.raises(SlmperfError, match=r"report\.json can't be written"):
        write_report(RUN, path)


def test_a_folder_that_takes_no_file():
    """A folder of the kernel's takes no report, whoever asks: that is found before the run, and named after it too."""
    with pytest.raises(UsageError, match="no report can lie there: /proc: "):
        check_report_path(Path("/proc/report.json"))
    with pytest.raises(SlmperfError, match=r"/proc/report\.json can't be written"):
        write_report(RUN, Path("/proc/report.json"))


def test_a_full_disk_leaves_the_old_report(tmp_path):
    """Where the disk takes only a part, the older report is still there and nothing half-written beside it."""
    path = tmp_path / "report.json"
    write_report(RUN, path)
    before = path.read_bytes()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-B", "-c", FULL_DISK, str(path)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert f"{path} can't be written: File too large" in said
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path):
    """A report behind a symbolic link replaces the file, not the link."""
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "report.json").symlink_to("real.json")
    write_report(RUN, tmp_path / "report.json")
    assert (tmp_path / "report.json").is_symlink()
    assert (tmp_path / "real.json").read_text(encoding="utf-8").startswith("{")


def test_others_may_read_it(tmp_path):
    """A report has the permissions of any new file."""
    (tmp_path / "plain").write_text("")
    write_report(RUN, tmp_path / "report.json")
    assert (tmp_path / "report.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_junit_properties():
    """A JUnit file gets the verdict, the ratio with its interval, the tolerance and the MDE of each gated metric."""
    said = dict(properties(RUN.sweeps[0].cases["decode/opt-125m/batch=4"].verdicts.values()))
    assert said["slmperf.case"] == "decode/opt-125m/batch=4"
    assert said["slmperf.output_throughput.verdict"] == "regressed"
    assert float(said["slmperf.output_throughput.ratio"]) == pytest.approx(0.9, abs=0.01)
    for name in ("ci_low", "ci_high", "tolerance", "mde", "launches"):
        assert said[f"slmperf.joules_per_output_token.{name}"]


def test_junit_properties_of_what_was_not_compared():
    """Where nothing was compared, there is a verdict and its reason, and no figure."""
    said = dict(properties(case_outcome(4, Status.NO_BASELINE).verdicts.values()))
    assert said["slmperf.output_throughput.verdict"] == "no-baseline"
    assert said["slmperf.output_throughput.reason"] == "nothing is stored for this machine"
    assert "slmperf.output_throughput.ratio" not in said


def test_a_device_or_a_pipe_is_never_replaced(tmp_path):
    """Neither by its own name nor through a link: whoever may would replace /dev/null for everybody."""
    pipe, link = tmp_path / "pipe", tmp_path / "report.json"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    with pytest.raises(UsageError, match=r"report\.json is a device or a pipe"):
        check_report_path(link)
    with pytest.raises(SlmperfError, match="device or a pipe, which would be replaced"):
        write_report(RUN, link)
    assert pipe.is_fifo()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["pipe", "report.json"]
