"""How many launches advice takes, and how far off it is: python benchmarks/advise_launches.py [--repeat N].

Sweeps whose every point is known are asked point by point, as a machine would be measured: recorded ones, where each
point was launched once; the same with launches that scatter by 1 % (noisy); and simulated ones. Each is asked for
throughput and for joules, with and without a limit on latency: that of the point in the middle, and twelve of the
paper's. The answer is held to the full sweep's, by the same rule on all points: the lightest setting within 2 % of the
best that keeps the limits. `short of` is by how much the setting that is advised falls short of the best one that keeps
the limits; the launches are a share of the full sweep's, which has each point once, or five times where they scatter.

Ways to choose the next point: `planned` is what slmperf advise does; `cut off` is the same, ended after a third of the
launches. `random` takes a third of the points at random; `halving` launches all points once and then the better half
again and again (successive halving); `coarse` takes every third batch, and then the neighbours of the best. All of them
begin with one instance at its largest batch.

Recorded: OPT-1.3B and 2.7B on an H100 (arXiv 2503.08311), the first with replicas, too; CTranslate2 on two cores; and
with `--leaderboard` a table of ML.ENERGY's results (task, gpu, model, max_bs, out_tok_s, tpot_ms, J_per_out_tok), its
models with seven points or more.
"""

import argparse
import csv
import math
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "core"))

from mind_the_memory_gap import BACKGROUND, REPLICATION

from pytest_slmperf.core.advising.advice import advised
from pytest_slmperf.core.advising.planner import Next, Policy, mean_log, picked, plan, reference_series
from pytest_slmperf.core.advising.question import Evidence, Limit, Question, Seen, Series, Setting
from pytest_slmperf.core.metrics import metric

REPEATED = 5
"""Launches of each point of a full sweep where launches scatter."""
LIMITS = (6, 8, 12, 15, 18, 20, 25, 30, 35, 40, 50, 60)
THROUGHPUT, JOULES, ITL = "total_token_throughput", "joules_per_total_token", "median_itl_ms"


