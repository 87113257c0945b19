"""A suite as the documentation shows it: recorded, green, and red where the engine lost."""

import json
import re

import pytest
from projects import ENGINE, SLOWED, SUITE, UNDECIDED, prose

FULL = """
import pytest

from pytest_slmperf import StaticBatch, Sweep

DECODE = Sweep("decode", StaticBatch(prompt_tokens=16, output_tokens=16), batch_size=[1, 4, 16, 64],
               gate={"output_throughput": 0.03, "tpot_ms": 0.05}, percentiles=[99])


@pytest.fixture(scope="module")
def decode(slmperf, slm_engine):
    return slmperf.measure(DECODE, slm_engine("opt-125m"))


@DECODE.each
def test_throughput(decode, batch_size):
    point = decode[batch_size]
    assert point.output_throughput >= point.baseline.output_throughput


@DECODE.each
def test_each_token(decode, batch_size):
    point = decode[batch_size]
    assert point.tpot_ms <= point.baseline.tpot_ms


def test_knee_holds(decode):
    assert decode.knee.unchanged_from(decode.baseline.knee)


def test_frontier_holds(decode):
    assert decode.frontier.unchanged_from(decode.baseline.frontier)


@DECODE.at(16)
def test_slo(decode):
    assert decode[16].ttft_ms.p99 <= 200
    assert 1 <= decode[16].output_throughput
"""


def test_a_suite_is_recorded_then_green_then_red(fresh):
    """Recording judges nothing, the next run is green, and an engine that lost a fifth is red where it lost."""
    fresh.write("test_suite.py", FULL)
    bending = f"{ENGINE},knee=1.5"
    accepted = fresh.gate("--slmperf-accept", "-rs", engine=bending)
    accepted.assert_outcomes(skipped=11, passed=1)
    accepted.stdout.fnmatch_lines(["*recorded, not judged*", "recorded in*", "4 cases measured*"])
    green = fresh.gate("-v", engine=bending)
    green.assert_outcomes(passed=12)
    green.stdout.fnmatch_lines(["*test_throughput[[]batch64[]] PASSED*", "slmperf::whole-run PASSED*"])
    red = fresh.gate("--slmperf-report=report.json", engine=f"{bending},slowed=0.2")
    assert red.ret == 1
    red.assert_outcomes(failed=9, passed=3)
    red.stdout.fnmatch_lines(["*frontier*are no longer reached by any case*"])
    report = json.loads((fresh.path / "report.json").read_text())
    claimed = {claim["metric"]: claim for claim in report["claims"]}["frontier of output_throughput and median_tpot_ms"]
    assert claimed["verdict"] == "regressed"
    assert "; confirmed by fresh launches: " in claimed["reason"]
    assert report["launches"] == 1 + 8 + 8 + 8


MOVED = """
@pytest.mark.parametrize("share", [0.7, 0.8])
def test_knee_holds(decode, share):
    now, stored = (side.knee_by("share_of_maximum", share=share) for side in (decode, decode.baseline))
    assert now.unchanged_from(stored)
"""


def test_a_knee_that_moved_is_confirmed_in_fresh_launches(fresh):
    """What looks regressed as a whole is measured again, once for all claims, while the tests run, and is billed."""
    fresh.write("test_suite.py", FULL.partition("def test_knee_holds")[0] + MOVED)
    fresh.gate("--slmperf-accept", engine=f"{ENGINE},knee=4").assert_outcomes(skipped=10, passed=1)
    options = ("-k", "knee", "--slmperf-against=option.knee=4", "--slmperf-report=report.json")
    red = fresh.gate(*options, engine=f"{ENGINE},knee=1")
    report = json.loads((fresh.path / "report.json").read_text())
    assert [claim["metric"] for claim in report["claims"]] == ["knee", "knee"]
    for claim in report["claims"]:
        assert (claim["verdict"], "; confirmed by fresh launches: " in claim["reason"]) == ("regressed", True)
    assert report["launches"] == 1 + 8 + 8 + 8
    (sweep,) = report["sweeps"]
    assert sweep["fresh_launches"] == 8
    for case in sweep["cases"]:
        assert (case["fresh"]["launches"], case["fresh_baseline"]) == (list(range(17, 25)), None)
        assert len(case["fresh"]["samples"]["output_throughput"]["launches"]) == 8
    assert "8 of 25 launches were made afresh, since a claim on the whole sweep looked regressed" in prose(red)
    red.assert_outcomes(failed=2, passed=1, deselected=8)


