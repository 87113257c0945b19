"""The highest rate within an SLO: up to which place of a sweep a stated share of the requests meets its limits.

That the 99th percentile of a latency keeps a limit is the same as that 99 % of the requests keep it, so one share asks
for both. Nothing is extrapolated: what the lowest place misses, or the highest still meets, is said as such.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from pytest_slmperf.core.curves.resampling import COVERAGE, ONE_DAY_SD, wider
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.gate import LIKELY, SURE, Look, margin_of, status_of
from pytest_slmperf.core.sample import NOT_IN_BOTH_ARMS, Measurement
from pytest_slmperf.core.sweeps.search import SHARE
from pytest_slmperf.core.sweeps.sweep import LARGEST_TOLERANCE
from pytest_slmperf.core.verdict import Status, Verdict, percent

GOODPUT_SHARE = "goodput_share"
"""What the highest rate is read from: the share of the requests that meet every limit of the sweep's Slo."""
TOLERANCE = 0.05
"""The fraction of the rate that may be lost, where nothing else is asked."""
RESAMPLES = 2000
"""Five of them lie beyond the bound that SURE asks for."""
UNITS = {
    "rate": "requests/s",
    "concurrency": "requests",
    "rate-each": "requests/s a replica",
    "concurrency-each": "requests a replica",
}


@dataclass(frozen=True)
class HighestRate:
    """The highest rate, or concurrency, at which a share of the requests meets the SLO, and what launches say of it."""

    share: float
    rate: float | None
    """Interpolated between two places of the sweep, or its highest place where `at_least`. None where even the lowest
    misses; `reason` says so."""
    at_least: bool
    """Whether the highest place of the sweep still meets it: the true one lies above."""
    interval: tuple[float, float] | None
    """Covers 99 % of the rates of resampled launches; None where more of them have none."""
    places: tuple[float, ...]
    """Of the sweep."""
    draws: tuple[float, ...] = field(default=(), repr=False)
    """The rates of resampled launches, no higher than the highest place; 0 where even the lowest misses."""
    launches: int = 0
    """The fewest of any place."""
    reason: str = ""
    case: str = ""
    label: str = "rate"
    """What the places are called by."""
    measured: bool = field(default=False, compare=False)
    """Whether it is what a run measured, and no stored one that the run can be compared with."""

    def __str__(self) -> str:
        wanted = f"for {_percent(self.share)} of the requests within the SLO"
        return f"{self.place} {wanted}: {self.reason}" if self.reason else f"{self.place} {wanted}"

    @property
    def place(self) -> str:
        """`rate 12.3 (11.9…12.6)`, `rate at least 16 (15.2…16)`, or `no rate`."""
        if self.rate is None:
            return f"no {self.label}"
        between = f"{self.interval[0]:.4g}…{self.interval[1]:.4g}" if self.interval else "not bounded"
        return f"{self.label} {'at least ' if self.at_least else ''}{self.rate:.4g} ({between})"

    def unchanged_from(
        self, baseline: "HighestRate", *, tolerance: float = TOLERANCE, confirming: bool = False
    ) -> Verdict:
        """Whether no more than `tolerance` of the rate is lost, by the gate's rule on resampled launches of both sides.

        What lies above the sweep counts as its highest place: no more was seen, and no more is promised. Where the
        baseline has no rate there is nothing to lose, so that only a gain is told. Rates for other shares or of other
        sweeps are `incomparable`. `confirming` asks for what is likely alone, of launches that confirm what was sure.
        """
        refuse_wrong_tolerance(tolerance)
        status, reason, way_out = self._compared(baseline, tolerance, SURE if not confirming else LIKELY)
        return Verdict(
            status,
            "highest_rate",
            UNITS.get(self.label, ""),
            higher_is_better=True,
            case=self.case,
            reason=reason,
            way_out=way_out,
            measured=self.place,
        )

    def _compared(self, baseline: "HighestRate", tolerance: float, sure: float) -> tuple[Status, str, str]:
        if self.share != baseline.share:
            shares = f"{_percent(baseline.share)} → {_percent(self.share)}"
            return Status.INCOMPARABLE, f"two shares: {shares}", "Compare rates for one share."
        if self.places != baseline.places:
            was, now = (", ".join(map(str, one.places)) for one in (baseline, self))
            return Status.INCOMPARABLE, f"two sweeps: {was} → {now}", f"Sweep {self.label} {was}."
        both = f"{baseline.place} → {self}"
        if not (self.draws and baseline.draws):
            return Status.INCONCLUSIVE, f"nothing to compare: {both}", ""
        before = random.Random(0).sample(baseline.draws, len(baseline.draws))  # else a seed's draws would pair up
        losses = sorted(map(_loss, before, self.draws))
        estimate, few = _loss(baseline.rate or 0, self.rate or 0), min(baseline.launches, self.launches)
        surely, likely = (_widened(_bounds(losses, level), estimate, level, few) for level in (sure, LIKELY))
        look = Look(estimate, surely, likely, sure)
        status = status_of(look, margin_of(tolerance, higher_is_better=True))
        if baseline.rate is None and status is not Status.IMPROVED:
            return Status.INCONCLUSIVE, f"nothing to compare: {both}", f"Sweep a lower {self.label}, and record it."
        change = "" if math.isinf(look.estimate) else f"{math.expm1(-look.estimate):+.1%}, "
        said = f"{both}; {change}tolerance {percent(tolerance)}"
        if status is not Status.INCONCLUSIVE:
            return status, said, ""
        return status, said, f"What decides it: more launches, or a sweep with a closer {self.label} on either side."


