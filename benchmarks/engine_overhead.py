"""What serve() costs over a bare loop of generate_batch, and what a call back for each token costs.

    python benchmarks/engine_overhead.py [--seconds 60] [--threads 1]

All ways take turns in one process, in random order, so that whatever else the machine does meets all of them. Printed
are medians of the ratios to the bare loop of the same turn: `serve` as a caller sees it (with everything around the
engine's call), `timed` as it says itself, `observed` with token times, `unlike` with every second request one token
shorter, which takes a call back to end it. Turns in one process tell ways apart that differ by a few microseconds; what
a whole launch takes away, in processes of their own, is `launch_cost.py`'s question.
"""

import argparse
import random
import statistics
import time

from pytest_slmperf.core.engine import EngineSpec, Request
from pytest_slmperf.core.load.prompts import prompts
from pytest_slmperf.engines.ctranslate2 import CTranslate2

CASES = [("tiny-2x128", 1), ("tiny-2x128", 16), ("tiny-2x128", 64), ("tiny-4x256", 1), ("tiny-4x256", 16)]
TOKENS = 32
WAYS = ("serve", "timed", "observed", "unlike")


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--threads", type=int, default=1)
    chosen = arguments.parse_args()
    print(f"{'model':12} {'batch':>5} {'bare ms':>8} {' '.join(f'{way:>9}' for way in WAYS)} {'turns':>6}")
    for model, batch_size in CASES:
        times = compare(model, batch_size, threads=chosen.threads, seconds=chosen.seconds / len(CASES))
        ratios = (
            statistics.median(time / bare for time, bare in zip(times[way], times["bare"], strict=True)) for way in WAYS
        )
        row = " ".join(f"{ratio:9.3f}" for ratio in ratios)
        bare_ms = statistics.median(times["bare"]) / 1e6
        print(f"{model:12} {batch_size:5} {bare_ms:8.2f} {row} {len(times['bare']):6}")


def compare(model: str, batch_size: int, *, threads: int, seconds: float) -> dict[str, list[int]]:
    """Nanoseconds of each batch, by the way it was served."""
    engine = CTranslate2(EngineSpec("ctranslate2", model, threads=threads))
    vocabulary = engine.start().vocabulary
    requests = prompts([(TOKENS, TOKENS)] * batch_size, vocabulary=vocabulary, seed=0)
    unlike = [Request(request.prompt, TOKENS - index % 2) for index, request in enumerate(requests)]
    tokens = [[engine._vocabulary[token] for token in request.prompt] for request in requests]  # noqa: SLF001
    generator = engine._generator  # noqa: SLF001 - the bare loop has to use the same model

    times: dict[str, list[int]] = {way: [] for way in ("bare", *WAYS)}

    def bare() -> None:
        started = time.monotonic_ns()
        generator.generate_batch(
            tokens,
            max_length=TOKENS,
            min_length=TOKENS,
            beam_size=1,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        times["bare"].append(time.monotonic_ns() - started)

    def serve() -> None:
        started = time.monotonic_ns()
        served = engine.serve(requests, observe=False)
        times["serve"].append(time.monotonic_ns() - started)
        times["timed"].append(served.ended_ns - served.started_ns)

    def observed() -> None:
        served = engine.serve(requests, observe=True)
        times["observed"].append(served.ended_ns - served.started_ns)

    def shorter() -> None:
        served = engine.serve(unlike, observe=False)
        times["unlike"].append(served.ended_ns - served.started_ns)

    ways = [bare, serve, observed, shorter]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        random.shuffle(ways)
        for way in ways:
            way()
    return times


if __name__ == "__main__":
    main()
