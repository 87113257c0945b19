"""Result files as other tools write them, made by hand from their documented shapes: of 100 requests, all answered.

`pace` makes the engine that is measured faster or slower. `tests/peers` reads files that the tools themselves wrote.
"""

import json
import math
import random


def quantiles(median, *names):
    """A latency's statistics by the names of its quantiles, the larger ones 20 % slower."""
    return {name: median * (1 if name.strip("p") in ("50", "") else 1.2) for name in names}


def vllm(pace=1.0, **changes):
    """`vllm bench serve --save-result`."""
    latencies = {}
    for stem, median in {"ttft": 40.0, "tpot": 5.0, "itl": 4.9, "e2el": 675.0}.items():
        latencies |= {f"mean_{stem}_ms": 1.01 * median / pace, f"median_{stem}_ms": median / pace}
        latencies |= {f"std_{stem}_ms": 3.0, f"p99_{stem}_ms": 1.2 * median / pace}
    return {
        "date": "20260131-173000",
        "endpoint_type": "openai",
        "backend": "openai",
        "label": None,
        "model_id": "Qwen/Qwen3-0.6B",
        "tokenizer_id": "Qwen/Qwen3-0.6B",
        "num_prompts": 100,
        "request_rate": "inf",
        "burstiness": 1.0,
        "max_concurrency": 8,
        "duration": 8.5 / pace,
        "completed": 100,
        "failed": 0,
        "total_input_tokens": 12800,
        "total_output_tokens": 12800,
        "request_throughput": 11.8 * pace,
        "request_goodput": None,
        "output_throughput": 1500.0 * pace,
        "total_token_throughput": 3000.0 * pace,
        "max_output_tokens_per_s": 1700.0,
        "max_concurrent_requests": 10,
        **latencies,
        **changes,
    }


def sglang(pace=1.0, **changes):
    """`python -m sglang.benchmark.serving`: a line of its file. It says neither the model nor what was sent.

    It has the names, in the order, of a line that SGLang 0.5.23 wrote of our server. Of its server, which isn't
    SGLang's, it knows nothing.
    """
    latencies = {}
    for stem, median in {"e2e_latency": 675.0, "ttft": 40.0, "tpot": 5.0, "itl": 4.9}.items():
        latencies |= {f"mean_{stem}_ms": 1.01 * median / pace, f"median_{stem}_ms": median / pace}
        latencies |= {f"std_{stem}_ms": 3.0}
        latencies |= {f"p{percent}_{stem}_ms": 1.2 * median / pace for percent in (90, 95, 99)}
    return {
        "tag": None,
        "backend": "sglang",
        "dataset_name": "random",
        "request_rate": math.inf,
        "max_concurrency": 8,
        "sharegpt_output_len": None,
        "random_input_len": 128,
        "random_output_len": 128,
        "random_range_ratio": 1.0,
        "server_info": None,
        "duration": 8.5 / pace,
        "completed": 100,
        "total_input_tokens": 12800,
        "total_input_text_tokens": 12800,
        "total_input_vision_tokens": 0,
        "total_output_tokens": 12800,
        "total_output_tokens_retokenized": 12811,
        "request_throughput": 11.8 * pace,
        "input_throughput": 1500.0 * pace,
        "output_throughput": 1500.0 * pace,
        "total_throughput": 3000.0 * pace,
        **latencies,
        "concurrency": 7.9,
        "accept_length": None,
        "max_output_tokens_per_s": 1700.0,
        "max_concurrent_requests": 12,
        **changes,
    }


def guidellm(pace=1.0, **changes):
    """GuideLLM 0.8's `benchmarks.json`, its requests left out; latencies of requests are seconds."""
    names = ("p001", "p01", "p05", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "p999")

    def of(mean, median=None, spread=0.1):
        percentiles = quantiles(mean if median is None else median, *names)
        found = {"mean": mean, "median": percentiles["p50"], "std_dev": spread, "count": 100}
        nothing = {"mean": 0.0, "median": 0.0, "std_dev": 0.0, "count": 0, "percentiles": dict.fromkeys(names, 0.0)}
        statuses = {"errored": nothing, "incomplete": nothing}
        return {"successful": {**found, "percentiles": percentiles}, **statuses, "total": {**found}}

    metrics = {
        "request_totals": {"successful": 100, "errored": 0, "incomplete": 0, "total": 100},
        "requests_per_second": of(11.8 * pace),
        "request_concurrency": of(7.9),
        "request_latency": of(0.682 / pace, 0.675 / pace),
        "prompt_token_count": of(128.0, spread=0.0),
        "output_token_count": of(128.0, spread=0.0),
        "time_to_first_token_ms": of(41.0 / pace, 40.0 / pace),
        "time_per_output_token_ms": of(5.3 / pace),
        "inter_token_latency_ms": of(5.1 / pace, 5.0 / pace),
        "output_tokens_per_second": of(1500.0 * pace, 1600.0 * pace),
        "tokens_per_second": of(3000.0 * pace),
        "slo_attainment": None,
        "request_goodput": None,
        **changes,
    }
    strategy = {"type_": "concurrent", "worker_count": 4, "max_concurrency": 8, "streams": 8, "rampup_duration": 0.0}
    backend = {"kind": "openai_http", "model": "Qwen/Qwen3-0.6B", "target": "http://127.0.0.1:8000"}
    benchmark = {
        "type_": "generative_benchmark",
        "config": {"strategy": strategy, "backend": backend},
        "metrics": metrics,
        "start_time": 1769880600.25,
        "end_time": 1769880608.75,
        "duration": 8.5 / pace,
        "warmup_duration": 0.0,
        "cooldown_duration": 0.0,
        "requests": {"successful": [], "errored": [], "incomplete": []},
    }
    metadata = {"version": 2, "guidellm_version": "0.8.1", "python_version": "3.12.1", "platform": "Linux"}
    return {"metadata": metadata, "config": {}, "benchmarks": [benchmark], "conclusions": []}


