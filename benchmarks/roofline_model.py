"""What batches reach of the limits that a device sets them, and how far the limits are from one time to the next.

    python benchmarks/roofline_model.py [--only opt-125m] [--repeat 3]

CTranslate2 on one pinned core, a process for each model and type. Times are those of its work, without those in which
another program had the core: on a machine that others share the figures are no worse than on one that rests, but for
the memory that all of them read. Beside each case stands its share of the limit, which of reading and computing sets
it, and what either would take alone, of the time that it took.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.load.prompts import prompts
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.roofline import GROWN_BY_COPYING, Roof, limit
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.engines.ctranslate2 import CTranslate2
from pytest_slmperf.run.roofs import Roofs

BATCHES = {  # prompt and output tokens, batches
    "tiny-2x128": (128, 128, [1, 4, 16, 64]),
    "tiny-4x256": (128, 128, [1, 4, 16, 64]),
    "smollm2-135m": (32, 32, [1, 4, 16]),
    "opt-125m": (32, 32, [1, 4, 16]),
}
LEAST_S = 0.4
"""That each batch is repeated for."""


def measure(model: str, dtype: str) -> None:
    """Print the seconds of CPU that each batch took, the fastest of all."""
    prompt, output, batches = BATCHES[model]
    engine = CTranslate2(EngineSpec("ctranslate2", model, dtype=dtype))
    facts = engine.start()
    took = {}
    for batch in batches:
        requests = prompts([(prompt, output)] * batch, vocabulary=facts.vocabulary, seed=1)
        engine.serve(requests, observe=False)
        times: list[float] = []
        while len(times) < 2 or sum(times) < LEAST_S:
            began = time.process_time()
            engine.serve(requests, observe=False)
            times.append(time.process_time() - began)
        took[batch] = min(times)
    print(json.dumps(took))


def main() -> None:
    """Measure one model and print its times, or all and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", default="")
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("case", nargs="*")
    chosen = arguments.parse_args()
    if chosen.case:
        measure(*chosen.case)
        return
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    roofs = [one for _ in range(chosen.repeat) if (one := Roofs(Machine("here", "here")).measure([core]))]
    for at, reading in enumerate(roofs[0].readings):
        told(f"{reading.set_bytes / 2**20:4.0f} MiB, GB/s", [one.readings[at].bytes_per_s / 1e9 for one in roofs])
    told("float32, GFLOPS", [one.flops["float32"] / 1e9 for one in roofs])
    roof = roofs[0]
    heads = (f"{'tok/s':>8} {'of limit':>9} {'set by':>10}", f"{'read':>6} {'compute':>8}")
    print("", f"{'model':14} {'dtype':8} {'batch':>5} {heads[0]} {heads[1]}", sep="\n")
    for model, (prompt, output, batches) in BATCHES.items():
        for dtype in ("float32", "int8"):
            if chosen.only and chosen.only != model:
                continue
            command = [sys.executable, __file__, model, dtype]
            done = subprocess.run(command, capture_output=True, check=True, encoding="utf-8")
            took = json.loads(done.stdout.splitlines()[-1])
            for batch in batches:
                print(row(model, dtype, batch, (prompt, output), took[str(batch)], roof))


def told(what: str, values: list[float]) -> None:
    """The median of several measurements, and how far they are apart."""
    print(f"{what:16} {median(values):8.1f}  ({min(values):.1f} to {max(values):.1f})")


def row(model: str, dtype: str, batch: int, tokens: tuple[int, int], took_s: float, roof: Roof) -> str:
    """A line of the table."""
    prompt, output = tokens
    found = limit(
        SHAPES[model],
        dtype,
        roof,
        requests=batch,
        prompt_tokens=prompt,
        output_tokens=output,
        caching=GROWN_BY_COPYING,
    )
    set_by = "bandwidth" if found.set_by_reading else "compute"
    computing = "" if found.compute_s is None else f"{found.compute_s / took_s:.0%}"
    figures = (
        f"{batch * output / took_s:8.0f} {found.least_s / took_s:9.0%} {set_by:>10} {found.memory_s / took_s:6.0%}"
    )
    return f"{model:14} {dtype:8} {batch:5} {figures} {computing:>8}"


if __name__ == "__main__":
    main()
