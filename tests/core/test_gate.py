"""The gate: what its verdicts may depend on, what they must not, and that its error levels are spent as stated."""

import math
import random
from dataclasses import replace
from itertools import pairwise
from statistics import NormalDist

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pytest_slmperf.core import gate
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.gate import Policy
from pytest_slmperf.core.judging import ranks
from pytest_slmperf.core.judging.drift import drift_of, neighbour_inflation
from pytest_slmperf.core.judging.limit import judge_against_number
from pytest_slmperf.core.judging.spending import look_level
from pytest_slmperf.core.judging.tolerance import TOLERANCES, supported_tolerance
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.sample import LARGEST, SMALLEST, BadSample, Sample
from pytest_slmperf.core.verdict import Effect, Status, Verdict

THROUGHPUT = metric("output_throughput")
ENERGY = metric("joules_per_output_token")
RANK = {Status.IMPROVED: 0, Status.UNCHANGED: 1, Status.INCONCLUSIVE: 2, Status.REGRESSED: 3}

patient = settings(deadline=None)  # the first example of a schedule works its levels out
designs = st.sampled_from(gate.DESIGNS)
tolerances = st.floats(0.01, 0.15)
noises = st.sampled_from([0.0, 0.0005, 0.005, 0.01, 0.03, 0.1])
changes = st.floats(-0.2, 0.2)


def launches(count, sd, *, shift=0.0, rounds=3, seed=0, level=100.0):
    """Log-normal launches around a level, `shift` lower on the log scale."""
    draw = random.Random(seed)
    out = []
    for _ in range(count):
        launch = draw.gauss(-shift, sd)
        out.append([level * math.exp(launch + draw.gauss(0, sd / 2)) for _ in range(rounds)])
    return out


@st.composite
def arms(draw):
    """A baseline and a candidate of one length, with a random change, noise and number of rounds."""
    count, sd, change = draw(st.integers(2, 18)), draw(noises), draw(changes)
    rounds, seed = draw(st.integers(1, 4)), draw(st.integers(0, 10_000))
    return (
        launches(count, sd, rounds=rounds, seed=seed),
        launches(count, sd, rounds=rounds, seed=seed + 1, shift=change),
    )


def judged(baseline, candidate, policy, of=THROUGHPUT):
    return gate.judge(of, Sample.of(baseline), Sample.of(candidate), policy)


def scaled(rounds, factor):
    return [[value * factor for value in launch] for launch in rounds]


wide = st.lists(st.lists(st.floats(SMALLEST, LARGEST), min_size=1, max_size=2), min_size=2, max_size=12)


@patient
@given(wide, wide, designs, st.sampled_from([THROUGHPUT, ENERGY]))
def test_every_sample_can_be_judged(baseline, candidate, design, of):
    """Whatever values a sample may have, a verdict's ratio is a number, and its bounds are numbers or infinite."""
    effect = judged(baseline, candidate, Policy(0.03, design=design), of).effect
    assert 0 < effect.ratio < math.inf
    assert effect.low <= effect.high
    assert effect.mde > 0


# What a verdict may not depend on


@patient
@given(arms(), designs, tolerances, st.floats(1e-6, 1e6))
def test_the_unit_does_not_matter(both, design, tolerance, factor):
    """Values in another unit get the same verdict and the same ratio."""
    policy = Policy(tolerance, design=design)
    verdict = judged(*both, policy)
    other = judged(*(scaled(arm, factor) for arm in both), policy)
    assert other.effect.ratio == pytest.approx(verdict.effect.ratio, rel=1e-9)
    assert (other.effect.low, other.effect.high) == pytest.approx((verdict.effect.low, verdict.effect.high), rel=1e-9)


@patient
@given(arms(), designs, tolerances)
def test_swapping_the_arms_inverts_the_ratio(both, design, tolerance):
    """The candidate against the baseline is the inverse of the baseline against the candidate."""
    policy = Policy(tolerance, design=design)
    there, back = judged(*both, policy).effect, judged(*reversed(both), policy).effect
    assert back.ratio == pytest.approx(1 / there.ratio, rel=1e-9)
    if math.isfinite(there.high):
        assert (back.low, back.high) == pytest.approx((1 / there.high, 1 / there.low), rel=1e-9)


