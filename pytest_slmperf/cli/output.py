"""Writes what a verb answers, at once: whatever becomes of it is known while it can be told."""

import os
import sys
from pathlib import Path

from pytest_slmperf.core.errors import SlmperfError
from pytest_slmperf.run.lost_output import discard, unwritable


class Unwritable(SlmperfError):
    """Standard output takes nothing, so nobody has read the verdict."""


def write(text: str) -> None:
    """Write a text, as it is. Raises Unwritable, and BrokenPipeError where the reader of a pipe went away."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritable(unwritable(error)) from error


def prepare() -> None:
    """Make standard output take any text, and standard error take it where there is none. Raises Unwritable."""
    if sys.stderr is None:  # closed, as by 2>&-
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - it stays open to the end
    if sys.stdout is None:
        raise Unwritable("standard output is closed")
    if hasattr(sys.stdout, "reconfigure"):  # an encoding without × or →
        sys.stdout.reconfigure(errors="backslashreplace")


def remark(text: str) -> None:
    """Say something beside the answer, on standard error. Where that takes nothing, the answer is still wanted."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr)


def give_up() -> None:
    """Leave what is still buffered to nobody."""
    if sys.stdout is not None:
        discard(sys.stdout)


class Stderr:
    """Where progress goes: beside the answer, not into it."""

    @property
    def rewrites(self) -> bool:
        """Whether a line can be replaced."""
        return sys.stderr.isatty()

    def show(self, line: str, *, replace: bool) -> None:
        """Write a line; with `replace`, in the place of the last one that was shown so."""
        remark(f"\r\x1b[K{line}" if replace else f"{line}\n")
