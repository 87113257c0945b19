"""Interrupted anywhere, a run ends its engines, and reports what was finished."""

import json
import os
import signal
import time

import pytest
from projects import ENGINE, engines_of

SLOW = f"{ENGINE},batch_sleep_s=0.3"


def _listen():
    """What a shell starts in the background ignores Ctrl-C, and so would all that these tests start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _wait_for_an_engine(run, folder, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not engines_of(folder):
        assert run.poll() is None, run.stdout.read()
        assert time.monotonic() < deadline, "no engine was started"
        time.sleep(0.02)


def _gone(folder, seconds=5.0):
    deadline = time.monotonic() + seconds
    while engines_of(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not engines_of(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("mode", [(), ("--slmperf-accept",)], ids=["gating", "recording"])
def test_an_interrupted_run_reports_what_was_finished(project, number, mode):
    """Ctrl-C and SIGTERM in the middle of a batch: exit code 2, a report that is not whole, no process, no new file."""
    before = project.baseline().read_bytes()
    run = project.start("--slmperf-report", "report.json", *mode, engine=SLOW, preexec_fn=_listen)
    _wait_for_an_engine(run, project.path)
    time.sleep(0.4)
    run.send_signal(number)
    said, _ = run.communicate(timeout=30)
    assert run.returncode == pytest.ExitCode.INTERRUPTED, said
    report = json.loads((project.path / "report.json").read_text())
    assert (report["complete"], report["whole"]) == (False, False)
    assert _gone(project.path)
    assert project.baseline().read_bytes() == before
    assert not [path for path in project.path.rglob("*.tmp") if "slmperf" in str(path)]


def test_engines_die_with_a_killed_pytest(project):
    """SIGKILL leaves nobody to clean up, and no engine either, also in the middle of a batch."""
    run = project.start(engine=f"{ENGINE},batch_sleep_s=60")
    _wait_for_an_engine(run, project.path)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate(timeout=30)
    assert _gone(project.path)
