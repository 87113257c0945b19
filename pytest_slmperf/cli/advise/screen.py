"""The progress of what is measured for advice, on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pytest_slmperf.cli import output
from pytest_slmperf.core.errors import LaunchError


class Screen:
    """Where progress goes: each launch on a line of its own, and in a terminal its rounds on one that is rewritten."""

    def __init__(self) -> None:
        self._stderr = output.Stderr()
        self._drawn = False

    def say(self, line: str) -> None:
        """One line that stays."""
        self.clear()
        self._stderr.show(f"slmperf: {line}", replace=False)

    def tell(self, case: str, number: int, rounds: int) -> None:
        """A round of a case begins."""
        self._draw(f"round {number} of {rounds}: {case}")

    def retrying(self, reason: str, number: int, tries: int) -> None:
        """A round of the same case was void, for this reason, and is repeated."""
        self._draw(f"a round was void, try {number} of {tries}: {' '.join(reason.split())}")

    def _draw(self, line: str) -> None:
        if self._stderr.rewrites:
            self._stderr.show(f"slmperf: {line}", replace=True)
            self._drawn = True

    def clear(self) -> None:
        """Take the line away that was rewritten."""
        if self._drawn:
            self._stderr.show("", replace=True)
            self._drawn = False


@contextmanager
def screen(where: str, kept: Callable[[], bool]) -> Iterator[Screen]:
    """The progress of the body. Where that is interrupted or fails, say `where` its launches are, if any are `kept`."""
    shown = Screen()
    try:
        yield shown
    except (KeyboardInterrupt, LaunchError):
        shown.clear()
        there = f"what was measured is kept in {where}; the same command goes on from there"
        output.remark(f"slmperf: {there if kept() else 'nothing was measured yet'}\n")
        raise
    finally:
        shown.clear()
