"""What a suite claims of a measured sweep beside its gated metrics: that a whole curve is as it was stored."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from pytest_slmperf.core import gate
from pytest_slmperf.core.baselines.revision import SHAPE_METRICS
from pytest_slmperf.core.curves.frontier import Frontier, FrontierPolicy
from pytest_slmperf.core.curves.optimum import Optima
from pytest_slmperf.core.curves.replication import BestReplicas
from pytest_slmperf.core.curves.slowdown import TOLERANCE, Slowdown
from pytest_slmperf.core.errors import NotJudged, SuiteError
from pytest_slmperf.core.guards.void import RUN_AGAIN
from pytest_slmperf.core.metrics import ENERGY, is_latency, metric
from pytest_slmperf.core.outcome import CaseOutcome, SweepOutcome
from pytest_slmperf.core.results.curves import THROUGHPUT, Curves
from pytest_slmperf.core.results.point import UNJUDGED, Ledger, Point, gating
from pytest_slmperf.core.sweeps.variant import Setting, series_of
from pytest_slmperf.core.verdict import Status, Verdict


@dataclass(frozen=True)
class Fresh:
    """Launches of some curves' cases that were made to confirm what looked regressed; or why there are none."""

    cases: tuple[CaseOutcome, ...] = ()
    """The fresh samples alone, each beside the baseline that they are compared with."""
    missing: str = ""
    way_out: str = ""
    """What to do about a loss that they confirm; empty where nothing is stored that could be replaced."""


FreshLaunches = Callable[[Collection[str]], Fresh]
"""Makes fresh launches of the curves of these names, or says why it can't. The same ones, however often it is asked."""


def no_launches(_series: Collection[str]) -> Fresh:
    """Of what is no part of a run."""
    return Fresh(missing="this result is not of a run that could make any")


class Claimed(Protocol):
    """A value of a whole curve."""

    @property
    def case(self) -> str:
        """The curve, or the model of several."""
        ...

    @property
    def measured(self) -> bool:
        """Whether it is what a run measured, and no stored one that the run can be compared with."""
        ...


V = TypeVar("V", bound=Claimed)


class Claim(Generic[V]):
    """A measured knee, frontier or the like. `unchanged_from` the stored one gives a verdict."""

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


class SlowdownClaim(Claim[Slowdown]):
    """A measured slowdown, which can be compared with a number, too: `slowdown <= 1.5`."""

    def __init__(
        self,
        value: Slowdown,
        name: str,
        judge: Callable[[Slowdown], Verdict],
        within: Callable[[float], Verdict],
    ) -> None:
        super().__init__(value, name, judge)
        self._within = within

    def __le__(self, limit: float) -> Verdict:
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 < limit < math.inf:
            raise SuiteError(f"a slowdown is compared with a number above 0, not {limit!r}: 1.5 is half as long again")
        return self._within(float(limit))


@dataclass(frozen=True)
class Measured:
    """A measured sweep, who is told of what is asked about it, and who makes the launches that confirm a claim."""

    outcome: SweepOutcome
    ledger: Ledger
    fresh: FreshLaunches

    def point(self, case: CaseOutcome) -> Point:
        """The case as a suite holds it."""
        return Point(case, self.outcome, self.ledger)


