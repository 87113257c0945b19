"""How many launches advice takes of a full sweep's, and how often it reaches its answer: benchmarks/advise_launches.py.

A full sweep launches each configuration (type, threads, replicas) 20 times, as often as a baseline asks for, and each
launch measures all of its batches. Its launches scatter by 1, 2 or 5 %, and are drawn beforehand, with a seed. Advice
is asked launch by launch, as a machine would be measured, and of each setting gets the launches that the sweep holds.

The full sweep's answer is what the same rule picks from all its launches: the lightest setting within 2 % of the best
that keeps the limits. Advice reaches it where it is that setting, or one whose true values are worse by 1 % at most, or
by what the full sweep can't tell apart (95 % of two means of 20 launches: 0.6, 1.2 or 3.1 %), in the objective and
beyond a limit. `short of` is by how much the advised setting falls short of the truly best one that keeps the limits,
and `measured` the share of the full sweep's measurements: a launch's batches are one each.

Each sweep is asked for throughput and for joules, with and without a limit on latency: that of the point in the middle,
and twelve of the paper's. The same sweeps with a launch for each setting alone, once, as their tables have it, are
asked, too (once).

Ways to choose the next launch: `planned` is what slmperf advise does; `alone` is the same, one setting a launch; `cut
off` is the same, ended after a third of the launches. `third` is a full sweep of a third of the launches. `halving`
launches everything and then the better half again and again (successive halving); `coarse` takes every third batch, and
then the neighbours of the best. `full` is the full sweep: how far off that is itself.

Recorded: OPT-1.3B and 2.7B on an H100 (arXiv 2503.08311), the first with replicas, too; CTranslate2 on two cores; and
with `--leaderboard` a table of ML.ENERGY's results (task, gpu, model, max_bs, out_tok_s, tpot_ms, J_per_out_tok), its
models with seven points or more. Products: two types × two or three numbers of replicas × nine batches, simulated.
"""

import argparse
import csv
import math
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

RECORDED = 20
"""Launches of a full sweep, of each configuration: what a baseline holds at least."""
SCATTERS = (0.01, 0.02, 0.05)
"""Standard deviations of a launch's logarithm."""
WORSE = 0.01
"""By so much at most is an answer worse that reaches another."""
LIMITS = (6, 8, 12, 15, 18, 20, 25, 30, 35, 40, 50, 60)
THROUGHPUT, JOULES, ITL = "total_token_throughput", "joules_per_total_token", "median_itl_ms"


@dataclass
class Sweep:
    """A sweep of which everything is known: what is true of each setting, and the launches that were recorded."""

    name: str
    truth: Mapping[Setting, Mapping[str, float]]
    scatter: float = 0.0
    """0 where each setting was launched once, and showed what is true."""
    seed: int = 0
    limits: tuple[float, ...] = ()
    """Of the latency in ms, that it is asked with; its median point's where there are none."""
    launches: int = RECORDED
    """Of each configuration, where launches scatter."""
    recorded: Mapping[Setting, Sequence[Mapping[str, float]]] = field(init=False)

    def __post_init__(self) -> None:
        draw, each = random.Random(f"{self.name} {self.scatter} {self.seed}"), self.launches if self.scatter else 1
        self.recorded = {one: [self._launch(one, draw) for _ in range(each)] for one in self.truth}

    def _launch(self, setting: Setting, draw: random.Random) -> Mapping[str, float]:
        """A launch that is fast is so in all it shows."""
        pace = draw.gauss(0, self.scatter)
        signs = {name: 1 if metric(name).higher_is_better else -1 for name in self.truth[setting]}
        return {name: value * math.exp(signs[name] * pace) for name, value in self.truth[setting].items()}

    @property
    def order(self) -> tuple[Setting, ...]:
        """All settings, that which is compared with among the first."""
        return tuple(self.truth)

    @property
    def full(self) -> int:
        """Launches of the full sweep."""
        return len({one.series for one in self.truth}) * self.launches if self.scatter else len(self.truth)

    @property
    def worse(self) -> float:
        """By so much an answer may be worse, of a logarithm, so that it reaches another."""
        return max(-math.log1p(-WORSE), 1.96 * self.scatter * math.sqrt(2 / self.launches))

    def true(self) -> Evidence:
        """What nobody can measure."""
        return _evidence((one, [of]) for one, of in self.truth.items())

    def whole(self) -> Evidence:
        """The full sweep."""
        return _evidence(self.recorded.items())

    def launch(self, settings: Iterable[Setting], evidence: Evidence) -> Evidence:
        """With the next launch of each."""
        for one in settings:
            before = evidence.seen.get(one)
            made = len(next(iter(before.values.values()))) if before else 0
            evidence = evidence.plus(one, self.recorded[one][made])
        return evidence


def _evidence(launches: Iterable[tuple[Setting, Sequence[Mapping[str, float]]]]) -> Evidence:
    return Evidence(
        {one: Seen(one, {name: tuple(of[name] for of in every) for name in every[0]}) for one, every in launches}
    )


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


