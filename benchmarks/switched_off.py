"""What the plugin costs where it is not asked for: modules of ours that are imported, and milliseconds.

An empty test file is run with the plugin switched off and with the plugin kept out (`-p no:slmperf`), pair by pair in
random order. The pairs' differences are what counts: the machine's pace drifts. Processor time is what the plugin
takes; what others take of the machine is in the wall clock, too.

    python benchmarks/switched_off.py --pairs 40
"""

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEST = "def test_nothing():\n    pass\n"
SUITE = "from pytest_slmperf import StaticBatch, Sweep\nS = Sweep('s', StaticBatch(1, 1), batch_size=[1])\n" + TEST
COUNT = "import sys\ndef test_count():\n    print('\\nMODULES', sorted(m for m in sys.modules if 'slmperf' in m))\n"


def pytest(folder: Path, *arguments: str) -> tuple[float, float, str]:
    """Wall and processor milliseconds of a run, and what it printed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    began, cpu_began = time.perf_counter(), processor_s()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=environment)
    return (time.perf_counter() - began) * 1e3, (processor_s() - cpu_began) * 1e3, done.stdout


def processor_s() -> float:
    """Of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_nothing.py").write_text(TEST)
        (folder / "test_count.py").write_text(COUNT)
        (folder / "test_suite.py").write_text(SUITE)
        on = ("-p", "pytest_slmperf.plugin")
        *_, printed = pytest(folder, *on, "-s", "test_count.py")
        modules = next(line for line in printed.splitlines() if line.startswith("MODULES"))
        print(f"modules of ours, switched off: {modules.count(chr(39)) // 2}: {modules.removeprefix('MODULES ')}")
        for kind in ("test_nothing.py", "test_suite.py"):
            runs_with, runs_without = [], []
            for _ in range(given.pairs):
                both = [(runs_with, on), (runs_without, ())]
                random.shuffle(both)
                for runs, arguments in both:
                    runs.append(pytest(folder, *arguments, kind)[:2])
            for place, clock in enumerate(("wall clock", "processor")):
                told([run[place] for run in runs_with], [run[place] for run in runs_without], f"{kind}, {clock}")


def told(with_ms: list[float], without_ms: list[float], what: str) -> None:
    """Print the differences of the pairs."""
    differences = [a - b for a, b in zip(with_ms, without_ms, strict=True)]
    quartiles = statistics.quantiles(differences, n=4)
    print(
        f"{what}: {statistics.median(without_ms):.0f} ms without, {statistics.median(with_ms):.0f} ms with; "
        f"median of {len(differences)} differences {quartiles[1]:+.1f} ms "
        f"(quartiles {quartiles[0]:+.1f}, {quartiles[2]:+.1f}); "
        f"median ratio {statistics.median(a / b for a, b in zip(with_ms, without_ms, strict=True)):.3f}"
    )


if __name__ == "__main__":
    main()
