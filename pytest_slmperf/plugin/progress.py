"""Where long work is: one line that is rewritten in a terminal, sparse lines in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_slmperf.core.engine import EngineSpec
    from pytest_slmperf.run.measuring import RunProgress

QUIET_S = 15.0
"""A log gets a line at most this often."""
REDRAW_S = 0.2


class TerminalProgress:
    """Writes past pytest's capture, onto the terminal that the person looks at."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._spent = 0
        self._launches = 0
        self._began = time.monotonic()
        self._written = 0.0
        self._case = ""
        self._engine = ""
        self._drawn = False

    def planned(self, launches: int, spent: int) -> None:
        """See run.campaign.Progress."""
        if spent == 0:
            self._began = time.monotonic()
        self._launches, self._spent = launches, spent

    def launching(self, spec: EngineSpec, cases: Sequence[str], arm: str) -> None:
        """See run.campaign.Progress."""
        self._spent += 1
        self._engine = f"{spec.engine} {spec.model_name}" + (" (other arm)" if arm == "baseline" else "")
        self._case = cases[0] if cases else "starting"
        self._write(f"launch {self._spent}")

    def round(self, case: str, number: int, rounds: int) -> None:
        """A round of a case begins."""
        self._case = case
        self._write(f"launch {self._spent}, round {number} of {rounds}")

    def remark(self, line: str) -> None:
        """Say one line now, whatever was said before."""
        self._emit(line, replace=False)

    def done(self) -> None:
        """The line that was rewritten is not needed any more."""
        if self._drawn:
            self._emit("", replace=True)
            self._drawn = False

    def _write(self, where: str) -> None:
        now = time.monotonic()
        terminal = self._reporter()
        if terminal is None:
            return
        alive = terminal._tw.hasmarkup  # noqa: SLF001 - how pytest itself tells a terminal from a log
        if now - self._written < (REDRAW_S if alive else QUIET_S):
            return
        self._written = now
        self._emit(f"slmperf: {self._engine}: {where}{self._of()}: {self._case}{self._left(now)}", replace=alive)
        self._drawn = alive

    def _of(self) -> str:
        return f" of about {self._launches}" if self._launches > self._spent else ""

    def _left(self, now: float) -> str:
        left = self._launches - self._spent
        if self._spent < 2 or left <= 0:
            return ""
        return f", about {left * (now - self._began) / self._spent:.0f} s left"

    def _emit(self, line: str, *, replace: bool) -> None:
        terminal = self._reporter()
        if terminal is None:
            return
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            if replace:
                terminal.rewrite(line, erase=True)
            else:
                terminal.ensure_newline()
                terminal.write_line(line)

    def _reporter(self) -> pytest.TerminalReporter | None:
        reporter: pytest.TerminalReporter | None = self._config.pluginmanager.get_plugin("terminalreporter")
        return reporter


def progress_for(config: pytest.Config) -> RunProgress:
    """A progress that writes where this run's terminal is; silent on a worker of pytest-xdist, which has none."""
    return TerminalProgress(config)
