"""The performance tests of a run: which there are, which of them runs, and which failed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_slmperf.core.errors import UsageError

if TYPE_CHECKING:
    import pytest

XDIST_GROUP = "slmperf"
"""All performance tests go to one worker: measuring side by side would measure the neighbour. Where several workers
have a GPU each, they are as many groups.
"""
_SUFFIX = re.compile(rf"@{XDIST_GROUP}(?:-(\d+))?$")


def group_name(number: int) -> str:
    """What pytest-xdist schedules the group of this number by, counted from 0."""
    return XDIST_GROUP if number == 0 else f"{XDIST_GROUP}-{number + 1}"


def grouped_as(name: str, group: int = 0) -> str:
    """The id of a test, by the one that it was collected by, with which pytest-xdist sends it to its group's worker."""
    return f"{name}@{group_name(group)}"


def collected_as(nodeid: str) -> str:
    """A test's id without the group that pytest-xdist schedules it by."""
    return _SUFFIX.sub("", nodeid)


def group_of(nodeid: str) -> int:
    """The number of the group in a test's id; 0 where there is none."""
    found = _SUFFIX.search(nodeid)
    return int(found[1]) - 1 if found and found[1] else 0


@dataclass
class Groups:
    """Performance tests as groups, each for one worker: a file's stay together, and so do those of a sweep, since it is
    measured once. Every worker collects in the same order, and comes to the same.
    """

    count: int = 1
    _files: dict[str, int] = field(default_factory=dict)
    _sweeps: dict[str, int] = field(default_factory=dict)

    def of(self, nodeid: str, sweep: str | None = None) -> int:
        """The group of a test that looks at this sweep, or doesn't say at which."""
        file = nodeid.partition("::")[0]
        group = self._sweeps.get(sweep or "", self._files.get(file, len(self._files) % self.count))
        self._files.setdefault(file, group)
        if sweep:
            self._sweeps[sweep] = group
        return group

    def elsewhere(self, group: int) -> frozenset[str]:
        """Names of the sweeps that are the other groups'."""
        return frozenset(sweep for sweep, its_own in self._sweeps.items() if its_own != group)


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
