"""What the author of a suite holds: the points of a measured sweep, and comparisons that become verdicts.

`value >= baseline` gives a Verdict. Every other use of a value as if it were a number is an error that says what to
write instead, because each of them would let a regression pass: `==`, bare truth, the wrong direction, `approx`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import NoReturn, TypeAlias

from pytest_slmperf.core import gate
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.frontier import Curve, Definition, Frontier, Knee, frontier
from pytest_slmperf.core.metrics import LATENCIES, SCALARS, Metric, metric
from pytest_slmperf.core.outcome import CaseOutcome, SweepOutcome
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.core.verdict import Status, Verdict

Number: TypeAlias = int | float


@dataclass(frozen=True)
class Ledger:
    """Who is told of verdicts. The plugin keeps one, to find those that nobody asked and metrics that nobody asserts."""

    made: Callable[[Verdict], None] = lambda _verdict: None
    asked: Callable[[Verdict], None] = lambda _verdict: None


class _Quantity:
    """What measured and stored values have in common: neither is a number, and neither has a truth."""

    def __init__(self, point: "Point | StoredPoint", meaning: Metric) -> None:
        self._point = point
        self._metric = meaning

    @property
    def sample(self) -> Sample:
        """The raw values. Raises SuiteError where the metric was not measured, with the reason."""
        sample = self._point.measurement.samples.get(self._metric.name) if self._point.measurement else None
        if sample is None:
            raise SuiteError(f"{self._point.case}: {self._metric.name} was not measured: {self._point.why_not(self._metric)}")
        return sample

    @property
    def median(self) -> float:
        """Median over the launches of each launch's median, a plain number in the metric's unit."""
        return self.sample.median

    def __bool__(self) -> NoReturn:
        raise SuiteError(f"{self._metric.name} has no truth: compare it, as in {self._example()}")

    def __eq__(self, other: object) -> NoReturn:
        raise SuiteError(f"{self._metric.name} is never equal to anything: compare it, as in {self._example()}")

    def __ne__(self, other: object) -> NoReturn:
        raise SuiteError(f"{self._metric.name} always differs a little: compare it, as in {self._example()}")

    __hash__ = None  # type: ignore[assignment]  # a value without equality has no hash

    def __gt__(self, other: object) -> NoReturn:
        raise SuiteError(f"a strict comparison asks for more than no loss: write {self._example()}")

    __lt__ = __gt__

    def _example(self) -> str:
        sign = ">=" if self._metric.higher_is_better else "<="
        name = _attribute(self._metric)
        return f"point.{name} {sign} point.baseline.{name}"


class StoredValue(_Quantity):
    """A metric of the baseline."""

    def __ge__(self, other: object) -> Verdict:
        return _mirrored(self, other, "<=")

    def __le__(self, other: object) -> Verdict:
        return _mirrored(self, other, ">=")


class Value(_Quantity):
    """A measured metric of a point. `>=` or `<=` with its baseline or with a number gives a Verdict."""

    _point: "Point"

    def __ge__(self, other: object) -> Verdict:
        return self._compare(other, at_least=True)

    def __le__(self, other: object) -> Verdict:
        return self._compare(other, at_least=False)

    def __getattr__(self, name: str) -> "Value":
        """`.p99` of a latency."""
        if self._metric.quantile is None or not (name.startswith("p") and name[1:2].isdigit()):
            raise AttributeError(f"{self._metric.name} has no {name!r}")
        latency = self._metric.name.partition("_")[2]
        return Value(self._point, metric(f"{name.replace('_', '.')}_{latency}"))

    def _compare(self, other: object, *, at_least: bool) -> Verdict:
        sign = ">=" if at_least else "<="
        if isinstance(other, (int, float)) and not isinstance(other, bool):
            return self._point.limit_verdict(self._metric, float(other), at_least=at_least)
        if not isinstance(other, StoredValue):
            raise SuiteError(f"{self._metric.name} is compared with its baseline or a number, not with {type(other).__name__}")
        if other._metric.name != self._metric.name or other._point.case != self._point.case:  # noqa: SLF001 - its twin
            raise SuiteError(f"{self._point.case} {self._metric.name} is compared with its own baseline: {self._example()}")
        if at_least is not self._metric.higher_is_better:
            raise SuiteError(f"{self._metric.name}: {self._metric.direction}, so {sign} can't see a loss; write {self._example()}")
        return self._point.gate_verdict(self._metric)


def _mirrored(stored: StoredValue, other: object, sign: str) -> Verdict:
    """`baseline <= value` reads as `value >= baseline`."""
    if not isinstance(other, Value):
        raise SuiteError(f"a baseline is compared with a measured value, not with {type(other).__name__}")
    return other >= stored if sign == ">=" else other <= stored


class StoredPoint:
    """The baseline's side of a point: `point.baseline.output_throughput`."""

    def __init__(self, outcome: CaseOutcome) -> None:
        self.case = outcome.case
        self.measurement = outcome.baseline

    def why_not(self, meaning: Metric) -> str:
        if self.measurement is None:
            return "there is no baseline"
        return self.measurement.unmeasured.get(meaning.name, "the baseline does not hold it")

    def __getattr__(self, name: str) -> StoredValue:
        return StoredValue(self, _metric_attribute(self.case, name))


