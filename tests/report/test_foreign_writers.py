"""A report in other tools' forms: each field in its type, what isn't known left out, nothing under a wrong name."""

import json
import math
from dataclasses import replace

import pytest
import yaml

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import CaseOutcome, RunOutcome, SweepOutcome
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.core.verdict import Status, Verdict
from pytest_slmperf.report.foreign import hud, llmd, vllm

H100 = Machine(
    "NVIDIA H100",
    "580.65",
    {"gpu_uuid": "GPU-1", "cpu": "AMD EPYC 9534", "cores": 64, "memory_gib": 1007.5, "ecc": True, "mig": None},
)
KEY = {
    "engine": "vllm",
    "engine_version": "0.33.0",
    "model": "opt-125m",
    "dtype": "bfloat16",
    "option.max_num_seqs": 64,
    "workload": "closed-loop",
    "prompt_tokens": 128,
    "output_tokens": 64,
}
SAMPLES = {
    "output_throughput": Sample.of([[1000.0, 1100.0, 1200.0], [1150.0]]),
    "median_ttft_ms": Sample.of([[40.0], [42.0]]),
    "p99_itl_ms": Sample.of([[9.0], [9.5]]),
    "joules_per_output_token": Sample.of([[0.04], [0.05]]),
}


def run(*cases, machine=H100, key=KEY, samples=SAMPLES, **at):
    """A run of these cases with two launches."""
    meaning = metric("output_throughput")
    verdict = Verdict(Status.UNCHANGED, meaning.name, meaning.unit, True, tolerance=0.03)
    outcomes = {
        name: CaseOutcome(
            name,
            {"model": "opt-125m", **(at or {"concurrency": 8})},
            Measurement(name, key, samples),
            Measurement(name, key, {"output_throughput": Sample.of([[1120.0]])}),
            {meaning.name: verdict},
        )
        for name in cases or ("load/opt-125m/concurrency=8",)
    }
    sweep = SweepOutcome(
        sweep="load",
        design="stored",
        mode="gate",
        cases=outcomes,
        specs=(EngineSpec("vllm", "opt-125m"),),
        versions={"vllm": "0.33.0", "pytest-slmperf": "0.1"},
        baseline_versions=None,
        launches=2,
        seconds=60.0,
    )
    return RunOutcome(machine, (sweep,), "2026-01-31T17:30:00+00:00", 61.5, "0123456", complete=True)


def test_vllm_has_a_line_for_each_launch():
    """With vLLM's names, the median of the launch's rounds, and what vLLM would take from --metadata."""
    first, second = (json.loads(line) for line in vllm.written(run()).splitlines())
    assert (first["output_throughput"], second["output_throughput"]) == (1100.0, 1150.0)
    assert (first["median_ttft_ms"], first["p99_itl_ms"]) == (40.0, 9.0)
    assert (first["date"], first["model_id"], first["max_concurrency"]) == ("20260131-173000", "opt-125m", 8)
    assert (first["request_rate"], first["failed"]) == ("inf", 0)
    assert (first["driver"], first["dtype"], first["engine_version"]) == ("580.65", "bfloat16", "0.33.0")
    assert not first.keys() & {"completed", "num_prompts", "mean_ttft_ms", "total_output_tokens", "duration"}


def test_vllm_has_the_rate_of_an_open_loop():
    """And the concurrency that it was limited to."""
    key = KEY | {"workload": "open-loop", "burstiness": 0.5, "max_concurrency": 64}
    line = json.loads(vllm.written(run(key=key, request_rate=2.5)).splitlines()[0])
    assert (line["request_rate"], line["burstiness"], line["max_concurrency"]) == (2.5, 0.5, 64)


def test_vllm_has_a_static_batch_as_requests_at_once():
    """As many as the batch has; what kind of load it was stands beside it."""
    line = json.loads(vllm.written(run(key=KEY | {"workload": "static-batch"}, batch_size=16)).splitlines()[0])
    assert (line["request_rate"], line["max_concurrency"], line["workload"]) == ("inf", 16, "static-batch")


