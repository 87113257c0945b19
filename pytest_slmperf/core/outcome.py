"""What came out: of a sweep, and of a whole run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.roofline import Roof
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.core.sweeps.search import SHARE_KEY
from pytest_slmperf.core.sweeps.variant import Variant, series_of
from pytest_slmperf.core.sweeps.workload import LABELS
from pytest_slmperf.core.verdict import Verdict

LARGER = "give it a larger budget"
"""The way out of what the budget left undecided."""


@dataclass(frozen=True)
class FreshSamples:
    """What one arm measured of a case in launches made afresh, since a knee or a frontier looked regressed.

    No gated metric is judged by them.
    """

    launches: tuple[int, ...]
    """Places of the valid ones among all launches of the sweep, in time order. A sample has a row for each of them;
    where a metric is of fewer, a note says so."""
    samples: Mapping[str, Sample]
    """By the metric's full name."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseOutcome:
    """One case: what was measured, what it is compared with, and what the gate says."""

    case: str
    coordinates: Mapping[str, str | float]
    """`{"model": "opt-125m", "replicas": 2, "batch_size": 64}`: what a suite looks it up by; its place comes last."""
    measurement: Measurement
    baseline: Measurement | None
    """The stored samples, or the other arm's. None where there is nothing comparable."""
    verdicts: Mapping[str, Verdict]
    """By the full name of each gated metric."""
    fresh_from: int | None = None
    """Place, from 0, of the first launch that confirmed what looked regressed: a confirmation is judged by the launches
    from there on alone. None where nothing was confirmed."""
    fresh: FreshSamples | None = None
    """What confirmed, or did not confirm, a knee or a frontier; None where nothing was launched for one."""
    fresh_baseline: FreshSamples | None = None
    """The same of the other arm; None where the stored baseline stood beside it."""
    cut_off: str = ""
    """Why no launch measured it, where the run ended before one could: any metric may have been there then."""

    @property
    def axis(self) -> str:
        """What its sweep varies: `batch_size`, `concurrency`, `request_rate` or `speed`."""
        return next((name for name in LABELS if name in self.coordinates), list(self.coordinates)[-1])

    @property
    def at(self) -> float:
        """Where on that axis it is."""
        place = self.coordinates[self.axis]
        assert not isinstance(place, str)  # noqa: S101 - texts are models and settings of engines
        return place

    @property
    def searched(self) -> bool:
        """Whether each launch looked for its place: then `at` is the highest, and was not the load of any sample."""
        return SHARE_KEY in self.measurement.key

    @property
    def variant(self) -> Variant:
        """What its sweep varied of the engine."""
        return Variant(tuple((name, has) for name, has in self.coordinates.items() if name not in ("model", self.axis)))

    @property
    def series(self) -> str:
        """What the cases of its curve have in common: `decode/opt-125m/replicas=2`."""
        return series_of(self.case)


@dataclass(frozen=True)
class SweepOutcome:
    """One sweep on one or several engines, measured together."""

    sweep: str
    design: Literal["stored", "interleaved"]
    """`stored` (against a baseline file) or `interleaved` (against another arm, now)."""
    mode: Literal["gate", "accept", "report"]
    """`gate`, `accept` or `report`."""
    cases: Mapping[str, CaseOutcome]
    specs: tuple[EngineSpec, ...]
    """The candidate's engines, each as it was launched: one for each variant that the sweep has of it."""
    versions: Mapping[str, str]
    baseline_versions: Mapping[str, str] | None
    launches: int
    """All of them: the throw-away ones and the fresh ones, too."""
    seconds: float
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Cases that were not measured, each with its reason: they don't fit this machine, or the tier leaves them out."""
    unselected: tuple[str, ...] = ()
    """Cases of the sweep that no selected test looks at: not measured, and not stale either."""
    left_out: tuple[str, ...] = ()
    """Cases, among the skipped, that only the tier leaves out: a curve without them is another curve."""
    skipped_stored: tuple[str, ...] = ()
    """Cases, among the skipped, that the baseline holds: a curve without them is another curve, too."""
    notes: tuple[str, ...] = ()
    asked: Mapping[str, float] = field(default_factory=dict)
    """The tolerance that the suite asks for, by the full name of each gated metric: a verdict's may be a stored one.
    Without the `unmetered`, which are neither judged nor recorded."""
    unmetered: Mapping[str, str] = field(default_factory=dict)
    """Metrics that no meter tells here, each with the reason, where that skips their tests and isn't red."""
    ungated: tuple[str, ...] = ()
    """Metrics that the suite gates and this machine's settings don't: their tests are skipped."""
    baseline_specs: tuple[EngineSpec, ...] = ()
    """The other arm's engines, each beside the candidate's at its place; empty where nothing else was measured."""
    fresh_launches: int = 0
    """How many of the launches, in both arms, were made afresh since a knee or a frontier looked regressed. Those that
    confirm a gated metric are none of these: see `CaseOutcome.fresh_from`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all its cases, measured or not."""
        return tuple(dict.fromkeys((*self.cases, *self.skipped, *self.unselected)))

    @property
    def label(self) -> str:
        """What its cases are called by, as `batch`; empty where there is none."""
        return next((name.rpartition("/")[2].partition("=")[0] for name in self.names), "")

    def names_on(self, engine: str) -> frozenset[str]:
        """Names of the cases on this engine, measured or not. Its other cases are on another."""
        models = tuple({f"{self.sweep}/{spec.model_name}/" for spec in self.specs if spec.engine == engine})
        return frozenset(name for name in self.names if name.startswith(models))


@dataclass(frozen=True)
class RunOutcome:
    """A whole run, finished or not: what a report is written from."""

    machine: Machine
    sweeps: tuple[SweepOutcome, ...]
    started_at: str
    seconds: float
    commit: str | None
    complete: bool
    """False where the run was interrupted: what is here is what was finished."""
    problems: tuple[str, ...] = ()
    """What makes the run red beside the verdicts: stale cases, unasserted metrics, refused records, failed launches."""
    remarks: tuple[str, ...] = ()
    """What is said and not red: the same under a selection, notes on the machine."""
    claims: tuple[Verdict, ...] = ()
    """Verdicts that tests asked for beside the gated metrics: stated limits, knees, frontiers."""
    whole: bool = False
    """Whether every test of the suites was to run, and the run came to its end: no -k, -m, --lf or node id, and no -x
    or interruption. Only of such a run it can be said that what it lacks is not there any more."""
    recorded: bool = False
    """Whether what was measured has become the baseline: False where nothing was to be recorded, or it was refused."""
    tier: Literal["quick", "gate", "full"] = "gate"
    """How much it was to cost; what `quick` measured judges nothing later."""
    failed_tests: tuple[str, ...] = ()
    """Node ids of the performance tests that failed, whatever the reason; a verdict may not be it."""
    roofs: Mapping[str, Roof] = field(default_factory=dict)
    """What its device reads and computes at the most, by where on it an engine is: `core.explain.place_of` says."""
