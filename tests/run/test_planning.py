"""What a run says before it begins is what it then does."""

import re
import sys
from dataclasses import replace

import pytest
from test_measuring import QUIET, measuring

from pytest_slmperf.core.baselines.lookup import Against
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.core.sweeps.workload import StaticBatch

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
    run.coverage.select(sweep, None)
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
    run.coverage.select(GATED, None)
    assert "8 to 12 launches of" in run.plan_lines()[1]


def test_cases_that_do_not_fit_are_told_apart(tmp_path):
    """They are launched nowhere, and take no time."""
    long = Sweep("long", StaticBatch(2000, 2000), batch_size=[1, 4], model=["opt-125m", "qwen3-4b"])
    run = measuring(tmp_path)
    run.coverage.select(long, None)
    assert run.plan_lines() == [
        "slmperf: long: skipped, too large: long/opt-125m/batch=1, long/opt-125m/batch=4",
        "slmperf: long: 2 cases: long/qwen3-4b/batch=1, long/qwen3-4b/batch=4",
        "slmperf: long: 5 launches of 1 model",
    ]


def test_an_option_that_the_engine_lacks_is_said(tmp_path):
    """So it is seen before anything runs that nothing of a suite is for this engine."""
    sweep = Sweep(
        "s", StaticBatch(8, 8), batch_size=[1], model=["opt-125m"], options={"enable_chunked_prefill": [True]}
    )
    run = measuring(tmp_path)
    run.coverage.select(sweep, None)
    case = "s/opt-125m/enable_chunked_prefill=true/batch=1"
    (said,) = run.plan_lines()
    assert said.startswith("slmperf: s: skipped, fake has no option enable_chunked_prefill (vllm may: ")
    assert said.endswith(f": {case}")


def test_a_mistyped_option_is_said_and_red(tmp_path):
    """It is none that the engine lacks: nothing would ever measure it."""
    sweep = Sweep("s", StaticBatch(8, 8), batch_size=[1], model=["opt-125m"], options={"pol": ["processes"]})
    run = measuring(tmp_path)
    run.coverage.select(sweep, None)
    assert run.plan_lines() == ["slmperf: s: no engine has an option 'pol': is 'pool' meant?"]
    with pytest.raises(UsageError, match="is 'pool' meant"):
        run.measure(sweep)
    assert run.problems == ("s: no engine has an option 'pol': is 'pool' meant?",)


@pytest.mark.parametrize(("model", "skipped"), [("opt-125m", True), ("/models/opt-125m", False)])
def test_what_the_plan_leaves_out_the_run_leaves_out(tmp_path, model, skipped):
    """A converted model is looked up in no table of shapes, whatever its folder's name: it is tried."""
    long = Sweep("long", StaticBatch(2000, 2000), batch_size=[1], model=[model])
    run = measuring(tmp_path)
    run.coverage.select(long, None)
    assert ("too large" in run.plan_lines()[0]) is skipped
    result = run.measure(long)
    assert bool(result.outcome.skipped) is skipped


def test_a_sweep_whose_model_a_fixture_names_is_in_the_plan(tmp_path):
    """Which model that is, nobody knows before the fixture runs."""
    run = measuring(tmp_path)
    run.coverage.select(BARE, None)
    assert run.plan_lines()[0] == "slmperf: decode: 1 case: decode/(its fixture's model)/batch=1"


def test_an_engine_that_makes_no_sense_is_no_end_of_the_plan(tmp_path):
    """The test that measures it says so, too."""
    run = measuring(tmp_path)
    run.coverage.select(replace(BARE, model=["opt-\udcff"]), None)
    assert run.plan_lines()[0].startswith("slmperf: decode: 'model' of an engine: ")
    run = measuring(tmp_path, engine_options={"slowed": 2})
    run.coverage.select(replace(BARE, model=["opt-125m"]), None)
    assert run.plan_lines()[0].startswith("slmperf: decode: slowed=2: it takes a share")
