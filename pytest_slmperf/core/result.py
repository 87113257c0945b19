"""What the author of a suite gets from measuring a sweep: its points, knee, frontier and highest rate within an SLO."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, TypeVar

from pytest_slmperf.core import gate
from pytest_slmperf.core.errors import NotJudged, SuiteError
from pytest_slmperf.core.frontier import Frontier, FrontierPolicy, frontier
from pytest_slmperf.core.highest_rate import (
    GOODPUT_SHARE,
    SHARE,
    TOLERANCE,
    HighestRate,
    SharesInTime,
    in_time,
    refuse_wrong_tolerance,
    untold,
)
from pytest_slmperf.core.knee import DEFAULT_DEFINITION, Curve, Definition, Knee
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import CaseOutcome, SweepOutcome
from pytest_slmperf.core.point import UNJUDGED, Ledger, Point
from pytest_slmperf.core.sample import Measurement
from pytest_slmperf.core.verdict import Status, Verdict
from pytest_slmperf.core.void import RUN_AGAIN

THROUGHPUT = "output_throughput"
"""What a knee is of, and a frontier of too."""


@dataclass(frozen=True)
class Fresh:
    """Launches of one model's cases that were made to confirm what looked regressed; or why there are none."""

    cases: tuple[CaseOutcome, ...] = ()
    """The fresh samples alone, each beside the baseline that they are compared with."""
    missing: str = ""
    way_out: str = ""
    """What to do about a loss that they confirm; empty where nothing is stored that could be replaced."""


FreshLaunches = Callable[[str], Fresh]
"""Makes fresh launches of a model, or says why it can't. The same ones, however often it is asked."""


def _no_launches(_model: str) -> Fresh:
    return Fresh(missing="this result is not of a run that could make any")


class Result:
    """A measured sweep: `decode[64]`, or `decode["opt-125m", 64]` where it has several models.

    Iterating gives its points. `knee` and `frontier` are of the one model; `of(model)` picks one among several.
    """

    def __init__(
        self, outcome: SweepOutcome, ledger: Ledger | None = None, fresh: FreshLaunches = _no_launches
    ) -> None:
        self.outcome = outcome
        self.fresh = fresh
        """Makes the launches that confirm a claim."""
        self._ledger = ledger or Ledger()

    def __repr__(self) -> str:
        return f"<{self.outcome.sweep} of {', '.join(self.models)}: {len(self)} cases>"

    @property
    def models(self) -> tuple[str, ...]:
        """The models' names, in the order in which the engines were given."""
        return tuple(dict.fromkeys(spec.model_name for spec in self.outcome.specs))

    @cached_property
    def _parts(self) -> Mapping[str, "ModelResult"]:
        cases = self.outcome.cases.values()
        return {
            model: ModelResult(model, [one for one in cases if one.coordinates["model"] == model], self)
            for model in self.models
        }

    def __iter__(self) -> Iterator[Point]:
        """The points of all models, but of those whose every case was skipped; see `ModelResult` where that is all."""
        measured = [part for part in self._parts.values() if part] or self._parts.values()
        return (point for part in measured for point in part)

    def __len__(self) -> int:
        return len(self.outcome.cases)

    def __getitem__(self, at: float | tuple[str, float]) -> Point:
        """The point at a place of the axis, as a batch size.

        Raises NotJudged for one that doesn't fit this machine, which skips the test.
        """
        model, place = at if isinstance(at, tuple) else (self._one_model(), at)
        return self.of(model)[place]

    def of(self, model: str) -> "ModelResult":
        """The part of one model, by its name or, as a sweep declares it, its path."""
        paths = {spec.model: spec.model_name for spec in self.outcome.specs}
        part = self._parts.get(paths.get(model, model))
        if part is None:
            raise SuiteError(f"{self.outcome.sweep} did not measure {model!r}; it measured {', '.join(self.models)}")
        return part

    def _one_model(self) -> str:
        if len(self.models) != 1:
            raise SuiteError(f"{self.outcome.sweep} measured several models: name one of {', '.join(self.models)}")
        return self.models[0]

    @property
    def knee(self) -> "Claim[Knee]":
        """See `ModelResult.knee`."""
        return self.of(self._one_model()).knee

    def knee_by(self, definition: str, **settings: float) -> "Claim[Knee]":
        """See `ModelResult.knee_by`."""
        return self.of(self._one_model()).knee_by(definition, **settings)

    @property
    def frontier(self) -> "Claim[Frontier]":
        """See `ModelResult.frontier`."""
        return self.of(self._one_model()).frontier

    def frontier_of(self, latency: str) -> "Claim[Frontier]":
        """See `ModelResult.frontier_of`."""
        return self.of(self._one_model()).frontier_of(latency)

    @property
    def highest_rate(self) -> "Claim[HighestRate]":
        """See `ModelResult.highest_rate`."""
        return self.of(self._one_model()).highest_rate

    def highest_rate_within(self, share: float, *, tolerance: float = TOLERANCE) -> "Claim[HighestRate]":
        """See `ModelResult.highest_rate_within`."""
        return self.of(self._one_model()).highest_rate_within(share, tolerance=tolerance)

    @property
    def baseline(self) -> "Curves":
        """See `ModelResult.baseline`."""
        return self.of(self._one_model()).baseline

    def track(self, verdict: Verdict) -> Verdict:
        """See `Ledger.track`."""
        return self._ledger.track(verdict)

    def point(self, case: CaseOutcome) -> Point:
        """The case as a suite holds it."""
        return Point(case, self.outcome, self._ledger)


