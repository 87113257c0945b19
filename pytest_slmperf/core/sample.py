"""What was measured: samples of one metric, and the measurement of one case."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median

from pytest_slmperf.core.devices.board import BoardFacts
from pytest_slmperf.core.errors import SlmperfError

SMALLEST, LARGEST = 1e-100, 1e100
"""No metric has a value beyond these in its unit; between them ratios and logarithms are numbers, too."""
NOT_IN_BOTH_ARMS = "no launch measured it in both arms"
"""Why an arm has no sample of what it did measure: the other one, beside it, did not."""


Interval = tuple[float, float]
"""The lower and the upper bound of a metric, in its unit."""


class BadSample(SlmperfError):
    """A value that no measurement can have: zero, negative, beyond what is, or not a number."""


@dataclass(frozen=True)
class Sample:
    """Values of one metric, launch by launch in the order they were measured, round by round within a launch.

    Every launch has at least one round; launches may differ in their number of rounds. Values lie between SMALLEST and
    LARGEST, in the metric's unit.
    """

    launches: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.launches:
            raise BadSample("a sample without a launch")
        for launch, rounds in enumerate(self.launches):
            if not rounds:
                raise BadSample(f"launch {launch} has no round")
            for value in rounds:
                if not SMALLEST <= value <= LARGEST:  # nor is NaN
                    raise BadSample(
                        f"launch {launch} has the value {value!r}; values are positive, {SMALLEST} to {LARGEST}"
                    )

    @classmethod
    def of(cls, launches: Iterable[Iterable[float]]) -> "Sample":
        """A sample of any nested numbers: launches of rounds. Raises BadSample."""
        try:
            return cls(tuple(tuple(float(value) for value in rounds) for rounds in launches))
        except OverflowError as error:
            raise BadSample(
                f"a whole number is beyond any value; values are positive, {SMALLEST} to {LARGEST}"
            ) from error

    @cached_property
    def median(self) -> float:
        """Median over the launches of each launch's median round, in the metric's unit."""
        return median(median(rounds) for rounds in self.launches)

    @property
    def shape(self) -> str:
        """`20×5`: launches × rounds (the median number of rounds of a launch)."""
        return f"{len(self.launches)}×{round(median(len(rounds) for rounds in self.launches))}"


@dataclass(frozen=True)
class VoidRound:
    """A round that a guard threw away, and why."""

    launch: int
    guard: str
    reason: str


@dataclass(frozen=True)
class Measurement:
    """The samples of all metrics of one case, with the key that a baseline must match."""

    case: str
    """A named point of a suite: `decode/opt-125m/batch=64`."""
    key: Mapping[str, object]
    """What the samples hold for, flat: engine, engine_version, model, weights, dtype, workload, threads, …"""
    samples: Mapping[str, Sample]
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    """Metrics without a sample, each with its reason."""
    void_rounds: tuple[VoidRound, ...] = ()
    void: str | None = None
    """Why the whole case is void, or None."""
    notes: tuple[str, ...] = ()
    """What is worth knowing and voids nothing."""
    boards: Mapping[str, BoardFacts] = field(default_factory=dict)
    """What its joules hold for, by the board's UUID; empty where there are none."""
    intervals: Mapping[str, tuple[tuple[Interval | None, ...], ...]] = field(default_factory=dict)
    """Of quantiles of requests, beside the values of `samples`: what each round alone tells of them, at 95 %.

    None where a round had too few requests. A gate compares launches, and doesn't look at it.
    """
