"""One launch: an engine in a process of its own, every load warmed up and measured, and the process gone again."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from statistics import median

from pytest_slmperf.core import front_end
from pytest_slmperf.core.beside import NeighbourWork, rested
from pytest_slmperf.core.board import BoardState
from pytest_slmperf.core.engine import EngineFacts, EngineSpec, ReplicaWork, Served
from pytest_slmperf.core.latency import latencies, statistics
from pytest_slmperf.core.launch import CaseRecord, LaunchRecord, Load, RoundPolicy, tokens
from pytest_slmperf.core.metrics import CORE_PACE, LATENCIES, STARTUP_PHASES, at_quantile
from pytest_slmperf.core.mix_metrics import mix_metrics
from pytest_slmperf.core.protocol import (
    Answers,
    Measured,
    MeasurePeak,
    PeakMeasured,
    Play,
    Played,
    Prepare,
    Prepared,
    Question,
    Ready,
    Round,
    Start,
)
from pytest_slmperf.core.replica_metrics import of_batches
from pytest_slmperf.core.sample import VoidRound
from pytest_slmperf.core.search import Probe
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.run import playing, searching
from pytest_slmperf.run.answering import Standard, Standards
from pytest_slmperf.run.guarding import Disturbances, Guarding
from pytest_slmperf.run.guards import Void, judge_length
from pytest_slmperf.run.metering import EnergyRound, Metering, Stretch, rounds_of, without
from pytest_slmperf.run.pace import Pace, Slowness
from pytest_slmperf.run.pinning import check_cores, keep_off
from pytest_slmperf.run.process import EngineProcess

FIRST_PAUSE_S = 0.1
"""Before a void round is repeated; twice as long before each further repetition."""
LONGEST_PAUSE_S = 2.0

TellRound = Callable[[str, int, int], None]
"""Is told (case, round, rounds) before each plain round."""
TellRetry = Callable[[str, int, int], None]
"""Is told (reason, try, tries) before a void round is repeated: why it was, and which of how many tries comes now."""
Attempt = Callable[[Slowness], tuple[Measured, Void | None]]
"""A round beside cores that are so slow right before it, and why it is void, if it is."""


@dataclass(frozen=True)
class EnergyTerms:
    """How a launch counts joules."""

    metering: Metering
    gated: bool
    """Whether a round that no repetition saves makes its case void; otherwise it has no joules."""
    timed: bool = False
    """Whether the throughput of static batches is read from that round, too, and there are no others."""


def run_launch(  # noqa: PLR0913 - each of them is needed, and all but three by name
    spec: EngineSpec,
    loads: Sequence[Load],
    policy: RoundPolicy,
    *,
    arm: str,
    index: int,
    cores: tuple[int, ...] | None,
    quantiles: Sequence[float],
    slo: Slo | None = None,
    progress: TellRound | None = None,
    retrying: TellRetry | None = None,
    energy: EnergyTerms | None = None,
    pace: Pace | None = None,
    prime: Callable[[EngineFacts], Sequence[Load]] = lambda _: (),
    standards: Standards | None = None,
) -> LaunchRecord:
    """Start the engine, measure the loads in the order given, end it, and say what it did.

    The engine is pinned to `cores`, and this process keeps off them; with None neither is pinned. Requests that come
    and go one by one are good within `slo`. `progress` is told of each plain round before it begins, and `retrying` of
    each try after the first. With `energy` each case gets a round of its own around which a meter counts joules. `pace`
    is what the cores' pace is held to, by default of this launch alone. What `prime` answers to the engine's facts is
    served once, before anything is measured. With `standards`, a pool whose replicas don't answer like a single
    instance isn't measured. Whatever happens, the engine and all that it has started are dead at the end.

    Raises EngineUnavailable, EngineFailed, EngineDied or EngineHung, and UsageError for fewer cores than threads.
    """
    check_cores(spec, cores)
    began = time.monotonic()
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    idle = energy.metering.idle() if energy and loads else {}
    limit_s = policy.answer_limit_s
    standard = standards.of(spec, loads, cores=cores, limit_s=limit_s) if standards else None
    with keep_off(cores), EngineProcess(spec, launch=f"{arm}/{index}", cores=cores) as process:
        process.hello(policy.answer_limit_s)
        process.doing = "loading the model"
        ready = process.ask(Start(spec), Ready, policy.answer_limit_s)
        started_s = (time.monotonic_ns() - process.started_ns) / NS_PER_S
        startup_s = ready.facts.startup_s or started_s
        terms = _Terms(
            policy,
            index,
            cores,
            quantiles,
            slo,
            progress or _silent,
            retrying or _silent,
            startup_s,
            pace or Pace(),
            energy,
            idle,
            standard,
        )
        launch = _Launch(process, ready.facts, terms)
        if standard:
            process.doing = "answering fixed prompts, each replica by itself"
            standard.check_alone(launch.ask)
        for load in sorted(prime(ready.facts), key=tokens):
            launch.peak(load)
        # The smallest first: what it leaves in the engine's allocators the next needs anyhow, so that no case's peak
        # depends on which others are measured beside it, or in which order.
        peaks = {load.case: launch.peak(load) for load in sorted(loads, key=tokens)}
        records = [launch.measure(load, peaks[load.case]) for load in loads]
        process.doing = "stopping"
    return LaunchRecord(
        arm=arm,
        index=index,
        spec=spec,
        facts=ready.facts,
        versions=ready.versions,
        started_at=started_at,
        seconds=time.monotonic() - began,
        cases={record.case: record for record in records},
    )


def _silent(_what: str, _number: int, _of: int) -> None:
    """Nobody asked for progress."""


@dataclass(frozen=True)
class _Terms:
    """What holds for all cases of a launch."""

    policy: RoundPolicy
    index: int
    cores: tuple[int, ...] | None
    quantiles: Sequence[float]
    slo: Slo | None
    progress: TellRound
    retrying: TellRetry
    startup_s: float
    pace: Pace
    energy: EnergyTerms | None = None
    idle: Mapping[str, BoardState] = field(default_factory=dict)
    """The boards before the engine was started."""
    standard: Standard | None = None
    """What a pool's replicas are held to."""