class Curves:
    """What one model's measurements over the axis come to: those of now, or the stored ones."""

    def __init__(self, name: str, label: str, by_place: Mapping[float, Measurement], gated: Collection[str]) -> None:
        self._name = name
        self._label = label
        """What the cases are called by, as `batch`."""
        self._by_place = by_place
        latencies = sorted(name for name in gated if metric(name).quantile is not None)
        self._latencies = latencies if THROUGHPUT in gated else []
        """What a frontier can be of, beside the throughput."""

    def __bool__(self) -> bool:
        """Whether there is anything to compare with."""
        return bool(self._by_place)

    @property
    def knee(self) -> Knee:
        """The knee by 95 % of the maximum."""
        return self.knee_by(DEFAULT_DEFINITION.name)

    def knee_by(self, definition: str, **settings: float) -> Knee:
        """The knee by another definition. Raises SuiteError for an unknown one."""
        throughput, itl = (
            {at: one.samples[name] for at, one in self._by_place.items() if name in one.samples}
            for name in (THROUGHPUT, "median_itl_ms")
        )
        return Curve(throughput, itl, self._name, self._label).knee(Definition(definition, settings))

    @property
    def frontier(self) -> Frontier:
        """The frontier of throughput against the gated latency, the first by its name where several are gated.

        Raises SuiteError where no such pair is gated.
        """
        return self._frontier(next(iter(self._latencies), ""))

    def frontier_of(self, latency: str) -> Frontier:
        """The frontier of throughput against this latency, as `tpot_ms`. Raises SuiteError where it isn't gated."""
        return self._frontier(metric(latency).name)

    @property
    def highest_rate(self) -> HighestRate:
        """The highest rate, or concurrency, at which 99 % of the requests meet the sweep's Slo."""
        return self.highest_rate_within(SHARE)

    def highest_rate_within(self, share: float) -> HighestRate:
        """The same for another share of the requests."""
        launches = {at: in_time(one) for at, one in self._by_place.items()}
        return SharesInTime(launches, self._name, self._label).highest(share)

    @property
    def share_in_time(self) -> bool:
        """Whether any place has the share that met the Slo: where none has, nothing says that there was one."""
        return any(GOODPUT_SHARE in one.samples for one in self._by_place.values())

    @property
    def untold_shares(self) -> str:
        """Why the share that met the Slo isn't known of every launch; empty where it is."""
        return next((f"{one.case}: {why}" for one in self._by_place.values() if (why := untold(one))), "")

    def _frontier(self, latency: str) -> Frontier:
        if latency not in self._latencies:
            raise SuiteError(
                f"{self._name}: a frontier is of throughput against a latency: gate both, as in "
                f"gate={{'output_throughput': 0.03, '{latency or 'tpot_ms'}': 0.03}}"
            )
        measured = {one.case: one.samples for one in self._by_place.values()}
        return frontier(measured, (THROUGHPUT, latency), self._name)


