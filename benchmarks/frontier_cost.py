"""What a frontier, its hypervolume and knees with intervals cost: python benchmarks/frontier_cost.py [POINTS]

A sweep of 1,000 points, 20 launches of 3 rounds each. Of the frontiers every point is non-dominated, which is the most
work. Each figure is the best of three, in milliseconds; the first row is paid once in a process. Ends with 1 if one
frontier in two metrics and one in three, their hypervolumes and the knee by one definition take more than a second.
"""

import math
import random
import sys
from collections.abc import Callable
from time import perf_counter
from timeit import repeat

from pytest_slmperf.core.curves.knee import RESAMPLES, Curve, Definition
from pytest_slmperf.core.curves.pareto import hypervolume, pareto
from pytest_slmperf.core.curves.replication import Replication
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.sample import Sample

LAUNCHES, ROUNDS = 20, 3
MOST_MS = 1000


def sphere(count: int, metrics: int, draw: random.Random) -> list[tuple[float, ...]]:
    """Points of which none dominates another: they are equally far from the origin."""
    points = [[abs(draw.gauss(0, 1)) + 1e-9 for _ in range(metrics)] for _ in range(count)]
    return [tuple(value / math.hypot(*point) for value in point) for point in points]


def sweep(count: int, draw: random.Random) -> Curve:
    """A throughput that saturates at 16, at places from 1 to 512."""

    def sample(centre: float) -> Sample:
        return Sample.of([[centre * math.exp(draw.gauss(0, 0.01)) for _ in range(ROUNDS)] for _ in range(LAUNCHES)])

    # 1 and 32, which the advisor asks for, are among them.
    places = sorted({1.0, 32.0, *(2 ** (9 * at / (count - 1)) for at in range(1, count - 1))})
    return Curve(
        {place: sample(300 * place / (1 + place / 16)) for place in places},
        {place: sample(3.0 * (1 + place / 16)) for place in places},
    )


def best_ms(work: Callable[[], object]) -> float:
    return min(repeat(work, number=1, repeat=3)) * 1e3


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    began = perf_counter()
    import numpy  # noqa: F401, ICN001, PLC0415 - its import is what is timed

    print(f"{count} points{'':<36}{'ms':>8}")
    print(f"{'importing numpy':<46}{(perf_counter() - began) * 1e3:8.1f}")
    draw, most, of_a_frontier = random.Random(1), 0.0, 0.0
    for metrics in (2, 3):
        points, up, origin = sphere(count, metrics, draw), [True] * metrics, [0.0] * metrics
        assert len(pareto(points, up)) == count
        rows = {
            f"frontier of {metrics} metrics": best_ms(lambda: pareto(points, up)),  # noqa: B023 - called at once
            f"hypervolume of {metrics} metrics": best_ms(lambda: hypervolume(points, up, origin)),  # noqa: B023 - as above
        }
        of_a_frontier += sum(rows.values())
        for name, cost in rows.items():
            print(f"{name:<46}{cost:8.1f}")
    curve = sweep(count, draw)
    for name in ("share_of_maximum", "bca", "kneedle", "two_segment"):
        cost = best_ms(lambda: curve.knee(Definition(name)))  # noqa: B023 - called at once
        most = max(most, cost)
        print(f"{f'knee by {name}, {RESAMPLES} resamples':<46}{cost:8.1f}")
    total = of_a_frontier + most
    print(f"{'frontiers, hypervolumes and the dearest knee':<46}{total:8.1f}")
    ten = dict(list(curve.throughput.items())[:: max(1, count // 10)])
    replication = Replication(dict.fromkeys((1, 2, 4), ten), metric("output_throughput"))
    print(f"{f'best of 3 replica counts at {len(ten)} batch sizes':<46}{best_ms(replication.best):8.1f}")
    return int(total > MOST_MS)


if __name__ == "__main__":
    sys.exit(main())
