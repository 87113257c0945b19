"""What a replica pool costs beside the same engines run by hand.

    python benchmarks/pool_cost.py [--model tiny-2x128] [--batches 2,16,64] [--replicas 2] [--starts 10] [--turns 20]

pool   Batches that a pool of CTranslate2 serves, each replica pinned to a core of its own, as `serve` takes.
hand   The same batches on as many bare CTranslate2 processes on the same cores, each told to begin by a byte in a pipe
       and heard of by another: whoever runs replicas by hand has to wait for the last of a batch, too.
free   The same processes, and none waits for another: what it costs that a batch ends with its slowest part.

They take turns in random order, a tenth of a second each, and all processes are started anew for each of `--starts`:
where memory lies makes two processes unlike. Printed are the median ratios of throughput (1 is no cost; below 1 the
pool is slower) with the bounds of nine in ten starts, and what the pool itself takes of a batch: its time, less that of
its slowest replica.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field

from pytest_slmperf.core.answers import shares
from pytest_slmperf.core.engine import EngineSpec, Request
from pytest_slmperf.core.load.prompts import prompts
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.core.shapes import shape_of
from pytest_slmperf.engines import registry
from pytest_slmperf.engines.ctranslate2 import random_model, read_vocabulary
from pytest_slmperf.run.pinning import choose_cores

TOKENS = 32
TURN_S = 0.1

BARE = """
import json, os, sys, time
asked = json.loads(sys.stdin.readline())
os.sched_setaffinity(0, [asked["core"]])
import ctranslate2
generator = ctranslate2.Generator(asked["folder"], device="cpu", inter_threads=1, intra_threads=1)
told, says = sys.stdin.fileno(), sys.stdout.fileno()

def batch():
    generator.generate_batch(asked["prompts"], max_batch_size=0, max_length=asked["tokens"],
                             min_length=asked["tokens"], beam_size=1, sampling_topk=1, include_prompt_in_result=False)

batch()
os.write(says, b"1")
while count := os.read(told, 1):
    for _ in range(count[0]):
        batch()
    os.write(says, b"1")
"""


@dataclass
class Hand:
    """Bare processes, one for each part of a batch."""

    parts: list[list[Request]]
    model: str
    cores: tuple[int, ...]
    processes: list[subprocess.Popen] = field(default_factory=list)

    def __enter__(self):
        folder = random_model(shape_of(self.model))
        vocabulary = read_vocabulary(folder)
        for core, part in zip(self.cores, self.parts, strict=False):
            words = [[vocabulary[token] for token in request.prompt] for request in part]
            asked = {"core": core, "folder": str(folder), "prompts": words, "tokens": TOKENS}
            process = subprocess.Popen(
                [sys.executable, "-c", BARE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            process.stdout.read(1)
            self.processes.append(process)
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def run(self, batches: int, together: int) -> int:
        """Nanoseconds of so many batches, of which so many at a time are begun together."""
        began = time.monotonic_ns()
        for _ in range(batches // together):
            for process in self.processes:
                os.write(process.stdin.fileno(), bytes([together]))
            for process in self.processes:
                os.read(process.stdout.fileno(), 1)
        return time.monotonic_ns() - began


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="tiny-2x128")
    options.add_argument("--batches", default="2,16,64", help="requests of a batch, of all replicas together")
    options.add_argument("--replicas", type=int, default=2)
    options.add_argument("--starts", type=int, default=10)
    options.add_argument("--turns", type=int, default=20, help="of each way, in each start")
    asked = options.parse_args()
    print(f"{'batch':>5} {'ms':>7} {'pool / hand':>22} {'hand / free':>22} {'a batch takes of the pool':>26}")
    for size in map(int, asked.batches.split(",")):
        found = [one_start(asked.model, size, asked.replicas, asked.turns) for _ in range(asked.starts)]
        batch_ms, of_hand, of_free, own_us = zip(*found, strict=True)
        print(
            f"{size:5} {statistics.median(batch_ms):7.2f} {bounded(of_hand):>22} {bounded(of_free):>22} "
            f"{statistics.median(own_us):23.0f} µs"
        )


def one_start(model: str, size: int, replicas: int, turns: int) -> tuple[float, float, float, float]:
    """Milliseconds of a batch, the ratios of throughput, and microseconds that the pool takes of a batch."""
    cores = choose_cores(1, replicas)
    os.sched_setaffinity(0, cores)
    engine = registry.create(EngineSpec("ctranslate2", model, pool=Pool(replicas)))
    try:
        vocabulary = engine.start().vocabulary
        requests = prompts([(TOKENS, TOKENS)] * size, vocabulary=vocabulary, seed=0)
        parts = [list(requests[part.start : part.stop]) for part in shares(size, replicas)]
        with Hand(parts, model, cores) as hand:
            return compared(engine, requests, hand, turns)
    finally:
        engine.stop()


def compared(engine, requests, hand: Hand, turns: int) -> tuple[float, float, float, float]:
    own_us: list[float] = []
    for _ in range(3):
        served = engine.serve(requests, observe=False)
    batches = min(255, max(1, round(TURN_S * 1e9 / (served.ended_ns - served.started_ns))))

    def pool() -> int:
        began = before = time.monotonic_ns()
        for _ in range(batches):
            one = engine.serve(requests, observe=False)
            after = time.monotonic_ns()
            own_us.append((after - before - max(work.served_ns for work in one.replicas)) / 1000)
            before = after
        return time.monotonic_ns() - began

    ways = {"pool": pool, "hand": lambda: hand.run(batches, 1), "free": lambda: hand.run(batches, batches)}
    times: dict[str, list[int]] = {way: [] for way in ways}
    for _ in range(turns):
        for way in random.sample(list(ways), len(ways)):
            times[way].append(ways[way]())
    pool_ns, hand_ns, free_ns = (statistics.median(times[way]) for way in ("pool", "hand", "free"))
    return pool_ns / batches / 1e6, hand_ns / pool_ns, free_ns / hand_ns, statistics.median(own_us)


def bounded(ratios: tuple[float, ...]) -> str:
    """The median, and what the middle nine of ten lie between."""
    ordered = sorted(ratios)
    cut = round(0.05 * (len(ordered) - 1))
    return f"{statistics.median(ordered):.3f} ({ordered[cut]:.3f}…{ordered[-1 - cut]:.3f})"


if __name__ == "__main__":
    main()
