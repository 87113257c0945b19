"""Points, knees and frontiers of a hand-made sweep, and what a suite may and may not do with them."""

import copy
import math
import operator
from dataclasses import replace

import numpy as np
import pytest

from pytest_slmperf.core.beside import Beside
from pytest_slmperf.core.engine import EngineSpec, model_name
from pytest_slmperf.core.errors import NotJudged, SuiteError
from pytest_slmperf.core.outcome import CaseOutcome, SweepOutcome
from pytest_slmperf.core.results.claim import Fresh
from pytest_slmperf.core.results.point import Ledger
from pytest_slmperf.core.results.result import Result
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.core.verdict import Status, Verdict

SIZES = {1: 100.0, 4: 300.0, 16: 500.0, 64: 505.0}
GATED = {"output_throughput": 0.03, "median_tpot_ms": 0.05}


def sample(level, launches=20):
    return Sample.of([[level * (1 + 0.001 * (launch % 5 - 2))] * 2 for launch in range(launches)])


def measurement(case, throughput, *, void=None, unmeasured=None, launches=20):
    samples = {
        "output_throughput": sample(throughput, launches),
        "median_tpot_ms": sample(1000 / throughput, launches),
        "median_ttft_ms": sample(20.0),
        "p99_ttft_ms": sample(40.0),
    }
    return Measurement(case, {}, {} if void else samples, unmeasured or {}, void=void)


def verdict(case, name, status, judged):
    higher = name == "output_throughput"
    return Verdict(status, name, "tok/s", higher, case, GATED[name], reason="why", way_out="how", judged=judged)


def sweep_outcome(
    *, models=("m",), status=Status.UNCHANGED, mode="gate", factor=None, baseline=True, void=None, launches=20, **rest
):
    """`factor` maps a batch size to its share of the stored throughput."""
    cases = {}
    for model in map(model_name, models):
        for size, level in SIZES.items():
            name = f"decode/{model}/batch={size}"
            cases[name] = CaseOutcome(
                name,
                {"model": model, "batch_size": size},
                measurement(
                    name,
                    level * (factor or {}).get(size, 1.0),
                    void=void,
                    unmeasured={"peak_memory_bytes": "no mark here"},
                    launches=launches,
                ),
                measurement(name, level) if baseline else None,
                {gated: verdict(name, gated, status, mode == "gate") for gated in GATED},
            )
    specs = tuple(EngineSpec("fake", model) for model in models)
    return SweepOutcome("decode", "stored", mode, cases, specs, {}, None, 21, 1.0, **rest)


def result(**of):
    return Result(sweep_outcome(**of))


def test_points_are_looked_up_by_batch_size_and_model():
    """One model needs no name; several do."""
    one, two = result(), result(models=("a", "b"))
    assert one[16].case == "decode/m/batch=16"
    assert two["b", 4].case == "decode/b/batch=4"
    assert len(two) == 8
    assert [point.case for point in two.of("a")] == [f"decode/a/batch={size}" for size in SIZES]
    assert repr(one[16].output_throughput) == "<decode/m/batch=16 output_throughput 500 tok/s (20×2)>"
    assert repr(one[16].itl_ms) == "<decode/m/batch=16 median_itl_ms unmeasured>"
    by_path = result(models=("models/a", "b"))
    assert by_path["models/a", 4].case == by_path["a", 4].case == "decode/a/batch=4"
    with pytest.raises(SuiteError, match="did not measure 'other/a'; it measured a, b"):
        by_path["other/a", 4]
    with pytest.raises(SuiteError, match="name one of a, b"):
        two[4]
    with pytest.raises(SuiteError, match="did not measure 'c'; it measured a, b"):
        two["c", 4]
    with pytest.raises(SuiteError, match=r"batch=8 was not measured in this run; measured is batch 1, 4, 16, 64\."):
        one[8]


def test_points_of_any_axis_are_looked_up_by_it():
    """A rate needs not be whole, and a knee says what it is of."""
    outcome = sweep_outcome()
    rates = {size: size / 2 for size in SIZES}
    cases = [
        replace(
            case,
            case=f"rate/m/rate={rates[size]:g}",
            coordinates={"model": "m", "request_rate": rates[size]},
            baseline=replace(case.baseline, case=f"rate/m/rate={rates[size]:g}"),
        )
        for size, case in zip(SIZES, outcome.cases.values(), strict=True)
    ]
    found = Result(
        replace(outcome, sweep="rate", cases={case.case: case for case in cases}, skipped={"rate/m/rate=64": "no"})
    )
    assert (found[0.5].case, found[0.5].at, found[0.5].axis) == ("rate/m/rate=0.5", 0.5, "request_rate")
    assert found["m", 2].at == 2
    assert found.knee.value.place.startswith("rate 8.0 (")
    assert found.knee.unchanged_from(found.baseline.knee)
    with pytest.raises(SuiteError, match=r"has no batch_size: its request_rate is point\.at"):
        _ = found[2].batch_size
    with pytest.raises(SuiteError, match=r"rate/m/rate=3 was not measured.*measured is rate 0\.5, 2"):
        found[3]
    with pytest.raises(NotJudged, match="rate/m/rate=64: no"):
        found[64]


