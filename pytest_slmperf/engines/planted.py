"""Faults that are planted on purpose, a loss and a wrong layer: how it is shown that they are caught."""

import os
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_slmperf.core.engine import (
    Answer,
    Answering,
    Engine,
    EngineFacts,
    EngineSpec,
    Request,
    Served,
    Stamp,
    StreamingEngine,
)
from pytest_slmperf.core.errors import EngineUnavailable
from pytest_slmperf.core.launch import REPLICA_VARIABLE
from pytest_slmperf.core.machine import SIMULATED

if TYPE_CHECKING:
    from pytest_slmperf.core.shapes import Shape, Tensor

T = TypeVar("T")

LOSS_LIMIT = 0.9
"""A batch lasts ten times as long there; more only costs time."""


def slowed(engine: Engine, loss: float) -> Engine:
    """The engine with a share of its throughput taken away; one that streams goes on to stream.

    Raises EngineUnavailable for a loss that is impossible.
    """
    return SlowedStreams(engine, loss) if isinstance(engine, StreamingEngine) else Slowed(engine, loss)


def sound(spec: EngineSpec) -> EngineSpec:
    """The engine without a loss that is planted in it, or in one replica of it."""
    return replace(spec, planted_loss=0.0, pool=spec.pool and replace(spec.pool, slowed_replica=None))


class Slowed:
    """Any engine with a share of its throughput taken away.

    Each batch is followed by computing nothing for loss/(1 - loss) of its time, awake, so that the core stays as busy
    and as warm as under a real regression. Times of tokens move in proportion. An engine whose time is simulated is
    slowed in its own time, and nobody waits.
    """

    def __init__(self, engine: Engine, loss: float) -> None:
        if not 0 <= loss < LOSS_LIMIT:
            raise EngineUnavailable(
                f"a planted loss of {loss} is impossible: it must be at least 0 and below {LOSS_LIMIT}"
            )
        self._engine = engine
        self._share = loss / (1 - loss)
        self._simulated = False
        self._behind_ns = 0

    def start(self) -> EngineFacts:
        """Start the engine itself; starting is not slowed."""
        facts = self._engine.start()
        self._simulated = facts.device == SIMULATED
        return facts

    def serve(self, batch: Sequence[Request], *, observe: bool) -> Served:
        """Serve the batch, then keep the core busy until the loss has come true. Raises what the engine raises."""
        served = self._engine.serve(batch, observe=observe)
        started_ns = served.started_ns + self._behind_ns
        ended_ns = self._moved(served.ended_ns, served.started_ns) + self._behind_ns
        if self._simulated:
            self._behind_ns += ended_ns - started_ns - (served.ended_ns - served.started_ns)
        else:
            while (now_ns := time.monotonic_ns()) < ended_ns:
                pass
            ended_ns = now_ns
        token_ns = served.token_ns
        if token_ns is not None:
            later = started_ns - served.started_ns
            token_ns = tuple(
                tuple(self._moved(stamp, served.started_ns) + later for stamp in tokens) for tokens in token_ns
            )
        return replace(served, started_ns=started_ns, ended_ns=ended_ns, token_ns=token_ns)

    def stop(self) -> None:
        """Stop the engine itself."""
        self._engine.stop()

    def answer(self, batch: Sequence[Request]) -> tuple[tuple[int, ...], ...] | None:
        """The engine's own answers; None where it tells none."""
        return self._engine.answer(batch) if isinstance(self._engine, Answering) else None

    def _moved(self, stamp_ns: int, started_ns: int) -> int:
        return stamp_ns + round((stamp_ns - started_ns) * self._share)


def stretched(served: Served, loss: float) -> Served:
    """What a batch would have been with this share of throughput taken away: it lasts 1/(1 - loss) times as long."""
    share, started_ns = loss / (1 - loss), served.started_ns

    def later(at_ns: int) -> int:
        return at_ns + round((at_ns - started_ns) * share)

    token_ns = served.token_ns
    if token_ns is not None:
        token_ns = tuple(tuple(map(later, times)) for times in token_ns)
    return replace(served, ended_ns=later(served.ended_ns), token_ns=token_ns)


class SlowedStreams(Slowed):
    """The same of an engine that streams. Its batches are slowed here; requests that come and go one by one by the
    clock of whoever sends them (`worker.sending.play`), so they pass through.
    """

    def __init__(self, engine: StreamingEngine, loss: float) -> None:
        super().__init__(engine, loss)
        self._streams = engine

    def connected(self) -> AbstractAsyncContextManager[None]:
        """The engine's own."""
        return self._streams.connected()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it in the engine's event loop. Raises what it raises."""
        return self._streams.run(work)

    async def stream(self, request: Request, stamp: Stamp) -> Answer:
        """The engine's own answer. Raises what the engine raises."""
        return await self._streams.stream(request, stamp)

    async def counters(self) -> Mapping[str, float]:
        """What the engine says of itself."""
        return await self._streams.counters()


def is_replica(number: int | None) -> bool:
    """Whether this process serves the replica of this number, counted from 1; with 0, whether it serves any."""
    own = os.environ.get(REPLICA_VARIABLE)
    return number is not None and own is not None and number in (0, int(own))


def wrong_layer(shape: "Shape") -> int:
    """The layer that is wrong in a replica in which a fault is planted: one in the middle."""
    return shape.layers // 2


def misdrawn(shape: "Shape", tensor: "Tensor") -> "Tensor":
    """The tensor under another name, so that it is drawn otherwise, if it is of the wrong layer."""
    of_it = tensor.name.startswith(f"layers.{wrong_layer(shape)}.")
    return replace(tensor, name=f"wrong.{tensor.name}") if of_it else tensor
