"""What the author of a suite gets from measuring a sweep: its points, knees, frontiers and highest rates."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from pytest_slmperf.core.curves.frontier import Frontier
from pytest_slmperf.core.curves.highest_rate import GOODPUT_SHARE, TOLERANCE, HighestRate, refuse_wrong_tolerance
from pytest_slmperf.core.curves.knee import DEFAULT_DEFINITION, Knee
from pytest_slmperf.core.curves.optimum import Optima
from pytest_slmperf.core.curves.replication import BestReplicas
from pytest_slmperf.core.curves.slowdown import TOLERANCE as MORE_SLOWDOWN
from pytest_slmperf.core.errors import NotJudged, SuiteError
from pytest_slmperf.core.outcome import CaseOutcome, SweepOutcome
from pytest_slmperf.core.results.claim import Claim, FreshLaunches, Measured, Part, SlowdownClaim, no_launches, without
from pytest_slmperf.core.results.curves import THROUGHPUT, AllCurves, Curves
from pytest_slmperf.core.results.point import Ledger, Point
from pytest_slmperf.core.sweeps.search import FOUND, SHARE
from pytest_slmperf.core.sweeps.variant import Setting, Variant, series_of, settings_of, spelled
from pytest_slmperf.core.verdict import Status, Verdict

if TYPE_CHECKING:
    from pytest_slmperf.core.sample import Measurement


class Result:
    """A measured sweep: `decode[64]`, or `decode["opt-125m", 64]` where it has several models.

    Iterating gives its points. `knee` and `frontier` are of the one model; `of(model)` picks one among several, and
    `of(replicas=2)` one of several variants of its engine.
    """

    def __init__(self, outcome: SweepOutcome, ledger: Ledger | None = None, fresh: FreshLaunches = no_launches) -> None:
        """`fresh` makes the launches that confirm a claim."""
        self.outcome = outcome
        self._measured = Measured(outcome, ledger or Ledger(), fresh)
        self._series = {series: settings_of(series) for series in map(series_of, outcome.names)}

    def __repr__(self) -> str:
        return f"<{self.outcome.sweep} of {', '.join(self.models)}: {len(self)} cases>"

    @property
    def models(self) -> tuple[str, ...]:
        """The models' names, in the order in which the engines were given."""
        return tuple(dict.fromkeys(spec.model_name for spec in self.outcome.specs))

    @property
    def curves(self) -> "tuple[Series, ...]":
        """Each variant of each model by itself, those that were not measured, too."""
        return tuple(Series(series, self._measured) for series in self._series)

    def __iter__(self) -> Iterator[Point]:
        """All points. Raises NotJudged where every case was skipped: a loop over no point would assert nothing."""
        measured = [part for part in self.curves if part] or self.curves
        return (point for part in measured for point in part)

    def __len__(self) -> int:
        return len(self.outcome.cases)

    def __getitem__(self, at: float | tuple[str, float]) -> Point:
        """The point at a place of the axis, as a batch size.

        Raises NotJudged for one that doesn't fit this machine, which skips the test.
        """
        model, place = at if isinstance(at, tuple) else (None, at)
        return self.of(model)[place]

    def of(self, model: str | None = None, **settings: Setting) -> "Series | Variants":
        """The part of one model, by its name or, as a sweep declares it, its path: of the variants that have these
        settings, as in `of("opt-125m", replicas=2)`. A curve where that is one, and else what they have together.
        """
        name = self._model(model)
        start = f"{self.outcome.sweep}/{name}"
        mine = {series: has for series, has in self._series.items() if f"{series}/".startswith(f"{start}/")}
        for setting, value in settings.items():
            there = list(dict.fromkeys(has[setting] for has in mine.values() if setting in has))
            if spelled(value) not in there:
                known = f"it has {setting} {', '.join(there)}" if there else f"it varies no {setting}"
                raise SuiteError(f"{start} was not measured with {setting}={spelled(value)}: {known}")
        wanted = {setting: spelled(value) for setting, value in settings.items()}
        found = [series for series, has in mine.items() if wanted.items() <= has.items()]
        if not found and wanted:
            said = ", ".join(f"{setting}={value}" for setting, value in wanted.items())
            raise SuiteError(f"{start} was not measured with {said} together")
        if len(found) > 1:
            name = "/".join((start, *(f"{setting}={value}" for setting, value in wanted.items())))
            return Variants(name, {series: mine[series] for series in found}, self._measured)
        return Series(found[0] if found else start, self._measured)

    def _model(self, model: str | None) -> str:
        if model is None:
            if len(self.models) != 1:
                raise SuiteError(f"{self.outcome.sweep} measured several models: name one of {', '.join(self.models)}")
            return self.models[0]
        name = {spec.model: spec.model_name for spec in self.outcome.specs}.get(model, model)
        if name not in self.models:
            raise SuiteError(f"{self.outcome.sweep} did not measure {model!r}; it measured {', '.join(self.models)}")
        return name

    @property
    def knee(self) -> Claim[Knee]:
        """See `Series.knee`."""
        return self.of().knee

    def knee_by(self, definition: str, **settings: float) -> Claim[Knee]:
        """See `Series.knee_by`."""
        return self.of().knee_by(definition, **settings)

    @property
    def frontier(self) -> Claim[Frontier]:
        """See `Series.frontier`; of several variants, the frontier of them all."""
        return self.of().frontier

    def frontier_of(self, *others: str) -> Claim[Frontier]:
        """See `Series.frontier_of`."""
        return self.of().frontier_of(*others)

    def optima(self, first: str = THROUGHPUT, second: str = "joules_per_output_token") -> Optima:
        """See `Series.optima`."""
        return self.of().optima(first, second)

    @property
    def best_replicas(self) -> Claim[BestReplicas]:
        """See `Variants.best_replicas`."""
        return self.of().best_replicas

    def best_replicas_by(
        self, name: str = THROUGHPUT, *, within: float = 0.0, at: float | None = None
    ) -> Claim[BestReplicas]:
        """See `Variants.best_replicas_by`."""
        return self.of().best_replicas_by(name, within=within, at=at)

    def slowdown(
        self, beside: Setting, *, at: float | None = None, name: str = THROUGHPUT, tolerance: float = MORE_SLOWDOWN
    ) -> SlowdownClaim:
        """See `Variants.slowdown`."""
        return self.of().slowdown(beside, at=at, name=name, tolerance=tolerance)

    @property
    def highest_rate(self) -> Claim[HighestRate]:
        """See `Series.highest_rate`."""
        return self.of().highest_rate

    def highest_rate_within(self, share: float, *, tolerance: float = TOLERANCE) -> Claim[HighestRate]:
        """See `Series.highest_rate_within`."""
        return self.of().highest_rate_within(share, tolerance=tolerance)

    @property
    def baseline(self) -> Curves:
        """See `Series.baseline`."""
        return self.of().baseline


