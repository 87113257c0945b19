"""The best replica count: its definitions, what resampled launches say of it, and whether it changed."""

import math
import random
from dataclasses import replace

import pytest
from mind_the_memory_gap import REPLICATION

from pytest_slmperf.core.curves.replication import BestReplicas, Choice, Replication
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.sample import BadSample, Sample
from pytest_slmperf.core.verdict import Status

THROUGHPUT, JOULES = metric("output_throughput"), metric("joules_per_output_token")
SIZES = (32, 64, 128)
PAYS = {1: 100.0, 2: 125.0, 4: 140.0}
"""Throughput by replica count at the largest batch."""
DOES_NOT = {1: 100.0, 2: 90.0, 4: 70.0}
LEVELS_OFF = {1: 100.0, 2: 120.0, 4: 120.0}


def sample(centre, launches, noise, draw):
    return Sample.of([[centre * math.exp(draw.gauss(0, noise)) for _ in range(3)] for _ in range(launches)])


def swept(rates, *, launches=14, noise=0.01, seed=0, meaning=THROUGHPUT):
    """A sweep over the replica count and the batch: each count is the faster the larger its batch."""
    draw = random.Random(seed)
    samples = {
        count: {size: sample(rate * size / (size + 8), launches, noise, draw) for size in SIZES}
        for count, rate in rates.items()
    }
    return Replication(samples, meaning, "replicas/opt-125m")


def once(at):
    """The runs of the paper in one column of its table, each as a single launch."""
    by_count = {}
    for replicas, batch, *values in REPLICATION:
        by_count.setdefault(replicas, {})[float(batch)] = Sample.of([[values[at]]])
    return by_count


def test_replicas_of_the_paper():
    """On the authors' own data, two replicas of batch 256 have 33.7 % more throughput than one at its largest batch."""
    best = Replication(once(0), metric("total_token_throughput")).best()
    assert (best.replicas, best.at, best.one_at) == (2, 256, 768)
    assert best.against_one.value == pytest.approx(1.337, abs=0.001)
    assert (best.interval, best.pays, best.undecided) == (None, None, (1, 2, 4))
    assert str(best) == (
        "2 replicas (not bounded) by best(total_token_throughput, each at its best batch); whether replication pays is "
        "open: total_token_throughput +33.8% (not bounded) over one, batch 256 against 768"
    )


def test_replicas_save_no_joules_on_the_papers_data():
    """On the same data, one replica at its largest batch takes the fewest joules per token."""
    best = Replication(once(2), metric("joules_per_total_token")).best()
    assert (best.replicas, best.at) == (1, 768)
    assert Replication(once(2), metric("joules_per_total_token")).best(Choice(at=96)).replicas == 2


def test_the_best_count_is_known_with_an_interval():
    """Where four replicas are clearly best they are, with what they gain; the same seed gives the same."""
    best = swept(PAYS).best(seed=7)
    assert best == swept(PAYS).best(seed=7)
    assert (best.replicas, best.interval, best.undecided, best.at, best.pays) == (4, (4, 4), (4,), 128, True)
    low, high = best.against_one.interval
    assert 1.35 < low < 1.4 < high < 1.45
    assert "replication pays: output_throughput +40" in str(best)
    assert str(best).endswith("%) over one")


def test_replication_that_does_not_pay_is_an_answer():
    """Where one replica is the best, that is said, and not that nothing was found."""
    best = swept(DOES_NOT).best()
    assert (best.replicas, best.interval, best.pays) == (1, (1, 1), False)
    assert str(best) == ("1 replica (1…1) by best(output_throughput, each at its best batch); replication does not pay")


def test_counts_that_can_not_be_told_apart():
    """Two counts that are equally fast are both named, and that replication pays is known all the same."""
    best = swept(LEVELS_OFF).best()
    assert (best.interval, best.undecided, best.pays) == ((2, 4), (2, 4), True)
    assert sum(best.shares.values()) == 1
    equal = swept(dict.fromkeys((1, 2), 100.0)).best()
    assert (equal.interval, equal.undecided, equal.pays) == ((1, 2), (1, 2), None)
    assert "whether replication pays is open" in str(equal)


def test_the_smallest_count_that_is_nearly_the_best():
    """Within a fraction of the best the smallest count is chosen, so that a plateau has one answer."""
    best = swept(LEVELS_OFF).best(Choice(within=0.05))
    assert (best.replicas, best.interval, best.undecided) == (2, (2, 2), (2, 4))
    assert best.definition == "smallest_within(output_throughput, 5.0%, each at its best batch)"
    little = swept({1: 100.0, 2: 102.0}).best(Choice(within=0.05))
    assert (little.replicas, little.pays) == (1, False)


def test_a_named_batch():
    """At a named batch the counts are compared there alone, and one that was not measured there is left out."""
    rates = swept(PAYS).samples
    part = Replication({**rates, 8: {32: rates[4][32]}}, THROUGHPUT)
    assert part.best().counts == (1, 2, 4, 8)
    best = part.best(Choice(at=64))
    assert (best.counts, best.at, best.one_at) == ((1, 2, 4), 64, 64)
    assert best.definition == "best(output_throughput, at batch 64)"


def test_joules_are_better_when_lower():
    """The best count for joules per token is the one with the fewest, and what it saves is a loss in the ratio."""
    best = swept({1: 1.0, 2: 0.8}, meaning=JOULES).best()
    assert (best.replicas, best.pays) == (2, True)
    assert best.against_one.value == pytest.approx(0.8, abs=0.01)
    assert best.against_one.interval[0] < best.against_one.value < best.against_one.interval[1]
    assert swept({1: 1.0, 2: 0.97}, meaning=JOULES).best(Choice(within=0.05)).replicas == 1


