"""Replicas on this machine: each a process of its own, with cores of its own and the GPU that it was given.

An engine that does its own work gets a child of the launch's engine process, forked before anything of the engine is
imported: it shares no library, no thread and no lock with its siblings, and is ended with the launch as all is that
the engine's process has started (worker/bootstrap.py). An engine whose work is done elsewhere anyhow, by a server that
each replica starts, lives in the pool's own process (`pool.here`).
"""

import multiprocessing
import os
import pickle
import select
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pytest_slmperf.core.beside import Beside
from pytest_slmperf.core.engine import Answer, Answering, Engine, EngineFacts, EngineSpec, Request, Served, Stamp
from pytest_slmperf.core.errors import EngineDied, EngineFailed, EngineUnavailable, UsageError
from pytest_slmperf.core.launch import REPLICA_VARIABLE
from pytest_slmperf.engines.aside import step_aside
from pytest_slmperf.engines.ending import LIGHTER, how_it_ended
from pytest_slmperf.engines.registry import create, lives_elsewhere
from pytest_slmperf.engines.streaming import Streaming
from pytest_slmperf.pool.devices import Placement
from pytest_slmperf.pool.loading import Item, since, under_load
from pytest_slmperf.pool.pinning import pin
from pytest_slmperf.pool.placing import placed
from pytest_slmperf.pool.replica import Crew, name_of, own_spec
from pytest_slmperf.worker.bootstrap import die_with
from pytest_slmperf.worker.conversation import loaded_versions
from pytest_slmperf.worker.memory import forget_peak, peak_bytes

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess

    from pytest_slmperf.pool.here import Here

    Pipe = Connection[Any, Any]

STOP_LIMIT_S = 2.0
"""So long a replica may take to end by itself; the launch gives all of its engine five seconds."""
PEAK_OF = 2
"""So many times a batch is looked at for its peak of memory: it is served once before it is asked for."""
_FORK = multiprocessing.get_context("fork")


@contextmanager
def crew(spec: EngineSpec, pool: Streaming) -> Iterator[Crew]:
    """Replicas in processes of their own: beside each other, under MPS, on MIG slices or on a GPU each.

    Raises UsageError and EngineUnavailable for what can't be here; see `pool.devices.placements`.
    """
    assert spec.pool is not None  # noqa: S101 - of a pool only is there a crew
    if spec.engine == "openai" and "command" not in spec.options:
        raise UsageError(
            "several replicas of a server that runs already are the same one several times: kind='endpoints' takes the "
            "address of each, and command=… starts one for each"
        )
    with placed(spec.pool, spec) as place:
        replicas: list[Child | Here] = []
        for number, where in enumerate(place.placements, 1):
            name, own = name_of(number, spec.pool.replicas, where.label), own_spec(spec, number, where.options)
            there = replace(where, environment={**where.environment, REPLICA_VARIABLE: str(number)})
            alone = spec.pool.slowed_replica is not None
            elsewhere = lives_elsewhere(spec.engine)
            replicas.append(_here(name, own, there, pool, alone=alone) if elsewhere else Child(name, own, there))
        taken = {core for where in place.placements for core in where.cores}

        def check() -> None:
            if taken:
                step_aside(taken)
            place.check({replica.name: replica.pid for replica in replicas})

        def versions() -> Mapping[str, str]:
            return {name: value for replica in replicas for name, value in replica.versions.items()}

        yield Crew(replicas, place.settings, check, place.check_around, versions)


def _here(name: str, spec: EngineSpec, where: Placement, pool: Streaming, *, alone: bool) -> "Here":
    from pytest_slmperf.pool.here import Here  # noqa: PLC0415 - it imports asyncio, which batches alone need not

    return Here(name, spec, where, pool, slowed_alone=alone)