@dataclass(frozen=True)
class SharesInTime:
    """How large a share of the requests met the SLO, launch by launch, at each place of one model's sweep."""

    launches: Mapping[float, Sequence[float]]
    """0 for a launch whose requests piled up, or of which none was in time."""
    case: str = ""
    label: str = "rate"

    def highest(self, share: float = SHARE, *, seed: int = 0, resamples: int = RESAMPLES) -> HighestRate:
        """The highest rate of the median launches, and of `resamples` curves of resampled ones.

        One launch measured every place, so launches are drawn whole where all have equally many. What a day adds
        (ONE_DAY_SD) is drawn once for a curve: a machine that is slower by so much serves so much lower a rate.
        Raises SuiteError for what is no share.
        """
        if not 0 < share <= 1:
            raise SuiteError(f"share={share!r}; a share of the requests lies above 0, and is at most 1")
        places = tuple(sorted(place for place, values in self.launches.items() if values))
        if not places:
            reason = "nothing was measured"
            return HighestRate(
                share, None, at_least=False, interval=None, places=(), reason=reason, case=self.case, label=self.label
            )
        columns = [self.launches[place] for place in places]
        found = crossing(places, [median(column) for column in columns], share)
        draw, top = random.Random(seed), places[-1]
        drawn = tuple(
            min(top, crossing(places, _resampled(columns, draw), share) * math.exp(draw.gauss(0, ONE_DAY_SD)))
            for _ in range(resamples)
        )
        return HighestRate(
            share,
            rate=min(found, top) if found else None,
            at_least=found == math.inf,
            interval=_covering(drawn) if found else None,
            places=places,
            draws=drawn,
            launches=min(map(len, columns)),
            reason=_why(found, places, self.label),
            case=self.case,
            label=self.label,
        )


def crossing(places: Sequence[float], shares: Sequence[float], share: float) -> float:
    """Where the shares first fall below `share`; 0 where even the first is below, infinite where none is.

    The first miss decides, whatever a higher place does: a promise of a rate is one of all rates below it. Between the
    two places around it the shares are taken as a straight line. The share in time of a queue bends downward as the
    load grows (1 - exp(-(μ-λ)t) in an M/M/1 queue whose rate is μ and whose limit is t), so it lies above that line:
    the rate is told too low rather than too high, and the more so the further apart the places are. Past the queue's
    capacity the share is 0 and bends no more; there it may be too high, by (1 - share) of the two places' distance.
    """
    missed = next((at for at, found in enumerate(shares) if found < share), None)
    if missed is None:
        return math.inf
    if missed == 0:
        return 0.0
    below, above = shares[missed - 1], shares[missed]
    return places[missed - 1] + (below - share) / (below - above) * (places[missed] - places[missed - 1])