def test_the_smallest_of_equal_counts():
    """Counts of the very same throughput tie, and the smallest of them is named."""
    same = Sample.of([[100.0]] * 8)
    assert Replication({4: {1: same}, 2: {1: same}}, THROUGHPUT).best().replicas == 2


@pytest.mark.parametrize("counts", [(), (2,)])
def test_nothing_to_choose_from(counts):
    """Of no count, or of one, none is the best: there is a reason instead."""
    best = swept(dict.fromkeys(counts, 100.0)).best()
    assert (best.replicas, best.interval, best.pays) == (None, None, None)
    assert "sweep two counts or more" in str(best)
    assert best.unchanged_from(best).status is Status.INCONCLUSIVE


def test_one_launch_tells_no_best():
    """With a launch or two there is a best of the medians and no interval, and nothing can be called changed."""
    few = [swept(rates, launches=launches).best() for rates, launches in ((PAYS, 1), (DOES_NOT, 4))]
    assert [(best.replicas, best.interval, best.pays) for best in few] == [(4, None, None), (1, None, None)]
    assert few[0].unchanged_from(swept(DOES_NOT).best()).status is Status.INCONCLUSIVE


def test_without_one_replica():
    """Where one replica was not measured, nobody knows whether replication pays."""
    best = swept({2: 100.0, 4: 120.0}).best()
    assert (best.replicas, best.pays, best.against_one) == (4, None, None)


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_what_is_no_replica_count(count):
    """A replica count is a whole number above 0."""
    with pytest.raises(SuiteError, match="whole numbers above 0"):
        swept({1: 1.0, count: 1.0}).best() if count is not True else Replication({True: {}}, THROUGHPUT).best()


@pytest.mark.parametrize("within", [-0.1, 1.0, math.nan])
def test_what_is_no_fraction(within):
    """A fraction of the best lies between 0 and 1."""
    with pytest.raises(SuiteError, match="within="):
        Choice(within=within)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_replica_that_served_nothing(value):
    """A throughput of zero, or one that is no number, is no sample: it is refused before it can lose."""
    with pytest.raises(BadSample):
        Sample.of([[value]])


def test_the_best_count_stays():
    """The same engine measured again has the same best count, also where it stands between two."""
    for rates in (PAYS, DOES_NOT, LEVELS_OFF):
        verdict = swept(rates, seed=2).best().unchanged_from(swept(rates, launches=20, seed=1).best())
        assert verdict.status is Status.UNCHANGED
        assert (verdict.metric, verdict.case) == ("best_replicas", "replicas/opt-125m")
        assert "; replication " in verdict.measured


@pytest.mark.parametrize(("before", "after", "way"), [(PAYS, DOES_NOT, "down"), (DOES_NOT, PAYS, "up")])
def test_a_best_count_that_changed(before, after, way):
    """A count that is surely another is red in either direction, and both are named."""
    verdict = swept(after, seed=2).best().unchanged_from(swept(before, launches=20, seed=1).best())
    assert (verdict.status, verdict.lost) == (Status.REGRESSED, (way,))
    assert "the best replica count changed: " in verdict.message()
    assert "replication pays" in verdict.message()


def test_counts_that_may_have_changed():
    """From two replicas to two or four is a doubt and no change."""
    stored = swept({1: 100.0, 2: 120.0, 4: 110.0}, launches=20, seed=1).best()
    verdict = swept(LEVELS_OFF, seed=2).best().unchanged_from(stored)
    assert verdict.status is Status.INCONCLUSIVE
    assert "can't be told apart" in verdict.reason


def test_counts_that_can_not_be_compared():
    """Counts by two definitions, in two metrics, or of other sweeps, are incomparable."""
    best = swept(PAYS).best()
    nearly, joules = swept(PAYS).best(Choice(within=0.05)), swept(PAYS, meaning=JOULES).best()
    fewer = swept({1: 100.0, 2: 125.0}).best()
    assert {best.unchanged_from(other).status for other in (nearly, joules, fewer)} == {Status.INCOMPARABLE}
    assert "replicas=1, 2, 4" in best.unchanged_from(fewer).reason


def errors(before, after, *, noise, choice, sweeps):
    """Statuses of sweeps against stored ones, each side on a day of its own."""
    found = []
    for seed in range(sweeps):
        stored = swept(before, launches=20, noise=noise, seed=2 * seed).best(choice, resamples=500)
        now = swept(after, noise=noise, launches=8, seed=2 * seed + 1).best(choice, resamples=500)
        found.append(now.unchanged_from(stored).status)
    return found


@pytest.mark.parametrize("choice", [Choice(), Choice(within=0.05)], ids=["best", "within 5 %"])
def test_no_alarm_on_noise(choice):
    """Of sweeps without a change, 20 launches against 8 with 3 % noise, no best count is ever called changed."""
    for rates in (PAYS, LEVELS_OFF, dict.fromkeys((1, 2, 4), 100.0)):
        assert Status.REGRESSED not in errors(rates, rates, noise=0.03, choice=choice, sweeps=15)


def test_replicas_that_stop_paying_are_found():
    """Replicas that lost what they gained are found with 1 % noise, every time."""
    found = errors(PAYS, DOES_NOT, noise=0.01, choice=Choice(), sweeps=15)
    assert set(found) == {Status.REGRESSED}


def test_a_stored_count_is_compared_and_nothing_else():
    """Whether it is what a run measured is no part of what it is."""
    best = swept(PAYS).best()
    assert replace(best, measured=True) == best
    assert isinstance(best, BestReplicas)
