"""The window of a load with arrivals: the stretch of steady state over which its requests and tokens are counted.

It is found and not assumed. First what is no steady state by its cause is left out: a closed loop's places before each
was taken a second time, an open loop's ramp and the life of its first requests, for as long as the system fills, and
the drain of both. Then, where there are requests enough, the truncation rule MSER-5 looks whether what is left still
begins with a transient (K. P. White, An effective truncation heuristic for bias reduction in simulation output,
Simulation 69(6), 1997; in batches of five as by K. P. White, M. J. Cobb and S. C. Spratt, Winter Simulation Conference
2000): of all places to cut, it takes the one that leaves the mean of the rest with the smallest standard error, and
where that is in the second half there is no steady state yet.

On a series without any transient that rule cuts, too, at whatever excursion there is: it takes a tenth off the mean
number in an M/M/1 queue at 70 %. So a cut needs evidence: what is cut must lie three standard errors from the rest,
and in an open loop, which begins empty, below it.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean, linear_regression, stdev, variance

from pytest_slmperf.core.load.concurrency import Steps, in_system
from pytest_slmperf.core.load.traffic import FIRST, Arrivals, Exchange, Traffic
from pytest_slmperf.core.units import NS_PER_S

BATCH = 5
"""Requests of a slice of time, on average: MSER-5's batch."""
FEWEST_SLICES, MOST_SLICES = 10, 100
"""Of fewer slices no transient is told from chance."""
LEFT = 5
"""Slices that a cut leaves at least: of fewer, a small spread is chance."""
EVIDENT = 3.0
"""Standard errors from which a difference is no chance."""
LIKELY = 2.0
"""The same for growth that is seen otherwise already."""
DRIFTING = 4.0
"""The same for a line's slope through ten points: by chance once in 250."""
MATERIAL = 0.01
"""Share that a gate may care about."""
GROWTH_SLICES = 20
ARITHMETIC = 1e-9
"""What differs by less, as a share, is the same."""


@dataclass(frozen=True, slots=True)
class Window:
    """From its first instant to before its last."""

    from_ns: int
    to_ns: int
    saturated: str = ""
    """Why its latencies depend on how long one looks; an empty text where they don't."""

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.to_ns - self.from_ns) / NS_PER_S


@dataclass(frozen=True, slots=True)
class NoWindow:
    """Why there is none."""

    reason: str


def find_window(traffic: Traffic, arrivals: Arrivals, *, least_s: float) -> Window | NoWindow:
    """The steady state of what was sent, or why none of `least_s` seconds was found.

    Of a recorded trace it is all from when the system has filled: its rate changes, and so does everything else.
    """
    if not traffic.exchanges:
        return NoWindow("nothing was sent")
    found = _open(traffic, arrivals) if arrivals.due_s else _closed(traffic, arrivals)
    if isinstance(found, Window) and (found.seconds < least_s or not found.seconds):
        return NoWindow(f"its steady state lasted {found.seconds:.3g} s, and {least_s:.3g} s is the least")
    return found


def _closed(traffic: Traffic, arrivals: Arrivals) -> Window | NoWindow:
    """From one sending to another: where requests march in step, whole turns of them are counted.

    How many are under way doesn't trend, since the loop holds it; so it is the rate of output that is looked at.
    """
    sent = sorted(traffic.exchanges, key=lambda one: one.sent_ns)
    first_gone_ns = max(one.ended_ns for one in sent[: arrivals.concurrency])
    sent_ns = [one.sent_ns for one in sent]
    begin = bisect_left(sent_ns, first_gone_ns)
    if begin >= len(sent_ns) or sent_ns[begin] == sent_ns[-1]:
        return NoWindow("nothing was sent after every place had been taken a second time")
    from_ns, to_ns = sent_ns[begin], sent_ns[-1]
    cuts = _cuts(from_ns, to_ns, len(sent_ns) - begin)
    cut = _steady_output(traffic.exchanges, cuts)
    if cut is None:
        return NoWindow(f"its rate of output still changes after {(to_ns - from_ns) / NS_PER_S:.3g} s")
    return Window(sent_ns[bisect_left(sent_ns, cuts[cut])], to_ns)


