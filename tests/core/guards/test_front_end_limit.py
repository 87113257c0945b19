"""What is said of a server's front end that had no time left."""

import pytest

from pytest_slmperf.core.guards.front_end import AT_LIMIT, at_limit


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([], None),
        ([None, None], None),
        ([0.5, 0.9], None),
        ([1.0, None, 0.6], None),
        ([AT_LIMIT], "95%"),
        ([0.99, 0.97, None], "98%"),
    ],
)
def test_a_front_end_is_told_of_where_it_took_a_whole_core(shares, said):
    """In the mean of the stretches in which it was seen."""
    told = at_limit(shares)
    assert told is None if said is None else told.startswith(f"its front end used {said} of a core")
