"""The campaign that proves the gate, on a real engine: never red on noise, red where a loss was planted.

One recording, then as many rounds as asked for of four runs each, in random order: a gate on the recording without a
change, a gate with a planted loss, both versions interleaved (`--slmperf-against python=…`) without a change, and with
a planted loss. The loss is twice the tolerance that is judged by: stored, the largest that the recording supports;
interleaved, the suite's own. Every run is a pytest of its own; nothing is repeated because of what came out. Results
are kept line by line, so that a campaign that was cut off goes on. One design alone needs no more than its own runs.

    python benchmarks/campaign.py --rounds 20 --folder FOLDER
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

SUITE = Path(__file__).parent / "campaign_suite"
KINDS = {"stored": ("gate A/A", "gate loss"), "interleaved": ("ab A/A", "ab loss")}
SUITES_TOLERANCE = 0.10
"""Of campaign_suite/test_campaign.py."""


def pytest_run(folder: Path, *arguments: str) -> tuple[int, dict, float]:
    """Exit code, JSON report and seconds of one run."""
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--slmperf"),
        *(f"--slmperf-baselines={folder / 'baselines'}", f"--slmperf-report={report}", *arguments),
    ]
    began = time.monotonic()
    done = subprocess.run(command, cwd=SUITE, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    (folder / "last.log").write_text(done.stdout + done.stderr)
    if not report.exists():
        raise SystemExit(f"no report: {done.stdout}{done.stderr}")
    return done.returncode, json.loads(report.read_text()), seconds


def verdicts(report: dict) -> list[dict]:
    return [
        {"case": case["case"], "metric": name, **verdict}
        for sweep in report["sweeps"]
        for case in sweep["cases"]
        for name, verdict in case["verdicts"].items()
    ]


def record(folder: Path) -> float:
    """The recording, once; the largest tolerance that it stored."""
    stored = list((folder / "baselines").glob("*/*/*.json"))
    if not stored:
        code, _, seconds = pytest_run(folder, "--slmperf-accept")
        if code:
            raise SystemExit((folder / "last.log").read_text())
        print(f"recorded in {seconds:.0f} s")
        stored = list((folder / "baselines").glob("*/*/*.json"))
    cases = json.loads(stored[0].read_text())["cases"]
    tolerances = {
        f"{name} {metric}": kept["tolerance"]
        for name, case in cases.items()
        for metric, kept in case["points"][-1]["metrics"].items()
        if kept["tolerance"]
    }
    print("tolerances:", ", ".join(f"{name} {tolerance:.0%}" for name, tolerance in tolerances.items()))
    return max(tolerances.values())


def one(folder: Path, kind: str, loss: float) -> dict:
    """One run of a kind, and what it said. `loss` is what the kinds with one plant."""
    arguments = []
    if kind.endswith("loss"):
        arguments.append(f"--slmperf-engine=ctranslate2:slowed={loss}")
    if kind.startswith("ab"):
        arguments.append(f"--slmperf-against=python={sys.executable}")
    code, report, seconds = pytest_run(folder, *arguments)
    found = verdicts(report)
    return {
        "kind": kind,
        "loss": loss if kind.endswith("loss") else 0.0,
        "code": code,
        "seconds": round(seconds, 1),
        "launches": sum(sweep["launches"] for sweep in report["sweeps"]),
        "void_rounds": sum(len(case["void_rounds"]) for sweep in report["sweeps"] for case in sweep["cases"]),
        "verdicts": [verdict["verdict"] for verdict in found],
        "mde": [verdict.get("mde") for verdict in found],
        "ratio": [verdict.get("ratio") for verdict in found],
        "load": Path("/proc/loadavg").read_text().split()[0],
    }


def table(rows: list[dict]) -> str:
    lines = [
        "| run | loss | runs | wholly green | all regressed | any regressed | verdicts | launches | s | MDE | ratio |",
        "| --- | --: | --: | --: | --: | --: | --- | --: | --: | --: | --: |",
    ]
    for kind in (kind for kinds in KINDS.values() for kind in kinds):
        of = [row for row in rows if row["kind"] == kind]
        if not of:
            continue
        seen = Counter(verdict for row in of for verdict in row["verdicts"])
        ratios = [ratio for row in of for ratio in row["ratio"] if ratio]
        mdes = sorted(mde for row in of for mde in row["mde"] if mde)
        lines.append(
            f"| {kind} | {of[0]['loss']:.0%} | {len(of)} | {sum(row['code'] == 0 for row in of)} "
            f"| {sum(set(row['verdicts']) == {'regressed'} for row in of)} "
            f"| {sum('regressed' in row['verdicts'] for row in of)} "
            f"| {', '.join(f'{count} {name}' for name, count in seen.most_common())} "
            f"| {middle([row['launches'] for row in of]):g} | {middle([row['seconds'] for row in of]):.0f} "
            f"| {middle(mdes):.1%} | {middle(ratios):.3f} (sd {statistics.stdev(ratios):.1%}) |"
            if len(ratios) > 1
            else f"| {kind} | {of[0]['loss']:.0%} | {len(of)} | | | | {dict(seen)} | | | | |"
        )
    return "\n".join(lines)


def middle(values: list[float]) -> float:
    ordered = sorted(values)
    return (ordered[len(ordered) // 2] + ordered[(len(ordered) - 1) // 2]) / 2 if ordered else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--folder", type=Path, required=True, help="keeps the recording and the results")
    parser.add_argument("--design", choices=KINDS, action="append", help="default: both")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this long; call again to go on")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    results = given.folder / "results.jsonl"
    designs = given.design or list(KINDS)
    losses = {"interleaved": 2 * SUITES_TOLERANCE}
    if "stored" in designs:
        losses["stored"] = round(2 * record(given.folder), 4)
    losses = {kind: losses[design] for design in designs for kind in KINDS[design]}
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = Counter(row["kind"] for row in rows)
    left = [kind for kind in losses for _ in range(given.rounds - done[kind])]
    order = random.Random(len(rows))
    order.shuffle(left)
    began = time.monotonic()
    for kind in left:
        if time.monotonic() - began > given.minutes * 60:
            break
        rows.append(one(given.folder, kind, losses[kind]))
        with results.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(rows[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