def in_time(measurement: Measurement) -> tuple[float, ...]:
    """The share in time of each launch. One that has throughput and no share met the SLO with none, or piled up: 0.

    A launch is one number, the median of its rounds.
    """
    launches = max((len(sample.launches) for sample in measurement.samples.values()), default=0)
    sample = measurement.samples.get(GOODPUT_SHARE)
    told = [median(rounds) for rounds in sample.launches] if sample else []
    return (*told, *[0.0] * (launches - len(told)))


def untold(measurement: Measurement) -> str:
    """Why the launches of an arm that was measured beside another don't tell all its shares; empty where they do.

    A pair of launches of which one tells none is left out of both arms, so nobody knows which of them missed.
    """
    sample = measurement.samples.get(GOODPUT_SHARE)
    launches = max((len(one.launches) for one in measurement.samples.values()), default=0)
    lacking = launches - (len(sample.launches) if sample else 0)
    if not lacking or (sample is None and measurement.unmeasured.get(GOODPUT_SHARE) != NOT_IN_BOTH_ARMS):
        return ""
    return f"{lacking} of {launches} pairs of launches have no {GOODPUT_SHARE} in one of the arms"


def refuse_wrong_tolerance(tolerance: float) -> None:
    """Raises SuiteError for what is no tolerance of a gate."""
    if not 0 < tolerance <= LARGEST_TOLERANCE:
        raise SuiteError(f"tolerance={tolerance!r}; it is a fraction above 0, up to {LARGEST_TOLERANCE}")


def _why(found: float, places: Sequence[float], label: str) -> str:
    if found == math.inf:
        return f"{places[-1]}, the highest of the sweep, still meets it: sweep a higher {label}"
    return "" if found else f"even {places[0]}, the lowest of the sweep, misses it: sweep a lower {label}"


def _resampled(columns: Sequence[Sequence[float]], draw: random.Random) -> list[float]:
    """Medians of launches drawn with replacement."""
    counts = {len(column) for column in columns}
    whole = draw.choices(range(min(counts)), k=min(counts)) if len(counts) == 1 else None
    return [
        median([column[at] for at in whole] if whole else draw.choices(column, k=len(column))) for column in columns
    ]


def _covering(draws: Sequence[float]) -> tuple[float, float] | None:
    """The interval of the draws that leaves the same share out at either end; None where its lower end is no rate."""
    low, high = _bounds(sorted(draws), (1 - COVERAGE) / 2)
    return (low, high) if low > 0 else None


def _bounds(ordered: Sequence[float], level: float) -> tuple[float, float]:
    """One-sided bounds, each with this error level."""
    spare = math.floor(level * len(ordered))
    return ordered[spare], ordered[-1 - spare]


def _widened(bounds: tuple[float, float], estimate: float, level: float, launches: int) -> tuple[float, float]:
    """The bounds as far from the estimate as few launches ask for: what they are resampled to spreads too little.

    Of one launch nothing is bounded.
    """
    if launches < 2:
        return -math.inf, math.inf
    factor = wider(launches, level)
    if math.isinf(estimate):  # one of the sides has no rate: the distance from that is no number
        return bounds
    low, high = (estimate + factor * (bound - estimate) for bound in bounds)
    return low, high


def _loss(before: float, now: float) -> float:
    """How much lower a rate is, on the log scale: infinite where none is left, and nothing where there was none."""
    if now <= 0:
        return math.inf if before > 0 else 0.0
    return math.log(before / now) if before > 0 else -math.inf


def _percent(share: float) -> str:
    return f"{share * 100:.6g} %"
