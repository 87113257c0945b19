"""What the judgement itself costs: python benchmarks/gate_cost.py

Each figure is the best of several repetitions, in milliseconds and as a multiple of what numpy needs to read the same
numbers into two arrays and take each launch's median log, so that machines can be compared.
"""

import math
import random
import sys
from time import perf_counter
from timeit import repeat

import numpy as np

from pytest_slmperf.core import gate
from pytest_slmperf.core.judging.limit import judge_against_number
from pytest_slmperf.core.judging.tolerance import supported_tolerance
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.sample import Sample

THROUGHPUT = metric("output_throughput")
ROUNDS = 32


def sample(launches: int, shift: float, draw: random.Random) -> Sample:
    """Launches that differ by 1 %, of rounds that differ by 1 %."""
    means = [draw.gauss(-shift, 0.01) for _ in range(launches)]
    return Sample.of([[100 * math.exp(draw.gauss(mean, 0.01)) for _ in range(ROUNDS)] for mean in means])


def best_ms(work, number: int = 50) -> float:
    return min(repeat(work, number=number, repeat=9)) / number * 1e3


def main() -> int:
    draw = random.Random(1)
    baseline, short, candidate, slow = (sample(n, s, draw) for n, s in ((20, 0), (16, 0), (16, 0), (16, 0.03)))
    stored, interleaved = gate.Policy(0.03), gate.Policy(0.03, design="interleaved")
    began = perf_counter()
    gate.judge(THROUGHPUT, baseline, candidate, stored)
    first_ms = (perf_counter() - began) * 1e3

    def read() -> None:
        for arm in (baseline, candidate):
            np.median(np.log(np.array(arm.launches)), axis=1)

    unit = best_ms(read)
    rows = {
        "reading with numpy": read,
        "stored, 20 and 16 launches": lambda: gate.judge(THROUGHPUT, baseline, candidate, stored),
        "stored, inconclusive": lambda: gate.judge(THROUGHPUT, baseline, slow, stored),
        "interleaved, 16 and 16 launches": lambda: gate.judge(THROUGHPUT, short, candidate, interleaved),
        "supported tolerance": lambda: supported_tolerance(baseline, THROUGHPUT, stored),
        "against a number": lambda: judge_against_number(THROUGHPUT, candidate, 98, at_least=True),
    }
    print(f"{ROUNDS} rounds per launch{'':<15}{'ms':>8}{'× numpy':>10}")
    for name, work in rows.items():
        cost = best_ms(work)
        print(f"{name:<34}{cost:8.3f}{cost / unit:10.1f}")
    print(f"{'first verdict of a process':<34}{first_ms:8.3f}{first_ms / unit:10.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
