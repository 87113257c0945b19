"""`slmperf compare A B`: judge one recording by another across drivers, devices, engines, their versions or dtypes."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_slmperf.cli import output
from pytest_slmperf.cli.arguments import add_reports, add_verb
from pytest_slmperf.cli.reading import read_side
from pytest_slmperf.core.baselines.comparison import compare
from pytest_slmperf.report import comparison as rendered

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
    found = compare(read_side(given.a), read_side(given.b), dict(given.tolerance), every=given.all)
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
