"""What changes a baseline file: new recordings, retired ones, and cases that nobody measures any more."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_slmperf.core.baselines.baseline import (
    PLANTED,
    BaselineFile,
    Retirement,
    StoredCase,
    StoredMetric,
    StoredRecording,
    instant,
)
from pytest_slmperf.core.baselines.lookup import Difference, key_differences, scalar
from pytest_slmperf.core.baselines.recordable import LEAST_LAUNCHES, unfit, unfit_metric
from pytest_slmperf.core.curves.highest_rate import GOODPUT_SHARE
from pytest_slmperf.core.errors import BaselineError, UsageError
from pytest_slmperf.core.judging.same_pace import depends_on_pace
from pytest_slmperf.core.machine import Machine, Role
from pytest_slmperf.core.metrics import CLOCK, CORE_PACE, ENERGY, is_own_rate, metric
from pytest_slmperf.core.sample import Measurement
from pytest_slmperf.core.sweeps.sweep import LARGEST_TOLERANCE

POINTS_KEPT = 4
"""The newest recording and three to fall back on when it is retired, or to read a trend from. git keeps the rest."""

SHAPE_METRICS = ("output_throughput", "median_itl_ms", GOODPUT_SHARE)
"""Kept although nothing gates them: a sweep's knees, by every definition, and its highest rate are read from them."""


@dataclass(frozen=True)
class Recording:
    """What is to be stored: measurements, and where they come from."""

    measurements: Sequence[Measurement]
    tolerances: Mapping[tuple[str, str], float]
    """By (case, metric's full name). A metric without one is not gated; of those only SHAPE_METRICS are stored, the
    clock beside joules, and the cores' pace beside times.
    """
    recorded: str
    """ISO 8601 in UTC."""
    commit: str | None = None
    by: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    older: bool = False
    """Take it although a newer recording is in force."""


def updated(file: BaselineFile | None, machine: Machine, engine: str, suite: str, recording: Recording) -> BaselineFile:
    """The file with the recording's measurements as the newest points of their cases; other cases stay as they are.

    Where a case's key differs from the stored one, its earlier recordings are dropped: they hold for another thing.
    Raises BaselineError for measurements that no gate may rest on, and for a file of another machine.
    """
    if file:
        unlike = file.machine.differences(machine, Role.MUST_MATCH, Role.PART_OF_DEVICE)
        if unlike:
            named = "; ".join(str(Difference(name, *pair)) for name, pair in unlike.items())
            raise BaselineError(
                f"what is stored holds for another machine: {named}. Record into another folder (--slmperf-baselines), "
                "or delete the file first"
            )
    if not recording.measurements:
        raise BaselineError("there is nothing to record: no case was measured")
    points, refused = {}, []
    for measurement in recording.measurements:
        try:
            _refuse_older(measurement.case, file, recording)
            points[measurement.case] = _point(measurement, machine, engine, recording)
        except BaselineError as error:
            refused.append(str(error))
    if refused:
        raise BaselineError("nothing was recorded:\n" + "\n".join(refused) if len(refused) > 1 else refused[0])
    cases = dict(file.cases) if file else {}
    for measurement in recording.measurements:
        key = {name: scalar(value) for name, value in measurement.key.items() if not name.startswith(PLANTED)}
        before = cases.get(measurement.case)
        earlier = before.points if before and not key_differences(before.key, key) else ()
        point = points[measurement.case]
        earlier = tuple(one for one in earlier if not _is_same_recording(one, point))
        cases[measurement.case] = StoredCase(key, (*earlier, point)[-POINTS_KEPT:])
    return BaselineFile(machine, engine, suite, cases)


def newer_in_force(file: BaselineFile | None, case: str, recorded: str) -> StoredRecording | None:
    """What is in force for a case, where that was recorded later; whether its key is another doesn't matter."""
    stored = file.cases.get(case) if file else None
    newest = stored.current if stored else None
    made, in_force = instant(recorded), instant(newest.recorded) if newest else None
    return newest if made and in_force and made < in_force else None  # what is no date is refused where it is written


