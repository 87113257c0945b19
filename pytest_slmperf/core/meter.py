"""The protocol that every meter speaks, and the values that cross it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pytest_slmperf.core.devices.board import BoardSample, BoardState
from pytest_slmperf.core.devices.edges import EnergyTrace, Source


@dataclass(frozen=True, slots=True)
class MeterFacts:
    """What an opened meter says of itself."""

    name: str
    """`nvml`, …"""
    boards: tuple[str, ...]
    """UUIDs, in the order of everything else."""
    sources: Mapping[str, Source | None]
    """By board: where its joules come from, None where there are none to be had."""
    simulated: bool
    """Whether a stand-in answers: nothing of it is real, and nothing becomes the baseline of a real machine."""
    versions: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    """By board: why it has no joules."""


@dataclass(frozen=True, slots=True)
class EnergyMeter:
    """What the author of a suite sees of a meter, as the fixture `energy_meter` gives it."""

    boards: tuple[str, ...]
    """UUIDs of the boards whose joules are counted."""
    source: str | None
    """Where their joules come from: `counter`, `integrated power`, `power samples` or `zeus`. None: there are none."""
    simulated: bool
    """Whether a stand-in driver answers."""
    missing: str
    """Why there are no joules, or an empty text."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What a meter saw from start to stop."""

    traces: tuple[EnergyTrace, ...]
    """One a board that has joules."""
    samples: Mapping[str, tuple[BoardSample, ...]] = field(default_factory=dict)
    """By board, now and then."""
    sm_activity: Mapping[str, float] = field(default_factory=dict)
    """By board: mean share of SMs that were busy, where the driver tells."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """By board: why it has no trace."""


@dataclass(frozen=True, slots=True)
class Around:
    """What a meter said of its boards around a round, each by UUID."""

    idle: Mapping[str, BoardState]
    """Before our engine's start."""
    before: Mapping[str, BoardState]
    """Right before the meter was started."""
    after: Mapping[str, BoardState]
    """Right after it was stopped."""


class Meter(Protocol):
    """A source of joules beside an engine. One object is one session; it is opened once and used by one thread."""

    def open(self) -> MeterFacts:
        """Find the boards. Raises MeterUnavailable, with the way out."""
        ...

    def states(self) -> Mapping[str, BoardState]:
        """Every board as it is now, by its UUID: for before and after. What can't be read is told in the state."""
        ...

    def start(self) -> None:
        """Begin to read, beside whatever happens; returns at once."""
        ...

    def stop(self) -> Recording:
        """End reading, and give what was read. A fault is in the recording; nothing is raised."""
        ...

    def close(self) -> None:
        """End the session. Called once, also after a failure."""
        ...
