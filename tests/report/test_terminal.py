"""The terminal's summary."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rendered_runs import RUNS, case_outcome, claim, effect, large_run, run_outcome, sample, sweep_outcome

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.sample import Sample, VoidRound
from pytest_slmperf.core.verdict import Status
from pytest_slmperf.report import digest
from pytest_slmperf.report.markdown import markdown
from pytest_slmperf.report.terminal import lines, sections

COLOUR = re.compile("\x1b\\[[0-9;]*m")
STATUSES = [
    Status.UNCHANGED,
    Status.REGRESSED,
    Status.INCONCLUSIVE,
    Status.NO_BASELINE,
    Status.IMPROVED,
    Status.INCOMPARABLE,
]
RUN = run_outcome(sweep_outcome(*(case_outcome(4**place, status) for place, status in enumerate(STATUSES))))


def coloured(text, /, **markup):
    return f"\x1b[31m{text}\x1b[0m" if markup else text


def rendered(run, width=120):
    return "\n".join(lines(run, width))


@pytest.mark.parametrize("width", [80, 100, 120, 140, 160])
def test_fits_the_terminal(width):
    """From 80 to 160 columns no table line is wider than the terminal, and every figure of a row is there."""
    drawn = lines(RUN, width)
    closing = drawn.pop()
    assert max(map(len, drawn)) <= width
    text = "\n".join(drawn)
    for seen in ("output_throughput", "-10.1% (", "3.0%", "1.4%", "20×5 vs 14×5", "299.3", "tok/s", "J/tok"):
        assert seen in text
    for status in STATUSES:
        assert text.count(f" {status}\n") >= 1
    assert closing.startswith("7 unchanged, 1 improved, 1 regressed, 1 inconclusive, 1 no-baseline, 1 incomparable")


def test_a_sweep_that_gates_nothing_shows_what_was_measured():
    """Its figures are all there is to see: stated limits may be asserted of them."""
    bare = replace(case_outcome(4), verdicts={})
    drawn = rendered(run_outcome(sweep_outcome(bare)))
    assert "slmperf decode: measured, not judged" in drawn
    assert re.search(r"opt-125m/batch=4 +output_throughput +[\d.]+ tok/s", drawn)


@settings(max_examples=40)
@given(RUNS, st.integers(20, 200))
def test_any_run_is_rendered(run, width):
    """Whatever came out of a run, it is rendered in lines without a line break."""
    assert all(len(line.splitlines()) <= 1 for line in lines(run, width))


@settings(max_examples=20)
@given(st.sampled_from([80, 125, 160]))
def test_colours_take_no_width(width):
    """Colours change nothing but the colour: without them, the lines are those of a terminal that has none."""
    painted = lines(RUN, width, coloured)
    assert [COLOUR.sub("", line) for line in painted] == lines(RUN, width)
    assert painted != lines(RUN, width)


def test_a_quiet_run_prints_nothing():
    """Where nothing was measured and nothing is wrong, there is no section at all."""
    assert sections(run_outcome()) == []
    assert sections(run_outcome(sweep_outcome())) == []


def test_the_last_line_is_the_bill():
    """The last line counts verdicts, launches and seconds, and says what a verdict cost."""
    run = run_outcome(sweep_outcome(case_outcome(4, Status.REGRESSED)), seconds=61.0)
    assert lines(run)[-1] == "1 unchanged, 1 regressed; 34 launches in 61.0 s, 30.5 s a verdict"


def test_an_interrupted_run_says_so():
    """A run that did not finish says that its figures are only what there is."""
    assert lines(run_outcome(sweep_outcome(case_outcome(4)), complete=False))[-1].startswith("not finished")


def test_void_rounds_are_grouped_by_guard():
    """Void rounds are counted by guard, with the first reason of each."""
    case = case_outcome(4)
    voids = tuple(VoidRound(launch, "contended", f"process {launch} took 40 % of a core") for launch in range(12))
    noisy = replace(case, measurement=replace(case.measurement, void_rounds=voids))
    text = rendered(run_outcome(sweep_outcome(noisy)))
    assert "12 rounds void, contended (first: process 0 took 40 % of a core, launch 0 of opt-125m/batch=4)" in text


def test_a_reason_that_voids_a_case_is_said_once():
    """Of a case that a gate judges by its verdicts, of any other by itself; its void rounds name the cases alone."""
    reason = "another process took 40 % of a core"
    void = f"round 2 of 4 stayed void (tried 5 times): {reason}"

    def case(batch):
        done = case_outcome(batch)
        rounds = tuple(VoidRound(launch, "contended", reason) for launch in range(5))
        verdicts = {
            name: replace(verdict, status=Status.VOID, reason=void, effect=None)
            for name, verdict in done.verdicts.items()
        }
        measurement = replace(done.measurement, void=void, void_rounds=rounds)
        return replace(done, measurement=measurement, verdicts=verdicts)

    sweep = sweep_outcome(case(4), case(16))
    gated = rendered(run_outcome(sweep), 200)
    assert gated.count(reason) == 1
    assert f"4 void - {void}: opt-125m/batch=4 output_throughput" in gated
    assert "10 rounds void, contended: opt-125m/batch=4, opt-125m/batch=16" in gated
    recorded = rendered(run_outcome(replace(sweep, mode="accept")), 200)
    assert recorded.count(reason) == 1
    assert f"void: {void}: opt-125m/batch=4, opt-125m/batch=16" in recorded


def test_what_is_asserted_beside_the_gate_is_named():
    """A stated limit is told from a curve: neither is a gated metric that is unchanged."""
    claims = (
        claim(
            "median_ttft_ms",
            Status.UNCHANGED,
            limit="at most 2000 ms",
            reason="within the limit: 3 ms; limit at most 1 s",
        ),
        claim("p99_ttft_ms", Status.VOID, limit="at most 5 ms", reason="its board was hot"),
        claim("knee", Status.UNCHANGED, case="decode/opt-125m", reason="batch 16 → batch 16"),
    )
    drawn = lines(run_outcome(sweep_outcome(case_outcome(4)), claims=claims), 80)
    assert any(re.fullmatch(r"unchanged +\S+/batch=4 +at most 2000 ms +median_ttft_ms", line) for line in drawn)
    assert any(re.fullmatch(r"void +\S+/batch=4 +at most 5 ms +p99_ttft_ms", line) for line in drawn)
    assert any(re.fullmatch(r"unchanged +decode/opt-125m +as the baseline +knee", line) for line in drawn)


@pytest.mark.parametrize("width", [80, 130])
def test_what_was_measured_of_a_claim_stands_beside_it(width):
    """In a row where that fits, else below; a long metric is never cut."""
    limit = claim("median_ttft_ms", Status.UNCHANGED, limit="at most 2000 ms")
    frontier = claim("frontier of output_throughput and median_ttft_ms", Status.REGRESSED, case="decode/opt-125m")
    claims = (replace(limit, measured="187 ms (181…192)"), replace(frontier, measured="3 of 4 points reached"))
    text = " ".join(" ".join(lines(run_outcome(sweep_outcome(case_outcome(4)), claims=claims), width)).split())
    assert "187 ms (181…192)" in text
    assert "frontier of output_throughput and median_ttft_ms" in text
    assert "3 of 4 points reached" in text


def test_void_rounds_of_a_stored_baseline_are_of_another_day():
    """The other arm's void rounds are counted where it was measured now, and not where it was stored."""
    case = case_outcome(4)
    both = replace(case, baseline=case.measurement)
    assert "1 round void" in rendered(run_outcome(sweep_outcome(both)))
    assert "2 rounds void" in rendered(run_outcome(sweep_outcome(both, design="interleaved")))


