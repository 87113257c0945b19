"""Traffic: requests that arrive on their own time, as a load says when to send them and as they turned out.

An engine that streams serves each request by itself, so what is kept of a round is its requests, one by one. All times
are nanoseconds of the clock that the engine's process reads, CLOCK_MONOTONIC but for a simulated engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

FIRST = 10
"""Requests whose longest life says how long a system takes to fill."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When the requests of a load are sent: each when it is due, or the next when one has ended."""

    due_s: tuple[float, ...] = ()
    """Open loop: seconds after the start at which each request is due, ascending, as many as the load has requests."""
    concurrency: int | None = None
    """Closed loop (without `due_s`): so many requests are under way at any time, and those of the load are sent in
    turn, again from the first where they are used up. Open loop: at most so many; a request that finds no place waits,
    and its wait is no lateness of ours but its queue. None: without a limit."""
    ramp_s: float = 0.0
    """Open loop: so long the rate still grows, and nothing is counted."""
    recorded: bool = False
    """Open loop: arrivals of a trace, whose rate changes as it did then: there is no steady state to look for."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what came back for it."""

    due_ns: int
    """When it was to be sent: by its arrival, or where a place was free for it."""
    sent_ns: int
    ended_ns: int
    """When its answer was whole, or had failed."""
    chunk_ns: tuple[int, ...]
    """When each part of the answer was there that holds output."""
    prompt_tokens: int
    output_tokens: int
    """As the engine counted them."""
    asked_tokens: int
    chunk_tokens: tuple[int, ...] = ()
    """Tokens of each part, where the engine tells."""
    cached_tokens: int = 0
    """Of the prompt, that the engine took from a cache instead of computing them."""
    queued_ns: int = 0
    """How long it waited for a place below the load's limit before it was due."""
    error: str = ""
    """Why there is no whole answer; an empty text where there is one."""
    replica: int = 0
    """Which replica of a pool it was sent to, counted from 1; 0 for an engine that is none."""

    @property
    def arrived_ns(self) -> int:
        """When it came, before it waited for a place below the load's limit."""
        return self.due_ns - self.queued_ns

    @property
    def part_tokens(self) -> tuple[int, ...]:
        """Tokens of each part; where the engine doesn't tell, its output tokens spread over its parts."""
        if len(self.chunk_tokens) == len(self.chunk_ns) and sum(self.chunk_tokens) == self.output_tokens:
            return self.chunk_tokens
        parts = max(1, len(self.chunk_ns))
        until = [place * self.output_tokens // parts for place in range(len(self.chunk_ns) + 1)]
        return tuple(after - before for before, after in pairwise(until))


@dataclass(frozen=True, slots=True)
class Look:
    """What an engine said of itself at some instant, by the names of COUNTERS; what it doesn't tell is missing."""

    at_ns: int
    counters: Mapping[str, float]


RUNNING, WAITING = "running", "waiting"
PREEMPTIONS, STARTED_AT = "preemptions", "started_at"
CACHED_TOKENS, QUERIED_TOKENS = "cached_tokens", "queried_tokens"
FRONT_END = "front_end"
COUNTERS: Mapping[str, str] = {
    RUNNING: "requests in the running batch",
    WAITING: "requests that the engine has queued",
    PREEMPTIONS: "requests that were put off as memory ran out, since the engine's start",
    CACHED_TOKENS: "prompt tokens taken from a cache, since the engine's start",
    QUERIED_TOKENS: "prompt tokens looked up in a cache, since the engine's start",
    STARTED_AT: "when the engine was started, in seconds of its own clock: another value is another process",
    FRONT_END: "share of a core that its front end's busiest thread took since the look before; of replicas the most",
}
"""What an engine may say of itself while it serves."""


@dataclass(frozen=True, slots=True)
class Sender:
    """How busy whoever sent the requests was, from the first to the last."""

    cpu_s: float
    """Processor time of its thread."""
    wall_s: float
    lag_ms: tuple[float, ...] = ()
    """By how much its event loop was late, look by look."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What came of a load with arrivals, ramp-up and drain included."""

    exchanges: tuple[Exchange, ...]
    """In the order in which they were due."""
    began_ns: int
    last_sent_ns: int
    """From then on nothing more is sent: what is still under way drains."""
    looks: tuple[Look, ...] = ()
    sender: Sender = field(default_factory=lambda: Sender(0.0, 0.0))
    given_up: bool = False
    """Nothing more was sent, since more requests had missed their limits than may."""
