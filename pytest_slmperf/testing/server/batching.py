"""Continuous batching in steps, in real time: the latency model of the testing server."""

import asyncio
import math
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.testing.server.options import Options

BLOCK = 16
"""Tokens of a prompt that a prefix cache keeps as one."""


@dataclass(eq=False, slots=True)
class Job:
    """A request in the queue or in the running batch."""

    prompt: Sequence[object]
    limit: float
    """Tokens to generate; infinity for an endless answer."""
    cached: int = 0
    to_prefill: int = 0
    generated: int = 0
    admitted_ns: int | None = None
    tokens: "asyncio.Queue[int]" = field(default_factory=asyncio.Queue)
    """For each token, when it was due by the model."""


@dataclass(slots=True)
class Counts:
    """What /metrics tells."""

    running: int = 0
    waiting: int = 0
    preemptions: int = 0
    cached_tokens: int = 0
    queried_tokens: int = 0


class Batch:
    """The running batch and the queue before it; `run` is to be a task of the loop that the jobs' tokens go to."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._draw = random.Random(options.seed)
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._cache: set[int] = set()
        self._work = asyncio.Event()
        # A loop's own timers are good to a millisecond, a thread's wait to some 60 µs.
        self._sleeper = ThreadPoolExecutor(1)
        self._closed = threading.Event()
        self._counts = Counts()

    @property
    def counts(self) -> Counts:
        """As they are now."""
        self._counts.running, self._counts.waiting = len(self._running), len(self._waiting)
        return self._counts

    def enter(self, job: Job) -> None:
        """Put a request at the end of the queue."""
        self._waiting.append(job)
        self._work.set()

    def leave(self, job: Job) -> None:
        """Take out a request whose client has gone."""
        if job in self._waiting:
            self._waiting.remove(job)
        if job in self._running:
            self._running.remove(job)

    def close(self) -> None:
        """Let go of the thread, which else would sleep to the end of the step."""
        self._closed.set()

    async def run(self) -> None:
        """Step for as long as there is work, and wait for more; never returns."""
        loop = asyncio.get_running_loop()
        due_ns = 0
        while True:
            if not self._running and not self._waiting:
                self._work.clear()
                await self._work.wait()
                due_ns = time.monotonic_ns()
            # A server that is slower than its model can't catch up by being faster than it.
            began_ns = max(due_ns, time.monotonic_ns() - NS_PER_S // 100)
            self._preempt()
            self._admit(began_ns)
            due_ns = began_ns + self._step()
            await loop.run_in_executor(self._sleeper, self._sleep_until, due_ns)
            self._give(due_ns)

    def _admit(self, now_ns: int) -> None:
        while self._waiting and len(self._running) < self._options.max_batch:
            job = self._waiting[0]
            if self._running and self._lacks(_context(job) + 1):
                return
            self._running.append(self._waiting.popleft())
            if job.admitted_ns is None:
                job.admitted_ns = now_ns
                job.cached = self._looked_up(job)
            job.to_prefill = len(job.prompt) + job.generated - job.cached

    def _lacks(self, more: int) -> bool:
        if self._options.kv_tokens is None:
            return False
        return sum(_context(job) + 1 for job in self._running) + more > self._options.kv_tokens

    def _preempt(self) -> None:
        """Send the youngest back to the queue while the batch's next tokens don't fit."""
        while len(self._running) > 1 and self._lacks(0):
            self._waiting.appendleft(self._running.pop())
            self._counts.preemptions += 1

    def _looked_up(self, job: Job) -> int:
        if not self._options.prefix_cache:
            return 0
        prefixes = list(_prefixes(job.prompt))
        known = next((count for count, one in enumerate(prefixes) if one not in self._cache), len(prefixes))
        self._cache.update(prefixes)
        # The last token of a prompt is always computed: the first of the output comes from it.
        cached = min(known * BLOCK, (len(job.prompt) - 1) // BLOCK * BLOCK)
        self._counts.queried_tokens += len(job.prompt)
        self._counts.cached_tokens += cached
        return cached

    def _step(self) -> int:
        """Prefill what the step has room for. How long it takes, in nanoseconds."""
        options = self._options
        prefilled = 0
        for job in self._running:
            taken = min(job.to_prefill, (options.prefill_tokens_per_step or sys.maxsize) - prefilled)
            job.to_prefill -= taken
            prefilled += taken
        decode_s = options.step_s + options.step_request_s * (len(self._running) - 1)
        took_s = decode_s + options.prefill_token_s * prefilled
        return int(took_s * math.exp(self._draw.gauss(0, options.noise)) * NS_PER_S)

    def _sleep_until(self, due_ns: int) -> None:
        self._closed.wait(max(0.0, (due_ns - time.monotonic_ns()) / NS_PER_S))

    def _give(self, due_ns: int) -> None:
        """A token for each request whose prompt is prefilled."""
        for job in self._running:
            if not job.to_prefill:
                job.generated += 1
                job.tokens.put_nowait(due_ns)
        self._running = [job for job in self._running if job.generated < job.limit]


def _context(job: Job) -> int:
    return len(job.prompt) + job.generated


def _prefixes(prompt: Sequence[object]) -> Iterator[int]:
    """A name for each whole block of a prompt and all before it."""
    before = 0
    for start in range(0, len(prompt) - BLOCK + 1, BLOCK):
        before = hash((before, *prompt[start : start + BLOCK]))
        yield before
