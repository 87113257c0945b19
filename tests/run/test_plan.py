"""What a run says before it begins is what it then does."""

import re
import sys
from dataclasses import replace

import pytest
from test_measuring import QUIET, measuring

from pytest_slmperf.core.lookup import Against
from pytest_slmperf.core.sweep import Sweep
from pytest_slmperf.core.workload import StaticBatch
from pytest_slmperf.run.plan import Spending, lines
from pytest_slmperf.run.settings import Settings

THIS_PYTHON = Against("python", sys.executable)
LOAD = StaticBatch(8, 8)
GATED = Sweep("decode", LOAD, batch_size=[1], gate={"output_throughput": 0.05})
BARE = Sweep("decode", LOAD, batch_size=[1])


@pytest.mark.parametrize(
    ("sweep", "options", "said"),
    [
        (GATED, {"mode": "report"}, "5 to 8 launches of"),
        (BARE, {"mode": "report"}, "5 to 8 launches of"),
        (BARE, {}, "5 launches of"),
        (GATED, {"against": THIS_PYTHON}, "8 launches in each of two arms"),
        (GATED, {"against": THIS_PYTHON, "mode": "report"}, "8 launches in each of two arms"),
        (GATED, {"mode": "accept"}, "20 to 30 launches of"),
        (BARE, {"mode": "accept"}, "5 launches of"),
    ],
)
def test_a_run_makes_as_many_launches_as_it_said(tmp_path, sweep, options, said):
    """The span of the plan holds what is launched, less the throw-away launch of each arm."""
    run = measuring(tmp_path, **options)
    run.select(sweep, None)
    line = run.plan_lines()[1]
    assert said in line
    span = [int(number) for number in re.findall(r"\d+", line.partition(" launches")[0])]
    arms = 2 if "against" in options else 1
    run.measure(sweep, run.engine("opt-125m", **QUIET))
    launches = run.outcome().sweeps[0].launches / arms - 1
    assert span[0] <= launches <= span[-1]


def test_a_gate_is_taken_to_have_a_baseline(tmp_path):
    """Its plan goes from the first look to the cap."""
    run = measuring(tmp_path, tier="full")
    run.select(GATED, None)
    assert "8 to 12 launches of" in run.plan_lines()[1]


def test_joules_take_their_time():
    """Where they are counted, each case takes lead-in, window and two moves of a counter more in each launch."""
    spending = Spending("accept", arms=1, settings=Settings(rounds=5, round_s=0.1), max_launches=16, simulated=False)
    cases = GATED.cases(["m"])
    assert "about 40 s" in lines(GATED, cases, spending)[1]
    assert "about 2 min" in lines(GATED, cases, replace(spending, joules=True))[1]