@patient
@given(arms(), designs, tolerances, st.randoms(use_true_random=False))
def test_the_order_of_rounds_does_not_matter(both, design, tolerance, draw):
    """Rounds may come in any order within their launch."""
    shuffled = [[draw.sample(launch, len(launch)) for launch in arm] for arm in both]
    policy = Policy(tolerance, design=design)
    assert judged(*shuffled, policy).effect.ratio == judged(*both, policy).effect.ratio
    assert judged(*shuffled, policy) == judged(*both, policy)


@patient
@given(arms(), tolerances, st.randoms(use_true_random=False))
def test_the_order_of_blocks_does_not_matter(both, tolerance, draw):
    """Interleaved blocks may come in any order, as long as they stay together."""
    order = draw.sample(range(len(both[0])), len(both[0]))
    policy = Policy(tolerance, design="interleaved")
    verdict, other = judged(*both, policy), judged(*([arm[i] for i in order] for arm in both), policy)
    assert other.effect.ratio == pytest.approx(verdict.effect.ratio, rel=1e-12)
    assert other.effect.low == pytest.approx(verdict.effect.low, rel=1e-9)


@patient
@given(arms(), designs, tolerances)
def test_lower_is_better_mirrors_higher_is_better(both, design, tolerance):
    """The inverse of a metric, with the inverse tolerance, gets the same verdict."""
    inverse = [[[1 / value for value in launch] for launch in arm] for arm in both]
    higher = judged(*both, Policy(tolerance, design=design))
    lower = judged(*inverse, Policy(1 / (1 - tolerance) - 1, design=design), of=ENERGY) if tolerance < 0.5 else higher
    assume(abs(higher.effect.ratio - (1 - tolerance)) > 1e-9)
    assert lower.effect.ratio == pytest.approx(1 / higher.effect.ratio, rel=1e-9)
    assert lower.status is higher.status


@patient
@given(arms(), designs, tolerances)
def test_the_bare_rule_and_the_verdict_agree(both, design, tolerance):
    """The rule that can be checked from outside is the one that judges."""
    said, more = gate.rule(*both, tolerance=tolerance, higher_is_better=True, max_runs=16, design=design)
    verdict = judged(*both, Policy(tolerance, design=design))
    assert said == ("ok" if verdict.status is Status.UNCHANGED else verdict.status)
    samples = Sample.of(both[0]), Sample.of(both[1])
    assert more == gate.more_launches(verdict, *samples, Policy(tolerance, design=design))


# In which direction a verdict moves


@patient
@given(arms(), designs, tolerances, st.floats(0, 0.3))
def test_a_larger_loss_is_never_judged_better(both, design, tolerance, loss):
    """Slowing every launch of the candidate down never improves its verdict."""
    baseline, candidate = both
    policy = Policy(tolerance, design=design)
    before = judged(baseline, candidate, policy)
    after = judged(baseline, scaled(candidate, math.exp(-loss)), policy)
    if loss > 1e-9:
        assert RANK[after.status] >= RANK[before.status]


@patient
@given(arms(), designs, tolerances, tolerances)
def test_a_larger_tolerance_never_regresses_more(both, design, one, other):
    """What passes passes with a larger tolerance too, and what regressed regresses with a smaller one."""
    tight, loose = (judged(*both, Policy(tolerance, design=design)) for tolerance in sorted((one, other)))
    if tight.passed:
        assert loose.passed
    if loose.status is Status.REGRESSED:
        assert tight.status is Status.REGRESSED


@patient
@given(st.integers(1, 24), noises, designs, tolerances, st.integers(0, 1000))
def test_what_equals_its_baseline_has_not_regressed(count, sd, design, tolerance, seed):
    """A candidate with the baseline's own values is never regressed, and never improved."""
    same = launches(count, sd, seed=seed)
    verdict = judged(same, same, Policy(tolerance, design=design))
    assert verdict.status in (Status.UNCHANGED, Status.INCONCLUSIVE)
    assert verdict.effect.ratio == pytest.approx(1)


