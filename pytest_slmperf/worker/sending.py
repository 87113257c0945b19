"""Traffic: requests sent when they are due, from the engine's process, and what became of each.

No request waits for another one's answer unless the load says so, and what is due is sent late at worst, never left
out: so a slow engine can't slow down who measures it (coordinated omission).
"""

import asyncio
import gc
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle

from pytest_slmperf.core.engine import Answer, Request, StreamingEngine
from pytest_slmperf.core.errors import RequestFailed
from pytest_slmperf.core.load.prompts import Prompts
from pytest_slmperf.core.load.traffic import FIRST, Exchange, Look, Sender, Traffic
from pytest_slmperf.core.protocol import Play
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.units import NS_PER_MS, NS_PER_S
from pytest_slmperf.engines.simulated_time import SimulatedLoop, clock_of
from pytest_slmperf.worker.alarm import Alarm

LEAD_NS = 5_000_000
"""Between the question and the first arrival: what is to be ready then is made ready."""
LOOK_EVERY_S = 0.5
LOOK_LIMIT_S = 2.5
"""An engine that says nothing of itself for so long is asked again later. A server has 2 s for its part of it."""
LAG_EVERY_NS = 20_000_000
HOPELESS = 20
"""So many requests that failed, and none that was answered, are enough: more only fill a server's log."""
PAUSE_S = 0.01
"""Before a place in a closed loop sends again whose request failed: a refusal takes no time."""


def play(engine: StreamingEngine, ask: Play, prompts: Prompts, *, loss: float = 0.0) -> Traffic:
    """Send the load and wait for every answer.

    With `loss`, so large a share of throughput is taken away: by a clock that runs faster, so that everything the
    engine does takes longer by it, and what is due comes sooner to the engine. That holds at any load, where an
    answer that is held back wouldn't: a busy engine would go on with the others meanwhile.

    Where none of the first requests is answered, nothing more is sent. Raises what the engine raises.
    """
    return engine.run(_played(engine, ask, prompts, loss))


async def _played(engine: StreamingEngine, ask: Play, prompts: Prompts, loss: float) -> Traffic:
    loop = asyncio.get_running_loop()
    sending = _Sending(engine, ask, prompts, _Clock(loop, 1 / (1 - loss)), loop)
    watching = loop.create_task(sending.watch())
    simulated = isinstance(loop, SimulatedLoop)
    began_s, worked_s = time.monotonic(), time.thread_time()
    lag = _Lag(loop)
    try:
        with _no_garbage_collected():
            await sending.all_sent_and_answered()
    finally:
        lag.alarm.close()
        worked_s, lasted_s = time.thread_time() - worked_s, time.monotonic() - began_s
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    await sending.look()
    # In simulated time nobody waits for a sender, however busy it is.
    sender = Sender(0.0, lasted_s) if simulated else Sender(worked_s, lasted_s, tuple(lag.late_ms))
    return sending.traffic(sender)


@contextmanager
def _no_garbage_collected() -> Iterator[None]:
    """A collection looks at all that lives, for tens of milliseconds, in which nothing is sent or stamped."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


class _Clock:
    """The clock of a load: the event loop's, or one that runs so many times as fast from now on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pace: float) -> None:
        base = clock_of(loop)
        origin_ns = base()
        self._origin_ns, self._pace = origin_ns, pace
        self.now: Callable[[], int] = base
        if pace != 1:
            self.now = lambda: origin_ns + int((base() - origin_ns) * pace)

    def instant(self, at_ns: int) -> int:
        """When it is so late by the event loop's clock, and no earlier: who wakes too early there wakes for ever."""
        return at_ns if self._pace == 1 else self._origin_ns + math.ceil((at_ns - self._origin_ns) / self._pace) + 1