@dataclass
class _Case:
    """What is known of a case while it is measured."""

    load: Load
    seen: Disturbances
    batches: int = 1
    warm_batch_s: float = 0.0
    rounds: list[Measured] = field(default_factory=list)
    replicas: list[Sequence[ReplicaWork]] = field(default_factory=list)
    """Of a pool, what each replica did in each of them, or in the round with joules that they are parts of."""
    observed: list[Served] = field(default_factory=list)
    played: list[playing.PlayedRound] = field(default_factory=list)
    """Instead of both, where requests come and go one by one."""
    probes: list[Probe] = field(default_factory=list)
    """Instead of all of them, where the place is searched for."""
    voids: list[VoidRound] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    energy: EnergyRound = field(default_factory=EnergyRound)
    stretch: Stretch = field(default_factory=Stretch)
    """That has run up to now, and is a lead-in to joules."""

    @property
    def batch_s(self) -> float:
        """A batch's length, in the mean of the timed rounds, or else in the warm-up."""
        if not self.rounds:
            return self.warm_batch_s
        seconds = sum(one.ended_ns - one.started_ns for one in self.rounds) / NS_PER_S
        return seconds * len(self.load.lengths) / sum(one.requests for one in self.rounds)


def _rested(measured: Measured) -> Void | None:
    why = rested(measured.beside, measured.started_ns, measured.ended_ns)
    return Void("rested", why) if why else None


def _beside(case: _Case) -> list[tuple[Sequence[NeighbourWork], tuple[int, int]]]:
    """Of each round: what the models beside did, and when it was."""
    if case.played:
        return [(one.beside, (one.span.started_ns, one.span.ended_ns)) for one in case.played]
    return [(one.beside, (one.started_ns, one.ended_ns)) for one in case.rounds]


