"""Minutes and launches that a gate of joules takes on a GPU: python benchmarks/gate_minutes.py [RUNS] [--start 30].

Simulated: the real campaign with a clock and launches that are made up. One model at four batch sizes, output
throughput and joules per token at a tolerance of 3 %, the settings' defaults. A launch takes the start of its engine,
then for each case what `run/plan.py` says that its parts take, of batches that all last `--batch` seconds; the
throw-away launch takes a start and a batch for each case. Throughput and power scatter as in benchmarks/joules_gate.py,
for each case by itself (which is the worse case: the last one to be decided ends the run). A loss is one of throughput,
at the same power.
"""

import argparse
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

from pytest_slmperf.core import gate
from pytest_slmperf.core.engine import EngineFacts, EngineSpec
from pytest_slmperf.core.launch import CaseRecord, LaunchRecord, Load, RoundPolicy
from pytest_slmperf.core.outcome import SweepOutcome
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.core.sweeps.sweep import Case, Sweep
from pytest_slmperf.core.sweeps.workload import StaticBatch
from pytest_slmperf.run.brief import Brief, Configuration, Prime, Reference, Surroundings
from pytest_slmperf.run.briefing import round_policy
from pytest_slmperf.run.campaign import Campaign
from pytest_slmperf.run.loads import load_of
from pytest_slmperf.run.plan import parts_s
from pytest_slmperf.run.settings import Settings

TOLERANCE, LOSS = 0.03, 0.06
METER = 0.0007
"""Standard deviation of joules per token that is the meter's: a window of 3 s with calls of 3 ms."""
THROUGHPUT, JOULES = "output_throughput", "joules_per_output_token"
SWEEP = Sweep("decode", StaticBatch(128, 128), batch_size=[1, 4, 16, 64], gate={THROUGHPUT: 0.03, JOULES: 0.03})
SETTINGS = Settings()
POLICY = round_policy(SWEEP, SETTINGS)
FACTS = EngineFacts("1", "cuda", "float16", "random", context_tokens=2048, vocabulary=50_000)
CASES: Mapping[str, Case] = {case.name: case for case in SWEEP.cases(["opt-125m"])}


@dataclass(frozen=True)
class World:
    """What is made up."""

    start_s: float
    batch_s: float
    spread: float
    """Standard deviation of power, and of throughput, between launches."""


def values(loss: float, day: float, spread: float, draw: random.Random) -> dict[str, float]:
    """Throughput and joules per token of one case in one launch."""
    throughput = math.log1p(-loss) + day + draw.gauss(0, spread)
    joules = draw.gauss(0, spread) - throughput + draw.gauss(0, METER)
    return {THROUGHPUT: math.exp(throughput), JOULES: math.exp(joules)}


@dataclass
class Gpu:
    """A clock that launches move on. Lives as long as one run."""

    loss: float
    draw: random.Random
    world: World
    day: Mapping[str, float]
    """Of each case, on the log scale: what a stored baseline can't see."""
    now_s: float = 0.0
    spent_s: Counter[str] = field(default_factory=Counter)

    def clock(self) -> float:
        """Seconds since the run began."""
        return self.now_s

    def spend(self, parts: Mapping[str, float]) -> None:
        """Let the time go by."""
        self.spent_s.update(parts)
        self.now_s += sum(parts.values())

    def launch(
        self, spec: EngineSpec, loads: Sequence[Load], *, arm: str, index: int, policy: RoundPolicy, prime: Prime
    ) -> LaunchRecord:
        """A launch of the campaign's."""
        began_s = self.now_s
        self.spend({"start": self.world.start_s, "prime": self.world.batch_s * len(prime(FACTS))})
        cases = {}
        for load in loads:
            self.spend(parts_s(self.world.batch_s, CASES[load.case], policy, SETTINGS, joules=True, gated=True))
            lost = self.loss if arm == "candidate" else 0.0
            one = values(lost, self.day[load.case], self.world.spread, self.draw)
            cases[load.case] = CaseRecord(
                load.case, {THROUGHPUT: (one[THROUGHPUT],) * policy.rounds, JOULES: (one[JOULES],)}
            )
        return LaunchRecord(arm, index, spec, FACTS, {}, "2026-01-01T00:00:00+00:00", self.now_s - began_s, cases)

    def planned(self, left: Mapping[tuple[str, str], int], spent: int) -> None:
        """Nobody watches."""

    def launching(self, spec: EngineSpec, cases: Sequence[str], arm: str) -> None:
        """Nobody watches."""