class ModelResult:
    """One model's part of a measured sweep: its points by their place on the axis, its knee and its frontier."""

    def __init__(self, model: str, cases: Sequence[CaseOutcome], of: Result) -> None:
        self._model = model
        self._name = f"{of.outcome.sweep}/{model}"
        self._cases = {case.at: case for case in cases}
        self._of = of
        self._label = of.outcome.label
        self._skipped = {name: why for name, why in of.outcome.skipped.items() if name.rpartition("/")[0] == self._name}
        self._tolerances = {
            case.case: {name: verdict.tolerance for name, verdict in case.verdicts.items() if verdict.tolerance}
            for case in cases
        }
        self._now, self.baseline = self._curves(cases)
        """What was measured, and the stored side: empty where nothing comparable is stored, and a claim says so."""

    def _curves(self, cases: Iterable[CaseOutcome]) -> "tuple[Curves, Curves]":
        """The curves of these cases, and of what they are compared with."""
        gated = {*self._of.outcome.asked, *(name for case in self._tolerances.values() for name in case)}
        by_place = {case.at: case for case in cases}
        now = {at: case.measurement for at, case in by_place.items()}
        stored = {at: case.baseline for at, case in by_place.items() if case.baseline}
        return Curves(self._name, self._label, now, gated), Curves(self._name, self._label, stored, gated)

    def __getitem__(self, at: float) -> Point:
        if at in self._cases:
            return self._of.point(self._cases[at])
        name = f"{self._name}/{self._label}={at}"
        if name in self._skipped:
            raise NotJudged(f"{name}: {self._skipped[name]}")
        raise SuiteError(
            f"{name} was not measured in this run; measured is {self._label} {', '.join(map(str, self._cases))}. A "
            f"test that looks at one case says so, as in @SWEEP.at({at})"
        )

    def __len__(self) -> int:
        return len(self._cases)

    def __iter__(self) -> Iterator[Point]:
        """Its points. Raises NotJudged where every case was skipped: a loop over no point would assert nothing."""
        if self._skipped and not self._cases:
            raise NotJudged(f"{self._name} was not measured: {'; '.join(dict.fromkeys(self._skipped.values()))}")
        return map(self._of.point, self._cases.values())

    @property
    def knee(self) -> "Claim[Knee]":
        """The smallest place with 95 % of the largest throughput; compare it with `baseline.knee`."""
        return self.knee_by(DEFAULT_DEFINITION.name)

    def knee_by(self, definition: str, **settings: float) -> "Claim[Knee]":
        """The knee by another definition; compare it with `baseline.knee_by` of the same.

        `share_of_maximum(share=)`, `kneedle(sensitivity=)`, `two_segment` or `bca(epsilon=, k=, reference=)`. Raises
        SuiteError for an unknown one, and where a selection left cases of the sweep out; NotJudged, which skips the
        test, where the tier did, or where this machine's settings don't gate the throughput.
        """
        self._refuse_a_part("knee", THROUGHPUT)
        knee = replace(self._now.knee_by(definition, **settings), measured=True)

        def again(now: Curves, stored: Curves) -> Verdict:
            return now.knee_by(definition, **settings).unchanged_from(stored.knee_by(definition, **settings))

        def unchanged_from(stored: Knee) -> Verdict:
            return self._judged("knee", (THROUGHPUT,), lambda: knee.unchanged_from(stored), again)

        return Claim(knee, "knee", unchanged_from)

    @property
    def frontier(self) -> "Claim[Frontier]":
        """The points that no other beats in throughput and the gated latency; compare it with `baseline.frontier`.

        Where several latencies are gated it is of the first by its name; `frontier_of` picks one.
        """
        return self._frontier(lambda curves: curves.frontier, THROUGHPUT, *self._lost_latencies)

    def frontier_of(self, latency: str) -> "Claim[Frontier]":
        """The frontier of throughput and this latency, as `tpot_ms`. Raises SuiteError for one that isn't gated.

        Compare it with `baseline.frontier_of` of the same.
        """
        return self._frontier(lambda curves: curves.frontier_of(latency), THROUGHPUT, metric(latency).name)

    @property
    def highest_rate(self) -> "Claim[HighestRate]":
        """The highest rate, or concurrency, at which 99 % of the requests meet the sweep's Slo.

        Compare it with `baseline.highest_rate`.
        """
        return self.highest_rate_within(SHARE)

    def highest_rate_within(self, share: float, *, tolerance: float = TOLERANCE) -> "Claim[HighestRate]":
        """The same for another share of the requests; compare it with `baseline.highest_rate_within` of the same.

        `tolerance` is the fraction of the rate that may be lost. Raises SuiteError for a sweep without an Slo, and as a
        knee does where cases were left out.
        """
        refuse_wrong_tolerance(tolerance)
        self._refuse_a_part("highest rate", THROUGHPUT)
        if not any(name.startswith("slo.") for case in self._cases.values() for name in case.measurement.key):
            raise SuiteError(f"{self._name}: a highest rate is one within limits: give its sweep slo=Slo(…)")
        highest = replace(self._now.highest_rate_within(share), measured=True)

        def compared(now: HighestRate, stored: HighestRate, curves: tuple[Curves, Curves], **how: bool) -> Verdict:
            lacking = self._lacking_shares(*curves)
            return now.unchanged_from(stored, tolerance=tolerance, **how) if lacking is None else lacking

        def again(fresh: Curves, stored: Curves) -> Verdict:
            both = fresh.highest_rate_within(share), stored.highest_rate_within(share)
            return compared(*both, (fresh, stored), confirming=True)

        def unchanged_from(stored: HighestRate) -> Verdict:
            curves = self._now, self.baseline
            return self._judged("highest_rate", (THROUGHPUT,), lambda: compared(highest, stored, curves), again)

        return Claim(highest, "highest_rate", unchanged_from)

    def _frontier(self, of: Callable[[Curves], Frontier], *needs: str) -> "Claim[Frontier]":
        self._refuse_a_part("frontier", *needs)
        now = replace(of(self._now), measured=True)
        policy = FrontierPolicy(self._tolerances, self._of.outcome.design)

        def again(fresh: Curves, stored: Curves) -> Verdict:
            return of(fresh).unchanged_from(of(stored), replace(policy, confirming=True))

        def unchanged_from(stored: Frontier) -> Verdict:
            metrics = tuple(meaning.name for meaning in now.metrics)
            return self._judged(now.name, metrics, lambda: now.unchanged_from(stored, policy), again)

        return Claim(now, now.name, unchanged_from)

    def _lacking_shares(self, now: Curves, stored: Curves) -> Verdict | None:
        """Why shares of requests in time can't be compared; None where both sides tell them."""
        found = None
        if now.share_in_time and not stored.share_in_time:
            way_out = "record it: pytest --slmperf --slmperf-accept"
            found = _without(Status.NO_BASELINE, f"the baseline holds no {GOODPUT_SHARE}", way_out)
        elif self._of.outcome.design == "interleaved" and (why := now.untold_shares or stored.untold_shares):
            way_out = "record one arm and compare the other with that, or take the place out of the sweep"
            found = _without(Status.INCONCLUSIVE, why, way_out)
        return replace(found, metric="highest_rate", case=self._name) if found is not None else None

    @property
    def _lost_latencies(self) -> tuple[str, ...]:
        """The latencies that only the settings take away from a frontier; none where one is left."""
        lost = tuple(name for name in self._of.outcome.ungated if metric(name).quantile is not None)
        return () if any(metric(name).quantile is not None for name in self._of.outcome.asked) else lost

    def _refuse_a_part(self, what: str, *needs: str) -> None:
        if left_out := self._of.outcome.unselected:
            raise SuiteError(
                f"{self._name}: a {what} needs the whole sweep, and the selected tests leave out {', '.join(left_out)}"
            )
        if left_out := self._of.outcome.left_out:
            raise NotJudged(
                f"{self._name}: a {what} needs the whole sweep, and the tier quick leaves out {', '.join(left_out)}"
            )
        if ungated := [name for name in needs if name in self._of.outcome.ungated]:
            raise NotJudged(
                f"{self._name}: a {what} is of {', '.join(ungated)}, which this machine's settings don't gate"
            )
        if self._skipped and not self._cases:
            raise NotJudged(f"{self._name}: no point of the {what} was measured: {_reasons(self._skipped)}")

    def _judged(
        self,
        what: str,
        metrics: Sequence[str],
        judge: Callable[[], Verdict],
        again: "Callable[[Curves, Curves], Verdict]",
    ) -> Verdict:
        """A verdict on the whole curve of these metrics; one that says why where a run doesn't judge, or can't.

        What looks regressed is judged `again`, on fresh launches alone and what those are compared with.
        """
        unjudged = self._unjudged(metrics)
        if unjudged is not None:
            return self._of.track(replace(unjudged, metric=what, case=self._name, unit="", tolerance=None))
        verdict = judge()
        if verdict.status is Status.REGRESSED:
            verdict = self._confirmed(verdict, again)
        if self._skipped:
            verdict = replace(verdict, reason=f"{verdict.reason}; without {_reasons(self._skipped)}")
        return self._of.track(verdict)

    def _confirmed(self, first: Verdict, again: "Callable[[Curves, Curves], Verdict]") -> Verdict:
        fresh = self._of.fresh(self._model)
        if fresh.missing:
            return gate.unconfirmed(first, fresh.missing)
        confirmed = gate.confirm(first, again(*self._curves(fresh.cases)))
        return replace(confirmed, way_out=fresh.way_out) if confirmed.status is Status.REGRESSED else confirmed

    def _unjudged(self, metrics: Sequence[str]) -> Verdict | None:
        mode = self._of.outcome.mode
        if mode in UNJUDGED:
            return replace(_without(Status.UNMEASURED, UNJUDGED[mode]), judged=False)
        lost = {name: why for name, why in self._skipped.items() if name in self._of.outcome.skipped_stored}
        if lost:
            return _without(
                Status.UNMEASURED,
                f"the baseline's curve has points that can't be measured here: {_reasons(lost)}",
                "measure them where they fit, or take them out of the sweep",
            )
        void = next((case for case in self._cases.values() if case.measurement.void), None)
        if void:
            way_out = next((one.way_out for one in void.verdicts.values() if one.status is Status.VOID), RUN_AGAIN)
            return _without(Status.VOID, void.measurement.void or "", way_out)
        lacking = ((case, name) for case in self._cases.values() for name in metrics)
        return next((found for case, name in lacking if (found := _lacking(case, name)) is not None), None)


