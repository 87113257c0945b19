"""Which verdicts the tests made, and what they did with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_slmperf.core.verdict import Verdict

_HID = "its test not reported as failed; some hook, of a conftest.py or a plugin, hid it"
RED = f"a verdict was red and {_HID}"
FAILED = f"something failed and {_HID}"


@dataclass
class AssertionLedger:
    """A verdict that nobody asks, or whose error is caught, would pass whatever it says: the ledger knows of both."""

    asserted: set[tuple[str, str]] = field(default_factory=set)
    """(case, metric) of every gate verdict that some test asked. A stated limit is no gate, and isn't here."""
    _unasked: list[Verdict] = field(default_factory=list)
    _of_setup: list[Verdict] = field(default_factory=list)
    """Made in the setup of the present test and not asked yet."""
    _kept: list[Verdict] = field(default_factory=list)
    """The same of the tests before: a fixture may live longer than its first test."""
    _raised: list[Verdict] = field(default_factory=list)
    _reported: list[Verdict] = field(default_factory=list)
    """Of those, what a subtest failed with: it has a report of its own."""
    _red: list[Verdict] = field(default_factory=list)
    """What the present test asked in all its phases, and was judged and not passed."""
    _swallowed: list[str] = field(default_factory=list)
    of_test: list[Verdict] = field(default_factory=list)
    """What the present test has asked by now, whatever it was."""

    def begin_test(self) -> None:
        """A test begins, or is repeated."""
        self._red.clear()
        self.of_test.clear()

    def end_test(self, name: str, *, told_red: bool, failed_with: str = "") -> None:
        """A test is over; `told_red`: it was reported as failed, in any phase, or as a failure that its suite expects.
        `failed_with` is what it failed with all the same, where no verdict was red: it may not have come to its own.
        """
        if not told_red:
            hidden = [f"{RED}: {name}: {verdict.line()}" for verdict in self._red]
            self._swallowed.extend(hidden or [f"{FAILED}: {name}: {failed_with}"] * bool(failed_with))
        self._red.clear()

    def begin(self) -> None:
        """Another phase of a test begins: its setup, its call or its teardown."""
        self._unasked.clear()
        self._raised.clear()
        self._reported.clear()

    def keep(self) -> None:
        """A setup is over: what it made, its test may ask, or a later one. What is not judged, nobody need ask."""
        self._kept.extend(self._of_setup)
        self._of_setup = [verdict for verdict in self._unasked if verdict.judged]

    def cut_off(self) -> None:
        """A test ended before its end: it may not have come to what its setup made."""
        self._of_setup.clear()

    def made(self, verdict: Verdict) -> None:
        """A comparison became a verdict."""
        self._unasked.append(verdict)

    def asked(self, verdict: Verdict) -> None:
        """Somebody wants the truth of a verdict, and gets it or an error."""
        for waiting in (self._unasked, self._of_setup, self._kept):
            waiting[:] = [one for one in waiting if one is not verdict]
        self.of_test.append(verdict)
        if verdict.gated:
            self.asserted.add((verdict.case, verdict.metric))
        if verdict.judged and not verdict.passed:
            self._raised.append(verdict)
            self._red.append(verdict)

    def reported(self, error: AssertionError) -> Verdict | None:
        """A report is made of this error; where its test runs on, it was a subtest's. Returns the verdict that raised
        it, or None.
        """
        of_it = [verdict for verdict in self._raised if verdict.message() == str(error)]
        self._raised[:] = [verdict for verdict in self._raised if verdict not in of_it]
        self._reported.extend(of_it)
        return of_it[0] if of_it else None

    def caught(self) -> str | None:
        """What is wrong with a phase that didn't fail; None where no red verdict was asked in it."""
        if self._raised:
            lines = "\n".join(verdict.message() for verdict in self._raised)
            return f"a verdict was red and the test caught its error; leave out what catches it:\n{lines}"
        if self._reported:
            lines = "\n".join(verdict.line() for verdict in self._reported)
            return f"a verdict was red in a subtest:\n{lines}"
        return None

    def never_asked(self) -> list[str]:
        """What is wrong with a run that ends: verdicts of setups that no test asked."""
        return [
            f"a fixture made a verdict and no test asked for its truth; write `assert` before it: {verdict.line()}"
            for verdict in (*self._kept, *self._of_setup)
        ]

    def swallowed(self) -> list[str]:
        """What is wrong with a run that ends: tests that failed, and were reported as something else."""
        return list(dict.fromkeys(self._swallowed))

    def unasked(self) -> str | None:
        """What is wrong with a phase that passed; None where every verdict was asked. A fixture may leave that to
        its tests.
        """
        if not self._unasked:
            return None
        lines = "\n".join(verdict.line() for verdict in self._unasked)
        return f"the test made a verdict and never asked for its truth; write `assert` before it:\n{lines}"
