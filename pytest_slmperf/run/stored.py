"""What is stored for the cases of a run: found, missed when it is stale, and replaced when it is accepted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pytest_slmperf.core import gate
from pytest_slmperf.core.baseline import Against, BaselineFile, Comparable, Incomparable, Recording, lookup
from pytest_slmperf.core.errors import BaselineError
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import CaseOutcome, SweepOutcome
from pytest_slmperf.core.sweep import LARGEST_TOLERANCE
from pytest_slmperf.core.verdict import Status
from pytest_slmperf.run.campaign import Stored
from pytest_slmperf.run.store import BaselineStore

RECORD = "record it: pytest --slmperf --slmperf-accept"
AB = "or compare both versions side by side, without a baseline: --slmperf-against python=PATH"


@dataclass(frozen=True)
class Acceptance:
    """What is known of a run that is to be stored."""

    policy: gate.Policy
    """How later gates will judge; its tolerance doesn't matter."""
    supported: bool
    """Take the tolerance that the noise needs where it needs more than was asked for."""
    commit: str | None
    by: str


class StoredCases:
    """The baselines that a run's machine has, each file read once."""

    def __init__(self, folder: Path, machine: Machine, against: Against | None) -> None:
        self._store = BaselineStore(folder)
        self._machine = machine
        self._against = against
        self._files: dict[tuple[str, str], BaselineFile | None] = {}

    def find(self, case: str, key: Mapping[str, object]) -> Stored:
        """What a case is compared with, or why there is nothing. Raises BaselineError for a file that can't be read."""
        suite, engine = case.partition("/")[0], str(key["engine"])
        found = lookup(self._file(suite, engine), case, key, self._machine, self._against)
        if isinstance(found, Comparable):
            return Stored(found.measurement, found.tolerances, found.point.versions, notes=found.notes)
        if isinstance(found, Incomparable):
            field = found.fields[0]
            one = f"compare across it: --slmperf-against {field.field}={field.stored}" if len(found.fields) == 1 else ""
            return Stored(
                status=Status.INCOMPARABLE,
                reason=f"the baseline holds for something else: {found.reason}",
                way_out="; ".join(filter(None, (one, RECORD, AB))),
            )
        path = self._store.path_of(self._machine, engine, suite)
        elsewhere = self._store.elsewhere(self._machine, engine, suite)
        reason = ". ".join(filter(None, (f"{found.reason} in {path}", elsewhere)))
        return Stored(status=Status.NO_BASELINE, reason=reason, way_out=f"{RECORD}; {AB}")

    def _file(self, suite: str, engine: str) -> BaselineFile | None:
        if (suite, engine) not in self._files:
            against = None if self._against and self._against.field == "python" else self._against
            self._files[suite, engine] = self._store.load(self._machine, engine, suite, against)
        return self._files[suite, engine]

    def stale(self, outcomes: Sequence[SweepOutcome]) -> list[str]:
        """Stored cases that no suite measures any more, one line a file."""
        lines = []
        for (suite, engine), file in self._files.items():
            there = {
                name
                for outcome in outcomes
                if outcome.sweep == suite
                for name in (*outcome.cases, *outcome.skipped, *outcome.unselected)
            }
            gone = sorted(set(file.cases) - there) if file else []
            if gone:
                path = self._store.path_of(self._machine, engine, suite)
                lines.append(
                    f"{path} holds {', '.join(gone)}, and no suite measures that any more: "
                    f"slmperf baselines prune REPORT.json --baselines {self._store.root}, with the report of a whole run"
                )
        return lines

    def accept(self, outcomes: Sequence[SweepOutcome], how: Acceptance) -> list[str]:
        """Store every gated case as the newest recording, and say what changed.

        Raises BaselineError where a case is void or unmeasured, or its noise needs more tolerance than was asked for;
        then nothing is stored.
        """
        tolerances: dict[tuple[str, str], float] = {}
        lines, refused = [], []
        for outcome in outcomes:
            for case in outcome.cases.values():
                for name, verdict in case.verdicts.items():
                    taken = _tolerance(case, name, verdict.tolerance or 0.0, how)
                    if isinstance(taken, str):
                        refused.append(taken)
                    else:
                        tolerances[case.case, name] = taken
        if refused:
            raise BaselineError("\n".join(["nothing is recorded:", *refused]))
        recorded = datetime.now(UTC).isoformat(timespec="seconds")
        for outcome in outcomes:
            for engine in dict.fromkeys(spec.engine for spec in outcome.specs):
                measurements = [case.measurement for case in outcome.cases.values() if case.measurement.key["engine"] == engine]
                gated = {at: tolerance for at, tolerance in tolerances.items() if at[0] in outcome.cases}
                recording = Recording(measurements, gated, recorded, how.commit, how.by, outcome.versions)
                diff = self._store.accept(self._machine, engine, outcome.sweep, recording)
                lines.append(f"recorded in {self._store.path_of(self._machine, engine, outcome.sweep)}")
                lines.extend(f"  {line}" for line in diff.lines())
        return lines or ["no sweep was measured, so nothing is recorded"]


def _tolerance(case: CaseOutcome, name: str, asked: float, how: Acceptance) -> float | str:
    """The tolerance that the gate will use for a metric, or why there is none."""
    measurement = case.measurement
    if measurement.void:
        return f"{case.case}: void: {measurement.void}"
    sample = measurement.samples.get(name)
    if sample is None:
        return f"{case.case} {name}: unmeasured: {measurement.unmeasured.get(name, 'no launch measured it')}"
    supported = gate.supported_tolerance(sample, metric(name), how.policy)
    if supported is None or supported > LARGEST_TOLERANCE:
        return (
            f"{case.case} {name}: this machine's noise is not decided even at a tolerance of {LARGEST_TOLERANCE:.0%}; "
            f"pin it, free it of other work, or take the metric out of gate={{…}} here"
        )
    if supported <= asked:
        return asked
    if how.supported:
        return supported
    return (
        f"{case.case} {name}: this machine's noise needs a tolerance of {supported:.0%}, and {asked:.0%} is asked for: "
        f"gate={{{name!r}: {supported:g}}} in the suite, or tolerance = \"supported\" in [tool.slmperf]"
    )
