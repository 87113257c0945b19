"""A search for the highest rate within an SLO, on functions whose answer is known."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.sweeps.search import Probe, Search, found, next_place
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.core.sweeps.workload import ClosedLoop, OpenLoop, Replay, StaticBatch

SEARCH = Search(8, 64)
SLO = Slo(ttft_ms=2000)
OPEN = OpenLoop(16, 16)


def searched(answer, search=SEARCH, *, begin=None, counted=False, tells=True):
    """What a search comes to where all up to the answer meets, and how many probes it takes."""
    probes = []
    while (place := next_place(search, probes, begin=begin, counted=counted)) is not None:
        need = (place / answer) ** 3 if tells else None
        probes.append(Probe(place, met=place <= answer, need=need, why="many missed"))
    return found(search, probes), probes


@given(
    answer=st.floats(0.81, 63.9),
    begin=st.none() | st.floats(0.5, 100),
    within=st.floats(0.005, 0.1),
    tells=st.booleans(),
)
def test_an_answer_is_found_within_what_was_asked_for(answer, begin, within, tells):
    """Wherever it begins, in no more probes than are said, and from below where what misses tells no need."""
    search = Search(8, 64, within=within)
    came, probes = searched(answer, search, begin=begin, tells=tells)
    assert came.place == pytest.approx(answer, rel=within)
    assert not tells or came.place == pytest.approx(answer, rel=1e-6)
    assert came.place <= answer * (1 + 1e-9)
    assert len(probes) <= search.most
    assert all(search.lowest <= one.place <= search.high for one in probes)
    assert (came.reason, came.note) == ("", "")


@given(answer=st.integers(1, 255), begin=st.none() | st.floats(1, 256), low=st.integers(1, 30))
def test_users_are_whole(answer, begin, low):
    """Each probe has a whole number of them, and none comes twice; two that follow each other are near enough."""
    came, probes = searched(answer, Search(low, 256), begin=begin, counted=True, tells=False)
    places = [one.place for one in probes]
    assert all(place == int(place) >= 1 for place in places)
    assert len({*places}) == len(places)
    if answer >= max(1, low / 10):
        assert answer / 1.02 - 1 <= came.place <= answer


@pytest.mark.parametrize(("drift", "most"), [(0.0, 2), (0.015, 2), (-0.015, 2), (0.05, 5), (-0.2, 8)])
def test_the_nearer_it_begins_the_fewer_it_takes(drift, most):
    """Two probes where nothing has changed, and hardly more than from nowhere after a loss of a fifth."""
    _, probes = searched(21 * (1 + drift), begin=21.0)
    assert len(probes) <= most
    assert len(searched(21.0)[1]) == 7


def test_what_still_meets_at_the_highest_place_is_said_to_be_more():
    """Nothing is extrapolated, and nothing beyond is tried."""
    came, probes = searched(100)
    assert came.place == 64
    assert came.note == "at least 64, the highest of the search, still meets: search higher"
    assert [round(one.place) for one in probes] == [23, 38, 64]


def test_a_loss_below_the_lowest_place_is_measured():
    """To a tenth of it, or a loss would be no loss; from there on there is a reason and no value."""
    assert searched(3)[0].place == pytest.approx(3, rel=0.02)
    came, probes = searched(0.5)
    assert came.place is None
    assert came.reason == "even 0.8 misses: many missed; search lower than 8"
    assert len(probes) == 6
    assert found(SEARCH, ()).place is None


def test_the_first_that_misses_decides():
    """A place that meets above one that misses is a promise of nothing."""
    probes = [Probe(10, met=True), Probe(20, met=False), Probe(19.9, met=True, need=0.9)]
    assert found(SEARCH, probes).place == 19.9
    assert next_place(SEARCH, probes) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"low": 0}, "a lowest place of at least 0.001"),
        ({"low": 1e-320}, "a lowest place of at least 0.001"),
        ({"low": math.nan}, "a lowest place of at least 0.001"),
        ({"low": 64}, "a highest above that"),
        ({"high": math.inf}, "a highest above that"),
        ({"high": "64"}, "takes numbers"),
        ({"share": 1}, "below 1"),
        ({"within": 0.5}, "from 0.001 to 0.1"),
        ({"within": 1e-320}, "from 0.001 to 0.1"),
    ],
)
def test_what_is_no_search_is_refused(arguments, said):
    """Where it is declared."""
    with pytest.raises(SuiteError, match=said):
        Search(**{"low": 8, "high": 64, **arguments})


def sweep(workload=OPEN, axis="request_rate", search=SEARCH, **rest):
    return Sweep("capacity", workload, **{axis: search, "slo": SLO, "gate": {"highest_request_rate": 0.05}, **rest})


def test_a_search_is_one_case():
    """Its name says up to where it is looked for, and so does its place."""
    (case,) = sweep().cases(["m"])
    assert case.name == "capacity/m/rate-up-to=64"
    assert case.coordinates == {"model": "m", "request_rate": 64}
    users = sweep(ClosedLoop(16, 16), "concurrency", gate={"highest_concurrency": 0.05})
    assert [one.name for one in users.cases(["m"])] == ["capacity/m/concurrency-up-to=64"]
    assert users.ends.search == users.search == SEARCH
    assert 0.99 in users.quantiles


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"slo": None}, r"add slo=Slo\(…\)"),
        ({"gate": {"ttft_ms": 0.1}}, "gates highest_request_rate alone"),
        ({"gate": {"highest_concurrency": 0.1}}, r"concurrency=Search\(low, high\)"),
        ({"search": [8, 64]}, r"request_rate=Search\(low, high\)"),
        ({"search": Search(8, 10**6)}, "up to 100,000"),
        ({"workload": OpenLoop(16, 16, ramp_s=2)}, "has no ramp_s"),
        ({"replicas": [1, 2], "per_replica": True}, "has no per_replica"),
        ({"workload": ClosedLoop(16, 16), "axis": "concurrency", "search": Search(1.5, 8)}, "whole numbers"),
        ({"workload": StaticBatch(16, 16), "axis": "batch_size"}, "searched are request_rate and concurrency"),
        ({"workload": Replay(), "axis": "speed"}, "searched are request_rate and concurrency"),
    ],
)
def test_a_sweep_that_can_not_search_is_refused(arguments, said):
    """At the line that declares it, with what to write instead."""
    with pytest.raises(SuiteError, match=said):
        sweep(**arguments)


def test_settings_say_where_a_machine_searches():
    """All of it or a part; a list makes it a sweep again, which finds nothing by itself."""
    assert sweep().on({"request_rate": {"low": 32, "high": 512}}).search == Search(32, 512)
    assert sweep().on({"request_rate": {"share": 0.9}}).search == Search(8, 64, share=0.9)
    listed = Sweep("rate", OpenLoop(16, 16), request_rate=[1], slo=SLO)
    assert listed.on({"request_rate": {"low": 1, "high": 2}}).search == Search(1, 2)
    with pytest.raises(SuiteError, match="takes low and high"):
        listed.on({"request_rate": {"low": 1}})
    with pytest.raises(SuiteError, match="which a search finds"):
        sweep().on({"request_rate": [8, 16]})