def test_way_out_can_be_copied():
    """The command that resolves a finding stands on a line of its own, in one piece, however narrow the terminal."""
    command = (
        "slmperf baselines accept reports/2026-03-01-h100-nightly.json decode/opt-125m/batch=4 --tolerance supported"
    )
    case = case_outcome(4, Status.REGRESSED)
    verdicts = {**case.verdicts}
    verdicts["output_throughput"] = replace(verdicts["output_throughput"], way_out=command)
    run = run_outcome(sweep_outcome(replace(case, verdicts=verdicts)), problems=(f"2 cases are stale\n{command}",))
    assert [line.strip() for line in lines(run, 80)].count(command) == 2


def test_missing_metrics_and_cases_are_said_with_their_reasons():
    """Unmeasured metrics, skipped and unselected cases and notes are said once each, with the cases they concern."""
    cases = [case_outcome(batch) for batch in (1, 4, 16)]
    without = {"joules_per_total_token": "no energy meter"}
    cases = [replace(case, measurement=replace(case.measurement, unmeasured=without)) for case in cases]
    sweep = sweep_outcome(
        *cases,
        skipped={"decode/opt-125m/batch=512": "needs 13.2 GiB"},
        unselected=("decode/opt-125m/batch=64",),
        notes=("weights are random",),
    )
    text = rendered(run_outcome(sweep), 160)
    unmeasured = "unmeasured: joules_per_total_token: no energy meter: opt-125m/batch=1, opt-125m/batch=4 and 1 more"
    assert text.count(unmeasured) == 1
    assert "skipped: needs 13.2 GiB: opt-125m/batch=512" in text
    assert "not selected, so not measured: opt-125m/batch=64" in text
    assert "note: weights are random" in text


