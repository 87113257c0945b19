"""What the cores' pace does to a stored gate that knows it, and to one that doesn't, where the truth is known.

    python benchmarks/paced_gate.py [--trials 1000] [--tolerance 0.1]

Launches are drawn: the pace wanders (an autoregression over launches, with the baseline and the gate apart by hours),
reaches the metric by a share, is read with an error of its own, and the engine adds its noise. `wandering` is a metric
that wanders as well, but of itself: what looks like a share there is chance. Of `busy` cores one launch in ten is slow,
by 20 % in the mean. Printed is, per world and planted loss (none, the tolerance, twice the tolerance), how often the
gate ends regressed, passed, undecided or void, with the pace and without it, and how often a recording supports no
tolerance at all.
"""

import argparse
import math
import random
from collections import Counter
from dataclasses import dataclass

from pytest_slmperf.core import gate
from pytest_slmperf.core.judging import even_pace
from pytest_slmperf.core.judging.even_pace import Arm
from pytest_slmperf.core.judging.same_pace import at_its_pace
from pytest_slmperf.core.judging.tolerance import supported_tolerance
from pytest_slmperf.core.metrics import Metric, metric
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import Verdict

THROUGHPUT = metric("output_throughput")
RECORDED, CAP = 20, 16
READING_SD = 0.01
ENGINE_SD = 0.015
BUSY_MEAN = 0.2
"""Log values by which a busy core is slower, exponentially distributed."""


@dataclass(frozen=True)
class World:
    """How a machine's pace (standard deviation of log values, likeness of neighbours) reaches a metric."""

    pace_sd: float
    alike: float
    share: float
    wandering: bool = False
    """The metric drifts as much as the pace, and not with it."""
    busy: float = 0.0
    """Share of launches on a core that somebody else works on, too."""


WORLDS = {
    "steady": World(0.003, 0.0, 0.7),
    "jumps": World(0.04, 0.0, 0.7),
    "jumps, bound by cores": World(0.04, 0.0, 1.0),
    "busy": World(0.003, 0.0, 0.8, busy=0.1),
    "drifts": World(0.04, 0.8, 0.7),
    "drifts, bound by memory": World(0.04, 0.8, 0.2),
    "drifts, bound by cores": World(0.04, 0.8, 1.0),
    "drifts, no matter of pace": World(0.04, 0.8, 0.0),
    "wandering": World(0.04, 0.8, 0.0, wandering=True),
}


def walk(draw: random.Random, world: World, launches: int) -> list[float]:
    values = [draw.gauss(0, world.pace_sd)]
    fresh = world.pace_sd * math.sqrt(1 - world.alike**2)
    for _ in range(launches - 1):
        values.append(world.alike * values[-1] + draw.gauss(0, fresh))
    return values


def arm(draw: random.Random, world: World, launches: int, loss: float = 0.0) -> tuple[Sample, Sample]:
    pace, own = walk(draw, world, launches), walk(draw, world, launches)
    if world.busy:
        pace = [slow + (draw.random() < world.busy) * draw.expovariate(1 / BUSY_MEAN) for slow in pace]
    day = draw.gauss(0, gate.DAY_SD / math.sqrt(2))
    cost = [world.share * slow + world.wandering * drift + day for slow, drift in zip(pace, own, strict=True)]
    values = [[1000 * (1 - loss) * math.exp(-one + draw.gauss(0, ENGINE_SD))] for one in cost]
    times = [[150_000 * math.exp(slow + draw.gauss(0, READING_SD))] for slow in pace]
    return Sample.of(values), Sample.of(times)


def last_look(meaning: Metric, baseline: Arm, now: Arm, policy: gate.Policy, *, knows: bool) -> Verdict:
    """The verdict that is final, with the cores' pace or without; `now` has as many launches as the policy asks for."""
    for look in gate.looks(policy):
        values, times = (Sample(sample.launches[:look]) for sample in now)
        if knows:
            verdict = even_pace.judge(meaning, baseline, (values, times), policy)
            verdict = even_pace.held_to_pace(verdict, meaning, baseline, (values, times))
        else:
            verdict = at_its_pace(gate.judge(meaning, baseline[0], values, policy), times, baseline[1])
        if verdict.final:
            break
    return verdict


def row(world: World, loss: float, trials: int, policy: gate.Policy, *, knows: bool) -> str:
    seen = Counter()
    for trial in range(trials):
        draw = random.Random(trial)
        baseline, now = arm(draw, world, RECORDED), arm(draw, world, CAP, loss)
        verdict = last_look(THROUGHPUT, baseline, now, policy, knows=knows)
        seen["passed" if verdict.passed else verdict.status.value] += 1
    return " | ".join(f"{seen[status] / trials:.1%}" for status in ("regressed", "passed", "inconclusive", "void"))


def refused(world: World, trials: int, policy: gate.Policy, *, knows: bool) -> float:
    none = 0
    for trial in range(trials):
        values, times = arm(random.Random(trial), world, RECORDED)
        none += supported_tolerance(values, THROUGHPUT, policy, times if knows else None) is None
    return none / trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--tolerance", type=float, default=0.1)
    options = parser.parse_args()
    policy = gate.Policy(options.tolerance, CAP)
    print("| world | loss | pace | regressed | passed | undecided | void | unrecordable |")
    print("| --- | --: | --- | --: | --: | --: | --: | --: |")
    for name, world in WORLDS.items():
        for knows in (False, True):
            out = refused(world, max(options.trials // 5, 1), policy, knows=knows)
            for loss in (0.0, options.tolerance, 2 * options.tolerance):
                said = row(world, loss, options.trials, policy, knows=knows)
                print(f"| {name} | {loss:.0%} | {'known' if knows else '-'} | {said} | {out:.1%} |", flush=True)


if __name__ == "__main__":
    main()
