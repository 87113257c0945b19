"""Measures what advice is wanted of, setting by setting: plans the next one, launches it, keeps what it showed."""

import random
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from pytest_slmperf.core.advising.planner import Next, Policy, Settled, plan
from pytest_slmperf.core.advising.question import Evidence, Question, Series, Setting, grid
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineDied, EngineFailed, EngineUnavailable, LaunchError, SuiteError, UsageError
from pytest_slmperf.core.launch import CaseRecord, LaunchRecord, Load, RoundPolicy
from pytest_slmperf.core.load.latency import needed
from pytest_slmperf.core.machine import SIMULATED, Machine, Scalar
from pytest_slmperf.core.memory import GIB, USABLE, Tenant, lacking_bytes
from pytest_slmperf.core.metrics import BOARD, ENERGY
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.core.verdict import quantity
from pytest_slmperf.run.advice_state import Launched, State, read_state, write_state
from pytest_slmperf.run.briefing import LEAST_OBSERVED
from pytest_slmperf.run.campaign import VOID_PAUSE_S
from pytest_slmperf.run.devices import Device, HeldDevices, device_of, machine_of
from pytest_slmperf.run.fitting import SHARING
from pytest_slmperf.run.joules import Joules
from pytest_slmperf.run.launch import run_launch
from pytest_slmperf.run.launch.terms import EnergyTerms, TellRetry, TellRound
from pytest_slmperf.run.metering import Metering
from pytest_slmperf.run.pace import Pace
from pytest_slmperf.run.pinning import usable_cores
from pytest_slmperf.run.settings import Settings

MOST_VOID = 4
"""Launches of a setting that may be void, one after the other, before it is given up."""
MOST_FAILED = 2
"""Launches of a setting that may fail before it can't be run: one may be an accident. Out of memory is none."""


@dataclass(frozen=True)
class Wanted:
    """What is to be found out, and how."""

    question: Question
    spec: EngineSpec
    """The engine and the model; its dtype, threads and pool vary."""
    series: tuple[Series, ...]
    """Of the first one, one instance at its largest batch is what the others are compared with."""
    batches: tuple[int, ...]
    """In each replica."""
    prompt_tokens: int
    output_tokens: int
    settings: Settings
    pool: Pool | None = None
    """Of more than one replica: its kind and spread."""
    policy: Policy = field(default_factory=Policy)
    budget_s: float | None = None
    memory_bytes: float | None = None
    """That may be taken; None for what the machine has."""
    repeats: int | None = None
    """Launches of every setting, whatever they show; None for as many as settle the answer."""
    retry_failed: bool = False
    """Whether what could not be run in the launches that are kept is launched again."""

    @property
    def request_tokens(self) -> int:
        """Prompt and output of one request."""
        return self.prompt_tokens + self.output_tokens

    @property
    def of(self) -> Mapping[str, Scalar]:
        """What was to be done, as it is kept beside the launches."""
        spec, kind = self.spec, self.pool or Pool(1)
        return {
            "engine": spec.engine,
            "model": spec.model_name,
            "python": spec.python,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "pool": kind.kind,
            "spread": kind.spread,
            **({"planted_loss": spec.planted_loss} if spec.planted_loss else {}),
            **{
                f"beside_{number}": f"{one.model}, {one.dtype}, {one.threads} threads: {one.load}"
                for number, one in enumerate(spec.beside, 1)
            },
            **{f"option.{name}": value for name, value in spec.options.items()},
        }

    def engine(self, series: Series) -> EngineSpec:
        """The engine of a series."""
        pool = replace(self.pool or Pool(1), replicas=series.replicas) if series.replicas > 1 else None
        return replace(self.spec, dtype=series.dtype, threads=series.threads, pool=pool)

    def device(self, series: Series) -> Device:
        """Where it runs. Raises UsageError, and EngineUnavailable for more MIG slices than there are."""
        spec = self.engine(series)
        return device_of(spec.engine, spec.options, spec.pool)


@dataclass(frozen=True)
class Found:
    """What came of it."""

    state: State
    candidates: tuple[Setting, ...]
    ended: Settled | None
    """Why nothing more is to be measured; None where the budget ended it."""
    launches: int
    """That were made now, the throw-away ones included."""

    @property
    def evidence(self) -> Evidence:
        """What the answer rests on: the launches of the candidates, and not what else is kept."""
        return self.state.evidence.among(self.candidates)