@patient
@given(arms(), designs, tolerances, st.integers(1, 18))
def test_the_last_look_is_final(both, design, tolerance, cap):
    """A verdict asks for more launches only below the cap, never beyond it, and then only when undecided."""
    policy = Policy(tolerance, cap, design)
    verdict = judged(*both, policy)
    more = gate.more_launches(verdict, Sample.of(both[0]), Sample.of(both[1]), policy)
    assert (more == 0) is verdict.final
    assert verdict.final or verdict.status is Status.INCONCLUSIVE
    assert verdict.final or len(both[1]) + more <= cap
    if len(both[1]) >= cap:
        assert verdict.final


@patient
@given(arms(), designs, tolerances)
def test_the_estimate_lies_within_its_interval(both, design, tolerance):
    """The ratio is inside its confidence interval, and the MDE is at least the tolerance."""
    effect = judged(*both, Policy(tolerance, design=design)).effect
    assert effect.low <= effect.ratio * (1 + 1e-12)
    assert effect.ratio <= effect.high * (1 + 1e-12)
    assert effect.mde >= tolerance - 1e-12


# What a verdict says


@pytest.mark.parametrize("design", gate.DESIGNS)
@pytest.mark.parametrize(
    ("shift", "expected"),
    [(0.0, Status.UNCHANGED), (0.08, Status.REGRESSED), (-0.08, Status.IMPROVED), (0.025, Status.INCONCLUSIVE)],
)
def test_verdicts_by_the_size_of_the_change(design, shift, expected):
    """With half a per cent of noise, each size of change gets its verdict."""
    verdict = judged(launches(16, 0.005, seed=1), launches(16, 0.005, seed=2, shift=shift), Policy(0.03, design=design))
    assert verdict.status is expected
    assert verdict.final
    assert verdict.effect.low - 0.01 < math.exp(-shift) < verdict.effect.high + 0.01


@pytest.mark.parametrize("design", gate.DESIGNS)
def test_without_any_spread_a_loss_beyond_the_tolerance_is_regressed(design):
    """Ties are no obstacle: constant launches are judged by their difference."""
    policy = Policy(0.03, design=design)
    constant = [[100.0] * 3] * 8
    assert judged(constant, constant, policy).status is Status.UNCHANGED
    assert judged(constant, [[90.0] * 3] * 8, policy).status is Status.REGRESSED
    assert judged(constant, [[111.0] * 3] * 8, policy).status is Status.IMPROVED


@pytest.mark.parametrize("design", gate.DESIGNS)
def test_a_wild_round_does_not_move_a_verdict(design):
    """One round in three that took ten times as long changes nothing."""
    calm, wild = launches(8, 0.002, seed=1), launches(8, 0.002, seed=2)
    for launch in wild:
        launch[0] /= 10
    assert judged(calm, wild, Policy(0.05, design=design)).passed


@pytest.mark.parametrize("design", gate.DESIGNS)
def test_too_few_launches_decide_nothing(design):
    """Two launches of each arm are inconclusive, however far apart, and say that they bound nothing."""
    verdict = judged(launches(2, 0.001), launches(2, 0.001, shift=0.5), Policy(0.03, 2, design))
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.final
    assert "2 against 2 launches bound nothing" in verdict.reason
    assert math.isinf(verdict.effect.mde)
    assert "95 % CI -∞…+∞, 2×3 vs 2×3 launches×rounds; tolerance 3.0%, MDE ∞)" in verdict.line()
    assert "fresh launches alone are inconclusive: -39.3%, 95 % CI -∞…+∞, 2×3" in (
        gate.confirm(verdict_of(Status.REGRESSED), verdict).reason
    )


