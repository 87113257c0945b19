"""Replicas that answer as a single instance does pass, and others are named with what is wrong."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.answers import (
    FALSE_ALARM,
    KEPT,
    LEAST_KEPT,
    LOAD_TOKENS,
    MOST_KEPT,
    NOT_FINITE,
    Expected,
    Said,
    alone_of,
    at_least,
    fixed_prompts,
    kept_of,
    shares,
    trial,
    wrong_alone,
    wrong_under_load,
)
from pytest_slmperf.core.launch import Load

ALONE = ((5, 6, 7), (8, 9, 10))


def tokens(seed):
    """An answer; the same for the same seed."""
    return tuple(random.Random(str(seed)).choices(range(1000), k=LOAD_TOKENS))


def told(replicas, each, answer, who="replica {}"):
    """Answers of each replica to its share of the requests."""
    return tuple(
        Said(who.format(number), tuple(share), tuple(answer(number, place) for place in share))
        for number, share in enumerate(shares(replicas * each, replicas), 1)
    )


def expected(count, beside=tokens):
    """What a single instance says to so many requests, all of them kept."""
    return Expected(tuple(range(count)), tuple(map(tokens, range(count))), tuple(map(beside, range(count))))


# -- alone


def test_replicas_that_answer_alike_are_right():
    """Each has answered each prompt as a single instance does."""
    assert wrong_alone(ALONE, [Said("replica 1 of 2", (0, 1), ALONE), Said("replica 2 of 2", (0, 1), ALONE)]) == ""


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ((8, 4, 10), "token 2 is 4, and not 9"),
        ((8, 9), "token 3 is missing, and not 10"),
        ((8, 9, 10, 11), "token 4 is 11, and not missing"),
        ((8, NOT_FINITE, 10), "token 2 is of a score that is no finite number, and not 9"),
    ],
)
def test_the_replica_the_prompt_and_the_first_token_that_differs_are_named(second, said):
    """Whatever it is that differs: a token, a length, or a score that is no number."""
    right, wrong = Said("replica 1 of 2", (0, 1), ALONE), Said("replica 2 of 2 (core 1)", (0, 1), (ALONE[0], second))
    assert wrong_alone(ALONE, [right, wrong]) == (
        f"replica 2 of 2 (core 1) answers prompt 2 of 2 otherwise than a single instance: {said}"
    )


def test_scores_that_are_no_numbers_are_wrong_for_a_single_instance_too():
    """Equal is not enough: no token means anything then."""
    nothing = ((NOT_FINITE,) * 3,)
    assert "no finite number" in wrong_alone(nothing, [Said("", (0,), nothing)])


# -- under load


def test_a_load_that_is_answered_as_alone_is_right():
    """Each batch on its own, whichever replica has answered what."""
    said = told(2, 8, lambda _, place: tokens(place))
    assert wrong_under_load([expected(16), expected(16)], [said, said]) == ""


def test_answers_may_part_as_often_as_those_of_a_single_instance():
    """Batches round otherwise, so that half of the answers part, here and there."""

    def half(place, salt=""):
        return tokens(place) if place % 2 else tokens(f"{salt} {place}")

    of_pool = told(2, 8, lambda _, place: half(place, "pool"))
    assert wrong_under_load([expected(16, half)], [of_pool]) == ""


@pytest.mark.parametrize("replicas", [1, 2, 4, 8, 64])
def test_a_replica_whose_answers_part_is_named(replicas):
    """All others are right, and so are a single instance's in a batch of its size."""
    each = kept_of_each(replicas)
    said = told(
        replicas, each, lambda number, place: tokens((number == replicas, place) if number == replicas else place)
    )
    flaw = wrong_under_load([expected(replicas * each)], [said])
    if each < 4:  # one of so many, by so few answers, is no proof
        assert not flaw
        return
    assert flaw == (
        f"of the answers of replica {replicas}, {each} of {each} part from those alone within 2 tokens, and of a "
        f"single instance's in batches of its size 0 of {replicas * each}"
    )


def kept_of_each(replicas):
    """How many answers of each replica are compared."""
    (batch,) = trial(Load("case", ((8, 32),) * 16 * replicas, seed=1), replicas, 1024, whole=True)
    return len(batch.kept) // replicas


