"""How our errors look in a report: the suite's line and one message, once."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from types import TracebackType

import pytest
from _pytest._code.code import ExceptionChainRepr

import pytest_slmperf
from pytest_slmperf.core.errors import NotJudged, SlmperfError, SuiteError
from pytest_slmperf.core.verdict import Status, Verdict

PACKAGE = Path(pytest_slmperf.__file__).parent
FIRST_WORDS = 100
"""Characters at most of an error that another test had before."""


class Failures:
    """Shortens the reports of errors that explain themselves; `--full-trace` leaves them whole."""

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        self._first_seen: dict[SlmperfError | str, str] = {}
        """Where an error was first, by the error; by its text where no line of a suite explains it. Where a case was
        void first, by the reason.
        """

    def before(self, call: pytest.CallInfo[None]) -> None:
        """Drop our own frames: where in this package an error was raised tells the author of a suite nothing."""
        if not self._whole and call.excinfo is not None and isinstance(call.excinfo.value, SlmperfError):
            error = call.excinfo.value
            call.excinfo = pytest.ExceptionInfo.from_exc_info((type(error), error, _theirs(call.excinfo.tb)))

    def after(self, report: pytest.TestReport, error: BaseException | None, verdict: Verdict | None = None) -> None:
        """Drop what the error came from, and all but the first words where another test had the same error before.

        `verdict` is what raised it. Why a case is void, the first test tells that asks one of its metrics.
        """
        if self._whole or not report.failed:
            return
        if verdict is not None and verdict.status is Status.VOID and verdict.effect is None:
            said = f"AssertionError: {verdict.status}: {verdict.case} {verdict.metric} - the same as in"
            self._tell_once(report, f"{verdict.reason}\n{verdict.way_out}", said)
        if not isinstance(error, SlmperfError):
            return
        if isinstance(report.longrepr, ExceptionChainRepr):
            report.longrepr = ExceptionChainRepr(report.longrepr.chain[-1:])
        words = shorten(str(error).partition("\n")[0], FIRST_WORDS, placeholder=" …")
        said = f"{type(error).__name__}: {words}\nthe same error as in"
        self._tell_once(report, error if isinstance(error, SuiteError) else str(error), said)

    def _tell_once(self, report: pytest.TestReport, what: SlmperfError | str, said: str) -> None:
        """Leave the report as it is, or let it say so much and where this was first."""
        first = self._first_seen.setdefault(what, report.nodeid)
        if first != report.nodeid:
            report.longrepr = f"{said} {first}"


def tell_apart(
    item: pytest.Item, report: pytest.TestReport, *, raised: BaseException | None, shown: BaseException | None
) -> None:
    """Put a unittest.TestCase's report right: pytest shows what the test said in the place of what we `raised`.

    A verdict whose error was caught is red, whatever the test said then, and one that is not judged is a skip. An
    expected failure stays one, as with pytest's marker.
    """
    if raised is shown:
        return
    if isinstance(shown, NotJudged):
        path, line = item.reportinfo()[:2]
        report.outcome = "skipped"
        report.longrepr = (str(path), (line or 0) + 1, f"Skipped: {shown}")
        return
    if isinstance(raised, pytest.fail.Exception) and report.skipped and not _expected_by_unittest(item):
        report.outcome = "failed"
        report.longrepr = str(raised)
        vars(report).pop("wasxfail", None)


def expects_failure(item: pytest.Item) -> bool:
    """Whether its suite says of a test that it fails: by pytest's marker, or by unittest's decorator."""
    return item.get_closest_marker("xfail") is not None or _expected_by_unittest(item)


def _expected_by_unittest(item: pytest.Item) -> bool:
    marked = (getattr(item, name, None) for name in ("function", "cls"))
    return any(getattr(one, "__unittest_expecting_failure__", False) for one in marked)


def _theirs(whole: TracebackType) -> TracebackType:
    """The traceback without the frames of this package; whole where nothing else is in it."""
    kept: list[TracebackType] = []
    entry: TracebackType | None = whole
    while entry is not None:
        if not Path(entry.tb_frame.f_code.co_filename).is_relative_to(PACKAGE):
            kept.append(entry)
        entry = entry.tb_next
    rest: TracebackType | None = None
    for one in reversed(kept):
        rest = TracebackType(rest, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return rest or whole