class Point:
    """One measured case: `decode[64].output_throughput`, `decode[64].ttft_ms.p99`, `decode[64].baseline`."""

    def __init__(self, outcome: CaseOutcome, sweep: SweepOutcome, ledger: Ledger) -> None:
        self.case = outcome.case
        self.measurement: Measurement = outcome.measurement
        self.baseline = StoredPoint(outcome)
        self._outcome = outcome
        self._sweep = sweep
        self._ledger = ledger

    def __getattr__(self, name: str) -> Value:
        return Value(self, _metric_attribute(self.case, name))

    def why_not(self, meaning: Metric) -> str:
        if self.measurement.void:
            return self.measurement.void
        return self.measurement.unmeasured.get(meaning.name, "no launch measured it")

    def gate_verdict(self, meaning: Metric) -> Verdict:
        """What the gate decided for this metric while it measured. Raises SuiteError where the sweep doesn't gate it."""
        verdict = self._outcome.verdicts.get(meaning.name)
        if verdict is None:
            name = _attribute(meaning) if meaning.quantile in (None, 0.5) else meaning.name
            raise SuiteError(
                f"{self._sweep.sweep} does not gate {meaning.name}: add it to the sweep, as in gate={{{name!r}: 0.03}}"
            )
        return _tracked(verdict, self._ledger)

    def limit_verdict(self, meaning: Metric, limit: float, *, at_least: bool) -> Verdict:
        """Whether the metric keeps a stated limit, judged on the launches that there are."""
        sample = self.measurement.samples.get(meaning.name)
        if sample is None or self.measurement.void:
            status = Status.VOID if self.measurement.void else Status.UNMEASURED
            verdict = Verdict(status, meaning.name, meaning.unit, meaning.higher_is_better, reason=self.why_not(meaning))
        else:
            verdict = gate.judge_against_number(meaning, sample, limit, at_least=at_least)
        return _tracked(replace(verdict, case=self.case), self._ledger)


class Result:
    """A measured sweep: `decode[64]`, or `decode["opt-125m", 64]` where it has several models.

    Iterating gives its points. `knee` and `frontier` are of the one model; `of(model)` picks one among several.
    """

    def __init__(self, outcome: SweepOutcome, ledger: Ledger | None = None) -> None:
        self.outcome = outcome
        self._ledger = ledger or Ledger()

    @cached_property
    def _points(self) -> Mapping[tuple[str, int], Point]:
        return {
            (str(case.coordinates["model"]), int(case.coordinates["batch_size"])): Point(case, self.outcome, self._ledger)
            for case in self.outcome.cases.values()
        }

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(model for model, _ in self._points))

    def __iter__(self) -> Iterator[Point]:
        return iter(self._points.values())

    def __len__(self) -> int:
        return len(self._points)

    def __getitem__(self, at: int | tuple[str, int]) -> Point:
        model, batch_size = at if isinstance(at, tuple) else (self._one_model(), at)
        try:
            return self._points[model, batch_size]
        except KeyError:
            there = ", ".join(f"{model}/{size}" for model, size in self._points) or "none"
            raise SuiteError(
                f"{self.outcome.sweep} has no point {model}/{batch_size} in this run; measured are: {there}"
            ) from None

    def _one_model(self) -> str:
        if len(self.models) != 1:
            raise SuiteError(f"{self.outcome.sweep} measured several models: name one of {', '.join(self.models)}")
        return self.models[0]

    def of(self, model: str) -> "ModelResult":
        """The part of one model."""
        if model not in self.models:
            raise SuiteError(f"{self.outcome.sweep} did not measure {model!r}; it measured {', '.join(self.models)}")
        cases = [case for case in self.outcome.cases.values() if case.coordinates["model"] == model]
        return ModelResult(model, cases, self.outcome, self._ledger)

    def _only(self) -> "ModelResult":
        return self.of(self._one_model())

    @property
    def knee(self) -> "KneeClaim":
        """See `ModelResult.knee`."""
        return self._only().knee

    @property
    def frontier(self) -> "FrontierClaim":
        """See `ModelResult.frontier`."""
        return self._only().frontier

    @property
    def baseline(self) -> "ModelBaseline":
        """See `ModelResult.baseline`."""
        return self._only().baseline


