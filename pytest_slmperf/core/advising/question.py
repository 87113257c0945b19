"""What is asked, and what is known so far: settings of one model, limits, and what launches of each setting showed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import fmean, median, variance

from pytest_slmperf.core.errors import SuiteError, UsageError
from pytest_slmperf.core.metrics import Metric, metric
from pytest_slmperf.core.verdict import quantity

THROUGHPUT = ("output_throughput", "total_token_throughput")
JOULES = ("joules_per_output_token", "joules_per_total_token")
OBJECTIVES: Mapping[str, tuple[str, ...]] = {"throughput": THROUGHPUT, "joules": JOULES}
"""What may be wanted, and by which metric: the first that there is."""
WITHIN = 0.02
"""Settings so close to the best count as equally good: the lighter one is advised."""


@dataclass(frozen=True, slots=True)
class Series:
    """All that a batch is varied in: an engine's configuration."""

    dtype: str = ""
    """Empty where nobody said."""
    threads: int = 0
    """Of each replica; 0 where nobody said."""
    replicas: int = 1

    def __str__(self) -> str:
        """`2 replicas, float16, 1 thread`."""
        parts = [f"{self.replicas} replicas" if self.replicas > 1 else "one instance", self.dtype]
        parts.append(f"{self.threads} thread{'s' * (self.threads != 1)}" if self.threads else "")
        return ", ".join(filter(None, parts))


@dataclass(frozen=True, slots=True)
class Setting:
    """How a model is run."""

    batch: int
    """Requests under way, in all replicas together."""
    series: Series = field(default_factory=Series)

    @property
    def each(self) -> float:
        """Requests under way in each replica."""
        return self.batch / self.series.replicas

    @property
    def weight(self) -> tuple[int, int, int]:
        """Sorts settings: of two that are equally good the lighter one is advised."""
        return self.series.replicas, self.batch, self.series.threads

    def __str__(self) -> str:
        """`batch 256 in each of 2 replicas, float16`; `batch 64 of one instance`."""
        series, rest = self.series, str(self.series).partition(", ")[2]
        where = "of one instance"
        batch = self.batch
        if series.replicas > 1:
            even = self.batch % series.replicas == 0
            batch = self.batch // series.replicas if even else self.batch
            where = f"in each of {series.replicas} replicas" if even else f"over {series.replicas} replicas"
        return f"batch {batch} {where}{', ' if rest else ''}{rest}"


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound on a metric: at most so much of what is better low, and at least of what is better high."""

    metric: Metric
    value: float

    def __post_init__(self) -> None:
        if not 0 < self.value < math.inf:
            raise UsageError(f"a limit on {self.metric.name} of {self.value:g}: it takes a number above 0")

    @classmethod
    def parse(cls, text: str) -> "Limit":
        """METRIC=VALUE in the metric's unit, as `itl_ms=40`. Raises UsageError."""
        name, equals, value = text.partition("=")
        try:
            return cls(metric(name.strip()), float(value if equals else ""))
        except ValueError as error:
            raise UsageError(f"{text!r} is not METRIC=VALUE, as in itl_ms=40 or mean_power_w=300") from error
        except SuiteError as error:
            raise UsageError(str(error)) from error

    def excess(self, value: float) -> float:
        """How far beyond the limit a value is, as a share of the limit; 0 or less where it is kept."""
        return 1 - value / self.value if self.metric.higher_is_better else value / self.value - 1

    def __str__(self) -> str:
        """`itl_ms at most 40 ms`."""
        bound = "at least" if self.metric.higher_is_better else "at most"
        return f"{self.metric.name} {bound} {quantity(self.value)} {self.metric.unit}"


