"""One launch as values: what it is asked to measure, and what it brings back.

Each engine's process imports this to learn its load, so what only the records name is not imported: 20 ms of a start.
What a load names is, since the protocol reads a load by its type hints.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_slmperf.core.load.traffic import Arrivals
from pytest_slmperf.core.sweeps.search import Search

if TYPE_CHECKING:
    from pytest_slmperf.core.devices.board import BoardFacts
    from pytest_slmperf.core.energy.window import Uncertainty
    from pytest_slmperf.core.engine import EngineFacts, EngineSpec
    from pytest_slmperf.core.sample import Interval, VoidRound

MOST_AT_ONCE = 64
LAUNCH_VARIABLE = "SLMPERF_LAUNCH"
"""Environment variable that tells an engine's process which launch it is: `candidate/7`, the arm and the index."""
BESIDE_VARIABLE = "SLMPERF_BESIDE"
"""Names, in an engine's process, the models that run beside it."""
REPLICA_VARIABLE = "SLMPERF_REPLICA"
"""Environment variable that tells a replica's process which of its pool it is: `2`, counted from one."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a launch sends for one case: a static batch of requests of these lengths, again and again, or traffic."""

    case: str
    lengths: tuple[tuple[int, int], ...]
    """(prompt tokens, output tokens) of each request of the batch, or of each that is sent, in turn."""
    seed: int
    """Seeds the prompts' token ids."""
    arrivals: Arrivals | None = None
    """When each is sent; None for a static batch."""
    shared_prefix_tokens: int = 0
    """So many tokens at the start of all prompts are the same."""
    search: Search | None = None
    """How its place is looked for. The load is that of the highest place then, of which each probe sends a part."""
    begin: float | None = None
    """Where the search begins; None where nothing is known of the answer."""


def at_once(load: Load) -> Load:
    """A static batch of as many of the load's requests as may be under way together: all of a batch, the places of a
    loop, and of requests that come as they like those of a second in the mean, up to MOST_AT_ONCE.
    """
    arrivals = load.arrivals
    if arrivals is None:
        return load
    a_second = math.ceil(len(load.lengths) / max((1.0, *arrivals.due_s[-1:])))
    together = arrivals.concurrency or min(MOST_AT_ONCE, a_second)
    if load.search:  # the highest place may be far more than there is room for
        together = min(together, math.ceil(load.search.low))
    lengths = (load.lengths * math.ceil(together / len(load.lengths)))[:together]
    return replace(load, lengths=lengths, arrivals=None)


def tokens(load: Load) -> int:
    """Prompt and output tokens of the whole batch: what its need of memory grows with."""
    return sum(map(sum, load.lengths))


@dataclass(frozen=True, slots=True)
class RoundPolicy:
    """How a launch measures a case."""

    rounds: int = 4
    """Timed rounds, unobserved: what throughput is read from."""
    round_s: float = 0.1
    """A round repeats whole batches until it has lasted about this long; a round half as long is void."""
    observed_requests: int = 1
    """Requests whose tokens are timed, at least, in rounds of their own (latencies), by whole batches."""
    observed_s: float = 0.0
    """How long the observed rounds last together, at least: a latency of two requests says little."""
    warmup_limit: int = 10
    """Warm-up steps at most (a step is a batch, or as many as last a twentieth of a round); fewer where the pace is
    steady before."""
    traffic_s: float = 3.0
    """Length of the window of a load with arrivals: ramp-up and drain come on top."""
    void_retries: int = 4
    """How often a void round is repeated, each time after a longer pause; a round that stays void voids its case."""
    answer_limit_s: float = 600.0
    """Without an answer for this long, the engine has hung."""
    gated: frozenset[str] = frozenset()
    """Metrics that are judged by a baseline; of none, whatever is measured may be compared with something."""


@dataclass(frozen=True, slots=True)
class CaseRecord:
    """What one launch measured of one case. A metric is in `values` or in `unmeasured`, never in both."""

    case: str
    values: Mapping[str, tuple[float, ...]]
    """By the metric's full name (`output_throughput`, `p99_ttft_ms`): one value a round, or one a launch."""
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    void_rounds: "tuple[VoidRound, ...]" = ()
    void: str | None = None
    """Why this case has not all the rounds that were wanted of this launch; `values` is empty then."""
    notes: tuple[str, ...] = ()
    boards: "Mapping[str, BoardFacts]" = field(default_factory=dict)
    """What the joules were measured on, by UUID; empty where none were."""
    meter_error: "Uncertainty | None" = None
    """What the joules per output token may be wrong by; None where there are none."""
    intervals: "Mapping[str, tuple[Interval | None, ...]]" = field(default_factory=dict)
    """What each round alone tells of a quantile of its requests; None where it had too few of them."""


@dataclass(frozen=True, slots=True)
class LaunchRecord:
    """What one launch brought back."""

    arm: str
    """`candidate`, or `baseline` where two arms are interleaved."""
    index: int
    """Place among all launches of this run, in time order."""
    spec: "EngineSpec"
    facts: "EngineFacts"
    versions: Mapping[str, str]
    """`python`, the engine's package, …, as the launch's own interpreter sees them."""
    started_at: str
    """Wall clock, ISO 8601 in UTC; for people, never for arithmetic."""
    seconds: float
    cases: Mapping[str, CaseRecord]