STRING, COUNT, MAP = "String", "UInt32", {"*": "String"}
HUD = {
    "timestamp": "UInt64",
    "schema_version": STRING,
    "name": STRING,
    "repo": STRING,
    "head_branch": STRING,
    "head_sha": STRING,
    "runners": [
        {
            "name": STRING,
            "type": STRING,
            "cpu_info": STRING,
            "cpu_count": COUNT,
            "mem_info": STRING,
            "avail_mem_in_gb": COUNT,
            "gpu_info": STRING,
            "gpu_count": COUNT,
            "gpu_mem_info": STRING,
            "avail_gpu_mem_in_gb": COUNT,
            "extra_info": MAP,
        }
    ],
    "benchmark": {"name": STRING, "mode": STRING, "dtype": STRING, "extra_info": MAP},
    "model": {"name": STRING, "type": STRING, "backend": STRING, "origins": [STRING], "extra_info": MAP},
    "inputs": {"*": {"dtype": STRING, "extra_info": MAP}},
    "dependencies": {"*": {"repo": STRING, "branch": STRING, "sha": STRING, "version": STRING, "extra_info": MAP}},
    "metric": {"name": STRING, "benchmark_values": ["Float32"], "target_value": "Float32", "extra_info": MAP},
}
"""The columns of the dashboard's table oss_ci_benchmark_v3."""


def fits(value, column):
    """Whether a value goes into a column of that type; what is left out gets the column's default."""
    match column:
        case dict() if "*" in column:
            return isinstance(value, dict) and all(fits(one, column["*"]) for one in value.values())
        case dict():
            return isinstance(value, dict) and all(name in column and fits(value[name], column[name]) for name in value)
        case list():
            return isinstance(value, list) and all(fits(one, column[0]) for one in value)
        case "String":
            return isinstance(value, str)
        case "Float32":
            return isinstance(value, float) and math.isfinite(value) and abs(value) < 3.4e38
    return type(value) is int and 0 <= value < 2 ** int(column.removeprefix("UInt"))


@pytest.mark.parametrize("machine", [H100, Machine("AMD EPYC 9534, 16 cores", "linux-6.1", {"cores": 16})])
def test_the_dashboard_takes_every_record(machine):
    """Each is of one case and metric, with the launches as its values, in the types of the table's columns."""
    records = json.loads(hud.written(run("load/a/concurrency=8", "load/b/concurrency=8", machine=machine)))
    assert len(records) == 2 * len(SAMPLES)
    for record in records:
        assert fits(record, HUD), record
    assert records[0]["metric"]["benchmark_values"] == [1100.0, 1150.0]
    assert records[0]["metric"]["target_value"] == 1120.0
    assert "target_value" not in records[1]["metric"]
    assert records[0]["metric"]["extra_info"]["verdict"] == "unchanged"
    (runner,) = records[0]["runners"]
    assert runner["extra_info"]["driver"] == machine.driver
    assert runner.get("gpu_info") == ("NVIDIA H100" if machine is H100 else None)
    assert runner["cpu_info"].startswith("AMD EPYC")


WORKFLOW = {
    "timestamp": 1,
    "schema_version": "v3",
    "name": "perf",
    "repo": "team/models",
    "head_branch": "main",
    "head_sha": "89abcdef",
    "workflow_id": 17,
    "run_attempt": 1,
    "job_id": 4,
}
"""What the dashboard's upload knows of its workflow, and gives to each record that doesn't say it."""
PLACE = ("schema_version", "repo", "head_branch", "workflow_id", "run_attempt", "job_id")


def curve(record):
    """On which of its curves the dashboard puts a record; it has the columns of the table, and reads these of them."""
    benchmark, model, (runner, *_) = record["benchmark"], record["model"], record["runners"]
    device = runner.get("name") or benchmark["extra_info"].get("device") or "cpu"
    arch = runner.get("type") or benchmark["extra_info"].get("arch") or runner.get("cpu_info")
    whose = model["name"], model["backend"], benchmark["mode"], benchmark["dtype"], device, arch
    return benchmark["name"], record["metric"]["name"], *whose


