"""`slmperf doctor`: is this machine fit to gate on? One line for each thing that matters, with what to do."""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_slmperf.cli import output
from pytest_slmperf.cli.arguments import add_baselines, add_engine, add_verb, baselines_of, engine_of
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable, SlmperfError, UsageError
from pytest_slmperf.core.fitness.diagnosis import Grade, Line
from pytest_slmperf.engines import registry
from pytest_slmperf.report import doctor as rendered
from pytest_slmperf.run.client import MODEL, TRIED_S, client_limit
from pytest_slmperf.run.devices import HeldDevices
from pytest_slmperf.run.doctor import diagnose
from pytest_slmperf.run.noise import ANSWER_S, Wanted
from pytest_slmperf.run.options import planted_loss
from pytest_slmperf.run.settings import Settings, read_settings
from pytest_slmperf.testing.server import Options, serving

if TYPE_CHECKING:
    from pytest_slmperf.cli.arguments import Verbs

DESCRIPTION = """\
Looks at the CPU, the GPU and its energy meter while they rest, then launches
an engine again and again to see how far its launches spread. Each line is
ok, a warning, something that blocks a gate, or not seen, where this machine
doesn't tell. Exit codes: 0 nothing blocks, 1 something does, 4 wrong usage.
"""
DEFAULT_S = 30.0


def add(verbs: "Verbs") -> None:
    """Declare the verb."""
    does = "say whether this machine is fit to gate on, and what to do"
    parser = add_verb(verbs, "doctor", does=does, description=DESCRIPTION)
    add_engine(parser, "whose noise is measured")
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=DEFAULT_S,
        metavar="N",
        help=f"for the noise, 0 leaves it out; an answer of the engine is waited for as long, and {ANSWER_S:g} s at "
        f"least; default: {DEFAULT_S:g}",
    )
    parser.add_argument(
        "--client",
        nargs="?",
        type=_some_seconds,
        const=TRIED_S,
        metavar="N",
        help="also say how many requests and streams a second this machine's client sends when they are due, against a "
        f"server that takes no time; each rate for N seconds, default: {TRIED_S:g}, which takes some 20 in all",
    )
    add_baselines(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON document in place of the lines")
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    settings = read_settings(Path.cwd())
    default = settings.engine or _best()
    wanted = Wanted(
        spec=_spec(given, settings, default or registry.REAL[0]),
        default=default,
        settings=settings,
        baselines=baselines_of(given, settings),
        noise_s=given.seconds if default or given.engine else 0.0,
        answer_s=max(ANSWER_S, given.seconds),
    )
    diagnosis = diagnose(wanted, say=_say)
    if given.client:
        diagnosis = replace(diagnosis, lines=(*diagnosis.lines, _client(settings, given.client)))
    output.write(rendered.text(diagnosis) if given.json else "\n".join(rendered.lines(diagnosis)) + "\n")
    return 0 if diagnosis.fit else 1


def _spec(given: argparse.Namespace, settings: Settings, default: str) -> EngineSpec:
    """The engine whose noise is measured. Raises UsageError for one that is unknown."""
    spec = engine_of(given, settings, default)
    known = {engine.name: engine for engine in registry.available()}
    if spec.engine not in known:
        raise UsageError(f"unknown engine {spec.engine!r}: known are {', '.join(known)}")
    options = dict(spec.options)
    planted = planted_loss(options.pop("slowed", 0))
    spec = replace(spec, options=options, planted_loss=planted)
    if known[spec.engine].usable and not _refused(replace(spec, options={})) and (why := _refused(spec)):
        where = f"--engine {given.engine}" if given.engine else "pyproject.toml [tool.slmperf]: engine"
        raise UsageError(f"{where}: {why}")
    return spec


def _say(line: str) -> None:
    output.remark(f"slmperf: {line}\n")


def _client(settings: Settings, seconds: float) -> Line:
    """What this machine's client can send."""
    if missing := next(one.missing for one in registry.available() if one.name == "openai"):
        return Line("client", Grade.NOT_SEEN, "not measured: the engine openai can't be used here", missing)
    _say("sending to a server that takes no time, at one rate after the other")
    held = HeldDevices(wait_s=min(settings.lock_wait_s, ANSWER_S), say=_say)
    try:
        with serving(Options(model=MODEL, null=True, events_per_write=1)) as server:
            return client_limit(server.url, held, seconds)
    except EngineFailed as error:
        return Line("client", Grade.NOT_SEEN, f"not measured: {error}")


def _refused(spec: EngineSpec) -> str:
    """Why the engine doesn't take the spec, before it is started; empty where it does."""
    try:
        registry.create(spec)
    except SlmperfError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - the code of another package
        return f"{type(error).__name__}: {error}"
    return ""


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


def _some_seconds(text: str) -> float:
    if not (seconds := _seconds(text)):
        raise argparse.ArgumentTypeError(f"{text!r}: a rate takes some time to be sent")
    return seconds
