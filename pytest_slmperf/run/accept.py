"""Make what a run measured the new baseline: settle tolerances that its noise supports, then store all or nothing."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from pytest_slmperf.core import gate
from pytest_slmperf.core.baselines.diff import Diff, Loosened
from pytest_slmperf.core.baselines.recordable import unfit, unfit_metric
from pytest_slmperf.core.baselines.revision import Recording
from pytest_slmperf.core.errors import BaselineError, UsageError
from pytest_slmperf.core.judging.drift import drift_of
from pytest_slmperf.core.judging.even_pace import evened
from pytest_slmperf.core.judging.tolerance import SMALLEST_SUPPORTED, supported_tolerance
from pytest_slmperf.core.machine import NOT_SAID, Machine, Role
from pytest_slmperf.core.metrics import CORE_PACE, metric
from pytest_slmperf.core.outcome import RunOutcome, SweepOutcome
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.core.sweeps.sweep import LARGEST_TOLERANCE
from pytest_slmperf.run.store import BaselineStore


@dataclass(frozen=True)
class Terms:
    """On which terms measurements are accepted, and what is noted beside them."""

    policy: gate.Policy
    """How later gates will judge; its tolerance doesn't matter."""
    supported: bool
    """Take the tolerance that the noise supports where it supports none as tight as was asked for."""
    recorded: str
    """ISO 8601 in UTC: when it was measured."""
    commit: str | None = None
    by: str = ""
    older: bool = False
    """Take it although a newer recording is in force."""


def accept(
    store: BaselineStore,
    machine: Machine,
    sweeps: Sequence[SweepOutcome],
    terms: Terms,
    only: Collection[str] = (),
) -> Diff:
    """Store the gated cases of a run, or `only` those named, as the newest recordings, and say what changed.

    Raises BaselineError that lists everything that was refused, before anything is stored; UsageError for a name in
    `only` that the run didn't measure.
    """
    measured = {name for sweep in sweeps for name in sweep.cases}
    unknown = sorted(set(only) - measured)
    if unknown:
        raise UsageError(f"not measured: {', '.join(unknown)}; measured were {', '.join(sorted(measured)) or 'none'}")
    tolerances, refused = _settled(machine, sweeps, terms, only)
    if refused:
        raise BaselineError("\n".join(["nothing is recorded:", *refused]))
    recordings = list(_recordings(sweeps, tolerances, terms))
    if not recordings:
        raise BaselineError("nothing is recorded: no gated case was measured; a sweep's gate={…} names what is gated")
    asked = {(case, name): asked for sweep in sweeps for case in sweep.cases for name, asked in sweep.asked.items()}
    loosened = tuple(Loosened(*at, asked[at], taken) for at, taken in tolerances.items() if taken > asked[at])
    return replace(store.accept(machine, recordings), loosened=loosened)


def _settled(
    machine: Machine, sweeps: Sequence[SweepOutcome], terms: Terms, only: Collection[str] = ()
) -> tuple[dict[tuple[str, str], float], list[str]]:
    """The tolerances of what can be recorded, by (case, metric), and why the rest can't."""
    tolerances: dict[tuple[str, str], float] = {}
    refused: list[str] = []
    for sweep in sweeps:
        for case in (case for case in sweep.cases.values() if sweep.asked and (not only or case.case in only)):
            key = case.measurement.key
            if why := on_another_device(key, machine) or unfit(case.measurement, machine, str(key.get("engine"))):
                refused.append(f"{case.case}: {why}")
                continue
            for name, asked in sweep.asked.items():
                if why := unfit_metric(case.measurement, name, machine):
                    refused.append(f"{case.case} {name}: {why}")
                    continue
                taken = _tolerance(case.measurement, name, asked, terms)
                if isinstance(taken, str):
                    refused.append(taken)
                else:
                    tolerances[case.case, name] = taken
    return tolerances, refused


class Remedy(Enum):
    """What lets a run be accepted that was refused."""

    OTHER_TOLERANCE = auto()
    """The tolerances that its noise supports."""
    OTHER_CAUSE = auto()
    """Its samples are good: where it was to be stored, something stood in the way."""


def remedy(run: RunOutcome, policy: gate.Policy) -> Remedy | None:
    """What lets a refused run be accepted as it is; None where only other samples do, or an own decision of its suite.

    `policy` is how later gates will judge.
    """
    if not run.complete or run.tier == "quick":
        return None
    for supported, found in ((False, Remedy.OTHER_CAUSE), (True, Remedy.OTHER_TOLERANCE)):
        tolerances, refused = _settled(run.machine, run.sweeps, Terms(policy, supported, run.started_at))
        if tolerances and not refused:
            return found
    return None


def holds_all(run: RunOutcome, kept: RunOutcome) -> bool:
    """Whether a run has all gated cases of another, of the same machine."""
    cases, others = ({case for sweep in one.sweeps if sweep.asked for case in sweep.cases} for one in (run, kept))
    unlike = run.machine.differences(kept.machine, Role.MUST_MATCH, Role.PART_OF_DEVICE)
    return not unlike and cases >= others


