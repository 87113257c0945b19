"""The item that ends a run: a test of the run itself, so that what it finds is a failure like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_slmperf.core.errors import SlmperfError
from pytest_slmperf.plugin.roster import grouped_as
from pytest_slmperf.plugin.selection import covers_project, selection_of
from pytest_slmperf.run.unjudged import nothing_judged

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pytest_slmperf.plugin.session import SlmperfSession

NAME = "slmperf::whole-run"


class RunCheck(pytest.Item):
    """Runs last. In a whole run it is red for a sweep that nothing measured, for a gated case that no test looks at or
    a gated metric that none asserts, for a verdict of a fixture that no test asks, for a stale baseline, for settings
    of a sweep that there isn't and where no case was measured at all; under a selection it only says so, and of a
    metric also where a test of its sweep failed and may not have come to the assertion. In any run it is red for a
    measurement that failed and that no test failed for, for a test that failed and was reported as something else, and
    where nothing that was measured was judged; it is skipped where tests failed for such a measurement, of which nobody
    can say that nothing is missing. In a recording run it stores what was measured first, and is red where that is
    refused.
    """

    def __init__(self, *, active: SlmperfSession, group: int, whole: bool, **rest: Any) -> None:  # noqa: ANN401 - pytest's
        super().__init__(**rest)
        self._active = active
        self._group = group
        self.whole = whole
        """Whether the whole of the suites was to run, by what pytest was asked for."""
        self.ran = False
        """False where the run ended before it."""
        self.recorded = False
        """Whether what was measured is stored now."""

    @classmethod
    def of(
        cls, session: pytest.Session, active: SlmperfSession, *, whole: bool, grouped: bool, group: int = 0
    ) -> RunCheck:
        """The check of this session, or of a group of its tests. `grouped`: pytest-xdist sends it to the worker that
        measures these, after them.
        """
        name = f"{NAME}-{group + 1}" if group else NAME
        nodeid = grouped_as(name, group) if grouped else name
        return cls.from_parent(session, name=name, nodeid=nodeid, active=active, group=group, whole=whole)

    @property
    def begun(self) -> bool:
        """Whether a test that it is about has measured here, or may have: the only group's may."""
        with self.own:
            return self._active.groups.count == 1 or self._active.measuring.coverage.tried

    @property
    def own(self) -> AbstractContextManager[None]:
        """While the body runs, the run covers no other group's sweeps."""
        return self._active.measuring.without(self._active.groups.elsewhere(self._group))

    def runtest(self) -> None:
        """Record, or look for what no test looked at."""
        self.ran = True
        with self.own:
            if self._active.measuring.options.mode == "accept" and not self.recorded:
                self._record()
            self._look_around()

    def _record(self) -> None:
        try:
            self._active.measuring.accept()
        except SlmperfError as error:
            self._active.problem(str(error))
            raise
        self.recorded = True

    def _look_around(self) -> None:
        active, measuring = self._active, self._active.measuring
        tests_failed = active.roster.failed
        failed = selection_of(tests_failed)
        missing, not_reached = measuring.unasserted(
            active.ledger.asserted, lambda sweep: active.resumes or failed.everything or sweep in failed.sweeps
        )
        forgotten = [] if tests_failed else active.ledger.never_asked()
        knows_all = self._covers_project and not failed.everything
        found = [*missing, *forgotten, *measuring.stale(whole=self.whole), *measuring.nothing_left()]
        orphaned = measuring.orphaned(active.declared, whole=knows_all)
        if self.whole:  # under a selection the sweep's own part of the report says which cases it left out
            found = [*found, *measuring.not_looked_at()]
        if knows_all and not tests_failed:
            found, orphaned = [*found, *orphaned], []
        misspelt, elsewhere = self._not_swept()
        measuring.remark(*not_reached, *orphaned, *elsewhere, *([] if self.whole else found))
        red = [*found, *misspelt] if self.whole else []
        red = [*active.ledger.swallowed(), *red]
        if not tests_failed:
            red = [*measuring.problems, *red, *nothing_judged(measuring.outcome())]
        for line in red:
            active.problem(line)
        if red:
            raise RunIncomplete("\n".join(red))
        if measuring.problems:
            pytest.skip("what was measured is not whole, and the tests that failed say why")

    @property
    def _covers_project(self) -> bool:
        """Whether every suite of the project was to run."""
        return self.whole and covers_project(self.config, self._active.measuring.settings.suites)

    def _not_swept(self) -> tuple[list[str], list[str]]:
        """What `[tool.slmperf]` sets of sweeps that no suite declares: what is red, and what is only said.

        A run of a part of the project's files or folders doesn't know the sweeps of the others.
        """
        measuring = self._active.measuring
        outcome = measuring.outcome()
        declared = {*self._active.declared, *(sweep.sweep for sweep in outcome.sweeps)}
        unknown = measuring.settings.undeclared(declared, outcome.machine)
        if not self._covers_project:
            return [], [one.line for one in unknown if one.close]
        red = [one.line for one in unknown if one.holds and measuring.options.mode != "report"]
        return red, [one.line for one in unknown if one.line not in red]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], _style: object = None) -> str:
        """The message alone: there is no line of a suite to show."""
        return str(excinfo.value)

    def reportinfo(self) -> tuple[str, None, str]:
        """What a terminal shows as this item's place."""
        return "slmperf", None, self.name


class RunIncomplete(AssertionError):
    """A whole run left something unasserted or unmeasured, or a measurement failed and no test did."""