def test_an_inconclusive_verdict_names_what_it_cannot_exclude_and_a_way_out():
    """Noise that hides the tolerance is said to hide it, with what would help."""
    verdict = judged(launches(20, 0.05, seed=1), launches(16, 0.05, seed=2), Policy(0.03))
    assert verdict.status is Status.INCONCLUSIVE
    assert "cannot exclude a loss of" in verdict.reason
    assert "interleaved" in verdict.way_out
    assert judged(launches(20, 0.05, seed=1), launches(8, 0.05, seed=2), Policy(0.03)).final is False


def test_a_drifting_session_decides_less_and_is_named():
    """Launches that each resemble the next one count for fewer, and the reason says so."""
    drifting = [[100 * math.exp(0.01 * math.sin(i / 3))] for i in range(20)]
    shuffled = random.Random(3).sample(drifting, 20)
    plain, drifted = judged(shuffled, shuffled[:16], Policy(0.03)), judged(drifting, drifting[:16], Policy(0.03))
    assert drifted.effect.high - drifted.effect.low > 1.5 * (plain.effect.high - plain.effect.low)
    assert drifted.status is Status.INCONCLUSIVE
    assert "drift" in drifted.reason


def shortly_slowed(calm, slow, at):
    """Costs of launches of which some in a row were slowed by a fifth."""
    lost = [scaled([launch], 0.8)[0] if at <= i < at + slow else launch for i, launch in enumerate(calm)]
    return gate.costs_of(Sample.of(lost), higher_is_better=True)


@pytest.mark.parametrize("slow", [2, 3])
def test_a_slow_minute_is_no_drift(slow):
    """Two or three slow launches in a row leave a stored comparison its certainty, wherever they lie."""
    calm = launches(20, 0.01, seed=5)
    for at in range(21 - slow):
        costs = shortly_slowed(calm, slow, at)
        assert neighbour_inflation(costs) < 3
        assert not drift_of(costs)


@pytest.mark.parametrize("slow", [10, 13, 16])
def test_a_change_of_pace_is_a_drift(slow):
    """Where half of the launches or more are slower, no minute was slow: neighbours resemble each other."""
    costs = shortly_slowed(launches(20, 0.01, seed=5), slow, 0)
    assert "drift" in drift_of(costs)
    assert neighbour_inflation(costs) > 10


def test_drift_does_not_blind_interleaved_blocks():
    """Blocks that drift together by far more than the tolerance still show a change within them."""
    drift = [0.02 * i for i in range(14)]
    baseline = [[100 * math.exp(-d)] for d in drift]
    candidate = [[93 * math.exp(-d + 0.001 * (i % 3))] for i, d in enumerate(drift)]
    assert judged(baseline, candidate, Policy(0.03, design="interleaved")).status is Status.REGRESSED


def test_a_stored_baseline_cannot_see_less_than_a_day():
    """However quiet the launches, a stored comparison is no surer than two days of one machine are alike."""
    still = [[100.0]] * 20
    interval = judged(still, still, Policy(0.03)).effect
    assert math.log(interval.high) == pytest.approx(NormalDist().inv_cdf(0.975) * gate.DAY_SD)


def test_arms_of_different_length_are_compared_without_blocks():
    """Where a launch of one interleaved arm was lost, the arms are still compared."""
    verdict = judged(
        launches(12, 0.003, seed=1), launches(11, 0.003, seed=2, shift=0.1), Policy(0.03, design="interleaved")
    )
    assert verdict.status is Status.REGRESSED


def test_bad_values_are_refused():
    """A value that no measurement can have is an error, never a verdict."""
    with pytest.raises(BadSample):
        gate.rule([[1.0]], [[math.nan]], tolerance=0.03, higher_is_better=True, max_runs=16, design="stored")


@pytest.mark.parametrize("wrong", [{"tolerance": 0}, {"tolerance": 3}, {"max_launches": 0}, {"design": "paired"}])
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    """A tolerance in per cent, a gate without a launch or an unknown design is wrong usage."""
    with pytest.raises(UsageError):
        Policy(**{"tolerance": 0.03, **wrong})


# Looks and levels