class Series(Part):
    """One model on one variant of its engine: its points by their place on the axis, its knee and its frontier."""

    def __init__(self, name: str, of: Measured) -> None:
        super().__init__(name, (name,), of)
        self._by_place = {case.at: case for case in self._cases}

    @property
    def settings(self) -> Mapping[str, str]:
        """What is varied of its engine, as it is spelled in its name: `{"replicas": "2"}`."""
        return settings_of(self._name)

    def _curves(self, cases: Iterable[CaseOutcome]) -> tuple[Curves, Curves]:
        by_place = {case.at: case for case in cases}
        now = {at: case.measurement for at, case in by_place.items()}
        stored = {at: case.baseline for at, case in by_place.items() if case.baseline}
        label = self._of.outcome.label
        return Curves(self._name, label, now, self._gated), Curves(self._name, label, stored, self._gated)

    def __getitem__(self, at: float) -> Point:
        if at in self._by_place:
            return self._of.point(self._by_place[at])
        label = self._of.outcome.label
        name = f"{self._name}/{label}={at}"
        if name in self._skipped:
            raise NotJudged(f"{name}: {self._skipped[name]}")
        there = f"{label} {', '.join(map(str, self._by_place))}" if self._by_place else "nothing of this variant"
        raise SuiteError(
            f"{name} was not measured in this run; measured is {there}. A test that looks at one case says so, as in "
            f"@SWEEP.at({at})"
        )

    @property
    def knee(self) -> Claim[Knee]:
        """The smallest place with 95 % of the largest throughput; compare it with `baseline.knee`."""
        return self.knee_by(DEFAULT_DEFINITION.name)

    def knee_by(self, definition: str, **settings: float) -> Claim[Knee]:
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
    def highest_rate(self) -> Claim[HighestRate]:
        """The highest rate, or concurrency, at which 99 % of the requests meet the sweep's Slo.

        Compare it with `baseline.highest_rate`.
        """
        return self.highest_rate_within(SHARE)

    def highest_rate_within(self, share: float, *, tolerance: float = TOLERANCE) -> Claim[HighestRate]:
        """The same for another share of the requests; compare it with `baseline.highest_rate_within` of the same.

        `tolerance` is the fraction of the rate that may be lost. Raises SuiteError for a sweep without an Slo, and as a
        knee does where cases were left out.
        """
        refuse_wrong_tolerance(tolerance)
        self._refuse_a_part("highest rate", THROUGHPUT)
        if not any(name.startswith("slo.") for case in self._cases for name in case.measurement.key):
            raise SuiteError(f"{self._name}: a highest rate is one within limits: give its sweep slo=Slo(…)")
        if any(case.searched for case in self._cases):
            name = FOUND[self._cases[0].axis]
            said = f"assert point.{name} >= point.baseline.{name}"
            raise SuiteError(f"{self._name}: its highest rate is a metric, which a search has found: {said}")
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

    def best_replicas_by(
        self, name: str = THROUGHPUT, *, within: float = 0.0, at: float | None = None
    ) -> Claim[BestReplicas]:
        """Raises SuiteError: a best replica count is of several variants; NotJudged where this is all of a sweep that
        varies them, as a machine's settings have it.
        """
        self._refuse_alone("replicas", "best replica count")
        return super().best_replicas_by(name, within=within, at=at)

    def slowdown(
        self, beside: Setting, *, at: float | None = None, name: str = THROUGHPUT, tolerance: float = MORE_SLOWDOWN
    ) -> SlowdownClaim:
        """As `best_replicas_by`."""
        self._refuse_alone("beside", "slowdown")
        return super().slowdown(beside, at=at, name=name, tolerance=tolerance)

    def _refuse_alone(self, setting: str, what: str) -> None:
        """Skip a claim of several variants where the sweep, as it is measured here, has no other than this."""
        outcome, mine = self._of.outcome, self.settings
        sweep_and_model = self._name.split("/")[:2]
        series = {series_of(name) for name in (*outcome.cases, *outcome.skipped)}
        there = {settings_of(one).get(setting) for one in series if one.split("/")[:2] == sweep_and_model}
        if setting in mine and there == {mine[setting]}:
            raise NotJudged(f"{self._name}: a {what} is of several, and this machine's settings sweep this one alone")

    def _lacking_shares(self, now: Curves, stored: Curves) -> Verdict | None:
        """Why shares of requests in time can't be compared; None where both sides tell them."""
        found = None
        if now.share_in_time and not stored.share_in_time:
            way_out = "record it: pytest --slmperf --slmperf-accept"
            found = without(Status.NO_BASELINE, f"the baseline holds no {GOODPUT_SHARE}", way_out)
        elif self._of.outcome.design == "interleaved" and (why := now.untold_shares or stored.untold_shares):
            way_out = "record one arm and compare the other with that, or take the place out of the sweep"
            found = without(Status.INCONCLUSIVE, why, way_out)
        return replace(found, metric="highest_rate", case=self._name) if found is not None else None


