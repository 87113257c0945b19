"""`slmperf doctor`: is this machine fit to gate on? One line for each thing that matters, with what to do."""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineUnavailable, UsageError
from pytest_slmperf.engines import registry
from pytest_slmperf.report import doctor as rendered
from pytest_slmperf.run.doctor import Wanted, diagnose
from pytest_slmperf.run.options import named_engine, planted_loss
from pytest_slmperf.run.settings import Settings, read_settings

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse has no public name for it

DESCRIPTION = """\
Looks at the CPU, the GPU and its energy meter while they rest, then launches
an engine again and again to see how far its launches spread. Each line is
ok, a warning, something that blocks a gate, or not seen, where this machine
doesn't tell. Exit codes: 0 nothing blocks, 1 something does, 4 wrong usage.
"""
DEFAULT_S = 30.0


def add(verbs: "Verbs") -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "doctor",
        help="say whether this machine is fit to gate on, and what to do",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--engine",
        metavar="NAME[:KEY=VALUE,...]",
        help="whose noise is measured; default: that of [tool.slmperf], or the best here",
    )
    parser.add_argument("--model", default="tiny-2x128", help="default: tiny-2x128")
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=DEFAULT_S,
        metavar="N",
        help=f"for the noise; 0 leaves it out; default: {DEFAULT_S:g}",
    )
    parser.add_argument(
        "--baselines", type=Path, metavar="DIR", help="default: what [tool.slmperf] says, or else baselines/"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON document in place of the lines")
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    settings = read_settings(Path.cwd())
    default = settings.engine or _best()
    wanted = Wanted(
        spec=_spec(given, settings, default or registry.REAL[0]),
        default=default,
        settings=settings,
        baselines=given.baselines or Path(settings.baselines),
        noise_s=given.seconds if default or given.engine else 0.0,
    )
    diagnosis = diagnose(wanted, say=lambda line: sys.stderr.write(f"slmperf: {line}\n"))
    sys.stdout.write(rendered.text(diagnosis) if given.json else "\n".join(rendered.lines(diagnosis)) + "\n")
    return 0 if diagnosis.fit else 1


def _spec(given: argparse.Namespace, settings: Settings, default: str) -> EngineSpec:
    """The engine whose noise is measured. Raises UsageError for one that is unknown."""
    name, options = named_engine("--engine", given.engine) if given.engine else (default, {})
    known = {engine.name: engine for engine in registry.available()}
    if name not in known:
        raise UsageError(f"unknown engine {name!r}: known are {', '.join(known)}")
    planted = planted_loss(options.pop("slowed", 0))
    return EngineSpec(name, given.model, settings.dtype, settings.threads, options, planted_loss=planted)


def _best() -> str | None:
    try:
        return registry.best()
    except EngineUnavailable:
        return None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: it takes a number of seconds, and 0 for none")
    return seconds
