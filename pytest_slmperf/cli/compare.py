"""`slmperf compare A B`: judge one recording by another across drivers, devices, engines, their versions or dtypes."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_slmperf.cli import output
from pytest_slmperf.cli.arguments import add_reports, add_verb
from pytest_slmperf.cli.reading import read_report
from pytest_slmperf.core.baseline import BaselineFile
from pytest_slmperf.core.comparison import compare
from pytest_slmperf.core.errors import SlmperfError, UsageError
from pytest_slmperf.core.side import Side, of_files, of_run
from pytest_slmperf.report import comparison as rendered
from pytest_slmperf.report import document
from pytest_slmperf.run import schema
from pytest_slmperf.run.store import read_baseline

if TYPE_CHECKING:
    from pytest_slmperf.cli.arguments import Verbs

DESCRIPTION = """\
B is judged by A. Each is a JSON report (--slmperf-report=report.json), a
baseline file, or a folder with the baseline files of one machine, such as
baselines/nvidia-h100-80gb-hbm3/580.65.06.

Driver, device, engine, engine version, dtype, weights, threads, options and
settings may differ; a case with another model, workload or method is
incomparable. Exit codes: 0 everything gated passes, 1 something does not,
4 wrong usage.
"""
LEVELS = ("*.json", "*/*.json", "*/*/*.json")
"""Where baseline files lie in a driver's folder, a device's, and that of all; what lies deeper is none."""
WANTED = (
    "name a JSON report (pytest --slmperf --slmperf-report=report.json), a baseline file, or a folder of such files"
)


def add(verbs: "Verbs") -> None:
    """Declare the verb."""
    does = "judge one recording by another, across drivers, devices, engines, versions or dtypes"
    parser = add_verb(verbs, "compare", does=does, description=DESCRIPTION)
    parser.add_argument("a", type=Path, metavar="A", help="what is compared with: the old driver's, say")
    parser.add_argument("b", type=Path, metavar="B", help="what is judged: the new one's")
    parser.add_argument(
        "--tolerance",
        action="append",
        type=_tolerance,
        default=[],
        metavar="METRIC=FRACTION",
        help="gate a metric, may be given several times; default: the tolerances of A, or else of B",
    )
    parser.add_argument("--all", action="store_true", help="show what nothing gates, too")
    add_reports(parser)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    for path in given.report:
        rendered.check_path(path)
    found = compare(_side(given.a), _side(given.b), dict(given.tolerance), every=given.all)
    for path in given.report:
        rendered.write(found, path)
    told = [*rendered.lines(found), *(f"report: {path}" for path in given.report)]
    output.write("\n".join(told) + "\n")
    return 0 if found.passed else 1


def _tolerance(text: str) -> tuple[str, float]:
    name, equals, fraction = text.partition("=")
    try:
        return name, float(fraction if equals else "")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not METRIC=FRACTION, as in output_throughput=0.03") from error


def _side(path: Path) -> Side:
    """What a path holds. Raises UsageError that names the file and the way out."""
    try:
        return _read(path)
    except OSError as error:
        raise UsageError(f"{error.filename or path}: can't be read: {error.strerror or error}; {WANTED}") from error
    except UsageError:
        raise
    except SlmperfError as error:
        raise UsageError(str(error)) from error


def _read(path: Path) -> Side:
    if path.is_dir():
        return of_files(str(path), _of_one_machine(path))
    if not path.is_file():
        raise UsageError(f"{path}: {'it is no file' if path.exists() else 'there is no such file'}; {WANTED}")
    if _is_report(path):
        return of_run(str(path), read_report(path))
    return of_files(str(path), [read_baseline(path)])


def _is_report(path: Path) -> bool:
    """Whether a file says that it is a report. What is neither is told so here, and not what is wrong with it."""
    try:
        content = schema.parsed(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"{path}: no JSON: {error}; {WANTED}") from error
    if isinstance(content, dict) and content.get("format") == document.FORMAT:
        return True
    if isinstance(content, dict) and {"suite", "engine", "cases"} <= content.keys():
        return False
    raise UsageError(f"{path}: neither a report nor a baseline; {WANTED}")


def _of_one_machine(folder: Path) -> list[BaselineFile]:
    """The baseline files in a folder of a driver or above it, of one device and driver."""
    found = sorted(path for level in LEVELS for path in folder.glob(level))
    paths = [path for path in found if not path.name.startswith(".")]
    if not paths:
        raise UsageError(f"{folder}: there is no baseline file in it; {WANTED}")
    reports = [path for path in paths if _is_report(path)]
    if reports:
        raise UsageError(
            f"{folder}: it holds a report, and a folder is one of baselines; name {shlex.quote(str(reports[0]))} alone"
        )
    files = [read_baseline(path) for path in paths]
    if len({(file.machine.device, file.machine.driver) for file in files}) > 1:
        folders = ", ".join(dict.fromkeys(shlex.quote(str(path.parent)) for path in paths))
        raise UsageError(f"{folder}: it holds several machines; name one of {folders}")
    return files
