"""What a report costs: python benchmarks/report_cost.py [CASES].

A run of 1,000 cases, two gated metrics each, 20×5 against 14×5, rendered to the terminal, JSON and Markdown, and read.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "report"))

from rendered_runs import large_run

from pytest_slmperf.report import document, terminal
from pytest_slmperf.report.benchmark import benchmarks
from pytest_slmperf.report.markdown import markdown
from pytest_slmperf.run.schema import violation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="?", type=int, default=1_000)
    run = large_run(parser.parse_args().cases)
    text = document.text(run)
    whole = 0.0
    for name, work in (
        ("terminal, 160 columns", lambda: "\n".join(terminal.lines(run, 160))),
        ("terminal, 80 columns", lambda: "\n".join(terminal.lines(run, 80))),
        ("JSON", lambda: document.text(run)),
        ("Markdown", lambda: markdown(run)),
        ("pytest-benchmark's JSON", lambda: json.dumps(benchmarks(run))),
        ("read the JSON back", lambda: document.outcome(json.loads(text)) and ""),
        ("check it against its schema", lambda: violation("report", json.loads(text)) or ""),
    ):
        began = time.perf_counter()
        size = len(work())
        seconds = time.perf_counter() - began
        whole += seconds
        print(f"{name:28} {seconds:6.2f} s {size / 1e6:8.2f} MB")
    print(f"{'all of it':28} {whole:6.2f} s")


if __name__ == "__main__":
    main()