def _open(traffic: Traffic, arrivals: Arrivals) -> Window | NoWindow:
    """Up to the last arrival: what was offered until then is what was meant to be, and then it drains."""
    arrived = sorted(traffic.exchanges, key=lambda one: one.arrived_ns)
    full_ns = traffic.began_ns + round(arrivals.ramp_s * NS_PER_S)
    first = [one for one in arrived if one.arrived_ns >= full_ns][:FIRST]
    filling_ns = max((one.ended_ns - one.arrived_ns for one in first), default=0)
    from_ns, to_ns = full_ns + filling_ns, arrived[-1].arrived_ns
    if arrivals.recorded and from_ns < to_ns:
        return Window(from_ns, to_ns)
    if from_ns > (full_ns + to_ns) / 2:
        return _never_filled(traffic.exchanges, full_ns, to_ns, filling_ns)
    counted = [one for one in arrived if from_ns <= one.arrived_ns < to_ns]
    return _steady(traffic.exchanges, counted, _cuts(from_ns, to_ns, len(counted)))


def _never_filled(exchanges: Sequence[Exchange], from_ns: int, to_ns: int, filling_ns: int) -> Window | NoWindow:
    """Where the first requests last so long as others arrive, either the system fills still, and its output grows with
    it, or the engine is at its limit, and its output is as much as it can be.
    """
    arrived = sum(from_ns <= one.arrived_ns < to_ns for one in exchanges)
    steps, cuts = in_system(exchanges), _cuts(from_ns, max(from_ns, to_ns), arrived)
    if len(cuts) > FEWEST_SLICES and _growth(steps, from_ns, to_ns) > EVIDENT:
        full = _steady_output(exchanges, cuts)
        if full is not None:
            return Window(cuts[full], to_ns, f"saturated: {_piling_up(exchanges, steps, from_ns, to_ns)}")
    arriving_s = max(0, to_ns - from_ns) / NS_PER_S
    return NoWindow(
        f"its first requests took up to {filling_ns / NS_PER_S:.3g} s, and all arrived in {arriving_s:.3g} s"
    )


def _steady(exchanges: Sequence[Exchange], counted: Sequence[Exchange], cuts: Sequence[int]) -> Window | NoWindow:
    """From where on the number in the system doesn't grow any more.

    Where it goes on to, and so does the time to the first token, the engine is at its limit, or so near to it that it
    takes longer to find out: its output is steady then, and how long requests take is not.
    """
    steps, to_ns = in_system(exchanges), cuts[-1]
    cut = _transient([steps.mean(*between) for between in pairwise(cuts)], only_up=True)
    waits = [_first_part_ns(one) - one.arrived_ns for one in counted]
    trends = cut is None and _transient([fmean(some) for some in _batches(waits)], only_up=True) is None
    steady_ns = cuts[cut or 0]
    growth = _growth(steps, steady_ns, to_ns)
    if growth <= EVIDENT and not trends:
        return Window(steady_ns, to_ns)
    full = _steady_output(exchanges, cuts)
    if full is None:
        return NoWindow("the number of requests in the system grows, and its rate of output still changes")
    said = _piling_up(exchanges, steps, steady_ns, to_ns)
    return Window(cuts[full], to_ns, f"{'saturated' if growth > LIKELY else 'close to saturation'}: {said}")


def _piling_up(exchanges: Sequence[Exchange], steps: Steps, from_ns: int, to_ns: int) -> str:
    seconds = (to_ns - from_ns) / NS_PER_S
    offered = sum(from_ns <= one.arrived_ns < to_ns for one in exchanges) / seconds
    achieved = sum(from_ns <= one.ended_ns < to_ns for one in exchanges) / seconds
    return (
        f"{offered:.3g} requests a second arrived and {achieved:.3g} ended, so that the number in the system grew "
        f"from {steps.at(from_ns)} to {steps.at(to_ns - 1)} in {seconds:.3g} s"
    )


def _first_part_ns(one: Exchange) -> int:
    return one.chunk_ns[0] if one.chunk_ns else one.ended_ns


