"""What settings may give that were not measured, or not often: by the curves of those that were."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pytest_slmperf.core.advising.curve import Curve, Known, Law, Prediction, fitted, law_of
from pytest_slmperf.core.advising.question import Evidence, Question, Series, Setting, mean_log, spread
from pytest_slmperf.core.metrics import Metric

LAUNCH_SD, LAUNCH_WEIGHT = 0.02, 4
"""How far launches are taken to scatter before any was repeated, and as how many repetitions that counts."""
PER_OCTAVE = {"replicas": 0.5, "threads": 0.5}
"""So much of what twice as many could bring is expected of a series before it is measured; it may be none, or all."""
OTHER_DTYPE_SD = 0.5
"""Of a type that was not measured: a factor of 1.6 in either direction."""


@dataclass(frozen=True)
class Outlook:
    """What is to be expected at one moment."""

    question: Question
    candidates: tuple[Setting, ...]
    evidence: Evidence

    def sd(self, meaning: Metric) -> float:
        """How far the logarithms of launches scatter, by those that were repeated and by what is assumed before."""
        if meaning.name not in self._sds:
            sd, freedom = spread(self.evidence.seen.values(), meaning)
            pooled = (LAUNCH_WEIGHT * LAUNCH_SD**2 + freedom * sd**2) / (LAUNCH_WEIGHT + freedom)
            self._sds[meaning.name] = math.sqrt(pooled)
        return self._sds[meaning.name]

    @cached_property
    def _sds(self) -> dict[str, float]:
        return {}

    def keeps(self, setting: Setting) -> float:
        """The probability that a setting keeps every limit, as if they were independent."""
        chance = 1.0
        for limit in self.question.limits:
            seen = self.of(setting, limit.metric)
            if seen is None:
                continue
            below = seen.below(math.log(limit.value))
            chance *= 1 - below if limit.metric.higher_is_better else below
        return chance

    def of(self, setting: Setting, meaning: Metric) -> Prediction | None:
        """What a metric of a setting may be; None where no series was measured."""
        asked = setting, meaning.name
        if asked not in self._predictions:
            self._predictions[asked] = self._predict(setting, meaning)
        return self._predictions[asked]

    @cached_property
    def _predictions(self) -> dict[tuple[Setting, str], Prediction | None]:
        return {}

    def _predict(self, setting: Setting, meaning: Metric) -> Prediction | None:
        curves = self._curves(meaning)
        own = curves.get(setting.series)
        if own:
            return own.at(setting.each)
        kin = min(curves, key=lambda one: _distance(one, setting.series), default=None)
        if kin is None:
            return None
        by, sd = _step(kin, setting.series, law_of(meaning))
        return curves[kin].at(setting.each).shifted(by, sd)

    def _curves(self, meaning: Metric) -> Mapping[Series, Curve]:
        if meaning.name not in self._fitted:
            self._fitted[meaning.name] = self._fit(meaning)
        return self._fitted[meaning.name]

    @cached_property
    def _fitted(self) -> dict[str, Mapping[Series, Curve]]:
        return {}

    def _fit(self, meaning: Metric) -> Mapping[Series, Curve]:
        """The curves of the series that were measured, those with most points first: the others take after them."""
        sd = self.sd(meaning)
        known: dict[Series, list[Known]] = {}
        for one in self.evidence.seen.values():
            if logs := one.logs(meaning):
                point = Known(one.setting.each, mean_log(one, meaning), sd**2 / len(logs))
                known.setdefault(one.setting.series, []).append(point)
        batches = [one.each for one in (*self.candidates, *self.evidence.seen)]
        curves: dict[Series, Curve] = {}
        for series in sorted(known, key=lambda one: -len(known[one])):
            kin = min(curves, key=lambda one: _distance(one, series), default=None)
            curves[series] = fitted(law_of(meaning), known[series], batches, curves[kin].halves if kin else None)
        return curves


def _distance(one: Series, other: Series) -> tuple[int, int, float]:
    """How unlike two series are."""
    return one.dtype != other.dtype, one.threads != other.threads, abs(math.log2(one.replicas / other.replicas))


def _step(kin: Series, series: Series, law: Law) -> tuple[float, float]:
    """By how much the logarithm of a metric is expected to differ from a kindred series at the same batch in each
    replica, and with what standard deviation.

    Of replicas and threads: between nothing and all that so many more could bring. What rises, as latency, power and
    memory do, may stay or grow as much. Joules of a token may go either way.
    """
    by, variance = 0.0, 0.0
    for name, share in PER_OCTAVE.items():
        more = math.log(max(getattr(series, name), 1) / max(getattr(kin, name), 1))
        by += share * more
        variance += (share * more) ** 2
    if series.dtype != kin.dtype:
        variance += OTHER_DTYPE_SD**2
    return (0.0 if law is Law.FALLS else by), math.sqrt(variance)
