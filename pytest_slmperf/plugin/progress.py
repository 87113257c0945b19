"""Where pytest's person looks: past its capture, onto its terminal."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from pytest_slmperf.run.progress import Progress

if TYPE_CHECKING:
    import pytest


class TerminalScreen:
    """The terminal of this pytest; a worker of pytest-xdist has none, and shows nothing."""

    def __init__(self, config: pytest.Config) -> None:
        self._plugins = config.pluginmanager

    @property
    def rewrites(self) -> bool:
        """See run.progress.Screen. pytest tells a terminal from a log by whether it may colour."""
        reporter = self._reporter()
        return reporter is not None and reporter._tw.hasmarkup  # noqa: SLF001 - it has no public name

    def show(self, line: str, *, replace: bool) -> None:
        """See run.progress.Screen."""
        reporter = self._reporter()
        if reporter is None:
            return
        capture = self._plugins.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            if replace:
                reporter.rewrite(line[: reporter._tw.fullwidth - 1], erase=True)  # noqa: SLF001 - a wrapped line stays
                reporter.write("\r" if not line else "")  # erasing leaves the cursor at the end of the line
                reporter.currentfspath = None  # pytest's own line is gone: it begins a new one
            else:
                reporter.ensure_newline()
                reporter.write_line(line)

    def _reporter(self) -> pytest.TerminalReporter | None:
        reporter: pytest.TerminalReporter | None = self._plugins.get_plugin("terminalreporter")
        return reporter


def progress_for(config: pytest.Config) -> Progress:
    """A progress that is shown on this pytest's terminal."""
    return Progress(TerminalScreen(config))
