"""Guards of a load with arrivals: what voids a round of it, judged by its causes."""

from pytest_slmperf.core.board import Finding
from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.traffic import Traffic
from pytest_slmperf.core.window import NoWindow, Window


def judge_traffic(traffic: Traffic, window: Window | NoWindow, load: Load) -> tuple[Finding, ...]:
    """What is to be said of a round: findings that void it (`Effect.VOID`), then notes (`Effect.NOTE`)."""
    raise NotImplementedError(traffic, window, load)
