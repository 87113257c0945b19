"""What a foreign file says, by our definitions: one run of a tool against one engine."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from pytest_slmperf.core.load.latency import needed
from pytest_slmperf.core.machine import Scalar
from pytest_slmperf.core.metrics import LATENCIES, at_quantile
from pytest_slmperf.core.sweeps.workload import LABELS
from pytest_slmperf.report.foreign.fields import Fields

Place: TypeAlias = str | float
"""On a load's axis; `inf` for a rate that sends everything at once."""
FACTS = ("engine", "engine_version", "dtype", "device", "driver")
"""What a measurement holds for, and an option says where the file doesn't."""
MS = {"ms": 1.0, "s": 1000.0, "sec": 1000.0, "us": 1e-3, "ns": 1e-6}
"""Milliseconds of a unit of time."""
GOODPUT = "which limits a request had to meet is no part of what is imported"
SEVERAL = 1.3
"""Times TPOT that the mean gap of chunks is at least where chunks carry several tokens: two of two tokens are 2."""
NOT_STREAMED = "it reads 0: the answers weren't streamed, or came as a whole"


@dataclass(frozen=True)
class Load:
    """How requests arrived."""

    axis: str
    at: Place
    key: Mapping[str, Scalar] = field(default_factory=dict)
    """The rest of it, as it is compared."""
    prompt_tokens: float | None = None
    """The mean of the requests."""
    output_tokens: float | None = None

    @property
    def label(self) -> str:
        """`concurrency=4`: what its case is called by."""
        return f"{LABELS.get(self.axis, self.axis)}={self.at}"


@dataclass(frozen=True)
class Result:
    """One run of a tool. Values are by the full name of our metric, one for each round."""

    place: str
    """The file, and which result of it where it has several."""
    tool: str
    """With its mode, as in `vllm bench serve`: results of two tools are not compared."""
    load: Load
    values: Mapping[str, tuple[float, ...]]
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    """Metrics that the file has by another definition or not at all, each with the reason."""
    versions: Mapping[str, str | None] = field(default_factory=dict)
    """Of the tool; None where the file doesn't say it."""
    model: str | None = None
    failure: str = ""
    """Why nothing of it counts: failed requests, a run that was cut off."""
    answered: int | None = None
    """How many requests were, where the file doesn't say how many were sent."""
    notes: tuple[str, ...] = ()
    began: str | None = None
    """ISO 8601, in UTC where it has no offset."""
    seconds: float = 0.0
    facts: Mapping[str, str] = field(default_factory=dict)
    """Of FACTS, what the file says."""
    options: Mapping[str, Scalar] = field(default_factory=dict)
    """What the user had the tool note beside it."""


def arrivals(rate: float | None, concurrency: int | None, **key: Scalar) -> Load:
    """The load of an open loop at a finite rate, of a closed loop at a concurrency, or of all requests at once."""
    if rate is not None and math.isfinite(rate):
        return Load("request_rate", place(rate), {"max_concurrency": concurrency, **key})
    if concurrency is not None:
        return Load("concurrency", concurrency, key)
    return Load("request_rate", "inf", key)


def place(value: float) -> Place:
    """A number as a coordinate of a case has it: `4`, `2.5`."""
    return int(value) if value == int(value) else float(f"{value:.6g}")


class Values:
    """Gathers what is measured and what is not, metric by metric, of so many answered requests."""

    def __init__(self, requests: int | None) -> None:
        self._requests = requests
        self.measured: dict[str, tuple[float, ...]] = {}
        self.unmeasured: dict[str, str] = {}

    def put(self, name: str, value: float | None, otherwise: str = "") -> None:
        """A metric's value; where there is none, or 0, which nothing measured is, the reason."""
        if value:
            self.measured[name] = (value,)
        elif value is not None or otherwise:
            self.unmeasured[name] = NOT_STREAMED if value == 0 and "_ms" in name else otherwise or "it reads 0"

    def refuse(self, latency: str, why: str) -> None:
        """No quantile of this latency is taken."""
        self.unmeasured[at_quantile(LATENCIES[latency], 0.5).name] = why

    def quantile(self, latency: str, quantile: float, value: float | None) -> None:
        """A latency at a quantile. Of too few requests the tools write the largest, whatever the quantile."""
        name, least = at_quantile(LATENCIES[latency], quantile).name, needed(quantile)
        if value and latency != "itl_ms" and self._requests is not None and self._requests < least:
            self.unmeasured[name] = f"{self._requests} requests were answered, and this quantile needs {least:,}"
        else:
            self.put(name, value)

    def stemmed(self, fields: Fields, stem: str, latency: str) -> None:
        """Statistics that lie beside each other: `median_ttft_ms`, `p99.9_ttft_ms`."""
        pattern = re.compile(rf"(?:median|p(?P<percent>\d+(?:\.\d+)?))_{stem}")
        for name in fields.value:
            if (match := pattern.fullmatch(name)) and (quantile := _quantile(match["percent"])):
                self.quantile(latency, quantile, fields.maybe(name))

    def statistics(self, fields: Fields, latency: str, names: Mapping[str, float], factor: float = 1.0) -> None:
        """Quantiles of one object, each by the name that the tool gives it, times a factor that makes them ms."""
        if not any(name in fields for name in names):
            self.refuse(latency, "the file has none of its quantiles")
        for name, quantile in names.items():
            value = fields.maybe(name)
            self.quantile(latency, quantile, None if value is None else value * factor)


def _quantile(percent: str | None) -> float | None:
    """0.5 for a median; None for p0 and p100, which are no quantiles of anything that goes on."""
    quantile = 0.5 if percent is None else float(percent) / 100
    return quantile if 0 < quantile < 1 else None


def failed(failures: int | None, sent: int | None = None) -> str:
    """`3 of 100 requests failed`; empty where none did."""
    of = f" of {sent}" if sent else ""
    return f"{failures}{of} requests failed, and a failed request is never a fast one" if failures else ""


def of_chunks(gap: float | None, tpot: float | None) -> tuple[str, ...]:
    """A note where the mean gap between chunks says, beside the mean TPOT, that they carry several tokens."""
    if not gap or not tpot or gap < SEVERAL * tpot:
        return ()
    return (
        f"the mean gap is {gap / tpot:.1f} times the mean TPOT: chunks carry several tokens, and itl_ms is of chunks",
    )


def unit_of(fields: Fields, units: Mapping[str, float]) -> float:
    """What the unit that an object states is in ours. Raises SlmperfError for one that nobody knows."""
    name = "units" if "units" in fields else "unit"
    unit = fields.text(name)
    if unit is None or unit not in units:
        raise fields.wrong(name, f"{unit or 'nothing'} is no unit that is read here: {', '.join(units)}")
    return units[unit]