def _lacking(case: CaseOutcome, name: str) -> Verdict | None:
    """Why a curve of this metric can't be compared at a case; None where both sides have it.

    A point that is left out would be no loss, whatever became of it.
    """
    baseline, said = case.baseline, case.verdicts.get(name)
    if baseline and name in baseline.samples and name in case.measurement.samples:
        return None
    if said is None or said.passed:
        if baseline is None:
            said = _without(
                Status.NO_BASELINE, "nothing comparable is stored", "record it: pytest --slmperf --slmperf-accept"
            )
        elif name not in case.measurement.samples:
            said = _without(Status.UNMEASURED, case.measurement.unmeasured.get(name, f"no launch measured {name}"))
        else:
            said = _without(Status.NO_BASELINE, baseline.unmeasured.get(name, f"the baseline holds no {name}"))
    return replace(said, reason=f"{case.case}: {said.reason}")


def _reasons(skipped: Mapping[str, str]) -> str:
    """The cases that were not measured, each with its reason."""
    return "; ".join(f"{name} ({why})" for name, why in skipped.items())


def _without(status: Status, reason: str, way_out: str = "") -> Verdict:
    return Verdict(status, metric="", unit="", higher_is_better=True, reason=reason, way_out=way_out)


V = TypeVar("V", bound=Knee | Frontier | HighestRate)