def test_a_case_that_does_not_fit_skips_whoever_looks_at_it():
    """It raises what the plugin turns into a skip, with the reason."""
    fits = result(skipped={"decode/m/batch=256": "too large"})
    with pytest.raises(NotJudged, match="decode/m/batch=256: too large"):
        fits[256]


def test_values_are_plain_numbers_where_asked_for_one():
    """The median and the samples are free to use; what was not measured says why."""
    point = result()[16]
    assert point.output_throughput.median == pytest.approx(500)
    assert point.baseline.output_throughput.median == pytest.approx(500)
    assert point.ttft_ms.median == pytest.approx(20)
    assert point.ttft_ms.p99.median == pytest.approx(40)
    assert point.baseline.ttft_ms.p99.median == pytest.approx(40)
    assert len(point.output_throughput.sample.launches) == 20
    with pytest.raises(SuiteError, match="peak_memory_bytes was not measured: no mark here"):
        _ = point.peak_memory_bytes.median
    with pytest.raises(SuiteError, match="there is no baseline"):
        _ = result(baseline=False)[16].baseline.output_throughput.median


@pytest.mark.parametrize(
    ("name", "said"),
    [("output_througput", "did you mean output_throughput?"), ("colour", "it has output_throughput"), ("_x", "_x")],
)
def test_an_unknown_metric_is_an_attribute_error(name, said):
    """A typing mistake is answered with what was probably meant."""
    with pytest.raises(AttributeError, match=said):
        getattr(result()[16], name)
    with pytest.raises(AttributeError, match="has no 'p99'"):
        _ = result()[16].output_throughput.p99


def test_a_point_can_be_copied():
    """Reading attributes by name doesn't break what Python does with objects."""
    assert copy.copy(result()[16]).case == "decode/m/batch=16"


@pytest.mark.parametrize("status", list(Status))
def test_only_two_verdicts_are_true(status):
    """Every other one raises its line and the way out, and none is false."""
    point = result(status=status)[16]
    claims = [
        lambda: point.output_throughput >= point.baseline.output_throughput,
        lambda: point.baseline.output_throughput <= point.output_throughput,
        lambda: point.tpot_ms <= point.baseline.tpot_ms,
        lambda: point.baseline.tpot_ms >= point.tpot_ms,
    ]
    for claim in claims:
        if status.passes:
            assert claim()
        else:
            with pytest.raises(AssertionError, match=f"{status}: decode/m/batch=16 .*why\nhow"):
                bool(claim())


@pytest.mark.parametrize("mode", ["accept", "report"])
def test_a_run_that_does_not_judge_has_no_truth(mode):
    """A gate, a stated limit, a knee and a frontier alike raise what becomes a skip."""
    judged = result(mode=mode)
    point = judged[16]
    for claim in (
        point.output_throughput >= point.baseline.output_throughput,
        point.output_throughput >= 10**9,
        judged.knee.unchanged_from(judged.baseline.knee),
        judged.frontier.unchanged_from(judged.baseline.frontier),
    ):
        with pytest.raises(NotJudged, match=r"not judged|why"):
            bool(claim)


@pytest.mark.parametrize("number", [1, 0.5, np.float64(2), np.float32(2)], ids=lambda number: type(number).__name__)
def test_a_limit_may_stand_on_either_side(number):
    """Numbers of Python and numpy, left or right."""
    point = result()[16]
    if isinstance(number, float | int):
        assert point.output_throughput >= number
        assert number <= point.output_throughput
        assert point.ttft_ms.p99 <= 100 * number
    else:
        with pytest.raises(SuiteError, match="not with float32"):
            _ = point.output_throughput >= number


@pytest.mark.parametrize(
    ("limit", "status"), [(480, Status.UNCHANGED), (520, Status.REGRESSED), (500.2, Status.INCONCLUSIVE)]
)
def test_a_limit_passes_only_within_the_confidence_bound(limit, status):
    """Beyond it is regressed, in between is inconclusive."""
    verdict = result()[16].output_throughput >= limit
    assert verdict.status is status
    assert verdict.measured == "500 tok/s (499.5…500.5)"


def test_a_void_case_keeps_no_limit():
    """What no launch measured validly has no truth but the reason."""
    point = result(void="contended")[16]
    assert (point.output_throughput >= 1).status is Status.VOID
    with pytest.raises(AssertionError, match="contended"):
        bool(point.output_throughput >= 1)


