"""The phases of each test: whose turn it is, and what becomes of the verdicts that were made in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import SkipTest

import pytest

from pytest_slmperf.core.errors import NotJudged
from pytest_slmperf.plugin.failures import Failures, tell_apart
from pytest_slmperf.plugin.roster import collected_as
from pytest_slmperf.report import junit

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_slmperf.plugin.ledger import AssertionLedger
    from pytest_slmperf.plugin.roster import Roster


def _skipped(unjudged: NotJudged) -> BaseException:
    """A skip that a report shows at the test, not here."""
    return pytest.skip.Exception(str(unjudged), _use_item_location=True)


def _fail_for(complaint: str | None) -> None:
    if complaint:
        raise pytest.fail.Exception(complaint, pytrace=False) from None


class Phases:
    """Speaks pytest's hooks around a test. Lives as long as the session."""

    def __init__(self, ledger: AssertionLedger, roster: Roster, failures: Failures) -> None:
        self._ledger = ledger
        self._roster = roster
        self._failures = failures
        self._told_red = False
        """The present test was reported as failed, or as an expected failure."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Know whose turn it is, also where a test is repeated."""
        self._roster.running = item
        self._begin_test()
        try:
            return (yield)
        finally:
            self._roster.running = None
            self._ledger.end_test(collected_as(item.nodeid), told_red=self._told_red)

    def _begin_test(self) -> None:
        self._told_red = False
        self._ledger.begin_test()

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """What pytest counts: hooks that change a report have had their turn."""
        self._told_red = self._told_red or report.failed or hasattr(report, "wasxfail")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Generator[None, Any, Any]:
        """See _phase. What a fixture makes, a test may ask. Of a test that is repeated, the last attempt counts."""
        __tracebackhide__ = True
        self._begin_test()
        result = yield from self._phase()
        self._ledger.keep()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """See _phase; a verdict that nobody asks fails its test, too."""
        __tracebackhide__ = True
        try:
            result = yield from self._phase()
        except BaseException:
            self._ledger.cut_off()
            raise
        finally:
            item.user_properties.extend(junit.properties(self._ledger.of_test))
        _fail_for(self._ledger.unasked())
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, Any, Any]:
        """As of a call: nobody asks after it."""
        __tracebackhide__ = True
        result = yield from self._phase()
        _fail_for(self._ledger.unasked())
        return result

    def _phase(self) -> Generator[None, Any, Any]:
        """A verdict that is not judged skips its test; one whose error is caught fails it, whatever follows."""
        __tracebackhide__ = True
        self._ledger.begin()
        try:
            result = yield
        except NotJudged as unjudged:
            _fail_for(self._ledger.caught())
            raise _skipped(unjudged) from None
        except (pytest.skip.Exception, pytest.xfail.Exception, SkipTest):
            _fail_for(self._ledger.caught())
            raise
        _fail_for(self._ledger.caught())
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """An error of ours is shown with the suite's line and its message, and once.

        Of a subtest pytest asks for a report while its test runs on: no phase ends with what it raised.
        """
        self._failures.before(call)
        raised = call.excinfo.value if call.excinfo else None
        if call.excinfo and isinstance(raised, NotJudged):
            raised = _skipped(raised)
            call.excinfo = pytest.ExceptionInfo.from_exc_info((type(raised), raised, call.excinfo.tb))
        elif isinstance(raised, AssertionError):
            self._ledger.reported(raised)
        report = yield
        shown = call.excinfo.value if call.excinfo else None
        tell_apart(item, report, raised=raised, shown=shown)
        self._failures.after(report, shown)
        return report
