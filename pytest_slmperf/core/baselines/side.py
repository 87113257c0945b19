"""One side of a comparison as a value: what a report or baseline files hold, case by case."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pytest_slmperf.core.baselines.baseline import BaselineFile, StoredCase
from pytest_slmperf.core.machine import NOT_SAID, Machine
from pytest_slmperf.core.outcome import CaseOutcome, RunOutcome, SweepOutcome
from pytest_slmperf.core.sample import Measurement


@dataclass(frozen=True)
class RecordedCase:
    """One case as one side has it, and what it was measured on."""

    suite: str
    measurement: Measurement
    machine: Machine
    recorded: str
    """ISO 8601 in UTC: when, or when the run began."""
    tolerances: Mapping[str, float] = field(default_factory=dict)
    """Stored or asked for, by the full name of each metric that this side gates."""
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None

    @property
    def engine(self) -> str:
        """Its engine's name. Two engines of one side may have measured cases of one name."""
        return str(self.measurement.key.get("engine"))


@dataclass(frozen=True)
class Side:
    """Everything that one side has."""

    label: str
    """What the user calls it."""
    cases: tuple[RecordedCase, ...]
    absent: Mapping[str, str] = field(default_factory=dict)
    """Cases that it knows and did not measure, each with its reason."""
    remarks: tuple[str, ...] = ()


def of_run(label: str, run: RunOutcome) -> Side:
    """What a run measured: of a run of two arms, the candidate."""
    cases = tuple(_measured(run, sweep, case) for sweep in run.sweeps for case in sweep.cases.values())
    absent: dict[str, str] = {}
    for sweep in run.sweeps:
        absent |= dict.fromkeys(sweep.unselected, "no selected test looked at it")
        absent |= {case: f"skipped: {reason}" for case, reason in sweep.skipped.items()}
    remarks = []
    if not run.complete:
        remarks.append(f"{label}: the run was interrupted or failed, and holds only what was finished")
    if run.tier == "quick":
        remarks.append(f"{label}: measured with --slmperf-tier=quick, a glance")
    if missing := _not_said(cases):
        remarks.append(f"{label}: imported, and nobody said its {', '.join(missing)}: a difference there is not seen")
    return Side(label, cases, absent, tuple(remarks))


def _not_said(cases: Iterable[RecordedCase]) -> list[str]:
    """Fields of which nobody knows what they were when these were measured."""
    facts = [{**one.measurement.key, "device": one.machine.device, "driver": one.machine.driver} for one in cases]
    return list(dict.fromkeys(name for one in facts for name, value in one.items() if value == NOT_SAID))


def _measured(run: RunOutcome, sweep: SweepOutcome, case: CaseOutcome) -> RecordedCase:
    judged_by = {name: one.tolerance for name, one in case.verdicts.items() if one.tolerance is not None}
    if run.tier == "quick":  # its verdicts tolerate more than anybody asked for
        judged_by = {}
    return RecordedCase(
        suite=sweep.sweep,
        measurement=case.measurement,
        machine=run.machine,
        recorded=run.started_at,
        tolerances={**sweep.asked, **judged_by},
        versions=sweep.versions,
        commit=run.commit,
    )


def of_files(label: str, files: Iterable[BaselineFile]) -> Side:
    """What is in force in baseline files. A case whose recordings are all retired is void, and says why."""
    cases = [_stored(file, name, case) for file in files for name, case in file.cases.items()]
    return Side(label, tuple(cases))


def _stored(file: BaselineFile, name: str, case: StoredCase) -> RecordedCase:
    point = case.current or case.points[-1]
    kept = {} if point.retired else {metric: one.sample for metric, one in point.metrics.items()}
    void = f"every recording of it is retired, the last one because: {point.retired.reason}" if point.retired else None
    return RecordedCase(
        suite=file.suite,
        measurement=Measurement(name, case.key, kept, void=void, boards=point.boards),
        machine=file.machine,
        recorded=point.recorded,
        tolerances={metric: one.tolerance for metric, one in point.metrics.items() if one.tolerance is not None},
        versions=point.versions,
        commit=point.commit,
    )