def refuse_part(run: RunOutcome) -> None:
    """Raises BaselineError for a run that is no basis of a baseline, whatever its samples look like."""
    if not run.complete:
        why = ["the run was interrupted or a launch failed, so its measurement is not whole", *run.problems]
        raise BaselineError("\n".join([f"nothing is recorded: {why[0]}", *why[1:]]))
    if run.tier == "quick":
        raise BaselineError(
            "nothing is recorded: a run with --slmperf-tier=quick is a glance; measure with --slmperf-accept"
        )


def on_another_device(key: Mapping[str, object], machine: Machine) -> str | None:
    """Why what was measured with this key is none of the machine's, and so neither stored nor compared, or None."""
    device = key.get("device")
    if machine.runs(device):
        return None
    if device == NOT_SAID:
        return "nobody said on what kind of device it was measured: import it again with --runs-on"
    if str(device).partition(":")[0] in ("cpu", "cuda"):
        return (
            f"the engine ran on {device}, and was taken for one on {machine.device}: say where it runs, "
            f"--slmperf-engine={key.get('engine')}:device={device}"
        )
    return f"this version knows nothing of the device {device} that a stored baseline could hold for"


@dataclass(frozen=True)
class Settled:
    """What a metric can be gated with by its noise, against what was asked for."""

    asked: float
    supported: float | None
    """The smallest tolerance that its noise supports; None where even the largest is too little."""
    or_more: bool
    """Take what the noise supports where that is more than was asked for."""

    @property
    def most(self) -> float:
        """The largest tolerance that may be taken."""
        return LARGEST_TOLERANCE if self.or_more else min(self.asked, LARGEST_TOLERANCE)

    @property
    def tolerance(self) -> float | None:
        """What it will be gated with; None where it can't be recorded."""
        if self.supported is None or self.supported > self.most:
            return None
        return max(self.supported, min(self.asked, LARGEST_TOLERANCE))

    @property
    def too_noisy(self) -> bool:
        """Whether it can't be recorded for its noise: less than SMALLEST_SUPPORTED no machine supports."""
        return self.tolerance is None and self.most >= SMALLEST_SUPPORTED


def settled(
    sample: Sample, name: str, asked: float, policy: gate.Policy, *, pace: Sample | None, or_more: bool
) -> Settled:
    """How a metric's noise and the tolerance that is asked of it go together, for gates by this policy.

    `pace` is the cores' (`core_pace_ns`), where it is known of the sample's launches.
    """
    return Settled(asked, supported_tolerance(sample, metric(name), policy, pace), or_more)


def _tolerance(measurement: Measurement, name: str, asked: float, terms: Terms) -> float | str:
    """The tolerance that a measured metric will be gated with, or why there is none."""
    sample, at = measurement.samples[name], f"{measurement.case} {name}"
    pace = measurement.samples.get(CORE_PACE)
    found = settled(sample, name, asked, terms.policy, pace=pace, or_more=terms.supported)
    if found.tolerance is not None:
        return found.tolerance
    if found.supported is None:
        return (
            f"{at}: its noise leaves even a tolerance of {LARGEST_TOLERANCE:.0%} undecided: pin the engine, free the "
            f"machine of other work, or take the metric out of gate={{…}} here{_drift(sample, name, pace)}"
        )
    return (
        f"{at}: a tolerance of {found.supported:.1%} is supported by its noise and the {gate.DAY_SD:.1%} between two "
        f"days of a machine, and {asked:.1%} is asked for: write gate={{{name!r}: {found.supported:g}}} in the suite, "
        'or tolerance = "supported" in [tool.slmperf]'
    )


def _drift(sample: Sample, name: str, pace: Sample | None) -> str:
    """What is to be added where it's not the spread that is too large: launches that follow each other bound little."""
    even = evened(metric(name), (sample, pace)).samples[0]
    drift = drift_of(gate.costs_of(even, higher_is_better=metric(name).higher_is_better))
    return f"{drift}: the clock or a neighbour changed meanwhile, so record again" if drift else ""


def _recordings(
    sweeps: Sequence[SweepOutcome], tolerances: Mapping[tuple[str, str], float], terms: Terms
) -> Iterator[tuple[str, str, Recording]]:
    """What goes into each file, as (engine, suite, recording)."""
    wanted = {case for case, _ in tolerances}
    for sweep in sweeps:
        measurements = [case.measurement for case in sweep.cases.values() if case.case in wanted]
        for engine in dict.fromkeys(str(measurement.key.get("engine")) for measurement in measurements):
            of_engine = [one for one in measurements if str(one.key.get("engine")) == engine]
            names = {one.case for one in of_engine}
            gated = {at: tolerance for at, tolerance in tolerances.items() if at[0] in names}
            recording = Recording(
                of_engine, gated, terms.recorded, terms.commit, terms.by, sweep.versions, older=terms.older
            )
            yield engine, sweep.sweep, recording
