"""Reports of the same engine without a change, each judged by each other: what knowing the cores' pace decides.

    pytest --slmperf --slmperf-accept --slmperf-baselines=FOLDER --slmperf-report=1.json suites/test_decode.py …
    python benchmarks/paced_pairs.py 1.json 2.json 3.json … [--tolerance 0.1]

Every report is the baseline of every other: of each gated metric of each case the gate looks at the first 8 launches,
then at every 2 more, up to 16, as a run would, and there is no confirmation in fresh ones. The same with a loss of
twice the tolerance, which is worked into the numbers. Printed is how often each verdict is the last one, with the pace
and without, and the tolerances that the recordings support.
"""

import argparse
import json
import math
from collections import Counter, defaultdict
from itertools import permutations
from pathlib import Path

from paced_gate import last_look

from pytest_slmperf.core import gate
from pytest_slmperf.core.judging.even_pace import Arm
from pytest_slmperf.core.judging.same_pace import depends_on_pace
from pytest_slmperf.core.judging.tolerance import supported_tolerance
from pytest_slmperf.core.metrics import CORE_PACE, Metric, metric
from pytest_slmperf.core.sample import Sample


def measured(paths: list[Path]) -> dict[tuple[str, str], list[Arm]]:
    """By case and gated metric, the samples of each report beside its cores' pace."""
    found = defaultdict(list)
    for path in paths:
        for sweep in json.loads(path.read_text())["sweeps"]:
            for case in sweep["cases"]:
                samples = case["samples"]
                for name, kept in samples.items():
                    if kept["tolerance"] and depends_on_pace(name) and CORE_PACE in samples:
                        values, times = (Sample.of(samples[one]["launches"]) for one in (name, CORE_PACE))
                        found[case["case"], name].append((values, times))
    return found


def slowed(arm: Arm, loss: float, meaning: Metric) -> Arm:
    """The arm with a loss in each of its values."""
    factor = math.exp(gate.margin_of(loss, higher_is_better=meaning.higher_is_better)) if loss else 1.0
    factor = 1 / factor if meaning.higher_is_better else factor
    return Sample.of([value * factor for value in rounds] for rounds in arm[0].launches), arm[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.1)
    options = parser.parse_args()
    policy, found = gate.Policy(options.tolerance), measured(options.reports)
    for knows in (False, True):
        print("with the cores' pace" if knows else "without it")
        for loss in (0.0, 2 * options.tolerance):
            seen = Counter(
                last_look(metric(name), before, slowed(after, loss, metric(name)), policy, knows=knows).status.value
                for (_, name), arms in found.items()
                for before, after in permutations(arms, 2)
            )
            print(f"  loss {loss:.0%}: {', '.join(f'{count} {status}' for status, count in seen.most_common())}")
        supported = Counter(
            supported_tolerance(values, metric(name), policy, times if knows else None)
            for (_, name), arms in found.items()
            for values, times in arms
        )
        listed = sorted(supported.items(), key=lambda entry: entry[0] or math.inf)
        print(
            "  supported:",
            ", ".join(f"{count} × {tolerance:.0%}" if tolerance else f"{count} × none" for tolerance, count in listed),
        )


if __name__ == "__main__":
    main()
