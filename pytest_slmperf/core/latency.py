"""Latencies of observed requests: from token times to quantiles.

All requests of a static batch are sent when the batch starts, so that is what TTFT and E2EL count from. They come from
observed rounds alone: watching each token costs throughput, so a plain round is faster than these figures say, and
they are comparable with figures that were measured the same way only.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_slmperf.core.engine import Served
from pytest_slmperf.core.metrics import LATENCIES, at_quantile

NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True)
class Latencies:
    """What was seen of some requests: one value a request, and for the ITL one a gap; all in milliseconds."""

    requests: int
    ttft_ms: tuple[float, ...]
    tpot_ms: tuple[float, ...]
    """Of requests with two output tokens at least; others have none."""
    itl_ms: tuple[float, ...]
    e2el_ms: tuple[float, ...]


def latencies(batches: Iterable[Served]) -> Latencies:
    """The latencies of every request of the observed batches."""
    ttft: list[float] = []
    tpot: list[float] = []
    itl: list[float] = []
    e2el: list[float] = []
    for batch in batches:
        for stamps in batch.token_ns or ():
            first, last = stamps[0] - batch.started_ns, stamps[-1] - batch.started_ns
            ttft.append(first / NS_PER_MS)
            e2el.append(last / NS_PER_MS)
            if len(stamps) > 1:
                tpot.append((last - first) / (len(stamps) - 1) / NS_PER_MS)
                itl.extend((after - before) / NS_PER_MS for before, after in pairwise(stamps))
    return Latencies(len(ttft), tuple(ttft), tuple(tpot), tuple(itl), tuple(e2el))


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