@patient
@given(st.integers(1, 40), designs)
def test_looks_rise_to_the_cap(cap, design):
    """The looks depend on the cap alone: they begin with the first launches and end with all."""
    times = gate.looks(Policy(0.03, cap, design))
    assert times[0] == gate.first_launches(Policy(0.03, cap, design)) == min(cap, gate.FIRST_LOOK)
    assert times[-1] == cap
    assert all(low < high for low, high in pairwise(times))


def test_a_confirmation_is_one_look_at_few_launches():
    """Fresh launches are as many as the first look has, and need only make the regression likely."""
    policy = gate.confirmation(Policy(0.03))
    assert gate.looks(policy) == (gate.first_launches(Policy(0.03)),) == (gate.FIRST_LOOK,)
    assert gate.levels_of(policy, 20, 8) == (gate.LIKELY, gate.LIKELY)
    assert gate.levels_of(replace(policy, confirming=False), 20, 8) == (gate.SURE, gate.LIKELY)


@pytest.mark.parametrize("times", [(1.0,), (0.5, 1.0), (0.5, 0.625, 0.75, 0.875, 1.0), (0.2, 0.4, 0.6, 0.8, 1.0)])
@pytest.mark.parametrize("level", [0.05, 0.002])
def test_the_looks_spend_their_level_and_no_more(times, level):
    """A walk that is looked at as often as the gate looks crosses a boundary as often as the level says."""
    bounds = [NormalDist().inv_cdf(1 - look_level(level, times[: look + 1])) for look in range(len(times))]
    draw, paths, crossed = random.Random(1), 20_000, 0
    for _ in range(paths):
        score = before = 0.0
        for time, bound in zip(times, bounds, strict=True):
            score += draw.gauss(0, math.sqrt(time - before))
            before = time
            if score > bound * math.sqrt(time):
                crossed += 1
                break
    assert crossed / paths == pytest.approx(level, abs=4 * math.sqrt(level / paths))


def test_the_first_look_spends_its_cube():
    """At half of the information an eighth of the level is spent, and a single look spends all of it."""
    assert look_level(0.04, (0.5,)) == pytest.approx(0.005)
    assert look_level(0.04, (1.0,)) == pytest.approx(0.04)


@pytest.mark.parametrize("design", gate.DESIGNS)
def test_twenty_and_sixteen_launches_reach_every_level(design):
    """At every look of the default policy, each of the two questions has a bound."""
    for look in gate.looks(Policy(0.03, design=design)):
        baseline = 20 if design == "stored" else look
        sure, _ = gate.levels_of(Policy(0.03, design=design), baseline, look)
        share = sure if design == "stored" else sure / 2
        assert ranks.critical(ranks.rank_sum_distribution(baseline, look), share) is not None


# Confirmation


def verdict_of(status, **fields):
    effect = Effect(100.0, 94.0, 0.94, 0.93, 0.95, 0.04, "20×5", "16×5")
    return Verdict(status, "output_throughput", "tok/s", higher_is_better=True, effect=effect, **fields)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.REGRESSED])
def test_what_did_not_regress_needs_no_confirmation(status):
    """Only a regression is measured again."""
    first = verdict_of(status)
    assert gate.confirm(first, verdict_of(Status.REGRESSED)) == first


def test_a_regression_stands_if_fresh_launches_regress_too():
    """Regressed twice is regressed, and says that it was confirmed."""
    stands = gate.confirm(verdict_of(Status.REGRESSED), verdict_of(Status.REGRESSED))
    assert stands.status is Status.REGRESSED
    assert "confirmed by fresh launches: -6.0%" in stands.reason


@pytest.mark.parametrize(
    "again", [Status.UNCHANGED, Status.IMPROVED, Status.INCONCLUSIVE, Status.VOID, Status.UNMEASURED]
)
def test_a_regression_that_fresh_launches_do_not_show_is_inconclusive(again):
    """Regressed once is neither red nor green, and both looks are told."""
    fresh = replace(verdict_of(again), effect=None, reason="what the second look says")
    doubted = gate.confirm(verdict_of(Status.REGRESSED), fresh)
    assert doubted.status is Status.INCONCLUSIVE
    assert not doubted.passed
    assert "regressed at first (-6.0%" in doubted.reason
    assert f"fresh launches alone are {again}: what the second look says" in doubted.reason


