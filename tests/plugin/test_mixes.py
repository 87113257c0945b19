"""A suite of models side by side, as a user would have it."""

import json

SUITE = """
import pytest

from pytest_slmperf import Beside, Slo, StaticBatch, Sweep

OTHER = Beside("opt-1.3b", request_rate=40, prompt_tokens=16, output_tokens=16, slo=Slo(ttft_ms=50),
               options={"level": 500})
MIX = Sweep("mix", StaticBatch(prompt_tokens=16, output_tokens=16), batch_size=[8], model=["opt-125m"],
            beside=[None, OTHER], percentiles=[90])


@pytest.fixture(scope="module")
def mix(slmperf, slm_engine):
    return slmperf.measure(MIX, slm_engine)


@MIX.each
def test_slo(mix, beside, batch_size):
    assert mix.of(beside=beside)[batch_size].tpot_ms <= 100


def test_slo_of_the_other(mix):
    other = mix.of(beside=OTHER)[8]
    assert other.beside_1_goodput_share >= 0.9
    assert other.beside_1_ttft_ms.p90 <= 50
    assert other.beside_1_e2el_ms <= 10


def test_little(mix):
    assert mix.slowdown(OTHER) <= 1.1


def test_enough(mix):
    assert mix.slowdown("opt-1.3b@40rps") <= 1.5


def test_each_latency(mix):
    assert mix.slowdown(OTHER, name="tpot_ms") <= 1.5
"""


def test_a_mix_is_held_to_its_limits(fresh):
    """Cases are called by who is beside, what those generated is told, and a slowdown beyond its limit is red."""
    fresh.write("test_suite.py", SUITE)
    engine = "fake:noise=0.002,launch_noise=0.002,seed=1,beside_cost=0.25"
    done = fresh.gate("--slmperf-report=report.json", engine=engine)
    done.assert_outcomes(passed=5, failed=2)
    done.stdout.fnmatch_lines(["*regressed: mix/opt-125m slowdown - 1.2* times as slow*"])
    done.stdout.fnmatch_lines(["*beside=opt-1.3b@40rps/batch=8 beside_1_median_e2el_ms*limit at most 10 ms*"])
    report = json.loads((fresh.path / "report.json").read_text())
    cases = {case["case"]: case for case in report["sweeps"][0]["cases"]}
    assert list(cases) == [f"mix/opt-125m/beside={who}/batch=8" for who in ("none", "opt-1.3b@40rps")]
    assert cases["mix/opt-125m/beside=opt-1.3b@40rps/batch=8"]["samples"]["beside_1_output_throughput"]
