"""Whom a void round names."""

import os
import signal
from contextlib import ExitStack
from dataclasses import replace

from foreign_engine import install
from patience import CONTENDED, spoilt, tries
from test_guards import LOAD, POLICY, SPINNING, busy_process

from pytest_slmperf.core.engine import EngineSpec
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
