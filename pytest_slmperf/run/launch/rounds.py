"""The rounds of a case: each is served under the guards of this machine, and repeated where it is void."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_slmperf.core.beside import NeighbourWork, rested
from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.protocol import Measured
from pytest_slmperf.core.sample import Interval, VoidRound
from pytest_slmperf.run.guarding import Disturbances, Guarding
from pytest_slmperf.run.guards import Void
from pytest_slmperf.run.launch.terms import Terms
from pytest_slmperf.run.metering import EnergyRound, Stretch
from pytest_slmperf.run.pace import Slowness
from pytest_slmperf.run.process import EngineProcess

FIRST_PAUSE_S = 0.1
"""Before a void round is repeated; twice as long before each further repetition."""
LONGEST_PAUSE_S = 2.0

Attempt = Callable[[Slowness], tuple[Measured, Void | None]]
"""A round beside cores that are so slow right before it, and why it is void, if it is."""


@dataclass
class Case:
    """What is known of a case while it is measured, whichever way."""

    load: Load
    seen: Disturbances
    voids: list[VoidRound] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stretch: Stretch = field(default_factory=Stretch)
    """That has run up to now, and is a lead-in to joules."""


@dataclass(frozen=True)
class Found:
    """What a way of measuring brings back of a case."""

    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """On these values, beside those that the case has."""
    beside: Sequence[tuple[Sequence[NeighbourWork], tuple[int, int]]] = ()
    """Of each round: what the models beside did, and when it was."""
    intervals: Mapping[str, tuple[Interval | None, ...]] = field(default_factory=dict)
    energy: EnergyRound = field(default_factory=EnergyRound)
    void: str = ""
    """Which round stayed void: nothing else is told then."""


class Rounds:
    """A started engine that serves rounds. Lives as long as the engine's process."""

    def __init__(self, process: EngineProcess, device: str, cores: tuple[int, ...] | None, terms: Terms) -> None:
        self.process = process
        self.device = device
        self.terms = terms
        self.guards = Guarding(process, device, cores, terms.pace)

    def begin(self, load: Load) -> Case:
        """A case begins."""
        return Case(load, self.guards.begin())

    def valid(self, case: Case, attempt: Attempt) -> Measured | None:
        """A round that no guard voids, or None if there was none in `void_retries` repetitions.

        Each waits for the cores before a meter runs: what a board does while nobody works is none of the round's.
        """
        pause_s = FIRST_PAUSE_S
        matters = self.guards.matters or self.terms.energy
        void: Void | None = None
        guards = set()
        tries = self.terms.policy.void_retries + 1
        for number in range(1, tries + 1):
            if void:
                self.terms.retrying(void.reason, number, tries)
            if void and void.guard != "short" and matters:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                self.guards.look_again()
            measured, void = attempt(self.guards.settled())
            if void is None:
                case.stretch.add(measured.started_ns, measured.ended_ns)
                return measured
            case.stretch = Stretch()
            guards.add(void.guard)
            case.voids.append(VoidRound(self.terms.index, void.guard, void.reason))
            if void.guard == "unanswered":  # another try would take as long, and find the same
                return None
        if guards == {"slowed"}:  # for seconds on end: that is no spell, and the next case is held to what is usual now
            self.terms.pace.forget()
        return None


def rested_beside(measured: Measured) -> Void | None:
    """Why a round is void beside which a model rested."""
    why = rested(measured.beside, measured.started_ns, measured.ended_ns)
    return Void("rested", why) if why else None
