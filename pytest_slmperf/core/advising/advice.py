"""What is advised of what was measured: the setting, its gain with an interval, and whether replication pays."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pytest_slmperf.core.advising.planner import half_width, picked, reference
from pytest_slmperf.core.advising.question import Evidence, Limit, Question, Seen, Setting, mean_log
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.metrics import Metric
from pytest_slmperf.core.verdict import percent, quantity

CONFIDENCE = 0.95
"""Of each interval."""


@dataclass(frozen=True, slots=True)
class Gain:
    """How one setting compares with another in the objective."""

    ratio: float
    """Of the geometric means of their launches."""
    low: float | None
    """Of the interval at CONFIDENCE; None where no setting was launched twice, so that nothing bounds it."""
    high: float | None

    def __str__(self) -> str:
        """`+33.3% (95 % CI +31.9%…+34.7%)`."""
        if self.low is None or self.high is None:
            return f"{self.ratio - 1:+.1%} (each was launched once: nothing bounds it)"
        return f"{self.ratio - 1:+.1%} (95 % CI {self.low - 1:+.1%}…{self.high - 1:+.1%})"


class Pays(StrEnum):
    """Whether replicas bring more than one instance can."""

    YES = "pays"
    NO = "does not pay"
    UNSURE = "can't be told"
    NOT_ASKED = "not measured"


@dataclass(frozen=True, slots=True)
class Replication:
    """The best of several replicas beside the best of one instance, both within the limits."""

    pays: Pays
    said: str
    gain: Gain | None = None
    single: Setting | None = None
    several: Setting | None = None


@dataclass(frozen=True, slots=True)
class Miss:
    """By how much a setting is beyond a limit."""

    limit: Limit
    value: float

    def __str__(self) -> str:
        """`median_itl_ms 72.9 ms, at most 40 ms: 82.2% beyond it`."""
        bound = str(self.limit).partition(" ")[2]
        value = f"{quantity(self.value)} {self.limit.metric.unit}"
        return f"{self.limit.metric.name} {value}, {bound}: {percent(self.limit.excess(self.value))} beyond it"


@dataclass(frozen=True)
class Advice:
    """The answer to a question."""

    question: Question
    pick: Seen | None
    """What to run; None where nothing that was measured keeps the limits."""
    best: Seen | None
    """The best in the objective that keeps the limits; the pick is within so much of it, and lighter or the same."""
    beside: Seen | None
    """One instance at its largest batch; None where it wasn't measured."""
    gain: Gain | None
    """Of the pick over that."""
    replication: Replication
    nearest: Seen | None = None
    """Where nothing keeps the limits: the setting that misses them by the least."""
    misses: tuple[Miss, ...] = ()
    """What the nearest misses."""


def advised(question: Question, evidence: Evidence, candidates: Sequence[Setting]) -> Advice:
    """The answer that these measurements give; the first candidate's configuration is what is compared with.

    Raises UsageError where nothing that is asked for was measured, and where all there is is one point.
    """
    measured = evidence.measured(question)
    _check(question, evidence, measured)
    beside = reference(candidates, evidence)
    beside = beside if beside and beside.of(question.objective) is not None else None
    pick = picked(question, evidence)
    keeping = [one for one in measured if one.keeps(question.limits)]
    nearest = None if pick else min(measured, key=lambda one: _farthest(one, question.limits))
    return Advice(
        question=question,
        pick=pick,
        best=_best(question, keeping),
        beside=beside,
        gain=gain_of(question, evidence, pick, beside) if pick and beside else None,
        replication=_replication(question, evidence, keeping),
        nearest=nearest,
        misses=_misses(nearest, question.limits) if nearest else (),
    )


def gain_of(question: Question, evidence: Evidence, one: Seen, other: Seen) -> Gain:
    """How one setting compares with another."""
    meaning = question.objective
    step = mean_log(one, meaning) - mean_log(other, meaning)
    if one.setting == other.setting:
        return Gain(1.0, 1.0, 1.0)
    half = half_width(evidence, meaning, one, other)
    if math.isinf(half):
        return Gain(math.exp(step), None, None)
    return Gain(math.exp(step), math.exp(step - half), math.exp(step + half))


def _check(question: Question, evidence: Evidence, measured: Sequence[Seen]) -> None:
    ran = [one for one in evidence.seen.values() if not one.failed]
    for meaning in question.metrics:
        having = [one for one in ran if one.of(meaning) is not None]
        if not having:
            raise UsageError(_without(meaning, ran))
    if not measured:
        names = ", ".join(meaning.name for meaning in question.metrics)
        raise UsageError(f"no setting has all of {names}: there is nothing to choose from")
    if len(measured) == 1:
        raise UsageError(
            f"one point only, {measured[0].setting}: there is nothing to choose from; measure other batches or replicas"
        )


def _without(meaning: Metric, ran: Sequence[Seen]) -> str:
    reasons = dict.fromkeys(one.unmeasured[meaning.name] for one in ran if meaning.name in one.unmeasured)
    there = sorted({name for one in ran for name, values in one.values.items() if values})
    why = f": {'; '.join(reasons)}" if reasons else f"; there is {', '.join(there) or 'nothing'}"
    return f"no setting has {meaning.name}{why}"


def _best(question: Question, keeping: Iterable[Seen]) -> Seen | None:
    return max(keeping, key=lambda one: question.sign * mean_log(one, question.objective), default=None)


def _farthest(one: Seen, limits: Iterable[Limit]) -> float:
    """By how much it is beyond the limit that it misses most."""
    return max(limit.excess(value) for limit in limits if (value := one.of(limit.metric)) is not None)


def _misses(one: Seen, limits: Iterable[Limit]) -> tuple[Miss, ...]:
    values = ((limit, one.of(limit.metric)) for limit in limits)
    return tuple(Miss(limit, value) for limit, value in values if value is not None and limit.excess(value) > 0)


def _replication(question: Question, evidence: Evidence, keeping: Sequence[Seen]) -> Replication:
    single = _best(question, [one for one in keeping if one.setting.series.replicas == 1])
    several = _best(question, [one for one in keeping if one.setting.series.replicas > 1])
    if several is None or single is None:
        return _one_sided(evidence, single, several)
    gain = gain_of(question, evidence, several, single)
    pays = _pays(question, gain)
    said = f"{several.setting} against {single.setting}: {question.objective.name} {gain}"
    return Replication(pays, said, gain, single.setting, several.setting)


def _one_sided(evidence: Evidence, single: Seen | None, several: Seen | None) -> Replication:
    """Where only one of both keeps the limits, or neither."""
    if not any(one.setting.series.replicas > 1 for one in evidence.seen.values()):
        return Replication(Pays.NOT_ASKED, "no setting of several replicas was measured")
    if several:
        return Replication(
            Pays.YES, "of what was measured, only several replicas keep the limits", None, None, several.setting
        )
    if single:
        said = "of what was measured, no setting of several replicas keeps the limits"
        return Replication(Pays.NO, said, None, single.setting)
    return Replication(Pays.UNSURE, "of what was measured, nothing keeps the limits")


def _pays(question: Question, gain: Gain) -> Pays:
    """It pays where it is surely better, and doesn't where it is surely not better by what counts as equally good."""
    low = gain.ratio if gain.low is None else gain.low
    high = gain.ratio if gain.high is None else gain.high
    low, high = sorted((low**question.sign, high**question.sign))
    unbounded = gain.low is None
    if low > (1 + question.within if unbounded else 1.0):
        return Pays.YES
    return Pays.NO if high <= 1 + question.within else Pays.UNSURE
