"""For a test that needs a moment in which nobody else uses the machine."""

import re
import time
from collections.abc import Collection, Iterator

from pytest_slmperf.core.launch import CaseRecord

CONTENDED = "others had the engine's"
SLOW = "a fixed piece of work took"
"""How the reasons of a void round begin."""
NOT_ALL_NAMED = re.compile(r" and \d+ more")


def tries(limit_s: float = 60) -> Iterator[int]:
    """Numbers of tries, until the time is up. Whoever tries goes on only after one that others `spoilt`."""
    until, number = time.monotonic() + limit_s, 0
    while not number or time.monotonic() < until:
        yield number
        number += 1


def spoilt(case: CaseRecord, about: str, naming: Collection[int] = ()) -> bool:
    """Whether others at work on this machine may have hidden what a try was to show: then it says nothing.

    That is where a round is void for something else than the test is `about`, and where more processes were seen than
    are named, and none of those that the test is to find.
    """
    said = [*(void.reason for void in case.void_rounds), *case.notes]
    named = not naming or any(f"(pid {pid}, " in words for words in said for pid in naming)
    crowded = not named and any(NOT_ALL_NAMED.search(words) for words in said)
    return crowded or any(not void.reason.startswith(about) for void in case.void_rounds)