class _Shape:
    """Knee and frontier of one model's cases, on one side of the comparison."""

    def __init__(self, model: str, measured: Mapping[str, tuple[int, Measurement]], sweep: SweepOutcome) -> None:
        self._model = model
        self._measured = measured
        self._sweep = sweep

    @property
    def _name(self) -> str:
        return f"{self._sweep.sweep}/{self._model}"

    def _curve(self) -> Curve:
        throughput, itl = (
            {size: one.samples[name] for size, one in self._measured.values() if name in one.samples}
            for name in ("output_throughput", "median_itl_ms")
        )
        return Curve(throughput, itl, self._name)

    def _frontier(self, metrics: tuple[str, ...]) -> Frontier:
        return frontier({name: one.samples for name, (_, one) in self._measured.items()}, metrics, self._name)

    def _frontier_metrics(self) -> tuple[str, ...]:
        gated = {name for case in self._sweep.cases.values() for name in case.verdicts}
        latencies = sorted(name for name in gated if metric(name).quantile is not None)
        if "output_throughput" not in gated or not latencies:
            raise SuiteError(
                f"{self._sweep.sweep}: a frontier is of throughput against a latency: gate both, as in "
                "gate={'output_throughput': 0.03, 'tpot_ms': 0.03}"
            )
        return "output_throughput", latencies[0]


class ModelBaseline(_Shape):
    """The stored side of one model's sweep. Empty where nothing comparable is stored; a claim then says so."""

    @property
    def knee(self) -> Knee:
        """The stored knee by 95 % of the maximum."""
        return self.knee_by("share_of_maximum")

    def knee_by(self, definition: str, **settings: float) -> Knee:
        """The stored knee by another definition."""
        return self._curve().knee(Definition(definition, settings))

    @property
    def frontier(self) -> Frontier:
        """The stored frontier of throughput against the gated latency."""
        return self._frontier(self._frontier_metrics())


class ModelResult(_Shape):
    """One model's part of a measured sweep: its points by batch size, its knee and its frontier."""

    def __init__(self, model: str, cases: Sequence[CaseOutcome], sweep: SweepOutcome, ledger: Ledger) -> None:
        def side(measurements: Mapping[str, Measurement | None]) -> dict[str, tuple[int, Measurement]]:
            sizes = {case.case: int(case.coordinates["batch_size"]) for case in cases}
            return {name: (sizes[name], one) for name, one in measurements.items() if one}

        super().__init__(model, side({case.case: case.measurement for case in cases}), sweep)
        self.baseline = ModelBaseline(model, side({case.case: case.baseline for case in cases}), sweep)
        self._points = {int(case.coordinates["batch_size"]): Point(case, sweep, ledger) for case in cases}
        self._ledger = ledger

    def __getitem__(self, batch_size: int) -> Point:
        if batch_size not in self._points:
            raise SuiteError(f"{self._name} has no batch size {batch_size} in this run; it has {list(self._points)}")
        return self._points[batch_size]

    def __iter__(self) -> Iterator[Point]:
        return iter(self._points.values())

    @property
    def knee(self) -> "KneeClaim":
        """The smallest batch with 95 % of the largest throughput; compare it with `baseline.knee`."""
        return self.knee_by("share_of_maximum")

    def knee_by(self, definition: str, **settings: float) -> "KneeClaim":
        """The knee by another definition: `share_of_maximum(share=)`, `kneedle`, `two_segment`, `bca(epsilon=, k=, reference=)`.

        Raises SuiteError for an unknown one, and where a selection left cases of the sweep out.
        """
        self._refuse_partial("knee")
        return KneeClaim(self._curve().knee(Definition(definition, settings)), self)

    @property
    def frontier(self) -> "FrontierClaim":
        """The points that no other beats in throughput and the gated latency; compare it with `baseline.frontier`."""
        self._refuse_partial("frontier")
        return FrontierClaim(self._frontier(self._frontier_metrics()), self)

    def _refuse_partial(self, what: str) -> None:
        if self._sweep.unselected:
            left_out = ", ".join(self._sweep.unselected)
            raise SuiteError(f"{self._name}: a {what} needs the whole sweep, and the selected tests leave out {left_out}")

    def _claimed(self, verdict: Callable[[], Verdict], *, what: str, stored: Mapping[str, object]) -> Verdict:
        """A verdict on the whole curve; one that says why where a run doesn't judge, or has nothing to judge by."""

        def without(status: Status, reason: str, way_out: str = "", *, judged: bool = True) -> Verdict:
            return Verdict(status, what, "", True, self._name, reason=reason, way_out=way_out, judged=judged)  # noqa: FBT003

        if self._sweep.mode != "gate":
            made = without(Status.UNMEASURED, "recorded, not judged" if self._sweep.mode == "accept" else "measured, not judged", judged=False)
        elif void := [one.void for _, one in self._measured.values() if one.void]:
            made = without(Status.VOID, void[0])
        elif not stored:
            first = next((one for point in self for one in point._outcome.verdicts.values()), None)  # noqa: SLF001 - its own point
            known = first if first and not first.passed else None
            made = without(
                known.status if known else Status.NO_BASELINE,
                known.reason if known else "nothing comparable is stored",
                known.way_out if known else "record it: pytest --slmperf --slmperf-accept",
            )
        else:
            made = verdict()
        return _tracked(made, self._ledger)