def test_a_pool_that_is_wrong_as_a_whole_is_found_by_all_its_answers():
    """Where each replica's own are too few to tell."""
    said = told(8, 2, lambda number, place: tokens((number, place)))
    assert wrong_under_load([expected(16)], [said]).startswith("of the answers of the pool as a whole, 16 of 16 part")


def test_constant_answers_are_named_as_such_only_where_a_single_instances_are_not():
    """Random weights may answer one token for ever: then every answer is constant, and right."""

    def same(_, __):
        return (7,) * LOAD_TOKENS

    def often_other(place):
        return tokens(f"rounded {place}")

    said = told(2, 16, same)
    assert "replica 1, 16 of 16 are constant" in wrong_under_load([expected(32, often_other)], [said])
    constant = Expected(tuple(range(32)), (same(0, 0),) * 32, (same(0, 0),) * 32)
    assert wrong_under_load([constant], [said]) == ""


def test_one_answer_to_all_prompts_is_constant():
    """Also where its tokens differ."""
    said = told(2, 16, lambda _, __: tokens("same"))
    assert "are constant" in wrong_under_load([expected(32, lambda place: tokens(f"other {place}"))], [said])


@pytest.mark.parametrize(
    ("answer", "flaw"),
    [
        ((1, 2), "replica 2 generates 2 tokens where 8 belong"),
        ((3,) * 7 + (NOT_FINITE,), "replica 2 generates tokens from scores that are no finite numbers"),
    ],
)
def test_a_length_and_a_score_that_cannot_be_are_wrong_at_once(answer, flaw):
    """A single one is enough."""
    said = told(2, 8, lambda _, place: answer if place == 12 else tokens(place))
    assert wrong_under_load([expected(16)], [said]) == flaw


def test_a_request_without_an_answer_is_wrong():
    """Every kept request has one, and only one."""
    said = told(2, 8, lambda _, place: tokens(place))
    assert wrong_under_load([expected(16)], [said[:1]]) == "in batch 1, 8 of 16 requests have no answer"


def test_more_tokens_than_are_compared_do_no_harm():
    """Where batches have the very shape that is measured, answers are longer."""
    said = told(2, 8, lambda _, place: (*tokens(place), 1, 2, 3))
    whole = Expected(tuple(range(16)), tuple(map(tokens, range(16))), tuple((*tokens(one), 1) for one in range(16)))
    assert wrong_under_load([whole], [said]) == ""


@pytest.mark.parametrize("rate", [0.02, 0.2, 0.5, 0.9])
@pytest.mark.parametrize(("ours", "single"), [(KEPT, LEAST_KEPT), (LEAST_KEPT, LEAST_KEPT), (2, MOST_KEPT)])
def test_a_comparison_errs_no_more_often_than_its_level(rate, ours, single):
    """Summed over all that can come of both, where both part at the same rate, whichever it is."""
    level = FALSE_ALARM / 9

    def chance(count, of):
        return math.comb(of, count) * rate**count * (1 - rate) ** (of - count)

    wrong = sum(
        chance(our, ours) * chance(its, single)
        for our in range(ours + 1)
        for its in range(single + 1)
        if at_least(our, ours, its, single) <= level
    )
    assert wrong <= level


def test_loads_without_a_fault_are_not_called_wrong():
    """Of 100 whose answers part as often as a single instance's."""
    draw = random.Random(1)

    def maybe(salt):
        return lambda *place: tokens((salt, place)) if draw.random() < 0.3 else tokens(place[-1])

    for _ in range(100):
        assert not wrong_under_load([expected(32, maybe("single"))], [told(2, 16, maybe("pool"))])


@given(st.integers(1, 8), st.integers(1, 64), st.data())
def test_the_tail_is_that_of_the_hypergeometric_distribution(of, of_single, data):
    """It is 1 for none, falls with each one more, and never below one part of all the ways."""
    both = data.draw(st.integers(0, of + of_single))
    counts = range(max(0, both - of_single), min(of, both) + 1)
    tails = [at_least(ours, of, both - ours, of_single) for ours in counts]
    assert tails[0] == pytest.approx(1)
    assert tails == sorted(tails, reverse=True)


