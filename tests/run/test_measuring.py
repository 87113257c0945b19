"""A run as the plugin and the command line drive it, on the simulated engine."""

import time
from dataclasses import replace

import pytest

from pytest_slmperf.core.errors import NotJudged, UsageError
from pytest_slmperf.core.results.point import Ledger
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.core.sweeps.workload import StaticBatch
from pytest_slmperf.core.verdict import Status
from pytest_slmperf.run.measuring import Measuring
from pytest_slmperf.run.options import Options
from pytest_slmperf.run.progress import Progress
from pytest_slmperf.run.settings import Settings, settings_of

SWEEP = Sweep("decode", StaticBatch(8, 8), batch_size=[1, 4, 16, 64], gate={"output_throughput": 0.05, "tpot_ms": 0.05})
QUIET = {"noise": 0.002, "launch_noise": 0.002, "seed": 1}


class Screen:
    """Keeps what is shown."""

    rewrites = False

    def __init__(self):
        self.lines = []

    def show(self, line, *, replace):  # noqa: ARG002 - the screen's protocol
        self.lines.append(line)


def measuring(root, *, admit=lambda: None, **of):
    """A run on the simulated engine whose baselines and repository are at `root`."""
    settings = Settings(rounds=1, max_launches=8, order_seed=1)
    progress, ledger = Progress(Screen()), Ledger()
    return Measuring(Options(engine="fake", **of), settings, root=root, progress=progress, ledger=ledger, admit=admit)


def test_git_is_asked_for_the_commit_once(tmp_path, monkeypatch):
    """However often the outcome is looked at: each question starts a process."""
    (tmp_path / "git").write_text(f"#!/bin/sh\necho asked >> {tmp_path}/log\necho abc\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    run = measuring(tmp_path)
    assert {run.outcome().commit for _ in range(3)} == {"abc"}
    assert (tmp_path / "log").read_text() == "asked\n"


def test_a_budget_is_spent_from_the_first_launch_on(tmp_path):
    """What passed before, as a wait for a device that others measure on, is none of it."""
    run = measuring(tmp_path, budget_s=0.05)
    time.sleep(0.06)
    assert run.measure(SWEEP, run.engine("opt-125m", **QUIET)).outcome.launches >= 1


def test_the_projects_engine_may_have_options(tmp_path):
    """They are those of --slmperf-engine, and that replaces them whole."""
    settings = settings_of({"engine": "fake:level=500,launch_noise=0.002"}, "pyproject.toml")
    progress, ledger = Progress(Screen()), Ledger()
    own, asked = (
        Measuring(Options(engine=engine), settings, root=tmp_path, progress=progress, ledger=ledger).engine("opt-125m")
        for engine in (None, "fake")
    )
    assert (own.engine, own.options) == ("fake", {"level": 500, "launch_noise": 0.002})
    assert asked.options == {}


def test_an_unknown_engine_of_the_project_is_said_to_be_set_there(tmp_path):
    """Whoever typed no engine has to know where it comes from."""
    settings = settings_of({"engine": "fak:level=500"}, "pyproject.toml")
    with pytest.raises(UsageError, match=r"pyproject.toml \[tool.slmperf\]: engine: unknown engine 'fak': known are"):
        Measuring(Options(), settings, root=tmp_path, progress=Progress(Screen()), ledger=Ledger())


def test_two_arms_are_both_launched_again(tmp_path):
    """Side by side, what looks regressed as a whole is confirmed in fresh launches of both arms, made once."""
    run = measuring(tmp_path)
    arms = [run.engine("opt-125m", knee=knee, **QUIET) for knee in (8, 1)]
    result = run.compare(SWEEP, *arms)
    before = run.outcome().sweeps[0]
    shapes = [result.knee_by("share_of_maximum", share=share) for share in (0.7, 0.8)]
    stored = [result.baseline.knee_by("share_of_maximum", share=share) for share in (0.7, 0.8)]
    verdicts = [now.unchanged_from(then) for now, then in zip(shapes, stored, strict=True)]
    verdicts.append(result.frontier.unchanged_from(result.baseline.frontier))
    assert {verdict.status for verdict in verdicts} == {Status.REGRESSED}
    assert all("confirmed by fresh launches" in verdict.reason for verdict in verdicts)
    after = run.outcome().sweeps[0]
    assert after.launches == before.launches + 2 * 8
    assert after.seconds > before.seconds
    assert all(case.fresh and case.fresh_baseline for case in after.cases.values())
    judged = {name: replace(case, fresh=None, fresh_baseline=None) for name, case in after.cases.items()}
    assert judged == before.cases


def test_a_name_measured_twice_is_a_problem_once(tmp_path):
    """Whoever asks again gets the error again, and the report has it once."""
    run = measuring(tmp_path)
    run.measure(SWEEP, run.engine("opt-125m", **QUIET))
    for _ in range(2):
        with pytest.raises(UsageError, match="measured already"):
            run.measure(SWEEP, run.engine("opt-125m", level=900))
    outcome = run.outcome()
    assert outcome.complete is False
    assert [problem.partition(": ")[0] for problem in outcome.problems] == ["decode"]


def test_one_cause_is_a_problem_of_each_sweep_that_met_it(tmp_path):
    """Also where what one says contains what the other does; what passes through the fixture is a problem once."""
    reasons = iter(["no engine at all", "no engine"])

    def admit():
        raise UsageError(next(reasons))

    run = measuring(tmp_path, admit=admit)
    for sweep in (SWEEP, replace(SWEEP, name="latency")):
        with pytest.raises(UsageError, match="no engine"):
            run.measure(sweep, run.engine("opt-125m"))
    assert run.problems == ("decode: no engine at all", "latency: no engine")
    run = measuring(tmp_path)
    with pytest.raises(UsageError, match="slowed=2"):
        run.measure(replace(SWEEP, model=["opt-125m"]), lambda model: run.engine(model, slowed=2))
    assert [problem.partition(": ")[0] for problem in run.problems] == ["slm_engine"]


JOULES = Sweep("power", StaticBatch(8, 8), [1], gate={"joules_per_output_token": 0.05}, missing_meter="red")


def test_joules_that_can_not_be_had_are_refused_before_they_are_recorded(tmp_path, monkeypatch):
    """Not after twenty launches."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run = measuring(tmp_path, mode="accept")
    with pytest.raises(
        UsageError, match="power gates joules_per_output_token, and CUDA_VISIBLE_DEVICES hides every GPU"
    ):
        run.measure(JOULES, run.engine("opt-125m", **QUIET))
    assert run.outcome().sweeps == ()


def test_a_sweep_of_nothing_but_joules_costs_no_launch_where_nothing_tells_them(tmp_path, monkeypatch):
    """Its cases are skipped with the reason, and so are the tests that look at them."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run = measuring(tmp_path, mode="accept")
    result = run.measure(replace(JOULES, missing_meter="skip"), run.engine("opt-125m", **QUIET))
    (outcome,) = run.outcome().sweeps
    assert (outcome.launches, outcome.cases) == (0, {})
    assert outcome.skipped == {"power/opt-125m/batch=1": "CUDA_VISIBLE_DEVICES hides every GPU"}
    with pytest.raises(NotJudged, match="hides every GPU"):
        result[1]
