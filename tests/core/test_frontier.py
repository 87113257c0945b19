"""Frontier and knee."""

import math
import random
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.frontier import (
    Curve,
    Definition,
    Frontier,
    Knee,
    NoKnee,
    bca,
    frontier,
    hypervolume,
    kneedle,
    pareto,
    share_of_maximum,
    two_segment,
)
from pytest_slmperf.core.gate import Policy
from pytest_slmperf.core.sample import BadSample, Sample
from pytest_slmperf.core.verdict import Status

OPT_1_3B_ON_AN_H100 = [
    (1, 381.406, 3.62333),
    (2, 730.832, 3.78188),
    (4, 1399.16, 3.93335),
    (8, 2400.43, 4.56628),
    (16, 4042.34, 5.38138),
    (32, 5734.14, 7.50959),
    (64, 8143.69, 10.3958),
    (96, 9032.79, 13.8938),
    (128, 9506.93, 17.3461),
    (192, 10317.7, 23.5787),
    (256, 10809.8, 29.2727),
    (384, 11144.6, 40.876),
    (512, 11203.6, 52.1108),
    (640, 11298.4, 61.6774),
    (768, 11050.1, 72.889),
]
"""(max_num_seqs, total tok/s, mean ITL in ms) of one vLLM instance, from the data repository of Mind the Memory Gap
(arXiv 2503.08311): github.com/FerranAgulloLopez/vLLMBatchingMemoryGap, benchmarks/definitive_results/background."""
BATCH, THROUGHPUT, ITL = map(list, zip(*OPT_1_3B_ON_AN_H100, strict=True))
DEFINITIONS = [Definition("bca"), Definition("share_of_maximum"), Definition("kneedle"), Definition("two_segment")]
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
DIRECTIONS = st.lists(st.booleans(), min_size=2, max_size=3)


def sample(centre, launches=14, noise=0.01, seed=0):
    draw = random.Random(seed)
    return Sample.of([[centre * math.exp(draw.gauss(0, noise)) for _ in range(3)] for _ in range(launches)])


def saturating(half, *, launches=14, noise=0.01, seed=0):
    """A sweep whose throughput saturates at `half`."""
    rates = {size: 300 * size / (1 + size / half) for size in SIZES}
    throughput = {size: sample(rate, launches, noise, seed + size) for size, rate in rates.items()}
    itl = {size: sample(1000 * size / rate, launches, noise, seed - size) for size, rate in rates.items()}
    return Curve(throughput, itl, "decode/opt-125m")


def cloud(draw, metrics):
    value = st.integers(0, 4).map(float)
    return draw(st.lists(st.tuples(*[value] * metrics), max_size=12))


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
    """A curve with one batch size has a reason instead of a knee."""
    assert isinstance(definition.of([1], [100.0], [10.0]), NoKnee)


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
    with pytest.raises(SuiteError, match="every batch size once"):
        share_of_maximum(batch, [100.0, 200.0, 300.0, 310.0])


def test_bca_needs_its_two_references():
    """Without batch 1 or the reference batch, the advisor says which is missing."""
    assert bca([2, 4, 8, 32], [1.0, 2.0, 3.0, 4.0], [1.0] * 4) == NoKnee("the definition needs batch 1 in the sweep")
    found = bca([1, 2], [1.0, 2.0], [1.0] * 2)
    assert found == NoKnee("the definition needs batch 32 in the sweep")


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
    assert "Accept a new baseline" in verdict.message()


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


@given(st.data(), DIRECTIONS)
def test_a_frontier_is_what_nothing_dominates(data, directions):
    """A point is on the frontier exactly if no point is at least as good everywhere and better somewhere."""
    points = cloud(data.draw, len(directions))
    turned = [[value if up else -value for value, up in zip(point, directions, strict=True)] for point in points]

    def dominated(mine):
        return any(theirs != mine and all(map(float.__ge__, theirs, mine)) for theirs in turned)

    assert pareto(points, directions) == tuple(at for at, mine in enumerate(turned) if not dominated(mine))


@given(st.data(), DIRECTIONS)
def test_the_frontier_of_a_frontier_is_itself(data, directions):
    """Taking the frontier twice changes nothing, and only an empty set of points has an empty one."""
    points = cloud(data.draw, len(directions))
    best = [points[at] for at in pareto(points, directions)]
    assert pareto(best, directions) == tuple(range(len(best)))
    assert bool(best) == bool(points)


def test_equal_points_stay_together():
    """Two equal points don't dominate each other."""
    assert pareto([(1, 1), (1, 1), (0, 1)], (True, True)) == (0, 1)


def test_a_point_that_is_not_a_number():
    """A point with a value that is not a number is refused: it would neither dominate nor be dominated."""
    with pytest.raises(BadSample, match="not a number"):
        pareto([(1.0, math.nan)], (True, True))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=8))
def test_hypervolume_counts_what_the_points_reach(points):
    """The hypervolume is the area of the unit squares that lie below some point."""
    squares = sum(any(x > i and y > j for x, y in points) for i, j in product(range(6), range(6)))
    assert hypervolume(points, (True, True), (0.0, 0.0)) == squares


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), max_size=8), st.floats(1, 100), st.floats(1, 100))
def test_another_point_never_shrinks_the_hypervolume(points, throughput, latency):
    """Adding a point never makes the hypervolume of throughput and latency smaller."""
    reference = (0.5, 101.0)
    before = hypervolume(points, (True, False), reference)
    assert hypervolume([*points, (throughput, latency)], (True, False), reference) >= before * (1 - 1e-12)