class Child:
    """A replica as a child process of this one, which asks it through a pipe."""

    def __init__(self, name: str, spec: EngineSpec, where: Placement, *, lighter: str = LIGHTER) -> None:
        """`lighter`: a load that would take less memory, said where that may be why it died."""
        self._name, self._spec, self._where, self._lighter = name, spec, where, lighter
        self._process: ForkProcess | None = None
        self._pipe: Pipe
        self._events = select.poll()
        self._pidfd: int | None = None
        self._batch: Sequence[Request] | None = None
        self.versions: Mapping[str, str] = {}
        """Of libraries that it has loaded."""

    @property
    def name(self) -> str:
        """`replica 2 of 4 (core 1)`."""
        return self._name

    @property
    def pid(self) -> int:
        """Of its process; 0 before its start."""
        return (self._process.pid if self._process else None) or 0

    def start(self) -> EngineFacts:
        """Fork it, and wait until its engine can take a request."""
        self._pipe, theirs = _FORK.Pipe()
        # Of the engine's process: the launch's pipes, and those of the replicas before it. They end with their owner.
        foreign = [int(entry) for entry in os.listdir("/proc/self/fd") if int(entry) > 2]  # noqa: PTH208 - numbers
        foreign.remove(theirs.fileno())
        life = partial(_live, theirs, self._name, self._spec, self._where, os.getpid(), foreign)
        process = _FORK.Process(target=life, name=self._name)
        process.start()
        self._process = process
        theirs.close()
        self._events.register(self._pipe, select.POLLIN)
        with suppress(OSError):  # a kernel without it: then the end of the pipe says that it has died
            self._pidfd = os.pidfd_open(self.pid)
            self._events.register(self._pidfd, select.POLLIN)
        facts, self.versions = self._heard()
        assert isinstance(facts, EngineFacts)  # noqa: S101 - what a started child says
        return facts

    def send(self, batch: Sequence[Request], *, observe: bool) -> None:
        """Hand it the batch; one that it knows already isn't sent again."""
        known, self._batch = batch is self._batch, batch
        self._tell(_AGAIN[observe] if known else pickle.dumps(("serve", batch, observe), _NEWEST))

    def served(self) -> Served:
        """Wait for it."""
        return Served(*self._heard())

    async def stream(self, request: Request, stamp: Stamp) -> Answer:
        """Its engine serves static batches."""
        raise NotImplementedError

    async def counters(self) -> Mapping[str, float]:
        """It has none."""
        raise NotImplementedError

    def answer(self, batch: Sequence[Request]) -> tuple[tuple[int, ...], ...] | None:
        """Which tokens its engine generates, where it tells."""
        self._tell(pickle.dumps(("answer", batch, False), _NEWEST))
        answered: tuple[tuple[int, ...], ...] | None = self._heard()
        return answered

    def begin(self, load: Beside) -> None:
        """Put it under a load, until `end`; returns when it is."""
        self._tell(pickle.dumps(("load", load, False), _NEWEST))
        self._heard()

    def end(self) -> tuple[Item, ...]:
        """Take the load off, and say what it has done."""
        self._tell(_END)
        done: tuple[Item, ...] = self._heard()
        return done

    def cover(self, load: Beside, span_ns: int) -> tuple[Item, ...]:
        """Have it under a load for so long in simulated time, and say what it has done since its begin, which is 0."""
        self._tell(pickle.dumps(("cover", (load, span_ns), False), _NEWEST))
        done: tuple[Item, ...] = self._heard()
        return done

    def stop(self) -> None:
        """Let it give back what it took, and kill it where that takes too long."""
        if self._process is None:
            return
        with suppress(OSError):
            self._pipe.send_bytes(b"")
        self._process.join(STOP_LIMIT_S)
        self._process.kill()
        self._process.join()
        self._pipe.close()
        if self._pidfd is not None:
            os.close(self._pidfd)

    def _tell(self, ask: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died; how, is found by waiting for its answer
            self._pipe.send_bytes(ask)

    def _heard(self) -> Any:  # noqa: ANN401 - whatever was asked for
        """Its answer. Raises what its engine raised, and EngineDied where its process has ended."""
        answer: Any = _ENDED
        with suppress(EOFError, OSError):
            if self._pipe.fileno() in dict(self._events.poll()):
                answer = pickle.loads(self._pipe.recv_bytes())  # noqa: S301 - of our own child
        if answer is _ENDED:
            raise EngineDied(f"{self._name} died: {self._how_it_ended()}")
        if isinstance(answer, _Failure):
            raise answer.error(self._name)
        return answer

    def _how_it_ended(self) -> str:
        assert self._process is not None  # noqa: S101 - it was started
        self._process.join(STOP_LIMIT_S)
        code = self._process.exitcode
        return "it closed its end of the pipe and runs on" if code is None else how_it_ended(code, self._lighter)


# What goes through the pipe: (what is asked, the batch or None for the last one, whether it is observed), an empty
# message for the end, and back what was asked for or a failure. Plain tuples: a class takes longer, for every batch.

_ENDED = object()
_NEWEST = pickle.HIGHEST_PROTOCOL
_END = pickle.dumps(("end", None, False), _NEWEST)
_AGAIN = {observe: pickle.dumps(("serve", None, observe), _NEWEST) for observe in (False, True)}


@dataclass(frozen=True, slots=True)
class _Failure:
    """What went wrong there. An exception of a stranger's class may not be readable here; its text is."""

    kind: Literal["unavailable", "failed", "memory"]
    text: str

    @classmethod
    def of(cls, error: Exception) -> "_Failure":
        if isinstance(error, EngineUnavailable):
            return cls("unavailable", str(error))
        if isinstance(error, MemoryError):
            return cls("memory", str(error) or "MemoryError")
        return cls("failed", str(error) if isinstance(error, EngineFailed) else f"{type(error).__name__}: {error}")

    def error(self, name: str) -> Exception:
        """As an error of the pool's process."""
        kinds: Mapping[str, type[Exception]] = {
            "unavailable": EngineUnavailable,
            "failed": EngineFailed,
            "memory": MemoryError,
        }
        return kinds[self.kind](f"{name}: {self.text}")


# In the child


def _live(pipe: "Pipe", name: str, spec: EngineSpec, where: Placement, parent: int, foreign: Sequence[int]) -> None:
    """The life of a child: settle, start the engine, serve until the pipe says that it is over."""
    try:
        _settle(where, parent, foreign)
        engine = create(spec)
        try:
            facts = engine.start()
            _say(pipe, (facts, loaded_versions()))
            _Serving(pipe, engine, facts).until_the_end()
        finally:
            engine.stop()
    except Exception as error:  # noqa: BLE001 - the boundary to a stranger's code
        _say(pipe, _Failure.of(error))
        if not isinstance(error, EngineUnavailable | EngineFailed | MemoryError):
            sys.stderr.write(f"{name}:\n")
            traceback.print_exc()


def _settle(where: Placement, parent: int, foreign: Sequence[int]) -> None:
    """Go where it belongs, with the environment that belongs there, before a library looks at either.

    Raises EngineUnavailable for cores that this process may not use.
    """
    die_with(parent)
    for descriptor in foreign:
        with suppress(OSError):
            os.close(descriptor)
    os.environ.update(where.environment)
    if where.cores:
        pin(where.cores)


class _Serving:
    """A started engine in its child."""

    def __init__(self, pipe: "Pipe", engine: Engine, facts: EngineFacts) -> None:
        self._pipe, self._engine, self._facts = pipe, engine, facts
        self._done: tuple[Item, ...] = ()
        self._turns = 0
        """Loads that it was under."""
        self._batch: Sequence[Request] = ()
        self._reads_peak = facts.device == "cpu" and facts.own_process
        self._looks = 0

    def until_the_end(self) -> None:
        """Do what is asked, until an empty message. Raises what the engine raises."""
        while asked := self._received():
            what, batch, observe = pickle.loads(asked)  # noqa: S301 - of our own parent
            match what:
                case "serve":
                    said: Any = self._serve(batch, observe=observe)
                case "load":
                    self._turns += 1
                    _, self._done = under_load(
                        self._engine,
                        self._facts,
                        batch,
                        over=self._asked,
                        begins=partial(_say, self._pipe, "it begins"),
                        turn=self._turns,
                    )
                    continue
                case "cover":
                    (load, span_ns), self._turns = batch, self._turns + 1
                    over = span_ns.__le__
                    began_ns, done = under_load(self._engine, self._facts, load, over=over, turn=self._turns)
                    said = tuple(since(began_ns, item) for item in done)
                case "end":
                    said = self._done
                case _:
                    said = self._answer(batch)
            _say(self._pipe, said)

    def _received(self) -> bytes:
        try:
            return self._pipe.recv_bytes()
        except (EOFError, OSError):  # the pool is gone
            return b""

    def _asked(self, _ns: int) -> bool:
        return self._pipe.poll()

    def _serve(self, batch: Sequence[Request] | None, *, observe: bool) -> tuple[Any, ...]:
        """The fields of what was served."""
        if batch is not None:
            self._batch, self._looks = batch, PEAK_OF if self._reads_peak and forget_peak() is None else 0
        served = self._engine.serve(self._batch, observe=observe)
        peak = served.peak_memory_bytes
        if self._looks:
            self._looks -= 1
            with suppress(OSError):
                peak = peak or peak_bytes()
        return served.started_ns, served.ended_ns, served.output_tokens, served.token_ns, peak

    def _answer(self, batch: Sequence[Request]) -> tuple[tuple[int, ...], ...] | None:
        return self._engine.answer(batch) if isinstance(self._engine, Answering) else None


def _say(pipe: "Pipe", answer: object) -> None:
    with suppress(OSError):  # the pool is gone, and this process goes with it
        pipe.send_bytes(pickle.dumps(answer, _NEWEST))
