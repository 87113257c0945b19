"""Knees: their definitions, what resampled launches say of them, and whether they moved."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mind_the_memory_gap import BACKGROUND

from pytest_slmperf.core.curves.knee import Curve, Definition, Knee, NoKnee, bca, kneedle, share_of_maximum, two_segment
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.sample import BadSample, Sample
from pytest_slmperf.core.verdict import Status

BATCH, THROUGHPUT, ITL, _ = map(list, zip(*BACKGROUND, strict=True))
DEFINITIONS = [Definition("bca"), Definition("share_of_maximum"), Definition("kneedle"), Definition("two_segment")]
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def sample(centre, launches=14, noise=0.01, seed=0):
    draw = random.Random(seed)
    return Sample.of([[centre * math.exp(draw.gauss(0, noise)) for _ in range(3)] for _ in range(launches)])


def saturating(half, *, launches=14, noise=0.01, seed=0):
    """A sweep whose throughput saturates at `half`."""
    rates = {size: 300 * size / (1 + size / half) for size in SIZES}
    throughput = {size: sample(rate, launches, noise, seed + size) for size, rate in rates.items()}
    itl = {size: sample(1000 * size / rate, launches, noise, seed - size) for size, rate in rates.items()}
    return Curve(throughput, itl, "decode/opt-125m")


@pytest.mark.parametrize(("k", "advised"), [(2, 96), (3, 128), (4, 256)])
def test_bca_advises_what_the_paper_replicates_at(k, advised):
    """On the authors' own data, the advisor at epsilon 0.1 gives the three batch sizes of their experiments."""
    assert bca(BATCH, THROUGHPUT, ITL, epsilon=0.1, k=k) == advised


