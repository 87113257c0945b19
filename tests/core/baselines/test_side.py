"""What a report or a baseline file brings into a comparison."""

import pytest
from baseline_files import CASE, MACHINE, RETIREMENT, measurement, stored

from pytest_slmperf.core.baselines.revision import retired
from pytest_slmperf.core.baselines.side import of_files, of_run
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import CaseOutcome, RunOutcome, SweepOutcome
from pytest_slmperf.core.verdict import Status, Verdict

THROUGHPUT = "output_throughput"


def run(*, judged_by=None, **fields):
    """A run of one case, gated at 3 %."""
    meaning = metric(THROUGHPUT)
    verdict = Verdict(Status.UNCHANGED, THROUGHPUT, meaning.unit, meaning.higher_is_better, CASE, judged_by)
    case = CaseOutcome(CASE, {"model": "opt-125m", "batch_size": 4}, measurement(), None, {THROUGHPUT: verdict})
    sweep = SweepOutcome(
        sweep="decode",
        design="stored",
        mode="gate",
        cases={CASE: case},
        specs=(EngineSpec("ctranslate2", "opt-125m"),),
        versions={"python": "3.12"},
        baseline_versions=None,
        launches=20,
        seconds=1.0,
        skipped={"decode/opt-125m/batch=64": "too large"},
        unselected=("decode/opt-125m/batch=1",),
        asked={THROUGHPUT: 0.03},
    )
    return RunOutcome(MACHINE, (sweep,), "2026-01-01T00:00:00Z", 1.0, "0123456", **{"complete": True, **fields})


def test_a_run_brings_its_cases_and_what_it_left_out():
    """A case comes with its machine, versions and commit; a skipped or unselected one with its reason."""
    side = of_run("report.json", run())
    (case,) = side.cases
    assert (case.suite, case.engine, case.measurement.case) == ("decode", "ctranslate2", CASE)
    assert (case.machine, case.versions, case.commit) == (MACHINE, {"python": "3.12"}, "0123456")
    assert side.absent == {
        "decode/opt-125m/batch=64": "skipped: too large",
        "decode/opt-125m/batch=1": "no selected test looked at it",
    }
    assert side.remarks == ()


@pytest.mark.parametrize(
    ("judged_by", "tier", "taken"), [(None, "gate", 0.03), (0.05, "gate", 0.05), (0.1, "quick", 0.03)]
)
def test_a_run_gates_as_it_judged(judged_by, tier, taken):
    """By the tolerance that its verdict had, or else by the suite's; never by what a glance tolerates."""
    side = of_run("report.json", run(judged_by=judged_by, tier=tier))
    assert side.cases[0].tolerances == {THROUGHPUT: taken}


@pytest.mark.parametrize(
    ("fields", "remark"), [({"complete": False}, "interrupted or failed"), ({"tier": "quick"}, "a glance")]
)
def test_a_run_that_is_not_whole_says_so(fields, remark):
    """What may surprise is a remark."""
    (said,) = of_run("report.json", run(**fields)).remarks
    assert said.startswith("report.json: ")
    assert remark in said


def test_a_file_brings_what_is_in_force():
    """The newest recording that isn't retired."""
    file = retired(stored(1000.0, 2000.0), CASE, RETIREMENT, None)
    (case,) = of_files("baselines", [file]).cases
    assert case.measurement.samples[THROUGHPUT].median == pytest.approx(1000, rel=0.01)
    assert (case.tolerances, case.recorded) == ({THROUGHPUT: 0.03}, "2026-01-01T00:00:00Z")


def test_a_case_without_a_recording_in_force_is_void_and_still_gated():
    """It says why the last recording was retired."""
    (case,) = of_files("baselines", [retired(stored(), CASE, RETIREMENT, None)]).cases
    assert (case.measurement.samples, case.tolerances) == ({}, {THROUGHPUT: 0.03})
    assert case.measurement.void == f"every recording of it is retired, the last one because: {RETIREMENT.reason}"