@pytest.mark.parametrize("mode", ["accept", "report"])
@pytest.mark.parametrize("width", [80, 160])
def test_without_judging(mode, width):
    """A run that records or reports shows every metric and judges none."""
    case = case_outcome(4)
    verdicts = {
        name: replace(verdict, status=Status.UNMEASURED, judged=False, effect=None)
        for name, verdict in case.verdicts.items()
    }
    text = rendered(run_outcome(sweep_outcome(replace(case, verdicts=verdicts), mode=mode)), width)
    assert "p99_ttft_ms" in text
    assert "verdict" not in text.rpartition("\n")[0]
    assert "nothing judged" in text.splitlines()[-1]
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [80, 100, 160])
def test_what_is_not_judged_is_not_called_a_failure(width):
    """A green run whose joules nothing tells has no red word: not in the table, and not in the last line."""
    case = case_outcome(4)
    told = case.verdicts["output_throughput"]
    nothing = replace(told, status=Status.UNMEASURED, judged=False, effect=None, reason="no meter")
    one = replace(case, verdicts={**case.verdicts, "joules_per_output_token": nothing})
    drawn = lines(run_outcome(sweep_outcome(one)), width)
    assert any(re.search(r"joules_per_output_token\b.*not judged$", line) for line in drawn)
    assert not any(line.endswith("unmeasured") for line in drawn)
    assert drawn[-1].startswith("1 unchanged, 1 not judged; ")


def test_a_recording_has_rows_of_what_it_gates():
    """What it measures beside that is named in one line, as in a gate."""
    drawn = lines(run_outcome(sweep_outcome(case_outcome(4), mode="accept"), recorded=True), 160)
    assert not any("p99_ttft_ms  " in line for line in drawn)
    assert any(line.startswith("measured, not gated: ") and "p99_ttft_ms" in line for line in drawn)


def test_why_a_case_is_void_is_said_once_of_what_is_asserted_of_it():
    """A stated limit and a knee of a void case are void for the same, which is said of the case."""
    why = "pytest (pid 4711, 4712, 4713) took 40 % of a core"
    case = case_outcome(4)
    void = replace(case.verdicts["output_throughput"], status=Status.VOID, reason=why, effect=None, way_out="free it")
    void_case = replace(case, verdicts={**case.verdicts, "output_throughput": void})
    claims = (
        claim("median_ttft_ms", Status.VOID, limit="at most 5 ms", reason=why),
        claim("knee", Status.VOID, case="decode/opt-125m", reason=f"decode/opt-125m/batch=4: {why}"),
    )
    text = rendered(run_outcome(sweep_outcome(void_case), claims=claims), 160)
    assert text.count(why) == 1
    assert "2 void - as its cases above: decode/opt-125m/batch=4 median_ttft_ms, decode/opt-125m knee" in text


def test_notes_that_differ_in_figures_alone_are_one():
    """The first is said, with the cases of all; the JSON report has each."""
    noted = [
        replace(case, measurement=replace(case.measurement, notes=(f"the other cores were {busy}% busy",)))
        for case, busy in ((case_outcome(4), 97), (case_outcome(16), 12))
    ]
    text = rendered(run_outcome(sweep_outcome(*noted)), 160)
    assert text.count("the other cores were") == 1
    assert "note: the other cores were 97% busy: opt-125m/batch=4, opt-125m/batch=16" in text


def test_notes_of_one_board_that_say_different_things_are_all_said():
    """A name with a figure in it, as a board has, makes no two notes one."""
    two = ("GPU-0: its persistence mode is off", "GPU-0: its clock isn't told")
    case = case_outcome(4)
    text = rendered(run_outcome(sweep_outcome(replace(case, measurement=replace(case.measurement, notes=two)))), 160)
    assert all(f"note: {note}" in text for note in two)


def test_what_differs_between_the_arms():
    """The versions that differ between the arms stand below the table."""
    assert "versions: fake 1.0 → 1.1\n" in rendered(RUN)


def test_a_thousand_cases():
    """A thousand cases take a line for each metric, not more."""
    drawn = lines(large_run(200), 160)
    assert len(drawn) < 200 * 2 + 30


@pytest.mark.parametrize("width", [80, 120])
def test_what_is_asserted_beside_the_gate_has_a_table(width):
    """A stated limit and a knee are listed with their verdicts; one that fails is explained like any failure."""
    claims = (
        claim("median_ttft_ms", Status.REGRESSED, limit="at most 1 ms", reason="beyond the limit: median launch 3 ms"),
        claim("knee", Status.UNCHANGED, case="decode/opt-125m"),
    )
    run = run_outcome(sweep_outcome(case_outcome(4)), claims=claims)
    drawn = lines(run, width)
    text = " ".join(" ".join(drawn).split())
    assert "slmperf: asserted beside the gate" in text
    assert "regressed decode/opt-125m/batch=4 at most 1 ms median_ttft_ms unchanged decode/opt-125m as the" in text
    assert "1 regressed - beyond the limit: median launch 3 ms: decode/opt-125m/batch=4" in text
    assert "    Measure more launches." in drawn
    assert drawn[-1].startswith("3 unchanged, 1 regressed; ")
    assert [COLOUR.sub("", line) for line in lines(run, width, coloured)] == drawn


