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


def test_knees(decode):
    for curve in decode.curves:
        assert curve.knee.unchanged_from(curve.baseline.knee)


def test_frontier(decode):
    assert decode.frontier.unchanged_from(decode.baseline.frontier)
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


def test_every_variant_is_measured_stored_and_judged(varied):
    """Each is an engine of its own, with a key of its own; a second run finds each case by its name."""
    varied.write("test_suite.py", VARIED.replace("threads=[1, 2]", "threads=[2]"))
    report = varied.path / "report.json"
    assert varied.gate("--slmperf-accept").ret == 0
    stored = json.loads(varied.baseline().read_text())["cases"]
    assert [name.partition("/threads=2/")[::2] for name in stored] == [
        (f"decode/opt-125m/dtype={dtype}", f"batch={batch}") for dtype in ("float32", "int8") for batch in (1, 16)
    ]
    done = varied.gate(f"--slmperf-report={report}")
    assert done.ret == 0, done.stdout.str()
    assert "opt-125m/dtype=int8/threads=2" in done.stdout.str()
    (sweep,) = json.loads(report.read_text())["sweeps"]
    assert [(spec["dtype"], spec["threads"]) for spec in sweep["specs"]] == [("float32", 2), ("int8", 2)]
    assert sweep["cases"][-1]["coordinates"] == {"model": "opt-125m", "dtype": "int8", "threads": 2, "batch_size": 16}


def test_the_quick_tier_and_settings_cut_what_is_varied(varied):
    """The ends of numbers, every name; a test of a variant that isn't there is skipped, and says so."""
    varied.settings('machine = [{ sweep = { decode = { dtype = ["int8"], threads = [1, 4, 8] } } }]')
    said = prose(varied.gate("--collect-only", "--slmperf-tier=quick"))
    assert "launches of 2 variants" in said
    assert "decode/opt-125m/dtype=int8/threads=8/batch=16" in said
    assert "threads=4" not in said.partition("test session starts")[2].partition("slmperf:")[2]
    done = prose(varied.gate("--slmperf-no-gate", "-k", "test_limit", "-rs"))
    assert "decode has threads=[1, 4, 8] on this machine and tier, not [2]" in done