@dataclass
class _Launcher:
    """Launches configuration after configuration, on devices that are held meanwhile."""

    wanted: Wanted
    held: HeldDevices
    open_: ExitStack
    """Closes the meters at the end."""
    tell: TellRound
    retrying: TellRetry
    pace: Pace = field(default_factory=Pace)
    count: int = 0
    primed: set[str] = field(default_factory=set)
    """Types whose weights are made."""
    meters: dict[Device, Metering] = field(default_factory=dict)

    def __call__(self, settings: Sequence[Setting]) -> LaunchRecord:
        """Measure settings of one series, in random order, as a run does. Raises LaunchError, and UsageError for more
        threads than cores.
        """
        series = settings[0].series
        spec = self.wanted.engine(series)
        metering = self._metering(self.wanted.device(series)) if _metered(self.wanted.question) else None
        if spec.dtype not in self.primed:  # weights are made, caches are warm
            self._run(spec, ())
            self.primed.add(spec.dtype)
        loads = [load_of(self.wanted, one) for one in settings]
        random.Random(self.count).shuffle(loads)
        return self._run(spec, loads, metering)

    def _metering(self, device: Device) -> Metering:
        """The meter of what a setting runs on. Raises UsageError where there is none."""
        if device in self.meters:
            return self.meters[device]
        joules = Joules(self.wanted.settings, machine_of(device), device)
        self.open_.callback(joules.close)
        if missing := joules.metering.source.missing:
            asked = ", ".join(one.name for one in self.wanted.question.metrics if one.name in (*ENERGY, *BOARD))
            raise UsageError(f"{asked} can't be had here: {missing}")
        joules.before_launches(to_come=True)
        self.meters[device] = joules.metering
        return joules.metering

    def _run(self, spec: EngineSpec, loads: Sequence[Load], metering: Metering | None = None) -> LaunchRecord:
        self.count += 1
        return run_launch(
            spec,
            loads,
            _policy(self.wanted),
            arm="candidate",
            index=self.count,
            cores=self.held.cores(spec),
            quantiles=_quantiles(self.wanted.question),
            progress=self.tell,
            retrying=self.retrying,
            energy=EnergyTerms(metering, gated=True, timed=True) if metering else None,
            pace=self.pace,
            prime=lambda facts: loads if facts.compiles else (),
        )


@dataclass
class _Ledger:
    """What is known, and the file that has it at once."""

    state: State
    path: Path
    question: Question
    say: Callable[[str], object]

    def keep(self, launched: Sequence[Launched], resolved: Mapping[str, Scalar]) -> None:
        """What a launch showed. Raises UsageError where the file's launches are of something else now."""
        if not launched:
            return
        self.state = _latest(self.state, self.path).plus(launched, resolved)
        write_state(self.state, self.path)
        for one in launched:
            self.say(f"launch {self.state.made}: {one.setting}: {_shown(one, self.question)}")


def settle(wanted: Wanted, path: Path, *, say: Callable[[str], object], tell: TellRound, retrying: TellRetry) -> Found:
    """Measure until the answer is settled or the budget is spent. Each launch is in the file at `path` when the next
    one begins, and what the file holds already is not measured again.

    `say` is told what is measured and why, `tell` each round, `retrying` each that is repeated. Raises UsageError for
    what can't be asked for here or does not go with the file, and LaunchError where an engine fails at more than a
    setting.
    """
    device = wanted.device(wanted.series[0])
    machine = machine_of(device)
    candidates = _fitting(wanted, _in_cores(wanted, device, say), device, machine, say)
    began = time.monotonic()
    with ExitStack() as open_:
        held = HeldDevices(wait_s=wanted.settings.lock_wait_s, say=say)
        open_.callback(held.close)
        held.hold({wanted.device(one.series) for one in candidates})
        ledger = _Ledger(_kept(wanted, machine, path, say), path, wanted.question, say)
        launcher = _Launcher(wanted, held, open_, tell, retrying)
        while True:
            state = ledger.state
            step = _next(wanted, candidates, state.evidence.among(candidates))
            if isinstance(step, Settled):
                return Found(state, candidates, step, launcher.count)
            if wanted.budget_s is not None and time.monotonic() - began >= wanted.budget_s:
                return Found(state, candidates, None, launcher.count)
            for one in (step, *step.along):
                say(f"launch {state.made + 1}: {one.setting}: {one.why}")
            try:
                _launch(wanted, launcher, step, ledger, say)
            except EngineUnavailable as error:
                candidates = _without_dtype(candidates, step.setting, error, say)


