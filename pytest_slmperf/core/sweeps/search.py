"""A search for the highest rate, or concurrency, within an SLO: where it looks next, and what it has found.

Two ways were weighed. A run could look for places first, and then measure them as the cases of a sweep: nobody would
have declared those, a gate would have to know the baseline to collect its tests, and what moved out of the recorded
places could be told no better than as beyond them. So a search is one case, and each launch makes one: it comes to one
value, which is recorded, judged, confirmed and compared side by side as that of any metric is. A launch is the
replication that a gate's bounds rest on, where the share in time at one place of one short round is a noisy yes or no.
It costs no more: from the second launch on a search begins where the answer was, and takes two or three probes.

A probe is a load at one place. It meets where a share of the requests keeps every limit and they don't pile up. That no
place meets above one that misses is assumed, and not looked at. All probes send the same requests in the same pattern,
only faster or slower, so that two of them differ by the rate and by the engine's noise, and not by who came when.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_slmperf.core.errors import SuiteError

SHARE = 0.99
"""Of the requests that keep every limit, where nothing else is asked."""
WITHIN = 0.02
"""The gap between what meets and what misses, as a fraction, at which a search is over: of 5 % that may be lost, it
can't feign even half."""
WIDEST = 0.1
NARROWEST = 0.001
"""No engine repeats itself as closely, so that more halvings tell nothing."""
LEAST = 0.001
"""The least lowest place: of a request in a quarter of an hour no probe ends on the same day."""
DEEPEST = 0.1
"""So far below its lowest place a search goes on, as a fraction of it: a loss has to be measured to be judged."""
HALVINGS = 2
"""Of the way to an end of the search, before that itself is looked at: the answer may lie beyond it."""
FOUND: Mapping[str, str] = {"request_rate": "highest_request_rate", "concurrency": "highest_concurrency"}
"""What a search comes to, by what it varies."""
SHARE_KEY = "search.share"
"""Field of the key of a case that was searched, and of no other."""


@dataclass(frozen=True, slots=True)
class Search:
    """Instead of a list: the highest place from `low` to `high` at which a `share` of the requests keeps the Slo.

    It ends where what meets and what misses are `within` this fraction of each other.
    """

    low: float
    high: float
    share: float = SHARE
    within: float = WITHIN

    def __post_init__(self) -> None:
        numbers = (self.low, self.high, self.share, self.within)
        if any(isinstance(one, bool) or not isinstance(one, (int, float)) for one in numbers):
            raise SuiteError(f"{self}: it takes numbers")
        if not LEAST <= self.low < self.high < math.inf:
            raise SuiteError(f"{self}: it takes a lowest place of at least {LEAST:g}, and a highest above that")
        if not 0 < self.share < 1:
            raise SuiteError(f"{self}: a share of the requests lies above 0 and below 1")
        if not NARROWEST <= self.within <= WIDEST:
            raise SuiteError(f"{self}: within is a fraction from {NARROWEST:g} to {WIDEST:g}")

    @property
    def lowest(self) -> float:
        """Below which nothing is looked for."""
        return DEEPEST * self.low

    @property
    def most(self) -> int:
        """Probes at most: on the way to the two places around the answer, and between these."""
        halvings = math.ceil(math.log2(math.log(self.high / self.lowest) / math.log1p(self.within)))
        return 2 * max(1, halvings) + 2

    def may_miss(self, requests: int) -> int:
        """How many of so many may miss a limit."""
        return math.floor((1 - self.share) * requests + 1e-9)


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of one place."""

    place: float
    met: bool
    need: float | None = None
    """What the request on which the share hangs took of its limits: up to 1 where the place meets. None where that
    depends on how long one looks."""
    why: str = ""
    """Why it misses."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to: the place, or the reason why there is none."""

    place: float | None
    reason: str = ""
    note: str = ""
    """That the true one lies above the highest place."""


def next_place(
    search: Search, probes: Sequence[Probe], *, begin: float | None = None, counted: bool = False
) -> float | None:
    """Where to look next, or None where the search is over.

    Without a place to `begin` at it halves what is left, on a logarithmic scale. From one, it goes on in steps that
    treble until something meets and something misses, and then halves. `counted` places are whole numbers.
    """
    met, missed = _sides(probes)
    lowest = max(math.ceil(search.lowest), 1) if counted else search.lowest
    if met and missed:
        return _between(met.place, missed.place, search, counted=counted)
    step = (1 + search.within) ** (3 ** max(0, len(probes) - 1))
    if met:
        if met.place >= search.high:
            return None
        place = min(search.high, met.place * step) if begin else _towards(search.high, probes)
        return min(search.high, max(round(place), met.place + 1)) if counted else place
    if missed:
        if missed.place <= lowest:
            return None
        below = [one for one in probes if one.place < search.low]
        end = _towards(lowest, below, search.low) if missed.place <= search.low else _towards(search.low, probes)
        place = max(lowest, missed.place / step) if begin else end
        return max(lowest, min(round(place), missed.place - 1)) if counted else place
    place = min(search.high, max(lowest, begin or math.sqrt(search.low * search.high)))
    return round(place) if counted else place


def found(search: Search, probes: Sequence[Probe]) -> Found:
    """What the probes of a search that is over come to: the place at which the request on which the share hangs takes
    just its limits, on a straight line between the two places around it, both scales logarithmic; where the one that
    misses tells no such need, the one that meets.
    """
    met, missed = _sides(probes)
    if met is None:
        lowest = f"even {missed.place:.4g} misses: {missed.why}" if missed else "nothing was tried"
        return Found(None, reason=f"{lowest}; search lower than {search.low:g}")
    if missed is None:
        return Found(met.place, note=f"at least {met.place:g}, the highest of the search, still meets: search higher")
    if not met.need or not missed.need:
        return Found(met.place)
    below, above = math.log(met.need), math.log(missed.need)
    return Found(met.place * (missed.place / met.place) ** (-below / (above - below)))


def _sides(probes: Sequence[Probe]) -> tuple[Probe | None, Probe | None]:
    """The highest that meets, and the lowest that misses."""
    met = [one for one in probes if one.met]
    missed = [one for one in probes if not one.met]
    return max(met, key=_place, default=None), min(missed, key=_place, default=None)


def _place(one: Probe) -> float:
    return one.place


def _towards(end: float, tried: Sequence[Probe], start: float | None = None) -> float:
    """Half of the way to an end that nobody has looked at, and then to it; what was tried lies on this side."""
    if len(tried) >= HALVINGS:
        return end
    return math.sqrt(end * (tried[-1].place if tried or start is None else start))


def _between(met: float, missed: float, search: Search, *, counted: bool) -> float | None:
    if missed <= met * (1 + search.within) * (1 + 1e-9) or (counted and missed - met <= 1):
        return None
    middle = math.sqrt(met * missed)
    return min(max(round(middle), met + 1), missed - 1) if counted else middle
