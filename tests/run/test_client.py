"""What a launch's process sends on time, by the guards of a run."""

import pytest

from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.load.traffic import Arrivals, Exchange, Sender, Traffic
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.run.client import late

MS = NS_PER_S // 1000
COUNT = 100
LOAD = Load("client", ((16, 2),) * COUNT, 1, Arrivals(tuple(place / COUNT for place in range(COUNT))))


def sent(*, late_ms=0, took_ms=1, cpu_s=0.1, lag_ms=0.0, error=""):
    """A hundred requests in a second."""
    exchanges = []
    for place in range(COUNT):
        due = place * 10 * MS
        at = due + late_ms * MS
        chunks = (at + took_ms * MS // 2, at + took_ms * MS)
        exchanges.append(Exchange(due, at, chunks[-1], chunks, 16, 2, 2, error=error if place == 50 else ""))
    return Traffic(tuple(exchanges), 0, exchanges[-1].sent_ns, (), Sender(cpu_s, 1.0, (lag_ms,) * 50))


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({}, ""),
        ({"late_ms": 1}, ""),
        ({"late_ms": 5}, "requests were sent up to 5 ms late"),
        ({"cpu_s": 0.95}, "used 95% of a core"),
        ({"lag_ms": 4.0}, "who sends them was late by 4 ms"),
        ({"error": "connection reset"}, "connection reset"),
        ({"took_ms": 600}, "so this is its limit and not the client's"),
    ],
)
def test_a_rate_is_kept_where_a_round_of_it_would_be_valid(what, why):
    """And where the server that takes no time follows: beyond that nothing is said of the client."""
    found = late(sent(**what), LOAD)
    assert why in found
    assert bool(found) is bool(why)
