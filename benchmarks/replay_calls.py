"""Gate what launches on a GPU brought back as lines of JSON: python benchmarks/replay_calls.py FOLDER [--out FOLDER].

FOLDER holds `b.jsonl`: launches of an engine in turns, half of them with a planted loss, each line a result. `run` is
`07-0.05`, the launch and its loss, `shape` the model. Lines of the `kind` `engine` say what served; those of the kind
`window` have the batch size `b`, `tok_s`, `j_tok`, `running`, `preempted`, and in `energy` the meter's `watts`,
`throttle_ms`, `foreign_pids` and, where there are no joules, its `error`. What `nvidia-smi -q` said is looked for in
`machine.log`, there or in `b_logs.tar.gz`.

A report of each arm is written, and one is judged by the other as `slmperf compare` does. A window in which requests
were preempted, somebody else was on the board, it was slowed down or the batch was not full is void, and so is a launch
that has no other.
"""

import argparse
import json
import re
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_slmperf.core.baselines.comparison import compare
from pytest_slmperf.core.baselines.side import of_run
from pytest_slmperf.core.devices.board import BoardFacts
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import SlmperfError
from pytest_slmperf.core.machine import GPU_UUID, NOT_SAID, SIMULATED, Machine
from pytest_slmperf.core.outcome import CaseOutcome, RunOutcome, SweepOutcome
from pytest_slmperf.core.sample import Measurement, Sample, VoidRound
from pytest_slmperf.report import comparison as rendered
from pytest_slmperf.report import document

RESULTS, LOGS, MACHINE = "b.jsonl", "b_logs.tar.gz", "machine.log"
SUITE, PROMPT, OUTPUT = "decode", 161, 338
TOLERANCES = {"output_throughput": 0.03, "joules_per_output_token": 0.03}
SLOWED_BY = ("sw_thermal", "hw_thermal", "power_brake")
FULL = 0.95
"""Share of the batch that must have run in the mean."""
SAID = {"device": r"Product Name\s*:\s*(.+)", "driver": r"Driver Version\s*:\s*(\S+)", "uuid": r"GPU UUID\s*:\s*(\S+)"}


@dataclass
class Launch:
    """What one launch brought back."""

    number: str
    loss: float
    engine: Mapping[str, Any] = field(default_factory=dict)
    windows: dict[tuple[str, int], list[Mapping[str, Any]]] = field(default_factory=dict)
    """By model and batch size."""


def read_launches(path: Path) -> list[Launch]:
    """The launches, in time order, without one that only primes. Raises SlmperfError that names the line."""
    found: dict[str, Launch] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            told = json.loads(line)
            launch, _, loss = told["run"].partition("-")
            if not loss:
                continue
            one = found.setdefault(told["run"], Launch(launch, float(loss)))
            if told["kind"] == "engine":
                one.engine = told
            elif told["kind"] == "window":
                one.windows.setdefault((told["shape"], int(told["b"])), []).append(told)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SlmperfError(f"{path}, line {number}: no result of a launch: {error!r}") from error
    return list(found.values())


def flaw(window: Mapping[str, Any]) -> tuple[str, str] | None:
    """The guard that voids a window and its reason, or None."""
    energy = window.get("energy") or {}
    slowed = {kind: ms for kind in SLOWED_BY if (ms := (energy.get("throttle_ms") or {}).get(kind))}
    running, batch = window.get("running"), window["b"]
    if not window.get("tok_s"):
        return "window", str(window.get("error") or "no throughput was told")
    if window.get("preempted"):
        return "preempted", f"{window['preempted']} requests were preempted"
    if energy.get("foreign_pids"):
        return "foreign", f"processes {', '.join(map(str, energy['foreign_pids']))} were on the board"
    if slowed:
        return "throttled", ", ".join(f"{kind} for {ms:g} ms" for kind, ms in slowed.items())
    if running is not None and running < FULL * batch:
        return "batch", f"{running:g} of {batch} requests ran in the mean"
    return None


