"""`slmperf report REPORT.json --as FORMAT`: write a report in the form that another tool reads."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_slmperf.cli import output
from pytest_slmperf.cli.arguments import add_verb
from pytest_slmperf.cli.reading import read_report
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.outcome import RunOutcome
from pytest_slmperf.report import files
from pytest_slmperf.report.foreign import hud, llmd, vllm
from pytest_slmperf.run.replacing import check_folder

if TYPE_CHECKING:
    from pytest_slmperf.cli.arguments import Verbs

FORMS: Mapping[str, Callable[[RunOutcome], str]] = {
    "vllm-bench": vllm.written,
    "hud-v3": hud.written,
    "llm-d": llmd.written,
}
OF_ONE_LOAD = ("vllm-bench", "llm-d")
"""Forms that say at which rate, or concurrency, all of a case was measured. Of a search there is none such."""
DESCRIPTION = """\
  vllm-bench  as `vllm bench serve --append-result` writes it: JSON, one launch
              in a line
  hud-v3      records of PyTorch's benchmark dashboard: a JSON list
  llm-d       llm-d's benchmark report, version 0.2, of one case: YAML

Void cases are left out, and searches of all but hud-v3: they have no one load.
Of a report with two arms, the candidate's is written.
"""


def add(verbs: "Verbs") -> None:
    """Declare the verb."""
    does = "write a report in the form of vLLM bench, PyTorch's dashboard or llm-d"
    parser = add_verb(verbs, "report", does=does, description=DESCRIPTION)
    parser.add_argument("report", type=Path, metavar="REPORT.json")
    parser.add_argument("--as", dest="form", choices=FORMS, required=True, help="the form")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="what is written; '-' prints it")
    parser.add_argument("--case", action="append", default=[], metavar="CASE", help="only this; default: every case")
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    text = FORMS[given.form](_chosen(read_report(given.report), given.case, given.form))
    if str(given.out) == "-":
        output.write(text)
        return 0
    try:
        if given.out.is_dir():
            raise UsageError(f"{given.out} is a directory: name a file")
        check_folder(given.out.resolve().parent)
    except OSError as error:
        raise UsageError(f"{given.out}: nothing can lie there: {error.strerror or error}") from error
    files.write_text(text, given.out)
    output.write(f"{given.form}: {given.out}\n")
    return 0


def _chosen(run: RunOutcome, wanted: list[str], form: str) -> RunOutcome:
    """The run with only these of its measured cases. Raises UsageError where nothing is left."""
    measured = {
        name: case for sweep in run.sweeps for name, case in sweep.cases.items() if case.measurement.void is None
    }
    for name in wanted:
        if name not in measured:
            raise UsageError(f"{name} was not measured; measured were {', '.join(measured) or 'none'}")
        if measured[name].searched and form in OF_ONE_LOAD:
            raise UsageError(f"{name} is a search over many loads, and {form} tells of one: take hud-v3")
    if form in OF_ONE_LOAD:
        measured = {name: case for name, case in measured.items() if not case.searched}
    if not measured:
        raise UsageError("no case of this report was measured: all are void, or searches, or there is none")
    kept = set(wanted or measured)
    sweeps = (
        replace(sweep, cases={name: case for name, case in sweep.cases.items() if name in kept & measured.keys()})
        for sweep in run.sweeps
    )
    return replace(run, sweeps=tuple(sweep for sweep in sweeps if sweep.cases))