@dataclass(frozen=True, slots=True)
class Question:
    """What is wanted of a model."""

    objective: Metric
    limits: tuple[Limit, ...] = ()
    within: float = WITHIN

    def __post_init__(self) -> None:
        if not 0 < self.within < 1:
            raise UsageError(f"within={self.within:g}; it takes a share between 0 and 1, as 0.02")
        names = [limit.metric.name for limit in self.limits]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UsageError(f"two limits on {', '.join(sorted(twice))}: give one")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Everything that must be known of a setting."""
        return tuple(dict.fromkeys((self.objective, *(limit.metric for limit in self.limits))))

    @property
    def sign(self) -> int:
        """1 where more of the objective is better, -1 where less is."""
        return 1 if self.objective.higher_is_better else -1


def objective_of(wanted: str, measured: Iterable[str]) -> Metric:
    """The metric of `throughput`, `joules` or a metric's own name, of those that are measured.

    Raises UsageError, which names what there is, where none is.
    """
    there = list(dict.fromkeys(measured))
    names = OBJECTIVES.get(wanted)
    try:
        names = names or (metric(wanted).name,)
    except SuiteError as error:
        raise UsageError(f"{wanted!r} is neither {' nor '.join(OBJECTIVES)}, and {error}") from error
    for name in names:
        if name in there:
            return metric(name)
    raise UsageError(f"the results don't have {' or '.join(names)}; they have {', '.join(sorted(there)) or 'nothing'}")


@dataclass(frozen=True, slots=True)
class Seen:
    """What launches of one setting showed."""

    setting: Setting
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By the metric's full name: the median of each launch, in the order of time."""
    failed: str = ""
    """Why it can't be run; empty where it can."""
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    """Metrics that no launch has, each with its reason."""

    def of(self, meaning: Metric) -> float | None:
        """The median launch; None where there is none."""
        return median(values) if (values := self.values.get(meaning.name)) else None

    def logs(self, meaning: Metric) -> tuple[float, ...]:
        """The logarithms of the launches."""
        return tuple(map(math.log, self.values.get(meaning.name, ())))

    def launches(self, question: Question) -> int:
        """Launches that have everything that is asked for."""
        return min(len(self.values.get(meaning.name, ())) for meaning in question.metrics)

    def keeps(self, limits: Iterable[Limit]) -> bool:
        """Whether the median launch keeps every limit."""
        found = ((limit, self.of(limit.metric)) for limit in limits)
        return all(value is not None and limit.excess(value) <= 0 for limit, value in found)


@dataclass(frozen=True)
class Evidence:
    """Everything that is known, each setting once."""

    seen: Mapping[Setting, Seen] = field(default_factory=dict)

    def measured(self, question: Question) -> tuple[Seen, ...]:
        """The settings of which everything that is asked for is known."""
        return tuple(one for one in self.seen.values() if not one.failed and one.launches(question))

    def fails(self, setting: Setting) -> str:
        """Why a setting surely can't be run: it could not, or a smaller batch of its series could not."""
        failed = (one for one in self.seen.values() if one.failed and one.setting.series == setting.series)
        return next((one.failed for one in failed if one.setting.batch <= setting.batch), "")

    def among(self, candidates: Iterable[Setting]) -> "Evidence":
        """What is known of these settings, and which could not be run."""
        wanted = set(candidates)
        return Evidence({setting: one for setting, one in self.seen.items() if setting in wanted or one.failed})

    def plus(self, setting: Setting, values: Mapping[str, float]) -> "Evidence":
        """With one launch more."""
        before = self.seen.get(setting, Seen(setting))
        together = {name: (*before.values.get(name, ()), value) for name, value in values.items()}
        return Evidence({**self.seen, setting: Seen(setting, {**before.values, **together})})


def spread(seen: Iterable[Seen], meaning: Metric) -> tuple[float, int]:
    """The pooled standard deviation of the launches' logarithms about their setting's mean, and its degrees of freedom.

    It is taken to be one for all settings. (0, 0) where no setting has two launches.
    """
    samples = [logs for one in seen if len(logs := one.logs(meaning)) > 1]
    freedom = sum(len(logs) - 1 for logs in samples)
    squares = sum((len(logs) - 1) * variance(logs) for logs in samples)
    return (math.sqrt(squares / freedom), freedom) if freedom else (0.0, 0)


def mean_log(one: Seen, meaning: Metric) -> float:
    """The mean of the logarithms of its launches, of which there is one at least."""
    return fmean(one.logs(meaning))


def metrics_of(seen: Iterable[Seen]) -> tuple[str, ...]:
    """Everything that some setting has, by full names."""
    return tuple(dict.fromkeys(chain.from_iterable(one.values for one in seen)))


def grid(batches: Sequence[int], series: Iterable[Series]) -> tuple[Setting, ...]:
    """Every batch in each replica of every series."""
    return tuple(
        Setting(batch * one.replicas, one) for one in dict.fromkeys(series) for batch in dict.fromkeys(batches)
    )
