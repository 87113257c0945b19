"""Edges of a counter: where they lie, and how sure that is."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.devices.edges import Edge, Look


def test_an_edge_lies_between_the_look_that_saw_the_old_value_and_the_one_that_saw_the_new():
    """It is half-way between the middles of both."""
    found = Edge(Look(10, 14, 5), Look(20, 24, 7))
    assert found.at_ns == pytest.approx(17)


@given(st.integers(1, 1000), st.integers(0, 1000))
def test_an_edges_standard_uncertainty_is_below_what_its_bound_would_give(look, gap):
    """Whatever looks and pauses last: it moved after the one look began and before the other ended, and it is below
    that of any instant in between being equally likely.
    """
    one = Edge(Look(0, look, 1.0), Look(look + gap, 2 * look + gap, 2.0))
    bound_ns = max(one.at_ns - one.old.before_ns, one.new.after_ns - one.at_ns)
    assert 0 < one.standard_ns <= bound_ns / math.sqrt(3) * (1 + 1e-9)


def test_an_edges_standard_uncertainty_is_the_scatter_of_a_simulated_one():
    """Looks at a value that moves at a known time miss that time by the stated uncertainty, within 2 %."""
    draw = random.Random(4)
    look, gap, errors = 10.0, 3.0, []
    for _ in range(20_000):
        move = draw.uniform(100, 113)
        at = (move - 200) // (look + gap) * (look + gap)
        taken = at + draw.uniform(0, look)
        while (sooner := taken) <= move:
            at += look + gap
            taken = at + draw.uniform(0, look)
        assert sooner > move
        errors.append(at + look / 2 - (look + gap) / 2 - move)
    one = Edge(Look(0, 10, 1.0), Look(13, 23, 2.0))
    assert math.sqrt(sum(error**2 for error in errors) / len(errors)) == pytest.approx(one.standard_ns, rel=0.02)
