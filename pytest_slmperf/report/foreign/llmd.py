"""llm-d's benchmark report, versions 0.2 and 0.2.1, which several tools are converted to.

It keeps each tool's own TPOT and ITL, so what they mean depends on the tool that it names.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from pytest_slmperf import __version__
from pytest_slmperf.core.baselines.baseline import instant
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.metrics import LATENCIES, at_quantile
from pytest_slmperf.core.outcome import CaseOutcome, RunOutcome, SweepOutcome
from pytest_slmperf.core.sample import Measurement
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
THEIRS = {
    "ttft_ms": "time_to_first_token",
    "tpot_ms": "time_per_output_token",
    "itl_ms": "inter_token_latency",
    "e2el_ms": "request_latency",
}
NOT_KNOWN = "not known"
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
        versions={tool: load.text("tool_version")},
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


def written(run: RunOutcome) -> str:
    """The report of the one case of a run, as YAML. Raises UsageError where there are several.

    A mean is required of every latency, and a report of ours has quantiles only: it is `.nan`.
    """
    found = [(sweep, case) for sweep in run.sweeps for case in sweep.cases.values()]
    if len(found) != 1:
        names = ", ".join(case.case for _, case in found) or "none"
        raise UsageError(f"llm-d's report is of one case, and this one has {len(found)}: name it with --case: {names}")
    sweep, case = found[0]
    text = json.dumps(_report(run, sweep, case), ensure_ascii=False, allow_nan=False, indent=1)
    return text.replace(f'"{NOT_KNOWN}"', ".nan") + "\n"


def _report(run: RunOutcome, sweep: SweepOutcome, outcome: CaseOutcome) -> dict[str, Any]:
    case = outcome.measurement
    key = {name: value for name, value in {**case.key, **outcome.coordinates}.items() if value is not None}
    identity = hashlib.md5(json.dumps([case.case, key], sort_keys=True).encode(), usedforsecurity=False).hexdigest()
    drawn = hashlib.md5(f"{run.started_at} {identity}".encode(), usedforsecurity=False).hexdigest()
    return {
        "version": VERSIONS[0],
        "run": {
            "uid": drawn,
            "time": {"start": run.started_at, "duration": f"PT{run.seconds:.3f}S"},
            "description": case.case,
        },
        "scenario": {"stack": [_engine(run, sweep, key, identity)], **_workload(sweep, key, identity)},
        "results": {"request_performance": {"aggregate": {**_rates(case), **_quantiles(case)}}},
    }


def _engine(run: RunOutcome, sweep: SweepOutcome, key: Mapping[str, object], identity: str) -> dict[str, Any]:
    own = {name: value for name, value in key.items() if name.startswith(("option.", "setting."))}
    on_gpu = run.machine.kind == "cuda"
    return {
        "metadata": {"label": f"{key.get('engine')}-0", "cfg_id": identity},
        "standardized": {
            "kind": "inference_engine",
            "tool": str(key.get("engine")),
            "tool_version": str(key.get("engine_version")),
            "role": "replica",
            "replicas": 1,
            "model": {"name": str(key.get("model"))},
            "accelerator": {"model": run.machine.device, "count": int(on_gpu), "parallelism": {}},
        },
        "native": {
            "args": own,
            "config": {"driver": run.machine.driver, "dtype": key.get("dtype"), "versions": dict(sweep.versions)},
        },
    }


def _workload(sweep: SweepOutcome, key: Mapping[str, object], identity: str) -> dict[str, Any]:
    """The load, where it has one prompt length: that is required of it."""
    prompt, answer = key.get("prompt_tokens"), key.get("output_tokens")
    if not isinstance(prompt, (int, float)):
        return {}
    concurrency = key.get("concurrency", key.get("batch_size"))
    rate = key.get("request_rate")
    standardized = {
        "tool": OURS,
        "tool_version": str(sweep.versions.get(OURS, __version__)),
        "source": "random",
        "input_seq_len": {"distribution": "fixed", "value": prompt},
        **({"output_seq_len": {"distribution": "fixed", "value": answer}} if isinstance(answer, (int, float)) else {}),
        **({"concurrency": concurrency} if isinstance(concurrency, int) else {}),
        **({"rate_qps": rate} if isinstance(rate, (int, float)) else {}),
    }
    config = {name: value for name, value in key.items() if not name.startswith(("option.", "setting."))}
    return {"load": {"metadata": {"cfg_id": identity}, "standardized": standardized, "native": {"config": config}}}


def _rates(case: Measurement) -> dict[str, Any]:
    rates = {
        theirs: {"units": next(iter(units)), "mean": fmean(map(median, case.samples[name].launches))}
        for name, (theirs, units) in RATES.items()
        if name in case.samples
    }
    return {"throughput": rates} if rates else {}


def _quantiles(case: Measurement) -> dict[str, Any]:
    """Each latency at each quantile that the format has: the median of the launches, in ms."""
    found: dict[str, dict[str, Any]] = {}
    for latency, theirs in THEIRS.items():
        unit = "ms/token" if latency in ("tpot_ms", "itl_ms") else "ms"
        values = {
            name: sample.median
            for name, quantile in QUANTILES.items()
            if (sample := case.samples.get(at_quantile(LATENCIES[latency], quantile).name))
        }
        if values:
            found[theirs] = {"units": unit, "mean": NOT_KNOWN, **values}
    return {"latency": found} if found else {}