def _next(wanted: Wanted, candidates: Sequence[Setting], evidence: Evidence) -> Next | Settled:
    if wanted.repeats is None:
        return plan(wanted.question, candidates, evidence, wanted.policy)
    for one in candidates:
        if not evidence.fails(one) and (
            one not in evidence.seen or evidence.seen[one].launches(wanted.question) < wanted.repeats
        ):
            return Next(one, "as planned")
    return Settled("every setting was launched as often as was asked")


def _launch(wanted: Wanted, launcher: _Launcher, step: Next, ledger: _Ledger, say: Callable[[str], object]) -> None:
    """Keep what one launch more shows. What it was made for is launched again where it is void, and once where it
    fails: then alone, for what went along may be to blame. Raises LaunchError where it stays void.
    """
    failed, void, pause_s = 0, 0, VOID_PAUSE_S
    settings = [step.setting, *(one.setting for one in step.along)]
    while True:
        began, at = time.monotonic(), datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            record = launcher(settings)
        except (EngineFailed, EngineDied) as error:
            failed += 1
            hopeless = failed == MOST_FAILED or (isinstance(error, EngineFailed) and error.out_of_memory)
            if hopeless and len(settings) == 1:
                ledger.keep([Launched(step.setting, at, time.monotonic() - began, failed=str(error))], {})
                return
            say(f"that may be an accident, so it is launched once more, alone: {str(error).splitlines()[0]}")
            settings = [step.setting]
            continue
        took_s, cases = time.monotonic() - began, {one: record.cases[load_of(wanted, one).case] for one in settings}
        good = {one: case for one, case in cases.items() if case.void is None}
        for case in good.values():
            _refuse_unmeasured(wanted.question, case)
        weights_of = f"weights.{step.setting.series.dtype}"
        ledger.keep(
            [
                Launched(
                    one, at, took_s, {name: median(rounds) for name, rounds in case.values.items()}, case.unmeasured
                )
                for one, case in good.items()
            ],
            {"engine_version": record.facts.version, weights_of: record.facts.weights} if good else {},
        )
        why_void = cases[step.setting].void
        if why_void is None:
            return
        void += 1
        if void == MOST_VOID:
            raise LaunchError(f"{step.setting}: {MOST_VOID} launches were void, the last one: {why_void}")
        say(f"that launch was void, try {void + 1} of {MOST_VOID}: {' '.join(why_void.split())}")
        settings = [one for one in settings if one not in good]
        if record.facts.device != SIMULATED:  # the culprit may be done by then
            time.sleep(pause_s)
            pause_s *= 2


def _refuse_unmeasured(question: Question, case: CaseRecord) -> None:
    for meaning in question.metrics:
        if meaning.name not in case.values:
            why = case.unmeasured.get(meaning.name, "no launch of this engine measures it")
            raise UsageError(f"{meaning.name} can't be had here: {why}")


def load_of(wanted: Wanted, setting: Setting) -> Load:
    """The batch of a setting: the same in every launch of it."""
    case = f"advise/{wanted.spec.model_name}/{_coordinates(setting)}"
    lengths = ((wanted.prompt_tokens, wanted.output_tokens),) * setting.batch
    return Load(case, lengths, seed=zlib.crc32(case.encode()))


def _coordinates(setting: Setting) -> str:
    series = setting.series
    replicas = f"replicas={series.replicas}/" if series.replicas > 1 else ""
    return f"{replicas}dtype={series.dtype}/threads={series.threads}/batch={setting.batch}"


def _policy(wanted: Wanted) -> RoundPolicy:
    settings = wanted.settings
    return RoundPolicy(
        rounds=settings.rounds,
        round_s=settings.round_s,
        observed_requests=max(LEAST_OBSERVED, *map(needed, _quantiles(wanted.question))),
        observed_s=settings.round_s,
        void_retries=settings.void_retries,
        answer_limit_s=settings.answer_limit_s,
    )


def _quantiles(question: Question) -> tuple[float, ...]:
    return tuple(sorted({0.5, *(meaning.quantile for meaning in question.metrics if meaning.quantile)}))


def _metered(question: Question) -> bool:
    return any(meaning.name in (*ENERGY, *BOARD) for meaning in question.metrics)