class _Lag:
    """By how much an event loop is late, looked at while it runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.late_ms: list[float] = []
        self._now = clock_of(loop)
        self._due_ns = self._now() + LAG_EVERY_NS
        self.alarm = Alarm(loop, self._look)
        if not isinstance(loop, SimulatedLoop):
            self.alarm.at(self._due_ns)

    def _look(self) -> None:
        now_ns = self._now()
        self.late_ms.append((now_ns - self._due_ns) / NS_PER_MS)
        self._due_ns = now_ns + LAG_EVERY_NS
        self.alarm.at(self._due_ns)


@dataclass(slots=True, eq=False)
class _Underway:
    """A request, from when it is due until its answer is whole."""

    request: Request
    due_ns: int
    queued_ns: int = 0
    again: bool = False
    """Whether its place in a closed loop had another request before."""
    sent_ns: int = 0
    ended_ns: int = 0
    chunk_ns: list[int] = field(default_factory=list)
    chunk_tokens: list[int] = field(default_factory=list)
    answer: Answer | None = None
    error: str = ""
    expired: bool = False
    replica: int = 0
    """Of a pool, which failed it."""
    task: asyncio.Task[None] | None = None

    @property
    def arrived_ns(self) -> int:
        """When it came, before it waited for a place."""
        return self.due_ns - self.queued_ns

    def missed(self, slo: Slo, now_ns: int) -> bool:
        """Whether it has missed a limit by now, or failed. Of what is under way no time of its tokens is known."""
        if self.error or not self.sent_ns:
            return bool(self.error)
        first_ns = self.chunk_ns[0] if self.chunk_ns else now_ns
        last_ns = self.chunk_ns[-1] if self.ended_ns and self.chunk_ns else now_ns
        gaps = self.answer.output_tokens - 1 if self.answer else 0
        tpot_ms = (last_ns - first_ns) / gaps / NS_PER_MS if gaps > 0 else None
        return slo.need((first_ns - self.sent_ns) / NS_PER_MS, tpot_ms, (last_ns - self.sent_ns) / NS_PER_MS) > 1

    def exchange(self) -> Exchange:
        answer = self.answer or Answer(0, len(self.request.prompt))
        return Exchange(
            due_ns=self.due_ns,
            sent_ns=self.sent_ns,
            ended_ns=self.ended_ns,
            chunk_ns=tuple(self.chunk_ns),
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.output_tokens,
            asked_tokens=self.request.output_tokens,
            chunk_tokens=tuple(self.chunk_tokens) if all(self.chunk_tokens) else (),
            cached_tokens=answer.cached_tokens,
            queued_ns=self.queued_ns,
            error=self.error,
            replica=answer.replica or self.replica,
        )


class _Sending:
    """One load while it is sent. Lives in one event loop, from the first request to the last answer."""

    def __init__(
        self, engine: StreamingEngine, ask: Play, prompts: Prompts, clock: _Clock, loop: asyncio.AbstractEventLoop
    ) -> None:
        arrivals = ask.load.arrivals
        assert arrivals is not None  # noqa: S101 - whoever plays has looked
        self._engine, self._ask, self._prompts, self._clock, self._loop = engine, ask, prompts, clock, loop
        self._now = clock.now
        self._lengths = cycle(ask.load.lengths)
        self._limit = arrivals.concurrency or math.inf
        self._due_s = arrivals.due_s
        self._closed = not arrivals.due_s
        self._sent: list[_Underway] = []
        self._underway: set[_Underway] = set()
        self._queue: deque[tuple[int, Request]] = deque()
        self._looks: list[Look] = []
        self._answered = self._failed = 0
        self._given_up = False
        self._missed = 0
        self._undecided: list[_Underway] = []
        """Of which nobody knows yet whether they keep their limits, where there are any."""
        self._began_ns = 0
        self._sending = True
        self._over: asyncio.Future[None] = loop.create_future()
        # Of a closed loop
        self._again = 0
        """Places that were taken a second time."""
        self._since = 0
        """Requests sent since all were."""
        self._until_ns = 0
        # Of an open loop
        self._next = 0
        self._alarm = Alarm(loop, self._send_due)
        self._ready: Request | None = None

    async def all_sent_and_answered(self) -> None:
        """Send everything, and return when the last answer is there."""
        await self.look()
        self._began_ns = self._now() + LEAD_NS
        try:
            if self._closed:
                self._first_wave()
            else:
                self._prepare()
            await self._over
        finally:
            self._alarm.close()
            for one in self._underway:
                assert one.task is not None  # noqa: S101 - it is under way
                one.task.cancel()

    def traffic(self, sender: Sender) -> Traffic:
        """What became of it."""
        sent = [one for one in self._sent if one.sent_ns]
        return Traffic(
            exchanges=tuple(one.exchange() for one in sorted(sent, key=lambda one: one.due_ns)),
            began_ns=self._began_ns,
            last_sent_ns=max(one.sent_ns for one in sent),
            looks=tuple(self._looks),
            sender=sender,
            given_up=self._given_up,
        )

    async def watch(self) -> None:
        """Give up requests that take too long, and a load of which too many missed a limit, and look at what the engine
        says of itself, as long as it serves.
        """
        limit_ns = self._ask.limit_s * NS_PER_S
        while True:
            await asyncio.sleep(min(LOOK_EVERY_S, self._ask.limit_s / 2))
            now_ns = self._now()
            for one in self._underway:
                if one.task and one.sent_ns and not one.ended_ns and now_ns - one.sent_ns > limit_ns:
                    one.expired = True
                    one.task.cancel()
            if self._ask.slo and self._due_s and not self._given_up and self._hopeless(self._ask.slo, now_ns):
                self._give_up_the_rest()
            await self.look()

    def _hopeless(self, slo: Slo, now_ns: int) -> bool:
        """Whether more have missed than may, of those that came once the system had filled (see `core.load.window`), or
        of all where it hasn't in half of the time.
        """
        first = self._sent[:FIRST]
        filled = len(first) == FIRST and all(one.ended_ns for one in first)
        if not filled and now_ns - self._began_ns < self._due_s[-1] * NS_PER_S / 2:
            return False
        full_ns = self._began_ns + max((one.ended_ns - one.arrived_ns for one in first if filled), default=0)
        undecided = []
        for one in self._undecided:
            if one.arrived_ns >= full_ns and one.missed(slo, now_ns):
                self._missed += 1
            elif not one.ended_ns:
                undecided.append(one)
        self._undecided = undecided
        return self._missed > self._ask.may_miss

    def _give_up_the_rest(self) -> None:
        """Send nothing more, and wait for what is under way: an engine may go on with what is cancelled, beside the
        next load.
        """
        self._given_up = True
        self._next = len(self._due_s)
        self._queue.clear()
        self._sending = False
        self._end_if_over()

    async def look(self) -> None:
        """Once more, at what the engine says of itself."""
        with suppress(TimeoutError, RequestFailed):
            async with asyncio.timeout(LOOK_LIMIT_S):
                counters = await self._engine.counters()
            if counters:
                self._looks.append(Look(self._now(), counters))

    def _first_wave(self) -> None:
        """Fill all places. Answers are cut to shares of their lengths that are evenly spread, or requests of one length
        would march in step for ever.
        """
        draw = random.Random(f"first wave {self._ask.load.seed}")
        places = int(self._limit)
        shares = [(place + draw.random()) / places for place in range(places)]
        draw.shuffle(shares)
        self._began_ns = self._now()
        for share in shares:
            prompt_tokens, output_tokens = next(self._lengths)
            request = self._prompts.request(prompt_tokens, max(1, math.ceil(share * output_tokens)))
            self._send(_Underway(request, self._now()))

    def _prepare(self) -> None:
        """Make the next request of an open loop ready, and wait until it is due."""
        if self._next == len(self._due_s):
            self._sending = bool(self._queue)
            self._end_if_over()
            return
        self._ready = self._prompts.request(*next(self._lengths))
        self._alarm.at(self._clock.instant(self._due_ns()))

    def _due_ns(self) -> int:
        return self._began_ns + int(self._due_s[self._next] * NS_PER_S)

    def _send_due(self) -> None:
        """Send all that is due, or let it queue where the load has a limit."""
        now_ns = self._now()
        while self._next < len(self._due_s) and (due_ns := self._due_ns()) <= now_ns:
            request = self._ready or self._prompts.request(*next(self._lengths))
            self._ready = None
            self._next += 1
            if len(self._underway) < self._limit:
                self._send(_Underway(request, due_ns))
            else:
                self._queue.append((due_ns, request))
        self._prepare()

    def _send(self, one: _Underway) -> None:
        self._sent.append(one)
        if self._ask.slo:
            self._undecided.append(one)
        self._underway.add(one)
        one.task = self._loop.create_task(self._exchange(one))

    async def _exchange(self, one: _Underway) -> None:
        """Send a request, and wait until its answer is whole, or has failed."""
        now = self._now
        stamped, told = one.chunk_ns.append, one.chunk_tokens.append

        def stamp(tokens: int) -> None:
            stamped(now())
            told(tokens)

        one.sent_ns = now()
        try:
            one.answer = await self._engine.stream(one.request, stamp)
        except RequestFailed as error:
            one.error = str(error) or type(error).__name__
            one.replica = error.replica
        except asyncio.CancelledError:
            if not one.expired:
                raise
            one.error = f"no whole answer within {self._ask.limit_s:g} s"
        except Exception as error:  # noqa: BLE001 - a stranger's code: it ends the load, and is raised there
            self._give_up(error)
            return
        one.ended_ns = now()
        if one.error:
            self._failed += 1
            if not self._answered and self._failed >= HOPELESS:
                self._send_no_more()
                return
            if self._closed:
                await asyncio.sleep(PAUSE_S)
        else:
            self._answered += 1
        self._underway.discard(one)
        self._follow(one)

    def _follow(self, one: _Underway) -> None:
        """Give its place to the next, if there is one."""
        now_ns = self._now()
        if self._queue:
            due_ns, request = self._queue.popleft()
            self._sending = self._next < len(self._due_s) or bool(self._queue)
            self._send(_Underway(request, now_ns, queued_ns=now_ns - due_ns))
        elif self._closed and self._goes_on(one, now_ns):
            self._send(_Underway(self._prompts.request(*next(self._lengths)), now_ns, again=True))
        self._end_if_over()

    def _goes_on(self, one: _Underway, now_ns: int) -> bool:
        """Whether a closed loop sends another request in the place of this one."""
        if not self._sending:
            return False
        if self._until_ns:
            self._since += 1
            self._sending = now_ns < self._until_ns or self._since <= self._ask.requests
        elif not one.again:
            self._again += 1
            if self._again == self._limit:
                self._until_ns = now_ns + int(self._ask.window_s * NS_PER_S)
        return self._sending

    def _end_if_over(self) -> None:
        if not self._sending and not self._underway and not self._over.done():
            self._over.set_result(None)

    def _give_up(self, error: Exception) -> None:
        self._sending = False
        if not self._over.done():
            self._over.set_exception(error)

    def _send_no_more(self) -> None:
        """End the load before its time; what is under way is given up."""
        self._sending = False
        now_ns = self._now()
        for one in self._underway:
            if not one.ended_ns:
                one.ended_ns, one.error = now_ns, "given up, as no request before it was answered"
        if not self._over.done():
            self._over.set_result(None)
