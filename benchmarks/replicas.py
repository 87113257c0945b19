"""Two pinned replicas against one engine with two threads, per model and batch, and where they cross.

    python benchmarks/replicas.py [--models tiny-2x128,opt-125m] [--batches 2,8,16,32,64] [--launches 10] [--replicas 2]
                                  [--dtype float32] [--kind processes]

Launches of the real engine as a suite makes them, guards and all: each measures every batch, and those of both ways
take turns in random order. Printed are the medians of output tokens per second and their ratio with a bootstrapped 95 %
interval over launches, and at which batch of all replicas together the ratio goes through 1, by a straight line between
the logarithms of its neighbours. A case that others disturbed too often is left out of its launch, and counted.
"""

import argparse
import math
import random
import statistics
from collections import defaultdict
from itertools import pairwise

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.run.launch import run_launch
from pytest_slmperf.run.pinning import choose_cores

TOKENS = 32
POLICY = RoundPolicy(rounds=4, round_s=0.1, observed_requests=0, void_retries=6)
RESAMPLES = 2_000


def main() -> None:
    """Print a table for each model."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", default="tiny-2x128,opt-125m")
    options.add_argument("--batches", default="2,8,16,32,64", help="requests of a batch, of all replicas together")
    options.add_argument("--launches", type=int, default=10)
    options.add_argument("--replicas", type=int, default=2)
    options.add_argument("--dtype", default="float32")
    options.add_argument("--kind", default="processes", choices=("processes", "threads"))
    asked = options.parse_args()
    sizes = [int(size) for size in asked.batches.split(",")]
    for model in asked.models.split(","):
        one = EngineSpec("ctranslate2", model, dtype=asked.dtype, threads=asked.replicas)
        many = EngineSpec("ctranslate2", model, dtype=asked.dtype, pool=Pool(asked.replicas, asked.kind))
        measured = [(one, defaultdict(list)), (many, defaultdict(list))]
        void = 0
        for _ in range(asked.launches):
            for spec, by_size in random.sample(measured, 2):
                for size, rate in rates(spec, sizes).items():
                    void += rate is None
                    if rate is not None:
                        by_size[size].append(rate)
        print(
            f"\n{model} {asked.dtype}: one engine of {asked.replicas} threads, {asked.replicas} replicas; {void} void"
        )
        print(f"{'batch':>5} {'one':>10} {'replicas':>10} {'ratio (95 %)':>24}")
        ratios = {}
        for size in sizes:
            single, pooled = (by_size[size] for _, by_size in measured)
            if not single or not pooled:
                print(f"{size:5} {'-':>10} {'-':>10}")
                continue
            ratios[size] = statistics.median(pooled) / statistics.median(single)
            low, high = interval(single, pooled)
            print(
                f"{size:5} {statistics.median(single):10,.0f} {statistics.median(pooled):10,.0f} "
                f"{ratios[size]:8.3f} ({low:.3f}…{high:.3f})"
            )
        print(crossing(ratios))


def rates(spec: EngineSpec, sizes: list[int]) -> dict[int, float | None]:
    """The median of a launch's rounds by batch; None of one that stayed void."""
    order = random.sample(sizes, len(sizes))
    loads = [Load(str(size), ((TOKENS, TOKENS),) * size, seed=1) for size in order]
    cores = choose_cores(spec.threads, spec.cores // spec.threads)
    record = run_launch(spec, loads, POLICY, arm="candidate", index=0, cores=cores, quantiles=())
    return {
        int(name): None if case.void else statistics.median(case.values["output_throughput"])
        for name, case in record.cases.items()
    }


def interval(single: list[float], pooled: list[float]) -> tuple[float, float]:
    """Of the ratio of medians, by resampling launches."""

    def drawn(rates: list[float]) -> float:
        return statistics.median(random.choices(rates, k=len(rates)))

    ratios = sorted(drawn(pooled) / drawn(single) for _ in range(RESAMPLES))
    return ratios[round(0.025 * RESAMPLES)], ratios[round(0.975 * RESAMPLES) - 1]


def crossing(ratios: dict[int, float]) -> str:
    """Where replicas and threads are as fast."""
    for (before, one), (after, other) in pairwise(sorted(ratios.items())):
        if (one - 1) * (other - 1) <= 0 and one != other:
            share = math.log(one) / (math.log(one) - math.log(other))
            at = math.exp(math.log(before) + share * (math.log(after) - math.log(before)))
            return f"they cross at a batch of about {at:.0f}: replicas are {'slower' if one > 1 else 'faster'} above"
    return "they don't cross"


if __name__ == "__main__":
    main()
