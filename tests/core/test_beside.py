"""Who runs beside a model, as a value: what can be said, what cases are called by, and what work comes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf import Beside, Slo, StaticBatch, Sweep
from pytest_slmperf.core.beside import NeighbourWork, overloaded, rested, told
from pytest_slmperf.core.energy.mix import of_the_mix
from pytest_slmperf.core.energy.window import BoardEnergy, Energy, Uncertainty
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import SuiteError, UsageError
from pytest_slmperf.core.load.traffic import Traffic
from pytest_slmperf.core.protocol import Played, decode, encode
from pytest_slmperf.core.units import NS_PER_S

OTHER = Beside("models/opt-1.3b", batch_size=4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": ""}, "a model's name"),
        ({"model": "m"}, "one of batch_size, concurrency and request_rate"),
        ({"model": "m", "batch_size": 1, "concurrency": 1}, "one of batch_size, concurrency and request_rate"),
        ({"model": "m", "batch_size": 1, "request_rate": 1}, "one of batch_size, concurrency and request_rate"),
        ({"model": "m", "request_rate": 0}, "request_rate=0"),
        ({"model": "m", "batch_size": 1, "engine": ""}, "engine=''; it takes an engine's name, as 'openai'"),
        ({"model": "m", "batch_size": 1, "engine": "a/b"}, "engine='a/b'"),
        ({"model": "m", "batch_size": 1, "engine": 3}, "engine=3"),
        ({"model": "m", "request_rate": 1e-300}, "request_rate=1e-300; it takes requests per second, 0.001 to 100,000"),
        ({"model": "m", "request_rate": float("inf")}, "request_rate=inf"),
        ({"model": "m", "request_rate": True}, "request_rate=True"),
        ({"model": "m", "batch_size": 1, "slo": Slo(ttft_ms=200)}, "all begin at once"),
        ({"model": "m", "concurrency": 1, "slo": 200}, r"slo=200; it takes Slo\("),
        ({"model": "m", "concurrency": 1, "slo": {"ttfb_ms": 200}}, r"it takes Slo\("),
        ({"model": "m", "batch_size": 1, "options": ["fast"]}, "texts, numbers and truths by name"),
        ({"model": "m", "batch_size": 1, "options": {"a b": 1}}, "texts, numbers and truths by name"),
        ({"model": "m", "batch_size": 1, "options": {"knee": None}}, "texts, numbers and truths by name"),
        ({"model": "m", "batch_size": 1, "options": {"knee": 10**400}}, "texts, numbers and truths by name"),
        ({"model": "m", "batch_size": 1, "options": {"replicas": 2}}, "options has 'replicas'"),
        ({"model": "m", "batch_size": 1, "options": {"slowed": 0.2}}, "options has 'slowed'"),
        ({"model": "m", "batch_size": 0}, "batch_size=0"),
        ({"model": "m", "batch_size": True}, "batch_size=True"),
        ({"model": "m", "batch_size": 1, "output_tokens": None}, "output_tokens=None"),
        ({"model": "m", "batch_size": 1, "threads": 0.5}, "threads=0.5"),
        ({"model": "m", "batch_size": 1, "dtype": ""}, "dtype=''"),
        ({"model": "m", "batch_size": 1, "cores": "all"}, "cores='all'"),
    ],
)
def test_what_makes_no_sense(wrong, said):
    """A declaration that can't be says which field, and what it takes."""
    with pytest.raises(UsageError, match=said):
        Beside(**wrong)


def sweep(*beside, **more):
    """A sweep of one place beside these."""
    return Sweep("mix", StaticBatch(8, 8), batch_size=[2], model=["opt-125m"], beside=beside, **more)


def test_names_of_cases():
    """A case says who is beside: nobody, one, or several."""
    both = (OTHER, Beside("tiny", concurrency=2))
    paced = Beside("tiny", request_rate=2.5)
    assert [case.name for case in sweep(None, OTHER, both, paced).cases(["opt-125m"])] == [
        "mix/opt-125m/beside=none/batch=2",
        "mix/opt-125m/beside=opt-1.3b@4/batch=2",
        "mix/opt-125m/beside=opt-1.3b@4+tiny@2/batch=2",
        "mix/opt-125m/beside=tiny@2.5rps/batch=2",
    ]


def test_engines_of_cases():
    """The engine is varied by who is beside it, and takes cores for those that have some of their own."""
    spec = EngineSpec("fake", "opt-125m", threads=2)
    shared = Beside("tiny", batch_size=1, threads=4, cores="shared")
    specs = [variant.of(spec) for variant in sweep(None, OTHER, (OTHER, shared)).variants]
    assert [one.beside for one in specs] == [(), (OTHER,), (OTHER, shared)]
    assert [(one.own_cores, one.cores) for one in specs] == [(2, 2), (2, 4), (2, 4)]