def aiperf(pace=1.0, **changes):
    """AIPerf 0.13's `profile_export_aiperf.json`; its ITL is a mean of each request."""
    names = ("p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99")

    def of(unit, average, median=None):
        if median is None:
            return {"unit": unit, "avg": average}
        return {
            "unit": unit,
            "avg": average,
            **quantiles(median, *names),
            "min": 0.5 * median,
            "std": 1.0,
            "count": 100,
        }

    return {
        "schema_version": "1.4",
        "aiperf_version": "0.13.0",
        "benchmark_id": "c89dbf8f7615",
        "request_throughput": of("requests/sec", 11.8 * pace),
        "request_latency": of("ms", 680.0 / pace, 675.0 / pace),
        "request_count": of("requests", 100.0),
        "time_to_first_token": of("ms", 41.0 / pace, 40.0 / pace),
        "inter_token_latency": of("ms", 5.1 / pace, 5.0 / pace),
        "inter_chunk_latency": of("ms", 5.1 / pace, 4.9 / pace),
        "output_token_throughput": of("tokens/sec", 1500.0 * pace),
        "total_token_throughput": of("tokens/sec", 3000.0 * pace),
        "input_sequence_length": of("tokens", 128.0, 128.0),
        "output_sequence_length": of("tokens", 128.0, 128.0),
        "benchmark_duration": of("sec", 8.5 / pace),
        "input_config": {
            "models": {"items": [{"name": "Qwen/Qwen3-0.6B"}]},
            "phases": [
                {"name": "warmup", "kind": "warmup", "type": "concurrency", "requests": 8, "concurrency": 8},
                {"name": "profiling", "kind": "profiling", "type": "concurrency", "requests": 100, "concurrency": 8},
            ],
        },
        "run_info": {"trial": 0},
        "was_cancelled": False,
        "is_complete": True,
        "error_summary": [],
        "start_time": "2026-01-31T17:30:00.250000",
        "end_time": "2026-01-31T17:30:08.750000",
        **changes,
    }


def llmd(pace=1.0, tool="vllm-benchmark", **changes):
    """llm-d's benchmark report 0.2, of what a tool measured."""
    names = ("p1", "p10", "p50", "p90", "p99")

    def of(units, mean, *percentiles):
        return {"units": units, "mean": mean, **quantiles(mean, *percentiles)}

    accelerator = {"model": "NVIDIA-H100-80GB-HBM3", "count": 1, "parallelism": {"tp": 1}}
    engine = {
        "metadata": {"label": "vllm-svc-0", "cfg_id": "1"},
        "standardized": {
            "kind": "inference_engine",
            "tool": "vllm",
            "tool_version": "0.33.0",
            "role": "replica",
            "replicas": 1,
            "model": {"name": "Qwen/Qwen3-0.6B"},
            "accelerator": accelerator,
        },
        "native": {},
    }
    router = {"metadata": {"label": "epp-0", "cfg_id": "2"}, "standardized": {"kind": "generic", "tool": "router"}}
    load = {"tool": tool, "tool_version": "1", "source": "random", "stage": 0, "rate_qps": None, "concurrency": 8}
    aggregate = {
        "requests": {
            "total": 100,
            "failures": 0,
            "input_length": {"units": "count", "mean": 128.0, "stddev": 0.0},
            "output_length": {"units": "count", "mean": 128.0, "stddev": 0.0},
        },
        "latency": {
            "time_to_first_token": of("s", 0.040 / pace, *names),
            "time_per_output_token": of("s/token", 0.005 / pace, *names),
            "inter_token_latency": of("ms/token", 4.9 / pace, *names),
            "request_latency": of("ms", 675.0 / pace, *names),
        },
        "throughput": {
            "output_token_rate": of("tokens/s", 1500.0 * pace),
            "total_token_rate": of("tokens/s", 3000.0 * pace),
            "request_rate": of("queries/s", 11.8 * pace),
        },
        **changes,
    }
    return {
        "version": "0.2",
        "run": {"uid": "38b1", "time": {"start": "2026-01-31T17:30:00Z", "duration": f"PT{8.5 / pace}S"}},
        "scenario": {"stack": [engine, router], "load": {"metadata": {}, "standardized": load, "native": {}}},
        "results": {"request_performance": {"aggregate": aggregate}},
    }


TOOLS = {"vllm": vllm, "sglang": sglang, "guidellm": guidellm, "aiperf": aiperf, "llmd": llmd}
NEEDED = {
    "vllm": (),
    "sglang": ("--model=Qwen/Qwen3-0.6B", "--requests=100"),
    "guidellm": (),
    "aiperf": (),
    "llmd": (),
}
"""What an import has to be told of each tool's files."""


def write(folder, tool, *, launches, pace=1.0, seed=0, spread=0.003, **changes):
    """So many files of a tool, each of an engine that is a little faster or slower than the last."""
    draw = random.Random(f"{tool}{seed}{pace}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for launch in range(launches):
        content = TOOLS[tool](pace * math.exp(draw.gauss(0, spread)), **changes)
        path = folder / f"{launch:02}.json{'l' if tool == 'sglang' else ''}"
        path.write_text(json.dumps(content))
        paths.append(path)
    return paths