@dataclass
class Sweep:
    """A sweep of which every point is known."""

    name: str
    truth: Mapping[Setting, Mapping[str, float]]
    noise: float = 0.0
    """Standard deviation of a launch's logarithm; 0 where each point was launched once."""
    limits: tuple[float, ...] = ()
    """Of the latency in ms, that it is asked with; its median point's where there are none."""
    order: tuple[Setting, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.order = tuple(self.truth)

    @property
    def full(self) -> int:
        """Launches of all points."""
        return len(self.truth) * (REPEATED if self.noise else 1)

    def evidence(self) -> Evidence:
        """The full sweep's, without noise."""
        return Evidence(
            {one: Seen(one, {name: (value,) for name, value in of.items()}) for one, of in self.truth.items()}
        )

    def launch(self, setting: Setting, draw: random.Random) -> dict[str, float]:
        """What one launch shows."""
        return {name: value * math.exp(draw.gauss(0, self.noise)) for name, value in self.truth[setting].items()}


# -- sweeps

OTHERS = {  # arXiv 2503.08311's data: batch: output tok/s, ITL in ms, joules of each; no run with preemptions
    "opt-2.7b": {
        1: (162, 6.21, 1.63), 8: (1064, 7.51, 0.257), 32: (2830, 11.1, 0.0975), 64: (3893, 15.7, 0.0730),
        96: (4439, 20.4, 0.0698), 128: (4727, 25.2, 0.0635), 256: (5360, 42.5, 0.0572), 384: (5560, 58.9, 0.0561),
    },
}  # fmt: skip
CPU = {  # CTranslate2 4.8.5, 2 threads, 32 + 32 tokens: output tok/s by batch
    "2x128 float32": {1: 15700, 4: 32600, 8: 38300, 16: 31500, 32: 43700, 64: 52000},
    "4x256 float32": {1: 3160, 4: 6100, 8: 6970, 16: 3850, 32: 5340, 64: 6280},
}
OPT_125M = {
    "float32": {1: 50, 4: 126, 8: 194, 16: 135, 32: 199, 64: 281},
    "int8": {1: 72, 4: 166, 8: 297, 16: 483, 32: 672, 64: 805},
}
"""The same of OPT-125M, whose types are compared."""


def recorded(leaderboard_of: Path | None) -> Iterator[Sweep]:
    for name, points in OTHERS.items():
        truth = {
            Setting(batch): {THROUGHPUT: rate, ITL: itl, JOULES: joules}
            for batch, (rate, itl, joules) in points.items()
        }
        yield Sweep(name, truth)
    for name, rates in CPU.items():
        yield Sweep(
            name, {Setting(batch): {THROUGHPUT: rate, ITL: 1e3 * batch / rate} for batch, rate in rates.items()}
        )
    yield Sweep(
        "opt-125m, 2 types",
        {
            Setting(batch, Series(dtype)): {THROUGHPUT: rate, ITL: 1e3 * batch / rate}
            for dtype, rates in OPT_125M.items()
            for batch, rate in rates.items()
        },
    )
    if leaderboard_of:
        yield from leaderboard(leaderboard_of)


def paper() -> Iterator[Sweep]:
    """One instance, and with replicas; of a point that was launched twice the mean is taken."""
    rows: dict[Setting, list[tuple[float, ...]]] = defaultdict(list)
    for batch, *values in BACKGROUND:
        rows[Setting(batch)].append(tuple(values))
    for replicas, each, *values in REPLICATION:
        rows[Setting(each * replicas, Series(replicas=replicas))].append(tuple(values))
    truth = {
        setting: dict(zip((THROUGHPUT, ITL, JOULES), map(mean, zip(*found, strict=True)), strict=True))
        for setting, found in rows.items()
    }
    yield Sweep("opt-1.3b", {one: of for one, of in truth.items() if one.series.replicas == 1}, limits=LIMITS)
    yield Sweep("opt-1.3b, replicas", truth, limits=LIMITS)


def leaderboard(path: Path) -> Iterator[Sweep]:
    """Models of ML.ENERGY's leaderboard with at least seven points that are not the same."""
    found: dict[str, dict[Setting, Mapping[str, float]]] = defaultdict(dict)
    for row in csv.DictReader(path.open(encoding="utf-8")):
        gpu = row["gpu"].removeprefix("NVIDIA ").partition(" ")[0].partition("-")[0]
        name = f"{row['model'].rpartition('/')[2]}, {row['task']}, {gpu}"
        found[name][Setting(int(row["max_bs"]))] = {
            THROUGHPUT: float(row["out_tok_s"]),
            ITL: float(row["tpot_ms"]),
            JOULES: float(row["J_per_out_tok"]),
        }
    for name, truth in found.items():
        if len(truth) >= 7:
            yield Sweep(name, truth)


def simulated(draw: random.Random, count: int) -> Iterator[Sweep]:
    """Batch, replicas and types: a step takes a fixed time and a time for each request, replicas share what one
    leaves over, and every point strays from that by some per cent.
    """
    for number in range(count):
        noise = draw.choice((0.005, 0.01, 0.02))
        replicas, dtypes = draw.choice(((1, 2), (1, 2, 4))), draw.choice((("float32",), ("float32", "int8")))
        half = 2 ** draw.uniform(1, 7)
        truth = {}
        for dtype in dtypes:
            level = draw.uniform(800, 1200) * (draw.uniform(0.8, 2.0) if dtype == "int8" else 1)
            together = draw.uniform(0.9, 1.6)  # what all replicas can give, against one
            for many in replicas:
                share = 1 if many == 1 else together * draw.uniform(0.95, 1.05)
                for octave in range(9):
                    each = 2**octave
                    rate = share * level * each / (each + half / math.sqrt(many)) * math.exp(draw.gauss(0, 0.02))
                    watts = 100 + 250 * (each / (each + half)) * share**0.7
                    truth[Setting(each * many, Series(dtype, 1, many))] = {
                        THROUGHPUT: rate,
                        ITL: 1e3 * each * many / rate,
                        JOULES: watts / rate,
                    }
        yield Sweep(f"simulated {number}", truth, noise)


# -- ways

Way = Callable[[Sweep, Question, random.Random], tuple[Evidence, int]]


def add(evidence: Evidence, sweep: Sweep, setting: Setting, draw: random.Random) -> Evidence:
    return evidence.plus(setting, sweep.launch(setting, draw))


def planned(sweep: Sweep, question: Question, draw: random.Random, most: float = math.inf) -> tuple[Evidence, int]:
    evidence, launches = Evidence(), 0
    policy = Policy() if sweep.noise else Policy(most_launches=1, least_launches=1)
    while launches < most and isinstance(step := plan(question, sweep.order, evidence, policy), Next):
        evidence, launches = add(evidence, sweep, step.setting, draw), launches + 1
    return evidence, launches


def cut_off(sweep: Sweep, question: Question, draw: random.Random) -> tuple[Evidence, int]:
    return planned(sweep, question, draw, most=sweep.full // 3)


def at_random(sweep: Sweep, question: Question, draw: random.Random) -> tuple[Evidence, int]:
    evidence, budget = first(sweep, draw), max(1, sweep.full // 3)
    del question
    for setting in draw.sample(sweep.order, min(budget - 1, len(sweep.order))):
        evidence = add(evidence, sweep, setting, draw)
    return evidence, budget


def halving(sweep: Sweep, question: Question, draw: random.Random) -> tuple[Evidence, int]:
    evidence, left, launches = Evidence(), list(sweep.order), 0
    while True:
        for setting in left:
            evidence, launches = add(evidence, sweep, setting, draw), launches + 1
        if len(left) == 1 or not sweep.noise:
            return evidence, launches
        left.sort(key=lambda one: rank(question, evidence.seen[one]), reverse=True)
        left = left[: math.ceil(len(left) / 2)]


def rank(question: Question, one: Seen) -> tuple[bool, float]:
    return one.keeps(question.limits), question.sign * mean_log(one, question.objective)


def coarse(sweep: Sweep, question: Question, draw: random.Random) -> tuple[Evidence, int]:
    evidence, launches = first(sweep, draw), 1
    for series in dict.fromkeys(one.series for one in sweep.order):
        line = sorted((one for one in sweep.order if one.series == series), key=lambda one: -one.batch)
        for setting in line[::3]:
            if setting not in evidence.seen:
                evidence, launches = add(evidence, sweep, setting, draw), launches + 1
    pick = picked(question, evidence)
    if pick:
        line = sorted((one for one in sweep.order if one.series == pick.setting.series), key=lambda one: one.batch)
        place = line.index(pick.setting)
        for setting in (*line[max(0, place - 1) : place], *line[place + 1 : place + 2]):
            if setting not in evidence.seen:
                evidence, launches = add(evidence, sweep, setting, draw), launches + 1
    return evidence, launches


def first(sweep: Sweep, draw: random.Random) -> Evidence:
    series = reference_series(sweep.order)
    largest = max((one for one in sweep.order if one.series == series), key=lambda one: one.batch)
    return add(Evidence(), sweep, largest, draw)


WAYS: Mapping[str, Way] = {
    "planned": planned,
    "cut off": cut_off,
    "random": at_random,
    "coarse": coarse,
    "halving": halving,
}


# -- how far off


@dataclass(frozen=True)
class Asked:
    """What came of one question."""

    share: float
    """Of the full sweep's launches."""
    same: bool
    short: float
    """Of the best setting, as a share; infinite where none is advised and there is one."""
    covered: bool | None = None
    """Whether the gain's interval holds the true gain; None where there is none."""


def questions(sweep: Sweep) -> Iterator[tuple[str, Question]]:
    for name, label in ((THROUGHPUT, "throughput"), (JOULES, "joules")):
        if not all(name in of for of in sweep.truth.values()):
            continue
        yield label, Question(metric(name))
        latencies = sorted(of[ITL] for of in sweep.truth.values())
        for limit in sweep.limits or (1.02 * latencies[len(latencies) // 2],):
            yield f"{label}, itl", Question(metric(name), (Limit(metric(ITL), limit),))


def ask(sweep: Sweep, question: Question, way: Way, draw: random.Random) -> Asked:
    evidence, launches = way(sweep, question, draw)
    whole = sweep.evidence()
    answer, pick = picked(question, whole), picked(question, evidence)
    share = launches / sweep.full
    if pick is None or answer is None:
        return Asked(share, same=pick is answer, short=math.inf if answer else 0.0)
    keeping = [one for one in whole.seen.values() if one.keeps(question.limits)]
    best = max(question.sign * mean_log(one, question.objective) for one in keeping)
    true = whole.seen[pick.setting]
    loose = tuple(Limit(one.metric, one.value * 1.02) for one in question.limits) if sweep.noise else question.limits
    reached = question.sign * mean_log(true, question.objective) if true.keeps(loose) else -math.inf
    covered = None
    if sweep.noise and len(evidence.measured(question)) > 1:
        gain = advised(question, evidence, sweep.order).gain
        beside = reference_of(sweep)
        if gain and gain.low and gain.high and beside != pick.setting:
            truth = mean_log(true, question.objective) - mean_log(whole.seen[beside], question.objective)
            covered = math.log(gain.low) <= truth <= math.log(gain.high)
    short = 1 - math.exp(min(0.0, reached - best))
    return Asked(share, pick.setting == answer.setting, short, covered)


def reference_of(sweep: Sweep) -> Setting:
    series = reference_series(sweep.order)
    return max((one for one in sweep.order if one.series == series), key=lambda one: one.batch)


def row(name: str, what: str, found: Sequence[Asked]) -> str:
    third = mean(one.share <= 1 / 3 + 1e-9 for one in found)
    within = {limit: mean(one.short <= limit + 1e-9 for one in found) for limit in (0.02, 0.05)}
    return (
        f"{name:34} {what:16} "
        f"{mean(one.share for one in found):7.0%} {max(one.share for one in found):7.0%} {third:7.0%} "
        f"{mean(one.same for one in found):7.0%} {within[0.02]:7.0%} {within[0.05]:7.0%} "
        f"{mean(min(1.0, one.short) for one in found):8.1%} {max(one.short for one in found):8.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--leaderboard", type=Path, metavar="FILE")
    parser.add_argument("--repeat", type=int, default=100, help="simulated sweeps")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--each", action="store_true", help="a line for each recorded sweep and question")
    given = parser.parse_args()
    columns = ("mean", "most", "<=1/3", "same", "<=2%", "<=5%", "short of", "at most")
    print(f"{'sweep':34} {'asked for':16} {' '.join(f'{one:>7}' for one in columns)}")
    once = list(recorded(given.leaderboard))
    groups = {
        "of the paper": list(paper()),
        "recorded": once,
        "noisy": [replace(one, noise=0.01) for one in (*paper(), *once)],
        "simulated": list(simulated(random.Random(1), given.repeat)),
    }
    for way in given.ways:
        for group, sweeps in groups.items():
            draw = random.Random(f"{way}{group}")
            by_question: dict[str, list[Asked]] = defaultdict(list)
            for sweep in sweeps:
                for what, question in questions(sweep):
                    found = ask(sweep, question, WAYS[way], draw)
                    by_question[what].append(found)
                    if given.each and group != "simulated":
                        print(row(sweep.name, what, [found]))
            for what, answers in by_question.items():
                print(row(f"{way}: {len(sweeps)} {group}", what, answers), flush=True)
            covered = [one.covered for answers in by_question.values() for one in answers if one.covered is not None]
            if covered:
                print(f"{way}: {mean(covered):.1%} of {len(covered)} intervals hold the true gain")


if __name__ == "__main__":
    main()