class Variants(Part):
    """One model on several variants of its engine: what they have together. `of` picks a part of them."""

    def __init__(self, name: str, series: Mapping[str, Mapping[str, str]], of: Measured) -> None:
        super().__init__(name, series, of)
        self._settings = series

    def _curves(self, cases: Iterable[CaseOutcome]) -> tuple[Curves, Curves]:
        now: dict[Variant, dict[float, Measurement]] = {}
        stored: dict[Variant, dict[float, Measurement]] = {}
        for case in cases:
            now.setdefault(case.variant, {})[case.at] = case.measurement
            if case.baseline:
                stored.setdefault(case.variant, {})[case.at] = case.baseline
        label = self._of.outcome.label
        return AllCurves(self._name, label, now, self._gated), AllCurves(self._name, label, stored, self._gated, seed=1)

    @property
    def curves(self) -> tuple[Series, ...]:
        """Each variant by itself."""
        return tuple(Series(series, self._of) for series in self._series)

    def __getitem__(self, at: float) -> NoReturn:
        self._refuse(f"[{at}]")

    @property
    def knee(self) -> NoReturn:
        """Raises SuiteError: each variant has its own."""
        self._refuse(".knee")

    def knee_by(self, _definition: str, **_settings: float) -> NoReturn:
        """As `knee`."""
        self._refuse(".knee_by(…)")

    @property
    def highest_rate(self) -> NoReturn:
        """As `knee`."""
        self._refuse(".highest_rate")

    def highest_rate_within(self, _share: float, *, tolerance: float = TOLERANCE) -> NoReturn:  # noqa: ARG002 - of Series
        """As `knee`."""
        self._refuse(".highest_rate_within(…)")

    def _refuse(self, what: str) -> NoReturn:
        """Raises SuiteError that names the first variant as an example."""
        first = next(iter(self._settings.values()))
        model = self._name.split("/")[1]
        example = ", ".join([repr(model), *(f"{name}={_literal(value)}" for name, value in first.items())])
        raise SuiteError(
            f"{self._name} was measured on {len(self._series)} variants of its engine: name one, as in "
            f"result.of({example}){what}"
        )


def _literal(value: str) -> str:
    """As a suite writes it."""
    if value in ("true", "false"):
        return value.title()
    try:
        float(value)
    except ValueError:
        return repr(value)
    return value
