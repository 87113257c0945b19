"""A run: what is measured once and remembered, compared with what is stored, and reported in the end."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_slmperf.core.devices.board import THREAD_SHARE, on_thread_share
from pytest_slmperf.core.errors import BaselineError, SlmperfError, UsageError
from pytest_slmperf.core.outcome import RunOutcome
from pytest_slmperf.core.results.point import Ledger
from pytest_slmperf.core.results.result import Result
from pytest_slmperf.engines import registry
from pytest_slmperf.run import briefing, fingerprint
from pytest_slmperf.run.accept import Terms
from pytest_slmperf.run.brief import Configuration
from pytest_slmperf.run.campaign import Campaign
from pytest_slmperf.run.coverage import Coverage, MeasuredSweep
from pytest_slmperf.run.devices import Device, HeldDevices, device_of, machine_of
from pytest_slmperf.run.joules import Joules
from pytest_slmperf.run.lanes import lanes_of, leased
from pytest_slmperf.run.options import Options, pool_of
from pytest_slmperf.run.planning import Planning
from pytest_slmperf.run.roofs import Roofs
from pytest_slmperf.run.specs import Engines
from pytest_slmperf.run.stored import StoredCases
from pytest_slmperf.run.sweeps import SweepsHere

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from pytest_slmperf.core.engine import EngineSpec
    from pytest_slmperf.core.meter import EnergyMeter
    from pytest_slmperf.core.results.claim import Fresh
    from pytest_slmperf.core.sweeps.sweep import Sweep
    from pytest_slmperf.core.verdict import Verdict
    from pytest_slmperf.run.lanes import Lane
    from pytest_slmperf.run.progress import Progress
    from pytest_slmperf.run.settings import Settings


class Measuring:
    """One run, from its first launch to its report. `close` gives the device back."""

    def __init__(
        self,
        options: Options,
        settings: Settings,
        *,
        root: Path,
        progress: Progress,
        ledger: Ledger,
        admit: Callable[[], None] = lambda: None,
    ) -> None:
        """`admit` raises UsageError where whoever calls may not measure now."""
        self.options = options
        self.settings = settings
        self._root = root
        self._progress = progress
        self._told = ledger
        self._admit = admit
        self._ledger = Ledger(made=ledger.made, asked=self._asked)
        self._claims: dict[Verdict, None] = {}
        self.coverage = Coverage()
        """Which sweeps are declared, selected and measured: the plugin tells it what it collected."""
        self._held = ExitStack()
        self._problems: list[str] = []
        self._red_by: SlmperfError | None = None
        """The last that made it red: an error that passes through two of our calls is one problem."""
        self._red_for: dict[str, str] = {}
        """What made it red first, by the error's text."""
        self._remarks: list[str] = []
        self._began = time.monotonic()
        self._spends_from: float | None = None
        """When the budget began to be spent: with the first launch, and later by what devices were waited for since."""
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._complete = True
        self.default_engine = options.engine or settings.engine or registry.best()
        of_engine = options.engine_options if options.engine else settings.engine_options
        _check_engine(self.default_engine, "" if options.engine else "pyproject.toml [tool.slmperf]: engine: ")
        self._engines = Engines(self.default_engine, of_engine, settings)
        self._devices = HeldDevices(wait_s=settings.lock_wait_s, say=progress.remark)
        self._held.callback(self._devices.close)
        self.baselines = options.baselines or root / settings.baselines
        """The folder of what is stored."""
        self._of_engine = of_engine
        self._settle(self._default_device())
        self.lane = 0
        """The number of the lane that is wanted first: a suite's joules hold for the boards that they were counted on.
        """
        self._lanes: tuple[Lane, ...] = ()
        self._leased = False

    def share_out(self, workers: int) -> int:
        """Take only a part of this machine's GPUs, as one of so many workers of a run: see `pytest_slmperf.run.lanes`.
        Returns how many of them can measure at once: 1 where there is nothing to share.
        """
        self._lanes = lanes_of(self._device, self._of_engine) if workers > 1 else ()
        return max(1, min(workers, len(self._lanes)))

    def _default_device(self) -> Device:
        pool, options = pool_of(self._of_engine)
        return device_of(self.default_engine, options, pool)

    def _settle(self, device: Device) -> None:
        """Measure on this device."""
        self._device = device
        self._machine = machine_of(device)
        self._roofs = Roofs(self._machine)
        self._joules = Joules(self.settings, self._machine, device)
        self._held.callback(self._joules.close)
        self._stored = StoredCases(
            self.baselines,
            self._machine,
            None if self.options.other_python else self.options.against,
            record=self.options.record,
        )
        self._bench = briefing.Bench(self._machine, self._stored.find, self._progress, device, self._devices)
        self._sweeps = SweepsHere(self.options, self.settings, self._machine, self._joules, self._stored)
        self._planning = Planning(self.options, self.settings, self._engines, self._sweeps, self._bench)

    def _lease(self) -> None:
        """Take a lane, where several workers share them out: before the first measurement."""
        if not self._lanes or self._leased:
            return
        waits_from = time.monotonic()
        lane = self._held.enter_context(leased(self._lanes, self._devices, self._default_device, first=self.lane))
        self._leased = True
        self._settle(self._default_device())
        self.remark(f"a worker of this run measured on GPU {', '.join(lane)}")
        if self._spends_from is not None:
            self._spends_from += time.monotonic() - waits_from

    def __repr__(self) -> str:
        return f"<slmperf on {self._machine.device}>"

    def engine(
        self,
        model: str | None = None,
        *,
        dtype: str | None = None,
        threads: int | None = None,
        engine: str | None = None,
        **options: str | float | bool,
    ) -> EngineSpec:
        """See the fixture `slm_engine`."""
        with self._red("slm_engine"):
            return self._engines.engine(model, dtype=dtype, threads=threads, engine=engine, **options)

    def measure(
        self,
        sweep: Sweep,
        engine: EngineSpec | Iterable[EngineSpec] | Callable[[str], EngineSpec] | None = None,
    ) -> Result:
        """Measure a sweep once, judge its gated metrics, and return its points. See the fixture `slmperf`.

        Raises LaunchError where an engine fails, UsageError where the call makes no sense or comes from elsewhere.
        """
        self.coverage.trying(sweep)
        with self._red(sweep.name):
            self._admit()
            self._lease()
            here = self.resolved(sweep)
            specs = self._engines.of(here, engine)
            if self.coverage.remembered(sweep, repr(specs)) is None:
                self._measure(sweep, here, specs)
            return self._result(sweep, specs)

    @contextmanager
    def _red(self, what: str) -> Iterator[None]:
        """An error of ours makes the run red, and its measurement a part, whatever becomes of the test that met it."""
        try:
            yield
        except SlmperfError as error:
            self._complete = False
            first = self._red_for.setdefault(str(error), what)
            problem = f"{what}: {error}" if first == what else f"{what}: the same as {first}"
            if error is not self._red_by and problem not in self._problems:
                self._problems.append(problem)
            self._red_by = error
            raise

    def _result(self, sweep: Sweep, specs: tuple[EngineSpec, ...]) -> Result:
        measured = self.coverage.remembered(sweep, repr(specs))
        assert measured is not None  # noqa: S101 - it was measured just before
        if measured.failure:
            raise measured.failure
        return Result(measured.outcome, self._ledger, lambda series: self._fresh(measured, repr(specs), series))

    def _fresh(self, measured: MeasuredSweep, key: str, series: Collection[str]) -> Fresh:
        """See Campaign.fresh. What it took is on the run's bill, also where it is interrupted."""
        try:
            return measured.campaign.fresh(series)
        finally:
            self._progress.done()
            now = measured.campaign.outcome()
            outcome = replace(
                measured.outcome,
                cases=now.cases,
                launches=now.launches,
                fresh_launches=now.fresh_launches,
                seconds=now.seconds,
            )
            self.coverage.remember(key, replace(measured, outcome=outcome))

    def resolved(self, sweep: Sweep) -> Sweep:
        """See SweepsHere.resolved."""
        return self._sweeps.resolved(sweep)

    @property
    def energy_meter(self) -> EnergyMeter:
        """See the fixture `energy_meter`."""
        self._lease()
        return self._joules.metering.source

    def compare(self, sweep: Sweep, baseline: EngineSpec, candidate: EngineSpec) -> Result:
        """Measure two engines side by side, launches interleaved, and judge the second by the first."""
        arms = (Configuration(candidate, sweep.cases([candidate.model_name]), baseline),)
        specs = (candidate, baseline)
        self.coverage.trying(sweep)
        with self._red(sweep.name):
            self._measure(sweep, sweep, specs, arms)
            return self._result(sweep, specs)

    def _asked(self, verdict: Verdict) -> None:
        """Keep what is asked beside the gate for the report, once: a rerun asks again."""
        if verdict.judged and not verdict.gated:
            self._claims.setdefault(verdict)
        self._told.asked(verdict)

    def _measure(
        self,
        sweep: Sweep,
        here: Sweep,
        specs: tuple[EngineSpec, ...],
        configurations: tuple[Configuration, ...] = (),
    ) -> None:
        self._refuse_planted(specs)
        if self.options.mode == "accept":
            self._stored.check_writable()
            for spec in specs:
                wanted = [one.name for one in here.cases([spec.model_name]) if self.coverage.wants(sweep, one)]
                self._stored.check_newest(spec.engine, here.name, wanted, self._started_at)
        cases = here.cases(spec.model_name for spec in specs)
        self.coverage.refuse_same_names(sweep, cases)
        side_by_side = bool(configurations)
        configurations = configurations or briefing.configurations(
            here, specs, lambda case: self.coverage.wants(sweep, case), other_python=self.options.other_python
        )
        launched = tuple(spec for one in configurations if self._fits(here, one) for _, spec in one.arms)
        self._bench.refuse_others(launched, self.default_engine, side_by_side=side_by_side)
        self._hold_devices(here, launched)
        for configuration in configurations:
            with suppress(SlmperfError):  # the launch says why there are no such cores
                self._roofs.look_up(configuration.candidate, self._devices.cores(configuration.candidate))
        beside = tuple(one.baseline for one in configurations if one.baseline)
        brief = briefing.brief(here, configurations, self.options, self.settings, budget_s=self._budget_left())
        metered = self.coverage.counts_joules(sweep, here)
        unmetered = self._sweeps.unmetered(here, specs) if metered else {}
        meter = self._joules.metering if metered else None
        with_joules = metered and self._sweeps.timed_with_joules(here, specs, unmetered)
        around = replace(self._bench.surroundings(here, meter, with_joules=with_joules), unmetered=unmetered)
        if metered and self.options.mode == "accept":
            self._joules.check_recordable(here, unmetered)
        self._joules.before_launches(to_come=metered or self._joules_to_come())
        running = Campaign(brief, around, order_seed=self.settings.order_seed)
        failure: BaseException | None = None
        try:
            running.run()
        except SlmperfError as error:
            failure = error
        except BaseException as error:
            self._complete = False
            failure = error
            raise
        finally:
            self._progress.done()
            outcome = running.outcome()
            left_out = self._sweeps.left_out(sweep, here, specs)
            ungated = tuple(name for name in sweep.tolerances if name not in here.tolerances)
            outcome = replace(
                outcome,
                skipped={**outcome.skipped, **left_out},
                left_out=tuple(left_out),
                unselected=tuple(case.name for case in cases if not self.coverage.wants(sweep, case)),
                baseline_specs=beside,
                ungated=ungated,
                notes=(*outcome.notes, *(f"this machine's settings don't gate {name}: not judged" for name in ungated)),
            )
            self.coverage.remember(repr(specs), MeasuredSweep(sweep, outcome, running, failure))

    def _joules_to_come(self) -> bool:
        """Whether joules of any sweep are counted that a test of this run looks at."""
        for sweep in self.coverage.selected:
            with suppress(UsageError):  # the test that measures it is red for the same
                if self.coverage.counts_joules(sweep, self._sweeps.of_every_tier(sweep)):
                    return True
        return False

    def _budget_left(self) -> float | None:
        budget = self.options.budget_s
        now = time.monotonic()
        if self._spends_from is None:
            self._spends_from = now
        return None if budget is None else max(0.0, budget - (now - self._spends_from))

    def _refuse_planted(self, specs: Iterable[EngineSpec]) -> None:
        if self.options.mode == "accept" and any(spec.planted_loss for spec in specs):
            raise UsageError("a loss that is planted on purpose is never recorded: take `slowed` away")

    def _fits(self, here: Sweep, configuration: Configuration) -> bool:
        """Whether some case of it is launched: what this machine can't hold needs no place on it."""
        return any(self._bench.misfit(here, case, configuration.candidate) is None for case in configuration.cases)

    def _hold_devices(self, here: Sweep, specs: Iterable[EngineSpec]) -> None:
        """One job measures on a device at a time. Raises UsageError for joules of two devices, side by side."""
        devices = {device_of(spec.engine, spec.options, spec.pool) for spec in specs}
        if len(devices) > 1 and here.metered:
            raise UsageError(
                f"{', '.join(here.metered)} of {' and '.join(sorted(map(str, devices)))} can't be compared: the power "
                "sensors of two boards differ by up to 5 %"
            )
        parts = sorted(str(device) for device in devices if device != self._device and device.is_part_of(self._device))
        if parts and here.metered:
            raise UsageError(
                f"{', '.join(here.metered)} of {' and '.join(parts)} can't be counted: the meter reads {self._device}, "
                "and an idle board's joules would be among them; gate them in a run on that alone"
            )
        share = os.environ.get(THREAD_SHARE)
        if share and any(spec.pool and spec.pool.kind == "mps" for spec in specs):
            self.remark(on_thread_share(share))
        waits_from = time.monotonic()
        self._devices.hold(devices)
        if self._spends_from is not None:
            self._spends_from += time.monotonic() - waits_from

    def plan_lines(self) -> list[str]:
        """See Planning.lines."""
        return self._planning.lines(self.coverage)

    def bill(self, sweep: Sweep, candidate: EngineSpec) -> list[str]:
        """See Planning.bill."""
        return self._planning.bill(sweep, candidate)

    @property
    def problems(self) -> tuple[str, ...]:
        """What made the run red by now."""
        return tuple(self._problems)

    def remark(self, *lines: str) -> None:
        """Something that is said and not red: once, also by a check that is rerun."""
        self._remarks.extend(line for line in lines if line not in self._remarks)

    def unasserted(
        self, asserted: set[tuple[str, str]], cut_off: Callable[[Sweep], bool]
    ) -> tuple[list[str], list[str]]:
        """Sweeps that nobody measured, and gated metrics that nobody asserted of what was measured whole.

        What no test does, then what a test may not have come to: of sweeps whose tests were `cut_off`.
        """
        missing, not_reached = self.coverage.not_measured(cut_off)
        if self.options.mode == "gate":
            others, not_asserted = self.coverage.unasserted(asserted, cut_off)
            missing, not_reached = [*missing, *others], [*not_reached, *not_asserted]
        return missing, not_reached

    def not_looked_at(self) -> list[str]:
        """See Coverage.not_looked_at. The tier quick skips a test of more cases than it has, and so says nothing."""
        if self.options.mode == "report" or self.options.tier == "quick":
            return []
        return self.coverage.not_looked_at()

    def stale(self, *, whole: bool) -> list[str]:
        """Stored cases that no suite measures any more, of the suites that were measured to their end. Of a run that is
        not `whole`, they are only said not to be looked at.
        """
        if self.options.mode != "gate" or not self.coverage.whole:
            return []
        return self._stored.stale(self.coverage.outcomes, whole=whole)

    def orphaned(self, declared: Collection[str], *, whole: bool) -> list[str]:
        """Stored files of the engines that were measured whose suites are neither measured nor among the `declared`.

        Where this run may have left suites of the project out, and isn't `whole`, they are said not to be looked at.
        """
        outcomes = self.coverage.outcomes
        if self.options.mode != "gate" or self.options.other_python:  # nothing stored is looked at there
            return []
        engines = {spec.engine for outcome in outcomes for spec in outcome.specs}
        return self._stored.orphaned(engines, {*declared, *(outcome.sweep for outcome in outcomes)}, whole=whole)

    def accept(self) -> None:
        """Store what was measured as the new baseline. Raises BaselineError where a part of it is refused."""
        if self._problems:
            raise BaselineError(
                "\n".join(["nothing is recorded, since the measurement is not whole:", *self._problems])
            )
        terms = Terms(
            policy=self.settings.later_gates,
            supported=self.settings.tolerance == "supported",
            recorded=self._started_at,
            commit=self._commit,
            by=fingerprint.by(self._root),
        )
        try:
            self._remarks.extend(self._stored.accept(self.coverage.outcomes, terms))
        except BaselineError as error:
            if self._budget_left() != 0.0:
                raise
            raise BaselineError(f"{error}\nthe budget was spent meanwhile: give it a larger one, or none") from error

    @cached_property
    def _commit(self) -> str | None:
        """Asked for once: it starts a process."""
        return fingerprint.commit(self._root)

    def outcome(self) -> RunOutcome:
        """What there is by now; also of a run that was interrupted."""
        return RunOutcome(
            machine=self._machine,
            sweeps=self.coverage.outcomes,
            started_at=self._started_at,
            seconds=time.monotonic() - self._began,
            commit=self._commit,
            complete=self._complete,
            tier=self.options.tier,
            problems=tuple(self._problems),
            remarks=tuple(self._remarks),
            claims=tuple(self._claims),
            roofs=self._roofs.known,
        )

    @contextmanager
    def without(self, sweeps: Collection[str]) -> Iterator[None]:
        """While the body runs, the run covers none of the sweeps with these names: other workers measure them."""
        whole = self.coverage
        self.coverage = whole.without(sweeps) if sweeps else whole
        try:
            yield
        finally:
            self.coverage = whole

    def nothing_left(self) -> list[str]:
        """See Coverage.nothing_left; only a gate passes."""
        return self.coverage.nothing_left() if self.options.mode == "gate" else []

    def cut_short(self) -> None:
        """The run ended before its end: what there is, is a part."""
        self._complete = False

    def close(self) -> None:
        """Give the device back."""
        self._held.close()


def _check_engine(name: str, where: str) -> None:
    """Raises UsageError for an engine that is unknown, or known and not installed here."""
    engines = {engine.name: engine for engine in registry.available()}
    if name not in engines:
        raise UsageError(f"{where}unknown engine {name!r}: known are {', '.join(engines)}")
    if engines[name].missing:
        raise UsageError(f"{where}{engines[name].missing}")
