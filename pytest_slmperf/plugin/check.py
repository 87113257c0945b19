"""The item that ends a run: a test of the run itself, so that what it finds is a failure like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_slmperf.plugin.session import SlmperfSession

NAME = "slmperf::whole-run"


class RunCheck(pytest.Item):
    """Runs last. In a whole run it is red for a gated metric that no test asserts, for a stale baseline and where no
    case was measured at all; under a selection it only says so, and of the metrics also where a test failed and may not
    have come to its assertion. In any run it is red for a measurement that failed and that no test failed for. In a
    recording run it stores what was measured, and is red where that is refused.
    """

    def __init__(self, *, active: SlmperfSession, whole: bool, **rest: Any) -> None:  # noqa: ANN401 - pytest's
        super().__init__(**rest)
        self._active = active
        self.whole = whole
        """Whether the whole of the suites was to run, by what pytest was asked for."""
        self.ran = False
        """False where the run ended before it."""

    @classmethod
    def of(cls, session: pytest.Session, active: SlmperfSession, *, whole: bool, grouped: bool) -> RunCheck:
        """The check of this session. `grouped`: pytest-xdist sends it to the worker that measures, after the tests."""
        nodeid = f"{NAME}@slmperf" if grouped else NAME
        return cls.from_parent(session, name=NAME, nodeid=nodeid, active=active, whole=whole)

    def runtest(self) -> None:
        """Record, or look for what no test looked at."""
        self.ran = True
        measuring = self._active.measuring
        if measuring.options.mode == "accept":
            measuring.accept()
            return
        unasserted, stale = measuring.unasserted(self._active.ledger.asserted), measuring.stale()
        found = [*unasserted, *stale, *measuring.nothing_left()]
        excused = unasserted if self._active.a_test_failed else []
        red = [line for line in found if line not in excused] if self.whole else []
        measuring.remark(*(line for line in found if line not in red))
        if not self._active.a_test_failed:
            red = [*measuring.problems, *red]
        if red:
            raise RunIncomplete("\n".join(red))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], _style: object = None) -> str:
        """The message alone: there is no line of a suite to show."""
        return str(excinfo.value)

    def reportinfo(self) -> tuple[str, None, str]:
        """What a terminal shows as this item's place."""
        return "slmperf", None, NAME


class RunIncomplete(AssertionError):
    """A whole run left something unasserted or unmeasured, or a measurement failed and no test did."""
