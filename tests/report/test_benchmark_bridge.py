"""The bridge to pytest-benchmark, against the real one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_benchmark.stats import Stats
from rendered_runs import case_outcome, run_outcome, sweep_outcome

from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.verdict import Status
from pytest_slmperf.report import document
from pytest_slmperf.report.benchmark import benchmarks, stats

pytest_plugins = ["pytester"]

RUN = run_outcome(sweep_outcome(case_outcome(4, Status.REGRESSED), case_outcome(16)))
CONFTEST = """
import json
from pathlib import Path
from pytest_slmperf.plugin.benchmark import register
from pytest_slmperf.report.document import outcome

def pytest_configure(config):
    run = outcome(json.loads(Path(__file__).with_name("run.json").read_text()))
    register(config, lambda: run)
"""


@pytest.fixture
def project(pytester):
    """A folder whose conftest registers the bridge with a run made by hand."""
    pytester.makeconftest(CONFTEST)
    (pytester.path / "run.json").write_text(document.text(RUN), encoding="utf-8")
    return pytester


def written(path):
    return {entry["fullname"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))["benchmarks"]}


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=40))
def test_stats_are_those_of_pytest_benchmark(seconds):
    """Every statistic is the one that pytest-benchmark itself would write of the same durations."""
    theirs = Stats()
    for value in seconds:
        theirs.update(value)
    mine = stats(seconds)
    assert {name: mine[name] for name in Stats.fields} == pytest.approx(theirs.as_dict(), nan_ok=False)


def test_operations_are_output_tokens_per_second():
    """`ops` is the output throughput over all rounds, and `median` the seconds of one output token."""
    entry = benchmarks(RUN)[1]
    rates = RUN.sweeps[0].cases["decode/opt-125m/batch=16"].measurement.samples["output_throughput"]
    assert entry["stats"]["rounds"] == 14 * 5
    assert entry["stats"]["ops"] == pytest.approx(rates.median, rel=0.01)
    assert entry["stats"]["median"] == pytest.approx(1 / rates.median, rel=0.01)


def test_everything_else_is_extra_info():
    """Energy and latency stand in extra_info with their units, and so do the verdicts."""
    entry = benchmarks(RUN)[0]
    assert (entry["group"], entry["params"]) == ("decode", {"model": "opt-125m", "batch_size": 4})
    info = entry["extra_info"]
    assert info["units"] == {name: metric(name).unit for name in info["units"]}
    assert 0.4 < info["joules_per_output_token"] < 0.5
    assert info["verdicts"]["output_throughput"] == "regressed"


def test_cases_without_throughput_have_no_entry():
    """A case whose throughput was not measured is no benchmark: there are no seconds to write."""
    assert benchmarks(run_outcome(sweep_outcome())) == []


def test_beside_a_benchmark(project):
    """Where a test used the benchmark fixture, our cases stand beside it in the same file."""
    project.makepyfile("def test_sum(benchmark): benchmark.pedantic(sum, ([1, 2],), rounds=3)")
    result = project.runpytest("--benchmark-json=out.json", "-p", "no:randomly")
    assert result.ret == 0
    found = written(project.path / "out.json")
    assert set(found) == {"test_beside_a_benchmark.py::test_sum", *RUN.sweeps[0].cases}


def test_without_a_benchmark(project):
    """Where no test used the fixture, the file is written all the same, and nobody says that nothing is saved."""
    project.makepyfile("def test_nothing(): pass")
    result = project.runpytest("--benchmark-json=out.json", "-W", "error")
    assert result.ret == 0
    result.stderr.no_fnmatch_line("*no benchmarks*")
    found = written(project.path / "out.json")
    assert set(found) == set(RUN.sweeps[0].cases)
    assert len(found["decode/opt-125m/batch=4"]["stats"]["data"]) == 70


def test_saved_runs_are_compared(project):
    """A file saved with --benchmark-autosave can be compared with by pytest-benchmark's own option."""
    project.makepyfile("def test_sum(benchmark): benchmark.pedantic(sum, ([1, 2],), rounds=3)")
    project.makeconftest(CONFTEST)
    assert project.runpytest("--benchmark-autosave").ret == 0
    result = project.runpytest("--benchmark-compare")
    assert result.ret == 0
    result.stderr.fnmatch_lines(["*Comparing against benchmarks from:*0001_*"])


def test_autosave_without_a_benchmark(project):
    """--benchmark-autosave alone writes a file into pytest-benchmark's storage too."""
    project.makepyfile("def test_nothing(): pass")
    assert project.runpytest("--benchmark-autosave").ret == 0
    (saved,) = (project.path / ".benchmarks").rglob("0001_*.json")
    assert set(written(saved)) == set(RUN.sweeps[0].cases)


def test_under_xdist(project):
    """Under xdist the controller writes the file, once."""
    project.makepyfile("def test_one(): pass\ndef test_two(): pass")
    result = project.runpytest("--benchmark-json=out.json", "-n", "2")
    assert result.ret == 0
    assert set(written(project.path / "out.json")) == set(RUN.sweeps[0].cases)


def test_unasked(project):
    """Without an option of pytest-benchmark, no file is written."""
    project.makepyfile("def test_nothing(): pass")
    assert project.runpytest().ret == 0
    assert not list(project.path.rglob("*benchmark*.json"))


def test_switched_off(project):
    """Where pytest-benchmark is switched off, nothing is registered and nothing fails."""
    project.makepyfile("def test_nothing(): pass")
    result = project.runpytest("-p", "no:benchmark")
    assert result.ret == 0
