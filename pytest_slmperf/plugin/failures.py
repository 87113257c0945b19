"""How our errors look in a report: the suite's line and one message, once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from _pytest._code.code import ExceptionChainRepr

import pytest_slmperf
from pytest_slmperf.core.errors import SlmperfError

if TYPE_CHECKING:
    import pytest

PACKAGE = Path(pytest_slmperf.__file__).parent


class Failures:
    """Shortens the reports of errors that explain themselves; `--full-trace` leaves them whole."""

    def __init__(self) -> None:
        self._first_seen: dict[SlmperfError, str] = {}

    def before(self, excinfo: pytest.ExceptionInfo[BaseException] | None) -> None:
        """Drop our own frames: where in this package an error was raised tells the author of a suite nothing."""
        if excinfo is None or not isinstance(excinfo.value, SlmperfError):
            return
        theirs = excinfo.traceback.filter(lambda entry: not Path(str(entry.path)).is_relative_to(PACKAGE))
        if theirs:
            excinfo.traceback = theirs

    def after(self, report: pytest.TestReport, excinfo: pytest.ExceptionInfo[BaseException] | None) -> None:
        """Drop what the error came from, and all but the first line where another test had the same error before."""
        if excinfo is None or not isinstance(excinfo.value, SlmperfError) or not report.failed:
            return
        if isinstance(report.longrepr, ExceptionChainRepr):
            report.longrepr = ExceptionChainRepr(report.longrepr.chain[-1:])
        first = self._first_seen.setdefault(excinfo.value, report.nodeid)
        if first != report.nodeid:
            line = str(excinfo.value).partition("\n")[0]
            report.longrepr = f"{type(excinfo.value).__name__}: {line}\nthe same error as in {first}"
