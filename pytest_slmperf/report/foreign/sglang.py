"""The JSON lines of SGLang's `bench_serving`: vLLM's definitions, but for where a request ends and what a gap is.

Its E2E latency, and its TPOT with it, goes on to the end of the stream, after the last token. What each request took to
its last token follows from its gaps, where the file has them. The gap before a part of several tokens is shared out
among them: always by SGLang's own protocol, and by OpenAI's where it decodes speculatively.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_slmperf.core.load.latency import percentile
from pytest_slmperf.report.foreign import vllm
from pytest_slmperf.report.foreign.fields import Fields
from pytest_slmperf.report.foreign.result import (
    GOODPUT,
    NOT_STREAMED,
    Load,
    Result,
    Values,
    arrivals,
    failed,
    of_chunks,
)

TOOL = "sglang bench_serving"
STEMS = {"ttft_ms": "ttft_ms", "itl_ms": "itl_ms"}
QUANTILES = (0.5, 0.9, 0.95, 0.99)
"""Of what is counted anew."""
TO_THE_END = (
    "SGLang counts to the end of the stream, and we to the last token: a file with --output-details has each gap"
)
SPECULATIVE = "the engine decoded speculatively, so that a gap is one of several tokens"
SHARED_OUT = "the server put several tokens into a part (stream_interval), and SGLang shares a gap out among them"
NO_PROMPTS = "the file doesn't count the prompts' tokens, as of conversations of several turns"
TRACE = "trace"
"""Its rate of requests that are sent at the times of a recorded trace."""
LENGTHS = ("dataset_name", "random_input_len", "random_output_len", "random_range_ratio", "sharegpt_output_len")
ENGINES = {"sglang": "sglang", "sglang-native": "sglang", "sglang-oai": "sglang", "sglang-oai-chat": "sglang"}
"""Backends that only this engine speaks, by their names; others are a protocol of many."""
OWN_PROTOCOL = ("sglang", "sglang-native")


def recognises(document: Mapping[str, Any]) -> bool:
    """Whether `bench_serving` wrote it."""
    return {"request_throughput", "median_e2e_latency_ms"} <= document.keys()


def results(fields: Fields) -> Iterator[Result]:
    """The one run of a line."""
    completed = fields.count("completed")
    values = Values(completed)
    for name in ("request_throughput", "output_throughput"):
        values.put(name, fields.number(name))
    counted = fields.maybe("total_input_tokens") != 0
    values.put("total_token_throughput", _total(fields) if counted else None, "" if counted else NO_PROMPTS)
    values.put("mean_concurrency", fields.maybe("concurrency"))
    server = fields.inside("server_info")
    refused = _refused(fields, server)
    for latency, stem in STEMS.items():
        if latency in refused:
            values.refuse(latency, refused[latency])
        else:
            values.stemmed(fields, stem, latency)
    if "request_goodput" in fields:
        values.unmeasured["request_goodput"] = GOODPUT
    for latency, each_ms in _to_the_last_token(fields).items():
        if each_ms is None:
            values.refuse(latency, TO_THE_END)
            continue
        for quantile in QUANTILES:
            values.quantile(latency, quantile, percentile(each_ms, quantile) if each_ms else None)
    sent = len(fields.items("errors")) or None
    said = {
        "engine": ENGINES.get(fields.text("backend") or ""),
        "engine_version": server.text("version"),
        "dtype": server.text("dtype") if server.text("dtype") != "auto" else None,
    }
    yield Result(
        place=fields.file,
        tool=TOOL,
        load=vllm.means(_load(fields, sent), fields, completed),
        values=values.measured,
        unmeasured=values.unmeasured,
        model=server.text("model_path"),
        failure=failed(max(0, sent - completed), sent) if sent else "",
        answered=None if sent else completed,
        notes=() if refused else of_chunks(fields.maybe("mean_itl_ms"), fields.maybe("mean_tpot_ms")),
        seconds=fields.number("duration"),
        facts={name: value for name, value in said.items() if value},
    )


def _load(fields: Fields, sent: int | None) -> Load:
    lengths = {name: fields.text(name) for name in LENGTHS}
    concurrency = fields.maybe_count("max_concurrency")
    if fields.value.get("request_rate") == TRACE:
        return Load("request_rate", TRACE, {"max_concurrency": concurrency, "requests": sent, **lengths})
    rate = fields.rate("request_rate") if "request_rate" in fields else None
    return arrivals(rate, concurrency, requests=sent, **lengths)


def _refused(fields: Fields, server: Fields) -> Mapping[str, str]:
    """Latencies that the file has by another definition, each with the reason."""
    if fields.maybe("mean_itl_ms") == 0:
        return dict.fromkeys(STEMS, NOT_STREAMED)
    if fields.maybe("accept_length"):
        return {"itl_ms": SPECULATIVE}
    if fields.text("backend") in OWN_PROTOCOL and (server.maybe("stream_interval") or 1) > 1:
        return {"itl_ms": SHARED_OUT}
    return {}


def _total(fields: Fields) -> float | None:
    """Prompt and generated tokens per second: newer versions write it, and it is the sum of the two that all write."""
    total, prompts = fields.maybe("total_throughput"), fields.maybe("input_throughput")
    return total if total is not None or prompts is None else prompts + fields.number("output_throughput")


def _to_the_last_token(fields: Fields) -> Mapping[str, list[float] | None]:
    """TPOT and E2EL of each request, in ms; None without --output-details."""
    firsts, rows, lengths = (fields.items(name) for name in ("ttfts", "itls", "output_lens"))
    if not rows or not len(firsts) == len(rows) == len(lengths):
        return {"tpot_ms": None, "e2el_ms": None}
    tpot_ms: list[float] = []
    e2el_ms: list[float] = []
    for place, (first_s, gaps, tokens) in enumerate(zip(firsts, rows, lengths, strict=True)):
        if not isinstance(gaps, list):
            raise fields.wrong("itls", f"its item {place} is no list")
        decoding_ms = 1000 * sum(fields.measured("itls", gap_s) for gap_s in gaps)
        e2el_ms.append(1000 * fields.measured("ttfts", first_s) + decoding_ms)
        if (after_first := fields.measured("output_lens", tokens) - 1) > 0:
            tpot_ms.append(decoding_ms / after_first)
    return {"tpot_ms": tpot_ms, "e2el_ms": e2el_ms}
