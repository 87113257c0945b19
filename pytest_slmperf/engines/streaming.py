"""What every engine shares whose requests come and go one by one: one event loop a launch, and batches on top of it."""

from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_slmperf.core.engine import Answer, Request, Served, Stamp
from pytest_slmperf.core.errors import EngineFailed, RequestFailed

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


def new_event_loop() -> "asyncio.AbstractEventLoop":
    """The fastest that is installed: uvloop's, or else the standard library's."""
    import asyncio  # noqa: PLC0415 - 30 ms, which an engine that serves batches alone need not pay

    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class Streaming:
    """The half of a StreamingEngine that is the same for all. An engine derives from it and adds `start` and `stream`;
    `stop`, which calls `disconnect`; and `connected` and `counters` where it has any.
    """

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._host: Streaming | None = None
        self._new_loop = self.event_loop
        self._connections = AsyncExitStack()
        self._connected = False
        self._served = 0

    def event_loop(self) -> "asyncio.AbstractEventLoop":
        """A new event loop for a launch."""
        return new_event_loop()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Nothing to connect."""
        yield

    async def stream(self, request: Request, stamp: Stamp) -> Answer:
        """Send a request at once and return when its answer is whole."""
        raise NotImplementedError

    async def counters(self) -> Mapping[str, float]:
        """It says nothing of itself."""
        return {}

    def peak_memory_bytes(self) -> int | None:
        """The most memory since the start; None for an engine that lives in this very process, or doesn't know."""
        return None

    def join(self, host: "Streaming") -> None:
        """Use the event loop of another one from now on, which outlives this: replicas of a pool share the pool's."""
        self._host = host
        host.have_loop_of(self)

    def have_loop_of(self, other: "Streaming") -> None:
        """Have an event loop such as another one has: in simulated time, or the world's."""
        self._new_loop = other.event_loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it to its end in the event loop of this launch, connected. Raises what it raises."""
        return self._connected_runner().run(work)

    def begin(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Have it run whenever that event loop does, beside all else that does."""
        return self._connected_runner().get_loop().create_task(work)

    def runner(self) -> "asyncio.Runner":
        """What runs the event loop of this launch, made where there is none yet."""
        if self._host is not None:
            return self._host.runner()
        if self._runner is None:
            import asyncio  # noqa: PLC0415 - as above

            self._runner = asyncio.Runner(loop_factory=self._new_loop)
        return self._runner

    def _connected_runner(self) -> "asyncio.Runner":
        runner = self.runner()
        if not self._connected:
            self._connected = True
            runner.run(_entered(self._connections, self.connected()))
        return runner

    def stop(self) -> None:
        """Nothing to give back but the connections."""
        self.disconnect()

    def disconnect(self) -> None:
        """End the connections and the event loop; nothing where there are none."""
        try:
            if self._connected:
                self._connected = False
                self.runner().run(self._connections.aclose())
        finally:
            runner, self._runner = self._runner, None
            if runner is not None:
                runner.close()

    def serve(self, batch: Sequence[Request], *, observe: bool) -> Served:
        """Send all requests of a batch at once, and block until the last answer is whole. Raises EngineFailed."""
        return self.run(self.batch(batch, observe=observe))

    async def batch(self, batch: Sequence[Request], *, observe: bool) -> Served:
        """The same in the event loop. An engine that has more to do for a batch does it here.

        No two batches begin their prompts alike, or a server's prefix cache would answer for all but the first.
        """
        sent = [turned(request, self._served) for request in batch]
        self._served += 1
        return await self._serve(sent, observe=observe)

    async def _serve(self, batch: Sequence[Request], *, observe: bool) -> Served:
        import asyncio  # noqa: PLC0415 - as above

        from pytest_slmperf.engines.simulated_time import clock_of  # noqa: PLC0415 - it imports asyncio

        clock = clock_of(asyncio.get_running_loop())
        stamped: list[list[tuple[int, int]]] = [[] for _ in batch]

        def stamp_of(stamps: list[tuple[int, int]]) -> Stamp:
            return lambda tokens: stamps.append((clock(), tokens))

        started_ns = clock()
        try:
            async with asyncio.TaskGroup() as group:
                sent = [
                    group.create_task(self.stream(request, stamp_of(stamps)))
                    for request, stamps in zip(batch, stamped, strict=True)
                ]
        except BaseExceptionGroup as several:
            first = several.exceptions[0]
            if isinstance(first, RequestFailed):
                raise EngineFailed(f"a request of a batch failed: {first}") from first
            raise first from None
        ended_ns = clock()
        given = tuple(one.result().output_tokens for one in sent)
        token_ns = tuple(map(each_token, stamped, given)) if observe else None
        return Served(started_ns, ended_ns, given, token_ns, self.peak_memory_bytes())


async def _entered(stack: AsyncExitStack, connections: AbstractAsyncContextManager[None]) -> None:
    await stack.enter_async_context(connections)


def turned(request: Request, by: int) -> Request:
    """The request with its prompt turned by so many tokens, so that it begins with others."""
    by %= len(request.prompt)
    return Request((*request.prompt[by:], *request.prompt[:by]), request.output_tokens) if by else request


def each_token(stamped: Sequence[tuple[int, int]], tokens: int) -> tuple[int, ...]:
    """A time for each of an answer's tokens, from the times of its parts: tokens that came together have the same.

    What no part is said to hold is taken to have come with the last one, so that the first and the last token's times
    are right, and gaps of zero tell the rest. None where no part came.
    """
    times = [at_ns for at_ns, held in stamped for _ in range(held or 1)]
    if not times:
        return ()
    return (*times[: tokens - 1], *times[-1:] * (tokens - len(times[: tokens - 1])))
