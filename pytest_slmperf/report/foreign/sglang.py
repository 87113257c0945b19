"""The JSON lines of SGLang's `bench_serving`: vLLM's definitions under partly other names."""

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_slmperf.report.foreign import vllm
from pytest_slmperf.report.foreign.fields import Fields
from pytest_slmperf.report.foreign.result import Result, Values, arrivals, failed, of_chunks

TOOL = "sglang bench_serving"
STEMS = {"ttft_ms": "ttft_ms", "tpot_ms": "tpot_ms", "itl_ms": "itl_ms", "e2el_ms": "e2e_latency_ms"}
LENGTHS = ("dataset_name", "random_input_len", "random_output_len", "random_range_ratio", "sharegpt_output_len")
ENGINES = {"sglang": "sglang", "sglang-native": "sglang", "sglang-oai": "sglang", "sglang-oai-chat": "sglang"}
"""Backends that only this engine speaks, by their names; others are a protocol of many."""


def recognises(document: Mapping[str, Any]) -> bool:
    """Whether `bench_serving` wrote it."""
    return {"request_throughput", "median_e2e_latency_ms"} <= document.keys()


def results(fields: Fields) -> Iterator[Result]:
    """The one run of a line."""
    completed = fields.count("completed")
    values = Values(completed)
    for name in ("request_throughput", "output_throughput"):
        values.put(name, fields.number(name))
    values.put("total_token_throughput", _total(fields))
    values.put("mean_concurrency", fields.maybe("concurrency"))
    for latency, stem in STEMS.items():
        values.stemmed(fields, stem, latency)
    sent = len(fields.items("errors")) or None
    load = arrivals(
        fields.rate("request_rate") if "request_rate" in fields else None,
        fields.maybe_count("max_concurrency"),
        requests=sent,
        **{name: fields.text(name) for name in LENGTHS},
    )
    server = fields.inside("server_info")
    said = {
        "engine": ENGINES.get(fields.text("backend") or ""),
        "engine_version": server.text("version"),
        "dtype": server.text("dtype") if server.text("dtype") != "auto" else None,
    }
    yield Result(
        place=fields.file,
        tool=TOOL,
        load=vllm.means(load, fields, completed),
        values=values.measured,
        unmeasured=values.unmeasured,
        model=server.text("model_path"),
        failure=failed(max(0, sent - completed), sent) if sent else "",
        answered=None if sent else completed,
        notes=of_chunks(fields.maybe("mean_itl_ms"), fields.maybe("mean_tpot_ms")),
        seconds=fields.number("duration"),
        facts={name: value for name, value in said.items() if value},
    )


def _total(fields: Fields) -> float | None:
    """Prompt and generated tokens per second: newer versions write it, and it is the sum of the two that all write."""
    total, prompts = fields.maybe("total_throughput"), fields.maybe("input_throughput")
    return total if total is not None or prompts is None else prompts + fields.number("output_throughput")