def swept(losses=None, *, launches=14, noise=0.004, seed=0, metrics=("output_throughput", "itl_ms"), sizes=SIZES):
    """The frontier of a saturating sweep; `losses` maps a batch size to its factors on throughput and latency."""
    cases = {}
    for size in sizes:
        rate, latency = 300 * size / (1 + size / 16), 3.0 * (1 + size / 16)
        slower, later = (losses or {}).get(size, (1.0, 1.0))
        cases[f"batch={size}"] = {
            "output_throughput": sample(rate * slower, launches, noise, seed + size),
            "median_itl_ms": sample(latency * later, launches, noise, seed + 7_000 + size),
        }
    return frontier(cases, metrics, "decode/opt-125m")


STORED = swept(launches=20, seed=100_000)
POLICY = Policy(0.05, max_launches=14, design="stored", single_look=True)


def test_a_frontier_stays():
    """The same engine measured again reaches every stored point."""
    verdict = swept(seed=1).unchanged_from(STORED, POLICY)
    assert (verdict.status, verdict.reason) == (Status.UNCHANGED, "all 10 stored points are reached")
    assert verdict.case == "decode/opt-125m"


def test_a_frontier_that_lost_a_point():
    """A stored point that no case reaches any more is red, and the line says which and by how much."""
    verdict = swept({64: (0.85, 1.0)}, seed=1).unchanged_from(STORED, {m.name: POLICY for m in STORED.metrics})
    assert verdict.status is Status.REGRESSED
    assert verdict.reason.startswith("1 of 10 stored points are no longer reached by any case: batch=64")
    assert "(output_throughput -1" in verdict.reason
    assert "tolerance 5.0%" in verdict.reason
    assert "median_itl_ms" not in verdict.reason


def test_a_point_that_another_case_reaches():
    """A case that lost throughput is no loss of the frontier where another batch size serves as well."""
    stored = replace(STORED, points={"batch=64": STORED.points["batch=64"]})
    now = swept({64: (0.85, 1.0)}, seed=1)
    as_good = {**now.samples, "batch=60": swept(seed=5).samples["batch=64"]}
    assert replace(now, samples=as_good).unchanged_from(stored, POLICY).status is Status.UNCHANGED


def test_a_frontier_that_improved():
    """Points that are surpassed are named, and nothing is lost by it."""
    verdict = swept(dict.fromkeys(SIZES, (1.2, 1 / 1.2)), seed=1).unchanged_from(STORED, POLICY)
    assert verdict.status is Status.IMPROVED
    assert "batch=64" in verdict.reason


def test_a_frontier_that_can_not_be_told():
    """Where the launches scatter too much to say, the frontier is inconclusive."""
    verdict = swept(noise=0.1, launches=8, seed=1).unchanged_from(STORED, replace(POLICY, max_launches=8))
    assert verdict.status is Status.INCONCLUSIVE
    assert "can't be told" in verdict.reason


def test_a_point_that_was_not_measured():
    """A stored point whose case was not measured, and that no other reaches, is unmeasured: not a pass."""
    verdict = swept(seed=1, sizes=SIZES[1:]).unchanged_from(STORED, POLICY)
    assert verdict.status is Status.UNMEASURED
    assert "batch=1 (not measured)" in verdict.reason


def test_frontiers_that_can_not_be_compared():
    """Frontiers in other metrics are incomparable, and one without a stored point has no baseline."""
    turned = swept(metrics=("itl_ms", "output_throughput"))
    assert turned.unchanged_from(STORED, POLICY).status is Status.INCOMPARABLE
    assert STORED.unchanged_from(Frontier(STORED.metrics, {}, {}), POLICY).status is Status.NO_BASELINE


def test_a_frontier_needs_two_metrics_and_their_tolerances():
    """One metric has no frontier, and a metric without a policy is an error that names it."""
    with pytest.raises(SuiteError, match="two different metrics"):
        swept(metrics=("itl_ms", "median_itl_ms"))
    with pytest.raises(SuiteError, match="median_itl_ms too: gate it"):
        STORED.unchanged_from(STORED, {"output_throughput": POLICY})


def test_cases_without_a_metric_are_no_points():
    """A case that lacks a sample of one metric is no point of the frontier."""
    measured = {"batch=1": {"output_throughput": sample(1.0)}}
    assert frontier(measured, ("output_throughput", "itl_ms")).points == {}


def test_the_best_throughput_stands_first():
    """The points come in the order of the first metric, the best first, and the hypervolume is theirs."""
    assert next(iter(STORED.points)) == "batch=512"
    assert STORED.hypervolume((0.0, 1000.0)) > 0
    three = swept(metrics=("output_throughput", "itl_ms", "output_throughput"))
    with pytest.raises(SuiteError, match="of two metrics"):
        three.hypervolume((0.0, 1.0))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.floats(0.3, 0.85))
def test_a_loss_is_never_a_pass(seed, factor):
    """Whatever the noise, a frontier that lost 15 % or more of its throughput everywhere never passes."""
    slower = swept(dict.fromkeys(SIZES, (factor, 1 / factor)), seed=seed)
    assert not slower.unchanged_from(STORED, POLICY).passed


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
    alone = Curve({4: Sample.of([[100.0], [101.0]])}).knee()
    assert alone.unchanged_from(alone).status is Status.INCONCLUSIVE
