"""What a run covers of its suites: which sweeps were selected, what was measured of them, and what nobody looked at."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import SweepOutcome
from pytest_slmperf.core.results.point import assertion
from pytest_slmperf.core.sweeps.sweep import Case, Look, Sweep
from pytest_slmperf.run.campaign import Campaign

UNSEEN = " (a test that is skipped, or dropped without pytest_deselected, looks at nothing)"


@dataclass(frozen=True)
class MeasuredSweep:
    """A sweep that was measured, or why it could not be."""

    sweep: Sweep
    outcome: SweepOutcome
    campaign: Campaign
    """Alive to the end of the run: what a test asks later may need fresh launches."""
    failure: BaseException | None = None


class Coverage:
    """Grows with the run: sweeps are declared and selected, then tried, then measured."""

    def __init__(self) -> None:
        self._declared: dict[Sweep, None] = {}
        self._selected: dict[Sweep, Collection[Look] | None] = {}
        self._everything = False
        self._metered: set[Sweep] | None = set()
        self._tried: set[Sweep] = set()
        self._measured: dict[tuple[Sweep, str], MeasuredSweep] = {}

    def without(self, sweeps: Collection[str]) -> "Coverage":
        """The same as it is now, but for the sweeps with these names."""
        part = Coverage()
        part._declared = {sweep: None for sweep in self._declared if sweep.name not in sweeps}
        part._selected = {sweep: looks for sweep, looks in self._selected.items() if sweep.name not in sweeps}
        part._everything, part._metered = self._everything, self._metered
        part._tried = {sweep for sweep in self._tried if sweep.name not in sweeps}
        part._measured = {key: one for key, one in self._measured.items() if key[0].name not in sweeps}
        return part

    @property
    def tried(self) -> bool:
        """Whether a test asked for any sweep."""
        return bool(self._tried)

    def declare(self, sweep: Sweep) -> None:
        """The suites of this run have a test that looks at the sweep, and may skip it."""
        self._declared.setdefault(sweep)

    def select(self, sweep: Sweep, looks: Collection[Look] | None) -> None:
        """Measure only the cases of a sweep that have all coordinates of one of these; None for all cases."""
        self._selected[sweep] = looks

    def select_everything(self) -> None:
        """A selected test doesn't say which sweep it looks at: measure every sweep whole."""
        self._everything = True

    def meter(self, sweeps: Iterable[Sweep] | None) -> None:
        """Count joules of these sweeps, although they gate none; None for all."""
        self._metered = None if sweeps is None or self._metered is None else self._metered | set(sweeps)

    def counts_joules(self, sweep: Sweep, here: Sweep) -> bool:
        """Whether an energy metric of the sweep is gated, as it is on this machine, or a test of it uses the meter."""
        return bool(here.metered) or self._metered is None or sweep in self._metered

    @property
    def selected(self) -> tuple[Sweep, ...]:
        """The sweeps that the tests of this run look at."""
        return tuple(self._selected)

    def wants(self, sweep: Sweep, case: Case) -> bool:
        """Whether a selected test looks at the case."""
        looks = self._selected.get(sweep)
        return self._everything or looks is None or any(case.coordinates.items() >= look for look in looks)

    def trying(self, sweep: Sweep) -> None:
        """A test asks for the sweep: whatever becomes of it, somebody measures it."""
        self._tried.add(sweep)

    def remember(self, key: str, measured: MeasuredSweep) -> None:
        """Keep what was measured of a sweep, by what it was measured with."""
        self._measured[measured.sweep, key] = measured

    def remembered(self, sweep: Sweep, key: str) -> MeasuredSweep | None:
        """What was measured of the sweep with the same."""
        return self._measured.get((sweep, key))

    def refuse_same_names(self, sweep: Sweep, cases: Iterable[Case]) -> None:
        """Two measurements under one name would be stored over each other, and asserted for each other.

        Raises UsageError.
        """
        wanted = {case.name for case in cases}
        for one in self._measured.values():
            twice = sorted(wanted & {*one.outcome.cases, *one.outcome.skipped})
            if twice:
                raise UsageError(
                    f"{', '.join(twice)}: measured already, by another engine or sweep {sweep.name!r}: give each "
                    "sweep a name of its own"
                )

    @property
    def outcomes(self) -> tuple[SweepOutcome, ...]:
        """What there is by now, of failed campaigns too."""
        return tuple(one.outcome for one in self._measured.values())

    @property
    def whole(self) -> bool:
        """Whether every sweep that a test asked for was measured to its end."""
        done = {one.sweep for one in self._measured.values() if not one.failure}
        return self._tried <= done and not any(one.failure for one in self._measured.values())

    def not_measured(self, cut_off: Callable[[Sweep], bool]) -> tuple[list[str], list[str]]:
        """Sweeps that no test asks for, and those that a test didn't come to: their tests were `cut_off`."""
        missing, not_reached = [], []
        for sweep in {**self._declared, **self._selected}:
            if sweep in self._tried:
                continue
            if cut_off(sweep):
                not_reached.append(f"sweep {sweep.name!r} is declared, and no test came to measure it")
            else:
                missing.append(
                    f"sweep {sweep.name!r} is declared and nothing measured it: pass it to slmperf.measure(…) in a "
                    f"test that runs, or delete it{UNSEEN}"
                )
        return missing, not_reached

    def not_looked_at(self) -> list[str]:
        """Gated cases of the sweeps that were measured which no test looks at."""
        return [
            f"sweep {one.sweep.name!r} gates {', '.join(one.outcome.asked)}, and no test that runs looks at "
            f"{', '.join(one.outcome.unselected)}: bind one to all of its cases, as each does, or take them out of "
            f"{one.sweep.axis}{UNSEEN}"
            for one in self._measured.values()
            if not one.failure and one.outcome.asked and one.outcome.unselected
        ]

    def unasserted(
        self, asserted: set[tuple[str, str]], cut_off: Callable[[Sweep], bool]
    ) -> tuple[list[str], list[str]]:
        """Gated metrics that no test asserts, and those that a test didn't come to assert."""
        missing, not_reached = [], []
        for measured in (one for one in self._measured.values() if not one.failure):
            for name, cases in _unasserted(measured.outcome, asserted).items():
                gates, at = f"sweep {measured.outcome.sweep!r} gates {name}", ", ".join(cases)
                if cut_off(measured.sweep):
                    not_reached.append(f"{gates}, and no test came to assert it for {at}")
                else:
                    missing.append(
                        f"{gates}, and no test of this run asserts it for {at}: assert {assertion(metric(name))}, "
                        "or take it out of gate={…}"
                    )
        return missing, not_reached

    def nothing_left(self) -> list[str]:
        """Why a gate would pass for want of cases: nothing is declared and nothing was tried, or every sweep was, and
        every case skipped. Empty otherwise.
        """
        if not (self._declared or self._selected or self._tried):
            return ["no test of this run measured anything, so nothing is gated"]
        if not self.whole or any(outcome.cases for outcome in self.outcomes):
            return []
        reasons = [f"{case}: {reason}" for outcome in self.outcomes for case, reason in outcome.skipped.items()]
        return ["no case of any sweep was measured, so nothing is gated:", *reasons] if reasons else []


def _unasserted(outcome: SweepOutcome, asserted: set[tuple[str, str]]) -> dict[str, list[str]]:
    """The cases of each gated metric that nobody asserted."""
    missing: dict[str, list[str]] = {}
    for case in outcome.cases.values():
        for name in case.verdicts:
            if (case.case, name) not in asserted:
                missing.setdefault(name, []).append(case.case)
    return missing
