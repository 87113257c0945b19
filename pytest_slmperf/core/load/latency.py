"""Latencies of requests: from the times of their tokens to quantiles.

All requests of a static batch are sent when the batch starts, so that is what TTFT and E2EL count from. They come from
observed rounds alone: watching each token costs throughput, so a plain round is faster than these figures say, and
they are comparable with figures that were measured the same way only. Requests of a load with arrivals count from when
each was sent, and all of them are stamped as they stream.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_slmperf.core.engine import Served
from pytest_slmperf.core.load.traffic import Exchange
from pytest_slmperf.core.metrics import LATENCIES, at_quantile
from pytest_slmperf.core.units import NS_PER_MS


@dataclass(frozen=True, slots=True)
class Latencies:
    """What was seen of some requests: one value a request, and for the ITL one a gap; all in milliseconds."""

    requests: int
    ttft_ms: tuple[float, ...]
    tpot_ms: tuple[float, ...]
    """Of requests with two output tokens at least; others have none."""
    itl_ms: tuple[float, ...]
    """Gaps between tokens, or between parts of an answer where those hold several."""
    e2el_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer as it came."""

    sent_ns: int
    stamps: Sequence[int]
    """When each of its parts was there, one at least."""
    output_tokens: int

    @property
    def ttft_ms(self) -> float:
        """From sending to its first part."""
        return (self.stamps[0] - self.sent_ns) / NS_PER_MS

    @property
    def e2el_ms(self) -> float:
        """From sending to its last part, as in vLLM: what a server says after it is no output."""
        return (self.stamps[-1] - self.sent_ns) / NS_PER_MS

    @property
    def tpot_ms(self) -> float | None:
        """As in vLLM and MLPerf, by the tokens that the engine counted; None of a single token."""
        if self.output_tokens < 2:
            return None
        return (self.stamps[-1] - self.stamps[0]) / (self.output_tokens - 1) / NS_PER_MS


def answered_of(exchanges: Iterable[Exchange]) -> list[Answered]:
    """Every request of traffic that was answered, in their order."""
    return [
        Answered(one.sent_ns, one.chunk_ns, one.output_tokens) for one in exchanges if one.chunk_ns and not one.error
    ]


def latencies(batches: Iterable[Served]) -> Latencies:
    """The latencies of every request of the observed batches."""
    return latencies_of(
        [Answered(batch.started_ns, stamps, len(stamps)) for batch in batches for stamps in batch.token_ns or ()]
    )


def latencies_of(requests: Sequence[Answered]) -> Latencies:
    """The latencies of these requests."""
    gaps = ((after - before) / NS_PER_MS for one in requests for before, after in pairwise(one.stamps))
    return Latencies(
        len(requests),
        tuple(one.ttft_ms for one in requests),
        tuple(tpot for one in requests if (tpot := one.tpot_ms) is not None),
        tuple(gaps),
        tuple(one.e2el_ms for one in requests),
    )


def needed(quantile: float) -> int:
    """Values that a quantile needs, so that one of them lies beyond it: 100 for p99, 10 for p90, one for the median."""
    if quantile == 0.5:
        return 1
    return math.ceil(1 / min(quantile, 1 - quantile) - 1e-9)


def percentile(values: Sequence[float], quantile: float) -> float:
    """The quantile with linear interpolation between the two values around it, as numpy and vLLM have it."""
    ordered = sorted(values)
    place = quantile * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    share = place - below
    return ordered[below] * (1 - share) + ordered[above] * share


def interval(values: Sequence[float], quantile: float, *, level: float = 0.95) -> tuple[float, float] | None:
    """The narrowest pair of order statistics that holds the quantile with this confidence, its tails alike.

    Exact for independent values of any continuous distribution, by the binomial one of how many lie below the quantile
    (H. A. David, H. N. Nagaraja, Order Statistics, 7.1); each side errs with half of the rest at most. None where there
    are too few, see `bounding`. Of requests that queue behind each other it is narrower than the truth, so the gate
    compares launches and not this; it says what one run by itself can tell.
    """
    count, tail = len(values), (1 - level) / 2
    low = _below(count, quantile, tail)
    high = _below(count, 1 - quantile, tail)
    if not (low and high):
        return None
    ordered = sorted(values)
    return ordered[low - 1], ordered[count - high]


def bounding(quantile: float, *, level: float = 0.95) -> int:
    """Values of which the smallest and the largest bound a quantile with this confidence: 368 for p99, 6 for p50."""
    return math.ceil(math.log((1 - level) / 2) / math.log(max(quantile, 1 - quantile)) - 1e-9)


def _below(count: int, share: float, tail: float) -> int:
    """The largest r so that fewer than r of `count` draws, each a hit by `share`, have a probability of `tail` at most.

    0 where there is none.
    """
    reached, hits = 0.0, 0
    while hits < count:
        ways = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
        reached += math.exp(ways + hits * math.log(share) + (count - hits) * math.log1p(-share))
        if reached > tail:
            return hits
        hits += 1
    return count


def statistics(seen: Latencies, quantiles: Sequence[float]) -> tuple[dict[str, float], dict[str, str]]:
    """Each latency's quantiles by the metric's full name, and the reasons for those that can't be had.

    The median is always there.
    """
    values: dict[str, float] = {}
    unmeasured: dict[str, str] = {}
    sources: Mapping[str, tuple[float, ...]] = {name: getattr(seen, name) for name in LATENCIES}
    for name, source in sources.items():
        for quantile in dict.fromkeys((0.5, *quantiles)):
            full = at_quantile(LATENCIES[name], quantile).name
            reason = _missing(name, seen.requests, source, quantile)
            if reason:
                unmeasured[full] = reason
                continue
            value = percentile(source, quantile)
            if value > 0:
                values[full] = value
            else:
                unmeasured[full] = "the engine hands out several tokens at once, so their gaps read as zero"
    return values, unmeasured


def _missing(name: str, requests: int, source: Sequence[float], quantile: float) -> str:
    if not requests:
        return "no request was observed"
    if not source:
        return "no observed request has two output tokens"
    if len(source) < needed(quantile):
        unit = "gap" if name == "itl_ms" else "request"
        plural = "s" if len(source) > 1 else ""
        seen = f"{len(source)} {unit}{plural} observed"
        return f"{seen}, and this quantile needs {needed(quantile)}: declare it in percentiles=[…]"
    return ""
