"""A run: what is measured once and remembered, compared with what is stored, and reported in the end."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pytest_slmperf.core import gate
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import BaselineError, SlmperfError, UsageError
from pytest_slmperf.core.launch import LaunchRecord, Load, RoundPolicy
from pytest_slmperf.core.machine import SIMULATED
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import CaseOutcome, RunOutcome, SweepOutcome
from pytest_slmperf.core.point import Ledger, assertion
from pytest_slmperf.core.result import Result
from pytest_slmperf.core.sweep import DEFAULT_TOLERANCE, Case, Sweep
from pytest_slmperf.engines import registry
from pytest_slmperf.engines.lengths import draw_lengths
from pytest_slmperf.run import campaign, fingerprint, fitting, launch, pinning, plan
from pytest_slmperf.run.accept import Terms
from pytest_slmperf.run.lock import device_lock
from pytest_slmperf.run.options import PYTHON, Options, planted_loss
from pytest_slmperf.run.stored import StoredCases

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_slmperf.core.verdict import Verdict
    from pytest_slmperf.run.progress import Progress
    from pytest_slmperf.run.settings import Settings

SIMULATED_ENGINE = "fake"
"""It does no work, so it takes no device from anybody, and is stored under a machine of its own."""


@dataclass(frozen=True)
class _Remembered:
    """A sweep that was measured, or why it could not be."""

    sweep: Sweep
    outcome: SweepOutcome
    failure: BaseException | None = None


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
    ) -> None:
        self.options = options
        self.settings = settings
        self._root = root
        self._progress = progress
        self._told = ledger
        self._ledger = Ledger(made=ledger.made, asked=self._asked)
        self._claims: dict[Verdict, None] = {}
        self._remembered: dict[tuple[Sweep, str], _Remembered] = {}
        self._selected: dict[Sweep, set[int] | None] = {}
        self._everything = False
        self._held = ExitStack()
        self._locked: set[str] = set()
        self._problems: list[str] = []
        self._remarks: list[str] = []
        self._began = time.monotonic()
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._complete = True
        against = options.against
        self._other_python = against.value if against and against.field == PYTHON else None
        self.default_engine = options.engine or settings.engine or registry.best()
        _check_engine(self.default_engine)
        self._machine = fingerprint.simulated() if self.default_engine == SIMULATED_ENGINE else fingerprint.probe()
        self._stored = StoredCases(
            options.baselines or root / settings.baselines,
            self._machine,
            None if self._other_python else against,
            record=options.record,
        )

    def __repr__(self) -> str:
        return f"<slmperf on {self._machine.device}>"

    # -- what a suite calls

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
        if model is None:
            raise UsageError(
                "slm_engine() needs a model: a name of the table of shapes, or the path of a converted model"
            )
        given = {**self.options.engine_options, **options}
        planted = planted_loss(given.pop("slowed", 0.0))
        return EngineSpec(
            engine=engine or self.default_engine,
            model=model,
            dtype=dtype or self.settings.dtype,
            threads=threads or self.settings.threads,
            options=given,
            planted_loss=planted,
        )

    def measure(
        self,
        sweep: Sweep,
        engine: EngineSpec | Iterable[EngineSpec] | Callable[[str], EngineSpec] | None = None,
    ) -> Result:
        """Measure a sweep once, judge its gated metrics, and return its points. See the fixture `slmperf`.

        Raises LaunchError where an engine fails, UsageError where the call makes no sense.
        """
        here = self.resolved(sweep)
        specs = self._specs(here, engine)
        remembered = self._remembered.get((sweep, repr(specs)))
        if remembered is None:
            remembered = self._measure(sweep, here, specs)
        if remembered.failure:
            raise remembered.failure
        return Result(remembered.outcome, self._ledger)

    def resolved(self, sweep: Sweep) -> Sweep:
        """The sweep as this machine's settings and the tier change it."""
        here = self._on_this_machine(sweep)
        if self.options.tier == "quick":
            here = replace(here, batch_size=sorted({min(here.batch_size), max(here.batch_size)}))
        return here

    def _on_this_machine(self, sweep: Sweep) -> Sweep:
        return sweep.on(self.settings.sweep_on(sweep.name, self._machine))

    def _specs(self, sweep: Sweep, engine: object) -> tuple[EngineSpec, ...]:
        if isinstance(engine, EngineSpec):
            return (engine,)
        if engine is None or callable(engine):
            if not sweep.model:
                raise UsageError(
                    f"sweep {sweep.name!r} names no model: measure(sweep, slm_engine(MODEL)), model=[…] in the sweep, "
                    f"or `model` in [tool.slmperf]"
                )
            make = engine if callable(engine) else self.engine
            return tuple(make(model) for model in sweep.model)
        if isinstance(engine, Iterable):
            specs = tuple(engine)
            if specs and all(isinstance(spec, EngineSpec) for spec in specs):
                return specs
        raise UsageError(
            f"measure({sweep.name!r}, …) takes an engine, several engines, or the fixture slm_engine itself"
        )

    def compare(self, sweep: Sweep, baseline: EngineSpec, candidate: EngineSpec) -> Result:
        """Measure two engines side by side, launches interleaved, and judge the second by the first."""
        cases = sweep.cases([candidate.model_name])
        arms = (campaign.Configuration(candidate, cases, baseline),)
        remembered = self._measure(sweep, sweep, (candidate, baseline), arms)
        if remembered.failure:
            raise remembered.failure
        return Result(remembered.outcome, self._ledger)

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
        configurations: tuple[campaign.Configuration, ...] = (),
    ) -> _Remembered:
        self._refuse_planted(specs)
        self._refuse_same_names(sweep, here, specs)
        self._hold_device(specs)
        configurations = configurations or self._configurations(sweep, here, specs)
        beside = tuple(one.baseline for one in configurations if one.baseline)
        brief = self._brief(here, configurations)
        running = campaign.Campaign(brief, self._surroundings(here), order_seed=self.settings.order_seed)
        failure: BaseException | None = None
        try:
            outcome = running.run()
        except SlmperfError as error:
            failure, outcome = error, running.outcome()
            self._problems.append(f"{sweep.name}: {error}")
            self._complete = False
        except BaseException:
            self._complete = False
            self._remember(sweep, specs, _Remembered(sweep, replace(running.outcome(), baseline_specs=beside)))
            raise
        finally:
            self._progress.done()
        outcome = replace(
            outcome,
            skipped={**outcome.skipped, **self._left_out(sweep, here, specs)},
            unselected=self._unselected(sweep, here, specs),
            baseline_specs=beside,
        )
        return self._remember(sweep, specs, _Remembered(sweep, outcome, failure))

    def _remember(self, sweep: Sweep, specs: tuple[EngineSpec, ...], what: _Remembered) -> _Remembered:
        self._remembered[sweep, repr(specs)] = what
        return what

    def _configurations(
        self, sweep: Sweep, here: Sweep, specs: tuple[EngineSpec, ...]
    ) -> tuple[campaign.Configuration, ...]:
        names = [spec.model_name for spec in specs]
        if len(set(names)) != len(names):
            raise UsageError(
                f"sweep {sweep.name!r} measures two engines with the model name {max(names, key=names.count)!r}"
            )
        return tuple(
            campaign.Configuration(
                candidate=spec,
                cases=tuple(case for case in here.cases([spec.model_name]) if self._is_selected(sweep, case)),
                baseline=replace(spec, python=self._other_python, planted_loss=0.0) if self._other_python else None,
            )
            for spec in specs
        )

    def _brief(self, here: Sweep, configurations: tuple[campaign.Configuration, ...]) -> campaign.Brief:
        settings = self.settings
        return campaign.Brief(
            sweep=here,
            configurations=configurations,
            mode=self.options.mode,
            policy=RoundPolicy(
                rounds=settings.rounds,
                round_s=settings.round_s,
                observed_requests=math.ceil(round(1 / (1 - max(here.quantiles)), 6)),
                observed_s=settings.round_s,
                void_retries=settings.void_retries,
                answer_limit_s=settings.answer_limit_s,
            ),
            baseline_launches=settings.baseline_launches,
            max_launches=self._max_launches,
            budget_s=self._budget_left(),
            record=self.options.record,
            supported=settings.tolerance == "supported",
            slack=2.0 if self.options.tier == "quick" else 1.0,
        )

    @property
    def _max_launches(self) -> int:
        factor = {"quick": 0.5, "gate": 1.0, "full": 1.5}[self.options.tier]
        return max(gate.FIRST_LOOK, round(self.settings.max_launches * factor))

    def _budget_left(self) -> float | None:
        budget = self.options.budget_s
        return None if budget is None else max(0.0, budget - (time.monotonic() - self._began))

    def _surroundings(self, here: Sweep) -> campaign.Surroundings:
        def start(
            spec: EngineSpec, loads: Sequence[Load], *, arm: str, index: int, policy: RoundPolicy
        ) -> LaunchRecord:
            simulated = spec.engine == SIMULATED_ENGINE
            cores = None if simulated else pinning.choose_cores(spec.threads)
            record = launch.run_launch(
                spec,
                loads,
                policy,
                arm=arm,
                index=index,
                cores=cores,
                quantiles=here.quantiles,
                progress=self._progress.round,
            )
            if (record.facts.device == SIMULATED) is not self._machine.simulated:
                raise UsageError(
                    f"{spec.engine} says that it runs on {record.facts.device}, and this run measures on "
                    f"{self._machine.device}: its samples belong to another machine"
                )
            return record

        return campaign.Surroundings(
            launch=start, stored=self._stored.find, loads=_load_of, fits=self._unfit, progress=self._progress
        )

    def _unfit(self, sweep: Sweep, case: Case, spec: EngineSpec) -> str | None:
        memory_gib = self._machine.fields.get("memory_gib")
        total = float(memory_gib) * 2**30 if isinstance(memory_gib, (int, float)) else math.inf
        return fitting.too_large(sweep.workload, case, spec, memory_bytes=total)

    def _refuse_planted(self, specs: Iterable[EngineSpec]) -> None:
        if self.options.mode == "accept" and any(spec.planted_loss for spec in specs):
            raise UsageError("a loss that is planted on purpose is never recorded: take `slowed` away")

    def _refuse_same_names(self, sweep: Sweep, here: Sweep, specs: Iterable[EngineSpec]) -> None:
        """Two measurements under one name would be stored over each other, and asserted for each other."""
        wanted = {case.name for case in here.cases(spec.model_name for spec in specs)}
        for one in self._remembered.values():
            twice = sorted(wanted & {*one.outcome.cases, *one.outcome.skipped})
            if twice:
                raise UsageError(
                    f"{', '.join(twice)}: measured already, by another engine or sweep {sweep.name!r}: give each "
                    "sweep a name of its own"
                )

    def _hold_device(self, specs: Iterable[EngineSpec]) -> None:
        """One job measures on a device at a time. The lock is held to the end of the run; a crash releases it."""
        simulated = {spec.engine == SIMULATED_ENGINE for spec in specs}
        if simulated != {self._machine.simulated}:
            raise UsageError(
                "one run measures real engines or the simulated one, not both: their samples belong to different "
                f"machines; choose with --slmperf-engine (now {self.default_engine!r})"
            )
        if not self._machine.simulated and "cpu" not in self._locked:
            self._held.enter_context(device_lock("cpu", wait_s=self.settings.lock_wait_s, say=self._progress.remark))
            self._locked.add("cpu")

    # -- what the plugin calls

    def select(self, sweep: Sweep, sizes: set[int] | None) -> None:
        """Measure only these batch sizes of a sweep; None for all of them."""
        self._selected[sweep] = sizes

    def select_everything(self) -> None:
        """A selected test doesn't say which sweep it looks at: measure every sweep whole."""
        self._everything = True

    def _is_selected(self, sweep: Sweep, case: Case) -> bool:
        sizes = self._selected.get(sweep)
        return self._everything or sizes is None or case.batch_size in sizes

    def _unselected(self, sweep: Sweep, here: Sweep, specs: Iterable[EngineSpec]) -> tuple[str, ...]:
        cases = here.cases(spec.model_name for spec in specs)
        return tuple(case.name for case in cases if not self._is_selected(sweep, case))

    def _left_out(self, sweep: Sweep, here: Sweep, specs: Iterable[EngineSpec]) -> dict[str, str]:
        """Cases that only the tier doesn't measure: what is stored of them is not stale."""
        if self.options.tier != "quick":
            return {}
        models = [spec.model_name for spec in specs]
        left_out = set(self._on_this_machine(sweep).cases(models)) - set(here.cases(models))
        return dict.fromkeys(sorted(case.name for case in left_out), "the tier quick leaves it out")

    def plan_lines(self) -> list[str]:
        """The cases, launches and time that the selected tests will take."""
        spending = plan.Spending(
            self.options.mode,
            arms=2 if self._other_python else 1,
            settings=self.settings,
            max_launches=self._max_launches,
            simulated=self._machine.simulated,
        )
        lines = []
        for sweep in self._selected:
            here = self.resolved(sweep)
            models = here.model or ("(its fixture's model)",)
            cases = [case for case in here.cases(models) if self._is_selected(sweep, case)]
            lines.extend(plan.lines(here.name, cases, spending))
        return lines

    @property
    def problems(self) -> tuple[str, ...]:
        """What made the run red by now."""
        return tuple(self._problems)

    def remark(self, *lines: str) -> None:
        """Something that is said and not red."""
        self._remarks.extend(lines)

    def case_outcomes(self, sweep: Sweep, model: str | None, batch_size: int | None) -> list[CaseOutcome]:
        """What was measured at these coordinates by now; None matches any."""
        return [
            case
            for remembered in self._remembered.values()
            if remembered.sweep is sweep
            for case in remembered.outcome.cases.values()
            if model in (None, case.coordinates["model"]) and batch_size in (None, case.coordinates["batch_size"])
        ]

    def unasserted(
        self, asserted: set[tuple[str, str]], cut_off: Callable[[Sweep], bool]
    ) -> tuple[list[str], list[str]]:
        """Sweeps that nobody measured, and gated metrics that nobody asserted of what was measured whole.

        What no test does, then what a test may not have come to: of sweeps whose tests were `cut_off`.
        """
        measured = {remembered.sweep for remembered in self._remembered.values()}
        missing, not_reached = [], []
        for sweep in self._selected:
            if sweep not in measured and cut_off(sweep):
                not_reached.append(f"sweep {sweep.name!r} is declared, and no test came to measure it")
            elif sweep not in measured:
                missing.append(
                    f"sweep {sweep.name!r} is declared and nothing measured it: pass it to slmperf.measure(…), or "
                    "delete it"
                )
        for remembered in self._remembered.values():
            if self.options.mode == "gate" and not remembered.failure:
                for name, cases in _unasserted(remembered.outcome, asserted).items():
                    gates, at = f"sweep {remembered.outcome.sweep!r} gates {name}", ", ".join(cases)
                    if cut_off(remembered.sweep):
                        not_reached.append(f"{gates}, and no test came to assert it for {at}")
                    else:
                        missing.append(
                            f"{gates}, and no test of this run asserts it for {at}: assert {assertion(metric(name))}, "
                            "or take it out of gate={…}"
                        )
        return missing, not_reached

    def stale(self) -> list[str]:
        """Stored cases that no suite measures any more, of the suites that were measured whole."""
        if self.options.mode != "gate" or any(remembered.failure for remembered in self._remembered.values()):
            return []
        return self._stored.stale([remembered.outcome for remembered in self._remembered.values()])

    def accept(self) -> None:
        """Store what was measured as the new baseline. Raises BaselineError where a part of it is refused."""
        if self._problems:
            raise BaselineError(
                "\n".join(["nothing is recorded, since the measurement is not whole:", *self._problems])
            )
        terms = Terms(
            policy=gate.Policy(tolerance=DEFAULT_TOLERANCE, max_launches=self.settings.max_launches, design="stored"),
            supported=self.settings.tolerance == "supported",
            recorded=self._started_at,
            commit=fingerprint.commit(self._root),
            by=fingerprint.by(self._root),
        )
        self._remarks.extend(self._stored.accept([one.outcome for one in self._remembered.values()], terms))

    def outcome(self) -> RunOutcome:
        """What there is by now; also of a run that was interrupted."""
        return RunOutcome(
            machine=self._machine,
            sweeps=tuple(remembered.outcome for remembered in self._remembered.values()),
            started_at=self._started_at,
            seconds=time.monotonic() - self._began,
            commit=fingerprint.commit(self._root),
            complete=self._complete,
            tier=self.options.tier,
            problems=tuple(self._problems),
            remarks=tuple(self._remarks),
            claims=tuple(self._claims),
        )

    def nothing_left(self) -> list[str]:
        """Why a gate would pass for want of cases: every sweep was tried, and every case skipped. Empty otherwise."""
        if self.options.mode != "gate" or any(one.failure or one.outcome.cases for one in self._remembered.values()):
            return []
        outcomes = [remembered.outcome for remembered in self._remembered.values()]
        skipped = {case: reason for outcome in outcomes for case, reason in outcome.skipped.items()}
        reasons = [f"{case}: {reason}" for case, reason in skipped.items()]
        return ["no case of any sweep was measured, so nothing is gated:", *reasons] if reasons else []

    def cut_short(self) -> None:
        """The run ended before its end: what there is, is a part."""
        self._complete = False

    def close(self) -> None:
        """Give the device back."""
        self._held.close()


def _load_of(sweep: Sweep, case: Case, context_tokens: int) -> tuple[Load, str | None]:
    """The case's load. Its prompts depend on its name alone: every launch and every arm sends the same."""
    lengths, left_out = draw_lengths(sweep.workload, case.batch_size, context_tokens)
    note = (
        f"{case.model}: {left_out} requests of the trace exceed its context of {context_tokens} tokens and are left out"
    )
    return Load(case.name, tuple(lengths), seed=zlib.crc32(case.name.encode())), note if left_out else None


def _unasserted(outcome: SweepOutcome, asserted: set[tuple[str, str]]) -> dict[str, list[str]]:
    """The cases of each gated metric that nobody asserted."""
    missing: dict[str, list[str]] = {}
    for case in outcome.cases.values():
        for name in case.verdicts:
            if (case.case, name) not in asserted:
                missing.setdefault(name, []).append(case.case)
    return missing


def _check_engine(name: str) -> None:
    """Raises UsageError for an engine that is unknown, or known and not installed here."""
    engines = {engine.name: engine for engine in registry.available()}
    if name not in engines:
        raise UsageError(f"unknown engine {name!r}: known are {', '.join(engines)}")
    if engines[name].missing:
        raise UsageError(f"{engines[name].missing}")