@pytest.mark.parametrize(
    ("machine", "device"),
    [
        (H100, "cuda"),
        (Machine("AMD EPYC 9534, 16 cores", "linux-6.1", {"cores": 16}), "cpu"),
        (Machine("remote 10.0.0.7:8000", "not said", {"cores": 16}), "remote"),
    ],
)
def test_the_dashboard_puts_every_record_on_a_curve_of_its_own(machine, device):
    """By the case, the metric, the model and where it ran. It belongs to the workflow that uploads it, and is of the
    commit and the time that were measured; a mean of its launches is what is drawn.
    """
    told = json.loads(hud.written(run("load/a/concurrency=8", "load/b/concurrency=8", machine=machine)))
    uploaded = [WORKFLOW | record for record in told]
    assert len({curve(record) for record in uploaded}) == len(uploaded) == 2 * len(SAMPLES)
    for record in uploaded:
        assert {name: record[name] for name in PLACE} == {name: WORKFLOW[name] for name in PLACE}
        assert (record["head_sha"], record["timestamp"]) == ("0123456", 1769880600)
        assert all(curve(record))
        assert curve(record)[2:] == ("opt-125m", "vllm", "inference", "bfloat16", device, machine.device)
        assert record["metric"]["benchmark_values"]


def test_the_dashboard_is_told_no_processor_of_another_machine():
    """The one that is known is of who asked."""
    machine = Machine("remote 10.0.0.7:8000", "not said", {"cpu": "a laptop's", "cores": 16, "memory_gib": 8.0})
    (runner,) = json.loads(hud.written(run(machine=machine)))[0]["runners"]
    assert runner.keys() == {"name", "type", "extra_info"}


def test_llmd_has_one_case():
    """Its quantiles in ms and ms/token, its rates as means of the launches, and no mean of a latency."""
    report = yaml.safe_load(llmd.written(run()))
    aggregate = report["results"]["request_performance"]["aggregate"]
    assert aggregate["throughput"] == {"output_token_rate": {"units": "tokens/s", "mean": 1125.0}}
    ttft = aggregate["latency"]["time_to_first_token"]
    assert (ttft["units"], ttft["p50"], math.isnan(ttft["mean"])) == ("ms", 41.0, True)
    assert aggregate["latency"]["inter_token_latency"]["p99"] == 9.25
    assert "requests" not in aggregate
    (engine,) = report["scenario"]["stack"]
    assert engine["standardized"]["accelerator"]["model"] == "NVIDIA H100"
    assert engine["native"]["args"] == {"option.max_num_seqs": 64}
    assert engine["native"]["config"]["driver"] == "580.65"
    load = report["scenario"]["load"]["standardized"]
    assert (load["tool"], load["concurrency"], load["input_seq_len"]["value"]) == ("pytest-slmperf", 8, 128)


def test_llmd_without_one_prompt_length_has_no_load():
    """The format requires it."""
    report = yaml.safe_load(llmd.written(run(key={**KEY, "prompt_tokens": "uniform 1…128"})))
    assert "load" not in report["scenario"]


def test_llmd_of_several_cases_is_refused():
    """The message names them."""
    with pytest.raises(UsageError, match="of one case, and this one has 2: name it with --case: load/a, load/b"):
        llmd.written(run("load/a", "load/b"))


def test_llmd_has_an_id_of_its_own_for_each_run():
    """And one of the configuration that stays."""
    first, second = (
        yaml.safe_load(llmd.written(replace(run(), started_at=f"2026-01-0{day}T00:00:00Z"))) for day in (1, 2)
    )
    assert first["run"]["uid"] != second["run"]["uid"]
    ids = [one["scenario"]["stack"][0]["metadata"]["cfg_id"] for one in (first, second)]
    assert ids[0] == ids[1]
