"""What a client can send from a machine: the highest rate at which requests still go out when they are due."""

from collections.abc import Callable
from dataclasses import dataclass

from pytest_slmperf.core.fitness.diagnosis import Grade, Line

FIRST, LEAST, MOST = 250.0, 31.25, 16_000.0
"""Requests a second that are tried first, and the smallest and the largest that are tried at all."""
TRIES = 2
"""Of each rate: a machine's spell of something else is no limit of its client."""
HALVINGS = 2
"""Of the gap between the highest rate that was kept and the lowest that wasn't."""


@dataclass(frozen=True, slots=True)
class Highest:
    """The highest rate that was kept."""

    rate: float | None
    """In requests per second; None where even the least was not."""
    beyond: str = ""
    """Why the next larger one was not; empty where none was tried."""


def highest_on_time(send: Callable[[float], str]) -> Highest:
    """Search the highest rate by doubling, or halving, and then between the two that are left.

    `send` sends at a rate, and says why it was not on time; an empty text where it was.
    """
    beyond: dict[float, str] = {}

    def kept(rate: float) -> bool:
        for _ in range(TRIES):
            if not (why := send(rate)):
                return True
            beyond[rate] = why
        return False

    rate = FIRST
    if kept(rate):
        while rate < MOST and kept(min(2 * rate, MOST)):
            rate = min(2 * rate, MOST)
    else:
        while not kept(rate := rate / 2):
            if rate <= LEAST:
                return Highest(None, beyond[rate])
    above = min(2 * rate, MOST)
    for _ in range(HALVINGS if rate < MOST else 0):
        middle = (rate + above) / 2
        rate, above = (middle, above) if kept(middle) else (rate, middle)
    return Highest(rate, beyond[above] if rate < MOST else "")


def client_line(requests: Highest, streams: Highest, stream_tokens: int) -> Line:
    """What was found of requests that are answered by one token, and of answers of so many."""
    values = {
        "requests_per_s": requests.rate,
        "streams_per_s": streams.rate,
        "stream_tokens_per_s": streams.rate and streams.rate * stream_tokens,
    }
    beyond = "; ".join(dict.fromkeys(one.beyond for one in (requests, streams) if one.beyond))
    if not (requests.rate and streams.rate):
        what = "streams" if requests.rate else "requests"
        said = f"not even {LEAST:.0f} {what} a second are sent when they are due: {beyond}"
        return Line("client", Grade.WARNING, said, "end other work on this machine, and look again", values)
    said = (
        f"sends {requests.rate:,.0f} requests a second when they are due, or {streams.rate:,.0f} whose answers have "
        f"{stream_tokens} tokens, {streams.rate * stream_tokens:,.0f} tokens a second"
    )
    said += f"; beyond: {beyond}" if beyond else ""
    return Line("client", Grade.OK, said, values=values)