LINE = re.compile(
    r"regressed: decode/opt-125m/batch=16 output_throughput [\d,.]+ → [\d,.]+ tok/s "
    r"\(-\d+\.\d%, 95 % CI -\d+\.\d%…-\d+\.\d%, 20×2 vs 8×2 launches×rounds; tolerance 3\.0%, MDE \d+\.\d%\)"
)


@pytest.mark.parametrize("how", ["rewritten", "-p no:assertion", "--assert=plain"])
def test_a_regression_is_one_line_at_the_suites_own_line(project, how):
    """What fails is the assertion of the metric that lost, with figures, with and without assertion rewriting."""
    options = how.split() if how != "rewritten" else []
    red = project.gate("-k", "test_throughput and 16", *options, engine=SLOWED)
    red.assert_outcomes(failed=1, passed=1, deselected=3)
    said = red.stdout.str()
    assert LINE.search(said)
    assert ">       assert point.output_throughput >= point.baseline.output_throughput" in said
    assert "verdict.py" not in said


def test_several_models_are_measured_together_and_looked_up_by_name(fresh):
    """A sweep over models takes the fixture itself, interleaves their launches and gives each point by its model."""
    fresh.write(
        "test_suite.py",
        """
import pytest
from pytest_slmperf import StaticBatch, Sweep

DECODE = Sweep("decode", StaticBatch(16, 16), model=["opt-125m", "opt-1.3b"], batch_size=[1, 4])

@pytest.fixture(scope="module")
def decode(slmperf, slm_engine):
    return slmperf.measure(DECODE, slm_engine)

@DECODE.each
def test_limit(decode, model, batch_size):
    assert decode[model, batch_size].output_throughput >= 10

def test_parts(decode):
    assert decode.models == ("opt-125m", "opt-1.3b")
    assert len(decode) == 4
    assert [point.case for point in decode.of("opt-1.3b")] == ["decode/opt-1.3b/batch=1", "decode/opt-1.3b/batch=4"]
    assert decode["opt-125m", 4].output_throughput.median > 1000

def test_one_must_be_named(decode):
    decode[1]
""",
    )
    result = fresh.gate("-v")
    result.assert_outcomes(passed=6, failed=1)
    result.stdout.fnmatch_lines(["*test_limit[[]batch4-opt-1.3b[]] PASSED*", "*name one of opt-125m, opt-1.3b*"])


def test_at_one_batch_size_measures_only_that(project):
    """A test that says which batch size it looks at has no other one measured."""
    project.write(
        "test_suite.py", SUITE + "\n@DECODE.at(16)\ndef test_slo(decode):\n    assert decode[16].ttft_ms <= 200\n"
    )
    result = project.gate("-k", "test_slo")
    result.assert_outcomes(passed=2, deselected=4)
    assert "batch=1:" not in result.stdout.str()
    result.stdout.fnmatch_lines(["slmperf: decode: 1 case: decode/*/batch=16"])


def test_a_sweep_is_measured_once_in_a_run(project):
    """Two fixtures that measure the same sweep on the same engine share one measurement."""
    project.write(
        "test_suite.py",
        SUITE
        + """
@pytest.fixture(scope="module")
def again(slmperf, slm_engine):
    return slmperf.measure(DECODE, slm_engine("opt-125m"))

def test_same(decode, again):
    assert decode[1].output_throughput.median == again[1].output_throughput.median
""",
    )
    result = project.gate()
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["4 unchanged; 9 launches in *"])


def test_the_fixtures_are_their_own_manual(fresh):
    """`pytest --fixtures` tells how to use what the plugin gives."""
    shown = fresh.plain("--fixtures", "-v").stdout.str()
    assert "slmperf.measure(SWEEP" in shown
    assert 'slm_engine("opt-125m"' in shown


def test_the_engine_of_a_suite_can_be_redefined(project):
    """A project measures an engine of its own by redefining the fixture that names engines."""
    project.write(
        "conftest.py",
        "import pytest\n\n@pytest.fixture(scope='session')\ndef slm_engine(slmperf):\n"
        "    return lambda model: slmperf.engine(model, level=800)\n",
    )
    result = project.gate("-k", "test_throughput and 16", UNDECIDED)
    result.stdout.fnmatch_lines(["*incomparable*option.level*"])
