"""Suites of requests that come and go one by one, as whole runs: green, red by a loss, and red by each guard.

Those of a table go side by side; each is a process of its own.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from projects import Project

ENGINE = "fake:launch_noise=0.002,seed=1,level=4000"

SETTINGS = """
[tool.slmperf]
traffic_s = 1
void_retries = 1
max_launches = 8
order_seed = 1

[tool.pytest.ini_options]
filterwarnings = ["error"]
"""

SUITE = """
import pytest

from pytest_slmperf import ClosedLoop, OpenLoop, Slo, Sweep

SERVE = Sweep("serve", ClosedLoop(16, 16), concurrency=[1, 8], model=["opt-125m"],
              gate={"output_throughput": 0.03, "ttft_ms": 0.1})
RATE = Sweep("rate", OpenLoop(16, 16), request_rate=[40], model=["opt-125m"], slo=Slo(e2el_ms=50),
             gate={"e2el_ms": 0.1, "request_goodput": 0.05})


@pytest.fixture(scope="module")
def measured(slmperf, slm_engine):
    return lambda sweep: slmperf.measure(sweep, slm_engine)


@SERVE.each
def test_throughput(measured, concurrency):
    point = measured(SERVE)[concurrency]
    assert point.output_throughput >= point.baseline.output_throughput


@SERVE.each
def test_first_token(measured, concurrency):
    point = measured(SERVE)[concurrency]
    assert point.ttft_ms <= point.baseline.ttft_ms


@RATE.each
def test_latency(measured, request_rate):
    point = measured(RATE)[request_rate]
    assert point.e2el_ms <= point.baseline.e2el_ms


@RATE.each
def test_goodput(measured, request_rate):
    point = measured(RATE)[request_rate]
    assert point.request_goodput >= point.baseline.request_goodput
"""


class TrafficProject(Project):
    """A folder with a closed and an open loop."""

    def __init__(self, path):
        super().__init__(path)
        self.write("pyproject.toml", SETTINGS)
        self.write("test_suite.py", SUITE)

    def run(self, *args, engine=ENGINE):
        return self.apart("--slmperf-report", "report.json", *args, engine=engine)

    def verdicts(self):
        """By sweep and metric: those of all its cases."""
        found = {}
        for sweep in json.loads((self.path / "report.json").read_text())["sweeps"]:
            for case in sweep["cases"]:
                for metric, verdict in case["verdicts"].items():
                    found.setdefault((sweep["sweep"], metric), set()).add(verdict["verdict"])
        return found


@dataclass(frozen=True)
class Run:
    """What a run with this engine has to say."""

    options: str
    says: str
    verdict: str = "void"


RUNS = {
    "nothing": Run("", "6 unchanged", "unchanged"),
    "a loss is planted": Run("slowed=0.2", "regressed: serve/opt-125m/concurrency=8 output_throughput", "regressed"),
    "requests fail": Run("fault=refuses", "requests failed, the first of them: the fake engine was told to refuse"),
    "answers are short": Run("fault=short", "answers have other than the tokens asked for"),
    "prompts are cached": Run("fault=caches", "prompt tokens came from a cache, and they share none"),
    "requests are put off": Run("fault=preempts", "the engine put requests off"),
    "it starts anew": Run("fault=restarts", "the engine was started anew in the middle"),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Each run of the table over one recorded baseline: what it said, and its verdicts."""
    recorded = TrafficProject(tmp_path_factory.mktemp("recorded"))
    said = recorded.run("--slmperf-accept")
    assert said.endswith("exit code 0"), said

    def run(one):
        project = recorded.again(tmp_path_factory.mktemp("again"))
        return " ".join(project.run(engine=f"{ENGINE},{one.options}".rstrip(",")).split()), project.verdicts()

    with ThreadPoolExecutor(2) as side_by_side:
        return dict(zip(RUNS, side_by_side.map(run, RUNS.values()), strict=True))


@pytest.mark.parametrize("name", RUNS)
def test_a_run_over_traffic_says_what_it_was(ran, name):
    """Unchanged is green; a loss is red in throughput and latency; what disturbs is void by its name, never a pass."""
    said, verdicts = ran[name]
    assert RUNS[name].says in said
    assert said.endswith(f"exit code {0 if name == 'nothing' else 1}")
    assert verdicts["serve", "output_throughput"] == {RUNS[name].verdict}
    assert verdicts["rate", "median_e2el_ms"] == {RUNS[name].verdict}


def test_why_a_case_is_void_is_told_once(ran):
    """By the first test that asserts one of its metrics; the others name that test."""
    said, _ = ran["requests fail"]
    failures = said.partition("= FAILURES =")[2].partition("= slmperf")[0]
    same = "request_goodput - the same as in test_suite.py::test_latency[rate40]"
    assert f"AssertionError: void: rate/opt-125m/rate=40 {same}" in failures
    assert failures.count("void: rate/opt-125m/rate=40 median_e2el_ms - ") == 1
    assert failures.count("requests failed, the first of them") <= 3  # cases


def test_the_report_has_what_each_round_tells_of_a_percentile(tmp_path):
    """An interval for each round of each launch, beside the samples; none of throughput."""
    project = TrafficProject(tmp_path)
    project.run("--slmperf-no-gate", "-k", "latency")
    ((case,),) = (one["cases"] for one in json.loads((tmp_path / "report.json").read_text())["sweeps"])
    assert case["round_intervals"].keys() == {"median_ttft_ms", "median_tpot_ms", "median_e2el_ms"}
    for name, launches in case["round_intervals"].items():
        assert list(map(len, launches)) == list(map(len, case["samples"][name]["launches"]))
        assert all(low <= high for rounds in launches for low, high in rounds)


def test_a_loss_that_no_limit_feels_leaves_goodput_unchanged(ran):
    """Each verdict is of its own metric: answers that take longer may still be quick enough."""
    _, verdicts = ran["a loss is planted"]
    assert verdicts["rate", "request_goodput"] == {"unchanged"}
