"""GuideLLM's `benchmarks.json`, schema version 2.

Its TPOT includes the first token, so it is none of ours. Its ITL is, of each request, what vLLM and MLPerf call TPOT,
but its statistics weigh a request by its tokens: that is the same where all answers are equally long.
"""

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pytest_slmperf.report.foreign.fields import Fields
from pytest_slmperf.report.foreign.result import GOODPUT, Load, Result, Values, arrivals, failed, place

if TYPE_CHECKING:
    from pytest_slmperf.core.machine import Scalar

TOOL = "guidellm"
SCHEMA = 2
QUANTILES = {
    "p001": 0.001, "p01": 0.01, "p05": 0.05, "p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9,
    "p95": 0.95, "p99": 0.99, "p999": 0.999,
}  # fmt: skip
RATES = {
    "request_throughput": "requests_per_second",
    "output_throughput": "output_tokens_per_second",
    "total_token_throughput": "tokens_per_second",
    "mean_concurrency": "request_concurrency",
}
"""Its means of these are totals over the length of the measurement."""
NO_GAPS = "GuideLLM's ITL is one mean for each request (our TPOT), and no file of it has the gaps"
WEIGHTED = "the answers differ in length, and GuideLLM weighs each request by its tokens; vLLM counts each once"


def recognises(document: Mapping[str, Any]) -> bool:
    """Whether GuideLLM wrote it."""
    metadata = document.get("metadata")
    return isinstance(metadata, Mapping) and "guidellm_version" in metadata and "benchmarks" in document


def results(fields: Fields) -> Iterator[Result]:
    """One for each benchmark of the file."""
    metadata = fields.inside("metadata")
    if metadata.maybe("version") != SCHEMA:
        raise metadata.wrong("version", f"{metadata.text('version') or 'none'}, and {SCHEMA} is read here")
    several = len(fields.items("benchmarks")) > 1
    for number, benchmark in enumerate(fields.each("benchmarks")):
        named = f"{fields.file}, benchmark {number}" if several else fields.file
        yield _result(benchmark, metadata.text("guidellm_version"), named)


def _result(fields: Fields, version: str | None, named: str) -> Result:
    metrics = fields.inside("metrics")
    totals = metrics.inside("request_totals")
    answered, errored, incomplete = (totals.count(name) for name in ("successful", "errored", "incomplete"))
    values = Values(answered)
    for name, theirs in RATES.items():
        values.put(name, metrics.inside(theirs).inside("successful").number("mean"))
    _latency(values, metrics, "ttft_ms", "time_to_first_token_ms", 1.0)
    _latency(values, metrics, "e2el_ms", "request_latency", 1000.0)
    answers = metrics.inside("output_token_count").inside("successful")
    if answers.maybe("std_dev") == 0:
        _latency(values, metrics, "tpot_ms", "inter_token_latency_ms", 1.0)
    else:
        values.refuse("tpot_ms", WEIGHTED)
    values.refuse("itl_ms", NO_GAPS)
    if "request_goodput" in metrics:
        values.unmeasured["request_goodput"] = GOODPUT
    return Result(
        place=named,
        tool=TOOL,
        versions={TOOL: version},
        load=_load(fields, metrics, answers),
        values=values.measured,
        unmeasured=values.unmeasured,
        model=fields.inside("config").inside("backend").text("model"),
        failure=failed(errored, totals.count("total")) or ("no request was answered" if not answered else ""),
        notes=(f"{incomplete} requests were under way when it ended, and count for nothing",) if incomplete else (),
        began=_when(fields.maybe("start_time")),
        seconds=fields.number("duration"),
    )


def _latency(values: Values, metrics: Fields, latency: str, theirs: str, factor: float) -> None:
    values.statistics(metrics.inside(theirs).inside("successful").inside("percentiles"), latency, QUANTILES, factor)


def _load(fields: Fields, metrics: Fields, answers: Fields) -> Load:
    strategy = fields.inside("config").inside("strategy")
    kind = strategy.text("type_")
    extra: dict[str, Scalar] = {name: strategy.maybe(name) for name in ("rampup_duration",) if name in strategy}
    limit = strategy.maybe_count("max_concurrency")
    match kind:
        case "synchronous":
            load = arrivals(None, 1)
        case "concurrent":
            load = arrivals(None, strategy.count("streams"), **extra)
        case "throughput":
            load = arrivals(math.inf, None, max_concurrency=limit, **extra)
        case "constant" | "poisson":
            load = arrivals(strategy.rate("rate"), limit, burstiness="inf" if kind == "constant" else "1", **extra)
        case "trace":
            load = Load("speed", place(1 / strategy.rate("time_scale")), {"schedule": strategy.text("schedule_turn")})
        case _:
            raise strategy.wrong("type_", f"{kind!r} is no strategy that is read here")
    prompts = metrics.inside("prompt_token_count").inside("successful")
    return Load(load.axis, load.at, load.key, prompts.maybe("mean"), answers.maybe("mean"))


def _when(seconds: float | None) -> str | None:
    return None if not seconds else datetime.fromtimestamp(min(seconds, 1e11), UTC).isoformat(timespec="seconds")