def test_a_limit_of_what_the_budget_left_out_is_undecided():
    """Its metric is not missing in the sweep: no launch was there to measure any."""
    whole = sweep_outcome()
    case = whole.cases["decode/m/batch=16"]
    cut = replace(case, measurement=Measurement(case.case, {}, {}), cut_off="the budget was spent")
    point = Result(replace(whole, cases={case.case: cut}))[16]
    verdict = point.ttft_ms.p90 <= 200
    assert (verdict.status, verdict.reason) == (Status.INCONCLUSIVE, "the budget was spent")
    assert verdict.way_out == "give it a larger budget"


@pytest.mark.parametrize("limit", [math.inf, -math.inf, math.nan, True, None, "5", [1]])
def test_what_is_no_limit_is_refused(limit):
    """An infinite or missing limit would always hold."""
    with pytest.raises(SuiteError):
        _ = result()[16].ttft_ms <= limit


@pytest.mark.parametrize(
    "act",
    [
        bool, float, int, round, abs, operator.neg, sum,
        *(lambda one, do=do: do(one, 2) for do in (operator.add, operator.sub, operator.mul, operator.truediv, pow)),
        *(lambda one, do=do: do(2, one) for do in (operator.add, operator.sub, operator.mul, operator.truediv, pow)),
        *(lambda one, do=do: do(one, 2) for do in (operator.eq, operator.ne, operator.gt, operator.lt)),
        lambda one: one == one,  # noqa: PLR0124 - that is the mistake
        lambda one: one in [1, 2],
        lambda one: np.float64(3) * one,
    ],
)  # fmt: skip
@pytest.mark.parametrize("side", ["measured", "stored"])
def test_a_value_is_no_number(act, side):
    """Arithmetic, equality, strict order and bare truth say what to write instead."""
    point = result()[16]
    value = point.output_throughput if side == "measured" else point.baseline.output_throughput
    with pytest.raises((SuiteError, TypeError)) as caught:
        act([value] if act is sum else value)
    if caught.type is SuiteError:
        assert "point.output_throughput >= point.baseline.output_throughput" in str(caught.value)


def test_the_ledger_hears_of_every_verdict():
    """It is told when a verdict is made, and again when its truth is asked."""
    made, asked = [], []
    point = Result(sweep_outcome(), Ledger(made.append, asked.append))[16]
    claim = point.output_throughput >= point.baseline.output_throughput
    assert (len(made), len(asked)) == (1, 0)
    assert claim
    assert made == asked


def test_knee_and_frontier_are_claims_with_a_baseline():
    """Unlost they are unchanged; lost they are red, in the words of their own comparison."""
    same = result()
    assert same.knee.value.batch == 16
    assert same.knee.unchanged_from(same.baseline.knee)
    assert same.frontier.unchanged_from(same.baseline.frontier)
    assert same.knee_by("two_segment").unchanged_from(same.baseline.knee_by("two_segment")).case == "decode/m"
    with pytest.raises(SuiteError, match="unknown definition"):
        same.of("m").knee_by("elbow")
    two = result(models=("a", "b"))
    with pytest.raises(SuiteError, match="the knee of decode/a is compared with its own, not decode/b's"):
        two.of("a").knee.unchanged_from(two.of("b").baseline.knee)


def test_a_claim_is_not_compared_with_itself():
    """What this run measured is never lost in its own eyes, also where it is looked up again."""
    same = result()
    for curve in ("knee", "frontier"):
        claim = getattr(same, curve)
        for value in (claim.value, getattr(same, curve).value):
            with pytest.raises(SuiteError, match=rf"result\.{curve}\.unchanged_from\(result\.baseline\.{curve}\)"):
                claim.unchanged_from(value)


def with_a_later_name(outcome):
    """The same, gated in a second latency, whose name is the last one."""
    cases = {}
    for name, case in outcome.cases.items():
        sides = {
            side: replace(one, samples={**one.samples, "p99_tpot_ms": one.samples["p99_ttft_ms"]})
            for side, one in (("measurement", case.measurement), ("baseline", case.baseline))
        }
        verdicts = {**case.verdicts, "p99_tpot_ms": replace(case.verdicts["median_tpot_ms"], metric="p99_tpot_ms")}
        cases[name] = replace(case, verdicts=verdicts, **sides)
    return replace(outcome, cases=cases)


