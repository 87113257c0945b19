"""llm-d's benchmark report, versions 0.2 and 0.2.1, which several tools are converted to.

It keeps each tool's own TPOT and ITL, so what they mean depends on the tool that it names.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pytest_slmperf.core.baseline import instant
from pytest_slmperf.report.foreign.fields import Fields
from pytest_slmperf.report.foreign.result import MS, Load, Result, Values, arrivals, failed, unit_of

if TYPE_CHECKING:
    from pytest_slmperf.core.machine import Scalar

TOOL = "llm-d report"
VERSIONS = ("0.2", "0.2.1")
OURS = "pytest-slmperf"
AS_VLLM = ("vllm-benchmark", "inference-perf", OURS)
"""Tools whose TPOT and ITL are vLLM's."""
ITL_IS_TPOT = ("aiperf", "guidellm")
"""Tools whose ITL is the mean gap of each request."""
QUANTILES = {
    "p0p1": 0.001, "p1": 0.01, "p5": 0.05, "p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95,
    "p99": 0.99, "p99p9": 0.999,
}  # fmt: skip
MS_PER_TOKEN = {"ms/token": 1.0, "s/token": 1000.0, **MS}
RATES = {
    "request_throughput": ("request_rate", {"queries/s": 1.0}),
    "output_throughput": ("output_token_rate", {"tokens/s": 1.0}),
    "total_token_throughput": ("total_token_rate", {"tokens/s": 1.0}),
}


def recognises(document: Mapping[str, Any]) -> bool:
    """Whether it is a benchmark report of llm-d."""
    return {"version", "run", "results"} <= document.keys() or {"version", "scenario", "metrics"} <= document.keys()


def results(fields: Fields) -> Iterator[Result]:
    """The one run of a report."""
    version = fields.text("version")
    if version not in VERSIONS:
        raise fields.wrong("version", f"{version!r}; {' and '.join(VERSIONS)} are read here")
    aggregate = fields.inside("results").inside("request_performance").inside("aggregate")
    load = fields.inside("scenario").inside("load").inside("standardized")
    tool = load.text("tool")
    if tool is None:
        raise load.wrong("tool", "it is missing, and what TPOT and ITL are depends on it")
    requests = aggregate.inside("requests")
    total, time = requests.count("total"), fields.inside("run").inside("time")
    values = Values(total)
    _throughput(values, aggregate.inside("throughput"))
    _latencies(values, aggregate, tool)
    incomplete = requests.maybe_count("incomplete")
    facts, model = _stack(fields.inside("scenario"))
    yield Result(
        place=fields.file,
        tool=f"{TOOL} of {tool}",
        tool_version=load.text("tool_version"),
        load=_load(load, requests, total),
        values=values.measured,
        unmeasured=values.unmeasured,
        model=model,
        failure=failed(requests.count("failures"), total),
        notes=(f"{incomplete} requests were not completed, and count for nothing",) if incomplete else (),
        began=_when(time),
        facts=facts,
    )


def _throughput(values: Values, throughput: Fields) -> None:
    for name, (theirs, units) in RATES.items():
        if theirs in throughput:
            rate = throughput.inside(theirs)
            values.put(name, rate.number("mean") * unit_of(rate, units))
        else:
            values.unmeasured[name] = f"the report has no {theirs}"


def _latencies(values: Values, aggregate: Fields, tool: str) -> None:
    latency = aggregate.inside("latency")

    def take(name: str, theirs: str) -> None:
        if theirs in latency:
            found = latency.inside(theirs)
            values.statistics(found, name, QUANTILES, unit_of(found, MS_PER_TOKEN))
        else:
            values.refuse(name, f"the report has no {theirs}")

    take("ttft_ms", "time_to_first_token")
    take("e2el_ms", "request_latency")
    if tool in AS_VLLM:
        take("tpot_ms", "time_per_output_token")
        take("itl_ms", "inter_token_latency")
        return
    values.refuse("itl_ms", f"llm-d's reports of {tool} have no gaps between tokens, or it isn't known that they have")
    weighted = tool == "guidellm" and aggregate.inside("requests").inside("output_length").maybe("stddev") != 0
    if tool in ITL_IS_TPOT and not weighted:
        take("tpot_ms", "inter_token_latency")
    elif weighted:
        values.refuse("tpot_ms", "the answers differ in length, and GuideLLM weighs each request by its tokens")
    else:
        values.refuse("tpot_ms", f"it isn't known how {tool} defines it")


def _load(load: Fields, requests: Fields, total: int) -> Load:
    concurrency = load.rate("concurrency") if "concurrency" in load else None
    rate = load.rate("rate_qps") if "rate_qps" in load else None
    key: dict[str, Scalar] = {
        "requests": total,
        "stage": load.maybe_count("stage") or None,
        "parallelism": load.maybe_count("parallelism"),
        "source": load.text("source"),
    }
    limited = int(concurrency) if concurrency is not None and concurrency != float("inf") else None
    found = arrivals(rate, limited, **key)
    lengths = (requests.inside(f"{side}_length").maybe("mean") for side in ("input", "output"))
    return Load(found.axis, found.at, found.key, *lengths)


def _stack(scenario: Fields) -> tuple[dict[str, str], str | None]:
    """What the report says of the one engine in its stack; nothing where there are several."""
    engines = [one.inside("standardized") for one in scenario.each("stack")]
    engines = [one for one in engines if one.text("kind") == "inference_engine"]
    if len(engines) != 1:
        return {}, None
    engine = engines[0]
    accelerator = engine.inside("accelerator")
    said = {
        "engine": engine.text("tool"),
        "engine_version": engine.text("tool_version"),
        "device": accelerator.text("model"),
    }
    return {name: value for name, value in said.items() if value}, engine.inside("model").text("name")


def _when(time: Fields) -> str | None:
    name = "start" if "start" in time else "end"
    value = time.value.get(name)
    if value is None or isinstance(value, datetime):  # YAML knows dates
        return value.isoformat() if value else None
    when = instant(time.text(name) or "")
    if when is None:
        raise time.wrong(name, f"{value!r} is no date")
    return when.isoformat(timespec="seconds")
