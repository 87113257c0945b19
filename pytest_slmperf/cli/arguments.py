"""What several verbs take on their command lines: declared, described and checked once."""

import argparse
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_slmperf.cli.numbers import whole
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.sweeps.sweep import DEFAULT_TOLERANCE
from pytest_slmperf.run.options import OptionValue, named_engine, pool_of
from pytest_slmperf.run.settings import Settings

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse has no public name for it

MODEL = "tiny-2x128"
TOKENS = 32


def add_verb(verbs: "Verbs", name: str, *, does: str, description: str) -> argparse.ArgumentParser:
    """A verb whose description is shown as it is written."""
    formatter = argparse.RawDescriptionHelpFormatter
    return verbs.add_parser(name, help=does, description=description, formatter_class=formatter)


def add_engine(parser: argparse.ArgumentParser, whose: str) -> None:
    """`--engine` and `--model`, whose they are."""
    parser.add_argument(
        "--engine",
        metavar="NAME[:KEY=VALUE,...]",
        help=f"{whose}; default: that of [tool.slmperf], or the best here",
    )
    parser.add_argument("--model", default=MODEL, help=f"{whose}; default: {MODEL}")


def named(given: argparse.Namespace, settings: Settings, default: str) -> tuple[str, Mapping[str, OptionValue]]:
    """The engine that `--engine` names, or else this one, and its options: of the settings, where it is theirs. Raises
    UsageError.
    """
    if given.engine:
        return named_engine("--engine", given.engine)
    return default, settings.engine_options if default == settings.engine else {}


def engine_of(given: argparse.Namespace, settings: Settings, default: str) -> EngineSpec:
    """What `--engine` and `--model` name, and the settings beside them. Raises UsageError."""
    name, options = named(given, settings, default)
    pool, own = pool_of(options)
    return EngineSpec(name, given.model, settings.dtype, settings.threads, own, pool=pool)


def add_lengths(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """`--prompt-tokens` and `--output-tokens` of each request."""
    for name in ("--prompt-tokens", "--output-tokens"):
        parser.add_argument(name, type=whole, default=TOKENS, metavar="N", help=f"default: {TOKENS}")


def add_gate(parser: argparse.ArgumentParser, what: str) -> None:
    """`--gate`, any number of times."""
    parser.add_argument("--gate", action="append", type=_gate, default=[], metavar="METRIC[=TOLERANCE]", help=what)


def add_reports(parser: argparse.ArgumentParser) -> None:
    """`--report`, any number of times."""
    parser.add_argument("--report", type=Path, action="append", default=[], metavar="PATH", help=".json or .md")


def add_baselines(parser: argparse.ArgumentParser) -> None:
    """`--baselines`: see `baselines_of`."""
    parser.add_argument(
        "--baselines", type=Path, metavar="DIR", help="default: what [tool.slmperf] says, or else baselines/"
    )


def baselines_of(given: argparse.Namespace, settings: Settings, *, may_be_new: bool = False) -> Path:
    """The folder of the command line, or of the settings. Raises UsageError for one that is named and not there."""
    root: Path = given.baselines or Path(settings.baselines)
    try:
        if not stat.S_ISDIR(root.stat().st_mode):
            raise UsageError(f"{root}: it is no folder of baselines")
    except FileNotFoundError:
        if given.baselines and not may_be_new:
            raise UsageError(f"{root}: there is no such folder") from None
    except OSError as error:
        raise UsageError(f"{root}: {error.strerror or error}") from error
    return root


def _gate(text: str) -> tuple[str, float]:
    """METRIC or METRIC=TOLERANCE, as an argument's type."""
    name, equals, tolerance = text.partition("=")
    try:
        return name, float(tolerance) if equals else DEFAULT_TOLERANCE
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: a tolerance is a fraction, as in {name}=0.03") from error
