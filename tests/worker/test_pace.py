"""When an engine counts as warm, and how many batches fill a round."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.worker.pace import batches_for, steady


@pytest.mark.parametrize(
    ("steps_s", "is_steady"),
    [
        pytest.param([], False, id="nothing yet"),
        pytest.param([1.0, 1.0], False, id="too few"),
        pytest.param([1.0, 1.0, 1.0], True, id="the same three times"),
        pytest.param([9.0, 1.0, 1.02, 0.99], True, id="only the last three count"),
        pytest.param([1.0, 1.06, 1.0], False, id="more than 5 % apart"),
        pytest.param([1.04, 1.0, 1.04], True, id="within 5 %"),
        pytest.param([1.04, 1.02, 1.0], False, id="within 5 %, and still gaining"),
        pytest.param([1.01, 1.005, 1.0], True, id="gaining, but less than 2 %"),
        pytest.param([1.0, 1.02, 1.04], True, id="getting slower is no warming up"),
    ],
)
def test_the_pace_is_steady_when_the_last_three_steps_agree(steps_s, is_steady):
    """Within 5 %, and not by gaining all the time."""
    assert steady(steps_s) is is_steady


@given(st.floats(1e-4, 10), st.floats(0.01, 2))
def test_a_round_of_the_pace_that_was_seen_is_never_half_as_long_as_wanted(batch_s, round_s):
    """It is at least one batch, and with several it is not half as long again."""
    batches = batches_for([batch_s] * 3, round_s)
    assert batches >= 1
    assert batches * batch_s > round_s / 2
    assert batches == 1 or batches * batch_s < 1.5 * round_s
