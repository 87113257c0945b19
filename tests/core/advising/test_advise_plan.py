"""The next launch of an advice: what is measured first, what is left out, and when it is settled."""

import math
import random

import pytest
from mind_the_memory_gap import BACKGROUND, REPLICATION

from pytest_slmperf.core.advising.planner import Next, Policy, Settled, picked, plan, reference
from pytest_slmperf.core.advising.question import Evidence, Limit, Question, Seen, Series, Setting, grid, mean_log
from pytest_slmperf.core.metrics import metric

RATE, JOULES, ITL = (metric(name) for name in ("total_token_throughput", "joules_per_total_token", "median_itl_ms"))
ONE = Series()
ONCE = Policy(most_launches=1, least_launches=1)


def papers():
    """OPT-1.3B on an H100, one instance and replicas: the first launch of each point."""
    found = {Setting(batch): values for batch, *values in BACKGROUND}
    for replicas, each, *values in REPLICATION:
        found.setdefault(Setting(each * replicas, Series(replicas=replicas)), values)
    names = [one.name for one in (RATE, ITL, JOULES)]
    return {setting: dict(zip(names, values, strict=True)) for setting, values in found.items()}


def settle(truth, question, policy=ONCE, noise=0.0, evidence=None):
    """All launches until it is settled: what was measured, in its order, and what is known."""
    draw, evidence, order = random.Random(1), evidence or Evidence(), []
    while isinstance(step := plan(question, tuple(truth), evidence, policy), Next):
        values = {name: value * math.exp(draw.gauss(0, noise)) for name, value in truth[step.setting].items()}
        evidence = evidence.plus(step.setting, values)
        order.append(step.setting)
        assert len(order) < 200
    return order, evidence


def by_launches(truth, question, noise, seed):
    """Launches until it is settled, each of several settings that scatter together: how many, and what is known."""
    draw, evidence, launches = random.Random(seed), Evidence(), 0
    while isinstance(step := plan(question, tuple(truth), evidence, Policy()), Next):
        for one in (step, *step.along):
            pace = draw.gauss(0, noise)
            values = {
                name: value * math.exp(pace if metric(name).higher_is_better else -pace)
                for name, value in truth[one.setting].items()
            }
            evidence = evidence.plus(one.setting, values)
        launches += 1
        assert launches < 100
    return launches, evidence


def saturating(batches=(1, 2, 4, 8, 16, 32, 64), half=16.0, series=(ONE,)):
    return {
        setting: {
            RATE.name: 1000 * setting.batch / (setting.each + half),
            ITL.name: setting.each + half,
            JOULES.name: (setting.each + half) / setting.each,
        }
        for setting in grid(batches, series)
    }


def test_one_instance_at_its_largest_batch_comes_first():
    """Everything is compared with it."""
    step = plan(Question(RATE), tuple(saturating(series=(Series(), Series(replicas=2)))), Evidence(), ONCE)
    assert step.setting == Setting(64)
    assert "one instance at its largest batch" in step.why


def test_where_the_largest_does_not_fit_the_largest_that_does_is_found_by_halves():
    """A launch that fails tells that no larger batch fits either."""
    truth, evidence, tried = saturating(), Evidence(), []
    while isinstance(step := plan(Question(RATE), tuple(truth), evidence, ONCE), Next):
        tried.append(step.setting.batch)
        if step.setting.batch > 8:
            evidence = Evidence({**evidence.seen, step.setting: Seen(step.setting, failed="out of memory")})
        else:
            evidence = evidence.plus(step.setting, truth[step.setting])
    assert tried[:4] == [64, 4, 16, 8]
    assert reference(tuple(truth), evidence).setting == Setting(8)
    assert picked(Question(RATE), evidence).setting == Setting(8)