def _refuse_older(case: str, file: BaselineFile | None, recording: Recording) -> None:
    newer = None if recording.older else newer_in_force(file, case, recording.recorded)
    if newer:
        raise BaselineError(
            f"{case}: this was recorded {recording.recorded}, and what is in force later, {newer.recorded}: retire "
            "that, or put the older one in its place: slmperf baselines accept --older, with its report"
        )


def _is_same_recording(stored: StoredRecording, accepted: StoredRecording) -> bool:
    """Whether one recording is accepted for a second time: it then takes its own place."""
    samples = [{name: kept.sample for name, kept in point.metrics.items()} for point in (stored, accepted)]
    return samples[0] == samples[1] and stored.recorded == accepted.recorded and not stored.retired


def _point(measurement: Measurement, machine: Machine, engine: str, recording: Recording) -> StoredRecording:
    case = measurement.case
    if why := unfit(measurement, machine, engine):
        raise BaselineError(f"{case}: {why}")
    gated = {name: tolerance for (of, name), tolerance in recording.tolerances.items() if of == case}
    for name, tolerance in gated.items():
        if why := unfit_metric(measurement, name, machine):
            raise BaselineError(f"{case} {name}: {why}")
        if not 0 < tolerance <= LARGEST_TOLERANCE:
            raise BaselineError(
                f"{case} {name}: a tolerance of {tolerance!r}; it is a fraction above 0, up to {LARGEST_TOLERANCE}"
            )
    joules = any(name in ENERGY for name in gated)
    timed = any(depends_on_pace(name) for name in gated)
    kept = (*SHAPE_METRICS, *((CLOCK,) if joules else ()), *((CORE_PACE,) if timed else ()))
    metrics = {}
    for name, sample in measurement.samples.items():
        # Launches without a share in time met the SLO with no request: those that have one don't stand alone.
        enough = len(sample.launches) >= LEAST_LAUNCHES or (name == GOODPUT_SHARE and bool(gated))
        if name in gated or ((name in kept or (timed and is_own_rate(name))) and enough):
            meaning = metric(name)
            metrics[name] = StoredMetric(sample, meaning.unit, meaning.higher_is_better, gated.get(name))
    if not metrics:
        raise BaselineError(
            f"{case}: none of its metrics is gated, so there is nothing to record: give its sweep a gate="
        )
    boards = measurement.boards if joules else {}
    return StoredRecording(
        recording.recorded, metrics, recording.commit, recording.by, recording.versions, boards=boards
    )


def retired(file: BaselineFile, case: str, retirement: Retirement, position: int | None = None) -> BaselineFile:
    """The file with one recording of a case retired: the current one, or the one at this position, counted from 1."""
    stored = _stored(file, case)
    places = [place for place, point in enumerate(stored.points) if not point.retired]
    if position is None:
        if not places:
            raise BaselineError(f"{case}: every recording of it is retired already")
        place = places[-1]
    else:
        place = position - 1
        if not 0 <= place < len(stored.points):
            raise UsageError(f"{case} has no recording {position}; they are 1 (the oldest) to {len(stored.points)}")
        if place not in places:
            raise BaselineError(f"{case}: recording {position} is retired already")
    points = list(stored.points)
    points[place] = replace(points[place], retired=retirement)
    return replace(file, cases={**file.cases, case: replace(stored, points=tuple(points))})


def pruned(file: BaselineFile, measured: Collection[str]) -> BaselineFile | None:
    """The file without the cases that no suite measures any more; None where none is left."""
    cases = {name: stored for name, stored in file.cases.items() if name in measured}
    return replace(file, cases=cases) if cases else None


def _stored(file: BaselineFile, case: str) -> StoredCase:
    if case not in file.cases:
        raise UsageError(f"nothing is stored for {case}; stored are {', '.join(sorted(file.cases))}")
    return file.cases[case]
