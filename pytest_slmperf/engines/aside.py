"""Moving a process that only hands requests on off the cores of those who serve them."""

import os
from collections.abc import Collection
from contextlib import suppress


def step_aside(taken: Collection[int]) -> None:
    """Move this process to the cores that its parent may use and that aren't taken; where there are none, to those that
    are, where it runs while one of the others waits. What it has started stays where it is.
    """
    with suppress(OSError):
        cores = os.sched_getaffinity(os.getppid()) - set(taken) or set(taken)
        for thread in os.listdir("/proc/self/task"):  # noqa: PTH208 - names alone
            with suppress(OSError):  # it has ended since, or nothing is taken
                os.sched_setaffinity(int(thread), cores)
