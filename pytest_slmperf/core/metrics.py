"""The metrics: name, unit, direction and meaning, as values.

Names are the field's. A latency is a distribution over requests, so its stored names carry the statistic:
`median_ttft_ms`, `p99_ttft_ms`; the bare `ttft_ms` means the median.
"""

import re
from dataclasses import dataclass, replace

from pytest_slmperf.core.errors import SuiteError


@dataclass(frozen=True, slots=True)
class Metric:
    """One quantity that can be measured, plotted and gated."""

    name: str
    unit: str
    higher_is_better: bool
    meaning: str
    quantile: float | None = None
    """Quantile over a launch's requests (0.5 for a median), or None for what is no distribution."""

    @property
    def direction(self) -> str:
        """Which way is better, in words."""
        return "higher is better" if self.higher_is_better else "lower is better"


UP, DOWN = True, False
"""Which way is better."""

SCALARS = {
    metric.name: metric
    for metric in (
        Metric("output_throughput", "tok/s", UP, "generated tokens per second of a round"),
        Metric("total_token_throughput", "tok/s", UP, "prompt and generated tokens per second of a round"),
        Metric("request_throughput", "req/s", UP, "finished requests per second of a round"),
        Metric("request_goodput", "req/s", UP, "finished requests per second that met every limit of the sweep's Slo"),
        Metric("goodput_share", "share", UP, "of the requests of a window that met every limit of the sweep's Slo"),
        Metric("highest_request_rate", "req/s", UP, "found by a search: up to it a share meets the sweep's Slo"),
        Metric("highest_concurrency", "req", UP, "found by a search: up to it a share meets the sweep's Slo"),
        Metric("achieved_rate_share", "share", UP, "of the offered requests per second that the engine finished"),
        Metric("mean_concurrency", "req", UP, "requests under way, the mean of a window"),
        Metric("peak_concurrency", "req", UP, "requests under way, the most of a window"),
        Metric("mean_running_batch", "req", UP, "requests in the engine's running batch, the mean of a window"),
        Metric("mean_queue", "req", DOWN, "requests that the engine had queued, the mean of a window"),
        Metric("peak_memory_bytes", "B", DOWN, "the most memory that a case took, without the pages of libraries"),
        Metric("startup_s", "s", DOWN, "from the start of the process to the first request it can take"),
        Metric("startup_import_s", "s", DOWN, "of a start: until the first weight is read, processes and imports"),
        Metric("startup_load_s", "s", DOWN, "of a start: reading the weights"),
        Metric("startup_compile_s", "s", DOWN, "of a start: compiling the model"),
        Metric("startup_capture_s", "s", DOWN, "of a start: capturing CUDA graphs"),
        Metric("replica_balance", "share", UP, "throughput of the slowest replica, of the mean of the others"),
        Metric("core_pace_ns", "ns", DOWN, "a fixed piece of work, on the engine's cores while the engine rests"),
        Metric("joules_per_output_token", "J/tok", DOWN, "energy of a window over the tokens generated in it"),
        Metric("joules_per_total_token", "J/tok", DOWN, "energy of a window over its prompt and generated tokens"),
        Metric("joules_per_request", "J/req", DOWN, "energy of a window over the requests served in it"),
        Metric("mean_power_w", "W", DOWN, "energy of a window over its length"),
        Metric("gpu_utilisation", "share", UP, "of time in which a kernel ran, as the driver has it"),
        Metric("sm_activity", "share", UP, "of the SMs that were busy, the mean, as the driver counts it (GPM)"),
        Metric("gpu_memory_used_bytes", "B", DOWN, "memory in use on the boards, the mean of a round"),
        Metric("peak_gpu_memory_used_bytes", "B", DOWN, "memory in use on the boards, the most that a look found"),
        Metric("sm_clock_mhz", "MHz", UP, "clock of the SMs, the mean of a round"),
        Metric("memory_clock_mhz", "MHz", UP, "clock of the boards' memory, the mean of a round"),
        Metric("gpu_temperature_c", "°C", DOWN, "temperature of the GPU, the mean of a round"),
    )
}

STARTUP_PHASES = {phase: f"startup_{phase}_s" for phase in ("import", "load", "compile", "capture")}
"""Phases of an engine's start, and the metric of each."""
BALANCE = "replica_balance"
CORE_PACE = "core_pace_ns"
"""What tells a slow machine from a slow engine."""

