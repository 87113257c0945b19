"""Whom a void round names."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace

import pytest
from foreign_engine import install
from patience import CONTENDED, spoilt, tries
from test_guards import CORE, LOAD, OTHER, POLICY, SPINNING, busy_process

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.run.blame import Seen, Suspect, blame, command_line, in_rounds, scan, suspects
from pytest_slmperf.run.guards import TICK_NS
from pytest_slmperf.run.launch import run_launch

SENDING_TO_REST = f"""{SPINNING}
import os, signal

class Engine(Engine):
    sent = False
    def serve(self, batch, *, observe):
        if not self.sent:
            time.sleep(0.2)
            os.kill(int(os.environ["EARLY"]), signal.SIGSTOP)
            self.sent = True
        return super().serve(batch, observe=observe)
"""
"""Lets somebody else work beside it until it has served for the first time, which no case's rounds hold."""


def test_nobody_is_blamed_for_what_he_did_before_the_case(tmp_path, monkeypatch):
    """Who was at work after the model was loaded, and rests since, is not named beside who disturbs a round."""
    install(tmp_path, "sending", SENDING_TO_REST)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    core = max(os.sched_getaffinity(0))
    for _ in tries():
        with ExitStack() as stack:
            early, late = (stack.enter_context(busy_process(core)) for _ in range(2))
            os.kill(late, signal.SIGSTOP)
            monkeypatch.setenv("EARLY", str(early))
            record = run_launch(
                EngineSpec("sending", "tiny"),
                [LOAD],
                replace(POLICY, void_retries=0),
                arm="candidate",
                index=0,
                cores=(core,),
                quantiles=(),
                progress=lambda *_, late=late: os.kill(late, signal.SIGCONT),
            )
        case = record.cases[LOAD.case]
        assert not any(f"(pid {early}, " in void.reason for void in case.void_rounds)
        if not spoilt(case, CONTENDED, naming=[late]):
            break
    assert f"(pid {late}, " in case.void


def test_a_suspect_is_who_used_the_cores_since_and_is_not_the_engine():
    """Whose id was given again to another process counts anew, and all that descends from the guard is the engine."""
    guard, idle, culprit, elsewhere, new, reused = 10, 20, 30, 40, 50, 60
    before = {
        guard: Seen("python", 1, 1, 0, CORE),
        11: Seen("engine", guard, 1, 100, CORE),
        12: Seen("ended since", 11, 1, 100, CORE),
        idle: Seen("sleep", 1, 1, 5, CORE),
        culprit: Seen("make", 1, 1, 100, CORE),
        elsewhere: Seen("cc1", 1, 1, 100, OTHER),
        reused: Seen("old", 1, 1, 500, CORE),
    }
    after = {
        guard: Seen("python", 1, 1, 0, CORE),
        11: Seen("engine", guard, 1, 900, CORE),
        13: Seen("child of the engine's child", 12, 1, 900, CORE),
        14: Seen("daemon", guard, 1, 900, CORE),
        idle: Seen("sleep", 1, 1, 5, CORE),
        culprit: Seen("make", 1, 1, 130, OTHER),
        elsewhere: Seen("cc1", 1, 1, 900, OTHER),
        new: Seen("ld", culprit, 7, 10, CORE),
        reused: Seen("new", 1, 8, 20, CORE),
    }
    found = suspects(before, after, cores=(CORE,), root=guard)
    tick_s = TICK_NS / 1e9
    assert found == [
        Suspect(culprit, "make", 30 * tick_s),
        Suspect(reused, "new", 20 * tick_s),
        Suspect(new, "ld", 10 * tick_s),
    ]


def test_blame_names_the_first_and_counts_the_rest():
    """Five of them by command and CPU time; where nobody was seen, that is said."""
    found = [Suspect(pid, f"job{pid}", 1.0) for pid in range(900_001, 900_008)]
    named = [f"job90000{number} (pid 90000{number}, 1 s of CPU)" for number in range(1, 6)]
    assert blame(found) == f"{', '.join(named)} and 2 more"
    assert blame(found[:1], lambda _: "make -j8") == "make -j8 (pid 900001, 1 s of CPU)"
    assert "nobody was seen there" in blame([])


def test_this_process_is_named_as_such():
    """A run that disturbs itself says so, and doesn't send its reader after a stranger."""
    assert blame([Suspect(os.getpid(), "pytest", 0.5)]).startswith("pytest-slmperf itself, pytest (pid")


@pytest.mark.parametrize(("worked_ms", "told"), [(0, []), (9, []), (30, [0.03])])
def test_this_process_is_blamed_for_no_more_than_it_worked_within_the_rounds(worked_ms, told):
    """What it does between them, scans and pieces of work on the engine's cores, disturbs no round."""
    other = Suspect(os.getpid() + 1, "make", 0.02)
    found = in_rounds([Suspect(os.getpid(), "pytest", 0.5), other], worked_ms * 1_000_000)
    assert [one.cpu_s for one in found if one.pid == os.getpid()] == told
    assert other in found


def test_a_scan_sees_this_process():
    """With its parent and the core that it was last on, and its command line can be had."""
    seen = scan()[os.getpid()]
    assert seen.parent == os.getppid()
    assert seen.core in range(os.cpu_count())
    assert command_line(os.getpid())


def test_a_process_with_a_strange_name_is_read_right():
    """A name with brackets and blanks shifts no field of the kernel's line."""
    copy_name = (
        "import ctypes, time; ctypes.CDLL(None).prctl(15, b'a) R (1 b', 0, 0, 0); print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", copy_name], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert scan()[child.pid].name == "a) R (1 b"
        child.kill()
