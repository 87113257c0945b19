"""The active session: what `--slmperf` registers. It turns pytest's events into calls of the measuring run."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_slmperf.core.errors import SlmperfError
from pytest_slmperf.core.results.point import Ledger
from pytest_slmperf.plugin import ACTIVE, METER_FIXTURE, benchmark, binding_of, measures, unrecorded, workers
from pytest_slmperf.plugin.check import NAME, RunCheck
from pytest_slmperf.plugin.command_line import options_of, refuse_lost_settings
from pytest_slmperf.plugin.failures import Failures
from pytest_slmperf.plugin.ledger import AssertionLedger
from pytest_slmperf.plugin.output import WatchedOutput, watch
from pytest_slmperf.plugin.phases import Phases
from pytest_slmperf.plugin.progress import progress_for
from pytest_slmperf.plugin.roster import Groups, Roster, collected_as, group_name, group_of
from pytest_slmperf.plugin.selection import coordinates, ignored, names_files, selection_of
from pytest_slmperf.report import files, terminal
from pytest_slmperf.run.measuring import Measuring
from pytest_slmperf.run.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path
    from types import FrameType

    from pytest_slmperf.core.outcome import RunOutcome
    from pytest_slmperf.core.sweeps.sweep import Sweep


def activate(config: pytest.Config) -> None:
    """Register the session. Raises pytest.UsageError for an option or a setting that is wrong."""
    if not __debug__:
        raise pytest.UsageError("python -O removes the assertions; run without it, and without PYTHONOPTIMIZE")
    ledger, roster = AssertionLedger(), Roster()
    try:
        refuse_lost_settings(config)
        options = options_of(config)
        for path in options.reports:
            files.check_report_path(path)
        measuring = Measuring(
            options,
            read_settings(config.rootpath),
            root=config.rootpath,
            progress=progress_for(config),
            ledger=Ledger(made=ledger.made, asked=ledger.asked),
            admit=roster.admit,
        )
    except SlmperfError as error:
        raise pytest.UsageError(str(error)) from error
    workers.one_measures(config)
    session = SlmperfSession(config, measuring, ledger, roster)
    config.pluginmanager.register(session, ACTIVE)
    config.pluginmanager.register(session.workers, "slmperf-workers")
    failures = Failures(whole=getattr(config.option, "fulltrace", False))
    config.pluginmanager.register(Phases(ledger, roster, failures), "slmperf-phases")
    benchmark.register(config, session.outcome)


class SlmperfSession:
    """Lives from configure to unconfigure of a run with `--slmperf`."""

    def __init__(self, config: pytest.Config, measuring: Measuring, ledger: AssertionLedger, roster: Roster) -> None:
        self.config = config
        self.measuring = measuring
        self.ledger = ledger
        self.roster = roster
        self.declared: set[str] = set()
        """Names of the sweeps that collected tests look at, whether or not they run."""
        self._collected: list[pytest.Item] = []
        """The performance tests that there are, whatever becomes of them before they run."""
        self._problems: dict[str, None] = {}
        self._remarks: list[str] = []
        """Of the session's end, when a run on another worker has told all of its own."""
        self._written: list[Path] = []
        self.workers = workers.Workers(self.problem)
        self.groups = Groups(measuring.share_out(workers.count_of(config)))
        """How the performance tests are shared out to workers."""
        self._checks: list[RunCheck] = []
        """One for each group."""
        self._deselected = False
        self._previous_sigterm: Any = None
        self._session: pytest.Session | None = None
        self._output: WatchedOutput | None = None
        self._ended_with: int | None = None
        """The exit code at the session's end; None before it."""
        self.resumes = workers.resumes(config)
        self._is_worker = workers.is_worker(config)
        self._is_controller = workers.is_controller(config)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """End on SIGTERM as on Ctrl-C: engines stopped, report written."""
        self._session = session
        self._output = watch(self.config)

        def end(_signal: int, _frame: FrameType | None) -> None:
            raise KeyboardInterrupt("SIGTERM")

        self._previous_sigterm = signal.signal(signal.SIGTERM, end)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Finish after all others, and also where one of them raises."""
        try:
            yield
        finally:
            self._finish(session)

    def _finish(self, session: pytest.Session) -> None:
        """Release the device, hand the outcome on, and write the reports: of a red or interrupted run, too."""
        self.measuring.close()
        signal.signal(signal.SIGTERM, self._previous_sigterm or signal.SIG_DFL)
        try:
            self._tell(session)
        finally:
            self._ended_with = session.exitstatus

    def _tell(self, session: pytest.Session) -> None:
        if self.config.option.collectonly:
            return
        for check in self._checks:
            if not check.ran and check.begun:
                self.measuring.cut_short()
                with check.own:
                    missing, not_reached = self.measuring.unasserted(self.ledger.asserted, lambda _sweep: True)
                    self.measuring.remark(*missing, *not_reached, *self.measuring.stale(whole=False))
        if self._is_worker:
            workers.tell(self.config, self.outcome(), self.groups.count)
            return
        if session.exitstatus == pytest.ExitCode.OK and not self._vouched_for:
            self.problem(
                f"nothing vouches for this run: {NAME}, which ends it, did not run; some hook skipped it, or ended the "
                "session early without an error"
            )
        for path in self.measuring.options.reports:
            try:
                files.write_report(self.outcome(), path)
            except SlmperfError as error:
                self.problem(str(error))
            else:
                self._written.append(path)
        if self.outcome().problems:
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
        self._remarks += unrecorded.keep(
            self.config,
            self.measuring.options,
            self.outcome(),
            self.measuring.baselines,
            self.measuring.settings.later_gates,
        )

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """The exit code, once nothing is written any more: a verdict that nobody can read is not green, and no hook
        makes it so by ending the session's end with pytest.exit(returncode=0), where no summary is written.
        """
        session = self._session
        if session is None:
            return
        ends_with = session.exitstatus
        if self._ended_with is None:  # a hook around ours came first
            session.exitstatus = ends_with or (pytest.ExitCode.TESTS_FAILED if session.testsfailed else ends_with)
            self._finish(session)
        if ends_with == pytest.ExitCode.OK and self._ended_with and not self._is_worker:
            session.exitstatus = self._ended_with
            why = [f"tests failed: {session.testsfailed}"] if session.testsfailed else []
            told = "\n".join(["slmperf: a hook ended the session as a success, and it is none:", *why, *self._problems])
            sys.stderr.write(f"{told}\n")
        if self._output and self._output.lost:
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    @property
    def _vouched_for(self) -> bool:
        """Whether the check ran where one was to run; on xdist's controller, on some worker."""
        return self.workers.vouched_for if self._is_controller else all(check.ran for check in self._checks)

    def problem(self, line: str) -> None:
        """Something that makes the run red: said in every report, once."""
        self._problems.setdefault(line)

    def outcome(self) -> RunOutcome:
        """What there is to report by now."""
        found = self.workers.told
        if found is None:
            here = [check for check in self._checks if check.begun]
            whole = bool(here) and all(check.whole and check.ran for check in here)
            recorded = bool(here) and all(check.recorded for check in here)
            found = replace(self.measuring.outcome(), whole=whole, recorded=recorded)
        lost = self.workers.lost
        return replace(
            found,
            complete=found.complete and not lost,
            whole=found.whole and not lost,
            problems=tuple(dict.fromkeys((*found.problems, *self._problems))),
            remarks=(*found.remarks, *self._remarks),
            failed_tests=self.roster.failed_names,
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Mark performance tests: one xdist worker, no limit of pytest-timeout on a measurement, `-m slmperf`."""
        if not measures(item):
            return
        self._collected.append(item)
        item.add_marker("slmperf")
        binding = binding_of(getattr(item, "function", None))
        if binding:
            item.extra_keyword_matches.add(binding.sweep.name)
        if self._is_worker:
            item.add_marker(pytest.mark.xdist_group(group_name(self._group(item))))
        if self.config.pluginmanager.has_plugin("timeout") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(0))

    def _group(self, item: pytest.Item) -> int:
        binding = binding_of(getattr(item, "function", None))
        return self.groups.of(collected_as(item.nodeid), binding.sweep.name if binding else None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Let each group ask first for the GPU of its own number."""
        self.measuring.lane = group_of(item.nodeid)

    def resolved(self, sweep: Sweep) -> Sweep:
        """The sweep on this machine. Raises CollectError where the settings make no sense of it."""
        try:
            return self.measuring.resolved(sweep)
        except SlmperfError as error:
            raise pytest.Collector.CollectError(str(error)) from error

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """Remember that a part of the suites doesn't run."""
        self._deselected = self._deselected or any(measures(item) for item in items)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tell the run which cases are looked at, and add the check that ends it: nobody deselects any more."""
        measuring = [item for item in session.items if measures(item)]
        whole = not self._selective(session)
        # What is in a whole run's suites and not in the session was dropped, and pytest was not told.
        suites = list(dict.fromkeys([*measuring, *self._collected])) if whole else measuring
        if not suites and not whole:
            return
        self.roster.tests.update((collected_as(item.nodeid), item) for item in measuring)
        self.declared = {sweep.name for sweep in selection_of([*measuring, *self._collected]).sweeps}
        swept = [item for item in suites if not self._skip_what_is_not_swept(item)]
        for sweep in selection_of(swept).sweeps:
            self.measuring.coverage.declare(sweep)
        running = [item for item in measuring if not item.get_closest_marker("skip")]
        looked_at = selection_of(running)
        for sweep, looks in looked_at.sweeps.items():
            self.measuring.coverage.select(sweep, looks)
        if looked_at.everything:
            self.measuring.coverage.select_everything()
        metered = selection_of(item for item in running if METER_FIXTURE in getattr(item, "fixturenames", ()))
        self.measuring.coverage.meter(None if metered.everything else metered.sweeps)
        if self._is_worker:
            for item in measuring:
                workers.keep_together(item, self._group(item))
        for group in range(self.groups.count):
            self._checks.append(RunCheck.of(session, self, whole=whole, grouped=self._is_worker, group=group))
        session.items.extend(self._checks)

    def _skip_what_is_not_swept(self, item: pytest.Item) -> bool:
        """Skip a test of cases that this machine, or the tier, leaves out; whether it is one."""
        at = coordinates(item)
        if at is None or at.looks is None:
            return False
        reason = self.resolved(at.sweep).lacks(at.binding)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
            if self.measuring.options.tier != "quick":  # of the tier, the sweep's own part of the report says so
                self.measuring.remark(f"{reason}: {item.name} is skipped")
        return bool(reason)

    def _selective(self, session: pytest.Session) -> bool:
        """Whether only a part of the collected suites runs."""
        option = self.config.option
        selected = (option.keyword, option.markexpr, getattr(option, "lf", False), getattr(option, "stepwise", False))
        part = names_files(self.config) or bool(ignored(self.config)) or any(selected) or self._deselected
        return part or self.resumes or session.testsfailed > 0

    def pytest_report_collectionfinish(self) -> list[str]:
        """The plan, before anything is measured."""
        return [] if self._is_controller else self.measuring.plan_lines()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember which performance tests failed; on xdist's controller, too, where their group's name tells them.

        From there on they have the ids that they were collected by: --lf would find no others.
        """
        name = collected_as(report.nodeid)
        ours = name != report.nodeid or name == NAME or name in self.roster.tests
        if ours:
            self.roster.heard(name, report.outcome)
        if self._is_controller:
            self.workers.heard(name, report.node.gateway.id, measures=ours)  # set by pytest-xdist
            report.nodeid = name

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The tables, and where the reports lie."""
        outcome = self.outcome()
        if self._is_worker or not (outcome.sweeps or outcome.problems or outcome.remarks):
            return
        writer = terminalreporter._tw  # noqa: SLF001 - pytest offers no other way to its width and its colours

        def markup(text: str, /, **style: bool) -> str:
            return writer.markup(text, **style)

        for section in terminal.sections(outcome, width=writer.fullwidth, markup=markup):
            terminalreporter.section(section.title)
            for line in section.lines:
                terminalreporter.line(line)
        for path in self._written:
            terminalreporter.line(f"report: {path}")
