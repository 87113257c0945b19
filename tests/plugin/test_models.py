"""What a suite may name as a model, and what a command line may say of an engine."""

import pytest
from projects import prose

PATHS = """
import pytest

from pytest_slmperf import StaticBatch, Sweep

DECODE = Sweep("decode", StaticBatch(prompt_tokens=16, output_tokens=16), batch_size=[1],
               model=["models/x", "tiny-2x128"], gate={"output_throughput": 0.03})


@pytest.fixture(scope="module")
def decode(slmperf, slm_engine):
    return slmperf.measure(DECODE, slm_engine)


@DECODE.each
def test_throughput(decode, model, batch_size):
    assert decode[model, batch_size].model == model.rpartition("/")[2]
"""


def test_a_path_is_looked_up_as_it_was_declared(fresh):
    """A test that runs once per model gets the path, and finds its point by that."""
    fresh.write("test_suite.py", PATHS)
    done = fresh.gate("--slmperf-no-gate")
    assert done.ret == 0
    assert "2 cases: decode/x/batch=1, decode/tiny-2x128/batch=1" in prose(done)


@pytest.mark.parametrize("options", ["level=nan", "level=1e9999", "x\udcff=1", "dtype=a\udcff"])
def test_an_option_that_nothing_can_hold_is_wrong_usage(fresh, options):
    """It is refused before anything is measured, and not when the report is written."""
    done = fresh.gate(f"--slmperf-report={fresh.path}/report.json", engine=f"fake:{options}")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "of the command line: " in done.stderr.str()
