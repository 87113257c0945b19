"""Prompts of traffic share no prefix, but the one that they are to."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.load.prompts import FIRST_ORDINARY_TOKEN, POOL, Prompts

seeds = st.integers(0, 2**32)


@given(seeds, st.integers(FIRST_ORDINARY_TOKEN + 1, 200), st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_a_prompt_has_its_length_and_ordinary_tokens(seed, vocabulary, lengths):
    """Whatever the vocabulary, and the answer's length is the one asked for."""
    prompts = Prompts(vocabulary=vocabulary, seed=seed)
    for length in lengths:
        request = prompts.request(length, 7)
        assert (len(request.prompt), request.output_tokens) == (length, 7)
        assert all(FIRST_ORDINARY_TOKEN <= token < vocabulary for token in request.prompt)


@given(seeds, st.integers(FIRST_ORDINARY_TOKEN + 2, 60))
def test_no_two_prompts_begin_with_the_same_pair(seed, vocabulary):
    """As long as there are pairs; and with the same token only where each has had its turn."""
    prompts = Prompts(vocabulary=vocabulary, seed=seed)
    ordinary = vocabulary - FIRST_ORDINARY_TOKEN
    starts = [prompts.request(16, 1).prompt[:2] for _ in range(ordinary**2)]
    assert len(set(starts)) == ordinary**2
    assert len({first for first, _ in starts[:ordinary]}) == ordinary


@given(seeds, st.integers(1, 20), st.integers(2, 40))
def test_a_shared_prefix_is_all_that_they_share(seed, shared, length):
    """A prompt no longer than it keeps one token of its own, or all were the same."""
    prompts = Prompts(vocabulary=1024, seed=seed, shared_prefix_tokens=shared)
    sent = [prompts.request(length, 1).prompt for _ in range(20)]
    same = min(shared, length - 1)
    assert len({prompt[:same] for prompt in sent}) == 1
    assert all(one[same] != other[same] for one, other in pairwise(sent))


def test_the_same_seed_gives_the_same_prompts():
    """On every machine, and another seed others."""
    some, same, other = ([Prompts(vocabulary=1024, seed=seed).request(32, 1) for _ in range(3)] for seed in (5, 5, 6))
    assert some == same != other
    assert Prompts(vocabulary=1024, seed=5).request(5, 1).prompt == (819, 819, 266, 56, 859)


def test_a_prompt_may_be_longer_than_what_it_is_cut_from():
    """A context of a hundred thousand tokens is no reason to fail."""
    assert len(Prompts(vocabulary=1024, seed=1).request(3 * POOL, 1).prompt) == 3 * POOL


def test_a_vocabulary_without_ordinary_tokens_is_refused():
    """There is nothing to ask with."""
    with pytest.raises(SuiteError, match="a vocabulary of 16 tokens is too small: 17 at least"):
        Prompts(vocabulary=16, seed=1)