class Part(ABC):
    """A part of a measured sweep that a suite claims something of: one curve of a model, or several of them."""

    def __init__(self, name: str, series: Collection[str], of: Measured) -> None:
        """`name` is what claims of it are called by, and `series` are the names of its curves."""
        self._name = name
        self._series = tuple(series)
        self._of = of
        self._cases = [case for case in of.outcome.cases.values() if case.series in self._series]
        self._skipped = {case: why for case, why in of.outcome.skipped.items() if series_of(case) in self._series}
        self._tolerances = {
            case.case: {name: verdict.tolerance for name, verdict in case.verdicts.items() if verdict.tolerance}
            for case in self._cases
        }
        self._gated = {*of.outcome.asked, *(name for case in self._tolerances.values() for name in case)}
        self._now, self.baseline = self._curves(self._cases)
        """What was measured, and the stored side: empty where nothing comparable is stored, and a claim says so."""

    def __repr__(self) -> str:
        return f"<{self._name}: {len(self)} cases>"

    @abstractmethod
    def _curves(self, cases: Iterable[CaseOutcome]) -> tuple[Curves, Curves]:
        """What these cases come to, and what they are compared with."""

    def __len__(self) -> int:
        return len(self._cases)

    def __iter__(self) -> Iterator[Point]:
        """Its points. Raises NotJudged where every case was skipped: a loop over no point would assert nothing."""
        if self._skipped and not self._cases:
            raise NotJudged(f"{self._name} was not measured: {'; '.join(dict.fromkeys(self._skipped.values()))}")
        return map(self._of.point, self._cases)

    @property
    def frontier(self) -> Claim[Frontier]:
        """The points that no other beats in throughput and the gated latency; compare it with `baseline.frontier`.

        Where several latencies are gated it is of the first by its name; `frontier_of` picks one.
        """
        return self._frontier(lambda curves: curves.frontier, THROUGHPUT, *self._lost_latencies)

    def frontier_of(self, *others: str) -> Claim[Frontier]:
        """The frontier of throughput and one or two other metrics, as `tpot_ms` and `joules_per_output_token`.

        Compare it with `baseline.frontier_of` of the same. Raises SuiteError for a metric that isn't gated.
        """
        names = [metric(other).name for other in others]
        return self._frontier(lambda curves: curves.frontier_of(*others), THROUGHPUT, *names)

    def optima(self, first: str = THROUGHPUT, second: str = "joules_per_output_token") -> Optima:
        """The best points in two metrics, whether they differ, and what the best in one loses in the other.

        Raises SuiteError where no case has both metrics; NotJudged where no meter tells one of them here, and as a knee
        does where cases were left out; AssertionError where a case is void: it may have been the best.
        """
        names = [metric(one).name for one in (first, second)]
        self._refuse_a_part("best point", *names)
        if untold := [why for name, why in self._of.outcome.unmetered.items() if name in names]:
            raise NotJudged(f"{self._name}: a best point can't be told: {untold[0]}")
        if (void := self._void()) is not None:
            bool(self._of.ledger.track(replace(void, metric="optima", case=self._name, unit="")))
        return self._now.optima(first, second)

    def _frontier(self, of: Callable[[Curves], Frontier], *needs: str) -> Claim[Frontier]:
        self._refuse_a_part("frontier", *needs)
        now = replace(of(self._now), measured=True)
        policy = FrontierPolicy(self._tolerances, self._of.outcome.design)

        def again(fresh: Curves, stored: Curves) -> Verdict:
            return of(fresh).unchanged_from(of(stored), replace(policy, confirming=True))

        def unchanged_from(stored: Frontier) -> Verdict:
            metrics = tuple(meaning.name for meaning in now.metrics)
            return self._judged(now.name, metrics, lambda: now.unchanged_from(stored, policy), again)

        return Claim(now, now.name, unchanged_from)

    @property
    def best_replicas(self) -> Claim[BestReplicas]:
        """The replica count with the largest throughput, each at its best place; compare it with
        `baseline.best_replicas`. `.value.pays` says whether more than one is worth it.
        """
        return self.best_replicas_by()

    def best_replicas_by(
        self, name: str = THROUGHPUT, *, within: float = 0.0, at: float | None = None
    ) -> Claim[BestReplicas]:
        """The best by another metric, as `joules_per_output_token`; the smallest that is `within` a fraction of it; or
        the best at one place. Compare it with `baseline.best_replicas_by` of the same.

        Raises SuiteError where the engine's variants don't differ in their replicas, or in more than those; and as a
        knee does where cases were left out.
        """
        of = metric(name).name

        def best(curves: Curves) -> BestReplicas:
            return curves.best_replicas_by(of, within=within, at=at)

        self._refuse_a_part("best replica count", of)
        now = replace(best(self._now), measured=True)

        def again(fresh: Curves, stored: Curves) -> Verdict:
            return best(fresh).unchanged_from(best(stored))

        def unchanged_from(stored: BestReplicas) -> Verdict:
            self._refuse_unstored("best replica count", of)
            return self._judged("best_replicas", (of,), lambda: now.unchanged_from(stored), again)

        return Claim(now, "best_replicas", unchanged_from)

    def slowdown(
        self, beside: Setting, *, at: float | None = None, name: str = THROUGHPUT, tolerance: float = TOLERANCE
    ) -> "SlowdownClaim":
        """How many times as slow the model is beside these as alone. Compare it with a number, or with
        `baseline.slowdown` of the same: then it may have become larger by `tolerance`.

        Raises SuiteError where it isn't of variants that differ in who is beside alone, and as a knee does where cases
        were left out.
        """
        of = metric(name).name

        def found(curves: Curves) -> Slowdown:
            return curves.slowdown(beside, at=at, name=of)

        self._refuse_a_part("slowdown")
        now = replace(found(self._now), measured=True)

        def again(fresh: Curves, stored: Curves) -> Verdict:
            return found(fresh).unchanged_from(found(stored), tolerance=tolerance, confirming=True)

        def unchanged_from(stored: Slowdown) -> Verdict:
            self._refuse_a_part("slowdown", of)
            self._refuse_unstored("slowdown", of)
            return self._judged("slowdown", (of,), lambda: now.unchanged_from(stored, tolerance=tolerance), again)

        def within(limit: float) -> Verdict:
            outcome, verdict = self._of.outcome, now.within(limit)
            unjudged = UNJUDGED.get(outcome.mode) or outcome.unmetered.get(of)
            if unjudged:
                verdict = replace(verdict, status=Status.UNMEASURED, reason=unjudged, judged=False)
            elif (void := self._void()) is not None:
                verdict = replace(void, metric="slowdown", case=self._name, limit=verdict.limit)
            return self._of.ledger.track(verdict)

        return SlowdownClaim(now, "slowdown", unchanged_from, within)

    @property
    def _lost_latencies(self) -> tuple[str, ...]:
        """The latencies that only the settings take away from a frontier; none where one is left."""
        lost = tuple(filter(is_latency, self._of.outcome.ungated))
        return () if any(map(is_latency, self._of.outcome.asked)) else lost

    def _refuse_a_part(self, what: str, *needs: str) -> None:
        if left_out := self._own(self._of.outcome.unselected):
            raise SuiteError(
                f"{self._name}: a {what} needs the whole sweep, and the selected tests leave out {', '.join(left_out)}"
            )
        if left_out := self._own(self._of.outcome.left_out):
            raise NotJudged(
                f"{self._name}: a {what} needs the whole sweep, and the tier quick leaves out {', '.join(left_out)}"
            )
        if ungated := [name for name in needs if name in self._of.outcome.ungated]:
            raise NotJudged(
                f"{self._name}: a {what} is of {', '.join(ungated)}, which this machine's settings don't gate"
            )
        if self._skipped and not self._cases:
            raise NotJudged(f"{self._name}: no point of the {what} was measured: {_reasons(self._skipped)}")

    def _refuse_unstored(self, what: str, name: str) -> None:
        """Raises SuiteError for a metric that no recording holds, since nothing gates it: see `SHAPE_METRICS`."""
        outcome = self._of.outcome
        held = {*self._gated, *SHAPE_METRICS, *outcome.unmetered, *outcome.ungated}
        if outcome.design == "stored" and name not in held:
            raise SuiteError(
                f"{self._name}: no {what} by {name} is stored, since the sweep doesn't gate it: add it, as in "
                f"{gating(metric(name))}"
            )

    def _own(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if series_of(name) in self._series]

    def _judged(
        self,
        what: str,
        metrics: Sequence[str],
        judge: Callable[[], Verdict],
        again: Callable[[Curves, Curves], Verdict],
    ) -> Verdict:
        """A verdict on the whole curve of these metrics; one that says why where a run doesn't judge, or can't.

        What looks regressed is judged `again`, on fresh launches alone and what those are compared with.
        """
        unjudged = self._unjudged(metrics)
        if unjudged is not None:
            return self._of.ledger.track(replace(unjudged, metric=what, case=self._name, unit="", tolerance=None))
        verdict = judge()
        if verdict.status is Status.REGRESSED:
            verdict = self._confirmed(verdict, again)
        if self._skipped:
            verdict = replace(verdict, reason=f"{verdict.reason}; without {_reasons(self._skipped)}")
        return self._of.ledger.track(verdict)

    def _confirmed(self, first: Verdict, again: Callable[[Curves, Curves], Verdict]) -> Verdict:
        fresh = self._of.fresh(self._series)
        if fresh.missing:
            return gate.unconfirmed(first, fresh.missing)
        confirmed = gate.confirm(first, again(*self._curves(fresh.cases)))
        return replace(confirmed, way_out=fresh.way_out) if confirmed.status is Status.REGRESSED else confirmed

    def _unjudged(self, metrics: Sequence[str]) -> Verdict | None:
        mode = self._of.outcome.mode
        if mode in UNJUDGED:
            return replace(without(Status.UNMEASURED, UNJUDGED[mode]), judged=False)
        lost = {name: why for name, why in self._skipped.items() if name in self._of.outcome.skipped_stored}
        if lost:
            return without(
                Status.UNMEASURED,
                f"the baseline's curve has points that can't be measured here: {_reasons(lost)}",
                "measure them where they fit, or take them out of the sweep",
            )
        if (void := self._void()) is not None:
            return void
        lacking = ((case, name) for case in self._cases for name in metrics)
        return next((found for case, name in lacking if (found := _lacking(case, name)) is not None), None)

    def _void(self) -> Verdict | None:
        """What is said of a curve one of whose cases is void; None where none is."""
        void = next((case for case in self._cases if case.measurement.void), None)
        if void is None:
            return None
        way_out = next((one.way_out for one in void.verdicts.values() if one.status is Status.VOID), RUN_AGAIN)
        return without(Status.VOID, void.measurement.void or "", way_out)


