"""Standard output that takes nothing."""

import json
import subprocess
from pathlib import Path

import pytest
from projects import ENGINE, SLOWED

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")


@pytest.mark.parametrize("options", [(), ("-s",), ("-n2",)], ids=["captured", "not captured", "workers"])
@pytest.mark.parametrize(("engine", "passed"), [(ENGINE, True), (SLOWED, False)], ids=["alike", "slowed"])
def test_a_full_disk_takes_no_report_and_leaves_no_green_run(project, options, engine, passed):
    """What was measured is in the report, one line on standard error says what is wrong, and the run is not green."""
    command = project.command(*options, "--slmperf-report=report.json", engine=engine, keep=("xdist",))
    with FULL.open("w") as full:
        run = subprocess.run(command, cwd=project.path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert run.stderr == "slmperf: standard output can't be written: No space left on device\n"
    report = json.loads((project.path / "report.json").read_text())
    assert report["complete"] is True
    assert (report["failed_tests"] == []) is passed