GOODPUT = ("request_goodput", "goodput_share")
"""What only a sweep that says which requests are good has."""
ENERGY = ("joules_per_output_token", "joules_per_total_token", "joules_per_request", "mean_power_w")
"""What a meter counts: compared on the same boards only."""
CLOCK = "sm_clock_mhz"
"""Joules at another clock are not compared."""
BOARD = (
    "gpu_utilisation", "sm_activity", "gpu_memory_used_bytes", "peak_gpu_memory_used_bytes", CLOCK,
    "memory_clock_mhz", "gpu_temperature_c",
)  # fmt: skip
"""What the same driver says beside it."""

LATENCIES = {
    metric.name: metric
    for metric in (
        Metric("ttft_ms", "ms", DOWN, "from sending a request to its first token"),
        Metric("tpot_ms", "ms", DOWN, "(E2EL - TTFT) / (output tokens - 1), per request, as in vLLM and MLPerf"),
        Metric("itl_ms", "ms", DOWN, "gap between two successive tokens of a request"),
        Metric("e2el_ms", "ms", DOWN, "from sending a request to its last token"),
    )
}

_OF_REPLICA = re.compile(
    r"(?P<replica>replica_[1-9]\d{0,3})_(?P<metric>output_throughput|request_throughput|median_ttft_ms)"
)
_OF_NEIGHBOUR = re.compile(r"(?P<neighbour>beside_[1-9]\d?_)(?P<metric>\w.*)")
_NEIGHBOURS_OWN = ("output_throughput", "request_throughput", "goodput_share")
_STATISTIC = re.compile(r"(?P<statistic>median|p\d{1,2}(?:\.\d+)?)_(?P<latency>\w+)")
_LATENCY_OF_REQUESTS = re.compile(r"(?:median_|p[\d.]+_)?(?:ttft|tpot|e2el)_ms")


def metric(name: str) -> Metric:
    """The metric of this name: `output_throughput`, `ttft_ms` (its median), `p99_ttft_ms`, `median_ttft_ms`.

    Raises SuiteError, which lists the known names, for any other.
    """
    if name in SCALARS:
        return SCALARS[name]
    if name in LATENCIES:
        return at_quantile(LATENCIES[name], 0.5)
    of_replica = _OF_REPLICA.fullmatch(name)
    if of_replica:
        whole = metric(of_replica["metric"])
        return replace(whole, name=name, meaning=f"{whole.meaning}, of {of_replica['replica'].replace('_', ' ')} alone")
    neighbour, own = by_neighbour(name)
    if neighbour and (own in _NEIGHBOURS_OWN or _LATENCY_OF_REQUESTS.fullmatch(own)):
        whole = metric(own)
        number = neighbour.split("_")[1]
        meaning = f"{whole.meaning}, of the model {number} beside the measured one"
        return replace(whole, name=f"{neighbour}{whole.name}", meaning=meaning)
    match = _STATISTIC.fullmatch(name)
    if match and match["latency"] in LATENCIES:
        statistic = match["statistic"]
        quantile = 0.5 if statistic == "median" else float(statistic[1:]) / 100
        if 0 < quantile < 1:
            return at_quantile(LATENCIES[match["latency"]], quantile)
    known = ", ".join([*SCALARS, *LATENCIES])
    raise SuiteError(f"unknown metric {name!r}; known are {known}, and for a latency p50_… to p99.9_… or median_…")


def is_own_rate(name: str) -> bool:
    """Whether it is the throughput of one replica of a pool: what tells whose loss a loss is."""
    of_replica = _OF_REPLICA.fullmatch(name)
    return of_replica is not None and of_replica["metric"] == "output_throughput"


def by_neighbour(name: str) -> tuple[str, str]:
    """`beside_1_` and `median_ttft_ms` of `beside_1_median_ttft_ms`; an empty text and itself of any other."""
    found = _OF_NEIGHBOUR.fullmatch(name)
    return (found["neighbour"], found["metric"]) if found else ("", name)


def is_latency(name: str) -> bool:
    """Whether it is a latency of the measured model, and none of a model beside it."""
    return metric(name).quantile is not None and not by_neighbour(name)[0]


def of_any_replica(name: str) -> str:
    """What the metrics of single replicas have in common: `replica_…_output_throughput`. Any other is itself."""
    of_replica = _OF_REPLICA.fullmatch(name)
    return f"replica_…_{of_replica['metric']}" if of_replica else name


def at_quantile(latency: Metric, quantile: float) -> Metric:
    """A latency's metric at one quantile over the requests of a launch, `p99_ttft_ms` for 0.99."""
    statistic = "median" if quantile == 0.5 else f"p{quantile * 100:.6g}"
    return replace(latency, name=f"{statistic}_{latency.name}", quantile=quantile)
