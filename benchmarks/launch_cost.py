"""What a launch costs: in the throughput that it measures, and in time that nothing is measured in.

    python benchmarks/launch_cost.py [--model tiny-2x128] [--batches 1,16] [--pairs 20] [--launches 30]

engine   The same prompts in the same batches on the same core, measured by `run_launch` and by a bare CTranslate2 loop
         in a plain process of its own, taking turns in random order. The ratio of their throughputs is what the harness
         takes away; 1 is nothing. Both sides leave out rounds in which others had the core, or the table would compare
         one moment of this machine with another.
launch   Time of a launch of the fake engine, which takes none itself: the process's start and end, and each round.
guards   Time of the readings around a round, and of a scan for culprits.

Here both sides are a process of their own, as a launch is, which spreads too widely for what single calls of the engine
cost beside each other: `engine_overhead.py` lets those take turns in one process.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import CaseRecord, Load, RoundPolicy
from pytest_slmperf.core.load.prompts import prompts
from pytest_slmperf.core.shapes import shape_of
from pytest_slmperf.engines.ctranslate2 import random_model, read_vocabulary
from pytest_slmperf.run.blame import scan
from pytest_slmperf.run.launch import run_launch
from pytest_slmperf.run.pinning import choose_cores, keep_off
from pytest_slmperf.run.witness import Witness

TOKENS = 32
POLICY = RoundPolicy(rounds=4, round_s=0.1, observed_requests=0, void_retries=6)
UNDISTURBED = 0.98
"""Share of its wall time that a bare round must have had the core for: what the guards ask of ours."""

BARE = """
import json, os, sys, time
asked = json.load(sys.stdin)
os.sched_setaffinity(0, asked["cores"])
import ctranslate2
generator = ctranslate2.Generator(asked["folder"], device="cpu", inter_threads=1, intra_threads=1)

def round_of(batches):
    began, busy = time.monotonic_ns(), time.process_time_ns()
    for _ in range(batches):
        results = generator.generate_batch(
            asked["prompts"], max_batch_size=0, max_length=asked["tokens"], min_length=asked["tokens"], beam_size=1,
            sampling_topk=1, include_prompt_in_result=False)
    ended = time.monotonic_ns()
    assert all(len(result.sequences_ids[0]) == asked["tokens"] for result in results)
    return ended - began, (time.process_time_ns() - busy) / (ended - began)

first_ns, _ = round_of(1)
step = max(1, round(asked["round_s"] * 1e9 / 20 / first_ns))
batches = max(1, round(asked["round_s"] * 1e9 / min(round_of(step)[0] for _ in range(5)) * step))
rounds, pause_s = [], 0.1
while len(rounds) < asked["rounds"] and pause_s < asked["patience_s"]:
    wall_ns, had_the_core = round_of(batches)
    if had_the_core > asked["undisturbed"]:
        rounds.append(wall_ns)
        pause_s = 0.1
    else:
        time.sleep(pause_s)
        pause_s *= 2