def test_the_tail_agrees_with_a_table():
    """Fisher's lady tasting tea: 4 of 4 right, by chance once in 70."""
    assert at_least(4, 4, 0, 4) == pytest.approx(1 / 70)
    assert at_least(3, 4, 1, 4) == pytest.approx(17 / 70)


def test_an_answer_to_a_request_that_is_served_by_itself_may_not_part_at_all():
    """Where no replica gets two of them, nothing rounds otherwise; one is enough."""
    said = told(2, 1, lambda _, place: tokens("other") if place else tokens(place))
    exact = replace(expected(2), exact=True)
    assert wrong_under_load([exact], [said]) == (
        "replica 2 answers a request that it serves by itself otherwise than a single instance"
    )
    assert wrong_under_load([exact], [told(2, 1, lambda _, place: tokens(place))]) == ""
    assert wrong_under_load([expected(2)], [said]) == ""


def test_answers_that_part_early_tell_more_than_those_that_part_late():
    """A third of a single instance's part, from the fourth token on; all of a replica's do at the first."""

    def late(place):
        return (*tokens(place)[:3], *tokens(f"late {place}")[3:]) if place % 3 == 0 else tokens(place)

    said = told(2, 16, lambda number, place: tokens(f"early {place}") if number == 1 else late(place))
    assert "replica 1, 16 of 16 part from those alone within 2 tokens, and of a" in wrong_under_load(
        [expected(32, late)], [said]
    )


def test_the_level_can_be_reached_by_the_answers_that_are_kept():
    """Two replicas of sixteen answers each, one of which parts in all; a tenth of a single instance's do."""
    assert at_least(KEPT, KEPT, 3, LEAST_KEPT) < FALSE_ALARM / 9


# -- what is asked


@pytest.mark.parametrize("context", [2, 16, 30, 4096])
def test_the_fixed_prompts_fit_into_any_context(context):
    """Each is of a length of its own where there is room, and the same on every machine."""
    asked = fixed_prompts(1024, context)
    assert all(len(one.prompt) + one.output_tokens <= context for one in asked)
    assert asked == fixed_prompts(1024, context)
    assert len({one.prompt for one in asked}) == len(asked)


@pytest.mark.parametrize(
    ("size", "replicas", "turns", "kept"), [(1, 2, 1, 1), (2, 2, 1, 2), (4, 2, 8, 4), (64, 2, 1, 32), (6, 4, 11, 6)]
)
def test_small_batches_are_sent_until_there_are_enough_answers(size, replicas, turns, kept):
    """Each with other prompts, and answers no longer than is compared; one where each replica gets one request."""
    batches = trial(Load("case", ((8, 128),) * size, seed=1), replicas, 1024, whole=False)
    assert (len(batches), {len(batch.kept) for batch in batches}) == (turns, {kept})
    assert len({batch.requests for batch in batches}) == turns
    assert {one.output_tokens for batch in batches for one in batch.requests} == {LOAD_TOKENS}
    assert turns * kept <= MOST_KEPT


def test_a_batch_of_the_very_shape_is_sent_once():
    """An engine that compiles would have to do so for each other one; only what is compared is asked alone."""
    (batch,) = trial(Load("case", ((8, 128),) * 4, seed=1), 2, 1024, whole=True)
    assert [one.output_tokens for one in batch.requests] == [128] * 4
    assert [one.output_tokens for one in alone_of(batch)] == [LOAD_TOKENS] * 4


@given(st.integers(0, 100), st.integers(1, 20))
def test_shares_are_even_and_in_order(count, replicas):
    """Together they are all of it, and no two differ by more than one."""
    parts = shares(count, replicas)
    assert [place for part in parts for place in part] == list(range(count))
    assert len(parts) == min(count, replicas)
    assert not parts or max(map(len, parts)) - min(map(len, parts)) <= 1


def test_only_the_kept_answers_are_told():
    """A replica that has none of them is left out."""
    said = told(2, 2, lambda _, place: (place,), who="{}")
    assert list(kept_of(said, (1,))) == [Said("1", (1,), ((1,),))]