def test_a_failed_test_stands_first_in_the_last_line():
    """A run whose verdicts all pass is not green where a test failed for another reason."""
    one = run_outcome(sweep_outcome(case_outcome(4)), failed_tests=("test_suite.py::test_own",))
    assert lines(one)[-1].startswith("1 test failed; 2 unchanged; ")
    assert lines(replace(one, failed_tests=("a", "b"), complete=False))[-1].startswith(
        "not finished, what there is: 2 tests failed; "
    )


@pytest.mark.parametrize(("launches", "spread"), [(2, ""), (5, "±2.0%"), (9, "±4.0%"), (10, "±3.5%"), (20, "±7.5%")])
def test_the_spread_is_half_the_range_of_the_launches_less_a_tenth_at_either_end(launches, spread):
    """Of fewer than ten launches all count, and two have none."""
    centre = 100 - (launches - 1) / 2
    measured = Sample.of([[centre + place] for place in range(launches)])
    case = case_outcome(4)
    case = replace(case, measurement=replace(case.measurement, samples={"median_itl_ms": measured}))
    (row,) = digest.measured_rows(sweep_outcome(case))
    assert row.spread == spread


@pytest.mark.parametrize(("launches", "spread"), [(1, "9…21 in a round"), (3, "±0.0%")])
def test_a_percentile_of_a_launch_or_two_has_what_a_round_tells_of_it(launches, spread):
    """From three launches on it is they that tell how sure it is; of a round with too few requests there is nothing."""
    case = case_outcome(4)
    samples = {"p99_ttft_ms": Sample.of([[10, 10, 10, 10]] * launches), "output_throughput": Sample.of([[7]])}
    intervals = {"p99_ttft_ms": (((8, 20), (9, 21), None, (9.5, 22)),) * launches}
    case = replace(case, verdicts={}, measurement=replace(case.measurement, samples=samples, intervals=intervals))
    run = run_outcome(sweep_outcome(case))
    (line,) = (line for line in lines(run, 80) if "p99_ttft_ms" in line)
    assert spread in line
    assert "| p99_ttft_ms | 10 ms |" in markdown(run).replace("\\", "")
    assert "| 9…21 |" in markdown(run)


def test_both_arms_are_named():
    """Of two arms measured in turns, the engines are named, and the fields in which they differ."""
    stored = EngineSpec("fake", "opt-125m", options={"level": 2})
    slower = EngineSpec("fake", "opt-125m", "int8", options={"level": 2}, planted_loss=0.2)

    def said(a, b):
        return rendered(run_outcome(sweep_outcome(design="interleaved", notes=("x",), specs=(b,), baseline_specs=(a,))))

    assert "A: fake opt-125m, dtype=float32; B: fake opt-125m, dtype=int8, slowed=0.2\n" in said(stored, slower)
    assert "A and B: fake opt-125m, alike\n" in said(stored, stored)
    other = replace(stored, model="tiny", python="old/bin/python")
    assert "A: fake tiny, python=old/bin/python; B: fake opt-125m\n" in said(other, stored)
    assert "A: " not in rendered(RUN)


def test_an_open_bound_is_no_measured_figure():
    """A bound that too few launches leave open is an infinity, never a loss of 100 %: in tables and in the message."""
    case = case_outcome(4, Status.INCONCLUSIVE)
    compared = replace(effect(sample(1.0), sample(1.0, 6)), low=0.0, high=math.inf)
    verdict = replace(case.verdicts["output_throughput"], effect=compared)
    run = run_outcome(sweep_outcome(replace(case, verdicts={"output_throughput": verdict})))
    assert "(-∞…+∞)" in " ".join(lines(run))
    assert "(-∞…+∞)" in markdown(run)
    assert "95 % CI -∞…+∞," in verdict.line()
    assert "100" not in verdict.line()


@pytest.mark.parametrize("mode", ["gate", "report"])
def test_variants_of_an_engine_stand_under_headings(mode):
    """A curve is named once, and its rows by their places; a narrow terminal has each case as a heading."""
    cases = [case_outcome(batch, model=f"m/replicas={count}") for count in (1, 2) for batch in (4, 16)]
    run = run_outcome(sweep_outcome(*cases, mode=mode))
    wide, narrow = lines(run, 200), lines(run, 60)
    assert [line for line in wide if line.startswith("m/replicas=2")] == ["m/replicas=2"]
    assert any(line.startswith("  batch=16 ") for line in wide)
    assert "m/replicas=2/batch=16" in narrow
