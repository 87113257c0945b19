"""The predicted peak of a process beside what the kernel counts, case by case.

    python benchmarks/memory_model.py [--only tiny-4x256]

Each case is a process of its own: it starts the engine, resets the kernel's high-water mark (5 to
/proc/self/clear_refs, after malloc_trim), serves the batch once and reads VmHWM. Linux only.
"""

import argparse
import ctypes
import re
import subprocess
import sys
from pathlib import Path

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.heap import MIB
from pytest_slmperf.core.memory import predicted_peak
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.core.workload import prompts
from pytest_slmperf.engines.ctranslate2 import CTranslate2, random_model

# (model, dtype, batch, prompt tokens, output tokens)
CASES = [
    ("tiny-4x256", "float32", 1, 32, 512),
    ("tiny-4x256", "float32", 16, 32, 256),
    ("tiny-4x256", "float32", 64, 32, 100),
    ("tiny-4x256", "float32", 64, 32, 200),
    ("tiny-4x256", "float32", 64, 512, 8),
    ("tiny-4x256", "int8", 16, 32, 256),
    ("tiny-4x256", "int8", 64, 32, 100),
    ("opt-125m", "float32", 1, 32, 16),
    ("opt-125m", "float32", 8, 32, 128),
    ("opt-125m", "float32", 16, 128, 32),
    ("opt-125m", "int8", 8, 32, 128),
    ("opt-125m", "int8", 16, 128, 32),
    ("smollm2-135m", "float32", 8, 64, 64),
    ("smollm2-135m", "int8", 8, 64, 64),
    ("gemma-3-270m", "int8", 4, 64, 32),
]


def status_bytes(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    if found is None:
        raise LookupError(name)
    return int(found[1]) * 1024


def measure(model: str, dtype: str, batch_size: int, prompt_tokens: int, output_tokens: int) -> tuple[int, int]:
    """Bytes before the engine was started, and the high-water mark of its first batch."""
    engine = CTranslate2(EngineSpec("ctranslate2", model, dtype=dtype))
    __import__("ctranslate2")  # so that the library's own pages count as the process's
    before = status_bytes("VmRSS")
    vocabulary = engine.start().vocabulary
    requests = prompts([(prompt_tokens, output_tokens)] * batch_size, vocabulary=vocabulary, seed=0)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    engine.serve(requests, observe=False)
    return before, status_bytes("VmHWM")


def main() -> None:
    """Measure one case and print two numbers, or all cases and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", default="")
    arguments.add_argument("case", nargs="*")
    chosen = arguments.parse_args()
    if chosen.case:
        model, dtype, *numbers = chosen.case
        print(*measure(model, dtype, *map(int, numbers)))
        return
    heads = ("process", "weights", "cache", "batch")
    print(f"{'MiB':34} {' '.join(f'{head:>8}' for head in heads)} {'predicted':>13} {'measured':>9}")
    for model, dtype, *numbers in CASES:
        if not model.startswith(chosen.only):
            continue
        random_model(SHAPES[model])
        command = [sys.executable, __file__, model, dtype, *map(str, numbers)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        before, measured = map(int, answer.split())
        batch_size, prompt_tokens, output_tokens = numbers
        peak = predicted_peak(
            SHAPES[model],
            dtype,
            batch_size=batch_size,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            process_bytes=before,
        )
        parts = " ".join(f"{part / MIB:8.1f}" for part in (peak.process, peak.weights, peak.cache, peak.batch))
        case = f"{model} {dtype} {batch_size} × {prompt_tokens} + {output_tokens}"
        print(f"{case:34} {parts} {peak.total / MIB:13.1f} {measured / MIB:9.1f} {peak.total / measured - 1:+7.1%}")


if __name__ == "__main__":
    main()
