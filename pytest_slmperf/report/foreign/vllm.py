"""The JSON of `vllm bench serve`, `throughput` and `latency`, read, and that of `serve`, written.

The definitions are ours, for ours are vLLM's.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any

from pytest_slmperf.core.baselines.baseline import instant
from pytest_slmperf.core.machine import NOT_SAID
from pytest_slmperf.core.outcome import CaseOutcome, RunOutcome
from pytest_slmperf.report.foreign.fields import Fields
from pytest_slmperf.report.foreign.result import FACTS, GOODPUT, Load, Result, Values, arrivals, failed, of_chunks

if TYPE_CHECKING:
    from pytest_slmperf.core.machine import Scalar

SERVE, THROUGHPUT, LATENCY = "vllm bench serve", "vllm bench throughput", "vllm bench latency"
STEMS = {"ttft_ms": "ttft_ms", "tpot_ms": "tpot_ms", "itl_ms": "itl_ms", "e2el_ms": "e2el_ms"}
DATE = "%Y%m%d-%H%M%S"
OWN_TEXTS = ("date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "ramp_up_strategy")
"""Texts that vLLM writes itself: any other is the user's, from `--metadata KEY=VALUE`."""


def recognises(document: Mapping[str, Any]) -> bool:
    """Whether one of the three wrote it."""
    served = {"request_throughput", "model_id"} <= document.keys()
    return served or {"requests_per_second", "tokens_per_second"} <= document.keys() or _is_latency(document)


def _is_latency(document: Mapping[str, Any]) -> bool:
    return {"avg_latency", "latencies"} <= document.keys()


def results(fields: Fields) -> Iterator[Result]:
    """The one run of a document."""
    if _is_latency(fields.value):
        yield _latency(fields)
    elif "tokens_per_second" in fields:
        yield _throughput(fields)
    else:
        yield _serve(fields)


def _serve(fields: Fields) -> Result:
    sent, completed, failures = (fields.maybe_count(name) for name in ("num_prompts", "completed", "failed"))
    values = Values(completed)
    for name in ("request_throughput", "output_throughput", "total_token_throughput"):
        values.put(name, fields.number(name))
    for latency, stem in STEMS.items():
        values.stemmed(fields, stem, latency)
    if any(name.startswith("spec_decode_") for name in fields.value):
        _forget(values, "itl_ms", "the engine decoded speculatively, so that a gap is one of several tokens")
    if "request_goodput" in fields:
        values.unmeasured["request_goodput"] = GOODPUT
    if failures is None and (sent is None or completed is None):
        raise fields.wrong("failed", "it is missing, and so is num_prompts or completed: nobody knows what failed")
    lost = failures if failures is not None else max(0, (sent or 0) - (completed or 0))
    metadata = {
        name: str(fields.text(name))
        for name, value in fields.value.items()
        if isinstance(value, str) and value and name not in (*OWN_TEXTS, "request_rate")
    }
    return Result(
        place=fields.file,
        tool=SERVE,
        load=_load(fields, sent, completed),
        values=values.measured,
        unmeasured=values.unmeasured,
        model=fields.text("model_id"),
        failure=failed(lost, sent) or ("no request was answered" if completed == 0 else ""),
        notes=of_chunks(fields.maybe("mean_itl_ms"), fields.maybe("mean_tpot_ms")),
        began=_date(fields),
        seconds=fields.maybe("duration") or 0.0,
        facts={name: value for name, value in metadata.items() if name in FACTS},
        options={name: value for name, value in metadata.items() if name not in FACTS},
    )


def _load(fields: Fields, sent: int | None, completed: int | None) -> Load:
    rate = fields.rate("request_rate") if "request_rate" in fields else None
    burstiness = fields.rate("burstiness") if "burstiness" in fields else None
    ramp: dict[str, Scalar] = {
        name: fields.text(name) for name in ("ramp_up_strategy", "ramp_up_start_rps", "ramp_up_end_rps")
    }
    load = arrivals(rate, fields.maybe_count("max_concurrency"), requests=sent, **ramp)
    if load.axis == "request_rate" and burstiness is not None:
        load = Load(load.axis, load.at, {**load.key, "burstiness": f"{burstiness:g}"})
    return means(load, fields, completed)


