"""The phases of each test: whose turn it is, and what becomes of the verdicts that were made in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import SkipTest

import pytest

from pytest_slmperf.core.errors import NotJudged
from pytest_slmperf.plugin.failures import Failures, expects_failure, tell_apart
from pytest_slmperf.plugin.roster import collected_as
from pytest_slmperf.report import junit

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_slmperf.plugin.ledger import AssertionLedger
    from pytest_slmperf.plugin.roster import Roster

NO_FAILURE = (NotJudged, SkipTest, pytest.skip.Exception, pytest.xfail.Exception)
"""What ends a test that has not failed."""


def _skipped(unjudged: NotJudged) -> BaseException:
    """A skip that a report shows at the test, not here."""
    return pytest.skip.Exception(str(unjudged), _use_item_location=True)


class Phases:
    """Speaks pytest's hooks around a test. Lives as long as the session."""

    def __init__(self, ledger: AssertionLedger, roster: Roster, failures: Failures) -> None:
        self._ledger = ledger
        self._roster = roster
        self._failures = failures
        self._told_red = False
        """The present test was reported as failed, or as a failure that its suite expects."""
        self._failed_with = ""
        """What the present test failed with, whatever was reported; empty where nothing did."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Know whose turn it is, also where a test is repeated."""
        self._roster.running = item
        self._begin_test()
        try:
            return (yield)
        finally:
            self._roster.running = None
            name = collected_as(item.nodeid)
            failed_with = self._failed_with if name in self._roster.tests else ""
            self._ledger.end_test(name, told_red=self._told_red, failed_with=failed_with)

    def _begin_test(self) -> None:
        self._told_red, self._failed_with = False, ""
        self._ledger.begin_test()

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """What pytest counts: hooks that change a report have had their turn. One of them may call a test an expected
        failure whose suite expects none.
        """
        item = self._roster.running
        expected = item is not None and expects_failure(item) and hasattr(report, "wasxfail")
        self._told_red = self._told_red or report.failed or expected

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
        self._fail_for(self._ledger.unasked())
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, Any, Any]:
        """As of a call: nobody asks after it."""
        __tracebackhide__ = True
        result = yield from self._phase()
        self._fail_for(self._ledger.unasked())
        return result

    def _phase(self) -> Generator[None, Any, Any]:
        """A verdict that is not judged skips its test; one whose error is caught fails it, whatever follows."""
        __tracebackhide__ = True
        self._ledger.begin()
        try:
            result = yield
        except NotJudged as unjudged:
            self._fail_for(self._ledger.caught())
            raise _skipped(unjudged) from None
        except NO_FAILURE:
            self._fail_for(self._ledger.caught())
            raise
        except (Exception, pytest.fail.Exception) as error:
            self._failed(error)
            raise
        self._fail_for(self._ledger.caught())
        return result

    def _fail_for(self, complaint: str | None) -> None:
        """Fail the present phase, where there is something to complain of."""
        if complaint:
            failure = pytest.fail.Exception(complaint, pytrace=False)
            self._failed(failure)
            raise failure from None

    def _failed(self, error: BaseException) -> None:
        """Remember the first failure of the present test."""
        self._failed_with = self._failed_with or f"{type(error).__name__}: {error}".partition("\n")[0]

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
        verdict = self._ledger.reported(raised) if isinstance(raised, AssertionError) else None
        report = yield
        shown = call.excinfo.value if call.excinfo else None
        if shown is not None and not isinstance(shown, NO_FAILURE):  # a unittest.TestCase's: its phase ends with none
            self._failed(shown)
        tell_apart(item, report, raised=raised, shown=shown)
        self._failures.after(report, shown, verdict)
        return report
