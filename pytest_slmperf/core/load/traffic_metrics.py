"""What the requests of a window come to: throughput, goodput, concurrency and latencies, by the metrics' names.

Tokens count when their part was there, prompts with their request's first part, and requests when they end, each within
the window. Latencies and goodput are of the requests that were sent within it, all of which were waited for: whoever
counted those that end in it would leave the slowest out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from pytest_slmperf.core.load.concurrency import under_way
from pytest_slmperf.core.load.latency import Latencies, answered_of, bounding, interval, latencies_of, statistics
from pytest_slmperf.core.load.replica_metrics import of_traffic
from pytest_slmperf.core.load.traffic import COUNTERS, RUNNING, WAITING, Arrivals, Exchange, Traffic
from pytest_slmperf.core.load.window import Window
from pytest_slmperf.core.metrics import GOODPUT, LATENCIES, at_quantile
from pytest_slmperf.core.slo import Slo

SEVERAL = 1.01
"""Tokens a part, from which gaps are said to be of parts."""
LOOKS = 3
"""At an engine's own numbers, at least, that make a mean."""
PER_REQUEST = ("ttft_ms", "tpot_ms", "e2el_ms")
"""Latencies with one value a request: gaps of one request are no independent values."""
UNSTEADY = (*GOODPUT, "mean_concurrency", "peak_concurrency", "mean_running_batch", "mean_queue")
"""What depends on how long one looks where requests pile up, beside all latencies."""


@dataclass(frozen=True, slots=True)
class TrafficMetrics:
    """One round of a load with arrivals."""

    values: Mapping[str, float]
    unmeasured: Mapping[str, str]
    """Metrics without a value, each with its reason."""
    notes: tuple[str, ...] = ()
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Of the quantiles of latencies with one value a request: what this round alone can tell of them, with 95 %
    confidence. For who looks at a single round; a gate compares launches."""


def traffic_metrics(
    traffic: Traffic, window: Window, arrivals: Arrivals, *, slo: Slo | None = None, quantiles: Sequence[float] = ()
) -> TrafficMetrics:
    """The metrics of the requests of a window, and reasons for those that can't be had; goodput only of an `slo`.

    The offered rate is that of the requests that arrived in the window, so `achieved_rate_share` may be a little above
    1 where some ended that had arrived before it.
    """
    sent = [one for one in traffic.exchanges if window.from_ns <= one.sent_ns < window.to_ns]
    seen = latencies_of(answered_of(sent))
    values: dict[str, float] = {}
    unmeasured: dict[str, str] = {}
    for some, reasons in (
        _throughput(traffic.exchanges, window),
        _rate(traffic.exchanges, window, arrivals),
        _goodput(sent, window, slo),
        _concurrency(traffic, window),
        _own_numbers(traffic, window),
        statistics(seen, quantiles),
    ):
        values.update(some)
        unmeasured.update(reasons)
    of_replicas, behind = of_traffic(traffic.exchanges, window)
    values.update(of_replicas)
    if window.saturated:
        asked = [at_quantile(latency, one).name for latency in LATENCIES.values() for one in (0.5, *quantiles)]
        unsteady = [name for name in (*UNSTEADY, *asked) if name in values or (slo and name in GOODPUT)]
        values = {name: value for name, value in values.items() if name not in unsteady}
        unmeasured |= dict.fromkeys(unsteady, f"{window.saturated}: it depends on how long one looks")
    intervals = _intervals(seen, quantiles, values)
    notes = (*_notes(sent, window), *behind, *_unbounded(values, intervals, quantiles))
    return TrafficMetrics(values, unmeasured, notes, intervals)


_Found = tuple[dict[str, float], dict[str, str]]
"""Values, and reasons of those that can't be had."""


def _positive(values: Mapping[str, float], reason: str) -> _Found:
    """Nothing that is measured is zero: what is has no ratio to a baseline, and so it has the reason in its place."""
    kept = {name: value for name, value in values.items() if value > 0}
    return kept, dict.fromkeys(values.keys() - kept.keys(), reason)