def means(load: Load, fields: Fields, completed: int | None) -> Load:
    """The load with the lengths that the totals of its answered requests say."""
    totals = (fields.maybe(name) for name in ("total_input_tokens", "total_output_tokens"))
    prompt, output = (total / completed if total and completed else None for total in totals)
    return Load(load.axis, load.at, load.key, prompt, output)


def _throughput(fields: Fields) -> Result:
    values = Values(None)
    values.put("request_throughput", fields.number("requests_per_second"))
    values.put("total_token_throughput", fields.number("tokens_per_second"))
    values.unmeasured["output_throughput"] = "the file has tokens_per_second of prompts and answers together only"
    requests = fields.count("num_requests")
    return Result(
        place=fields.file,
        tool=THROUGHPUT,
        load=Load("requests", requests, {"mean_total_tokens": round(fields.number("total_num_tokens") / requests, 2)}),
        values=values.measured,
        unmeasured=values.unmeasured,
        seconds=fields.number("elapsed_time"),
        facts={"engine": "vllm"},
    )


def _latency(fields: Fields) -> Result:
    """Each iteration serves one batch, whose requests end together: its latency is the E2EL of them all."""
    rounds = tuple(1000 * fields.measured("latencies", value) for value in fields.items("latencies"))
    if not rounds or not all(rounds):
        raise fields.wrong("latencies", "it holds no iteration" if not rounds else "one of them is 0")
    return Result(
        place=fields.file,
        tool=LATENCY,
        load=Load("batch_size", ""),
        values={"median_e2el_ms": rounds},
        unmeasured={"output_throughput": "the file doesn't say how many tokens were generated"},
        seconds=sum(rounds) / 1000,
        facts={"engine": "vllm"},
    )


def _forget(values: Values, latency: str, why: str) -> None:
    for name in [name for name in values.measured if name.endswith(f"_{latency}")]:
        del values.measured[name]
    values.refuse(latency, why)


def _date(fields: Fields) -> str | None:
    """`20260131-173000`, of the machine's own time, which no file says the zone of."""
    said = fields.text("date")
    if said is None:
        return None
    try:
        return datetime.strptime(said, DATE).replace(tzinfo=UTC).isoformat()
    except ValueError:
        raise fields.wrong("date", f"{said!r} is no date as in 20260131-173000") from None


def written(run: RunOutcome) -> str:
    """One object for each launch of each case, one in a line, as `--append-result` writes them.

    What vLLM writes and a report of ours has not is left out: numbers of requests but for imported ones, and of tokens,
    means, deviations.
    """
    return "".join(
        json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        for sweep in run.sweeps
        for case in sweep.cases.values()
        for line in _lines(run, case)
    )


def _lines(run: RunOutcome, case: CaseOutcome) -> Iterator[dict[str, Any]]:
    key, when = {**case.measurement.key, **case.coordinates}, instant(run.started_at)
    samples = case.measurement.samples
    said = {"device": run.machine.device, "driver": run.machine.driver}
    said |= {name: str(key[name]) for name in ("engine", "engine_version", "dtype", "workload") if name in key}
    rate = key.get("request_rate", "inf")
    for launch in range(max((len(sample.launches) for sample in samples.values()), default=0)):
        values = {name: sample.launches[launch] for name, sample in samples.items() if launch < len(sample.launches)}
        yield {
            **({"date": when.strftime(DATE)} if when else {}),
            "backend": str(key.get("engine")),
            "label": case.case,
            "model_id": str(key.get("model")),
            "request_rate": rate,
            "max_concurrency": key.get("concurrency", key.get("batch_size", key.get("max_concurrency"))),
            **({"burstiness": key["burstiness"]} if "burstiness" in key else {}),
            "launch": launch,
            **({"num_prompts": key["requests"], "completed": key["requests"]} if key.get("requests") else {}),
            "failed": 0,
            **{name: value for name, value in said.items() if value != NOT_SAID},
            **{name: median(rounds) for name, rounds in values.items()},
        }
