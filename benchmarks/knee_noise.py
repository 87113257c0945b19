"""How often the gates on knee, frontier and replica count err: python benchmarks/knee_noise.py [SWEEPS].

The truth is known: a throughput saturates over the batch, T(B) = B / (1 + B / half); launches scatter by `noise` on the
log scale, share a factor of their launch, and each arm has a day of its own. `still` has one true curve in both arms;
`edge` too, exactly where the knee changes from one batch size to the next. `fourfold` lets the candidate saturate that
much earlier. The frontier is of throughput and ITL; `slower` takes 8 % of the throughput away at every batch size.

Replica counts 1, 2 and 4 have launches of their own, at three batch sizes. `plateau` has two counts that are equally
good, and `edge` two of which the smaller is exactly within the fraction that is asked for, in both arms; `falls` makes
four replicas 8 % slower than two, and `stops` takes away all that replicas gained, and more.

It goes as in a run: 20 launches are stored; a case gets 8 to 16, until the gate has decided its metrics, and 8 more
where one regressed; what looks regressed of the knee or the frontier is judged again on 8 fresh launches of that day.
"""

import argparse
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from pytest_slmperf.core import gate
from pytest_slmperf.core.curves.frontier import Frontier, FrontierPolicy, frontier
from pytest_slmperf.core.curves.knee import Curve, Definition
from pytest_slmperf.core.curves.replication import BestReplicas, Choice, Replication
from pytest_slmperf.core.curves.resampling import ONE_DAY_SD
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import Status, Verdict

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
NAMES = {size: f"batch={size}" for size in SIZES}
METRICS = ("output_throughput", "median_itl_ms")
STORED, CAP = 20, 16
FRESH = gate.first_launches(gate.Policy(0.05, CAP))


@dataclass
class Day:
    """A machine on one day: its true curve, and what it lost."""

    half: float
    noise: float
    draw: random.Random
    loss: float = 0.0
    day: dict[int, float] = field(init=False)

    def __post_init__(self) -> None:
        self.day = {size: self.draw.gauss(0, ONE_DAY_SD) for size in SIZES}

    def curve(self, launches: int) -> Curve:
        """A sweep of this many launches; throughput and ITL saturate at `half`."""
        shared = [self.draw.gauss(0, self.noise / 2) for _ in range(launches)]

        def sample(truth: float, size: int, sign: int) -> Sample:
            off = [sign * (self.day[size] + of_launch) for of_launch in shared]
            return Sample.of(
                [[truth * math.exp(one + self.draw.gauss(0, self.noise)) for _ in range(3)] for one in off]
            )

        return Curve(
            {size: sample((1 - self.loss) * 300 * size / (1 + size / self.half), size, 1) for size in SIZES},
            {size: sample(3.0 * (1 + size / self.half), size, -1) for size in SIZES},
        )


def gated(stored: Curve, day: Day, tolerance: float) -> Curve:
    """A sweep as a run measures it: each case until the gate has decided it, and confirmed what regressed."""
    policy = gate.Policy(tolerance, CAP)
    whole = day.curve(CAP + FRESH)

    def launches(size: int) -> int:
        pairs = [
            (metric(name), before[size], now[size].launches)
            for name, before, now in zip(
                METRICS, (stored.throughput, stored.itl), (whole.throughput, whole.itl), strict=True
            )
        ]
        taken, regressed = 0, False
        for meaning, before, now in pairs:
            for count in gate.looks(policy):
                verdict = gate.judge(meaning, before, Sample(now[:count]), policy)
                if verdict.final:
                    break
            taken, regressed = max(taken, count), regressed or verdict.status is Status.REGRESSED
        return taken + FRESH * regressed

    taken = {size: launches(size) for size in SIZES}
    return Curve(
        {size: Sample(one.launches[: taken[size]]) for size, one in whole.throughput.items()},
        {size: Sample(one.launches[: taken[size]]) for size, one in whole.itl.items()},
    )


def confirmed(first: Verdict, again: Callable[[], Verdict]) -> Status:
    """What stands of a verdict once what looks regressed was judged again."""
    return gate.confirm(first, again()).status if first.status is Status.REGRESSED else first.status


def edge(definition: Definition, start: float) -> float:
    """The saturation nearest to `start` at which the true knee changes from one batch size to the next."""

    def knee(half: float) -> object:
        return definition.of(SIZES, [size / (1 + size / half) for size in SIZES], [1 + size / half for size in SIZES])

    high = low = start
    while knee(low) == knee(start):
        high, low = low, low / 1.02
    for _ in range(50):
        middle = math.sqrt(low * high)
        high, low = (middle, low) if knee(middle) == knee(start) else (high, middle)
    return high


def points(curve: Curve) -> Frontier:
    """The frontier of a sweep."""
    return frontier(
        {NAMES[size]: dict(zip(METRICS, (curve.throughput[size], curve.itl[size]), strict=True)) for size in SIZES},
        METRICS,
    )


