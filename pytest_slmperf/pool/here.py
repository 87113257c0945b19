"""A replica whose engine lives in the pool's own process, since its work is done elsewhere: by a server that it starts
or finds, or in simulated time. All replicas of a pool share one event loop.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_slmperf.core.engine import Answer, Answering, EngineFacts, EngineSpec, Fronted, Request, Served, Stamp
from pytest_slmperf.core.machine import SIMULATED
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.engines.planted import stretched
from pytest_slmperf.engines.registry import create
from pytest_slmperf.engines.simulated_time import clock_of
from pytest_slmperf.engines.streaming import Streaming
from pytest_slmperf.pool.devices import Placement
from pytest_slmperf.pool.pinning import pin
from pytest_slmperf.pool.replica import named

if TYPE_CHECKING:
    import asyncio


class Here:
    """A streaming engine in this process, as one of several."""

    def __init__(
        self, name: str, spec: EngineSpec, where: Placement, pool: Streaming, *, slowed_alone: bool = False
    ) -> None:
        """`slowed_alone`: a planted loss is this replica's alone, also where requests stream, see `stream`. One that
        all have is taken by the clock of who sends to them (`worker.sending`).
        """
        self._name, self._where, self._pool = name, where, pool
        self._holds_back = slowed_alone
        self._spec = replace(spec, planted_loss=0.0)
        self._loss = spec.planted_loss
        self._engine: Streaming
        self._started = False
        self._simulated = False
        self._sent: asyncio.Task[Served] | None = None
        self.versions: Mapping[str, str] = {}

    @property
    def name(self) -> str:
        """`replica 2 of 4 (GPU 1)`."""
        return self._name

    @property
    def pid(self) -> int:
        """Of the server that it has started, or of this process."""
        server = getattr(self._engine, "server", None) if self._started else None
        return server.pid if server else os.getpid()

    def start(self) -> EngineFacts:
        """Start it, with what belongs to its place in the environment of whatever it starts."""
        try:
            with _in_place(self._where):
                engine = create(self._spec)
                assert isinstance(engine, Streaming)  # noqa: S101 - whoever made this replica has looked
                engine.join(self._pool)
                self._engine, self._started = engine, True
                facts = engine.start()
        except Exception as error:
            raise named(self._name, error) from error
        self._simulated = facts.device == SIMULATED
        return facts

    def send(self, batch: Sequence[Request], *, observe: bool) -> None:
        """It goes out as soon as the pool's event loop runs, beside those of all other replicas."""
        self._sent = self._engine.begin(self._serve(batch, observe=observe))

    def served(self) -> Served:
        """Run the event loop until it is served."""
        assert self._sent is not None  # noqa: S101 - something was sent
        try:
            return self._pool.run(_of(self._sent))
        except Exception as error:
            raise named(self._name, error) from error

    async def stream(self, request: Request, stamp: Stamp) -> Answer:
        """Its engine's answer. With a planted loss, each part and the end of it are held back by their share of the
        time since it was sent: as a slow engine's, but that the engine itself has less to do meanwhile.
        """
        try:
            if self._loss and self._holds_back:
                return await self._held_back(request, stamp)
            return await self._engine.stream(request, stamp)
        except Exception as error:
            raise named(self._name, error) from error

    async def counters(self) -> Mapping[str, float]:
        """What its engine says of itself."""
        return await self._engine.counters()

    def front_end(self) -> float | None:
        """As `core.engine.Fronted`; None of an engine that has none."""
        engine: object = self._engine
        return engine.front_end() if isinstance(engine, Fronted) else None

    def answer(self, batch: Sequence[Request]) -> tuple[tuple[int, ...], ...] | None:
        """Which tokens its engine generates, where it tells."""
        engine: object = self._engine
        try:
            return engine.answer(batch) if isinstance(engine, Answering) else None
        except Exception as error:
            raise named(self._name, error) from error

    def stop(self) -> None:
        """End it, and the server that it has started."""
        if not self._started:
            return
        if self._sent is not None and not self._sent.cancel() and not self._sent.cancelled():
            self._sent.exception()  # of a batch that another replica failed: nobody waits for it any more
        self._engine.stop()

    async def _serve(self, batch: Sequence[Request], *, observe: bool) -> Served:
        served = await self._engine.batch(batch, observe=observe)
        if not self._loss:
            return served
        served = stretched(served, self._loss)
        if not self._simulated:
            await _until(served.ended_ns)
        return served

    async def _held_back(self, request: Request, stamp: Stamp) -> Answer:
        import asyncio  # noqa: PLC0415 - engines that serve batches alone need it not

        loop = asyncio.get_running_loop()
        clock = clock_of(loop)
        sent_ns, share = clock(), self._loss / (1 - self._loss)

        def late(tokens: int) -> None:
            loop.call_later((clock() - sent_ns) * share / NS_PER_S, stamp, tokens)

        answer = await self._engine.stream(request, late)
        await asyncio.sleep((clock() - sent_ns) * share / NS_PER_S)
        return answer


async def _of(task: "asyncio.Task[Served]") -> Served:
    return await task


async def _until(at_ns: int) -> None:
    import asyncio  # noqa: PLC0415 - engines that serve batches alone need it not

    clock = clock_of(asyncio.get_running_loop())
    await asyncio.sleep(max(0.0, (at_ns - clock()) / NS_PER_S))


@contextmanager
def _in_place(where: Placement) -> Iterator[None]:
    """What this process starts meanwhile has the environment and the cores of the place."""
    before = {name: os.environ.get(name) for name in where.environment}
    cores = os.sched_getaffinity(0)
    os.environ.update(where.environment)
    try:
        if where.cores:
            pin(where.cores)
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        with suppress(OSError):
            os.sched_setaffinity(0, cores)