def test_a_suite_names_the_latency_of_its_frontier():
    """Of several gated ones the first by its name is meant, unless one is named; one that isn't gated is an error."""
    both = Result(with_a_later_name(sweep_outcome()))
    assert both.frontier.value.name == "frontier of output_throughput and median_tpot_ms"
    named = both.frontier_of("p99_tpot_ms")
    assert named.value.name == "frontier of output_throughput and p99_tpot_ms"
    assert named.unchanged_from(both.baseline.frontier_of("p99_tpot_ms"))
    assert both.frontier_of("tpot_ms").unchanged_from(both.baseline.frontier)
    assert named.unchanged_from(both.baseline.frontier).status is Status.INCOMPARABLE
    with pytest.raises(SuiteError, match=r"gate both, as in .*'median_ttft_ms': 0\.03"):
        both.frontier_of("ttft_ms")


def with_joules(status=Status.UNCHANGED, **of):
    """The same, gated in joules per token, too: they fall until batch 16, and rise again."""
    cases = {}
    for (name, case), joules in zip(sweep_outcome(**of).cases.items(), (1.0, 0.6, 0.4, 0.5), strict=True):
        sides = {
            side: replace(one, samples={**one.samples, "joules_per_output_token": sample(joules)})
            for side, one in (("measurement", case.measurement), ("baseline", case.baseline))
        }
        told = replace(case.verdicts["median_tpot_ms"], metric="joules_per_output_token", status=status)
        cases[name] = replace(case, verdicts={**case.verdicts, "joules_per_output_token": told}, **sides)
    return Result(replace(sweep_outcome(**of), cases=cases))


def test_a_frontier_of_joules():
    """A frontier may be of throughput and joules, with a latency as well; joules that nothing gates are an error."""
    measured = with_joules()
    for others in (("joules_per_output_token",), ("tpot_ms", "joules_per_output_token")):
        claim = measured.frontier_of(*others)
        assert set(claim.value.points) == {"decode/m/batch=64", "decode/m/batch=16"}
        assert claim.unchanged_from(measured.baseline.frontier_of(*others))
        with pytest.raises(SuiteError, match=r"gate both, as in .*'joules_per_output_token': 0\.03"):
            result().frontier_of(*others)


def test_the_best_points_in_two_metrics():
    """The batch that serves the most is not the one with the fewest joules per token, and what each loses is told."""
    best = with_joules().optima()
    assert (best.first.case, best.second.case) == ("decode/m/batch=64", "decode/m/batch=16")
    assert best.second_at_first.value == pytest.approx(1.25)


def test_best_points_without_a_meter_or_of_a_void_case():
    """Where no meter tells the joules their test is skipped with that reason; a void case may have been the best."""
    with pytest.raises(NotJudged, match="can't be told: no meter here"):
        result(unmetered={"joules_per_output_token": "no meter here"}).optima()
    with pytest.raises(AssertionError, match="void: decode/m optima - stolen"):
        result(void="stolen").optima("output_throughput", "tpot_ms")


@pytest.mark.parametrize("status", [Status.INCOMPARABLE, Status.VOID])
def test_joules_that_are_not_compared_make_no_claim(status):
    """Joules of other boards, or of boards that are set otherwise, are no frontier of the stored ones either."""
    measured = with_joules(status)
    found = measured.frontier_of("joules_per_output_token")
    verdict = found.unchanged_from(measured.baseline.frontier_of("joules_per_output_token"))
    assert (verdict.status, verdict.reason) == (status, "decode/m/batch=1: why")


def moved(*, fresh=None, **of):
    """A sweep that stops scaling at batch 4 and lost throughput; `fresh` are the factors of what confirms it."""
    lost = dict(zip(SIZES, (1.0, 1.0, 0.59, 0.59), strict=True))
    asked = []

    def again(model):
        asked.append(model)
        confirming = fresh if isinstance(fresh, dict) else lost
        return Fresh(tuple(sweep_outcome(factor=confirming, launches=8).cases.values()), way_out="accept it")

    return Result(sweep_outcome(factor=lost, **of), None, again), asked


CURVES = pytest.mark.parametrize("curve", ["knee", "frontier"])


def unchanged(result, curve):
    return getattr(result, curve).unchanged_from(getattr(result.baseline, curve))


@CURVES
def test_what_fresh_launches_confirm_is_regressed(curve):
    """A claim that looks regressed is judged again on fresh launches alone, and says what both saw."""
    slower, asked = moved()
    said = r"(no longer reached|the knee moved).*; confirmed by fresh launches: .*\naccept it$"
    with pytest.raises(AssertionError, match=said):
        bool(unchanged(slower, curve))
    assert asked == [("decode/m",)]


def test_a_confirmed_frontier_says_its_figures_once():
    """What fresh launches lost is named alone: the figures of the first launches stand before it."""
    first, _, fresh = unchanged(moved()[0], "frontier").reason.partition("; confirmed by fresh launches: ")
    assert "batch=64 (output_throughput -" in first
    assert "batch=64" in fresh
    assert "%" not in fresh


