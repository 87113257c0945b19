"""Whether a case's peak of memory hangs on the cases that are measured beside it.

    python benchmarks/peak_memory.py [--model tiny-2x128] [--batches 8,48] [--tokens 64] [--launches 3]

Launches of the real engine: each case alone, and all of them together in random order. Printed is the highest and the
lowest peak of each. Memory is no matter of time, so a busy machine does no harm.
"""

import argparse
import random

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.run.launch import run_launch

MIB = 2**20
POLICY = RoundPolicy(rounds=0, round_s=0.001, observed_requests=0)


def peaks_mib(spec: EngineSpec, loads: list[Load]) -> dict[str, float]:
    """The peak of each case of one launch."""
    record = run_launch(spec, loads, POLICY, arm="candidate", index=0, cores=None, quantiles=())
    return {name: case.values["peak_memory_bytes"][0] / MIB for name, case in record.cases.items()}


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="tiny-2x128")
    options.add_argument("--dtype", default="float32")
    options.add_argument("--batches", default="8,48")
    options.add_argument("--tokens", type=int, default=64, help="of each prompt, and of each answer")
    options.add_argument("--launches", type=int, default=3)
    asked = options.parse_args()
    spec = EngineSpec("ctranslate2", asked.model, dtype=asked.dtype)
    loads = [Load(size, ((asked.tokens, asked.tokens),) * int(size), seed=1) for size in str(asked.batches).split(",")]
    together: list[dict[str, float]] = []
    for _ in range(asked.launches):
        random.shuffle(loads)
        together.append(peaks_mib(spec, loads))
    print(f"{asked.model} {asked.dtype}, {asked.tokens} + {asked.tokens} tokens, MiB")
    print(f"{'batch':>6} {'alone':>17} {'beside others':>17}")
    for load in sorted(loads, key=lambda load: len(load.lengths)):
        alone = [peaks_mib(spec, [load]) for _ in range(asked.launches)]
        ranges = [[peaks[load.case] for peaks in way] for way in (alone, together)]
        shown = [f"{min(found):.1f}…{max(found):.1f}" for found in ranges]
        print(f"{load.case:>6} {shown[0]:>17} {shown[1]:>17}", flush=True)


if __name__ == "__main__":
    main()