def products(count: int) -> Iterator[Sweep]:
    """Types, replicas and batches: a step takes a fixed time and a time for each request, replicas share what one
    leaves over, every point strays from that by some per cent, and in every other series all from some batch on, too.
    """
    draw = random.Random(1)
    for number in range(count):
        replicas, half, truth = draw.choice(((1, 2), (1, 2, 4))), 2 ** draw.uniform(1, 7), {}
        for dtype in ("float32", "int8"):
            level = draw.uniform(800, 1200) * (draw.uniform(0.8, 2.0) if dtype == "int8" else 1)
            together = draw.uniform(0.9, 1.6)  # what all replicas can give, against one
            for many in replicas:
                share = 1 if many == 1 else together * draw.uniform(0.95, 1.05)
                stepped, by = draw.randrange(1, 9), draw.choice((0.0, draw.gauss(0, 0.15)))
                for octave in range(9):
                    each = 2**octave
                    strays = math.exp(draw.gauss(0, 0.02) + by * (octave >= stepped))
                    rate = share * level * each / (each + half / math.sqrt(many)) * strays
                    watts = 100 + 250 * (each / (each + half)) * share**0.7
                    truth[Setting(each * many, Series(dtype, 1, many))] = {
                        THROUGHPUT: rate,
                        ITL: 1e3 * each * many / rate,
                        JOULES: watts / rate,
                    }
        yield Sweep(f"product {number}, {len(truth)} settings", truth)


# -- ways

Way = Callable[[Sweep, Question], tuple[Evidence, int]]
SEVERAL, ONCE = Policy(), Policy(most_launches=1, least_launches=1, together=1)


def planned(sweep: Sweep, question: Question, most: float = math.inf, policy: Policy = SEVERAL) -> tuple[Evidence, int]:
    evidence, launches = Evidence(), 0
    policy = policy if sweep.scatter else ONCE
    while launches < most and isinstance(step := plan(question, sweep.order, evidence, policy), Next):
        evidence = sweep.launch((step.setting, *(one.setting for one in step.along)), evidence)
        launches += 1
    return evidence, launches


def alone(sweep: Sweep, question: Question) -> tuple[Evidence, int]:
    return planned(sweep, question, policy=Policy(together=1))


