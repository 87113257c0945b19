"""What other launches might have given: medians of resampled launches, and what holds most of them.

Launches are drawn with replacement (Efron's bootstrap), and what a day adds is drawn for every sample of its own. What
is decided by it (a knee, a replica count) is told with the share of the draws that decide so.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Protocol, TypeVar

from pytest_slmperf.core.gate import DAY_SD
from pytest_slmperf.core.judging.spending import quantile
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import change

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Draws = NDArray[np.float64]

RESAMPLES = 500
COVERAGE = 0.99
"""Share of the draws that an interval covers. Two disjoint intervals are what makes a place moved."""
WITHIN = 0.95
"""Share of the draws that must lie in the baseline's interval, for a place to be unchanged."""
ALIKE = 0.05
"""Share of the draws that both sides must have at the same places, for a place to be unchanged."""
ONE_DAY_SD = DAY_SD / math.sqrt(2)
"""Standard deviation of log values that one day adds; DAY_SD is that of the difference between two."""
FEWEST_LAUNCHES = 5
"""As for a bound against a number: fewer launches lie too close together by chance too often."""

P = TypeVar("P", bound=float)
"""A place: a batch size, a rate, a replica count."""

_TAIL = (1 - COVERAGE) / 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value of the medians, and the interval that covers 99 % of what resampled launches give for it."""

    value: float
    interval: tuple[float, float] | None
    """None where there are too few launches."""

    @property
    def as_change(self) -> str:
        """`+33.7% (+31.2%…+36.0%)`, of a ratio."""
        between = f"{change(self.interval[0])}…{change(self.interval[1])}" if self.interval else "not bounded"
        return f"{change(self.value)} ({between})"


def log_medians(groups: Iterable[Sequence[Sample]], *, seed: int, resamples: int = RESAMPLES) -> "Draws":
    """Logarithms of the samples' medians, a row for each draw and a column for each sample, group after group.

    The samples of a group are of the same launches, which are drawn whole where the samples have equally many.
    """
    import numpy as np  # noqa: PLC0415 - importing a suite must cost nothing

    generator = np.random.default_rng(seed)
    columns = []
    for group in groups:
        drawn: dict[int, NDArray[np.int64]] = {}
        for sample in group:
            launches = np.log([median(rounds) for rounds in sample.launches])
            count = len(launches)
            if count not in drawn:
                drawn[count] = generator.integers(count, size=(resamples, count))
            # Each row is sorted for its middle: np.median takes three times as long on rows this short.
            ordered = np.sort(launches[drawn[count]], axis=1)
            columns.append((ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2)
    draws = np.stack(columns, axis=1)
    return np.asarray(draws + generator.normal(0, ONE_DAY_SD, draws.shape))


def fewest(samples: Iterable[Sample]) -> int:
    """The launches of the sample that has the fewest."""
    return min(len(sample.launches) for sample in samples)


def estimate(value: float, draws: "Draws", *, launches: int) -> Estimate:
    """A ratio with the interval that leaves as many draws out at either end, wider where there are few launches."""
    if launches < FEWEST_LAUNCHES:
        return Estimate(value, None)
    import numpy as np  # noqa: PLC0415 - as above

    low, high = value * (np.quantile(draws, [_TAIL, 1 - _TAIL]) / value) ** wider(launches, _TAIL)
    return Estimate(value, (float(low), float(high)))


def wider(launches: int, level: float) -> float:
    """How much wider a bound is than one of resampled medians, which lie too close together where launches are few.

    The spread of n launches to that of n - 1, and Student's quantile to the normal one in the first term of its
    expansion (Abramowitz and Stegun, 26.7.5). Two launches are the fewest.
    """
    return (1 + (quantile(level) ** 2 + 1) / (4 * (launches - 1))) * math.sqrt(launches / (launches - 1))


def shift_bounds(draws: Iterable[float], by: float, level: float, *, launches: int) -> tuple[float, float]:
    """One-sided bounds of a shift of log values, each with this error level, wider where there are few launches; none
    of too few.
    """
    if launches < FEWEST_LAUNCHES:
        return -math.inf, math.inf
    ordered = sorted(draws)
    spare, factor = math.floor(level * len(ordered)), wider(launches, level)
    return by + factor * (ordered[spare] - by), by + factor * (ordered[-1 - spare] - by)


def covering(found: Sequence[P], draws: int) -> tuple[P, P] | None:
    """The smallest and the largest of the places that the draws found, half of the rest left out at either end.

    None where more of the draws found none than an interval may leave out.
    """
    spare = math.floor(_TAIL * draws)
    if draws - len(found) > 2 * spare or len(found) <= 2 * spare:
        return None
    ordered = sorted(found)
    return ordered[spare], ordered[-1 - spare]


def undecided(draws: "Draws", values: Sequence[float], *, launches: int, margin: float = 0.0) -> tuple[int, ...]:
    """Places of the values that are not surely lower than the highest less the margin; all, where launches are too few.

    The true best is among them in at least 99 % of measurements (comparisons with the best after Hsu, 1981, each at
    its share of the error by Bonferroni). `values` are logarithms, as the draws.
    """
    if launches < FEWEST_LAUNCHES:
        return tuple(range(len(values)))
    best = max(range(len(values)), key=values.__getitem__)
    level = (1 - COVERAGE) / max(1, len(values) - 1)
    away = quantile(level) * wider(launches, level)
    spreads = (draws - draws[:, [best]]).std(axis=0)
    lower = [values[best] - value - margin for value in values]
    return tuple(place for place in range(len(values)) if place == best or lower[place] < away * spreads[place])


class Found(Protocol[P]):
    """One of several places, as resampled launches find it."""

    @property
    def interval(self) -> tuple[P, P] | None:
        """Covers 99 % of the draws' places; None where more of them have none."""
        ...

    @property
    def shares(self) -> Mapping[P, float]:
        """Share of the draws at each place; what is missing to 1 found none."""
        ...


def moved(places: Sequence[P], stored: "Found[P]", now: "Found[P]") -> bool | None:
    """Whether what was found at one of the places lies elsewhere now, or None where that can't be told.

    It moved only where the two intervals have no place in common, or where (nearly) no draw finds it any more. It
    stayed where 95 % of the draws lie within the stored interval, and that is one place or two neighbouring ones: what
    stands on the edge between two is never known better. But if hardly a draw of the one side finds what the other's
    do, that may be a change from one of the two to the other.
    """
    if stored.interval is None:
        return None
    low, high = stored.interval
    apart = now.interval is not None and (now.interval[1] < low or high < now.interval[0])
    if apart or sum(now.shares.values()) <= 1 - COVERAGE:
        return True
    within = sum(share for place, share in now.shares.items() if low <= place <= high)
    alike = sum(min(share, stored.shares.get(place, 0.0)) for place, share in now.shares.items())
    close = places.index(high) - places.index(low) <= 1
    return False if within >= WITHIN and alike >= ALIKE and close else None
