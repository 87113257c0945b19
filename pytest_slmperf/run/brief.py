"""What a campaign is asked to do, and what it needs from outside for it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from pytest_slmperf.core.engine import EngineFacts, EngineSpec
from pytest_slmperf.core.launch import LaunchRecord, Load, RoundPolicy
from pytest_slmperf.core.sample import Measurement
from pytest_slmperf.core.sweeps.sweep import Case, Sweep
from pytest_slmperf.core.verdict import Status

Mode = Literal["gate", "accept", "report"]


@dataclass(frozen=True, eq=False)
class Configuration:
    """A variant of an engine on one model with the cases that its launches measure; with `baseline`, the other arm of
    the same.
    """

    candidate: EngineSpec
    cases: tuple[Case, ...]
    baseline: EngineSpec | None = None

    @property
    def arms(self) -> tuple[tuple[str, EngineSpec], ...]:
        """The engines by the name of their arm."""
        both = (("candidate", self.candidate), ("baseline", self.baseline))
        return tuple((arm, spec) for arm, spec in both if spec)


@dataclass(frozen=True)
class Brief:
    """What a campaign is asked to do."""

    sweep: Sweep
    configurations: tuple[Configuration, ...]
    mode: Mode
    policy: RoundPolicy
    baseline_launches: int
    max_launches: int
    budget_s: float | None = None
    record: str = "pytest --slmperf --slmperf-accept"
    """The command that records, for the way out of what has no baseline."""
    record_sweep: str = "pytest --slmperf --slmperf-accept"
    """The same of this sweep alone, for the way out of what is meant to be slower."""
    supported: bool = False
    """Recordings take the tolerance that the noise needs, so that a stored one may be larger than the suite's."""
    slack: float = 1.0
    """Factor on every tolerance: a quick look allows more."""

    @property
    def design(self) -> Literal["stored", "interleaved"]:
        """Interleaved where there is another arm to measure."""
        return "interleaved" if any(one.baseline for one in self.configurations) else "stored"

    def way_to_accept(self, spec: EngineSpec) -> str:
        """What to do about a loss that is meant to be. One that is planted is never recorded."""
        if spec.planted_loss:
            return f"a loss of {spec.planted_loss:.0%} is planted on purpose, and never recorded: take `slowed` away"
        return f"if it is meant to be so: {self.record_sweep}"


@dataclass(frozen=True)
class Reference:
    """What the store has for a case: samples that may be compared, or why there are none."""

    measurement: Measurement | None = None
    tolerances: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] | None = None
    status: Status = Status.NO_BASELINE
    reason: str = ""
    way_out: str = ""
    notes: tuple[str, ...] = ()
    """Differences that void nothing and are worth knowing."""


Prime: TypeAlias = Callable[[EngineFacts], Sequence[Load]]
"""What a launch serves once and doesn't measure, by what its engine says of itself."""


class Launcher(Protocol):
    """Starts one engine, measures the loads in their order and ends it."""

    def __call__(
        self, spec: EngineSpec, loads: Sequence[Load], *, arm: str, index: int, policy: RoundPolicy, prime: Prime
    ) -> LaunchRecord:
        """What `prime` answers to the started engine's facts is served once before. Raises LaunchError."""
        ...


class Watcher(Protocol):
    """Is told how far a campaign is."""

    def planned(self, left: Mapping[tuple[str, str], int], spent: int) -> None:
        """So many launches of each (arm, curve) are expected from now on, beside the `spent` ones."""
        ...

    def launching(self, spec: EngineSpec, cases: Sequence[str], arm: str) -> None:
        """A launch begins that measures these cases, in this order."""
        ...


@dataclass(frozen=True)
class Surroundings:
    """What a campaign needs from outside."""

    launch: Launcher
    stored: Callable[[str, Mapping[str, object]], Reference]
    loads: Callable[[Sweep, Case, int, RoundPolicy], tuple[Load, str | None]]
    """(sweep, case, context tokens, policy) → the load, and a note where requests were left out."""
    fits: Callable[[Sweep, Case, EngineSpec], str | None]
    """Why the case can't be measured on this machine, or None. Asked before the engine is started."""
    progress: Watcher
    unfit: Callable[[Mapping[str, object]], str | None] = lambda _: None
    """Why nothing can be stored under this key on this machine, or None."""
    unmetered: Mapping[str, str] = field(default_factory=dict)
    """Metrics that no meter tells here, each with the reason, where that skips their tests and isn't red."""
    with_joules: bool = False
    """Whether a launch reads throughput from the stretch in which it counts joules."""
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    """Seconds, by which a budget is spent."""
