"""One measured case as the author of a suite holds it: its values, and comparisons that become verdicts.

`value >= baseline` gives a Verdict. Every other use of a value as if it were a number is an error that says what to
write instead, because each of them would let a regression pass: `==`, bare truth, the wrong direction, arithmetic.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import NoReturn

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.judging.limit import judge_against_number, stated
from pytest_slmperf.core.metrics import BOARD, ENERGY, GOODPUT, LATENCIES, SCALARS, Metric, by_neighbour, metric
from pytest_slmperf.core.outcome import LARGER, CaseOutcome, SweepOutcome
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.sweeps.search import FOUND
from pytest_slmperf.core.verdict import Status, Verdict, quantity

UNJUDGED = {"accept": "recorded, not judged", "report": "measured, not judged"}
"""Why a verdict has no truth, by the mode of a run that doesn't judge."""


@dataclass(frozen=True)
class Ledger:
    """Who is told of verdicts. The plugin keeps one: it finds those that nobody asks, and what no test asserts."""

    made: Callable[[Verdict], None] = lambda _verdict: None
    asked: Callable[[Verdict], None] = lambda _verdict: None

    def track(self, verdict: Verdict) -> Verdict:
        """The verdict as a suite gets it: it is known that it was made, and will be when its truth is asked."""
        self.made(verdict)
        return replace(verdict, on_asked=lambda: self.asked(verdict))


