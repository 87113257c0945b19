"""The predicted peak of a process beside what a launch measures, case by case.

    python benchmarks/memory_model.py [--only tiny-4x256]

Each case is a process of its own that starts the engine and measures the peak as a launch does: half of the batch is
served first, then the kernel's high-water mark is reset and the whole batch is served once; pages of libraries don't
count. Linux only.
"""

import argparse
import subprocess
import sys

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.memory import MIB, predicted_peak
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.engines.ctranslate2 import CTranslate2, random_model
from pytest_slmperf.worker.memory import forget_peak, peak_bytes
from pytest_slmperf.worker.serving import Case

# (model, dtype, batch, prompt tokens, output tokens)
CASES = [
    ("tiny-4x256", "float32", 1, 32, 512),
    ("tiny-4x256", "float32", 16, 32, 256),
    ("tiny-4x256", "float32", 64, 32, 100),
    ("tiny-4x256", "float32", 64, 32, 200),
    ("tiny-4x256", "float32", 64, 128, 16),
    ("tiny-4x256", "float32", 64, 512, 8),
    ("tiny-4x256", "int8", 16, 32, 256),
    ("tiny-4x256", "int8", 64, 32, 32),
    ("tiny-4x256", "int8", 64, 32, 100),
    ("tiny-4x256", "int8", 64, 32, 200),
    ("tiny-4x256", "int8", 64, 128, 16),
    ("tiny-4x256", "int8", 64, 512, 8),
    ("tiny-2x128", "float32", 48, 32, 96),
    ("tiny-2x128", "int8", 48, 32, 96),
    ("tiny-2x128", "int8", 64, 128, 8),
    ("opt-125m", "float32", 1, 32, 16),
    ("opt-125m", "float32", 8, 32, 128),
    ("opt-125m", "float32", 16, 128, 32),
    ("opt-125m", "int8", 8, 32, 128),
    ("opt-125m", "int8", 16, 128, 32),
    ("smollm2-135m", "float32", 8, 64, 64),
    ("smollm2-135m", "int8", 8, 64, 64),
    ("smollm2-135m", "float32", 16, 128, 16),
    ("gemma-3-270m", "int8", 4, 64, 32),
    # Those of suites/test_memory.py: what lies between two of them is the growth that it tests.
    ("tiny-24x32", "float32", 1, 32, 4),
    ("tiny-24x32", "float32", 42, 32, 4),
    ("tiny-24x32", "int8", 1, 32, 4),
    ("tiny-24x32", "int8", 42, 32, 4),
    ("opt-125m", "float32", 4, 32, 4),
    ("opt-125m", "float32", 64, 32, 4),
    ("tiny-2x128", "float32", 256, 32, 256),  # outgrows the blocks that the model is good for: docs/engines.md
]


def measure(model: str, dtype: str, batch_size: int, prompt_tokens: int, output_tokens: int) -> tuple[int, int]:
    """Bytes before the engine was started, and the peak of its batch."""
    engine = CTranslate2(EngineSpec("ctranslate2", model, dtype=dtype))
    __import__("ctranslate2")  # so that what it takes to load the library counts as the process's
    forget_peak()
    before = peak_bytes()
    facts = engine.start()
    load = Load("case", ((prompt_tokens, output_tokens),) * batch_size, seed=0)
    measured = Case(engine, load, facts).measure_peak()
    if measured.memory_bytes is None:
        raise SystemExit(measured.reason)
    return before, measured.memory_bytes


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
    worst = 0.0
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
        off = peak.total / measured - 1
        worst = max(worst, abs(off))
        print(f"{case:34} {parts} {peak.total / MIB:13.1f} {measured / MIB:9.1f} {off:+7.1%}", flush=True)
    print(f"at most {worst:.1%} off")


if __name__ == "__main__":
    main()
