"""The performance tests of a run: which there are, which of them runs, and which failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_slmperf.core.errors import UsageError

if TYPE_CHECKING:
    import pytest

XDIST_GROUP = "slmperf"
"""All performance tests go to one worker: measuring side by side would measure the neighbour."""


def grouped_as(name: str) -> str:
    """The id of a test, by the one that it was collected by, with which pytest-xdist sends it to that worker."""
    return f"{name}@{XDIST_GROUP}"


def collected_as(nodeid: str) -> str:
    """A test's id without the group that pytest-xdist schedules it by."""
    return nodeid.removesuffix(f"@{XDIST_GROUP}")


@dataclass
class Roster:
    """Closed when the collection ends: from then on there is a plan, a check of the run, and one worker for all."""

    tests: dict[str, pytest.Item] = field(default_factory=dict)
    """By the ids that they were collected by."""
    running: pytest.Item | None = None
    """The test whose turn it is, one of these or any other."""
    _failed: dict[str, None] = field(default_factory=dict)

    def heard(self, name: str, outcome: str) -> None:
        """A phase of a test ended. What an attempt says that pytest-rerunfailures repeats is not the end of it."""
        if outcome == "rerun":
            self._failed.pop(name, None)
        elif outcome == "failed":
            self._failed.setdefault(name)

    @property
    def failed(self) -> list[pytest.Item]:
        """The tests that failed for good: they may not have come to all their assertions."""
        return [item for name, item in self.tests.items() if name in self._failed]

    @property
    def failed_names(self) -> tuple[str, ...]:
        """Of them all, also of those that ran on a worker."""
        return tuple(self._failed)

    def admit(self) -> None:
        """Somebody wants to measure. Raises UsageError where that is none of these tests.

        pytest doesn't know what a test asks for by `request.getfixturevalue`: it would measure on any worker, and in
        a run that nothing checks. Whoever tries is a performance test from there on, so that its failure counts.
        """
        name = collected_as(self.running.nodeid) if self.running else "something outside of the tests"
        if name in self.tests:
            return
        if self.running:
            self.tests[name] = self.running
        raise UsageError(
            f"{name} measures, and pytest could not know it before: take `slmperf`, or the fixture that measures, as "
            "an argument of the test, or mark the test with pytest.mark.slmperf"
        )
