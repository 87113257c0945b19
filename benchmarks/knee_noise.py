"""How often the gates on knee and frontier err where the truth is known: python benchmarks/knee_noise.py [SWEEPS].

A throughput saturates over the batch, T(B) = B / (1 + B / half); launches scatter by `noise` on the log scale, share
a factor of their launch, and each arm has a day of its own. `still` has one true curve in both arms; `edge` too,
exactly where the knee changes from one batch size to the next. `twofold` and `fourfold` let the candidate saturate that
much earlier. The frontier is of throughput and ITL; `slower` takes 8 % of the throughput away at every batch size.
"""

import argparse
import math
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from pytest_slmperf.core.frontier import Curve, Definition, Frontier, frontier
from pytest_slmperf.core.gate import Policy
from pytest_slmperf.core.sample import Sample

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
DAY_SD = 0.007 / math.sqrt(2)
"""Of one day: the difference between two has 0.7 %, as the gate assumes."""


def curve(half: float, launches: int, noise: float, draw: random.Random) -> Curve:
    """A sweep of this many launches; throughput and ITL saturate at `half`."""
    day = {size: draw.gauss(0, DAY_SD) for size in SIZES}
    shared = [draw.gauss(0, noise / 2) for _ in range(launches)]

    def sample(truth: float, size: int, sign: int) -> Sample:
        values = [
            [truth * math.exp(sign * (day[size] + of_launch + draw.gauss(0, noise))) for _ in range(3)]
            for of_launch in shared
        ]
        return Sample.of(values)

    return Curve(
        {size: sample(300 * size / (1 + size / half), size, 1) for size in SIZES},
        {size: sample(3.0 * (1 + size / half), size, -1) for size in SIZES},
    )


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


def points(half: float, launches: int, noise: float, draw: random.Random, loss: float = 0.0) -> Frontier:
    """The frontier of a sweep that lost this share of its throughput."""
    measured = curve(half, launches, noise, draw)
    slower = {
        size: Sample.of([[(1 - loss) * value for value in rounds] for rounds in sample.launches])
        for size, sample in measured.throughput.items()
    }
    cases = {
        f"batch={size}": {"output_throughput": slower[size], "median_itl_ms": measured.itl[size]} for size in SIZES
    }
    return frontier(cases, ("output_throughput", "median_itl_ms"))


def frontiers(sweeps: int, noises: Sequence[float]) -> None:
    """Print the verdicts on frontiers."""
    for tolerance in (0.03, 0.05):
        policy = Policy(tolerance, max_launches=14, design="stored", single_look=True)
        for noise in noises:
            for truth, loss in (("still", 0.0), ("slower", 0.08)):
                draw = random.Random(f"{tolerance}{noise}{truth}")
                seen: Counter[str] = Counter()
                for _ in range(sweeps):
                    stored = points(16, 20, noise, draw)
                    seen[points(16, 14, noise, draw, loss).unchanged_from(stored, policy).status] += 1
                print_row(f"frontier of 10 points, tolerance {tolerance:.0%}", noise, truth, seen)


def print_row(what: str, noise: float, truth: str, seen: Counter[str]) -> None:
    said = ", ".join(f"{count / seen.total():.1%} {status}" for status, count in seen.most_common())
    print(f"{what:40} {noise:5.1%} {truth:>8}  {said}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweeps", nargs="?", type=int, default=300)
    parser.add_argument("--noise", type=float, nargs="*", default=[0.01, 0.03])
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--frontiers", action="store_true", help="only the frontiers")
    given = parser.parse_args()
    definitions = [
        Definition("bca"),
        Definition("share_of_maximum", {"share": 0.9}),
        Definition("kneedle"),
        Definition("two_segment"),
    ]
    print(f"{'definition':40} {'noise':>5} {'truth':>8}  verdicts of {given.sweeps} sweeps, 20 against 14 launches")
    frontiers(given.sweeps, given.noise)
    if given.frontiers:
        return
    for definition in definitions:
        for noise in given.noise:
            border = edge(definition, 16.0)
            truths = {"still": (16, 16), "edge": (border, border), "twofold": (16, 8), "fourfold": (16, 4)}
            for truth, (before, after) in truths.items():
                draw = random.Random(f"{definition.label}{noise}{truth}")
                seen: Counter[str] = Counter()
                for seed in range(given.sweeps):
                    stored = curve(before, 20, noise, draw).knee(definition, seed=seed, resamples=given.resamples)
                    now = curve(after, 14, noise, draw).knee(definition, seed=seed, resamples=given.resamples)
                    seen[now.unchanged_from(stored).status] += 1
                print_row(definition.label, noise, truth, seen)


if __name__ == "__main__":
    main()