json.dump([batches, rounds], sys.stdout)
"""


def bare(model: str, size: int, cores: tuple[int, ...]) -> float | None:
    """Output tok/s of a bare loop: the median of its undisturbed rounds, or None where there were too few."""
    folder = random_model(shape_of(model))
    vocabulary = read_vocabulary(folder)
    requests = prompts(((TOKENS, TOKENS),) * size, vocabulary=len(vocabulary), seed=1)
    asked = {
        "folder": str(folder),
        "cores": cores,
        "prompts": [[vocabulary[token] for token in request.prompt] for request in requests],
        "tokens": TOKENS,
        "rounds": POLICY.rounds,
        "round_s": POLICY.round_s,
        "patience_s": 0.1 * 2**POLICY.void_retries,
        "undisturbed": UNDISTURBED,
    }
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    with keep_off(cores):
        done = subprocess.run(
            [sys.executable, "-c", BARE],
            input=json.dumps(asked),
            env=environment,
            capture_output=True,
            check=True,
            text=True,
        )
    batches: int
    rounds_ns: list[int]
    batches, rounds_ns = json.loads(done.stdout)
    if len(rounds_ns) < POLICY.rounds:
        return None
    return batches * size * TOKENS / statistics.median(rounds_ns) * 1e9


def ours(model: str, size: int, cores: tuple[int, ...]) -> float | None:
    """Output tok/s by `run_launch`, or None where it is void."""
    case = launched(EngineSpec("ctranslate2", model), size, cores)
    rounds = case.values.get("output_throughput", ())
    return statistics.median(rounds) if len(rounds) == POLICY.rounds else None


def launched(spec: EngineSpec, size: int, cores: tuple[int, ...] | None, rounds: int = POLICY.rounds) -> CaseRecord:
    load = Load("case", ((TOKENS, TOKENS),) * size, seed=1)
    record = run_launch(
        spec, [load], replace(POLICY, rounds=rounds), arm="candidate", index=0, cores=cores, quantiles=()
    )
    return record.cases["case"]


def compare(model: str, sizes: list[int], pairs: int) -> None:
    cores = choose_cores(1)
    print(f"engine: {model}, {TOKENS} + {TOKENS} tokens, core {cores[0]}, {pairs} pairs wanted")
    print(
        f"{'batch':>6} {'pairs':>6} {'bare tok/s':>12} {'ours tok/s':>12} {'ratio':>7}   95 % interval   sd of a pair"
    )
    for size in sizes:
        found: list[tuple[float, float]] = []
        for _ in range(3 * pairs):
            sides: list[Callable[[str, int, tuple[int, ...]], float | None]] = [bare, ours]
            random.shuffle(sides)
            pair = {side.__name__: side(model, size, cores) for side in sides}
            if pair["bare"] and pair["ours"]:
                found.append((pair["bare"], pair["ours"]))
            if len(found) == pairs:
                break
        if len(found) < 6:
            print(f"{size:>6} {len(found):>6}   too few undisturbed pairs: the machine is busy")
            continue
        ratios = [mine / theirs for theirs, mine in found]
        low, high = median_interval(ratios)
        medians = [statistics.median(side) for side in zip(*found, strict=True)]
        print(
            f"{size:>6} {len(found):>6} {medians[0]:>12,.0f} {medians[1]:>12,.0f} {statistics.median(ratios):>7.4f}"
            f"   {low:.4f}…{high:.4f}   {statistics.stdev(ratios):.4f}",
            flush=True,
        )


def median_interval(values: list[float]) -> tuple[float, float]:
    """95 % interval of the median, by resampling."""
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], medians[1949]


def launches(count: int) -> None:
    spec = EngineSpec("fake", "tiny")
    timed("launch of the fake engine, one case of one round", count, lambda: launched(spec, 1, None, rounds=1))
    began = time.perf_counter()
    launched(spec, 1, None, rounds=1000)
    print(f"{'launch of 1,000 simulated rounds':<52} {(time.perf_counter() - began) * 1e3:>9.1f} ms")


def guards(count: int) -> None:
    witness = Witness(os.getpid(), choose_cores(1))
    timed("reading before or after a round", count * 10, witness.read)
    timed(f"scan of {len(scan())} processes", count, scan)


def timed(name: str, count: int, do: Callable[[], object]) -> None:
    times_ms = []
    for _ in range(count):
        began = time.perf_counter()
        do()
        times_ms.append((time.perf_counter() - began) * 1e3)
    deciles = statistics.quantiles(times_ms, n=10)
    spread = f"({deciles[0]:.3f}…{deciles[-1]:.3f}, first to last decile)"
    print(f"{name:<52} {statistics.median(times_ms):>9.3f} ms   {spread}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="tiny-2x128")
    options.add_argument("--batches", default="1,16")
    options.add_argument("--pairs", type=int, default=20)
    options.add_argument("--launches", type=int, default=30)
    asked = options.parse_args()
    launches(asked.launches)
    guards(asked.launches)
    compare(asked.model, [int(size) for size in asked.batches.split(",")], asked.pairs)


if __name__ == "__main__":
    main()
