"""Several models on one device or a few: where each goes, by its need, its measurements and memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.advising.mix import Need, planned
from pytest_slmperf.core.advising.question import Evidence, Question, Seen, Series, Setting
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.memory import GIB, USABLE
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.shapes import SHAPES

QUESTION = Question(metric("output_throughput"))
RATES = {Setting(8): 1000.0, Setting(64): 4000.0, Setting(128): 4050.0, Setting(128, Series(replicas=2)): 6000.0}


def evidence(rates):
    return Evidence({one: Seen(one, {"output_throughput": (rate,)}) for one, rate in rates.items()})


def need(model, wanted=None, rates=RATES):
    return Need(model, SHAPES[model], "float16", 512, wanted, evidence(rates))


def test_each_gets_the_lightest_setting_that_meets_its_need():
    """And so much of the time as that takes."""
    mix = planned([need("opt-125m", 400), need("opt-1.3b", 2000)], QUESTION, devices=1, memory_bytes=80 * GIB)
    small, large = mix.parts
    assert (small.batch, small.replicas, large.batch, large.replicas) == (8, 1, 64, 1)
    assert mix.busy == (pytest.approx(400 / 1000 + 2000 / 4000),)
    assert mix.met
    assert small.expected == pytest.approx(400)


def test_where_the_time_does_not_do_each_takes_its_best_setting():
    """It gives more in less time; and what is still missed is said."""
    mix = planned([need("opt-125m", 900), need("opt-1.3b", 3000)], QUESTION, devices=1, memory_bytes=80 * GIB)
    assert [(part.replicas, part.batch) for part in mix.parts] == [(2, 64)] * 2
    assert mix.busy == (pytest.approx(3900 / 6000),)
    assert mix.met
    mix = planned([need("opt-125m", 6000), need("opt-1.3b", 6000)], QUESTION, devices=1, memory_bytes=80 * GIB)
    assert [part.expected for part in mix.parts] == [pytest.approx(3000)] * 2
    assert not mix.met


def test_without_needs_the_time_is_shared_alike():
    """Each at the lightest of its best settings."""
    mix = planned([need("opt-125m"), need("opt-1.3b")], QUESTION, devices=1, memory_bytes=80 * GIB)
    assert [(part.replicas, part.batch, part.expected) for part in mix.parts] == [(2, 64, 3000.0)] * 2
    assert mix.met


def test_a_need_beyond_one_device_is_dealt_out():
    """As many copies as it takes, each on a device of its own."""
    mix = planned([need("opt-1.3b", 9000)], QUESTION, devices=2, memory_bytes=80 * GIB)
    assert [part.devices for part in mix.parts] == [(0,), (1,)]
    assert mix.met
    assert mix.busy == (pytest.approx(0.75), pytest.approx(0.75))


def test_models_go_where_time_is_left():
    """Two busy ones are not put together while a device is idle."""
    mix = planned([need("opt-125m", 3500), need("opt-1.3b", 3500)], QUESTION, devices=2, memory_bytes=80 * GIB)
    assert sorted(part.devices for part in mix.parts) == [(0,), (1,)]
    assert mix.met


def test_a_model_too_large_for_one_device_is_spread_over_several():
    """Tensor parallel over as few as hold it; what it then gives is for a measurement to say."""
    mix = planned([need("opt-13b", rates={}), need("opt-125m")], QUESTION, devices=2, memory_bytes=16 * GIB)
    large, small = mix.parts
    assert (large.spread, large.devices, large.expected) == (2, (0, 1), None)
    assert small.spread == 1


def test_what_does_not_fit_says_what_it_lacks():
    """Alone, and beside the others."""
    with pytest.raises(UsageError, match=r"opt-13b does not fit: its weights take 23.9 GiB, and 1 device of 16.0 GiB"):
        planned([need("opt-13b", rates={})], QUESTION, devices=1, memory_bytes=16 * GIB)
    with pytest.raises(UsageError, match=r"the mix does not fit: opt-2\.7b, opt-6\.7b with one request each lack \d"):
        planned([need("opt-2.7b"), need("opt-6.7b")], QUESTION, devices=1, memory_bytes=16 * GIB)


def test_a_smaller_batch_makes_room():
    """Rather than none; what it then gives was not measured."""
    mix = planned([need("opt-2.7b"), need("opt-1.3b")], QUESTION, devices=1, memory_bytes=16 * GIB)
    assert sum(part.replicas * part.memory_share for part in mix.parts) <= USABLE + 1e-9
    assert any(part.alone is None for part in mix.parts)


@given(
    st.lists(st.sampled_from(["opt-125m", "opt-350m", "opt-1.3b", "qwen3-0.6b"]), min_size=1, max_size=4, unique=True),
    st.integers(1, 3),
    st.sampled_from([8, 16, 80]),
    st.sampled_from([None, 10.0, 3000.0, 20000.0]),
)
def test_no_device_is_promised_more_than_it_has(models, devices, gib, wanted):
    """Neither memory nor time; a plan that can't be made says so."""
    try:
        mix = planned([need(model, wanted) for model in models], QUESTION, devices=devices, memory_bytes=gib * GIB)
    except UsageError:
        return
    for device in range(devices):
        here = [part for part in mix.parts if device in part.devices]
        assert sum(part.replicas * part.memory_share for part in here) <= USABLE + 1e-9
        assert sum(part.expected / part.alone for part in here if part.expected and part.alone) <= 1 + 1e-9
    assert {part.model for part in mix.parts} == set(models)