class Claim(Generic[V]):
    """A measured knee, frontier or highest rate. `unchanged_from` the stored one gives a verdict."""

    def __init__(self, value: V, name: str, judge: Callable[[V], Verdict]) -> None:
        self.value = value
        self._name = name
        self._judge = judge

    def __str__(self) -> str:
        return str(self.value)

    def __bool__(self) -> bool:
        raise SuiteError(f"a {self._name} has no truth: compare it with the stored one, as in {self._example}")

    def __eq__(self, other: object) -> bool:
        raise SuiteError(f"a {self._name} is known with doubt only: write {self._example}")

    __hash__ = None  # type: ignore[assignment]  # a value without equality has no hash

    def unchanged_from(self, stored: V) -> Verdict:
        """Whether it is as it was, as far as the launches can tell: see `unchanged_from` of the kind of claim."""
        if not isinstance(stored, type(self.value)):
            raise SuiteError(f"a {self._name} is compared with a stored one: write {self._example}")
        if stored.measured:
            raise SuiteError(f"a {self._name} is always what it is: compare it with the stored one: {self._example}")
        if stored.case != self.value.case:
            raise SuiteError(f"the {self._name} of {self.value.case} is compared with its own, not {stored.case}'s")
        return self._judge(stored)

    @property
    def _example(self) -> str:
        what = self._name.partition(" ")[0]
        return f"result.{what}.unchanged_from(result.baseline.{what})"