@CURVES
def test_what_fresh_launches_do_not_confirm_is_inconclusive(curve):
    """Neither red as a regression nor green, with both results."""
    verdict = unchanged(moved(fresh=dict.fromkeys(SIZES, 1.0))[0], curve)
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.reason.startswith("regressed at first (")
    assert "but fresh launches alone are unchanged: " in verdict.reason


def test_what_fresh_launches_contradict_is_inconclusive():
    """A knee that moved the other way confirms nothing."""
    verdict = unchanged(moved(fresh={1: 0.3, 4: 0.3, 16: 0.5, 64: 1.0})[0], "knee")
    assert verdict.status is Status.INCONCLUSIVE
    assert "but fresh launches alone are regressed in another way: " in verdict.reason


@CURVES
def test_what_can_not_be_confirmed_is_inconclusive(curve):
    """A result that can have no fresh launches, as one that was read from a report, has no regressed claim."""
    lone = Result(moved()[0].outcome)
    verdict = unchanged(lone, curve)
    assert verdict.status is Status.INCONCLUSIVE
    assert "there are no fresh launches to confirm it: this result is not of a run" in verdict.reason


@CURVES
def test_nothing_is_launched_for_what_did_not_regress(curve):
    """Fresh launches are made for what looks regressed only, and never by a run that doesn't judge."""
    for of in ({"mode": "report"}, {"baseline": False}, {"void": "contended"}):
        slower, asked = moved(**of)
        unchanged(slower, curve)
        assert not asked
    fine = Result(sweep_outcome(), None, lambda _model: pytest.fail("asked for fresh launches"))
    assert unchanged(fine, curve)


def test_a_frontier_allows_each_case_what_is_stored_for_it():
    """Where tolerances differ by case, none is judged by another's."""
    outcome = sweep_outcome(factor={16: 0.92, 64: 0.92})
    name = "decode/m/batch=64"
    wide = {metric: replace(one, tolerance=0.15) for metric, one in outcome.cases[name].verdicts.items()}
    cases = {**outcome.cases, name: replace(outcome.cases[name], verdicts=wide)}
    assert not unchanged(Result(outcome), "frontier").passed
    assert unchanged(Result(replace(outcome, cases=cases)), "frontier")


def test_a_claim_without_a_baseline_says_so():
    """It has the status of its cases, and the way out."""
    lone = result(baseline=False, status=Status.NO_BASELINE)
    claim = lone.knee.unchanged_from(lone.baseline.knee)
    assert (claim.status, claim.metric, claim.way_out) == (Status.NO_BASELINE, "knee", "how")


@CURVES
@pytest.mark.parametrize(
    ("sides", "status"),
    [
        (("baseline",), Status.NO_BASELINE),
        (("measurement",), Status.UNMEASURED),
        (("measurement", "baseline"), Status.UNMEASURED),
    ],
    ids=["stored", "now", "both"],
)
def test_a_point_that_a_side_lacks_is_not_left_out(curve, sides, status):
    """A curve without one of its points is another curve: nothing is said of it but what is missing, and where."""
    outcome = sweep_outcome(factor={16: 0.67})
    name = "decode/m/batch=16"
    case = outcome.cases[name]
    for side in sides:
        held = getattr(case, side)
        rest = {metric: one for metric, one in held.samples.items() if metric != "output_throughput"}
        case = replace(case, **{side: replace(held, samples=rest)})
    said = unchanged(Result(replace(outcome, cases={**outcome.cases, name: case})), curve)
    assert said.status is status
    assert said.reason.startswith(f"{name}: ")
    assert said.reason.endswith(" output_throughput")


@CURVES
def test_a_case_without_a_baseline_leaves_its_curve_without_one(curve):
    """What its case says is what the curve says, with the way out."""
    outcome = sweep_outcome(factor={16: 0.67})
    name = "decode/m/batch=16"
    retired = {gated: verdict(name, gated, Status.NO_BASELINE, judged=True) for gated in GATED}
    case = replace(outcome.cases[name], baseline=None, verdicts=retired)
    said = unchanged(Result(replace(outcome, cases={**outcome.cases, name: case})), curve)
    assert (said.status, said.reason, said.way_out) == (Status.NO_BASELINE, f"{name}: why", "how")
    assert (said.case, said.tolerance) == ("decode/m", None)


def test_a_curve_of_a_void_case_is_void():
    """A knee over a case that was contended would be a guess."""
    void = result(void="contended")
    assert void.knee.unchanged_from(void.baseline.knee).status is Status.VOID


def test_a_curve_of_a_part_is_refused():
    """A knee of some batch sizes is another knee."""
    part = result(unselected=("decode/m/batch=256",))
    for curve in ("knee", "frontier"):
        with pytest.raises(SuiteError, match=f"a {curve} needs the whole sweep, .* leave out decode/m/batch=256"):
            getattr(part, curve)


