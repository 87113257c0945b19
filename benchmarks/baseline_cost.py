"""What a large baseline file costs: 1,000 cases of 2 metrics, 20 launches and 5 rounds, read, found and changed.

Run it with `python benchmarks/baseline_cost.py`; each figure is the best of several repetitions. Exits with 1 where
reading takes more than a second.
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pytest_slmperf.core.baselines.lookup import lookup
from pytest_slmperf.core.baselines.revision import Recording
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.run.store import BaselineStore

CASES, LAUNCHES, ROUNDS = 1_000, 20, 5
METRICS = {"output_throughput": 4000.0, "median_ttft_ms": 12.0}
LIMIT_S = 1.0
MACHINE = Machine("benchmark", "none")
KEY = {"engine": "ctranslate2", "engine_version": "4.8.5", "dtype": "float32", "threads": 1, "prompt_tokens": 128}


def best_s(act: Callable[[], object], repetitions: int = 5) -> float:
    """The shortest of several repetitions: the least disturbed by the machine's other work."""
    times = []
    for _ in range(repetitions):
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return min(times)


def recording(cases: int, first: int = 0) -> Recording:
    draw = random.Random(first)

    def sample(median: float) -> Sample:
        return Sample.of([[median * draw.gauss(1, 0.01) for _ in range(ROUNDS)] for _ in range(LAUNCHES)])

    names = [f"decode/model-{case // 10}/batch={2 ** (case % 10)}" for case in range(first, first + cases)]
    measurements = [
        Measurement(name, KEY, {metric: sample(median) for metric, median in METRICS.items()}) for name in names
    ]
    tolerances = {(name, metric): 0.03 for name in names for metric in METRICS}
    return Recording(measurements, tolerances, "2026-01-01T00:00:00Z")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        store = BaselineStore(Path(folder))
        store.accept(MACHINE, [("ctranslate2", "decode", recording(CASES))])
        path = store.path_of(MACHINE, "ctranslate2", "decode")
        plain_s = best_s(lambda: json.loads(path.read_bytes()))
        load_s = best_s(lambda: store.load(MACHINE, "ctranslate2", "decode"))
        file = store.load(MACHINE, "ctranslate2", "decode")
        assert file is not None
        lookup_s = best_s(lambda: [lookup(file, case, KEY, MACHINE) for case in file.cases]) / CASES
        accept_s = best_s(lambda: store.accept(MACHINE, [("ctranslate2", "decode", recording(1))]), 1)
        megabytes = path.stat().st_size / 1e6
    print(f"{CASES} cases × {len(METRICS)} metrics × {LAUNCHES} launches × {ROUNDS} rounds: {megabytes:.1f} MB")
    print(f"json.loads          {plain_s * 1e3:8.1f} ms")
    print(f"load and check      {load_s * 1e3:8.1f} ms   {load_s / plain_s:.1f} × json.loads, limit {LIMIT_S:g} s")
    print(f"look up a case      {lookup_s * 1e6:8.1f} µs")
    print(f"accept one case     {accept_s * 1e3:8.1f} ms")
    return int(load_s > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
