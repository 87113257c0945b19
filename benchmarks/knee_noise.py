"""How often the gate on a knee is wrong, on sweeps whose truth is known: python benchmarks/knee_noise.py [SWEEPS].

A throughput saturates over the batch, T(B) = B / (1 + B / half); launches scatter by `noise` on the log scale, share
a factor of their launch, and each arm has a day of its own. `still` has one true curve in both arms; `edge` too,
exactly where the knee changes from one batch size to the next. `twofold` and `fourfold` let the candidate saturate that
much earlier.
"""

import argparse
import math
import random
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from pytest_slmperf.core.frontier import Curve, Definition
from pytest_slmperf.core.sample import Sample

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
DAY_SD = 0.007


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweeps", nargs="?", type=int, default=300)
    parser.add_argument("--noise", type=float, nargs="*", default=[0.01, 0.03])
    parser.add_argument("--resamples", type=int, default=300)
    given = parser.parse_args()
    definitions = [
        Definition("bca"),
        Definition("share_of_maximum", {"share": 0.9}),
        Definition("kneedle"),
        Definition("two_segment"),
    ]
    print(f"{'definition':40} {'noise':>5} {'truth':>8}  verdicts of {given.sweeps} sweeps, 20 against 14 launches")
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
                said = ", ".join(f"{count / given.sweeps:.1%} {status}" for status, count in seen.most_common())
                print(f"{definition.label:40} {noise:5.1%} {truth:>8}  {said}", flush=True)


if __name__ == "__main__":
    main()