@CURVES
def test_a_curve_without_a_case_that_does_not_fit_says_so(curve):
    """Where the baseline has no such case either, both sides are the same curve, and the reason names what it lacks."""
    lacking = {"skipped": {"decode/m/batch=256": "too large", "decode/other/batch=256": "too large"}}
    fine = unchanged(result(**lacking), curve)
    assert fine
    assert fine.reason.endswith("; without decode/m/batch=256 (too large)")
    lost = unchanged(moved(**lacking)[0], curve)
    assert lost.status is Status.REGRESSED
    assert lost.reason.endswith("; without decode/m/batch=256 (too large)")


@CURVES
def test_a_curve_without_a_stored_case_that_does_not_fit_never_passes(curve):
    """What this machine can't measure any more is no reason to compare less: the stored curve is another one."""
    name = "decode/m/batch=256"
    part = unchanged(result(skipped={name: "too large"}, skipped_stored=(name,)), curve)
    assert part.status is Status.UNMEASURED
    with pytest.raises(AssertionError, match=r"can't be measured here: decode/m/batch=256 \(too large\)\n"):
        bool(part)


@CURVES
def test_a_curve_none_of_whose_cases_fits_skips_whoever_looks_at_it(curve):
    """As each of its cases does, with the reasons."""
    whole = sweep_outcome(models=("m", "large"))
    fit = {name: case for name, case in whole.cases.items() if case.coordinates["model"] == "m"}
    skipped = dict.fromkeys(whole.cases.keys() - fit.keys(), "too large")
    large = Result(replace(whole, cases=fit, skipped=skipped, asked=GATED)).of("large")
    with pytest.raises(NotJudged, match=rf"no point of the {curve} was measured: .*decode/large/batch=1 \(too large\)"):
        getattr(large, curve)


def test_a_curve_that_the_tier_thins_out_skips_whoever_looks_at_it():
    """Its first and last point make another curve, on which a knee between them can't move."""
    thin = result(left_out=("decode/m/batch=16",))
    for curve in ("knee", "frontier"):
        with pytest.raises(NotJudged, match=f"a {curve} needs the whole sweep, .* quick leaves out decode/m/batch=16"):
            getattr(thin, curve)


def test_what_the_settings_leave_out_of_the_gate_skips_whoever_asserts_it():
    """A metric that the suite gates and this machine doesn't is no mistake of the suite's, and no pass."""
    whole = sweep_outcome(asked=GATED)
    cases = {
        name: replace(case, verdicts={"output_throughput": case.verdicts["output_throughput"]})
        for name, case in whole.cases.items()
    }
    asked = {"output_throughput": 0.03}
    throughput = Result(replace(whole, cases=cases, asked=asked, ungated=("median_tpot_ms",)))
    point = throughput[16]
    with pytest.raises(NotJudged, match=r"this machine's settings don't gate median_tpot_ms"):
        bool(point.tpot_ms <= point.baseline.tpot_ms)
    assert throughput.knee.unchanged_from(throughput.baseline.knee)
    for claim in (lambda: throughput.frontier, lambda: throughput.frontier_of("tpot_ms")):
        with pytest.raises(
            NotJudged, match="a frontier is of median_tpot_ms, which this machine's settings don't gate"
        ):
            claim()
    with pytest.raises(SuiteError, match="gate both"):
        throughput.frontier_of("ttft_ms")
    nothing = Result(replace(whole, asked={}, ungated=tuple(GATED)))
    with pytest.raises(NotJudged, match="a knee is of output_throughput, which"):
        _ = nothing.knee


def test_joules_that_nobody_asked_for_say_how_to_ask():
    """They take seconds of each launch, so they are counted only where somebody wants them."""
    with pytest.raises(AssertionError, match="use the fixture energy_meter, or gate one of the joules"):
        bool(result()[16].mean_power_w <= 300)


def test_goodput_that_nobody_asked_for_says_how_to_ask():
    """A sweep without limits has none, and says nothing of it until a test does."""
    with pytest.raises(AssertionError, match=r"say in the sweep which requests are good: slo=Slo\("):
        bool(result()[16].goodput_share >= 0.9)


def test_a_loop_over_points_of_which_none_was_measured_skips_its_test():
    """It would assert nothing; of a model among several, the points of the others are left."""
    names = [f"decode/m/batch={size}" for size in SIZES]
    nothing = replace(sweep_outcome(), cases={}, skipped=dict.fromkeys(names, "no room"))
    for points in (Result(nothing), Result(nothing).of("m")):
        with pytest.raises(NotJudged, match="decode/m was not measured: no room"):
            list(points)
    two = sweep_outcome(models=("m", "n"))
    one = replace(
        two, cases={name: case for name, case in two.cases.items() if name not in names}, skipped=nothing.skipped
    )
    assert [point.model for point in Result(one)] == ["n"] * len(SIZES)


