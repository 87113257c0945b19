"""The `slmperf` command: a table of contents. Each verb is a room of its own.

Exit codes are pytest's: 0 done, 1 refused or not passed, 2 interrupted, 4 wrong usage. Where the reader of a pipe went
away it is a shell's 141: a verdict that nobody read has not passed.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from pytest_slmperf import __version__
from pytest_slmperf.cli import ab, advise, baselines, compare, doctor, importing, output, report
from pytest_slmperf.core.errors import SlmperfError, UsageError
from pytest_slmperf.core.flaw import flaw

FAILED, INTERRUPTED, WRONG_USAGE = 1, 2, 4
UNREAD = 128 + signal.SIGPIPE

ROOMS = (ab, advise, baselines, compare, doctor, importing, report)
"""Each has `add(verbs)`, which declares its verb and sets `run`: a function of the parsed arguments to an exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    try:
        output.prepare()
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            output.write("")  # what argparse wrote, too
    except SlmperfError as error:
        output.remark(f"slmperf: {error}\n")
        if isinstance(error, output.Unwritable):
            output.give_up()
        return WRONG_USAGE if isinstance(error, UsageError) else FAILED
    except KeyboardInterrupt:
        output.remark("slmperf: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:  # `slmperf … | head`: whoever read has seen enough, but maybe not the verdict
        output.give_up()
        return UNREAD


def _run(words: Sequence[str]) -> int:
    parser = _Parser(prog="slmperf", description="Performance of small language model serving, tested.")
    parser.add_argument("--version", action="version", version=f"slmperf {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for room in ROOMS:
        room.add(verbs)
    for word in words:
        if why := flaw(word):
            parser.error(f"{word!r}: {why}")
    given = parser.parse_args(words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an end as on Ctrl-C: engines stopped, reports written
    code: int = given.run(given)
    return code


class _Parser(argparse.ArgumentParser):
    """argparse with pytest's exit code for wrong usage."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(WRONG_USAGE, f"{self.prog}: {message}\n")
