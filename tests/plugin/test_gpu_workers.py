"""pytest-xdist on a machine with several GPUs: each worker that measures has one of its own."""

import json
import os

import pytest
from onchip import SUITE, OnChipProject

pytest.importorskip("pynvml")
UUIDS = [f"GPU-00000000-0000-4000-8000-{board:012}" for board in range(2)]


@pytest.mark.alone
def test_suites_are_shared_out_to_workers_with_a_gpu_each(tmp_path):
    """A file's tests stay together, with a check of their own; the report has all that was measured, and both GPUs."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two engines need a core each")
    project = OnChipProject(tmp_path)
    project.write("test_other.py", SUITE.replace("DECODE", "OTHER").replace('"decode"', '"other"'))
    command = ("-n2", "-v", "--slmperf-no-gate", "--slmperf-report=report.json")
    said = project.run(*command, scenario=("boards 2",), keep=("xdist",))
    assert said.endswith("exit code 0"), said
    report = json.loads((tmp_path / "report.json").read_text())
    assert sorted(sweep["sweep"] for sweep in report["sweeps"]) == ["decode", "other"]
    assert all(case["samples"] for sweep in report["sweeps"] for case in sweep["cases"])
    assert (report["complete"], report["whole"]) == (True, True)
    assert sorted(report["machine"]["fields"]["gpu_uuid"].split(", ")) == UUIDS
    assert sorted(sweep["notes"][0] for sweep in report["sweeps"]) == [f"measured on {board}" for board in UUIDS]
    assert {f"a worker of this run measured on GPU {board}" for board in range(2)} <= set(report["remarks"])
    workers = {
        name: {line.split("]")[0] for line in said.splitlines() if name in line and line.startswith("[gw")}
        for name in ("test_suite.py", "test_other.py", "whole-run-2")
    }
    assert [len(found) for found in workers.values()] == [1, 1, 1]
    assert workers["test_suite.py"] != workers["test_other.py"]
