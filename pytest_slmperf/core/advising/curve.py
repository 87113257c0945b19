"""What a metric may be at a batch that was not measured, from those that were.

A step of an engine takes a fixed time, for the weights, and a time for each request: α + β·b. So throughput
saturates, C·b/(b+h) with h = α/β, and so do tokens per joule where power is steady; latency and memory rise in a
straight line, C·(b+h). No engine keeps to it: other kernels, full caches. So the logarithm of what is measured wanders
about the law as a random walk over the octaves of the batch: it is known where it was measured, and the less the
farther away. `h` has a prior that is flat in its logarithm, and what was measured weighs each of a grid of values; what
is predicted is the mixture of theirs. Between two points that is Brownian interpolation of what the law leaves over: no
matrix.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from statistics import NormalDist

from pytest_slmperf.core.metrics import Metric

WANDER_SD = 0.08
"""How far a curve strays from its law over an octave of the batch, before its own points say so: vLLM's on an H100
strayed by 2 to 5 %, and those of two CPU cores, from one kernel to the next, by 60 % once."""
WANDER_WEIGHT = 4
"""So many octaves that were measured that assumption weighs."""
STEPS_PER_OCTAVE = 2
"""Of the grid of h."""
BEYOND_OCTAVES = 3
"""The grid goes beyond the smallest and the largest batch by so much."""
OWN_SHARE = 0.5
"""Of the prior of h that is flat; the rest is what a kindred series says."""
NEGLIGIBLE = 1e-4
"""A value of h with less weight is left out."""
_NORMAL = NormalDist()


class Law(StrEnum):
    """How a metric goes with the batch."""

    SATURATES = "saturates"
    FALLS = "falls"
    """As the inverse of what saturates."""
    RISES = "rises"

    def log(self, batch: float, half: float) -> float:
        """The logarithm of the law at a batch, but for its factor."""
        if self is Law.RISES:
            return math.log(batch + half)
        saturated = math.log(batch / (batch + half))
        return saturated if self is Law.SATURATES else -saturated


def law_of(meaning: Metric) -> Law:
    """Throughput saturates; joules of each token or request fall; latency, memory and power rise."""
    if meaning.higher_is_better:
        return Law.SATURATES
    return Law.FALLS if meaning.name.startswith("joules_per_") else Law.RISES


@dataclass(frozen=True, slots=True)
class Normal:
    """A normal distribution of a logarithm."""

    weight: float
    mean: float
    sd: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a metric's logarithm may be: a mixture of normal distributions whose weights sum to 1."""

    parts: tuple[Normal, ...]

    @property
    def mean(self) -> float:
        """Of the logarithm."""
        return sum(part.weight * part.mean for part in self.parts)

    def below(self, level: float, *, noise: float = 0.0) -> float:
        """The probability that it is below a level, both with a normal error of this standard deviation."""
        return sum(part.weight * _cdf((level - part.mean), math.hypot(part.sd, noise)) for part in self.parts)

    def improvement(self, level: float, sign: int, *, noise: float = 0.0) -> float:
        """How far it is expected to be beyond a level, upwards with sign 1; what falls short of it counts as 0."""
        return sum(part.weight * _excess(sign * (part.mean - level), math.hypot(part.sd, noise)) for part in self.parts)

    def shifted(self, by: float, sd: float) -> "Prediction":
        """The same for something whose logarithm differs from this by so much, and with that uncertainty."""
        return Prediction(tuple(Normal(one.weight, one.mean + by, math.hypot(one.sd, sd)) for one in self.parts))


def _cdf(distance: float, sd: float) -> float:
    return _NORMAL.cdf(distance / sd) if sd else float(distance > 0)


def _excess(distance: float, sd: float) -> float:
    if not sd:
        return max(0.0, distance)
    z = distance / sd
    return sd * (_NORMAL.pdf(z) + z * _NORMAL.cdf(z))


@dataclass(frozen=True, slots=True)
class Known:
    """A measured point."""

    batch: float
    log: float
    variance: float
    """Of the mean of its launches."""


