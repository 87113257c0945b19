"""What a meter sees of one board's energy: moves of its counter, or its power now and then.

A counter's value is the energy at its last update, and it is updated ten times a second or so. So two plain looks are
wrong by up to a period each. An edge is seen by looking again and again until the value moves: at that instant it is
true.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Literal, TypeAlias

from pytest_slmperf.core.devices.board import Effect, Finding

RESOLUTION_J = 0.001
"""Of NVML's counter."""
STUCK_S = 1.0
"""A board under load moves its counter at least ten times in this."""

Source: TypeAlias = Literal["counter", "integrated power", "power samples", "zeus"]
"""Where joules come from: an energy counter; means of power, or its momentary values, added up over time; what Zeus has
of a device, which may be any of them.
"""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a counter: its value is that of some moment between these two."""

    before_ns: int
    after_ns: int
    joules: float

    @property
    def middle_ns(self) -> float:
        """The middle of the look."""
        return (self.before_ns + self.after_ns) / 2


@dataclass(frozen=True, slots=True)
class Edge:
    """A move of a counter: the last look that found the old value, and the first that found the new one."""

    old: Look
    new: Look

    @property
    def at_ns(self) -> float:
        """When it moved, as likely before as after."""
        return (self.old.middle_ns + self.new.middle_ns) / 2

    @property
    def standard_ns(self) -> float:
        """Standard uncertainty, each look's value being of any moment of it, and the move of any between the two."""
        between = self.new.middle_ns - self.old.middle_ns
        looks = [(look.after_ns - look.before_ns) ** 2 for look in (self.old, self.new)]
        return math.sqrt((between**2 + fmean(looks)) / 12)


@dataclass(frozen=True, slots=True)
class PowerReading:
    """One look at a board's power."""

    before_ns: int
    after_ns: int
    watts: float


@dataclass(frozen=True, slots=True)
class EnergyTrace:
    """What a meter saw of one board's energy during a round."""

    board: str
    """UUID, or the name of a package of cores."""
    source: Source
    edges: tuple[Edge, ...] = ()
    """Of a counter, as many as were looked for, in the order of time."""
    powers: tuple[PowerReading, ...] = ()
    """Where there is no counter."""
    failure: str | None = None
    """Why reading it ended before the round did."""
    still_s: float = 0.0
    """The longest time in which look after look found the same value."""
    period_s: float | None = None
    """Of the counter's updates, where known."""
    seen_s: float | None = None
    """Of each period, where the sensor is known to work part time."""


def judge_trace(trace: EnergyTrace) -> Finding | None:
    """What is wrong with a source of joules, whatever the work: it could not be read, went back, or stood still."""
    if trace.failure:
        return Finding("unreadable", Effect.VOID, trace.failure)
    looks = [look for edge in trace.edges for look in (edge.old, edge.new)]
    for earlier, later in pairwise(looks):
        if later.joules < earlier.joules - RESOLUTION_J / 2:
            return Finding(
                "reset",
                Effect.VOID,
                f"its energy counter went back from {earlier.joules:,.1f} to {later.joules:,.1f} J: the driver was "
                "reloaded, or the board reset",
            )
    if trace.still_s > STUCK_S:
        return Finding("stuck", Effect.VOID, f"its energy counter stood still for {trace.still_s:.3g} s")
    return None