def _throughput(exchanges: Sequence[Exchange], window: Window) -> _Found:
    output = sum(
        tokens
        for one in exchanges
        for at_ns, tokens in zip(one.chunk_ns, one.part_tokens, strict=True)
        if window.from_ns <= at_ns < window.to_ns
    )
    prompt = sum(
        one.prompt_tokens for one in exchanges if one.chunk_ns and window.from_ns <= one.chunk_ns[0] < window.to_ns
    )
    done = {
        "output_throughput": output / window.seconds,
        "total_token_throughput": (output + prompt) / window.seconds,
        "request_throughput": _ended(exchanges, window) / window.seconds,
    }
    return _positive(done, "none came within the window")


def _ended(exchanges: Sequence[Exchange], window: Window) -> int:
    return sum(window.from_ns <= one.ended_ns < window.to_ns and not one.error for one in exchanges)


def _rate(exchanges: Sequence[Exchange], window: Window, arrivals: Arrivals) -> _Found:
    if not arrivals.due_s:
        return {}, {"achieved_rate_share": "a closed loop offers no rate: it sends when an answer has come"}
    offered = sum(window.from_ns <= one.arrived_ns < window.to_ns for one in exchanges)
    share = _ended(exchanges, window) / offered if offered else 0.0
    return _positive({"achieved_rate_share": share}, "no request arrived, or none ended, within the window")


def _goodput(sent: Sequence[Exchange], window: Window, slo: Slo | None) -> _Found:
    if slo is None:  # nobody asked which of them are good
        return {}, {}
    if not sent:
        return {}, dict.fromkeys(GOODPUT, "no request was sent within the window")
    good = sum(map(slo.met_by, answered_of(sent)))
    return _positive(
        {"request_goodput": good / window.seconds, "goodput_share": good / len(sent)},
        f"none of {len(sent)} requests met every limit of its {slo}",
    )


def _concurrency(traffic: Traffic, window: Window) -> _Found:
    steps = under_way(traffic.exchanges)
    return _positive(
        {
            "mean_concurrency": steps.mean(window.from_ns, window.to_ns),
            "peak_concurrency": float(steps.peak(window.from_ns, window.to_ns)),
        },
        "nothing was under way within the window",
    )


def _own_numbers(traffic: Traffic, window: Window) -> _Found:
    values: dict[str, float] = {}
    unmeasured: dict[str, str] = {}
    within = [look for look in traffic.looks if window.from_ns <= look.at_ns < window.to_ns]
    for name, counter in (("mean_running_batch", RUNNING), ("mean_queue", WAITING)):
        told = [look.counters[counter] for look in within if counter in look.counters]
        if not any(counter in look.counters for look in traffic.looks):
            unmeasured[name] = f"the engine doesn't tell: {COUNTERS[counter]}"
        elif len(told) < LOOKS:
            unmeasured[name] = f"fewer than {LOOKS} looks at it fell into the window"
        elif not any(told):
            unmeasured[name] = "it was 0 at every look, which has no ratio to anything"
        else:
            values[name] = fmean(told)
    return values, unmeasured


def _notes(sent: Sequence[Exchange], window: Window) -> list[str]:
    """Without numbers that differ from launch to launch: the same is said once."""
    notes = []
    parts = sum(len(one.chunk_ns) for one in sent)
    if parts and sum(one.output_tokens for one in sent) / parts > SEVERAL:
        notes.append("its answers come in parts of several tokens: itl_ms is between parts, and tpot_ms of each token")
    if any(one.queued_ns > 0 for one in sent):
        notes.append("requests waited for a place below max_concurrency: that is no part of their latencies")
    if window.saturated:
        notes.append("requests pile up: throughput is what the engine can do, and latencies would have no end")
    return notes


def _unbounded(values: Mapping[str, float], intervals: Mapping[str, object], quantiles: Sequence[float]) -> list[str]:
    """Quantiles that are told, and that a single round can't be sure of."""
    named = {at_quantile(LATENCIES["e2el_ms"], one).name: one for one in quantiles}
    return [
        f"{name.partition('_')[0]}: a round has too few requests to bound it by itself ({bounding(quantile)} would "
        "do), so it takes several launches"
        for name, quantile in named.items()
        if name in values and name not in intervals
    ]


def _intervals(
    seen: Latencies, quantiles: Sequence[float], values: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for name in PER_REQUEST:
        for quantile in dict.fromkeys((0.5, *quantiles)):
            full = at_quantile(LATENCIES[name], quantile).name
            bounds = interval(getattr(seen, name), quantile) if full in values else None
            if bounds:
                found[full] = bounds
    return found