class KneeClaim:
    """A measured knee, to be compared with the stored one."""

    def __init__(self, knee: Knee, of: ModelResult) -> None:
        self.value = knee
        self._of = of

    @property
    def batch(self) -> int | None:
        """The batch size of the knee, or None where the curve has none."""
        return self.value.batch

    def __str__(self) -> str:
        return str(self.value)

    def unchanged_from(self, baseline: Knee) -> Verdict:
        """Whether the knee is where it was, as far as resampled launches can tell. See `core.frontier.Knee`."""
        return self._of._claimed(lambda: self.value.unchanged_from(baseline), what="knee", stored=self._of.baseline._measured)  # noqa: SLF001 - its maker


class FrontierClaim:
    """A measured frontier, to be compared with the stored one."""

    def __init__(self, value: Frontier, of: ModelResult) -> None:
        self.value = value
        self._of = of

    def __str__(self) -> str:
        return str(self.value)

    def unchanged_from(self, baseline: Frontier) -> Verdict:
        """Whether every stored point of the frontier is still reached, in each metric's own tolerance."""
        sweep = self._of._sweep  # noqa: SLF001 - its maker
        tolerances = {
            name: verdict.tolerance for case in sweep.cases.values() for name, verdict in case.verdicts.items() if verdict.tolerance
        }
        launches = max((len(sample.launches) for samples in self.value.samples.values() for sample in samples), default=1)
        policies = {
            name: gate.Policy(tolerance, max_launches=launches, design=sweep.design, single_look=True)
            for name, tolerance in tolerances.items()
        }
        return self._of._claimed(  # noqa: SLF001 - its maker
            lambda: self.value.unchanged_from(baseline, policies), what=self.value.name, stored=self._of.baseline._measured  # noqa: SLF001
        )


def _attribute(meaning: Metric) -> str:
    """How a suite spells a metric: `ttft_ms`, `ttft_ms.p99`, `output_throughput`."""
    if meaning.quantile is None:
        return meaning.name
    statistic, _, latency = meaning.name.partition("_")
    return latency if statistic == "median" else f"{latency}.{statistic.replace('.', '_')}"


def _metric_attribute(case: str, name: str) -> Metric:
    """The metric that an attribute of a point names. Raises AttributeError for any other."""
    if name in SCALARS or name in LATENCIES or name.startswith(("p", "median_")):
        with suppress(SuiteError):
            return metric(name)
    known = [*SCALARS, *LATENCIES]
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(known)}"
    raise AttributeError(f"{case} has no {name!r}: {hint}")


def _tracked(verdict: Verdict, ledger: Ledger) -> Verdict:
    """The verdict as a suite gets it: the ledger knows that it was made, and is told when its truth is asked."""
    ledger.made(verdict)
    return replace(verdict, on_asked=lambda: ledger.asked(verdict))