def stored(spread: float, draw: random.Random) -> Mapping[str, Measurement]:
    """A baseline of each case, as a recording leaves it."""
    baseline = {}
    for name in CASES:
        launches = [values(0.0, 0.0, spread, draw) for _ in range(SETTINGS.baseline_launches)]
        samples = {
            THROUGHPUT: Sample.of([[one[THROUGHPUT]] * POLICY.rounds for one in launches]),
            JOULES: Sample.of([[one[JOULES]] for one in launches]),
        }
        baseline[name] = Measurement(name, {}, samples)
    return baseline


def run(design: gate.Design, loss: float, world: World, draw: random.Random) -> tuple[SweepOutcome, Gpu]:
    """One gate, and the clock after it."""
    baseline = stored(world.spread, draw)
    day = {name: draw.gauss(0, gate.DAY_SD) if design == "stored" else 0.0 for name in CASES}
    gpu = Gpu(loss, draw, world, day)
    spec = EngineSpec("made-up", "opt-125m", "float16")
    other = EngineSpec("made-up", "opt-125m", "float16", python="/other") if design == "interleaved" else None
    brief = Brief(
        SWEEP,
        (Configuration(spec, tuple(CASES.values()), other),),
        "gate",
        POLICY,
        SETTINGS.baseline_launches,
        SETTINGS.max_launches,
        budget_s=None,
    )
    around = Surroundings(
        launch=gpu.launch,
        stored=lambda case, _key: Reference(baseline[case], dict(SWEEP.tolerances)),
        loads=load_of,
        fits=lambda *_: None,
        progress=gpu,
        pause=lambda seconds: gpu.spend({"pause": seconds}),
        clock=gpu.clock,
    )
    return Campaign(brief, around, order_seed=draw.randrange(2**32)).run(), gpu


def row(design: gate.Design, loss: float, world: World, runs: int) -> str:
    """Median and 95 % of minutes and launches, and what became of the eight metrics."""
    draw = random.Random(f"{design}{loss}")  # the same noise for every length of a batch
    minutes, launches, statuses = [], [], Counter[str]()
    spent: Counter[str] = Counter()
    for _ in range(runs):
        outcome, gpu = run(design, loss, world, draw)
        minutes.append(gpu.now_s / 60)
        launches.append(outcome.launches)
        statuses.update(one.status for case in outcome.cases.values() for one in case.verdicts.values())
        spent.update(gpu.spent_s)
    late = [quantiles(column, n=20, method="inclusive")[-1] for column in (minutes, launches)]
    counted = ", ".join(f"{count / runs:.2f} {status}" for status, count in statuses.most_common())
    parts = ", ".join(f"{part} {seconds / runs / 60:.1f}" for part, seconds in spent.items() if seconds)
    return (
        f"{design:12}{loss:5.0%}{world.batch_s:7.2f}{median(minutes):8.1f} / {late[0]:.1f}"
        f"{median(launches):8.0f} / {late[1]:.0f}   {counted}\n{'':12}minutes in the mean: {parts}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="?", type=int, default=200)
    parser.add_argument("--start", type=float, default=30.0, help="seconds until an engine can take a request")
    parser.add_argument("--spread", type=float, default=0.005, help="sd of power, and of throughput, between launches")
    parser.add_argument("--batch", type=float, action="append", help="seconds that a batch takes; may be given again")
    given = parser.parse_args()
    print(f"{len(CASES)} cases, {len(SWEEP.tolerances)} metrics each, a start of {given.start:g} s, {given.runs} runs")
    print("design       loss  batch   minutes, 95 %   launches, 95 %   verdicts a run")
    for design in gate.DESIGNS:
        for loss in (0.0, LOSS):
            for batch_s in given.batch or (0.25, 1.0):
                print(row(design, loss, World(given.start, batch_s, given.spread), given.runs), flush=True)


if __name__ == "__main__":
    main()
