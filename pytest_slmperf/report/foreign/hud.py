"""Records of PyTorch's benchmark dashboard (HUD), format v3: one for each case and metric, with no place of its own for
a driver, which is noted beside the runner.

Written as pytorch/test-infra reads it: `.github/scripts/upload_benchmark_results.py` takes each record that has a
metric, adds what the workflow knows (its repository, branch and run) where the record doesn't say it, and the rows of
the table `oss_ci_benchmark_v3` are queried by `torchci/clickhouse_queries/oss_ci_benchmark_llms`.
"""

import json
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from pytest_slmperf.core.baselines.baseline import instant
from pytest_slmperf.core.machine import Machine, Scalar, shown
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import CaseOutcome, RunOutcome, SweepOutcome

NAME = "pytest-slmperf"


def written(run: RunOutcome) -> str:
    """All records, as the JSON list that vLLM's own are uploaded as."""
    records = [record for sweep in run.sweeps for case in sweep.cases.values() for record in _records(run, sweep, case)]
    return json.dumps(records, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _records(run: RunOutcome, sweep: SweepOutcome, case: CaseOutcome) -> Iterator[dict[str, Any]]:
    key, when = case.measurement.key, instant(run.started_at)
    same = {
        "schema_version": "v3",
        "name": NAME,
        **({"timestamp": int(when.timestamp())} if when else {}),
        **({"head_sha": run.commit} if run.commit else {}),
        "runners": [_runner(run.machine)],
        "benchmark": {
            "name": case.case,
            "mode": "inference",
            "dtype": _text(key.get("dtype")),
            "extra_info": {name: _text(value) for name, value in {**key, **case.coordinates}.items()},
        },
        "model": {"name": _text(key.get("model")), "type": "language model", "backend": _text(key.get("engine"))},
        "dependencies": {name: {"version": version} for name, version in sweep.versions.items()},
    }
    for name, sample in case.measurement.samples.items():
        yield {**same, "metric": _metric(case, name, [median(rounds) for rounds in sample.launches])}


def _metric(case: CaseOutcome, name: str, launches: list[float]) -> dict[str, Any]:
    meaning, verdict = metric(name), case.verdicts.get(name)
    baseline = case.baseline.samples.get(name) if case.baseline else None
    said = {"verdict": str(verdict.status)} if verdict is not None and verdict.judged else {}
    return {
        "name": name,
        "benchmark_values": launches,
        **({"target_value": baseline.median} if baseline else {}),
        "extra_info": {"unit": meaning.unit, "direction": meaning.direction, **said},
    }


def _runner(machine: Machine) -> dict[str, Any]:
    kind, fields = machine.kind, machine.fields
    on_gpu, here = kind == "cuda", kind in ("cpu", "cuda")  # what is known of others is of who asked them
    return {
        "name": kind,  # without it, it is taken for a CPU, or not shown
        "type": machine.device,
        **({"cpu_info": _text(fields.get("cpu")) if on_gpu else machine.device} if here else {}),
        **(_whole("cpu_count", fields.get("cores")) if here else {}),
        **(_whole("avail_mem_in_gb", fields.get("memory_gib")) if here else {}),
        **({"gpu_info": machine.device} if on_gpu else {}),
        "extra_info": {"driver": machine.driver, **{name: _text(value) for name, value in fields.items()}},
    }


def _whole(name: str, value: Scalar) -> Mapping[str, int]:
    return {name: int(value)} if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 else {}


def _text(value: object) -> str:
    return "" if value is None else shown(value) if isinstance(value, bool) else str(value)