def frontiers(sweeps: int, noises: Sequence[float]) -> None:
    """Print the verdicts on frontiers."""
    for tolerance in (0.03, 0.05):
        policy = FrontierPolicy({case: dict.fromkeys(METRICS, tolerance) for case in NAMES.values()})
        confirming = replace(policy, confirming=True)
        for noise in noises:
            for truth, loss in (("still", 0.0), ("slower", 0.08)):
                draw = random.Random(f"{tolerance}{noise}{truth}")
                first: Counter[Status] = Counter()
                seen: Counter[Status] = Counter()
                for _ in range(sweeps):
                    curve, now = Day(16, noise, draw).curve(STORED), Day(16, noise, draw, loss)
                    stored = points(curve)
                    verdict = points(gated(curve, now, tolerance)).unchanged_from(stored, policy)
                    again = confirmed(verdict, lambda: points(now.curve(FRESH)).unchanged_from(stored, confirming))  # noqa: B023 - it is called at once
                    first[verdict.status] += 1
                    seen[again] += 1
                print_row(f"frontier of 10 points, tolerance {tolerance:.0%}", noise, truth, seen, first)


def knees(definition: Definition, sweeps: int, noises: Mapping[float, float], resamples: int) -> None:
    """Print the verdicts on knees; `noises` gives each noise the tolerance that it supports."""
    border = edge(definition, 16.0)
    for noise, tolerance in noises.items():
        for truth, (before, after) in {"still": (16, 16), "edge": (border, border), "fourfold": (16, 4)}.items():
            draw = random.Random(f"{definition.label}{noise}{truth}")
            first: Counter[Status] = Counter()
            seen: Counter[Status] = Counter()
            for _ in range(sweeps):
                curve, now = Day(before, noise, draw).curve(STORED), Day(after, noise, draw)
                stored = curve.knee(definition, resamples=resamples)
                verdict = gated(curve, now, tolerance).knee(definition, resamples=resamples).unchanged_from(stored)
                again = confirmed(
                    verdict,
                    lambda: now.curve(FRESH).knee(definition, resamples=resamples).unchanged_from(stored),  # noqa: B023 - it is called at once
                )
                first[verdict.status] += 1
                seen[again] += 1
            print_row(definition.label, noise, truth, seen, first)


def best_count(
    rates: Mapping[int, float], noise: float, choice: Choice, draw: random.Random
) -> Callable[[int], BestReplicas]:
    """What this many launches of each count say on one day."""
    days = {(count, size): draw.gauss(0, ONE_DAY_SD) for count in rates for size in (16, 64, 256)}

    def found(launches: int) -> BestReplicas:
        samples: dict[int, dict[float, Sample]] = {}
        for count, rate in rates.items():
            shared = [draw.gauss(0, noise / 2) for _ in range(launches)]
            samples[count] = {
                size: Sample.of(
                    [
                        [
                            rate * size / (size + 8) * math.exp(days[count, size] + off + draw.gauss(0, noise))
                            for _ in range(3)
                        ]
                        for off in shared
                    ]
                )
                for size in (16, 64, 256)
            }
        return Replication(samples, metric("output_throughput")).best(choice)

    return found


def replicas(choice: Choice, sweeps: int, noises: Sequence[float]) -> None:
    """Print the verdicts on best replica counts."""
    pays, stops, plateau = {1: 100.0, 2: 125.0, 4: 140.0}, {1: 100.0, 2: 90.0, 4: 70.0}, {1: 100.0, 2: 120.0, 4: 120.0}
    # Two counts of which the smaller is exactly as much worse as is asked for.
    border = {1: 100.0, 2: 120.0 * (1 - choice.within), 4: 120.0}
    falls = {1: 100.0, 2: 125.0, 4: 115.0}
    arms = {
        "still": (pays, pays),
        "plateau": (plateau, plateau),
        "edge": (border, border),
        "falls": (pays, falls),
        "stops": (pays, stops),
    }
    for noise in noises:
        for truth, (before, after) in arms.items():
            draw = random.Random(f"{choice}{noise}{truth}")
            first: Counter[Status] = Counter()
            seen: Counter[Status] = Counter()
            for _ in range(sweeps):
                stored = best_count(before, noise, choice, draw)(STORED)
                now = best_count(after, noise, choice, draw)
                verdict = now(FRESH).unchanged_from(stored)
                again = confirmed(verdict, lambda: now(FRESH).unchanged_from(stored))  # noqa: B023 - it is called at once
                first[verdict.status] += 1
                seen[again] += 1
            print_row(choice.label(metric("output_throughput"), "batch"), noise, truth, seen, first)


def print_row(what: str, noise: float, truth: str, seen: Counter[Status], first: Counter[Status]) -> None:
    said = ", ".join(f"{count / seen.total():.1%} {status}" for status, count in seen.most_common())
    looked = f"{first[Status.REGRESSED] / first.total():.1%} looked regressed"
    print(f"{what:66} {noise:5.1%} {truth:>8}  {said}; {looked}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweeps", nargs="?", type=int, default=100)
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--only", choices=["frontiers", "knees", "replicas"])
    given = parser.parse_args()
    noises = {0.01: 0.03, 0.03: 0.08}
    print(f"{'what':66} {'noise':>5} {'truth':>8}  verdicts of {given.sweeps} sweeps")
    if given.only in (None, "replicas"):
        for choice in (Choice(), Choice(within=0.05)):
            replicas(choice, given.sweeps, list(noises))
    if given.only in (None, "frontiers"):
        frontiers(given.sweeps, list(noises))
    if given.only in (None, "knees"):
        for definition in (
            Definition("bca"),
            Definition("share_of_maximum", {"share": 0.9}),
            Definition("kneedle"),
            Definition("two_segment"),
        ):
            knees(definition, given.sweeps, noises, given.resamples)


if __name__ == "__main__":
    main()
