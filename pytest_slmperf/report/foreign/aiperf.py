"""AIPerf's `profile_export_aiperf.json`: its ITL is our TPOT, and its inter-chunk latency is our ITL."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_slmperf.core.baselines.baseline import instant
from pytest_slmperf.report.foreign.fields import Fields
from pytest_slmperf.report.foreign.result import GOODPUT, MS, Load, Result, Values, arrivals, failed, of_chunks, unit_of

if TYPE_CHECKING:
    from pytest_slmperf.core.machine import Scalar

TOOL = "aiperf"
RATES = {
    "request_throughput": ("request_throughput", {"requests/sec": 1.0}),
    "output_throughput": ("output_token_throughput", {"tokens/sec": 1.0}),
    "total_token_throughput": ("total_token_throughput", {"tokens/sec": 1.0}),
}
LATENCIES = {
    "ttft_ms": "time_to_first_token",
    "tpot_ms": "inter_token_latency",
    "itl_ms": "inter_chunk_latency",
    "e2el_ms": "request_latency",
}
QUANTILES = {f"p{percent}": percent / 100 for percent in (1, 5, 10, 25, 50, 75, 90, 95, 99)}
LOADS = ("requests", "duration", "smoothness", "sessions", "users", "concurrency_ramp_duration", "rate_ramp_duration")
"""What a phase may say of its load, beside its type, concurrency and rate."""


def recognises(document: Mapping[str, Any]) -> bool:
    """Whether AIPerf wrote it."""
    metadata = document.get("metadata")
    return "aiperf_version" in document or (isinstance(metadata, Mapping) and "aggregation_type" in metadata)


def results(fields: Fields) -> Iterator[Result]:
    """The one run of a file."""
    if "request_throughput" not in fields:
        aggregate = "aggregation_type" in fields.inside("metadata")
        why = "this is AIPerf's summary of several runs: import the profile_export_aiperf.json of each of them"
        raise fields.wrong("request_throughput", why if aggregate else "it is missing")
    answered = fields.inside("request_count").count("avg")
    values = Values(answered)
    for name, (theirs, units) in RATES.items():
        if theirs in fields:
            values.put(name, fields.inside(theirs).number("avg") * unit_of(fields.inside(theirs), units))
        else:
            values.unmeasured[name] = f"the file has no {theirs}"
    for name, theirs in LATENCIES.items():
        if theirs in fields:
            values.statistics(fields.inside(theirs), name, QUANTILES, unit_of(fields.inside(theirs), MS))
        else:
            values.refuse(name, f"the file has no {theirs}: AIPerf measures it where it is told --streaming")
    if "goodput" in fields:
        values.unmeasured["request_goodput"] = GOODPUT
    errors = fields.inside("error_request_count").maybe_count("avg") or sum(
        one.maybe_count("count") or 1 for one in fields.each("error_summary")
    )
    config = fields.inside("input_config")
    yield Result(
        place=fields.file,
        tool=TOOL,
        versions={TOOL: fields.text("aiperf_version")},
        load=_load(fields, config),
        values=values.measured,
        unmeasured=values.unmeasured,
        model=_model(config),
        failure=failed(errors, answered + errors) or _cut_off(fields),
        notes=of_chunks(*(fields.inside(LATENCIES[name]).maybe("avg") for name in ("itl_ms", "tpot_ms"))),
        began=_when(fields),
        seconds=fields.inside("benchmark_duration").maybe("avg") or 0.0,
    )


def _cut_off(fields: Fields) -> str:
    if fields.value.get("was_cancelled"):
        return "the run was cancelled"
    if fields.value.get("is_complete") is False:
        return f"the run is not complete: {fields.text('incomplete_reason') or 'AIPerf says no more'}"
    return ""


def _model(config: Fields) -> str | None:
    names = [one.text("name") for one in config.inside("models").each("items")]
    return names[0] if len(names) == 1 else None


def _load(fields: Fields, config: Fields) -> Load:
    phases = [one for one in config.each("phases") if one.text("kind") in (None, "profiling")]
    if len(phases) != 1:
        raise config.wrong("phases", f"it has {len(phases)} phases that are measured, and one is read here")
    phase, kind = phases[0], phases[0].text("type")
    key: dict[str, Scalar] = {name: phase.text(name) for name in LOADS if name in phase}
    concurrency = phase.maybe_count("concurrency")
    match kind:
        case "concurrency":
            load = arrivals(None, concurrency or 1, **key)
        case "poisson" | "constant" | "gamma" | "user_centric":
            load = arrivals(phase.rate("rate"), concurrency, arrivals=kind, **key)
        case "fixed_schedule":
            load = Load("speed", 1, key)
        case _:
            raise phase.wrong("type", f"{kind!r} is no load that is read here")
    prompt, output = (fields.inside(f"{side}_sequence_length").maybe("avg") for side in ("input", "output"))
    return Load(load.axis, load.at, load.key, prompt, output)


def _when(fields: Fields) -> str | None:
    """`2026-01-31T17:30:00.123456`, of the machine's own time."""
    said = fields.text("start_time")
    if said is None:
        return None
    when = instant(re.sub(r"(\.\d{6})\d+", r"\1", said))
    if when is None:
        raise fields.wrong("start_time", f"{said!r} is no date")
    return when.isoformat(timespec="seconds")
