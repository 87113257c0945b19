"""What `slmperf advise` takes on its command line."""

import argparse
import math
from pathlib import Path

from pytest_slmperf.cli.arguments import MODEL, add_lengths
from pytest_slmperf.cli.numbers import counts, whole
from pytest_slmperf.core.advising.question import OBJECTIVES, WITHIN
from pytest_slmperf.core.memory import GIB
from pytest_slmperf.core.pool import KINDS, SPREADS
from pytest_slmperf.run.options import minutes


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare all of it."""
    parser.add_argument("results", nargs="*", type=Path, metavar="RESULTS", help="what was measured before")
    parser.add_argument("--model", action="append", default=[], help=f"several make a mix; default: {MODEL}, or theirs")
    wanted = parser.add_argument_group("what is wanted")
    wanted.add_argument(
        "--for",
        dest="wanted",
        default="throughput",
        metavar="WHAT",
        help=f"{', '.join(OBJECTIVES)} or a metric; default: throughput",
    )
    wanted.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="METRIC=VALUE",
        help="that must be kept, may be given several times: itl_ms=40, mean_power_w=300, peak_memory_bytes=8e9",
    )
    wanted.add_argument(
        "--within",
        type=_share,
        default=WITHIN,
        metavar="SHARE",
        help=f"of the best counts as equally good: the lighter setting is advised; default: {WITHIN}",
    )
    _add_measuring(parser)
    of_files = parser.add_argument_group("of RESULTS")
    of_files.add_argument("--case", metavar="PATTERN", help="only cases with such a name, as 'decode/*'")
    of_files.add_argument("--device", metavar="TEXT", help="only what was measured on a machine with this in its name")
    of_a_mix = parser.add_argument_group("of a mix")
    of_a_mix.add_argument(
        "--need",
        action="append",
        default=[],
        metavar="MODEL=RATE",
        help="what a model must give, in the objective's unit",
    )
    of_a_mix.add_argument("--measure", action="store_true", help="launch each model beside the others, on this machine")
    of_a_mix.add_argument("--devices", type=whole, default=1, metavar="N", help="that the mix may use; default: 1")
    parser.add_argument("--memory", type=_gib, metavar="GIB", help="of a device; default: what this machine has")
    parser.add_argument("--json", action="store_true", help="print a JSON document in place of the lines")


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    measuring = parser.add_argument_group("what is measured")
    measuring.add_argument(
        "--engine", metavar="NAME[:KEY=VALUE,...]", help="default: that of [tool.slmperf], or the best"
    )
    measuring.add_argument(
        "--batch-size", type=counts, metavar="N,N", help="in each replica; default: 1,2,4,… to 64 or 512"
    )
    measuring.add_argument("--replicas", type=counts, metavar="N,N", help="default: 1,2")
    measuring.add_argument("--pool", choices=KINDS, help="kind of the replicas; default: processes, or mps on a GPU")
    measuring.add_argument("--spread", choices=SPREADS, help=f"default: {SPREADS[0]}")
    measuring.add_argument("--dtype", type=_names, metavar="TYPE,TYPE", help="default: that of [tool.slmperf]")
    measuring.add_argument("--threads", type=counts, metavar="N,N", help="of each replica; default: as above")
    add_lengths(measuring)
    measuring.add_argument("--launches", type=whole, default=5, metavar="N", help="of one setting, at most; default: 5")
    measuring.add_argument("--budget", type=minutes, metavar="MINUTES", help="begin no launch after so long")
    measuring.add_argument("--state", type=Path, metavar="FILE", help="default: slmperf-advise-MODEL.json here")
    measuring.add_argument(
        "--retry-failed", action="store_true", help="launch again what could not be run by what FILE holds"
    )


def _names(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r}: it takes names, as in float32,int8")
    return found


def _share(text: str) -> float:
    return _number(text, "a share between 0 and 1, as in 0.02", most=1.0)


def _gib(text: str) -> float:
    return _number(text, "a number of GiB, as in 80", most=math.inf) * GIB


def _number(text: str, what: str, *, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < most:
        raise argparse.ArgumentTypeError(f"{text!r}: it takes {what}")
    return value
