"""A load in a launch whose requests come and go one by one: sent in rounds, and its joules counted over the same."""

from contextlib import nullcontext
from dataclasses import replace

from pytest_slmperf.core.protocol import Measured, Play, Played
from pytest_slmperf.run import playing
from pytest_slmperf.run.guards import Void
from pytest_slmperf.run.launch.rounds import Case, Found, Rounds, rested_beside
from pytest_slmperf.run.metering import EnergyRound, without
from pytest_slmperf.run.pace import Slowness


def measure(rounds: Rounds, case: Case) -> Found:
    """Measure requests that come and go one by one, and count joules over the same."""
    terms, load = rounds.terms, case.load
    policy, energy = terms.policy, terms.energy
    missing = energy.metering.not_of(rounds.device) if energy else ""
    metering = energy.metering if energy and not missing else None
    joules = without(missing) if missing else EnergyRound()
    ask = playing.ask_for(load, policy, least_s=metering.longest_s if metering else 0.0)
    done: list[playing.PlayedRound] = []

    def attempt(slow: Slowness) -> tuple[Measured, Void | None]:
        nonlocal joules
        with metering.reading() if metering else nullcontext() as reading:
            answer, measured, void = send(rounds, case, ask, slow, package=bool(metering and metering.of_all_cores))
        one = playing.judged(answer.traffic, load, policy, slo=terms.slo, quantiles=terms.quantiles)
        one = replace(one, beside=answer.beside)
        void = void or one.void or rested_beside(one.span)
        if void is None and reading and metering and energy:
            seen, ours = reading.of(one.span), rounds.process.pid
            joules, on_board = metering.judge(seen, load, terms.idle, ours=ours, work=one.work, ran_s=one.ran_s)
            if on_board and energy.gated and on_board.guard != "window":
                void = on_board
        if void is None:
            done.append(one)
        return measured, void

    for number in range(1, policy.rounds + 1):
        terms.progress(load.case, number, policy.rounds)
        rounds.process.doing = f"sending {load.case}, round {number} of {policy.rounds}"
        if rounds.valid(case, attempt) is None:
            return Found(void=f"round {number} of {policy.rounds} stayed void")
    case.notes.extend(dict.fromkeys(note for one in done for note in one.notes))
    case.notes.extend(joules.notes)
    values, unmeasured = playing.of_rounds(one.metrics for one in done)
    return Found(
        values,
        unmeasured,
        beside=[(one.beside, (one.span.started_ns, one.span.ended_ns)) for one in done],
        intervals=playing.intervals_of((one.metrics for one in done), values),
        energy=joules,
    )


def send(
    rounds: Rounds, case: Case, ask: Play, slow_before: Slowness, *, package: bool = False
) -> tuple[Played, Measured, Void | None]:
    """What the engine's process tells of a round of traffic, the round as a stretch of time, and why this machine makes
    it void.
    """
    answers: list[Played] = []

    def serve() -> Measured:
        answers.append(rounds.process.ask(ask, Played, playing.answer_limit_s(ask, rounds.terms.policy)))
        return replace(playing.measured(answers[-1].traffic), beside=answers[-1].beside)

    measured, void = rounds.guards.served(case.seen, serve, slow_before, package=package)
    return answers[-1], measured, void
