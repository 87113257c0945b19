"""`slmperf import FILE…`: make a report of other tools' result files, for `compare` and for a baseline."""

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_slmperf.cli import output
from pytest_slmperf.cli.arguments import add_gate, add_verb
from pytest_slmperf.cli.numbers import whole
from pytest_slmperf.core import gate as rules
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import CaseOutcome, RunOutcome
from pytest_slmperf.core.verdict import quantity
from pytest_slmperf.report import digest, files
from pytest_slmperf.report.foreign.gathering import Said, gathered, unsaid
from pytest_slmperf.report.foreign.reading import read
from pytest_slmperf.report.foreign.result import FACTS

if TYPE_CHECKING:
    from pytest_slmperf.cli.arguments import Verbs

DESCRIPTION = """\
Reads results of vLLM bench (serve, throughput, latency), SGLang bench_serving,
GuideLLM, AIPerf and llm-d's benchmark report, by our definitions: what a tool
defines otherwise is converted, or left out with the reason.

The files are of one configuration, and each is taken for one launch: start the
engine anew for each, or the noise from launch to launch is not in them. Several
results of one load in a file are rounds of its launch. `slmperf compare` judges
one report by another; `slmperf baselines accept` stores one of 20 launches.

What no file says has to be said here; what nobody says is marked, and named in
every comparison. Exit codes: 0 imported, 1 a case is void, 4 wrong usage.
"""
SAYS = {
    "engine": "the engine that answered, as in vllm",
    "engine_version": "its version",
    "dtype": "the type of its weights, as in bfloat16",
    "device": "the GPU's or CPU's model",
    "driver": "the GPU's driver; on a CPU the kernel's series, as in linux-6.1",
}
ASKED = {
    "requests": "that were sent in each run, for SGLang",
    "batch-size": "for vllm bench latency",
    "prompt-tokens": "of a request, in the mean; default: what the files say",
    "output-tokens": "of an answer, in the mean; default: what the files say",
}
"""Whole numbers."""


def add(verbs: "Verbs") -> None:
    """Declare the verb."""
    does = "make a report of the results of vLLM bench, SGLang, GuideLLM, AIPerf or llm-d"
    parser = add_verb(verbs, "import", does=does, description=DESCRIPTION)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSON, JSON lines or YAML: one per launch")
    parser.add_argument("--out", type=Path, required=True, metavar="REPORT.json", help="where the report is written")
    parser.add_argument("--suite", default=Said.suite, metavar="NAME", help=f"default: {Said.suite}")
    parser.add_argument("--case", metavar="NAME", help="of the only case; default: SUITE/MODEL/LOAD, as in …/rate=4")
    parser.add_argument("--model", metavar="NAME", help="what was served")
    for name in FACTS:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="TEXT", help=SAYS[name])
    parser.add_argument("--runs-on", choices=("cuda", "cpu"), help="what --device is; a baseline needs it")
    for name, why in ASKED.items():
        parser.add_argument(f"--{name}", type=whole, metavar="N", help=why)
    add_gate(parser, "what is judged where this report is compared or stored, may be given several times")
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    if given.out.suffix.lower() != ".json":
        raise UsageError(f"{given.out}: what others read is a report's JSON: give it a name that ends with .json")
    files.check_report_path(given.out)
    _refuse_twice(given.files)
    said = Said(
        suite=given.suite,
        case=given.case,
        model=given.model,
        facts={name: value for name in FACTS if (value := getattr(given, name))},
        runs_on=given.runs_on,
        requests=given.requests,
        batch_size=given.batch_size,
        prompt_tokens=given.prompt_tokens,
        output_tokens=given.output_tokens,
        gate={metric(name).name: rules.Policy(tolerance).tolerance for name, tolerance in given.gate},
    )
    run = gathered([read(path) for path in given.files], said, _saved_at(given.files))
    files.write_report(run, given.out)
    output.write("\n".join([*_lines(run), f"report: {given.out}"]) + "\n")
    return 1 if any(case.measurement.void for sweep in run.sweeps for case in sweep.cases.values()) else 0


def _lines(run: RunOutcome) -> Iterator[str]:
    yield from run.remarks
    for sweep in run.sweeps:
        for case in sweep.cases.values():
            yield from _case_lines(case)
    if missing := unsaid(run):
        options = ", ".join(f"--{name}" for name in missing)
        yield f"nobody says these: {options}; a difference there is not seen, and no baseline can be made of it"


def _case_lines(case: CaseOutcome) -> Iterator[str]:
    measured = case.measurement
    yield digest.one_line(f"{case.case}:")
    if measured.void:
        yield f"  void: {digest.one_line(measured.void)}"
    others = 0
    for name, sample in measured.samples.items():
        if metric(name).quantile in (None, 0.5):
            yield f"  {name} {quantity(sample.median)} {metric(name).unit} ({sample.shape} launches×rounds)"
        else:
            others += 1
    if others:
        yield f"  and {others} other quantiles"
    reasons: dict[str, list[str]] = {}
    for name, why in measured.unmeasured.items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        yield f"  not imported: {', '.join(names)}: {digest.one_line(why)}"
    yield from (f"  {digest.one_line(note)}" for note in measured.notes)


def _refuse_twice(paths: list[Path]) -> None:
    for number, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:number]]:
            raise UsageError(f"{path} is named twice: each file is one launch")


def _saved_at(paths: list[Path]) -> str:
    oldest = min(path.stat().st_mtime for path in paths)
    return datetime.fromtimestamp(oldest, UTC).isoformat(timespec="seconds")
