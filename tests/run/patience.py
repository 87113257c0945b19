"""For a test that needs a moment in which nobody else uses the machine."""

import time
from collections.abc import Iterator


def tries(limit_s: float = 60) -> Iterator[int]:
    """Numbers of tries, until the time is up. Others at work on this machine may spoil one before it shows anything."""
    until, number = time.monotonic() + limit_s, 0
    while not number or time.monotonic() < until:
        yield number
        number += 1
