"""One launch: an engine in a process of its own, every load warmed up and measured, and the process gone again."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from pytest_slmperf.core.engine import EngineFacts, EngineSpec
from pytest_slmperf.core.launch import CaseRecord, LaunchRecord, Load, RoundPolicy, tokens
from pytest_slmperf.core.metrics import STARTUP_PHASES
from pytest_slmperf.core.protocol import Answers, MeasurePeak, PeakMeasured, Question, Ready, Start
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.run.answering import Standards
from pytest_slmperf.run.launch import batches, search, traffic
from pytest_slmperf.run.launch.record import recorded, voided
from pytest_slmperf.run.launch.rounds import Rounds
from pytest_slmperf.run.launch.terms import EnergyTerms, TellRetry, TellRound, Terms, silent
from pytest_slmperf.run.pace import Pace
from pytest_slmperf.run.pinning import check_cores, keep_off
from pytest_slmperf.run.process import EngineProcess


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
        process.hello(limit_s)
        process.doing = "loading the model"
        ready = process.ask(Start(spec), Ready, limit_s)
        startup = _startup(process, ready.facts)
        tell, again = progress or silent, retrying or silent
        terms = Terms(policy, index, quantiles, slo, tell, again, pace or Pace(), energy, idle)
        rounds = Rounds(process, ready.facts.device, cores, terms)

        def ask(question: Question) -> Answers:
            return process.ask(question, Answers, limit_s)

        def peak_of(load: Load) -> PeakMeasured:
            process.doing = f"serving {load.case} once, for its peak of memory"
            return process.ask(MeasurePeak(load), PeakMeasured, limit_s)

        if standard:
            process.doing = "answering fixed prompts, each replica by itself"
            standard.check_alone(ask)
        for load in sorted(prime(ready.facts), key=tokens):
            peak_of(load)
        # The smallest first: what it leaves in the engine's allocators the next needs anyhow, so that no case's peak
        # depends on which others are measured beside it, or in which order.
        peaks = {load.case: peak_of(load) for load in sorted(loads, key=tokens)}
        cases = {}
        for load in loads:
            if standard:
                process.doing = f"answering {load.case}, before it is timed"
                standard.check(load, ask)
            note = standard.note if standard and standard.missing else ""
            cases[load.case] = _measured(rounds, load, note, startup, peaks[load.case])
        process.doing = "stopping"
    return LaunchRecord(
        arm=arm,
        index=index,
        spec=spec,
        facts=ready.facts,
        versions=ready.versions,
        started_at=started_at,
        seconds=time.monotonic() - began,
        cases=cases,
    )


def _startup(process: EngineProcess, facts: EngineFacts) -> dict[str, float]:
    """Metrics of the start that has just ended: what it took as the engine tells it, or else as seen from here."""
    started_s = (time.monotonic_ns() - process.started_ns) / NS_PER_S
    phases_s = facts.phases_s
    told = {name: phases_s[phase] for phase, name in STARTUP_PHASES.items() if phase in phases_s}
    return {"startup_s": facts.startup_s or started_s, **told}


def _measured(rounds: Rounds, load: Load, note: str, startup: Mapping[str, float], peak: PeakMeasured) -> CaseRecord:
    """Measure one case in its way."""
    case = rounds.begin(load)
    if note:
        case.notes.append(note)
    way = batches if load.arrivals is None else search if load.search else traffic
    found = way.measure(rounds, case)
    case.notes.extend(rounds.guards.notes(case.seen))
    if found.void:
        return voided(case, found.void, tries=rounds.terms.policy.void_retries + 1)
    return recorded(case, found, startup=startup, peak=peak, quantiles=rounds.terms.quantiles)
