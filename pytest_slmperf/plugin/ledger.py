"""Which verdicts the tests made, and what they did with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_slmperf.core.verdict import Verdict


@dataclass
class AssertionLedger:
    """A verdict that nobody asks, or whose error is caught, would pass whatever it says: the ledger knows of both."""

    asserted: set[tuple[str, str]] = field(default_factory=set)
    """(case, metric) of every gate verdict that some test asked. A stated limit is no gate, and isn't here."""
    _unasked: list[Verdict] = field(default_factory=list)
    _raised: list[Verdict] = field(default_factory=list)

    def begin(self) -> None:
        """Another phase of a test begins: its setup, its call or its teardown."""
        self._unasked.clear()
        self._raised.clear()

    def made(self, verdict: Verdict) -> None:
        """A comparison became a verdict."""
        self._unasked.append(verdict)

    def asked(self, verdict: Verdict) -> None:
        """Somebody wants the truth of a verdict, and gets it or an error."""
        self._unasked = [one for one in self._unasked if one is not verdict]
        if verdict.gated:
            self.asserted.add((verdict.case, verdict.metric))
        if verdict.judged and not verdict.passed:
            self._raised.append(verdict)

    def caught(self) -> str | None:
        """What is wrong with a phase that didn't fail; None where no red verdict was asked in it."""
        if not self._raised:
            return None
        lines = "\n".join(verdict.message() for verdict in self._raised)
        return f"a verdict was red and the test caught its error; leave out what catches it:\n{lines}"

    def unasked(self) -> str | None:
        """What is wrong with a phase that passed; None where every verdict was asked. A fixture may leave that to
        its tests.
        """
        if not self._unasked:
            return None
        lines = "\n".join(verdict.line() for verdict in self._unasked)
        return f"the test made a verdict and never asked for its truth; write `assert` before it:\n{lines}"