def test_the_knee_moves_with_its_definition():
    """On one and the same curve, the definitions differ by a factor of four: each must be named."""
    assert [definition.of(BATCH, THROUGHPUT, ITL) for definition in DEFINITIONS] == [96, 256, 256, 64]
    assert share_of_maximum(BATCH, THROUGHPUT, share=0.9) == 192


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.name)
def test_a_single_point_has_no_knee(definition):
    """A curve with one batch size has a reason instead of a knee, and none past it that it would be coming to."""
    found = definition.of([1], [100.0], [10.0])
    assert isinstance(found, NoKnee)
    assert not found.beyond


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.name)
def test_a_curve_that_only_rises_has_no_knee(definition):
    """A throughput in proportion to the batch has not bent yet: there is a reason, and no number."""
    found = definition.of(SIZES, [100.0 * size for size in SIZES], [10.0] * len(SIZES))
    assert isinstance(found, NoKnee)
    assert found.reason


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.name)
@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_values_that_no_measurement_has_are_refused(definition, value):
    """A value that is not a number, infinite or not positive is refused, never ranked."""
    with pytest.raises(BadSample):
        definition.of([1, 2, 4, 8], [100.0, value, 300.0, 310.0], [1.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("batch", [[1, 2, 2, 4], [0, 1, 2, 4]])
def test_batch_sizes_are_different_and_positive(batch):
    """A batch size that stands twice has two throughputs and no place on the curve."""
    with pytest.raises(SuiteError, match="every place once"):
        share_of_maximum(batch, [100.0, 200.0, 300.0, 310.0])


def test_bca_needs_its_two_references():
    """Without batch 1 or the reference batch, the advisor says which is missing."""
    assert bca([2, 4, 8, 32], [1.0, 2.0, 3.0, 4.0], [1.0] * 4) == NoKnee("the definition needs 1 in the sweep")
    found = bca([1, 2], [1.0, 2.0], [1.0] * 2)
    assert found == NoKnee("the definition needs 32 in the sweep")


@given(
    st.lists(st.floats(0.01, 1e6), min_size=len(SIZES), max_size=len(SIZES)),
    st.integers(-10, 10),
    st.permutations(range(len(SIZES))),
)
def test_a_knee_knows_no_unit_and_no_order(rates, power, order):
    """Another unit of the throughput, or the points in another order, move no knee."""
    itl = [1.0 + size for size in SIZES]
    shuffled = [[column[at] for at in order] for column in (SIZES, rates, itl)]
    for definition in DEFINITIONS:
        found = definition.of(SIZES, rates, itl)
        assert definition.of(*shuffled) == found
        assert definition.of(SIZES, [rate * 2.0**power for rate in rates], itl) == found


@given(st.lists(st.floats(0.01, 1e6), min_size=len(SIZES), max_size=len(SIZES)))
def test_a_knee_is_a_measured_batch_size(rates):
    """A knee is one of the batch sizes, never between them, and never the last: nothing was measured past it."""
    for definition in DEFINITIONS:
        found = definition.of(SIZES, rates, [1.0 + size for size in SIZES])
        assert isinstance(found, NoKnee) or found in SIZES[:-1]


@given(st.floats(0.1, 0.9), st.floats(0.01, 0.09))
def test_a_larger_share_never_knees_earlier(share, more):
    """Asking for a larger share of the maximum never gives a smaller batch."""
    first, second = (share_of_maximum(BATCH, THROUGHPUT, share=asked) for asked in (share, share + more))
    assert second >= first


def test_kneedle_finds_the_corner_of_a_roof():
    """Where the throughput doubles with the batch up to 16 and then stays, the knee by Kneedle is at 16."""
    assert kneedle(SIZES, [float(min(size, 16)) for size in SIZES]) == 16


def test_two_segments_meet_at_the_corner():
    """Where two straight lines over log2(batch) meet, the two-line fit finds the point."""
    assert two_segment(SIZES, [100 + 50.0 * min(place, 6) + 3.0 * max(place - 6, 0) for place in range(10)]) == 64


def test_definitions_are_spelled_out():
    """The label of a definition holds every setting, so that two knees can't be mistaken for the same."""
    assert Definition("bca", {"k": 3}).label == "bca(epsilon=0.1, k=3, reference=32)"
    assert Definition("two_segment").label == "two_segment()"
    with pytest.raises(SuiteError, match="known are bca"):
        Definition("elbow")
    with pytest.raises(SuiteError, match="has no setting 'k'"):
        Definition("kneedle", {"k": 2})
    with pytest.raises(SuiteError, match=r"share=1\.5"):
        share_of_maximum(BATCH, THROUGHPUT, share=1.5)


def test_a_knee_is_known_with_an_interval():
    """A quiet sweep has its knee at one batch size; the same seed gives the same knee, interval and all."""
    knee = saturating(16).knee(Definition("bca"), seed=7)
    assert knee == saturating(16).knee(Definition("bca"), seed=7)
    assert (knee.batch, knee.interval, knee.seed) == (64, (64, 64), 7)
    assert str(knee) == "batch 64 (64…64) by bca(epsilon=0.1, k=2, reference=32)"


def test_no_knee_is_said_with_its_reason():
    """A sweep that ends too early has no knee, no interval, and a reason."""
    knee = saturating(4000).knee()
    assert (knee.batch, knee.interval) == (None, None)
    assert "still rises at 512" in str(knee)
    assert "nothing was measured" in str(Curve({}).knee())


def test_bca_without_latencies():
    """The advisor without latencies is an error that says which metric to add."""
    with pytest.raises(SuiteError, match="itl_ms"):
        replace(saturating(16), itl={}).knee(Definition("bca"))


def test_launches_may_differ_between_batch_sizes():
    """A launch that was void for one batch size leaves the others as they are."""
    curve = saturating(16)
    shorter = {**curve.throughput, 8: Sample(curve.throughput[8].launches[:-3])}
    assert replace(curve, throughput=shorter).knee().batch == curve.knee().batch


def test_a_knee_stays():
    """The same engine measured twice, 20 launches and 14, has an unchanged knee."""
    stored = saturating(16, launches=20, seed=1).knee(Definition("bca"))
    verdict = saturating(16, seed=2).knee(Definition("bca")).unchanged_from(stored)
    assert verdict.status is Status.UNCHANGED
    assert verdict.case == "decode/opt-125m"


@pytest.mark.parametrize(("before", "after"), [(64, 4), (4, 64)])
def test_a_knee_that_moved(before, after):
    """A knee that moved beyond what resampled launches explain is red in either direction, and both are named."""
    stored = saturating(before, launches=20, seed=1).knee(Definition("share_of_maximum", {"share": 0.8}))
    verdict = saturating(after, seed=2).knee(Definition("share_of_maximum", {"share": 0.8})).unchanged_from(stored)
    assert verdict.status is Status.REGRESSED
    assert "the knee moved: batch" in verdict.message()


def test_a_knee_that_left_the_sweep():
    """A curve that had a knee and rises to the end now has moved its knee out of the sweep."""
    stored = saturating(16, seed=1).knee()
    verdict = saturating(4000, seed=2).knee().unchanged_from(stored)
    assert verdict.status is Status.REGRESSED


def knee_with(shares):
    """A knee whose resampled curves had their knees in these shares; without any, the curve has none."""
    batch = max(shares, key=shares.get) if shares else None
    return Knee("kneedle()", batch, (min(shares), max(shares)) if shares else None, SIZES, shares, 0)


@pytest.mark.parametrize(
    ("stored", "now", "status"),
    [
        ({16: 1.0}, {16: 1.0}, Status.UNCHANGED),
        ({16: 1.0}, {16: 0.97, 32: 0.03}, Status.UNCHANGED),
        ({16: 1.0}, {16: 0.6, 32: 0.4}, Status.INCONCLUSIVE),
        ({16: 0.5, 32: 0.5}, {16: 0.6, 32: 0.4}, Status.UNCHANGED),
        ({16: 0.5, 32: 0.5}, {32: 1.0}, Status.UNCHANGED),
        ({16: 0.98, 32: 0.02}, {32: 1.0}, Status.INCONCLUSIVE),
        ({16: 0.3, 32: 0.4, 64: 0.3}, {32: 1.0}, Status.INCONCLUSIVE),
        ({16: 0.5, 32: 0.5}, {32: 0.5, 64: 0.5}, Status.INCONCLUSIVE),
        ({16: 1.0}, {32: 1.0}, Status.REGRESSED),
        ({16: 0.5, 32: 0.5}, {64: 0.5, 128: 0.5}, Status.REGRESSED),
        ({16: 1.0}, {}, Status.REGRESSED),
        ({}, {16: 1.0}, Status.INCONCLUSIVE),
    ],
)
def test_what_intervals_decide(stored, now, status):
    """Disjoint intervals moved, a knee within the baseline's one or two sizes stays, and the rest can't be told."""
    assert knee_with(now).unchanged_from(knee_with(stored)).status is status


def test_knees_that_can_not_be_compared():
    """Knees by two definitions, or over other batch sizes, are incomparable: never equal, never moved."""
    curve = saturating(16)
    by_share = curve.knee()
    assert by_share.unchanged_from(curve.knee(Definition("kneedle"))).status is Status.INCOMPARABLE
    fewer = {size: one for size, one in curve.throughput.items() if size != 8}
    assert by_share.unchanged_from(replace(curve, throughput=fewer).knee()).status is Status.INCOMPARABLE


def test_no_alarm_on_noise():
    """On sweeps without a change, 20 launches against 14 with 3 % noise, no knee is ever called moved."""
    definition = Definition("share_of_maximum", {"share": 0.9})
    for seed in range(0, 60_000, 2_000):
        stored = saturating(16, launches=20, noise=0.03, seed=seed).knee(definition, resamples=200)
        now = saturating(16, noise=0.03, seed=seed + 1_000).knee(definition, resamples=200)
        assert now.unchanged_from(stored).status is not Status.REGRESSED


def rising(factor):
    """Throughput that still rises at the largest batch, over 8 launches."""
    sizes = {1: 100.0, 4: 300.0, 16: 300.0 * factor}
    return Curve(
        {size: Sample.of([[rate * (1 + 0.001 * launch)] for launch in range(8)]) for size, rate in sizes.items()}
    )


def test_a_knee_past_the_sweep_is_unchanged_while_it_stays_there():
    """Where throughput still rises at the largest batch, before and now, nothing has moved."""
    assert rising(2).knee().unchanged_from(rising(2.1).knee()).status is Status.UNCHANGED


def test_a_knee_that_comes_into_the_sweep_has_moved():
    """Where throughput rose to the end and now stops before, the knee moved."""
    assert rising(1).knee().unchanged_from(rising(2).knee()).status is Status.REGRESSED


def test_a_knee_that_cannot_be_is_never_unchanged():
    """A curve of one point has no knee anywhere: two of them are not compared in silence."""
    alone = Curve({4: Sample.of([[100.0 + launch] for launch in range(8)])}).knee()
    assert not alone.few
    assert alone.unchanged_from(alone).status is Status.INCONCLUSIVE


def test_one_launch_tells_no_knee():
    """With fewer than five launches there is a knee of the medians without an interval, and it never moved."""
    few, many = saturating(4, launches=1), saturating(64, launches=20)
    knee = few.knee(Definition("bca"))
    assert (knee.batch, knee.interval) == (few.knee(Definition("bca")).batch, None)
    assert "not bounded" in str(knee)
    for first, second in ((few, many), (many, few), (few, few)):
        verdict = first.knee(Definition("bca")).unchanged_from(second.knee(Definition("bca")))
        assert verdict.status is Status.INCONCLUSIVE
        assert "too few launches" in verdict.reason


@pytest.mark.parametrize("rise", [0.0, 50.0, -3.0])
def test_a_straight_line_has_no_knee(rise):
    """Throughput that changes by the same with every doubling, or not at all, bends nowhere: rounding makes no knee."""
    rates = [400 + rise * place / 3 for place in range(len(SIZES))]
    for definition in (Definition("kneedle"), Definition("two_segment")):
        assert isinstance(definition.of(SIZES, rates), NoKnee)
