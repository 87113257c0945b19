"""Workers of pytest-xdist: which of them measures, what each tells its controller, and what is lost with one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_slmperf.core.joined import joined
from pytest_slmperf.plugin.check import NAME
from pytest_slmperf.plugin.roster import collected_as, grouped_as
from pytest_slmperf.report import document

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_slmperf.core.outcome import RunOutcome

_TOLD, _GROUPS, _RESUMES = "slmperf", "slmperf_groups", "slmperf_resumes"
"""What goes between a worker and its controller."""


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker."""
    return hasattr(config, "workerinput")


def is_controller(config: pytest.Config) -> bool:
    """Whether this process runs no test, and has workers that do."""
    return bool(getattr(config.option, "tx", None)) and not is_worker(config)


def count_of(config: pytest.Config) -> int:
    """How many workers there are, as a worker knows it; 1 elsewhere."""
    return int(getattr(config, "workerinput", {}).get("workercount", 1))


def resumes(config: pytest.Config) -> bool:
    """Whether this is a worker in the place of one that died: what was asserted there is not known here."""
    return bool(getattr(config, "workerinput", {}).get(_RESUMES))


def one_measures(config: pytest.Config) -> None:
    """Send all performance tests to one worker, or groups of them to one worker each."""
    if is_worker(config):
        config.option.loadgroup = True  # a worker hears what the command line says, not what is set below
        return
    if not is_controller(config):
        return
    if config.option.dist == "each":
        raise pytest.UsageError("--slmperf measures on one worker; --dist each would measure side by side")
    config.option.dist = "loadgroup"


def keep_together(item: pytest.Item, group: int) -> None:
    """Give a test's id the suffix by which pytest-xdist schedules groups.

    Version 3.8 writes it into an attribute that pytest 9.2 doesn't read any more, which spreads the tests in silence.
    """
    grouped = grouped_as(collected_as(item.nodeid), group)
    if item.nodeid == grouped:
        return
    if not hasattr(item, "id"):
        raise pytest.UsageError("this pytest-xdist can't keep performance tests on one worker: run them with -n 0")
    item._id = type(item.id).parse(grouped)  # noqa: SLF001 - what pytest-xdist does, for this pytest


def tell(config: pytest.Config, outcome: RunOutcome, groups: int) -> None:
    """Hand the controller what this worker found."""
    output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined]  # set by pytest-xdist
    output[_TOLD] = document.text(outcome)
    output[_GROUPS] = groups


class Workers:
    """What the controller knows of its workers; in any other process there are none."""

    def __init__(self, problem: Callable[[str], None]) -> None:
        """`problem` is told what makes the run red."""
        self._problem = problem
        self.told: RunOutcome | None = None
        """By those that have ended."""
        self._lost = False
        """One died, and what it measured never came here."""
        self._measuring: set[str] = set()
        self._groups = 1
        """How many groups of performance tests they have."""
        self._checked: set[str] = set()
        """The checks that ran."""

    @property
    def lost(self) -> bool:
        """Whether something that a worker measured, or was to measure, is missing here."""
        return self._lost or not self._all_checked

    @property
    def vouched_for(self) -> bool:
        """Whether what they told is checked: on some worker, of each group."""
        return self.told is None or (self.told.complete and self._all_checked)

    @property
    def _all_checked(self) -> bool:
        """Whether the check of each group ran, where there are several: a group may have come to no worker."""
        return self._groups == 1 or len(self._checked) >= self._groups

    def heard(self, name: str, worker: str, *, measures: bool) -> None:
        """A worker reported a phase of a test, which `measures`, or checks the run."""
        if name.startswith(NAME):
            self._checked.add(name)
        if measures:
            self._measuring.add(worker)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:  # noqa: ANN401 - xdist's, which has no types
        """A worker that comes in a dead one's place can't know what was asserted before."""
        node.workerinput[_RESUMES] = self._lost

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:  # noqa: ANN401 - xdist's, which has no types
        """Take over what the measuring worker found."""
        output = getattr(node, "workeroutput", {})
        text = output.get(_TOLD)
        if text:
            told = document.outcome(json.loads(text))
            self._groups = max(self._groups, output[_GROUPS])
            both = [one for one in (self.told, told) if one is not None]
            measured = [one for one in both if one.sweeps]
            self.told = joined(measured) if len(measured) > 1 else max(both, key=_how_much)
            for line in told.problems:
                self._problem(line)
        elif error and node.gateway.id in self._measuring:
            self._lose(node.gateway.id)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: Any) -> None:  # noqa: ANN401 - xdist's
        """A worker died in a performance test, or before its next one."""
        if collected_as(crashitem) != crashitem:
            self._lose(report.node.gateway.id)

    def _lose(self, worker: str) -> None:
        self._lost = True
        self._problem(f"worker {worker} died while it measured: its measurements are lost, so this report is a part")


def _how_much(outcome: RunOutcome) -> tuple[bool, bool]:
    """A worker has to tell: the one that measures has sweeps, and the one that ran the check is complete."""
    return bool(outcome.sweeps), outcome.complete