@dataclass(frozen=True)
class Curve:
    """A metric of one series over the batch in each replica, of which one point at least was measured."""

    law: Law
    known: tuple[Known, ...]
    """By batch."""
    halves: Mapping[float, float]
    """The weight of each value of h."""
    wander: float
    """Variance of what the law leaves over, per octave."""

    def at(self, batch: float) -> Prediction:
        """What the metric may be at this batch."""
        return Prediction(tuple(Normal(weight, *self._given(half, batch)) for half, weight in self._likely.items()))

    @cached_property
    def _likely(self) -> Mapping[float, float]:
        """The values of h that count, with weights that sum to 1."""
        likely = {half: weight for half, weight in self.halves.items() if weight > NEGLIGIBLE}
        total = sum(likely.values())
        return {half: weight / total for half, weight in likely.items()}

    def _given(self, half: float, batch: float) -> tuple[float, float]:
        """Mean and standard deviation where h is this."""
        law, known = self.law, self.known
        left = max((one for one in known if one.batch <= batch), key=lambda one: one.batch, default=None)
        right = min((one for one in known if one.batch >= batch), key=lambda one: one.batch, default=None)
        ends = [(one, one.log - law.log(one.batch, half)) for one in (left, right) if one]
        (first, over), (last, over_last) = ends[0], ends[-1]
        octaves = math.log2(last.batch / first.batch)
        if octaves:
            share = math.log2(batch / first.batch) / octaves
            over = (1 - share) * over + share * over_last
            variance = (1 - share) ** 2 * first.variance + share**2 * last.variance
            variance += self.wander * octaves * share * (1 - share)
        else:
            variance = first.variance + self.wander * abs(math.log2(batch / first.batch))
        return law.log(batch, half) + over, math.sqrt(variance)


def fitted(law: Law, known: Sequence[Known], batches: Sequence[float], kin: Mapping[float, float] | None) -> Curve:
    """The curve through these points; `batches` are all that may be asked for, and `kin` the weights of h of a kindred
    series over the same batches.
    """
    points = tuple(sorted(known, key=lambda one: one.batch))
    halves = _halves(batches)
    prior = {
        half: OWN_SHARE / len(halves) + (1 - OWN_SHARE) * (kin or {}).get(half, 1 / len(halves)) for half in halves
    }
    wander = WANDER_SD**2
    weights = _weights(law, points, prior, wander)
    likeliest = max(weights, key=weights.__getitem__)
    strays = [
        (step**2, octaves + (one.variance + other.variance) / wander)
        for one, other in pairwise(points)
        for step, octaves in [_left_over(law, likeliest, one, other)]
    ]
    if strays:
        seen = sum(square / octaves for square, octaves in strays)
        wander *= (WANDER_WEIGHT + seen / wander) / (WANDER_WEIGHT + len(strays))
        weights = _weights(law, points, prior, wander)
    return Curve(law, points, weights, wander)


def _halves(batches: Sequence[float]) -> tuple[float, ...]:
    low = math.floor(math.log2(min(batches))) - BEYOND_OCTAVES
    high = math.ceil(math.log2(max(batches))) + BEYOND_OCTAVES
    return tuple(2 ** (low + step / STEPS_PER_OCTAVE) for step in range(STEPS_PER_OCTAVE * (high - low) + 1))


def _weights(law: Law, points: Sequence[Known], prior: Mapping[float, float], wander: float) -> dict[float, float]:
    """Of each value of h, by the steps that it leaves over from point to point."""
    logs = {}
    for half, weight in prior.items():
        logs[half] = math.log(weight)
        for one, other in pairwise(points):
            step, octaves = _left_over(law, half, one, other)
            variance = wander * octaves + one.variance + other.variance
            logs[half] -= (step**2 / variance + math.log(variance)) / 2
    largest = max(logs.values())
    raw = {half: math.exp(log - largest) for half, log in logs.items()}
    total = sum(raw.values())
    return {half: weight / total for half, weight in raw.items()}


def _left_over(law: Law, half: float, one: Known, other: Known) -> tuple[float, float]:
    """By how much what the law leaves over changes from one point to the next, and the octaves between them."""
    of_law = law.log(other.batch, half) - law.log(one.batch, half)
    return other.log - one.log - of_law, math.log2(other.batch / one.batch)
