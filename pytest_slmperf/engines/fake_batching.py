"""Continuous batching, simulated: requests come and go, and each step gives a token to all that run."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pytest_slmperf.core.engine import Answer, Request, Stamp
from pytest_slmperf.core.load.traffic import (
    CACHED_TOKENS,
    PREEMPTIONS,
    QUERIED_TOKENS,
    RUNNING,
    STARTED_AT,
    WAITING,
)
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.engines.simulated_time import clock_of

COALESCED = 4
"""Tokens that come together where they are told to."""
STALL_S = 0.25

StepSeconds = Callable[[int, int, int], float]
"""(requests that run, prompt tokens that are read in this step, when it begins in ns) → its length."""


@dataclass(slots=True, eq=False)
class _Underway:
    """A request that runs or waits."""

    request: Request
    stamp: Stamp
    left: int
    chunk: int
    """Tokens that come together."""
    prefill: int
    """Prompt tokens that its next step must read."""
    preempt_at: int = 0
    """With so many tokens left it is put off once; 0 for never."""
    held: int = 0
    """Tokens that are made and not yet handed out."""
    answered: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batching:
    """An engine's queue and its running batch of at most `max_running` requests. Lives as long as the engine."""

    def __init__(self, step_s: StepSeconds, *, max_running: int | None, busy: Callable[[bool, int], None]) -> None:
        """`busy` is told when work begins and ends: (whether, when in ns)."""
        self._step_s = step_s
        self._most = max_running
        self._busy = busy
        self._queue: deque[_Underway] = deque()
        self._running: list[_Underway] = []
        self._working = False
        self._stall_s = 0.0
        self._counted = {PREEMPTIONS: 0.0, CACHED_TOKENS: 0.0, QUERIED_TOKENS: 0.0, STARTED_AT: 1.0}

    @property
    def counters(self) -> Mapping[str, float]:
        """What it says of itself now."""
        return {RUNNING: float(len(self._running)), WAITING: float(len(self._queue)), **self._counted}

    async def answer(self, request: Request, stamp: Stamp, *, fault: str | None = None) -> Answer:
        """Wait for a place, and for all tokens. Faults: `stalls`, `coalesces`, `caches`, `preempts` and `restarts`."""
        prompt_tokens = len(request.prompt)
        cached = prompt_tokens // 2 if fault == "caches" else 0
        self._counted[QUERIED_TOKENS] += prompt_tokens
        self._counted[CACHED_TOKENS] += cached
        self._counted[STARTED_AT] += fault == "restarts"
        self._stall_s += STALL_S * (fault == "stalls")
        one = _Underway(
            request,
            stamp,
            left=request.output_tokens,
            chunk=COALESCED if fault == "coalesces" else 1,
            prefill=prompt_tokens - cached,
            preempt_at=(request.output_tokens + 1) // 2 if fault == "preempts" else 0,
        )
        self._queue.append(one)
        if not self._working:
            self._working = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._begin, loop)  # after all that are sent in the same moment
        try:
            await one.answered
        except asyncio.CancelledError:
            one.left = 0  # whoever asked has hung up
            raise
        return Answer(request.output_tokens, prompt_tokens, cached)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        now_ns = clock_of(loop)()
        self._busy(True, now_ns)  # noqa: FBT003 - it has no name in a callable
        self._step(loop, now_ns)

    def _step(self, loop: asyncio.AbstractEventLoop, at_ns: int) -> None:
        """Begin a step where the last one ended, unless nobody is left."""
        prefill = 0
        while self._queue and (self._most is None or len(self._running) < self._most):
            one = self._queue.popleft()
            if one.left:
                prefill += one.prefill
                self._running.append(one)
        if not self._running:
            self._working = False
            self._busy(False, at_ns)  # noqa: FBT003 - it has no name in a callable
            return
        seconds = self._step_s(len(self._running), prefill, at_ns) + self._stall_s
        self._stall_s = 0.0
        end_ns = at_ns + max(1, int(seconds * NS_PER_S))
        loop.call_at(end_ns / NS_PER_S, self._end, loop, end_ns)

    def _end(self, loop: asyncio.AbstractEventLoop, end_ns: int) -> None:
        stay = []
        for one in self._running:
            if not one.left:
                continue
            one.left -= 1
            one.held += 1
            if one.held == one.chunk or not one.left:
                one.stamp(one.held)
                one.held = 0
            if not one.left:
                one.answered.set_result(None)
            elif one.left == one.preempt_at:
                one.preempt_at = 0
                one.prefill = len(one.request.prompt) + one.request.output_tokens - one.left
                self._counted[PREEMPTIONS] += 1
                self._queue.append(one)
            else:
                stay.append(one)
        self._running = stay
        # One turn of the loop later, so that who was answered can ask again before the next step.
        loop.call_soon(loop.call_soon, self._step, loop, end_ns)
