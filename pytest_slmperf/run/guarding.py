"""The guards of this machine around what an engine serves: read right before and right after it, judged, and blamed."""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from pytest_slmperf.core.machine import SIMULATED
from pytest_slmperf.core.protocol import Measured
from pytest_slmperf.run.blame import Scan, blame, command_line, in_rounds, scan, suspects
from pytest_slmperf.run.guards import Stolen, Tolerances, Void, judge_pace, judge_package, judge_round, load_elsewhere
from pytest_slmperf.run.pace import Pace, Slowness
from pytest_slmperf.run.pinning import used_cores
from pytest_slmperf.run.process import EngineProcess
from pytest_slmperf.run.witness import Witness

SLOW_SPELL_S = 1.0
"""So long a round waits, at most, for cores that are slower than usual."""


@dataclass
class Disturbances:
    """What this machine showed beside the rounds of a case."""

    began: Scan
    """Who was there when it began."""
    own_ns: int = 0
    """What this process worked within its rounds; between them it reads counters, which disturbs nobody."""
    load_elsewhere: list[float] = field(default_factory=list)
    stolen: Stolen = field(default_factory=Stolen)
    """From the rounds that count."""
    pace_ns: list[float] = field(default_factory=list)
    """Of the engine's cores after each of them."""


class Guarding:
    """This machine, as far as it concerns one engine. Lives as long as the engine's process."""

    def __init__(self, process: EngineProcess, device: str, cores: tuple[int, ...] | None, pace: Pace) -> None:
        self._process = process
        self._device = device
        self._pinned = cores or ()
        self._cores = used_cores(process.pid, cores)
        """Of the engine, and of what sends its requests where that has moved off them."""
        self._pace = pace
        self._tolerances = Tolerances()
        # A simulated engine takes no time of this machine, so nothing that happens here can be in its figures.
        self._witness = None if device == SIMULATED else Witness(process.root, cores, engine=process.pid)
        self._scanned: Scan = {}
        """When the case began, or later: what happened since is blamed on whoever used the cores since."""
        self._own_ns = 0
        """What this process worked within the rounds since."""

    @property
    def matters(self) -> bool:
        """Whether anything that happens on this machine can be in the engine's figures."""
        return self._witness is not None

    def begin(self) -> Disturbances:
        """A case begins."""
        self.look_again()
        return Disturbances(self._scanned)

    def look_again(self) -> None:
        """What happened before is nobody's fault from now on."""
        self._scanned = scan() if self._witness else {}
        self._own_ns = 0

    def settled(self) -> Slowness:
        """Wait for the engine's cores to have their usual pace, and say how slow they are then."""
        if self._witness is None:
            return {}
        return self._pace.settled(self._pinned, tolerance=self._tolerances.paced, limit_s=SLOW_SPELL_S)

    def served(
        self, seen: Disturbances, serve: Callable[[], Measured], slow_before: Slowness, *, package: bool
    ) -> tuple[Measured, Void | None]:
        """What is served, and why this machine makes it void. With `package` nobody may have worked on any other core,
        either.
        """
        if self._witness is None:
            return serve(), None
        before = self._witness.read()
        measured = serve()
        after = self._witness.read()
        worked_ns = after.own_ns - before.own_ns
        self._own_ns += worked_ns
        seen.own_ns += worked_ns
        slow_after = self._pace.now(self._pinned)
        void = judge_round(
            before,
            after,
            cores=self._cores,
            served_ns=measured.ended_ns - measured.started_ns,
            earlier=seen.stolen,
            tolerances=self._tolerances,
        )
        if self._cores:
            seen.load_elsewhere.append(load_elsewhere(before, after, self._cores))
        shared = judge_package(before, after, self._tolerances) if package else None
        if shared:
            void = Void(shared.guard, f"{shared.reason}; seen: {self._blame(None)}")
        elif void and void.guard == "contended":
            void = Void(void.guard, f"{void.reason}; on it: {self._blame(self._cores)}")
        void = void or judge_pace(slow_before, slow_after, self._tolerances)
        if void is None:
            seen.stolen = seen.stolen.and_of(before, after)
            if self._device == "cpu" and (pace_ns := self._pace.latest_ns(self._pinned)):
                seen.pace_ns.append(pace_ns)
        return measured, void

    def notes(self, seen: Disturbances) -> list[str]:
        """What is to be said of a case at its end: who was busy beside it, and what this machine doesn't show."""
        return [*self._elsewhere(seen), *(self._witness.blind_to if self._witness else ())]

    def _elsewhere(self, seen: Disturbances) -> list[str]:
        if not seen.load_elsewhere:
            return []
        mean = sum(seen.load_elsewhere) / len(seen.load_elsewhere)
        if mean <= self._tolerances.elsewhere:
            return []
        elsewhere = set(range(os.cpu_count() or 1)) - set(self._cores or ())
        found = in_rounds(suspects(seen.began, scan(), cores=elsewhere, root=self._process.root), seen.own_ns)
        return [
            f"the other cores were {mean:.0%} busy, and share caches and memory; seen: {blame(found, command_line)}"
        ]

    def _blame(self, cores: Collection[int] | None) -> str:
        """Who was on these cores, or on any, since the last scan."""
        before, own_ns = self._scanned, self._own_ns
        self.look_again()
        found = suspects(before, self._scanned, cores=cores, root=self._process.root)
        return blame(in_rounds(found, own_ns), command_line)
