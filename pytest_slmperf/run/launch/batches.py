"""A static batch in a launch: warmed up, timed in rounds of whole batches, observed, and its joules counted."""

import math
import time
from functools import partial
from typing import TYPE_CHECKING

from pytest_slmperf.core.guards import front_end
from pytest_slmperf.core.load.latency import latencies, statistics
from pytest_slmperf.core.load.replica_metrics import of_batches
from pytest_slmperf.core.metrics import LATENCIES, at_quantile
from pytest_slmperf.core.protocol import Measured, Prepare, Prepared, Round
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.run.guards import Void, judge_length
from pytest_slmperf.run.launch.rounds import Case, Found, Rounds, rested_beside
from pytest_slmperf.run.launch.terms import EnergyTerms
from pytest_slmperf.run.metering import EnergyRound, rounds_of, without
from pytest_slmperf.run.pace import Slowness

if TYPE_CHECKING:
    from pytest_slmperf.core.engine import ReplicaWork, Served


def measure(rounds: Rounds, case: Case) -> Found:
    """Measure a static batch."""
    batches = _Batches(rounds, case)
    void = batches.serve()
    return Found(void=void) if void else batches.found()


class _Batches:
    """A static batch while it is measured. Lives as long as its case."""

    def __init__(self, rounds: Rounds, case: Case) -> None:
        self._rounds = rounds
        self._process = rounds.process
        self._terms = rounds.terms
        self._case = case
        self._batches = 1
        """That fill a round."""
        self._warm_batch_s = 0.0
        self._timed: list[Measured] = []
        self._replicas: list[tuple[ReplicaWork, ...]] = []
        """Of a pool, what each replica did in each of them, or in the round with joules that they are parts of."""
        self._observed: list[Served] = []
        self._energy = EnergyRound()

    def serve(self) -> str:
        """Serve all rounds. Returns which of them stayed void, or an empty text."""
        policy, case = self._terms.policy, self._case
        self._warm_up()
        energy = self._terms.energy
        timed = 0 if energy and energy.timed else policy.rounds
        for number in range(1, timed + 1):
            self._terms.progress(case.load.case, number, policy.rounds)
            self._process.doing = f"serving {case.load.case}, round {number} of {policy.rounds}"
            measured = self._rounds.valid(case, lambda slow: self._round(Round(self._batches, observe=False), slow))
            if measured is None:
                return f"round {number} of {policy.rounds} stayed void"
            self._timed.append(measured)
            self._replicas.append(measured.replicas)
        void = "" if self._observe() else "the observed rounds stayed void"
        if not void and energy and not self._measure_energy(energy):
            void = "the energy round stayed void"
        if said := front_end.at_limit(one.front_end for one in self._timed):
            case.notes.append(said)
        return void

    def found(self) -> Found:
        """Throughput of each timed round, latencies of the observed ones, and what replicas and models beside did."""
        seconds = [(measured.ended_ns - measured.started_ns) / NS_PER_S for measured in self._timed]
        both = list(zip(self._timed, seconds, strict=True))
        values = {
            "output_throughput": tuple(measured.output_tokens / s for measured, s in both),
            "total_token_throughput": tuple(
                (measured.prompt_tokens + measured.output_tokens) / s for measured, s in both
            ),
            "request_throughput": tuple(measured.requests / s for measured, s in both),
        }
        quantiles = self._terms.quantiles
        if self._observed:
            seen, unmeasured = statistics(latencies(self._observed), quantiles)
            values |= {name: (value,) for name, value in seen.items()}
        else:
            wanted = dict.fromkeys((0.5, *quantiles))
            names = [at_quantile(latency, quantile).name for latency in LATENCIES.values() for quantile in wanted]
            unmeasured = dict.fromkeys(names, "no request was observed: observed_requests is 0")
        of_replicas, behind = of_batches(self._replicas)
        return Found(
            values | of_replicas,
            unmeasured,
            tuple(behind),
            [(one.beside, (one.started_ns, one.ended_ns)) for one in self._timed],
            energy=self._energy,
        )

    def _warm_up(self) -> None:
        policy, case = self._terms.policy, self._case
        self._rounds.guards.settled()
        self._process.doing = f"warming up {case.load.case}"
        prepare = Prepare(case.load, policy.round_s, policy.warmup_limit)
        warm = self._process.ask(prepare, Prepared, policy.answer_limit_s + policy.round_s)
        self._batches, self._warm_batch_s = warm.batches, warm.batch_s
        case.stretch.add(warm.started_ns, warm.ended_ns)
        if not warm.steady:
            case.notes.append(f"the pace was not steady after {warm.steps} warm-up steps")

    def _observe(self) -> bool:
        """Observe whole batches until there are enough requests. Returns whether no round stayed void."""
        policy, load = self._terms.policy, self._case.load
        enough = max(
            math.ceil(policy.observed_requests / len(load.lengths)),
            round(self._batches * policy.observed_s / policy.round_s),
        )
        while (missing := enough - len(self._observed)) > 0:
            self._process.doing = f"serving {load.case}, observed"
            ask = Round(min(self._batches, missing), observe=True)
            measured = self._rounds.valid(self._case, partial(self._round, ask))
            if measured is None:
                return False
            self._observed.extend(measured.observed)
        return True

    def _measure_energy(self, energy: EnergyTerms) -> bool:
        """Count joules over one more round. Returns False where it stayed void and the case is void with it."""
        case, metering = self._case, energy.metering
        missing = metering.not_of(self._rounds.device)
        if missing and not energy.timed:
            self._energy = without(missing)
            return True

        def served(slow: Slowness) -> tuple[Measured, Void | None]:
            batches = metering.batches(self._batch_s, case.stretch.ran_s(time.monotonic_ns()))
            ask = Round(batches, observe=False, marks=True)
            measured, void = self._round(ask, slow, package=metering.of_all_cores and not missing)
            if energy.timed and not void:
                lead_in_s = metering.left_of_lead_in_s(case.stretch.ran_s(measured.started_ns))
                self._timed = rounds_of(measured, lead_in_s, self._terms.policy.rounds)
                self._replicas = [measured.replicas]
            return measured, void

        def attempt(slow: Slowness) -> tuple[Measured, Void | None]:
            # Anew for each: what the meter learns of its counter in one decides how long the next must be.
            if missing:
                self._energy = without(missing)
                return served(slow)
            with metering.reading() as reading:
                measured, void = served(slow)
            seen, idle, ran_s = reading.of(measured), self._terms.idle, case.stretch.ran_s(measured.started_ns)
            self._energy, on_board = metering.judge(seen, case.load, idle, ours=self._process.pid, ran_s=ran_s)
            return measured, void or on_board

        self._terms.progress(case.load.case, 1, 1)
        self._process.doing = f"serving {case.load.case}, and its joules are counted"
        if self._rounds.valid(case, attempt) is None:
            last, tried = case.voids[-1], self._terms.policy.void_retries + 1
            self._energy = without(f"the energy round stayed void (tried {tried} times): {last.reason}")
            return not energy.gated or last.guard == "window"
        case.notes.extend(self._energy.notes)
        return True

    @property
    def _batch_s(self) -> float:
        """A batch's length, in the mean of the timed rounds, or else in the warm-up."""
        if not self._timed:
            return self._warm_batch_s
        seconds = sum(one.ended_ns - one.started_ns for one in self._timed) / NS_PER_S
        return seconds * len(self._case.load.lengths) / sum(one.requests for one in self._timed)

    def _round(self, ask: Round, slow_before: Slowness, *, package: bool = False) -> tuple[Measured, Void | None]:
        """A round of batches, and why it is void. What it is to last is waited for, and then as for any answer."""
        policy = self._terms.policy
        limit_s = policy.answer_limit_s + policy.round_s
        measured, void = self._rounds.guards.served(
            self._case.seen, lambda: self._process.ask(ask, Measured, limit_s), slow_before, package=package
        )
        void = void or rested_beside(measured)
        plain = not (ask.observe or ask.marks)
        return measured, void or (self._long_enough(measured) if plain else None)

    def _long_enough(self, measured: Measured) -> Void | None:
        """Why a plain round is void that was too short: the next has more batches."""
        lasted_ns, round_s = measured.ended_ns - measured.started_ns, self._terms.policy.round_s
        short = judge_length(lasted_ns, round_s)
        if short:
            self._batches = max(self._batches + 1, round(self._batches * round_s / (lasted_ns / NS_PER_S)))
        return short
