"""Suites over concurrency, request rate and speed: what pytest collects of them, and what a run says of them before."""

import pytest
from projects import prose

TRAFFIC = """
import pytest

from pytest_slmperf import ClosedLoop, OpenLoop, Replay, Slo, Sweep

SERVE = Sweep("serve", ClosedLoop(16, 16), concurrency=[1, 8, 32], model=["opt-125m"], gate=["output_throughput"])
RATE = Sweep("rate", OpenLoop(16, 16), request_rate=[1, 2.5], model=["opt-125m"], slo=Slo(ttft_ms=200),
             gate=["request_goodput"])
REPLAY = Sweep("replay", Replay(seconds=60), speed=[1], model=["opt-125m"])


@pytest.fixture(scope="module")
def measured(slmperf, slm_engine):
    return lambda sweep: slmperf.measure(sweep, slm_engine)


@SERVE.each
def test_throughput(measured, concurrency):
    point = measured(SERVE)[concurrency]
    assert point.output_throughput >= point.baseline.output_throughput


@SERVE.at(32)
def test_all_at_once(measured):
    assert measured(SERVE)[32].ttft_ms <= 10_000


@RATE.each
def test_goodput(measured, request_rate, model):
    point = measured(RATE)[model, request_rate]
    assert point.request_goodput >= point.baseline.request_goodput


@REPLAY.each
def test_replay(measured, speed):
    assert measured(REPLAY)[speed].output_throughput >= 1
"""


@pytest.fixture
def traffic(fresh):
    """A project with sweeps of every axis."""
    fresh.write("test_suite.py", TRAFFIC)
    return fresh


def collected(result):
    return [line.partition("::")[2] for line in result.stdout.lines if line.startswith("test_suite.py::")]


@pytest.mark.parametrize("run", ["gate", "plain"])
def test_a_test_takes_the_axis_of_its_sweep(traffic, run):
    """Its ids say what is varied, with the performance suites switched on or off."""
    assert collected(getattr(traffic, run)("--collect-only", "-q")) == [
        "test_throughput[concurrency1]",
        "test_throughput[concurrency8]",
        "test_throughput[concurrency32]",
        "test_all_at_once",
        "test_goodput[rate1-opt-125m]",
        "test_goodput[rate2.5-opt-125m]",
        "test_replay[speed1]",
    ]


def test_the_plan_names_the_selected_cases(traffic):
    """`-k` looks for what the ids say; a test that is bound to one place has no other measured."""
    said = prose(traffic.gate("--collect-only", "-k", "concurrency8 or at_once or rate2.5"))
    assert "serve: 2 cases: serve/opt-125m/concurrency=8, serve/opt-125m/concurrency=32" in said
    assert "rate: 1 case: rate/opt-125m/rate=2.5" in said
    assert "replay" not in said.partition("serve:")[2]


def test_the_quick_tier_takes_the_ends_of_an_axis(traffic):
    """The smallest and the largest place, whatever is varied; a test of another one is skipped, and says so."""
    traffic.write("test_suite.py", TRAFFIC.replace("SERVE.at(32)", "SERVE.at(8)"))
    said = prose(traffic.gate("--collect-only", "--slmperf-tier=quick"))
    assert "serve/opt-125m/concurrency=1, serve/opt-125m/concurrency=32" in said
    assert "concurrency=8" not in said


def test_settings_set_any_axis_of_a_machine(traffic):
    """By its name; one that the sweep doesn't vary is an error that names its own."""
    traffic.write("pyproject.toml", "[[tool.slmperf.machine]]\nsweep.serve = { concurrency = [2] }\n")
    assert "serve: 1 case: serve/opt-125m/concurrency=2" in prose(traffic.gate("--collect-only", "-k", "throughput"))
    traffic.write("pyproject.toml", "[[tool.slmperf.machine]]\nsweep.serve = { batch_size = [2] }\n")
    result = traffic.gate("--collect-only")
    assert result.ret != 0
    assert "Sweep 'serve' varies concurrency; the settings give batch_size" in prose(result)


def test_an_engine_of_static_batches_is_skipped_before_it_starts(traffic):
    """The plan says which engines can take such requests."""
    said = prose(traffic.gate("--collect-only", "-k", "goodput", engine="ctranslate2"))
    assert "rate: skipped, ctranslate2 serves static batches only" in said
    assert "fake" in said.partition("come one by one")[2]
