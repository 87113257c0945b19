"""Work, added up to any instant."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.energy.tally import BATCH_SWING, STEP_SWING, Tally, Work, work_of, work_of_traffic
from pytest_slmperf.core.engine import Served
from pytest_slmperf.core.load.traffic import Exchange


def test_a_batch_whose_tokens_were_timed_is_work_step_by_step():
    """Prompts belong to its first step, and a request to the step of its last token."""
    batch = Served(100, 160, (3, 2), ((120, 140, 160), (120, 140)))
    assert work_of([batch], prompt_tokens=7) == (
        Work(100, 120, 2, 7, 0),
        Work(120, 140, 2, 0, 1),
        Work(140, 160, 1, 0, 1),
    )


def test_a_batch_that_was_not_observed_is_one_piece_of_work():
    """Its tokens count as spread over it, with the larger swing of power that a whole batch may have."""
    assert work_of([Served(100, 160, (3, 2))], prompt_tokens=7) == (Work(100, 160, 5, 7, 2, BATCH_SWING),)


def test_work_is_interpolated_within_a_step_and_stands_still_in_a_pause():
    """In mid-step the instant's doubt is largest, and a pause has none and is no busy time."""
    tally = Tally([Work(0, 100, 10, 4, 1), Work(200, 300, 20)])
    assert [tally.done(at).output_tokens for at in (-5, 0, 50, 100, 150, 250, 300, 999)] == [
        0,
        0,
        5,
        10,
        10,
        20,
        30,
        30,
    ]
    assert tally.done(50).prompt_tokens == 2
    assert tally.done(50).loose_ns == pytest.approx(STEP_SWING * 50 / math.sqrt(6))
    assert tally.done(150).loose_ns == 0
    assert tally.done(250).busy_ns == 150


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9)), min_size=1, max_size=30), st.data())
def test_done_never_goes_back_and_ends_at_all_that_was_done(lengths, data):
    """For any steps, a later instant has no less done."""
    work, at = [], 0
    for length, tokens in lengths:
        work.append(Work(at, at + length, tokens))
        at += length
    tally = Tally(work)
    one, other = sorted(data.draw(st.tuples(st.floats(0, at), st.floats(0, at))))
    assert tally.done(one).output_tokens <= tally.done(other).output_tokens + 1e-9
    assert tally.done(at).output_tokens == sum(tokens for _, tokens in lengths)


def request(sent_ns, *stamps, ended_ns=None, tokens=None):
    """A request of seven prompt tokens, whose parts came at these instants."""
    return Exchange(sent_ns, sent_ns, ended_ns or stamps[-1], stamps, 7, tokens or len(stamps), tokens or len(stamps))


def test_a_step_of_an_engine_is_what_comes_before_a_request_has_its_next_part():
    """Parts of one step come one after another; prompts belong to their request's first, and requests to their last."""
    assert work_of_traffic([request(100, 120, 140, 160), request(105, 121, 142)]) == (
        Work(100, 121, 2, 14, 0),
        Work(121, 142, 2, 0, 1),
        Work(142, 160, 1, 0, 1),
    )


def test_where_nothing_was_under_way_there_was_no_work():
    """A step doesn't reach over a pause, and the next one begins when the next request is sent."""
    assert work_of_traffic([request(100, 120), request(500, 530)]) == (
        Work(100, 120, 1, 7, 1),
        Work(500, 530, 1, 7, 1),
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(1, 20)),
        max_size=8,
    )
)
def test_work_of_traffic_is_in_order_and_complete(requests):
    """For any requests it doesn't overlap, lies where some are under way, and holds all tokens and requests."""
    exchanges = []
    for sent_ns, gaps, tokens in requests:
        stamps = [sent_ns + sum(gaps[: place + 1]) for place in range(len(gaps))]
        exchanges.append(request(sent_ns, *stamps, tokens=tokens))
    work = work_of_traffic(exchanges)
    edges = [at for one in work for at in (one.started_ns, one.ended_ns)]
    assert edges == sorted(edges)
    assert sum(one.output_tokens for one in work) == sum(one.output_tokens for one in exchanges)
    assert sum(one.prompt_tokens for one in work) == 7 * len(exchanges)
    assert sum(one.requests for one in work) == len(exchanges)
    assert sum(one.ended_ns - one.started_ns for one in work) == sum(
        any(one.sent_ns <= at < one.ended_ns for one in exchanges) for at in range(500)
    )