def values(window: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The metrics of a window that counts; without joules where its meter had none."""
    yield "output_throughput", window["tok_s"]
    energy = window.get("energy") or {}
    if window.get("j_tok") and not energy.get("error"):
        yield "joules_per_output_token", window["j_tok"]
        yield "mean_power_w", energy["watts"]


def run_of(launches: Sequence[Launch], said: Mapping[str, str]) -> RunOutcome:
    """An arm as a run that was measured and not judged."""
    engine = next((one.engine for one in launches if one.engine), {})
    name, _, version = str(engine.get("engine", NOT_SAID)).partition(" ")
    simulated = name == "fake"
    device = SIMULATED if simulated else said.get("device") or engine.get("gpu") or NOT_SAID
    uuid = said.get("uuid", NOT_SAID)
    cases = {}
    for model, batch in dict.fromkeys(key for one in launches for key in one.windows):
        samples: dict[str, list[list[float]]] = {}
        voids = []
        for place, one in enumerate(launches):
            rounds: dict[str, list[float]] = {}
            for window in one.windows.get((model, batch), ()):
                if found := flaw(window):
                    voids.append(VoidRound(place, *found))
                    continue
                for metric, value in values(window):
                    rounds.setdefault(metric, []).append(value)
            for metric, column in rounds.items():
                samples.setdefault(metric, []).append(column)
        case = f"{SUITE}/{model}/batch={batch}"
        key = {
            "engine": name, "engine_version": version or NOT_SAID, "model": model, "weights": "random",
            "dtype": "float16", "device": SIMULATED if simulated else "cuda", "prompt_tokens": PROMPT,
            "output_tokens": OUTPUT,
        }  # fmt: skip
        measurement = Measurement(
            case,
            key,
            {metric: Sample.of(rows) for metric, rows in samples.items()},
            void_rounds=tuple(voids),
            void=None if samples else (voids[-1].reason if voids else "nothing was measured"),
            boards={uuid: BoardFacts("counter", simulated=simulated)} if "mean_power_w" in samples else {},
        )
        cases[case] = CaseOutcome(case, {"model": model, "batch_size": batch}, measurement, None, {})
    specs = tuple(
        EngineSpec(name, model, "float16") for model in dict.fromkeys(m for one in launches for m, _ in one.windows)
    )
    sweep = SweepOutcome(
        SUITE, "stored", "report", cases, specs, {}, None, launches=len(launches), seconds=0.0, asked=TOLERANCES
    )
    machine = Machine(device, said.get("driver", NOT_SAID), {GPU_UUID: uuid})
    return RunOutcome(machine, (sweep,), NOT_SAID, 0.0, None, complete=True)


def said_of_machine(folder: Path) -> dict[str, str]:
    """What `nvidia-smi -q` told of the board and its driver; empty where nobody asked it."""
    text = ""
    with suppress(OSError):
        text = (folder / MACHINE).read_text(encoding="utf-8", errors="replace")
    if not text:
        with suppress(OSError, tarfile.TarError, KeyError), tarfile.open(folder / LOGS) as logs:
            member = next(name for name in logs.getnames() if name.endswith(MACHINE))
            text = logs.extractfile(member).read().decode(errors="replace")
    found = {name: re.search(pattern, text) for name, pattern in SAID.items()}
    return {name: match[1].strip() for name, match in found.items() if match}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both arms' reports, and say what the gate makes of them. Exit codes as those of `slmperf compare`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="where the reports are written; by default beside the results")
    given = parser.parse_args(arguments)
    try:
        launches, said = read_launches(given.folder / RESULTS), said_of_machine(given.folder)
        sides = []
        for arm, lossy in (("normal", False), ("loss", True)):
            path = (given.out or given.folder) / f"{arm}.json"
            run = run_of([one for one in launches if bool(one.loss) is lossy], said)
            path.write_text(document.text(run), encoding="utf-8")
            sides.append(of_run(str(path), run))
        found = compare(*sides)
    except (OSError, SlmperfError) as error:
        parser.error(str(error))
    sys.stdout.write("\n".join(rendered.lines(found)) + "\n")
    return 0 if found.passed else 1


if __name__ == "__main__":
    sys.exit(main())
