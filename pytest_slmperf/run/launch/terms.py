"""What holds for all cases of a launch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_slmperf.core.devices.board import BoardState
from pytest_slmperf.core.launch import RoundPolicy
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.run.metering import Metering
from pytest_slmperf.run.pace import Pace

TellRound = Callable[[str, int, int], None]
"""Is told (case, round, rounds) before each plain round."""
TellRetry = Callable[[str, int, int], None]
"""Is told (reason, try, tries) before a void round is repeated: why it was, and which of how many tries comes now."""


@dataclass(frozen=True)
class EnergyTerms:
    """How a launch counts joules."""

    metering: Metering
    gated: bool
    """Whether a round that no repetition saves makes its case void; otherwise it has no joules."""
    timed: bool = False
    """Whether the throughput of static batches is read from that round, too, and there are no others."""


@dataclass(frozen=True)
class Terms:
    """How a launch measures its cases, and whom it tells."""

    policy: RoundPolicy
    index: int
    """Of the launch among all of its run."""
    quantiles: Sequence[float]
    slo: Slo | None
    progress: TellRound
    retrying: TellRetry
    pace: Pace
    energy: EnergyTerms | None = None
    idle: Mapping[str, BoardState] = field(default_factory=dict)
    """The boards before the engine was started."""


def silent(_what: str, _number: int, _of: int) -> None:
    """Nobody asked for progress."""
