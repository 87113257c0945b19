"""The points that are best in two metrics, as throughput and joules per token, and whether they are the same."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_slmperf.core.curves.resampling import FEWEST_LAUNCHES, Estimate, estimate, fewest, log_medians, undecided
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.metrics import Metric, metric
from pytest_slmperf.core.sample import Sample

if TYPE_CHECKING:
    from pytest_slmperf.core.curves.resampling import Draws

RESAMPLES = 2000


@dataclass(frozen=True)
class Optimum:
    """The point that is best in one metric, and those that may be."""

    metric: Metric
    case: str
    """The best by its median."""
    undecided: tuple[str, ...]
    """The cases that can't be told from it, and itself: the true best is among them in 99 % of measurements. All of
    them where there are too few launches.
    """
    shares: Mapping[str, float]
    """Share of resampled launches in which each case is the best."""

    def __str__(self) -> str:
        others = [case for case in self.undecided if case != self.case]
        named = f" (or {', '.join(others)})" if others else ""
        return f"{self.metric.name} is best at {self.case}{named}"


@dataclass(frozen=True)
class Optima:
    """The best points in two metrics, and what the best in one loses in the other."""

    first: Optimum
    second: Optimum
    differ: bool | None
    """True where no case may be the best in both metrics: wrong in at most 2 % of measurements. False where one alone
    may be the best in either. None where that can't be told.
    """
    first_at_second: Estimate
    """Ratio of the first metric at the best point of the second to that at its own."""
    second_at_first: Estimate
    """Ratio of the second metric at the best point of the first to that at its own."""

    def __str__(self) -> str:
        if self.first.case == self.second.case:
            return f"{self.first}, {self.second}"
        there = (
            f"{self.first.metric.name} {self.first_at_second.as_change} at {self.second.case}",
            f"{self.second.metric.name} {self.second_at_first.as_change} at {self.first.case}",
        )
        doubt = "" if self.differ else "; that they differ is not sure"
        return f"{self.first}, {self.second}: {', '.join(there)}{doubt}"


def optima(
    cases: Mapping[str, Mapping[str, Sample]], first: str, second: str, *, seed: int = 0, resamples: int = RESAMPLES
) -> Optima:
    """The best points in two metrics of the cases that have a sample of both.

    Launches are drawn whole for all cases and in both metrics, since they were made block by block. Raises SuiteError
    where no case has both.
    """
    import numpy as np  # noqa: PLC0415 - importing a suite must cost nothing

    meanings = metric(first), metric(second)
    names = [meaning.name for meaning in meanings]
    measured = {case: samples for case, samples in cases.items() if all(name in samples for name in names)}
    if names[0] == names[1] or not measured:
        raise SuiteError(f"two best points are of two metrics that a case has both of, not {' and '.join(names)}")
    columns = [[samples[name] for samples in measured.values()] for name in names]
    launches = fewest([*columns[0], *columns[1]])
    draws = np.split(log_medians([[*columns[0], *columns[1]]], seed=seed, resamples=resamples), 2, axis=1)
    one, other = (
        _optimum(meaning, tuple(measured), samples, drawn, launches)
        for meaning, samples, drawn in zip(meanings, columns, draws, strict=True)
    )

    def ratio(at: int, mine: Optimum, theirs: Optimum) -> Estimate:
        here, there = (list(measured).index(optimum.case) for optimum in (mine, theirs))
        value = columns[at][there].median / columns[at][here].median
        return estimate(value, np.exp(draws[at][:, there] - draws[at][:, here]), launches=launches)

    differ = _differ(one, other) if launches >= FEWEST_LAUNCHES else None
    return Optima(one, other, differ, ratio(0, one, other), ratio(1, other, one))


def _optimum(
    meaning: Metric, cases: Sequence[str], samples: Sequence[Sample], draws: "Draws", launches: int
) -> Optimum:
    sign = 1.0 if meaning.higher_is_better else -1.0
    values = [sign * math.log(sample.median) for sample in samples]
    among = undecided(sign * draws, values, launches=launches)
    won = (sign * draws).argmax(axis=1).tolist()
    return Optimum(
        meaning,
        cases[max(range(len(cases)), key=values.__getitem__)],
        undecided=tuple(cases[at] for at in among),
        shares={case: won.count(at) / len(won) for at, case in enumerate(cases) if at in won},
    )


def _differ(first: Optimum, second: Optimum) -> bool | None:
    if set(first.undecided).isdisjoint(second.undecided):
        return True
    return False if first.undecided == second.undecided == (first.case,) else None