def varied(*, factor=None, fresh=None, dtypes=("float32",), counts=(1, 2), **rest):
    """A sweep of one and two replicas, by type; `factor` is the share of the stored throughput of two."""
    asked = []

    def outcome(factor, launches=20):
        cases, specs = {}, []
        for replicas, dtype in [(replicas, dtype) for replicas in counts for dtype in dtypes]:
            own = {"replicas": replicas, **({"dtype": dtype} if len(dtypes) > 1 else {})}
            specs.append(EngineSpec("fake", "m", dtype))
            for size, level in SIZES.items():
                name = "/".join(("decode/m", *(f"{key}={value}" for key, value in own.items()), f"batch={size}"))
                stored = level * (1.5 if replicas == 2 else 1)
                now = stored * ((factor or {}).get(size, 1) if replicas == 2 else 1)
                cases[name] = CaseOutcome(
                    name,
                    {"model": "m", **own, "batch_size": size},
                    measurement(name, now, launches=launches),
                    measurement(name, stored),
                    {gated: verdict(name, gated, Status.UNCHANGED, judged=True) for gated in GATED},
                )
        return SweepOutcome("decode", "stored", "gate", cases, tuple(specs), {}, None, 21, 1.0, asked=GATED, **rest)

    def again(series):
        asked.append(tuple(series))
        cases = outcome(factor if fresh is None else fresh, launches=8).cases.values()
        return Fresh(tuple(case for case in cases if case.series in series), way_out="accept it")

    return Result(outcome(factor), None, again), asked


def test_a_curve_is_picked_by_what_is_varied():
    """Its points, its knee and its frontier are its own; a place alone would be one of several."""
    found, _ = varied()
    two = found.of("m", replicas=2)
    assert two[16].case == "decode/m/replicas=2/batch=16"
    assert two[16].coordinates == {"model": "m", "replicas": 2, "batch_size": 16}
    assert [point.case for point in found.of(replicas=1)] == [f"decode/m/replicas=1/batch={size}" for size in SIZES]
    assert [curve.settings for curve in found.curves] == [{"replicas": "1"}, {"replicas": "2"}]
    assert len(found) == len(list(found)) == 8
    assert two.knee.unchanged_from(two.baseline.knee)
    assert two.frontier.unchanged_from(two.baseline.frontier)
    with pytest.raises(SuiteError, match="knee of decode/m/replicas=2 is compared with its own"):
        _ = two.knee.unchanged_from(found.of(replicas=1).baseline.knee)
    example = r"2 variants of its engine: name one, as in result\.of\('m', replicas=1\)"
    for wrong, what in (
        (lambda: found[16], r"\[16\]"),
        (lambda: found["m", 16], r"\[16\]"),
        (lambda: found.knee, r"\.knee"),
        (lambda: found.highest_rate, r"\.highest_rate"),
    ):
        with pytest.raises(SuiteError, match=example + what):
            wrong()
    with pytest.raises(SuiteError, match="not measured with replicas=4: it has replicas 1, 2"):
        found.of("m", replicas=4)
    with pytest.raises(SuiteError, match="with dtype=int8: it varies no dtype"):
        found.of("m", dtype="int8")
    with pytest.raises(SuiteError, match=r"replicas=2/batch=8 was not measured"):
        two[8]


def test_the_frontier_of_all_variants_is_one_claim():
    """A point that one variant lost is reached by another, so that the whole may stand where a curve doesn't."""
    found, asked = varied(factor={1: 0.6, 4: 0.6, 16: 0.6, 64: 0.6})
    assert not found.of(replicas=2).frontier.unchanged_from(found.of(replicas=2).baseline.frontier).passed
    assert asked.pop() == ("decode/m/replicas=2",)
    verdict = found.frontier.unchanged_from(found.baseline.frontier)
    assert (verdict.case, verdict.status) == ("decode/m", Status.REGRESSED)
    assert asked == [("decode/m/replicas=1", "decode/m/replicas=2")]
    same, _ = varied()
    assert same.frontier.unchanged_from(same.baseline.frontier)
    assert same.of("m").frontier.value.case == "decode/m"


