"""Lengths are drawn with a seed, each once before any twice, and within the context."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.load.prompts import FIRST_ORDINARY_TOKEN, prompts
from pytest_slmperf.core.sweeps.workload import StaticBatch, TraceLengths, sample_lengths

lengths = st.tuples(st.integers(1, 3_000), st.integers(1, 1_000))
traces = st.lists(lengths, min_size=1, max_size=40)


@given(traces, st.integers(0, 100), st.integers(0, 5), st.integers(2, 4_000))
def test_what_is_drawn_fits_and_what_does_not_fit_is_counted(trace, count, seed, context):
    """Every drawn request is one of the trace's that fits, and the others are counted as left out."""
    fitting = [pair for pair in trace if sum(pair) <= context]
    if not fitting:
        with pytest.raises(SuiteError, match=f"none of the trace's {len(trace)} requests"):
            sample_lengths(trace, count, seed=seed, context_tokens=context)
        return
    drawn, left_out = sample_lengths(trace, count, seed=seed, context_tokens=context)
    assert len(drawn) == count
    assert set(drawn) <= set(fitting)
    assert left_out == len(trace) - len(fitting)


@given(traces, st.integers(0, 5))
def test_nothing_is_drawn_twice_before_all_was_drawn_once(trace, seed):
    """A draw of a trace's size is the trace in another order."""
    drawn, _ = sample_lengths(trace, len(trace), seed=seed, context_tokens=10_000)
    assert sorted(drawn) == sorted(trace)


@given(traces, st.integers(0, 60), st.integers(0, 60), st.integers(0, 5))
def test_a_smaller_draw_is_the_start_of_a_larger_one(trace, one, other, seed):
    """Batch 4 holds the first four requests of batch 16, so that batch sizes compare like with like."""
    fewer, more = sorted((one, other))
    small, _ = sample_lengths(trace, fewer, seed=seed, context_tokens=10_000)
    large, _ = sample_lengths(trace, more, seed=seed, context_tokens=10_000)
    assert large[:fewer] == small


def test_the_same_seed_draws_the_same_on_every_machine():
    """A draw is pinned here, value by value: a change of it makes every baseline of a trace worthless."""
    drawn, _ = sample_lengths([(10 * n, n) for n in range(1, 8)], 9, seed=3, context_tokens=10_000)
    assert [output for _, output in drawn] == [1, 3, 4, 7, 6, 5, 2, 7, 4]


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=20), st.integers(17, 500), st.integers(0, 5)
)
def test_prompts_have_the_lengths_asked_for_and_only_ordinary_tokens(asked, vocabulary, seed):
    """Prompts are as long as asked, within the ordinary part of the vocabulary, and begin unlike each other."""
    requests = prompts(asked, vocabulary=vocabulary, seed=seed)
    assert [(len(request.prompt), request.output_tokens) for request in requests] == asked
    tokens = {token for request in requests for token in request.prompt}
    assert tokens <= set(range(FIRST_ORDINARY_TOKEN, vocabulary))
    assert len({request.prompt[0] for request in requests}) == min(len(asked), vocabulary - FIRST_ORDINARY_TOKEN)


def test_a_vocabulary_without_ordinary_tokens_is_refused():
    """Sixteen tokens are all special: there is nothing to make a prompt of."""
    with pytest.raises(SuiteError, match="too small"):
        prompts([(1, 1)], vocabulary=16, seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs prompt_tokens and output_tokens"),
        ({"prompt_tokens": 8}, "needs prompt_tokens and output_tokens"),
        ({"prompt_tokens": 8, "output_tokens": 0}, "output_tokens=0"),
        ({"prompt_tokens": 8.0, "output_tokens": 8}, "prompt_tokens=8.0"),
        ({"prompt_tokens": True, "output_tokens": 8}, "prompt_tokens=True"),
        ({"prompt_tokens": 8, "output_tokens": 8, "lengths": TraceLengths()}, "not both"),
    ],
)
def test_a_batch_without_clear_lengths_is_refused(arguments, message):
    """Lengths are two whole numbers or a trace, not something between."""
    with pytest.raises(SuiteError, match=message):
        StaticBatch(**arguments)