class _Launch:
    """A started engine and how it is to be measured. Lives as long as the engine's process."""

    def __init__(self, process: EngineProcess, facts: EngineFacts, terms: _Terms) -> None:
        self._process = process
        self._terms = terms
        self._device = facts.device
        self._phases_s = facts.phases_s
        self._guards = Guarding(process, facts.device, terms.cores, terms.pace)

    def ask(self, question: Question) -> Answers:
        return self._process.ask(question, Answers, self._terms.policy.answer_limit_s)

    def peak(self, load: Load) -> PeakMeasured:
        self._process.doing = f"serving {load.case} once, for its peak of memory"
        return self._process.ask(MeasurePeak(load), PeakMeasured, self._terms.policy.answer_limit_s)

    def measure(self, load: Load, peak: PeakMeasured) -> CaseRecord:
        policy = self._terms.policy
        standard = self._terms.standard
        if standard:
            self._process.doing = f"answering {load.case}, before it is timed"
            standard.check(load, self.ask)
        case = _Case(load, self._guards.begin())
        if standard and standard.missing:
            case.notes.append(standard.note)
        way = self._serve if load.arrivals is None else self._search if load.search else self._play
        void = way(case)
        case.notes.extend(self._guards.notes(case.seen))
        if void:
            last = case.voids[-1]
            tried = "" if last.guard == "unanswered" else f" (tried {policy.void_retries + 1} times)"
            void = f"{void}{tried}: {last.reason}"
            return CaseRecord(load.case, {}, void_rounds=tuple(case.voids), void=void, notes=tuple(case.notes))
        return self._record(case, peak)

    def _serve(self, case: _Case) -> str:
        """Measure a static batch. Returns which round stayed void, or an empty text."""
        policy, load = self._terms.policy, case.load
        self._guards.settled()
        self._process.doing = f"warming up {load.case}"
        prepare = Prepare(load, policy.round_s, policy.warmup_limit)
        warm = self._process.ask(prepare, Prepared, policy.answer_limit_s + policy.round_s)
        case.batches, case.warm_batch_s = warm.batches, warm.batch_s
        case.stretch.add(warm.started_ns, warm.ended_ns)
        if not warm.steady:
            case.notes.append(f"the pace was not steady after {warm.steps} warm-up steps")
        energy = self._terms.energy
        timed = 0 if energy and energy.timed else policy.rounds
        for number in range(1, timed + 1):
            self._terms.progress(load.case, number, policy.rounds)
            self._process.doing = f"serving {load.case}, round {number} of {policy.rounds}"
            measured = self._valid_round(case, lambda slow: self._round(case, Round(case.batches, observe=False), slow))
            if measured is None:
                return f"round {number} of {policy.rounds} stayed void"
            case.rounds.append(measured)
            case.replicas.append(measured.replicas)
        void = "" if self._observe(case) else "the observed rounds stayed void"
        if not void and energy and not self._measure_energy(case, energy):
            void = "the energy round stayed void"
        if said := front_end.at_limit(one.front_end for one in case.rounds):
            case.notes.append(said)
        return void

    def _play(self, case: _Case) -> str:
        """Measure requests that come and go one by one, and count joules over the same. Returns which round stayed
        void, or an empty text.
        """
        policy, terms, load = self._terms.policy, self._terms, case.load
        energy = terms.energy
        missing = energy.metering.not_of(self._device) if energy else ""
        metering = energy.metering if energy and not missing else None
        if missing:
            case.energy = without(missing)
        ask = playing.ask_for(load, policy, least_s=metering.longest_s if metering else 0.0)

        def attempt(slow: Slowness) -> tuple[Measured, Void | None]:
            answers: list[Played] = []

            def serve() -> Measured:
                answers.append(self._process.ask(ask, Played, playing.answer_limit_s(ask, policy)))
                return playing.measured(answers[-1].traffic)

            with metering.reading() if metering else nullcontext() as reading:
                measured, void = self._guards.served(
                    case.seen, serve, slow, package=bool(metering and metering.of_all_cores)
                )
            one = playing.judged(answers[-1].traffic, load, policy, slo=terms.slo, quantiles=terms.quantiles)
            one = replace(one, beside=answers[-1].beside)
            void = void or one.void or _rested(one.span)
            if void is None and reading and metering and energy:
                seen, ours = reading.of(one.span), self._process.pid
                case.energy, on_board = metering.judge(
                    seen, load, terms.idle, ours=ours, work=one.work, ran_s=one.ran_s
                )
                if on_board and energy.gated and on_board.guard != "window":
                    void = on_board
            if void is None:
                case.played.append(one)
            return measured, void

        for number in range(1, policy.rounds + 1):
            terms.progress(load.case, number, policy.rounds)
            self._process.doing = f"sending {load.case}, round {number} of {policy.rounds}"
            if self._valid_round(case, attempt) is None:
                return f"round {number} of {policy.rounds} stayed void"
        case.notes.extend(dict.fromkeys(note for one in case.played for note in one.notes))
        case.notes.extend(case.energy.notes)
        return ""

    def _search(self, case: _Case) -> str:
        """Look for the highest place within the limits. Returns which probe stayed void, or an empty text."""
        policy, terms, load = self._terms.policy, self._terms, case.load
        assert load.search is not None  # noqa: S101 - its place is searched for
        assert terms.slo is not None  # noqa: S101 - a sweep that searches has limits
        most, tried = load.search.most, 0

        def send(place: float, ask: Play) -> Probe | None:
            nonlocal tried
            tried += 1
            told: list[searching.Probed] = []

            def attempt(slow: Slowness) -> tuple[Measured, Void | None]:
                answers: list[Played] = []

                def serve() -> Measured:
                    answers.append(self._process.ask(ask, Played, playing.answer_limit_s(ask, policy)))
                    return replace(playing.measured(answers[-1].traffic), beside=answers[-1].beside)

                measured, void = self._guards.served(case.seen, serve, slow, package=False)
                told.append(searching.judged(answers[-1].traffic, place, ask, policy))
                return measured, void or told[-1].void or _rested(measured)

            terms.progress(load.case, tried, most)
            self._process.doing = f"sending {load.case}, at {place:.4g}"
            if self._valid_round(case, attempt) is None:
                return None
            case.notes.extend(note for note in told[-1].notes if note not in case.notes)
            return told[-1].probe

        if terms.energy:
            case.energy = without(f"{searching.OF_MANY}, and counts no joules")
        found = searching.search(load, policy, terms.slo, send)
        case.probes = found or []
        return "" if found else f"probe {tried} stayed void"

    def _observe(self, case: _Case) -> bool:
        """Observe whole batches until there are enough requests. Returns whether no round stayed void."""
        policy = self._terms.policy
        enough = max(
            math.ceil(policy.observed_requests / len(case.load.lengths)),
            round(case.batches * policy.observed_s / policy.round_s),
        )
        while (missing := enough - len(case.observed)) > 0:
            self._process.doing = f"serving {case.load.case}, observed"
            ask = Round(min(case.batches, missing), observe=True)
            measured = self._valid_round(case, partial(self._round, case, ask))
            if measured is None:
                return False
            case.observed.extend(measured.observed)
        return True

    def _measure_energy(self, case: _Case, energy: EnergyTerms) -> bool:
        """Count joules over one more round. Returns False where it stayed void and the case is void with it."""
        metering = energy.metering
        missing = metering.not_of(self._device)
        if missing and not energy.timed:
            case.energy = without(missing)
            return True

        def served(slow: Slowness) -> tuple[Measured, Void | None]:
            batches = metering.batches(case.batch_s, case.stretch.ran_s(time.monotonic_ns()))
            ask = Round(batches, observe=False, marks=True)
            measured, void = self._round(case, ask, slow, package=metering.of_all_cores and not missing)
            if energy.timed and not void:
                lead_in_s = metering.left_of_lead_in_s(case.stretch.ran_s(measured.started_ns))
                case.rounds = rounds_of(measured, lead_in_s, self._terms.policy.rounds)
                case.replicas = [measured.replicas]
            return measured, void

        def attempt(slow: Slowness) -> tuple[Measured, Void | None]:
            # Anew for each: what the meter learns of its counter in one decides how long the next must be.
            if missing:
                case.energy = without(missing)
                return served(slow)
            with metering.reading() as reading:
                measured, void = served(slow)
            seen, idle, ran_s = reading.of(measured), self._terms.idle, case.stretch.ran_s(measured.started_ns)
            case.energy, on_board = metering.judge(seen, case.load, idle, ours=self._process.pid, ran_s=ran_s)
            return measured, void or on_board

        self._terms.progress(case.load.case, 1, 1)
        self._process.doing = f"serving {case.load.case}, and its joules are counted"
        if self._valid_round(case, attempt) is None:
            last, tried = case.voids[-1], self._terms.policy.void_retries + 1
            case.energy = without(f"the energy round stayed void (tried {tried} times): {last.reason}")
            return not energy.gated or last.guard == "window"
        case.notes.extend(case.energy.notes)
        return True

    def _valid_round(self, case: _Case, attempt: Attempt) -> Measured | None:
        """A round that no guard voids, or None if there was none in `void_retries` repetitions.

        Each waits for the cores before a meter runs: what a board does while nobody works is none of the round's.
        """
        pause_s = FIRST_PAUSE_S
        matters = self._guards.matters or self._terms.energy
        void: Void | None = None
        guards = set()
        tries = self._terms.policy.void_retries + 1
        for number in range(1, tries + 1):
            if void:
                self._terms.retrying(void.reason, number, tries)
            if void and void.guard != "short" and matters:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                self._guards.look_again()
            measured, void = attempt(self._guards.settled())
            if void is None:
                case.stretch.add(measured.started_ns, measured.ended_ns)
                return measured
            case.stretch = Stretch()
            guards.add(void.guard)
            case.voids.append(VoidRound(self._terms.index, void.guard, void.reason))
            if void.guard == "unanswered":  # another try would take as long, and find the same
                return None
            if void.guard == "short":
                lasted_s = (measured.ended_ns - measured.started_ns) / NS_PER_S
                case.batches = max(case.batches + 1, round(case.batches * self._terms.policy.round_s / lasted_s))
        if guards == {"slowed"}:  # for seconds on end: that is no spell, and the next case is held to what is usual now
            self._terms.pace.forget()
        return None

    def _round(
        self, case: _Case, ask: Round, slow_before: Slowness, *, package: bool = False
    ) -> tuple[Measured, Void | None]:
        """A round of batches, and why it is void. What it is to last is waited for, and then as for any answer."""
        policy, plain = self._terms.policy, not (ask.observe or ask.marks)
        limit_s = policy.answer_limit_s + policy.round_s
        measured, void = self._guards.served(
            case.seen, lambda: self._process.ask(ask, Measured, limit_s), slow_before, package=package
        )
        return measured, void or _rested(measured) or (self._length(measured) if plain else None)

    def _length(self, measured: Measured) -> Void | None:
        return judge_length(measured.ended_ns - measured.started_ns, self._terms.policy.round_s)

    def _record(self, case: _Case, peak: PeakMeasured) -> CaseRecord:
        played = case.load.arrivals is not None
        values, unmeasured = playing.of_rounds(one.metrics for one in case.played) if played else self._of_batches(case)
        if case.probes:
            values, unmeasured, notes = searching.values_of(case.load, case.probes)
            case.notes.extend(notes)
        if not played:
            of_replicas, behind = of_batches(case.replicas)
            values.update(of_replicas)
            case.notes.extend(behind)
        beside = _beside(case)
        of_mix = mix_metrics([some for some, _ in beside], [span for _, span in beside], self._terms.quantiles)
        values.update(of_mix.values)
        unmeasured.update(of_mix.unmeasured)
        case.notes.extend(of_mix.notes)
        values["startup_s"] = (self._terms.startup_s,)
        phases_s = self._phases_s
        values.update({name: (phases_s[phase],) for phase, name in STARTUP_PHASES.items() if phase in phases_s})
        if case.seen.pace_ns:
            values[CORE_PACE] = (median(case.seen.pace_ns),)
        if case.probes:
            unmeasured["peak_memory_bytes"] = f"{searching.OF_MANY}, and a peak of memory would be of none"
        elif peak.memory_bytes is None:
            unmeasured["peak_memory_bytes"] = peak.reason
        else:
            values["peak_memory_bytes"] = (float(peak.memory_bytes),)
        values.update({name: (value,) for name, value in case.energy.values.items()})
        unmeasured.update(case.energy.unmeasured)
        return CaseRecord(
            case.load.case,
            values,
            unmeasured,
            tuple(case.voids),
            notes=tuple(case.notes),
            boards=case.energy.boards,
            meter_error=case.energy.error,
            intervals=playing.intervals_of((one.metrics for one in case.played), values),
        )

    def _of_batches(self, case: _Case) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
        """Throughput of each timed round, and latencies of the observed ones."""
        seconds = [(measured.ended_ns - measured.started_ns) / NS_PER_S for measured in case.rounds]
        both = list(zip(case.rounds, seconds, strict=True))
        values = {
            "output_throughput": tuple(measured.output_tokens / s for measured, s in both),
            "total_token_throughput": tuple(
                (measured.prompt_tokens + measured.output_tokens) / s for measured, s in both
            ),
            "request_throughput": tuple(measured.requests / s for measured, s in both),
        }
        if not case.observed:
            wanted = dict.fromkeys((0.5, *self._terms.quantiles))
            names = [at_quantile(latency, quantile).name for latency in LATENCIES.values() for quantile in wanted]
            return values, dict.fromkeys(names, "no request was observed: observed_requests is 0")
        seen, unseen = statistics(latencies(case.observed), self._terms.quantiles)
        return values | {name: (value,) for name, value in seen.items()}, dict(unseen)