def test_the_best_replica_count_is_compared_with_the_stored_one():
    """It is judged as a knee is, and confirmed in fresh launches of all counts."""
    found, _ = varied()
    best = found.best_replicas
    assert (best.value.replicas, best.value.pays, best.value.case) == (2, True, "decode/m")
    assert best.unchanged_from(found.baseline.best_replicas)
    lost = dict.fromkeys(SIZES, 0.5)
    gone, asked = varied(factor=lost)
    verdict = gone.best_replicas.unchanged_from(gone.baseline.best_replicas)
    assert verdict.status is Status.REGRESSED
    assert asked == [("decode/m/replicas=1", "decode/m/replicas=2")]
    alone, _ = varied(factor=lost, fresh={})
    assert alone.best_replicas.unchanged_from(alone.baseline.best_replicas).status is Status.INCONCLUSIVE
    named = found.best_replicas_by("output_throughput", within=0.1, at=16)
    assert named.unchanged_from(found.baseline.best_replicas_by("output_throughput", within=0.1, at=16))
    memory = found.best_replicas_by("peak_memory_bytes")
    with pytest.raises(SuiteError, match=r"no best replica count by peak_memory_bytes is stored.*gate=\{'peak_memory"):
        memory.unchanged_from(found.baseline.best_replicas_by("peak_memory_bytes"))


def test_a_best_replica_count_is_of_variants_that_differ_in_nothing_else():
    """Of a product the rest is named; of a single curve there is none."""
    product, _ = varied(dtypes=("float32", "int8"))
    assert product.of(dtype="int8").best_replicas.value.case == "decode/m/dtype=int8"
    with pytest.raises(SuiteError, match="differ in replicas alone: name the rest"):
        _ = product.best_replicas
    for lone in (product.of(dtype="int8", replicas=1), result()):
        with pytest.raises(SuiteError, match=r"sweep replicas=\[1, 2\]"):
            _ = lone.best_replicas
    cut, _ = varied(counts=(1,))
    with pytest.raises(NotJudged, match="decode/m/replicas=1: a best replica count is of several"):
        _ = cut.best_replicas
    with pytest.raises(SuiteError, match="has its own knee"):
        _ = product.baseline.knee
    with pytest.raises(SuiteError, match="has its own highest rate"):
        _ = product.baseline.highest_rate


def test_a_slowdown_that_nothing_here_tells_skips_its_test():
    """Against a stored one where the settings don't gate its metric, against a number where no meter tells it."""
    cases = {}
    for who, level in (("none", 100.0), ("b@4", 80.0)):
        name = f"mix/m/beside={who}/batch=4"
        where = {"model": "m", "beside": who, "batch_size": 4}
        cases[name] = CaseOutcome(name, where, measurement(name, level), measurement(name, level), {})
    whole = SweepOutcome("mix", "stored", "gate", cases, (EngineSpec("fake", "m"),), {}, None, 21, 1.0)
    beside = Beside("b", batch_size=4)
    found = Result(whole)
    assert found.slowdown(beside) <= 1.5
    assert found.slowdown(beside).unchanged_from(found.baseline.slowdown(beside))
    ungated = Result(replace(whole, ungated=("output_throughput",)))
    with pytest.raises(NotJudged, match="a slowdown is of output_throughput, which this machine's settings don't gate"):
        bool(ungated.slowdown(beside).unchanged_from(ungated.baseline.slowdown(beside)))
    assert ungated.slowdown(beside) <= 1.5
    with pytest.raises(SuiteError, match=r"no slowdown by median_tpot_ms is stored.*gate=\{'tpot_ms': 0.03\}"):
        found.slowdown(beside, name="tpot_ms").unchanged_from(found.baseline.slowdown(beside, name="tpot_ms"))
    joules = "joules_per_output_token"
    unmetered = Result(replace(whole, unmetered={joules: "no meter here"}))
    with pytest.raises(NotJudged, match="no meter here"):
        bool(unmetered.slowdown(beside, name=joules) <= 1.5)


def test_a_variant_that_does_not_fit_leaves_the_others_whole():
    """Its tests are skipped with the reason, its siblings' curves are judged, and what all have together says so."""
    skipped = {f"decode/m/replicas=4/batch={size}": "too few cores" for size in SIZES}
    found, _ = varied(skipped=skipped)
    with pytest.raises(NotJudged, match="too few cores"):
        found.of(replicas=4)[16]
    with pytest.raises(NotJudged, match="no point of the knee was measured"):
        _ = found.of(replicas=4).knee
    assert found.of(replicas=2).knee.unchanged_from(found.of(replicas=2).baseline.knee)
    assert "too few cores" in found.frontier.unchanged_from(found.baseline.frontier).reason


def test_what_is_left_out_of_a_variant_is_no_loss_of_another():
    """A curve needs its own cases alone."""
    found, _ = varied(unselected=("decode/m/replicas=4/batch=1",), left_out=("decode/m/replicas=3/batch=1",))
    assert found.of(replicas=2).knee.unchanged_from(found.of(replicas=2).baseline.knee)
    with pytest.raises(SuiteError, match="leave out decode/m/replicas=4/batch=1"):
        _ = found.frontier
    with pytest.raises(
        SuiteError, match=r"replicas=4/batch=1 was not measured in this run; measured is nothing of this"
    ):
        found.of(replicas=4)[1]