def test_where_nothing_fits_it_is_settled_with_the_reason():
    """And not asked again."""
    settings = grid((1, 2), (Series(),))
    evidence = Evidence({one: Seen(one, failed="out of memory") for one in settings})
    step = plan(Question(RATE), settings, evidence, ONCE)
    assert isinstance(step, Settled)
    assert "batch 1 of one instance could not be run: out of memory" in step.why


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (Question(RATE), Setting(512, Series(replicas=2))),
        (Question(RATE, (Limit(ITL, 30.0),)), Setting(192, Series(replicas=2))),
        (Question(RATE, (Limit(ITL, 15.0),)), Setting(96)),
        (Question(JOULES, (Limit(ITL, 35.0),)), Setting(256)),
    ],
    ids=["throughput", "30 ms", "15 ms", "joules"],
)
def test_the_papers_answers_are_found_with_a_third_of_its_launches(question, answer):
    """OPT-1.3B: two replicas of batch 256, of 96 under a tighter limit, and one where two are too slow."""
    truth = papers()
    order, evidence = settle(truth, question)
    assert picked(question, evidence).setting == answer
    assert len(order) <= len(truth) / 3


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (Question(RATE), Setting(512, Series(replicas=2))),
        (Question(RATE, (Limit(ITL, 27.0),)), Setting(192, Series(replicas=2))),
        (Question(RATE, (Limit(ITL, 16.0),)), Setting(96)),
        (Question(JOULES, (Limit(ITL, 33.0),)), Setting(256)),
    ],
    ids=["throughput", "27 ms", "16 ms", "joules"],
)
def test_the_papers_answers_are_found_with_a_third_of_the_launches_of_a_recording(question, answer, seed):
    """Of three configurations, each launched 20 times with all of its batches; here launches scatter by 2 %."""
    launches, evidence = by_launches(papers(), question, 0.02, seed)
    assert picked(question, evidence).setting == answer
    assert launches <= 3 * 20 / 3


@pytest.mark.parametrize("seed", [1, 2])
def test_types_replicas_and_batches_are_answered_with_a_third_of_the_launches(seed):
    """What is advised of 36 settings is within 4 % of the best: those 2 % that count as nothing, and the scatter."""
    every = [Series(dtype, 1, many) for dtype in ("float32", "int8") for many in (1, 2)]
    worth = {every[0]: 1.0, every[1]: 1.2, every[2]: 1.3, every[3]: 1.4}
    truth = {
        one: {RATE.name: 1000 * worth[one.series] * one.each / (one.each + 24)}
        for one in grid([2**octave for octave in range(9)], every)
    }
    launches, evidence = by_launches(truth, Question(RATE), 0.02, seed)
    best = max(values[RATE.name] for values in truth.values())
    assert len(truth) == 36
    assert launches <= 4 * 20 / 3
    assert truth[picked(Question(RATE), evidence).setting][RATE.name] >= 0.96 * best


def test_a_step_that_no_law_expects_is_found():
    """CTranslate2 on two cores gives more at batch 8 than at any larger one, by kernels of its own."""
    rates = {1: 3160, 4: 6100, 8: 6970, 16: 3850, 32: 5340, 64: 6280}
    truth = {Setting(batch): {RATE.name: float(rate)} for batch, rate in rates.items()}
    launches, evidence = by_launches(truth, Question(RATE), 0.01, 1)
    assert picked(Question(RATE), evidence).setting == Setting(8)
    assert launches <= 20 / 3


def test_a_launch_measures_several_batches_of_one_configuration():
    """No more than may be, none twice, and none that is larger than what surely fits."""
    truth = saturating(series=(Series(), Series(replicas=2)))
    evidence = Evidence()
    for _ in range(4):
        step = plan(Question(RATE), tuple(truth), evidence, Policy())
        together = [step.setting, *(one.setting for one in step.along)]
        assert (2 if not evidence.seen else 1) <= len(together) <= Policy().together
        assert len(set(together)) == len(together)
        assert len({one.series for one in together}) == 1
        ran = [one.batch for one in evidence.seen if one.series == step.setting.series]
        assert max(one.batch for one in together) <= max([step.setting.batch, *ran])
        for one in together:
            evidence = evidence.plus(one, truth[one])