def _lacking(case: CaseOutcome, name: str) -> Verdict | None:
    """Why a curve of this metric can't be compared at a case; None where both sides have it.

    A point that is left out would be no loss, whatever became of it.
    """
    baseline, said = case.baseline, case.verdicts.get(name)
    if name in ENERGY and said is not None and said.status in (Status.INCOMPARABLE, Status.VOID):
        return replace(said, reason=f"{case.case}: {said.reason}")  # other boards, or set otherwise: both sides have it
    if baseline and name in baseline.samples and name in case.measurement.samples:
        return None
    if said is None or said.passed:
        if baseline is None:
            said = without(
                Status.NO_BASELINE, "nothing comparable is stored", "record it: pytest --slmperf --slmperf-accept"
            )
        elif name not in case.measurement.samples:
            said = without(Status.UNMEASURED, case.measurement.unmeasured.get(name, f"no launch measured {name}"))
        else:
            said = without(Status.NO_BASELINE, baseline.unmeasured.get(name, f"the baseline holds no {name}"))
    return replace(said, reason=f"{case.case}: {said.reason}")


def _reasons(skipped: Mapping[str, str]) -> str:
    """The cases that were not measured, each with its reason."""
    return "; ".join(f"{name} ({why})" for name, why in skipped.items())


def without(status: Status, reason: str, way_out: str = "") -> Verdict:
    """A verdict on what was not compared."""
    return Verdict(status, metric="", unit="", higher_is_better=True, reason=reason, way_out=way_out)