# Numbers


def slo(values, limit, *, at_least):
    return judge_against_number(THROUGHPUT, Sample.of([[value] for value in values]), limit, at_least=at_least)


@pytest.mark.parametrize(
    ("limit", "at_least", "expected"),
    [
        (90, True, Status.UNCHANGED),
        (98, True, Status.UNCHANGED),
        (99, True, Status.INCONCLUSIVE),
        (103, True, Status.REGRESSED),
        (110, False, Status.UNCHANGED),
        (101, False, Status.INCONCLUSIVE),
        (97, False, Status.REGRESSED),
    ],
)
def test_a_number_is_met_only_if_the_bound_is_within_it(limit, at_least, expected):
    """Five launches bound their median by their extremes, and the bound decides."""
    verdict = slo([98, 99, 100, 101, 102], limit, at_least=at_least)
    assert verdict.status is expected
    assert ("within the limit" in verdict.reason) is (expected is Status.UNCHANGED)


def test_too_few_launches_for_a_bound_say_how_many_are_needed():
    """One launch less than the confidence needs is inconclusive, however far from the limit."""
    few = slo([100] * 4, 1, at_least=True)
    assert few.status is Status.INCONCLUSIVE
    assert "5 are needed; limit at least 1 tok/s" in few.reason
    assert slo([100] * 5, 1, at_least=True).passed


@patient
@given(st.lists(st.floats(1, 1000), min_size=1, max_size=20), st.floats(1, 1000))
def test_a_limit_is_never_met_and_missed(values, limit):
    """What surely holds as a lower limit does not surely hold as an upper one, unless it stands on the limit."""
    floor, ceiling = slo(values, limit, at_least=True), slo(values, limit, at_least=False)
    if floor.passed and ceiling.passed:
        assert Sample.of([[value] for value in values]).median == limit
    if floor.status is Status.REGRESSED:
        assert ceiling.passed


# Supported tolerance


@pytest.mark.parametrize(("sd", "least", "most"), [(0.0001, 0.03, 0.03), (0.01, 0.03, 0.05), (0.03, 0.05, 0.12)])
def test_the_supported_tolerance_grows_with_the_noise(sd, least, most):
    """A quiet baseline supports the tolerance that a day allows, a noisy one a larger."""
    found = supported_tolerance(Sample.of(launches(20, sd, seed=4)), THROUGHPUT, Policy(0.03))
    assert least <= found <= most
    assert found in TOLERANCES


def test_too_much_noise_supports_no_tolerance():
    """Launches that differ by 30 %, drift steadily, or are too few support nothing."""
    for rounds in (launches(20, 0.3), [[100 + i] for i in range(20)], launches(2, 0.001), launches(1, 0.001)):
        assert supported_tolerance(Sample.of(rounds), THROUGHPUT, Policy(0.03)) is None


def test_the_supported_tolerance_is_always_the_same():
    """The same baseline gets the same answer, whatever was asked before and in which design."""
    sample = Sample.of(launches(20, 0.02, seed=9))
    first = supported_tolerance(sample, THROUGHPUT, Policy(0.03))
    random.seed(1)
    assert supported_tolerance(sample, THROUGHPUT, Policy(0.10, design="interleaved")) == first


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.002, 0.005, 0.01]))
def test_a_supported_tolerance_decides_the_day_that_follows(seed, sd):
    """A gate without a change, at the tolerance that its baseline supports and on an average day, sees no loss."""
    baseline = Sample.of(launches(20, sd, seed=seed))
    tolerance = supported_tolerance(baseline, THROUGHPUT, Policy(0.03))
    assume(tolerance is not None)  # neighbours may resemble each other by chance, and then nothing is recorded
    candidate = Sample.of(launches(16, sd, seed=seed + 1))
    assert gate.judge(THROUGHPUT, baseline, candidate, Policy(tolerance)).status is not Status.REGRESSED
