"""What the requests of a window come to: throughput, goodput, concurrency and latencies, by the metrics' names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pytest_slmperf.core.traffic import Arrivals, Traffic
from pytest_slmperf.core.window import Window
from pytest_slmperf.core.workload import Slo


@dataclass(frozen=True, slots=True)
class TrafficMetrics:
    """One round of a load with arrivals."""

    values: Mapping[str, float]
    unmeasured: Mapping[str, str]
    """Metrics without a value, each with its reason."""
    notes: tuple[str, ...] = ()
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Of latencies' quantiles: 95 % confidence intervals of order statistics."""


def traffic_metrics(
    traffic: Traffic, window: Window, arrivals: Arrivals, *, slo: Slo | None = None, quantiles: Sequence[float] = ()
) -> TrafficMetrics:
    """The metrics of the requests of a window, and reasons for those that can't be had."""
    raise NotImplementedError(traffic, window, arrivals, slo, quantiles)