def _kept(wanted: Wanted, machine: Machine, path: Path, say: Callable[[str], object]) -> State:
    """What the file holds. Raises UsageError where its launches are of something else."""
    new = State(machine, wanted.of)
    old = read_state(path)
    if old is None or not old.launches:
        write_state(new, path)  # before a launch, not after: a folder may refuse it
        return new
    _refuse_unlike(old, new, path)
    failed = sum(bool(one.failed) for one in old.launches)
    if failed and wanted.retry_failed:
        old = old.without_failed()
        write_state(old, path)
    left_out = f", {failed} of which could not be run: --retry-failed launches them again"
    say(f"{path}: going on from {old.made} launches{left_out if failed and not wanted.retry_failed else ''}")
    return old


def _latest(state: State, path: Path) -> State:
    """The state with what another process has put into the file meanwhile. Raises UsageError where that is of something
    else, and SlmperfError for a file that is damaged now.
    """
    there = read_state(path)
    if there is None or there.launches[: len(state.launches)] != state.launches:
        return state  # taken away, or begun anew
    _refuse_unlike(there, state, path)
    return there


def _refuse_unlike(old: State, new: State, path: Path) -> None:
    if unlike := old.differences(new):
        raise UsageError(
            f"{path}: its launches are of something else ({unlike}): name another file with --state, or delete this one"
        )


def _in_cores(wanted: Wanted, device: Device, say: Callable[[str], object]) -> tuple[Series, ...]:
    """The series that this machine has cores for. Raises UsageError where there is none."""
    cores = usable_cores()
    needed = {one: wanted.engine(one).cores for one in wanted.series}
    if device.kind == SIMULATED:
        return wanted.series
    kept = tuple(one for one in wanted.series if needed[one] <= cores)
    if not kept:
        fewest = min(needed, key=needed.__getitem__)
        raise UsageError(f"{fewest} needs {needed[fewest]} cores, and this machine gives {cores}: lower --threads")
    for one in wanted.series:
        if one not in kept:
            say(f"{one} is left out: it needs {needed[one]} cores, and this machine gives {cores}")
    return kept


def _fitting(
    wanted: Wanted, series: Sequence[Series], device: Device, machine: Machine, say: Callable[[str], object]
) -> tuple[Setting, ...]:
    """The settings that may fit. Raises UsageError where none does, with what one request lacks."""
    every = grid(wanted.batches, series)
    shape = SHAPES.get(wanted.spec.model)
    if shape is None:
        return every
    if wanted.request_tokens > shape.context:
        raise UsageError(
            f"{wanted.request_tokens} tokens of prompt and output exceed the context of {shape.name}, {shape.context}"
        )
    known = machine.fields.get("gpu_memory_gib" if machine.kind == "cuda" else "memory_gib")
    memory = wanted.memory_bytes or (float(known) * GIB * device.count if isinstance(known, (int, float)) else None)
    if memory is None:
        return every
    kind = wanted.pool.kind if wanted.pool else SHARING[0]

    def lacks(setting: Setting) -> float:
        many = setting.series.replicas
        batch = setting.batch if kind == "threads" else -(-setting.batch // many)
        try:
            tenant = Tenant(shape, setting.series.dtype, batch, wanted.request_tokens, many if kind in SHARING else 1)
            return lacking_bytes([tenant], memory_bytes=memory, reserve_bytes=0.0)
        except SuiteError:  # the engine may know the type, or says which it knows
            return 0.0

    fitting = tuple(one for one in every if not lacks(one))
    if not fitting:
        least = min(every, key=lacks)
        raise UsageError(
            f"{wanted.spec.model_name} does not fit: {least} lacks {lacks(least) / GIB:.1f} GiB of "
            f"{memory / GIB:.1f} GiB (a model may take {USABLE:.0%})"
        )
    if left_out := len(every) - len(fitting):
        say(f"{left_out} settings don't fit into {memory / GIB:.1f} GiB and are left out")
    return fitting


def _without_dtype(
    candidates: Sequence[Setting], setting: Setting, error: EngineUnavailable, say: Callable[[str], object]
) -> tuple[Setting, ...]:
    """The candidates of other types, where an engine can't be had in this one; raises the error where none is left."""
    left = tuple(one for one in candidates if one.series.dtype != setting.series.dtype)
    if not left:
        raise error
    say(f"{setting.series.dtype} is left out: {error}")
    return left


def _shown(one: Launched, question: Question) -> str:
    if one.failed:
        return f"could not be run: {one.failed.splitlines()[0]}"
    return ", ".join(f"{it.name} {quantity(one.values[it.name])} {it.unit}" for it in question.metrics)