class Quantity:
    """What measured and stored values have in common: neither is a number, and neither has a truth."""

    __array_ufunc__ = None  # a numpy number on the left then leaves the comparison to us
    __hash__ = None  # type: ignore[assignment]  # a value without equality has no hash

    def __init__(self, point: "Point | StoredPoint", meaning: Metric) -> None:
        self.point = point
        self.metric = meaning

    @property
    def sample(self) -> Sample:
        """The raw values. Raises SuiteError where the metric was not measured, with the reason."""
        sample = self.point.sample(self.metric)
        if sample is None:
            reason = self.point.why_not(self.metric)
            raise SuiteError(f"{self.point.case}: {self.metric.name} was not measured: {reason}")
        return sample

    @property
    def median(self) -> float:
        """Median over the launches of each launch's median, a plain number in the metric's unit."""
        return self.sample.median

    def __repr__(self) -> str:
        sample = self.point.sample(self.metric)
        figures = f"{quantity(sample.median)} {self.metric.unit} ({sample.shape})" if sample else "unmeasured"
        return f"<{self.point.case} {self.metric.name} {figures}>"

    def __bool__(self) -> NoReturn:
        raise SuiteError(f"{self.metric.name} has no truth: compare it, as in {self._example}")

    def __eq__(self, other: object) -> NoReturn:
        raise SuiteError(f"{self.metric.name} is never equal to anything: compare it, as in {self._example}")

    def __ne__(self, other: object) -> NoReturn:
        raise SuiteError(f"{self.metric.name} always differs a little: compare it, as in {self._example}")

    def __gt__(self, other: object) -> NoReturn:
        raise SuiteError(f"a strict comparison asks for more than no loss: write {self._example}")

    __lt__ = __gt__

    def _refuse_arithmetic(self, *_others: object) -> NoReturn:
        raise SuiteError(
            f"{self.metric.name} is no number: what may be lost stands in the sweep's gate={{…}}, so write "
            f"{self._example}; a plain number, which no gate looks at, is .median"
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse_arithmetic
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __pow__ = __rpow__ = _refuse_arithmetic
    __neg__ = __abs__ = __round__ = __int__ = __float__ = _refuse_arithmetic

    @property
    def _example(self) -> str:
        return assertion(self.metric)


class StoredValue(Quantity):
    """A metric of the baseline."""

    def __getattr__(self, name: str) -> "StoredValue":
        """`.p99` of a latency."""
        __tracebackhide__ = True  # pytest then shows the line of the suite, not this one
        return StoredValue(self.point, _percentile(self.metric, name))

    def __ge__(self, other: object) -> Verdict:
        return _measured(other) <= self

    def __le__(self, other: object) -> Verdict:
        return _measured(other) >= self


def _measured(other: object) -> "Value":
    """`baseline <= value` reads as `value >= baseline`."""
    if not isinstance(other, Value):
        raise SuiteError(f"a baseline is compared with a measured value, not with {type(other).__name__}")
    return other


class Value(Quantity):
    """A measured metric of a point. `>=` or `<=` with its baseline or with a number gives a Verdict."""

    def __init__(self, point: "Point", meaning: Metric) -> None:
        super().__init__(point, meaning)
        self._measured_point = point

    def __ge__(self, other: object) -> Verdict:
        return self._compared(other, at_least=True)

    def __le__(self, other: object) -> Verdict:
        return self._compared(other, at_least=False)

    def __getattr__(self, name: str) -> "Value":
        """`.p99` of a latency."""
        __tracebackhide__ = True  # pytest then shows the line of the suite, not this one
        return Value(self._measured_point, _percentile(self.metric, name))

    def _compared(self, other: object, *, at_least: bool) -> Verdict:
        if isinstance(other, (int, float)) and not isinstance(other, bool):
            if not math.isfinite(other):
                raise SuiteError(f"{self.metric.name} is compared with {other}, which is no limit")
            return self._measured_point.limit_verdict(self.metric, float(other), at_least=at_least)
        if not isinstance(other, StoredValue):
            raise SuiteError(
                f"{self.metric.name} is compared with its baseline or a number, not with {type(other).__name__}"
            )
        if (other.metric.name, other.point.case) != (self.metric.name, self.point.case):
            raise SuiteError(
                f"{self.point.case} {self.metric.name} is compared with its own baseline, not with {other.point.case} "
                f"{other.metric.name}: {self._example}"
            )
        if at_least is not self.metric.higher_is_better:
            sign = ">=" if at_least else "<="
            raise SuiteError(
                f"{self.metric.name}: {self.metric.direction}, so {sign} can't see a loss; write {self._example}"
            )
        return self._measured_point.gate_verdict(self.metric)


class StoredPoint:
    """The baseline's side of a point: `point.baseline.output_throughput`."""

    def __init__(self, outcome: CaseOutcome) -> None:
        self.case = outcome.case
        self._measurement = outcome.baseline

    def __getattr__(self, name: str) -> StoredValue:
        __tracebackhide__ = True
        return StoredValue(self, _named(self, name))

    def sample(self, meaning: Metric) -> Sample | None:
        """The stored samples of a metric, or None where there are none."""
        return self._measurement.samples.get(meaning.name) if self._measurement else None

    def why_not(self, meaning: Metric) -> str:
        """Why there are none."""
        if self._measurement is None:
            return "there is no baseline"
        return self._measurement.unmeasured.get(meaning.name, "the baseline does not hold it")


class Point:
    """One measured case: `decode[64].output_throughput`, `decode[64].ttft_ms.p99`, `decode[64].baseline`."""

    def __init__(self, outcome: CaseOutcome, sweep: SweepOutcome, ledger: Ledger) -> None:
        self.case = outcome.case
        self.coordinates = outcome.coordinates
        """Its model, what is varied of the engine, and its place: `{"model": "m", "replicas": 2, "batch_size": 64}`."""
        self.model = str(outcome.coordinates["model"])
        self.axis = outcome.axis
        """What the sweep varies: `batch_size`, `concurrency`, `request_rate` or `speed`."""
        self.at = outcome.at
        """Where on it this is."""
        self.key = outcome.measurement.key
        self.baseline = StoredPoint(outcome)
        self._measurement = outcome.measurement
        self._finds = FOUND[outcome.axis] if outcome.searched else ""
        self._verdicts = outcome.verdicts
        self._cut_off = outcome.cut_off
        self._sweep = sweep
        self._ledger = ledger

    def __getattr__(self, name: str) -> Value:
        __tracebackhide__ = True
        return Value(self, _named(self, name))

    def __repr__(self) -> str:
        return f"<{self.case}>"

    @property
    def batch_size(self) -> int:
        """Of a static batch. Raises SuiteError for any other point."""
        if self.axis != "batch_size":
            raise SuiteError(f"{self.case} has no batch_size: its {self.axis} is point.at")
        return int(self.at)

    def sample(self, meaning: Metric) -> Sample | None:
        """The measured samples of a metric, or None where there are none."""
        return None if self._measurement.void else self._measurement.samples.get(meaning.name)

    def why_not(self, meaning: Metric) -> str:
        """Why there are none."""
        if self._measurement.void:
            return self._measurement.void
        unasked = f"a search tells {self._finds} alone" if self._finds else "no launch measured it"
        return self._measurement.unmeasured.get(meaning.name, unasked)

    def gate_verdict(self, meaning: Metric) -> Verdict:
        """What the gate decided while it measured. Raises SuiteError where the sweep doesn't gate the metric."""
        verdict = self._verdicts.get(meaning.name)
        if verdict is None and meaning.name in self._sweep.ungated:
            reason = f"this machine's settings don't gate {meaning.name}"
            verdict = replace(
                self._without(meaning, Status.UNMEASURED), case=self.case, reason=reason, way_out="", judged=False
            )
        elif verdict is None:
            raise SuiteError(
                f"{self._sweep.sweep} does not gate {meaning.name}: add it to the sweep, as in {gating(meaning)}"
            )
        return self._ledger.track(verdict)

    def limit_verdict(self, meaning: Metric, limit: float, *, at_least: bool) -> Verdict:
        """Whether the metric keeps a stated limit, judged on the launches that there are."""
        sample = self.sample(meaning)
        if self._sweep.mode in UNJUDGED:
            verdict = replace(
                self._without(meaning, Status.UNMEASURED), reason=UNJUDGED[self._sweep.mode], judged=False
            )
        elif sample is None and meaning.name in self._sweep.unmetered:
            reason = self._sweep.unmetered[meaning.name]
            verdict = replace(self._without(meaning, Status.UNMEASURED), reason=reason, judged=False)
        elif sample is None and self._cut_off:
            nothing = self._without(meaning, Status.INCONCLUSIVE)
            verdict = replace(nothing, reason=self._cut_off, way_out=LARGER)
        elif sample is None:
            verdict = self._without(meaning, Status.VOID if self._measurement.void else Status.UNMEASURED)
        else:
            verdict = judge_against_number(meaning, sample, limit, at_least=at_least)
        return self._ledger.track(replace(verdict, case=self.case, limit=stated(meaning, limit, at_least=at_least)))

    def _without(self, meaning: Metric, status: Status) -> Verdict:
        """A verdict without samples. A percentile that nobody observed is one that the sweep doesn't declare."""
        way_out = ""
        unasked = status is Status.UNMEASURED and meaning.name not in self._measurement.unmeasured
        if unasked and self._finds:
            way_out = f"list the places in another sweep, as in {self.axis}=[8, 16]"
        elif unasked and meaning.quantile:
            way_out = f"add it to the sweep, as in percentiles=[{meaning.quantile * 100:.6g}]"
        elif unasked and meaning.name in GOODPUT:
            way_out = "say in the sweep which requests are good: slo=Slo(ttft_ms=…, tpot_ms=…, e2el_ms=…)"
        elif unasked and by_neighbour(meaning.name)[1] in GOODPUT:
            way_out = "say which of its requests are good: Beside(…, slo=Slo(ttft_ms=…, tpot_ms=…, e2el_ms=…))"
        elif unasked and meaning.name in (*ENERGY, *BOARD):
            way_out = "ask for it: use the fixture energy_meter, or gate one of the joules"
        return Verdict(
            status,
            meaning.name,
            meaning.unit,
            meaning.higher_is_better,
            reason=self.why_not(meaning),
            way_out=way_out,
        )


def spelling(meaning: Metric) -> str:
    """How a suite spells a metric: `ttft_ms`, `ttft_ms.p99`, `output_throughput`, `beside_1_ttft_ms.p99`."""
    if meaning.quantile is None:
        return meaning.name
    neighbour, own = by_neighbour(meaning.name)
    statistic, _, latency = own.partition("_")
    of = f"{neighbour}{latency}"
    return of if statistic == "median" else f"{of}.{statistic.replace('.', '_')}"


def gating(meaning: Metric) -> str:
    """What a sweep says to gate a metric: `gate={'ttft_ms': 0.03}`."""
    name = spelling(meaning) if meaning.quantile in (None, 0.5) else meaning.name
    return f"gate={{{name!r}: 0.03}}"


def _percentile(of: Metric, name: str) -> Metric:
    """The percentile of a latency that `p99` or `p99_9` names. Raises AttributeError for any other."""
    __tracebackhide__ = True
    if not name.startswith("_") and of.quantile is not None:
        with suppress(SuiteError):
            neighbour, own = by_neighbour(of.name)
            return metric(f"{neighbour}{name.replace('_', '.')}_{own.partition('_')[2]}")
    raise AttributeError(f"{of.name} has no {name!r}")


def assertion(meaning: Metric) -> str:
    """What a suite writes after `assert`: `point.ttft_ms.p99 <= point.baseline.ttft_ms.p99`."""
    name = spelling(meaning)
    return f"point.{name} {'>=' if meaning.higher_is_better else '<='} point.baseline.{name}"


def _named(point: Point | StoredPoint, name: str) -> Metric:
    """The metric that an attribute of a point names. Raises AttributeError for any other."""
    __tracebackhide__ = True
    if name.startswith("_"):
        raise AttributeError(name)
    with suppress(SuiteError):
        return metric(name)
    known = [*SCALARS, *LATENCIES]
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(known)}"
    raise AttributeError(f"{point.case} has no {name!r}: {hint}")
