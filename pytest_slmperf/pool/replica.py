"""What the pool asks of each of its replicas, wherever that runs: a child process, a server, an actor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pytest_slmperf.core.engine import Answer, EngineFacts, EngineSpec, Request, Served, Stamp
from pytest_slmperf.core.errors import EngineDied, EngineFailed, EngineUnavailable, RequestFailed


class Replica(Protocol):
    """One engine of a pool. Used by one thread, that of the pool.

    Whatever goes wrong is raised as what it is (EngineUnavailable, EngineFailed, EngineDied, MemoryError,
    RequestFailed), and its text begins with the replica's name: `named` makes it so.
    """

    @property
    def name(self) -> str:
        """`replica 2 of 4 (core 1)`: see `name_of`."""
        ...

    def start(self) -> EngineFacts:
        """Start it, and block until it can take a request; the replicas before it are ready already.

        Raises EngineUnavailable, EngineFailed, EngineDied or MemoryError.
        """
        ...

    def send(self, batch: Sequence[Request], *, observe: bool) -> None:
        """Hand it a static batch and return at once, so that all replicas begin before any is waited for.

        Who sends the same object again sends the same requests.
        """
        ...

    def served(self) -> Served:
        """Block until the batch that was sent last is served. Times are CLOCK_MONOTONIC of this machine.

        The peak of memory is that of batches of the same object, where it is known. Raises EngineFailed, EngineDied or
        MemoryError.
        """
        ...

    async def stream(self, request: Request, stamp: Stamp) -> Answer:
        """As `StreamingEngine.stream`, in the pool's event loop. Asked only of replicas of an engine that streams."""
        ...

    async def counters(self) -> Mapping[str, float]:
        """As `StreamingEngine.counters`. Asked only of replicas of an engine that streams."""
        ...

    def answer(self, batch: Sequence[Request]) -> tuple[tuple[int, ...], ...] | None:
        """As `Answering.answer`; None where its engine can't tell its tokens."""
        ...

    def stop(self) -> None:
        """End it and give back what it took. Called once, also after a failure, or where it was never started."""
        ...


@dataclass(frozen=True)
class Crew:
    """The replicas of a pool, none of them started, while what surrounds them is there."""

    replicas: Sequence[Replica]
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """What of these surroundings the samples hold for, beside what the replicas' own facts say."""
    check: Callable[[], None] = lambda: None
    """Called when all are ready. Raises EngineFailed where one isn't what it was to be."""
    check_around: Callable[[], None] = lambda: None
    """Called after each batch and each request, so it takes microseconds. Raises EngineFailed where what surrounds the
    replicas has ended.
    """
    versions: Callable[[], Mapping[str, str]] = dict
    """Of libraries that the replicas have loaded, once they are ready."""


def name_of(number: int, replicas: int, label: str = "") -> str:
    """What messages and reports call a replica, counted from 1: `replica 2 of 4 (core 1)`."""
    return f"replica {number} of {replicas}{f' ({label})' if label else ''}"


def own_spec(
    spec: EngineSpec, number: int, options: Mapping[str, str | int | float | bool] | None = None
) -> EngineSpec:
    """The spec of one replica by itself, with these options in place of the pool's: without the pool, and without a
    loss that is planted in another alone.
    """
    pool = spec.pool
    elsewhere = pool is not None and pool.slowed_replica not in (None, number)
    loss = 0.0 if elsewhere else spec.planted_loss
    return replace(spec, pool=None, planted_loss=loss, options={**spec.options, **(options or {})})


def named(name: str, error: BaseException) -> Exception:
    """The same kind of error, and its text begins with the replica's name."""
    text = f"{name}: {error or type(error).__name__}"
    for kind in (EngineUnavailable, EngineDied, EngineFailed, MemoryError, RequestFailed):
        if isinstance(error, kind):
            return kind(text)
    return EngineFailed(f"{name}: {type(error).__name__}: {error}")
