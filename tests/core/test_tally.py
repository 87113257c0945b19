"""Work, added up to any instant."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.engine import Served
from pytest_slmperf.core.tally import BATCH_SWING, STEP_SWING, Tally, Work, work_of


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
