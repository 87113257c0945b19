"""Suites that vary the engine beside the place: what pytest collects of them, measures, stores and judges."""

import json

import pytest
from projects import prose

VARIED = """
import pytest

from pytest_slmperf import StaticBatch, Sweep

DECODE = Sweep("decode", StaticBatch(prompt_tokens=16, output_tokens=16), batch_size=[1, 16], model=["opt-125m"],
               dtype=["float32", "int8"], threads=[1, 2], gate={"output_throughput": 0.03, "tpot_ms": 0.05})


@pytest.fixture(scope="module")
def decode(slmperf, slm_engine):
    return slmperf.measure(DECODE, slm_engine)


@DECODE.each
def test_throughput(decode, dtype, threads, batch_size):
    point = decode.of(dtype=dtype, threads=threads)[batch_size]
    assert (point.key["dtype"], point.key["threads"]) == (dtype, threads)
    assert point.output_throughput >= point.baseline.output_throughput


@DECODE.each
def test_each_token(decode, dtype, threads, batch_size):
    point = decode.of(dtype=dtype, threads=threads)[batch_size]
    assert point.tpot_ms <= point.baseline.tpot_ms


@DECODE.at(16, dtype="int8", threads=2)
def test_limit(decode):
    assert decode.of(dtype="int8", threads=2)[16].tpot_ms <= 10_000
"""

REPLICAS = """
import pytest

from pytest_slmperf import StaticBatch, Sweep

DECODE = Sweep("decode", StaticBatch(prompt_tokens=16, output_tokens=16), batch_size=[2, 16], model=["opt-125m"],
               replicas=[1, 2], gate={"output_throughput": 0.03, "tpot_ms": 0.05})


@pytest.fixture(scope="module")
def decode(slmperf, slm_engine):
    return slmperf.measure(DECODE, slm_engine)


@DECODE.each
def test_each(decode, replicas, batch_size):
    point = decode.of(replicas=replicas)[batch_size]
    assert point.key["replicas"] == replicas
    assert point.output_throughput >= point.baseline.output_throughput
    assert point.tpot_ms <= point.baseline.tpot_ms


def test_best_replicas(decode):
    print(decode.best_replicas)
    assert {str(curve.knee.value.case) for curve in decode.curves} == {
        "decode/opt-125m/replicas=1", "decode/opt-125m/replicas=2"
    }
"""


@pytest.fixture
def varied(fresh):
    """A project with a sweep over types and threads."""
    fresh.write("test_suite.py", VARIED)
    return fresh


def test_a_test_takes_what_is_varied(varied):
    """Its id says it, and the plan names the cases of those that are selected, and no others."""
    said = varied.gate("--collect-only", "-q", "-k", "throughput and int8-threads2 or test_limit")
    ids = [line.partition("::")[2] for line in said.stdout.lines if line.startswith("test_suite.py::")]
    assert ids == [
        "test_throughput[batch1-int8-threads2]",
        "test_throughput[batch16-int8-threads2]",
        "test_limit",
    ]
    assert "decode: 2 cases: decode/opt-125m/dtype=int8/threads=2/batch=1, " in prose(said)


def test_every_variant_is_measured_as_an_engine_of_its_own(varied):
    """A pool of so many replicas, with a key of its own; the report holds each of them, and what they are together."""
    varied.write("test_suite.py", REPLICAS)
    report = varied.path / "report.json"
    done = varied.gate("--slmperf-no-gate", f"--slmperf-report={report}", "-s")
    assert done.parseoutcomes() == {"passed": 2, "skipped": 4}
    assert "2 replicas (" in prose(done)
    assert "opt-125m/replicas=2" in [line.strip() for line in done.stdout.lines]
    (sweep,) = json.loads(report.read_text())["sweeps"]
    assert [spec["pool"]["replicas"] for spec in sweep["specs"]] == [1, 2]
    assert [(case["case"], case["key"]["replicas"]) for case in sweep["cases"]] == [
        (f"decode/opt-125m/replicas={count}/batch={batch}", count) for count in (1, 2) for batch in (2, 16)
    ]
    assert sweep["cases"][-1]["coordinates"] == {"model": "opt-125m", "replicas": 2, "batch_size": 16}


def test_the_quick_tier_and_settings_cut_what_is_varied(varied):
    """The ends of numbers, every name; a test of a variant that isn't there is skipped, and says so."""
    varied.settings('machine = [{ sweep = { decode = { dtype = ["int8"], threads = [1, 4, 8] } } }]')
    said = prose(varied.gate("--collect-only", "--slmperf-tier=quick"))
    assert "launches of 2 variants" in said
    assert "decode/opt-125m/dtype=int8/threads=8/batch=16" in said
    assert "threads=4" not in said.partition("test session starts")[2].partition("slmperf:")[2]
    done = prose(varied.gate("--slmperf-no-gate", "-k", "test_limit", "-rs"))
    assert "decode has threads=[1, 4, 8] on this machine and tier, not [2]" in done
