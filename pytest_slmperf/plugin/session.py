"""The active session: what `--slmperf` registers. It turns pytest's events into calls of the measuring run."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_slmperf.core.errors import NotJudged, SlmperfError, UsageError
from pytest_slmperf.core.result import Ledger
from pytest_slmperf.core.sweep import Sweep
from pytest_slmperf.plugin import ACTIVE, binding_of, measures
from pytest_slmperf.plugin.check import RunCheck
from pytest_slmperf.plugin.progress import progress_for
from pytest_slmperf.report import document, files, junit, terminal
from pytest_slmperf.run.measuring import Measuring, Options, parse_against, parse_engine
from pytest_slmperf.run.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

    from pytest_slmperf.core.outcome import RunOutcome
    from pytest_slmperf.core.verdict import Verdict

XDIST_GROUP = "slmperf"
"""All performance tests go to one worker: measuring side by side would measure the neighbour."""


def activate(config: pytest.Config) -> None:
    """Register the session. Raises pytest.UsageError for an option or a setting that is wrong."""
    try:
        options = _options(config)
        settings = read_settings(config.rootpath)
        for path in options.reports:
            files.check_report_path(path)
        ledger = AssertionLedger()
        measuring = Measuring(
            options,
            settings,
            root=config.rootpath,
            progress=progress_for(config),
            ledger=Ledger(made=ledger.made, asked=ledger.asked),
        )
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    _one_worker_measures(config)
    session = SlmperfSession(config, measuring, ledger)
    config.pluginmanager.register(session, ACTIVE)
    if config.pluginmanager.has_plugin("benchmark_none"):
        from pytest_slmperf.plugin.benchmark import BenchmarkBridge

        config.pluginmanager.register(BenchmarkBridge(session.outcome), f"{ACTIVE}-benchmark")


def _options(config: pytest.Config) -> Options:
    given = config.option
    if given.slmperf_accept and given.slmperf_no_gate:
        raise UsageError("--slmperf-accept and --slmperf-no-gate exclude each other")
    if given.slmperf_accept and given.slmperf_against:
        raise UsageError("--slmperf-accept records this machine as it is; it takes no --slmperf-against")
    if given.slmperf_accept and given.slmperf_tier == "quick":
        raise UsageError("--slmperf-accept records every case; it takes no --slmperf-tier quick")
    engine, engine_options = parse_engine(given.slmperf_engine)
    return Options(
        mode="accept" if given.slmperf_accept else "report" if given.slmperf_no_gate else "gate",
        engine=engine,
        engine_options=engine_options,
        baselines=Path(given.slmperf_baselines) if given.slmperf_baselines else None,
        against=parse_against(given.slmperf_against),
        tier=given.slmperf_tier,
        budget_s=given.slmperf_budget * 60 if given.slmperf_budget else None,
        reports=tuple(Path(path) for path in given.slmperf_report),
    )


def _one_worker_measures(config: pytest.Config) -> None:
    """Under pytest-xdist, send all performance tests to one worker."""
    if hasattr(config, "workerinput") or not getattr(config.option, "tx", None):
        return
    if config.option.dist == "each":
        raise pytest.UsageError("--slmperf measures on one worker; --dist each would measure side by side")
    config.option.dist = "loadgroup"


@dataclass
class AssertionLedger:
    """Which verdicts a test made and asked: one that nobody asks would pass whatever it says."""

    asserted: set[tuple[str, str]] = field(default_factory=set)
    """(case, metric) whose verdict some test asked."""
    unasked: list[Verdict] = field(default_factory=list)
    """Verdicts that the current test made and has not asked yet."""

    def made(self, verdict: Verdict) -> None:
        self.unasked.append(verdict)

    def asked(self, verdict: Verdict) -> None:
        self.asserted.add((verdict.case, verdict.metric))
        self.unasked = [one for one in self.unasked if (one.case, one.metric, one.tolerance) != (verdict.case, verdict.metric, verdict.tolerance)]


class SlmperfSession:
    """Lives from configure to unconfigure of a run with `--slmperf`."""

    def __init__(self, config: pytest.Config, measuring: Measuring, ledger: AssertionLedger) -> None:
        self.config = config
        self.measuring = measuring
        self.ledger = ledger
        self._deselected = 0
        self._from_worker: RunOutcome | None = None
        self._previous_sigterm: Any = None
        self._is_worker = hasattr(config, "workerinput")
        self._is_controller = bool(getattr(config.option, "tx", None)) and not self._is_worker

    # -- the run's life

    def pytest_sessionstart(self) -> None:
        """End on SIGTERM as on Ctrl-C: engines stopped, report written."""

        def end(_signal: int, _frame: FrameType | None) -> None:
            raise KeyboardInterrupt("SIGTERM")

        self._previous_sigterm = signal.signal(signal.SIGTERM, end)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Release the device, hand the outcome on, and write the reports: of a red or interrupted run, too."""
        self.measuring.close()
        signal.signal(signal.SIGTERM, self._previous_sigterm or signal.SIG_DFL)
        if self.config.option.collectonly:
            return
        if self._is_worker:
            output: dict[str, Any] = self.config.workeroutput  # type: ignore[attr-defined]  # set by pytest-xdist
            output["slmperf"] = document.text(self.measuring.outcome())
            return
        for path in self.measuring.options.reports:
            try:
                files.write_report(self.outcome(), path)
            except SlmperfError as error:
                self.measuring.problem(str(error))
                session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """On xdist's controller: take over what the measuring worker found."""
        text = getattr(node, "workeroutput", {}).get("slmperf")
        if text:
            outcome = document.outcome(json.loads(text))
            if outcome.sweeps or self._from_worker is None:
                self._from_worker = outcome

    def outcome(self) -> RunOutcome:
        """What there is to report by now."""
        return self._from_worker if self._from_worker else self.measuring.outcome()

    # -- collection

    @pytest.hookimpl(tryfirst=True)
    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Mark performance tests: one xdist worker, no limit of pytest-timeout on a measurement, `-m slmperf`."""
        if not measures(item):
            return
        item.add_marker("slmperf")
        if self.config.pluginmanager.has_plugin("xdist"):
            item.add_marker(pytest.mark.xdist_group(XDIST_GROUP))
        if self.config.pluginmanager.has_plugin("timeout") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(0))

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self._deselected += sum(1 for item in items if measures(item))

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Tell the run which cases are looked at, and add the check that ends it."""
        measuring = [item for item in items if measures(item)]
        if not measuring:
            return
        looked, vague = _looked_at(measuring)
        for sweep, sizes in looked.items():
            self.measuring.select(sweep, sizes)
        if vague:
            self.measuring.select_everything()
        whole = not self._selective(session)
        items.append(RunCheck.of(session, self, whole=whole, grouped=bool(getattr(self.config.option, "loadgroup", False))))

    def _selective(self, session: pytest.Session) -> bool:
        """Whether only a part of the collected suites runs."""
        option = self.config.option
        named = any("::" in argument for argument in self.config.args)
        return bool(
            named or self._deselected or option.keyword or option.markexpr
            or getattr(option, "lf", False) or getattr(option, "stepwise", False) or session.testsfailed
        )

    def pytest_report_collectionfinish(self) -> list[str]:
        """The plan, before anything is measured."""
        return [] if self._is_controller else self.measuring.plan_lines()

    # -- tests

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """A verdict that is not judged skips its test; one that nobody asks fails it."""
        self.ledger.unasked.clear()
        try:
            result = yield
        except NotJudged as unjudged:
            pytest.skip(str(unjudged))
        finally:
            self._record_properties(item)
        if self.ledger.unasked:
            lines = "\n".join(verdict.line() for verdict in self.ledger.unasked)
            pytest.fail(f"the test made a verdict and never asked for its truth; write `assert` before it:\n{lines}", pytrace=False)
        return result

    def _record_properties(self, item: pytest.Item) -> None:
        at = item_case(item)
        for outcome in self.measuring.case_outcomes(*at) if at else ():
            item.user_properties.extend(junit.properties(outcome))

    # -- reporting

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The tables, and where the reports lie."""
        outcome = self.outcome()
        if self._is_worker or not (outcome.sweeps or outcome.problems):
            return
        writer = terminalreporter._tw  # noqa: SLF001 - pytest offers no other way to its width and its colours

        def markup(text: str, /, **style: bool) -> str:
            return writer.markup(text, **style)

        for section in terminal.sections(outcome, width=writer.fullwidth, markup=markup):
            terminalreporter.section(section.title)
            for line in section.lines:
                terminalreporter.line(line)
        for path in self.measuring.options.reports:
            if path.exists():
                terminalreporter.line(f"report: {path}")


def _looked_at(items: list[pytest.Item]) -> tuple[dict[Sweep, set[int] | None], bool]:
    """Batch sizes of each sweep that the selected tests look at, None for all of them; and whether a test doesn't say.

    A test that is bound to no sweep looks at all of every sweep that its module names.
    """
    looked: dict[Sweep, set[int] | None] = {}
    vague = False
    for item in items:
        binding = binding_of(getattr(item, "function", None))
        if binding is None:
            named = [value for value in vars(getattr(item, "module", object)).values() if isinstance(value, Sweep)]
            looked.update(dict.fromkeys(named))
            vague = vague or not named
            continue
        case = item_case(item)
        sizes = set(binding.batch_sizes) if binding.batch_sizes else {case[2]} if case and case[2] else None
        known = looked.setdefault(binding.sweep, set())
        looked[binding.sweep] = None if sizes is None or known is None else known | sizes
    return looked, vague


def item_case(item: pytest.Item) -> tuple[Sweep, str | None, int | None] | None:
    """The sweep, model and batch size that a test is parametrised with, or None for any other test."""
    binding = binding_of(getattr(item, "function", None))
    if binding is None:
        return None
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return binding.sweep, parameters.get("model"), parameters.get("batch_size")