def cut_off(sweep: Sweep, question: Question) -> tuple[Evidence, int]:
    return planned(sweep, question, most=sweep.full // 3)


def third(sweep: Sweep, question: Question) -> tuple[Evidence, int]:
    del question
    if not sweep.scatter:
        return sweep.launch(sweep.order[: sweep.full // 3], Evidence()), sweep.full // 3
    evidence, each = Evidence(), sweep.launches // 3
    for _ in range(each):
        evidence = sweep.launch(sweep.order, evidence)
    return evidence, each * len(by_series(sweep.order))


def halving(sweep: Sweep, question: Question) -> tuple[Evidence, int]:
    evidence, left, launches = Evidence(), list(sweep.order), 0
    while True:
        evidence = sweep.launch(left, evidence)
        launches += len(by_series(left)) if sweep.scatter else len(left)
        if len(left) == 1 or not sweep.scatter:
            return evidence, launches
        left.sort(key=lambda one: rank(question, evidence.seen[one]), reverse=True)
        left = left[: math.ceil(len(left) / 2)]


def rank(question: Question, one: Seen) -> tuple[bool, float]:
    return one.keeps(question.limits), question.sign * mean_log(one, question.objective)


def coarse(sweep: Sweep, question: Question) -> tuple[Evidence, int]:
    lines = by_series(sweep.order)
    evidence = sweep.launch((one for line in lines.values() for one in line[::-3]), Evidence())
    launches = len(lines) if sweep.scatter else len(evidence.seen)
    if pick := picked(question, evidence):
        line = lines[pick.setting.series]
        place = line.index(pick.setting)
        near = [one for one in line[max(0, place - 1) : place + 2] if one not in evidence.seen]
        evidence, launches = sweep.launch(near, evidence), launches + (1 if sweep.scatter else len(near))
    return evidence, launches


def by_series(settings: Iterable[Setting]) -> Mapping[Series, list[Setting]]:
    lines: dict[Series, list[Setting]] = defaultdict(list)
    for one in sorted(settings, key=lambda one: one.batch):
        lines[one.series].append(one)
    return lines


def full(sweep: Sweep, question: Question) -> tuple[Evidence, int]:
    del question
    return sweep.whole(), sweep.full


def reference_of(sweep: Sweep) -> Setting:
    return by_series(sweep.order)[reference_series(sweep.order)][-1]


WAYS: Mapping[str, Way] = {
    "planned": planned,
    "alone": alone,
    "cut off": cut_off,
    "third": third,
    "coarse": coarse,
    "halving": halving,
    "full": full,
}


# -- how far off


@dataclass(frozen=True)
class Asked:
    """What came of one question."""

    share: float
    """Of the full sweep's launches."""
    measured: float
    """Of the full sweep's measurements of a setting in a launch."""
    same: bool
    reached: bool
    """The full sweep's answer: see above."""
    short: float
    """Of the best setting, as a share; 1 where none is advised and there is one, or it surely misses a limit."""
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


def ask(sweep: Sweep, question: Question, way: Way) -> Asked:
    evidence, launches = way(sweep, question)
    answer, pick = picked(question, sweep.whole()), picked(question, evidence)
    made = sum(one.launches(question) for one in evidence.seen.values())
    share, measured = launches / sweep.full, made / sum(map(len, sweep.recorded.values()))
    true = sweep.true().seen
    worth = {one: worth_of(question, seen, sweep.worse if sweep.scatter else 0.0) for one, seen in true.items()}
    best = max(worth.values())
    if pick is None or answer is None:
        return Asked(share, measured, pick is answer, pick is answer, float(pick is not None or best > -math.inf))
    reached = worth[pick.setting] >= mean_log_of(question, true[answer.setting]) - sweep.worse - 1e-12
    return Asked(
        share,
        measured,
        same=pick.setting == answer.setting,
        reached=pick.setting == answer.setting or reached,
        short=1 - math.exp(min(0.0, worth[pick.setting] - best)) if best > -math.inf else 0.0,
        covered=covered(sweep, question, evidence) if sweep.scatter else None,
    )


def mean_log_of(question: Question, one: Seen) -> float:
    return question.sign * mean_log(one, question.objective)


def worth_of(question: Question, one: Seen, margin: float) -> float:
    """Of the objective's logarithm, upwards; nothing where a limit is missed by more than a margin."""
    loose = tuple(Limit(limit.metric, limit.value * math.exp(margin)) for limit in question.limits)
    return mean_log_of(question, one) if one.keeps(loose) else -math.inf


def covered(sweep: Sweep, question: Question, evidence: Evidence) -> bool | None:
    beside = reference_of(sweep)
    if len(evidence.measured(question)) < 2:
        return None
    advice = advised(question, evidence, sweep.order)
    if advice.pick is None or advice.pick.setting == beside:
        return None
    if advice.gain is None or advice.gain.low is None or advice.gain.high is None:
        return None
    true = sweep.true().seen
    gain = mean_log(true[advice.pick.setting], question.objective) - mean_log(true[beside], question.objective)
    return math.log(advice.gain.low) <= gain <= math.log(advice.gain.high)


COLUMNS = ("mean", "most", "<=1/3", "same", "reached", "both", "short of", "at most", "measured")


def row(name: str, what: str, found: Sequence[Asked]) -> str:
    few = [one.share <= 1 / 3 + 1e-9 for one in found]
    cells = (
        mean(one.share for one in found),
        max(one.share for one in found),
        mean(few),
        mean(one.same for one in found),
        mean(one.reached for one in found),
        mean(one.reached and cheap for one, cheap in zip(found, few, strict=True)),
        mean(one.short for one in found),
        max(one.short for one in found),
        mean(one.measured for one in found),
    )
    return f"{name:34} {what:16} {' '.join(f'{cell:8.1%}' for cell in cells)}"


def groups(seeds: int, count: int, launches: int, leaderboard_of: Path | None) -> Iterator[tuple[str, list[Sweep]]]:
    of_the_paper, others = list(paper()), list(recorded(leaderboard_of))
    yield "the paper's, once", of_the_paper
    yield "others, once", others
    for scatter in SCATTERS:
        for name, sweeps in (("recorded", [*of_the_paper, *others]), ("products", list(products(count)))):
            every = [
                replace(one, scatter=scatter, seed=seed, launches=launches) for one in sweeps for seed in range(seeds)
            ]
            yield f"{name}, {scatter:.0%}", every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--leaderboard", type=Path, metavar="FILE")
    parser.add_argument("--seeds", type=int, default=3, help="of the launches of each sweep; default: 3")
    parser.add_argument("--launches", type=int, default=RECORDED, help=f"of a full sweep; default: {RECORDED}")
    parser.add_argument("--products", type=int, default=10, help="simulated sweeps; default: 10")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--groups", default="", metavar="TEXT", help="those alone with this in their name")
    parser.add_argument("--each", action="store_true", help="a line for each recorded sweep and question")
    given = parser.parse_args()
    print(f"{'sweeps':34} {'asked for':16} {' '.join(f'{one:>8}' for one in COLUMNS)}")
    for name, sweeps in groups(given.seeds, given.products, given.launches, given.leaderboard):
        if given.groups not in name:
            continue
        for way in given.ways:
            by_question: dict[str, list[Asked]] = defaultdict(list)
            for sweep in sweeps:
                for what, question in questions(sweep):
                    by_question[what].append(ask(sweep, question, WAYS[way]))
                    if given.each:
                        print(row(sweep.name, what, by_question[what][-1:]))
            everything = [one for answers in by_question.values() for one in answers]
            for what, answers in (*by_question.items(), (f"all {len(everything)}", everything)):
                print(row(f"{way}: {len(sweeps)} {name}", what, answers), flush=True)
            intervals = [one.covered for one in everything if one.covered is not None]
            if intervals:
                print(f"{way}: {mean(intervals):.1%} of {len(intervals)} intervals hold the true gain")


if __name__ == "__main__":
    main()
