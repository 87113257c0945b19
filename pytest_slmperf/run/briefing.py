"""What a campaign is told before it begins: its engines and cases, how it measures, and what it uses of the machine."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_slmperf.core import gate
from pytest_slmperf.core.beside import neighbours
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.launch import LaunchRecord, Load, RoundPolicy
from pytest_slmperf.core.load.latency import needed
from pytest_slmperf.core.machine import SIMULATED, Machine
from pytest_slmperf.core.memory import GIB
from pytest_slmperf.core.metrics import STARTUP_PHASES
from pytest_slmperf.core.sweeps.sweep import Case, Sweep
from pytest_slmperf.core.sweeps.variant import AS_IT_IS
from pytest_slmperf.core.sweeps.workload import StaticBatch
from pytest_slmperf.engines.planted import sound
from pytest_slmperf.run import fitting
from pytest_slmperf.run.accept import on_another_device
from pytest_slmperf.run.answering import Standards
from pytest_slmperf.run.brief import Brief, Configuration, Prime, Reference, Surroundings
from pytest_slmperf.run.devices import Device, HeldDevices, device_of, too_few_gpus
from pytest_slmperf.run.launch import run_launch
from pytest_slmperf.run.launch.terms import EnergyTerms
from pytest_slmperf.run.loads import load_of
from pytest_slmperf.run.metering import Metering
from pytest_slmperf.run.options import Options
from pytest_slmperf.run.pace import Pace
from pytest_slmperf.run.pinning import usable_cores
from pytest_slmperf.run.progress import Progress
from pytest_slmperf.run.settings import Settings

ONCE_A_LAUNCH = {"peak_memory_bytes", "startup_s", *STARTUP_PHASES.values()}
"""Metrics that a launch has one value of, however many rounds it times."""
LEAST_OBSERVED = 2
"""Requests that a launch observes where only medians are wanted, so that none rests on a single request."""
LEAST_ARRIVED = 20
"""The same where requests arrive one by one: each meets another queue."""


def configurations(
    sweep: Sweep, specs: Sequence[EngineSpec], wanted: Callable[[Case], bool], *, other_python: str | None
) -> tuple[Configuration, ...]:
    """Each variant of each engine with the cases that are `wanted` of it; beside it, the same of the other interpreter.

    Raises UsageError where two engines have one model's name: their cases would, too.
    """
    names = [spec.model_name for spec in specs]
    if len(set(names)) != len(names):
        raise UsageError(
            f"sweep {sweep.name!r} measures two engines with the model name {max(names, key=names.count)!r}"
        )
    found = []
    for spec in specs:
        cases = [case for case in sweep.cases([spec.model_name]) if wanted(case)]
        for variant in sweep.variants:
            candidate = variant.of(spec)
            baseline = replace(sound(candidate), python=other_python) if other_python else None
            found.append(Configuration(candidate, tuple(case for case in cases if case.variant == variant), baseline))
    return tuple(found)


def brief(
    sweep: Sweep, measured: tuple[Configuration, ...], options: Options, settings: Settings, *, budget_s: float | None
) -> Brief:
    """What a campaign is asked to do by the command line and the settings; `budget_s` is what is left of it."""
    return Brief(
        sweep=sweep,
        configurations=measured,
        mode=options.mode,
        policy=round_policy(sweep, settings),
        baseline_launches=settings.baseline_launches,
        max_launches=most_launches(options, settings),
        budget_s=budget_s,
        record=options.record,
        record_sweep=options.record_only(sweep.name),
        supported=settings.tolerance == "supported",
        slack=2.0 if options.tier == "quick" else 1.0,
    )


def round_policy(sweep: Sweep, settings: Settings) -> RoundPolicy:
    """How a launch measures a case of the sweep: with one round where nothing is gated that rounds repeat, and where
    requests arrive. A model beside whose requests arrive at a rate has as many of them in it as are observed.
    """
    gated = sweep.tolerances.keys()
    arrive = not isinstance(sweep.workload, StaticBatch)
    once = arrive or (gated and gated <= ONCE_A_LAUNCH)
    rounds, most = 1 if once else settings.rounds, max(map(needed, sweep.quantiles))
    rates = [one.request_rate for value in sweep.beside for one in neighbours(value) if one.request_rate]
    theirs_s = max(LEAST_ARRIVED, most) / min(rates) if rates else 0.0
    return RoundPolicy(
        rounds=rounds,
        round_s=max(settings.round_s, theirs_s / rounds),
        observed_requests=max(LEAST_ARRIVED if arrive else LEAST_OBSERVED, most),
        observed_s=settings.round_s,
        traffic_s=max(settings.traffic_s, theirs_s),
        void_retries=settings.void_retries,
        answer_limit_s=settings.answer_limit_s,
        gated=frozenset(gated),
    )


def most_launches(options: Options, settings: Settings) -> int:
    """Launches of a case at most, in each arm, as the tier allows."""
    factor = {"quick": 0.5, "gate": 1.0, "full": 1.5}[options.tier]
    return max(gate.FIRST_LOOK, round(settings.max_launches * factor))


@dataclass(frozen=True)
class Bench:
    """The machine that campaigns measure on, and who is told of it."""

    machine: Machine
    find: Callable[[str, Mapping[str, object]], Reference]
    """(case, key) → what is stored for it."""
    progress: Progress
    device: Device
    held: HeldDevices
    pace: Pace = field(default_factory=Pace)
    standards: Standards = field(default_factory=Standards)
    """What single instances of pools' engines answer."""

    def surroundings(
        self, sweep: Sweep, metering: Metering | None = None, *, with_joules: bool = False
    ) -> Surroundings:
        """What a campaign of this sweep needs from outside; `metering` where its joules are counted, and
        `with_joules` where throughput is read from the same stretch.
        """
        energy = EnergyTerms(metering, gated=bool(sweep.metered), timed=with_joules) if metering else None

        def start(
            spec: EngineSpec, loads: Sequence[Load], *, arm: str, index: int, policy: RoundPolicy, prime: Prime
        ) -> LaunchRecord:
            record = run_launch(
                spec,
                loads,
                policy,
                arm=arm,
                index=index,
                cores=self.held.cores(spec),
                quantiles=sweep.quantiles,
                slo=sweep.slo,
                progress=self.progress.round,
                retrying=self.progress.retrying,
                energy=energy,
                pace=self.pace,
                prime=prime,
                standards=self.standards,
            )
            self._refuse_other_device(record)
            return record

        return Surroundings(
            launch=start,
            stored=self.find,
            loads=load_of,
            fits=self.misfit,
            progress=self.progress,
            unfit=lambda key: on_another_device(key, self.machine),
            with_joules=with_joules,
            pause=time.sleep if metering or self.device.kind != SIMULATED else _pass_by,
        )

    def refuse_others(self, specs: Iterable[EngineSpec], default: str, *, side_by_side: bool) -> None:
        """Raises UsageError for engines that don't run where this run measures; two that are compared side by side may
        have a device each, but a simulated one is a machine of its own.
        """
        for spec in specs:
            there = device_of(spec.engine, spec.options, spec.pool)
            if (there.kind == SIMULATED) is not (self.device.kind == SIMULATED):
                raise UsageError(
                    "one run measures real engines or the simulated one, not both: their samples belong to different "
                    f"machines; choose with --slmperf-engine (now {default!r})"
                )
            if not there.is_part_of(self.device) and not side_by_side:
                most = f",replicas={spec.pool.replicas},pool={spec.pool.kind}" if spec.pool else ""
                raise UsageError(
                    f"one run measures on one device: this one on {self.device}, {self.machine.device}, and "
                    f"{spec.engine} ({spec.model_name}) is to run on {there}; say where all of them run, as in "
                    f"--slmperf-engine={spec.engine}:device=cuda{most}"
                )

    def _refuse_other_device(self, record: LaunchRecord) -> None:
        if (record.facts.device == SIMULATED) is not (self.device.kind == SIMULATED):
            raise UsageError(
                f"{record.spec.engine} says that it runs on {record.facts.device}, and this run measures on "
                f"{self.machine.device}: its samples belong to another machine"
            )

    @property
    def cores(self) -> int | None:
        """As many as this process may use at once; None where time is simulated."""
        return None if self.device.kind == SIMULATED else usable_cores()

    def misfit(self, sweep: Sweep, case: Case, spec: EngineSpec) -> str | None:
        """Why a case surely doesn't fit this machine, or its engine; None where it may."""
        if why := fitting.lacking(case, spec):
            return why
        if why := fitting.static_only(sweep.workload, spec):
            return why
        if why := fitting.too_many_threads(case, spec, cores=self.cores):
            return why
        if case.variant != AS_IT_IS and (why := too_few_gpus(spec)):
            return why
        memory_gib = self.machine.fields.get("gpu_memory_gib" if self.machine.kind == "cuda" else "memory_gib")
        total = float(memory_gib) * GIB * self.device.count if isinstance(memory_gib, (int, float)) else None
        return fitting.too_large(sweep.workload, case, spec, memory_bytes=total)


def _pass_by(_seconds: float) -> None:
    """Nothing that passes on this machine would make a simulated round less void."""
