"""What Ray adds to a round: replicas as actors on a Ray cluster of this machine, against processes of its own.

    python benchmarks/ray_cost.py [--seconds 60] [--replicas 2]

It takes the extra `ray`. Both pools have the same engine, the same number of pinned cores and the same batches, and are
alive at the same time; they take turns, in random order, a round of batches each, so that whatever else the machine
does meets both. A round is as long as the launch sees it: from the first batch's begin to the last one's end, with all
that happens between two batches. Printed are medians: a batch by local processes, by Ray, their ratio and difference;
then by how much the node's clock may be wrong.
"""

import argparse
import os
import random
import statistics
import time

from pytest_slmperf.core.engine import Engine, EngineSpec, Request
from pytest_slmperf.core.load.prompts import prompts
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.engines import registry

CASES = [("tiny-2x128", 4), ("tiny-2x128", 64), ("tiny-4x256", 16)]
TOKENS = 32
ROUND_S = 0.1
NS_PER_MS = 1e6


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--replicas", type=int, default=2)
    chosen = arguments.parse_args()
    columns = f"{'local ms':>9} {'Ray ms':>9} {'ratio':>7} {'Ray adds':>9} {'clock ±':>8} {'turns':>6}"
    print(f"{'model':12} {'batch':>5} {columns}")
    for model, batch_size in CASES:
        print(f"{model:12} {batch_size:5} {compared(model, batch_size, chosen.replicas, chosen.seconds / len(CASES))}")


def compared(model: str, batch_size: int, replicas: int, seconds: float) -> str:
    """A line of the table."""
    pools = {}
    try:
        for kind in ("processes", "ray"):
            pools[kind] = registry.create(EngineSpec("ctranslate2", model, pool=Pool(replicas, kind)))
            facts = pools[kind].start()
            os.sched_setaffinity(0, range(os.cpu_count() or 1))  # a pool of processes steps aside
        batch = prompts([(TOKENS, TOKENS)] * batch_size, vocabulary=facts.vocabulary, seed=0)
        often = {kind: max(1, round(ROUND_S / (round_ns(pool, batch, 3) / 1e9))) for kind, pool in pools.items()}
        times: dict[str, list[float]] = {kind: [] for kind in pools}
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for kind in random.sample(sorted(pools), len(pools)):
                times[kind].append(round_ns(pools[kind], batch, min(often.values())) / NS_PER_MS)
        error_ms = max(one.clock_error_ns for one in pools["ray"]._replicas) / NS_PER_MS  # noqa: SLF001
    finally:
        for pool in pools.values():
            pool.stop()
    both = list(zip(times["processes"], times["ray"], strict=True))
    local, ray = (statistics.median(times[kind]) for kind in ("processes", "ray"))
    ratio = statistics.median(other / one for one, other in both)
    added = statistics.median(other - one for one, other in both)
    return f"{local:9.3f} {ray:9.3f} {ratio:7.3f} {added:+8.3f}  {error_ms:8.3f} {len(both):6}"


def round_ns(pool: Engine, batch: list[Request], batches: int) -> float:
    """A batch of a round of so many, without a pause."""
    served = [pool.serve(batch, observe=False) for _ in range(batches)]
    return (served[-1].ended_ns - served[0].started_ns) / batches


if __name__ == "__main__":
    main()