def test_a_curve_that_only_rises_takes_few_launches():
    """The largest batch, and not every one below it."""
    order, evidence = settle(saturating(half=64.0), Question(RATE))
    assert picked(Question(RATE), evidence).setting == Setting(64)
    assert len(order) <= 2


def test_a_lighter_setting_that_is_as_good_is_advised():
    """Past the knee a larger batch brings latency and nothing else."""
    truth = saturating(half=0.05)
    order, evidence = settle(truth, Question(RATE))
    assert picked(Question(RATE), evidence).setting.batch <= 8
    assert len(order) <= 4


def test_what_is_advised_is_launched_until_its_gain_is_known():
    """One launch says nothing of its error; a noisy gain gets more of them, up to the most."""
    truth = saturating(half=16.0, series=(Series(), Series(replicas=2)))
    order, evidence = settle(truth, Question(RATE), Policy(), noise=0.01)
    pick, beside = picked(Question(RATE), evidence), reference(tuple(truth), evidence)
    assert pick.setting.series.replicas == 2
    counts = [len(one.values[RATE.name]) for one in (pick, beside)]
    assert min(counts) >= 2
    assert max(map(len, (one.values[RATE.name] for one in evidence.seen.values()))) <= Policy().most_launches
    assert len(order) <= len(truth) * 5 / 3


def test_it_goes_on_from_what_is_known():
    """The plan is a function of the launches: interrupted anywhere, it makes the same ones."""
    truth, question = papers(), Question(RATE, (Limit(ITL, 30.0),))
    order, _ = settle(truth, question)
    for cut in range(1, len(order)):
        known = Evidence()
        for setting in order[:cut]:
            known = known.plus(setting, truth[setting])
        rest, _ = settle(truth, question, evidence=known)
        assert [*order[:cut], *rest] == order


def test_a_limit_that_nothing_keeps_is_given_up_early():
    """What surely misses it is not tried."""
    order, evidence = settle(papers(), Question(RATE, (Limit(ITL, 1.0),)))
    assert picked(Question(RATE, (Limit(ITL, 1.0),)), evidence) is None
    assert len(order) <= 7


def test_ties_go_to_fewer_replicas_and_then_the_smaller_batch():
    """Equal points are no error."""
    truth = {one: {RATE.name: 1000.0} for one in grid((1, 2), (Series(), Series(replicas=2)))}
    evidence = Evidence()
    for setting, values in truth.items():
        evidence = evidence.plus(setting, values)
    assert picked(Question(RATE), evidence).setting == Setting(1)
    assert mean_log(picked(Question(RATE), evidence), RATE) == pytest.approx(math.log(1000))


def test_of_two_types_that_weigh_the_same_the_better_one_is_advised():
    """However close they are."""
    evidence = Evidence()
    for dtype, rate in (("float32", 1000.0), ("int8", 1001.0)):
        evidence = evidence.plus(Setting(8, Series(dtype)), {RATE.name: rate})
    assert picked(Question(RATE), evidence).setting.series.dtype == "int8"


def test_whether_the_lighter_setting_is_as_good_is_made_sure():
    """What lies about 2 % below the best is launched again, and the best with it."""
    truth = {Setting(batch): {RATE.name: rate} for batch, rate in ((1, 500.0), (32, 977.0), (64, 1000.0))}
    evidence = Evidence()
    for setting, rates in ((Setting(32), (981.0, 985.0)), (Setting(64), (999.0, 1001.0)), (Setting(1), (500.0,))):
        for rate in rates:
            evidence = evidence.plus(setting, {RATE.name: rate})
    step = plan(Question(RATE), tuple(truth), evidence, Policy(negligible=10))
    assert {step.setting, *(one.setting for one in step.along)} == {Setting(32), Setting(64)}
    assert "within 2.0% of the best isn't sure" in step.why
