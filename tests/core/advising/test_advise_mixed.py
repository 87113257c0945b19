"""A measured mix: who runs beside whom, what can't be measured, and how a part's launches are told."""

from dataclasses import replace

import pytest

from pytest_slmperf.core.advising.mix import Mix, Part
from pytest_slmperf.core.advising.mixed import MeasuredPart, company, comparable, unmeasurable
from pytest_slmperf.core.advising.question import Limit, Question, Seen, Series, Setting
from pytest_slmperf.core.metrics import metric

QUESTION = Question(metric("output_throughput"), (Limit.parse("itl_ms=4"),))
SETTING = Setting(8, Series("int8", 2))
SMALL = Part("small", (0,), 1, 8, 0.1, 1000.0, 400.0, 400.0, dtype="int8", setting=SETTING)
TWICE = replace(SMALL, model="twice", replicas=2, batch=4, setting=None)
WIDE = replace(SMALL, model="wide", devices=(0, 1), spread=2)


def mix(*parts):
    return Mix(parts, (None, None), 1e9)


def seen(*rates, itl_ms=3.0):
    return Seen(SETTING, {"output_throughput": rates, "median_itl_ms": (itl_ms,) * len(rates)})


def test_a_part_has_each_replica_of_the_others_on_its_device_beside_it():
    """Under the planned batch, in its own type and with its own threads; nobody of another device."""
    far = replace(SMALL, model="far", devices=(1,))
    plan = mix(SMALL, TWICE, far)
    one, other = company(plan, 0, threads=1, tokens=(32, 16))
    assert one == other
    assert (one.model, one.batch_size, one.prompt_tokens, one.output_tokens) == ("twice", 4, 32, 16)
    assert (one.dtype, one.threads) == ("int8", 1)
    (small,) = company(plan, 1, threads=1, tokens=(32, 16))
    assert (small.model, small.batch_size, small.threads) == ("small", 8, 2)
    assert company(plan, 2, threads=1, tokens=(32, 16)) == ()


def test_what_one_device_cannot_show_is_said():
    """A model over several devices and all beside it; on a GPU, replicas beside others; and nothing else."""
    assert unmeasurable(mix(SMALL, TWICE), shared_turns=False) == {}
    assert unmeasurable(mix(SMALL, WIDE, replace(SMALL, devices=(2,))), shared_turns=False) == {
        0: "wide is beside it, which is spread over several devices",
        1: "it is spread over 2 devices, and the mix is measured on one",
    }
    on_a_gpu = unmeasurable(mix(SMALL, TWICE), shared_turns=True)
    assert set(on_a_gpu) == {0, 1}
    assert on_a_gpu[0] == "the replicas of twice would take turns with the others, not share by MPS"
    assert unmeasurable(mix(TWICE), shared_turns=True) == {}


def test_rate_and_slowdown_have_the_interval_of_their_launches():
    """Student's t on logarithms, one spread for the launches alone and in the mix; one launch has none."""
    told = MeasuredPart(SMALL, QUESTION, seen(500.0, 505.0, 495.0), seen(1000.0, 1010.0, 990.0))
    assert told.rate.value == pytest.approx(500, rel=1e-3)
    assert (told.rate.low, told.rate.high) == (pytest.approx(487.7, rel=1e-3), pytest.approx(512.5, rel=1e-3))
    assert told.slowdown.value == pytest.approx(2.0)
    assert (told.slowdown.low, told.slowdown.high) == (pytest.approx(1.955, rel=1e-3), pytest.approx(2.046, rel=1e-3))
    single = MeasuredPart(SMALL, QUESTION, seen(500.0), seen(1000.0))
    assert (single.rate.low, single.slowdown.value, single.slowdown.low) == (None, pytest.approx(2.0), None)


@pytest.mark.parametrize(
    ("mixed", "met"),
    [(seen(500.0), True), (seen(399.0), False), (seen(500.0, itl_ms=5.0), False), (None, None)],
)
def test_a_part_is_met_where_its_need_and_its_limits_are(mixed, met):
    """In the mix; of what was not measured nobody knows."""
    assert MeasuredPart(SMALL, QUESTION, mixed).met is met


def test_a_slowdown_is_against_launches_of_the_same_setting_alone():
    """Else its reason is told."""
    part = MeasuredPart(SMALL, QUESTION, seen(500.0))
    assert comparable(part, seen(1000.0), "").slowdown.value == pytest.approx(2.0)
    assert comparable(part, None, "").no_slowdown == "nothing was measured of it alone in this setting"
    assert comparable(part, seen(1000.0), "another machine").no_slowdown == "another machine"
    uneven = replace(part, part=replace(SMALL, batch=5))
    assert comparable(uneven, seen(1000.0), "").no_slowdown == "alone it was measured with 8 requests in all"