def _cuts(from_ns: int, to_ns: int, requests: int) -> list[int]:
    """Slices' ends: so many slices that BATCH requests fall into each, on average."""
    slices = min(max(requests // BATCH, 1), MOST_SLICES)
    return [from_ns + (to_ns - from_ns) * place // slices for place in range(slices + 1)]


def _batches(values: Sequence[float]) -> list[Sequence[float]]:
    """Batches of BATCH, without the rest."""
    return [values[place : place + BATCH] for place in range(0, len(values) - BATCH + 1, BATCH)]


def _steady_output(exchanges: Sequence[Exchange], cuts: Sequence[int]) -> int | None:
    """The slice from which on the rate of output is steady, or None where it goes on changing."""
    rates = _rates(exchanges, cuts)
    cut = _transient(rates) or 0  # a few quiet slices at its end are no steady state that it was on the way to
    return None if _drifts(rates[cut:]) else cut


def _rates(exchanges: Sequence[Exchange], cuts: Sequence[int]) -> list[float]:
    """Output tokens per nanosecond, slice by slice."""
    came = sorted(part for one in exchanges for part in zip(one.chunk_ns, one.part_tokens, strict=True))
    until = [0, *accumulate(tokens for _, tokens in came)]
    done = [until[bisect_left(came, (cut, 0))] for cut in cuts]
    return [
        (after - before) / (to - at) for (before, after), (at, to) in zip(pairwise(done), pairwise(cuts), strict=True)
    ]


def _transient(series: Sequence[float], *, only_up: bool = False) -> int | None:
    """How many slices to cut off its beginning, or None where it has no steady state yet. See above.

    `only_up`: a transient can only come from below.
    """
    if len(series) < FEWEST_SLICES:
        return 0
    best = min(range(len(series) - LEFT + 1), key=lambda cut: _squares(series[cut:]) / (len(series) - cut) ** 2)
    if best == 0:
        return 0
    difference = _difference(series[:best], series[best:])
    if abs(difference) < EVIDENT or (only_up and difference > 0):
        return 0
    return best if best <= len(series) // 2 else None


def _drifts(series: Sequence[float]) -> bool:
    """Whether a line through ten long slices of it has a slope: those depend on their neighbours hardly any more.

    A drift of less than MATERIAL from one end to the other is none, however clearly it is seen.
    """
    if len(series) < FEWEST_SLICES:
        return False
    long = [fmean(series[len(series) * place // 10 : len(series) * (place + 1) // 10]) for place in range(10)]
    places = range(len(long))
    slope, start = linear_regression(places, long)
    residues = sum([(start + slope * place - value) ** 2 for place, value in zip(places, long, strict=True)])
    error = math.sqrt(residues / (len(long) - 2) / _squares(places))
    return abs(slope) > max(DRIFTING * error, MATERIAL / len(long) * fmean(long))


def _difference(cut: Sequence[float], rest: Sequence[float]) -> float:
    """By how many standard errors the mean of what is cut lies above the rest's, whose neighbours may be alike."""
    centre = fmean(rest)
    squares = _squares(rest)
    gap = fmean(cut) - centre
    if not squares:
        return math.copysign(math.inf, gap) if abs(gap) > ARITHMETIC * abs(centre) else 0.0
    alike = sum([(one - centre) * (other - centre) for one, other in pairwise(rest)]) / squares
    alike = min(max(alike, 0.0), 0.95)
    worth = (1 + alike) / (1 - alike)
    return gap / math.sqrt(variance(rest) * worth * (1 / len(cut) + 1 / len(rest)))


def _squares(values: Sequence[float]) -> float:
    centre = fmean(values)
    squares = sum([(value - centre) ** 2 for value in values])
    return squares if squares > len(values) * (ARITHMETIC * centre) ** 2 else 0.0


def _growth(steps: Steps, from_ns: int, to_ns: int) -> float:
    """By how many standard errors the number grows, as if it were a walk whose steps are independent.

    A queue that is not stable is such a walk, and one that is comes back: its growth is less than a walk's would be.
    """
    cuts = [from_ns + (to_ns - from_ns) * place // GROWTH_SLICES for place in range(GROWTH_SLICES + 1)]
    changes = [steps.at(after) - steps.at(before) for before, after in pairwise(cuts)]
    grown, spread = fmean(changes), stdev(changes)
    if not spread:
        return math.inf if grown > 0 else 0.0
    return grown * math.sqrt(GROWTH_SLICES) / spread