def test_said_by_settings():
    """A machine's settings say who is beside in a table's words."""
    there = sweep(None, OTHER).on({"beside": ["none", {"model": "opt-6.7b", "batch_size": 1}]})
    assert there.beside == (None, Beside("opt-6.7b", batch_size=1))
    table = {"model": "opt-6.7b", "request_rate": 2, "slo": {"ttft_ms": 200}, "options": {"knee": 2}}
    paced = Beside("opt-6.7b", request_rate=2.0, slo=Slo(ttft_ms=200), options={"knee": 2})
    assert sweep(None, OTHER).on({"beside": [table]}).beside == (paced,)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ((OTHER, Beside("opt-1.3b", concurrency=4)), "two of them are called opt-1.3b@4 in a case's name"),
        (("opt-1.3b",), "different None"),
        (((),), "different None"),
        (({"model": "m", "size": 3},), "different None"),
    ],
)
def test_no_neighbours(wrong, said):
    """Two of one name, and what is none, are refused where they are declared."""
    with pytest.raises(SuiteError, match=f"beside=.*{said}"):
        sweep(*wrong)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9)), min_size=1), st.integers(0, 900), st.integers(1, 900))
def test_work_adds_up(lengths, begin, length):
    """What is done in two halves of a span is what is done in all of it, and no more than there was."""
    done, at = [], 0
    for lasted, pause in lengths:
        done.append((at, at + lasted, 8, 16, 1, 0))
        at += lasted + pause
    one, middle, end = NeighbourWork("m", tuple(done)), begin + length / 3, begin + length
    halves = zip(one.within(begin, middle), one.within(middle, end), strict=True)
    assert one.within(begin, end) == pytest.approx(tuple(map(sum, halves)))
    assert one.within(0, at) == pytest.approx((8 * len(done), 16 * len(done), len(done)))
    assert one.busy_ns(0, at) == sum(lasted for lasted, _ in lengths)


def test_a_load_with_pauses_is_none():
    """A round in which another model rested is no round of the mix, but where its requests arrive as they like."""
    done = ((0, 60, 1, 1, 1, 0), (80, 200, 1, 1, 1, 0))
    work = NeighbourWork("other@2", done, Beside("other", concurrency=2))
    assert rested([work], 0, 100) == "other@2 was not under its load for 20% of the round"
    assert not rested([work], 100, 200)
    assert not rested([NeighbourWork("other@2rps", done, Beside("other", request_rate=2))], 0, 100)


def test_another_engine_is_named():
    """In the name of a case, and in settings as in a suite."""
    served = Beside("org/opt-1.3b", concurrency=4, engine="openai", options={"command": "serve"})
    assert served.name == "openai:opt-1.3b@4"
    table = {"model": "org/opt-1.3b", "concurrency": 4, "engine": "openai", "options": {"command": "serve"}}
    assert told(table)
    assert Beside(**table) == served


def test_a_lighter_load_is_of_the_same_kind():
    """What is said to one who is short of memory names what the load is told by."""
    assert Beside("m", batch_size=4).lighter == "a smaller batch_size"
    assert Beside("m", concurrency=4).lighter == "a lower concurrency"
    assert Beside("m", request_rate=4).lighter == "a lower request_rate"


@pytest.mark.parametrize(
    ("rate", "waiting", "answered", "in_s", "first_s"),
    [
        (100_000, 10_000, 0, 0.1, float("inf")),
        (100_000, 1900, 100, 1, 0.1),
        (1000, 600, 120, 1, 0.02),
        (50, 400, 100, 10, 0.5),
    ],
)
def test_far_more_than_can_be_served_is_given_up(rate, waiting, answered, in_s, first_s):
    """With what was seen, and what to do."""
    why = overloaded(Beside("m", request_rate=rate), waiting=waiting, answered=answered, in_s=in_s, first_s=first_s)
    assert f"request_rate={rate} is far more than it can serve: {answered} requests were answered in" in why
    assert "lower the rate, or let concurrency=…" in why


@pytest.mark.parametrize(
    ("waiting", "answered", "in_s", "first_s"),
    [
        pytest.param(9_999, 0, 100, float("inf"), id="a start that takes long"),
        pytest.param(500, 0, 3.9, 1, id="an answer is not followed by others at once"),
        pytest.param(300, 100, 2, 0.1, id="a queue that grows slowly"),
        pytest.param(5, 40, 30, 0.1, id="a few that hang"),
        pytest.param(40, 80, 30, 0.1, id="fewer than were answered"),
    ],
)
def test_a_queue_that_ends_is_waited_for(waiting, answered, in_s, first_s):
    """Also where more come than are served, which is told of the round."""
    load = Beside("m", request_rate=100)
    assert not overloaded(load, waiting=waiting, answered=answered, in_s=in_s, first_s=first_s)


def test_work_passes_between_processes():
    """With the load that it was done under."""
    load = Beside("m", request_rate=2, slo=Slo(ttft_ms=200), options={"knee": 2, "real_time": True})
    played = Played(Traffic((), 0, 0), (NeighbourWork("m@2rps", ((0, 9, 8, 4, 1, 5),), load),))
    assert decode(encode(played)) == played


def test_joules_of_a_mix():
    """The boards' joules are those of the tokens of all models on them, and power is what it is."""
    board = BoardEnergy("b", "counter", 90.0, 0, 3 * NS_PER_S, 100, 200, 10, Uncertainty(0, 0, 0))
    other = NeighbourWork("m", ((-NS_PER_S, 4 * NS_PER_S, 0, 500, 5, 0),))
    found = of_the_mix(Energy((board,)), [other]).metrics()
    assert found["joules_per_output_token"].value == pytest.approx(90 / 400)
    assert found["joules_per_total_token"].value == pytest.approx(90 / 500)
    assert found["joules_per_request"].value == pytest.approx(90 / 13)
    assert found["mean_power_w"].value == 30
    assert found["joules_per_output_token"].uncertainty.random > 0
