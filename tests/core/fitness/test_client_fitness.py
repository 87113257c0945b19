"""The highest rate that a client keeps, found with a client that is a plain function."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.fitness.client import FIRST, LEAST, MOST, TRIES, Highest, client_line, highest_on_time
from pytest_slmperf.core.fitness.diagnosis import Grade


def client(limit, asked=None):
    """Keeps up to a limit, and writes down what it was asked for."""

    def send(rate):
        if asked is not None:
            asked.append(rate)
        return "" if rate <= limit else f"{rate:g} is too much"

    return send


@given(st.floats(LEAST, MOST))
def test_what_is_found_was_kept_and_the_next_was_not(limit):
    """It is below the true limit by less than a quarter of itself, and says why it is no more."""
    found = highest_on_time(client(limit))
    assert found.rate <= limit
    assert found.rate == MOST or limit < 1.25 * found.rate + 1e-9
    assert bool(found.beyond) is (found.rate < MOST)


def test_a_client_that_keeps_all_has_nothing_beyond():
    """The search ends somewhere."""
    assert highest_on_time(client(10 * MOST)) == Highest(MOST)


def test_a_client_that_keeps_nothing_has_no_rate():
    """Down to the least, each rate as often as any."""
    asked = []
    assert highest_on_time(client(1, asked)) == Highest(None, f"{LEAST:g} is too much")
    assert asked == [rate for rate in (FIRST, FIRST / 2, FIRST / 4, LEAST) for _ in range(TRIES)]


def test_a_spell_is_no_limit():
    """What the second try keeps counts."""
    first = set()

    def send(rate):
        new = rate not in first
        first.add(rate)
        return "a spell" if new else ""

    assert highest_on_time(send) == Highest(MOST)


@pytest.mark.parametrize(
    ("requests", "streams", "grade", "says"),
    [
        (
            Highest(3500.0, "late"),
            Highest(875.0, "busy"),
            Grade.OK,
            "or 875 whose answers have 128 tokens, 112,000 tokens a second; beyond: late; busy",
        ),
        (Highest(MOST), Highest(500.0, "busy"), Grade.OK, "; beyond: busy"),
        (Highest(None, "late"), Highest(None, "late"), Grade.WARNING, "not even 31 requests a second are"),
        (Highest(500.0, "late"), Highest(None, "busy"), Grade.WARNING, "not even 31 streams a second are"),
    ],
)
def test_the_line_says_what_was_kept_and_what_ended_it(requests, streams, grade, says):
    """One that keeps nothing is a warning: the machine is busy."""
    line = client_line(requests, streams, 128)
    assert line.grade is grade
    assert says in line.said
    assert line.values["requests_per_s"] == requests.rate
    assert line.values["stream_tokens_per_s"] == (streams.rate and 128 * streams.rate)
