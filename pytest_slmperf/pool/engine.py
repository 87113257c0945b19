"""The pool: an engine made of engines, which hands each request to one of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from operator import itemgetter
from typing import TypeVar

from pytest_slmperf.core.answers import Said, shares
from pytest_slmperf.core.engine import (
    Answer,
    Engine,
    EngineFacts,
    EngineSpec,
    Fronted,
    ReplicaWork,
    Request,
    Served,
    Stamp,
)
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable, RequestFailed, UsageError
from pytest_slmperf.core.load.traffic import FRONT_END
from pytest_slmperf.core.machine import SIMULATED
from pytest_slmperf.engines.registry import streams
from pytest_slmperf.engines.streaming import Streaming
from pytest_slmperf.pool.checking import answers
from pytest_slmperf.pool.replica import Crew, Replica

T = TypeVar("T")


def create(spec: EngineSpec) -> Engine:
    """The pool that a spec asks for, not started. Raises EngineUnavailable for one that plants no loss in the replica
    that is to be slowed alone.
    """
    slow = spec.pool.slowed_replica if spec.pool else None
    if slow is not None and not spec.planted_loss:
        raise EngineUnavailable(
            f"slowed_replica={slow} says where a loss is planted, and none is: add slowed=0.2 to it, or leave it out"
        )
    return StreamingPool(spec) if streams(spec.engine, spec.pool) else StaticPool(spec)


class StaticPool:
    """Replicas that serve static batches: each a share of every batch, and all of them at once."""

    def __init__(self, spec: EngineSpec) -> None:
        assert spec.pool is not None  # noqa: S101 - whoever asks has looked
        self._spec, self._pool = spec, spec.pool
        self._replicas: Sequence[Replica] = ()
        self._around = ExitStack()
        self._now_ns: int | None = None
        """Of simulated time: each replica has a clock of its own, and the pool's goes on from batch to batch."""
        self._simulated = False
        self._batch: Sequence[Request] | None = None
        self._shares: Sequence[tuple[Replica, Sequence[int], Sequence[Request]]] = ()
        self._resting: Sequence[int | None] = ()
        """Of the replicas without a part in the batch, the memory that each has."""
        self._check_around: Callable[[], None] = lambda: None
        self.versions: Mapping[str, str] = {}
        """Of libraries that the replicas have loaded, and this process hasn't."""

    @contextmanager
    def _gathered(self) -> Iterator[Crew]:
        """The replicas. Each kind imports what it alone needs."""
        if self._pool.kind == "ray":
            from pytest_slmperf.pool.ray import replicas_on  # noqa: PLC0415 - as said

            yield Crew(replicas_on(self._spec, self._loop))
            return
        from pytest_slmperf.pool.local import crew  # noqa: PLC0415 - as said

        with crew(self._spec, self._loop) as found:
            yield found

    @property
    def _loop(self) -> Streaming:
        """Whose event loop the replicas share; nobody's, of engines that need none."""
        return Streaming()

    def start(self) -> EngineFacts:
        """Start the replicas one after another, each when the one before it is ready. Blocks.

        Raises what a replica raises, which is named, and EngineFailed for replicas that aren't alike. Those that were
        started are ended then.
        """
        with ExitStack() as around:
            try:
                crew = around.enter_context(self._gathered())
            except UsageError as error:
                raise EngineUnavailable(str(error)) from error
            facts: list[EngineFacts] = []
            for replica in crew.replicas:
                around.callback(replica.stop)
                facts.append(replica.start())
                refuse_unlike((crew.replicas[0].name, facts[0]), (replica.name, facts[-1]))
            crew.check()
            self._replicas, self.versions = crew.replicas, crew.versions()
            self._check_around = crew.check_around
            self._around = around.pop_all()
        self._simulated = facts[0].device == SIMULATED and not self._spec.options.get("real_time")
        return facts_of(facts, crew.settings)

    def serve(self, batch: Sequence[Request], *, observe: bool) -> Served:
        """Serve the requests as one static batch, spread over the replicas, and block until the last token of all.

        Raises what a replica raises, which is named, and EngineFailed where what surrounds them has ended.
        """
        if batch is not self._batch:
            self._batch, self._shares = batch, self._spread(batch)
            self._resting = self._rest(batch)
        for replica, _, share in self._shares:
            replica.send(share, observe=observe)
        served = [replica.served() for replica, _, _ in self._shares]
        self._check_around()
        if self._simulated:
            began_ns = served[0].started_ns if self._now_ns is None else self._now_ns
            served = [moved(one, began_ns - one.started_ns) for one in served]
        whole = merged([(replica.name, places) for replica, places, _ in self._shares], served, self._resting)
        self._now_ns = whole.ended_ns
        return whole

    def answers(self, requests: Sequence[Request], *, together: bool) -> tuple[Said, ...] | None:
        """See `core.answers.AnsweringPool`."""
        return answers(self._replicas, requests, together=together)

    def stop(self) -> None:
        """End the replicas, and what surrounds them."""
        self._around.close()

    def _spread(self, batch: Sequence[Request]) -> Sequence[tuple[Replica, Sequence[int], Sequence[Request]]]:
        """Which replica serves which requests of a batch; those for which there is none have no part in it."""
        placed = places(len(batch), len(self._replicas), self._pool.spread)
        return [
            (replica, own, tuple(batch[place] for place in own))
            for replica, own in zip(self._replicas, placed, strict=False)
        ]

    def _rest(self, batch: Sequence[Request]) -> Sequence[int | None]:
        """The memory of the replicas without a part in a batch, whose model is loaded all the same: each says it of one
        token, which is as little as can be asked for. Before the batch, so that nobody computes beside it.
        """
        idle = self._replicas[len(self._shares) :]
        for replica in idle:
            replica.send((Request(batch[0].prompt, 1),), observe=False)
        return [replica.served().peak_memory_bytes for replica in idle]


class StreamingPool(StaticPool, Streaming):
    """The same of an engine that streams: each request goes to a replica as it comes."""

    def __init__(self, spec: EngineSpec) -> None:
        Streaming.__init__(self)
        StaticPool.__init__(self, spec)
        self._sent = 0
        self._underway: list[int] = []

    @contextmanager
    def _gathered(self) -> Iterator[Crew]:
        if self._pool.kind == "endpoints":
            from pytest_slmperf.pool.endpoints import endpoints  # noqa: PLC0415 - as of a static pool

            yield Crew(endpoints(self._spec, self))
            return
        with super()._gathered() as found:
            yield found

    @property
    def _loop(self) -> Streaming:
        return self

    def start(self) -> EngineFacts:
        """As of a static pool."""
        facts = StaticPool.start(self)
        self._underway = [0] * len(self._replicas)
        return facts

    def serve(self, batch: Sequence[Request], *, observe: bool) -> Served:
        """As of a static pool."""
        return StaticPool.serve(self, batch, observe=observe)

    async def stream(self, request: Request, stamp: Stamp) -> Answer:
        """Have one of the replicas answer it. Raises what that raises, which is named, and EngineFailed as `serve`."""
        number = self._next()
        self._underway[number] += 1
        try:
            answer = await self._replicas[number].stream(request, stamp)
            self._check_around()
            return replace(answer, replica=number + 1)
        except RequestFailed as error:
            error.replica = number + 1
            raise
        finally:
            self._underway[number] -= 1

    async def counters(self) -> Mapping[str, float]:
        """What all replicas say of themselves, added up."""
        return added([await replica.counters() for replica in self._replicas])

    def front_end(self) -> float | None:
        """See `core.engine.Fronted`: of the replicas' front ends the busiest; None where none is seen."""
        shares = [replica.front_end() for replica in self._replicas if isinstance(replica, Fronted)]
        return max((share for share in shares if share is not None), default=None)

    def stop(self) -> None:
        """End the replicas, what surrounds them, and the event loop."""
        try:
            StaticPool.stop(self)
        finally:
            self.disconnect()

    def _next(self) -> int:
        if self._pool.spread == "shortest-queue":
            # Where several have as few under way, the one that comes next: or the first would get all of a quiet load.
            count = len(self._replicas)
            turns = ((place + self._sent) % count for place in range(count))
            chosen = min(turns, key=self._underway.__getitem__)
        else:
            chosen = self._sent % len(self._replicas)
        self._sent += 1
        return chosen


# Values


def places(count: int, replicas: int, spread: str) -> list[Sequence[int]]:
    """Which of so many requests of a static batch each replica serves; no entry for those that get none.

    `even`: in the order of the requests, the first replicas one more where that doesn't come out even. Otherwise in
    turns: all come at once, so that the shortest queue is the next one's.
    """
    if spread == "even":
        return list(shares(count, replicas))
    return [range(number, count, replicas) for number in range(min(count, replicas))]


def merged(
    parts: Sequence[tuple[str, Sequence[int]]], served: Sequence[Served], resting_bytes: Sequence[int | None] = ()
) -> Served:
    """What the replicas did of one batch, as one: by their names, and the places of the requests that each had.

    It began with the first of them and ended with the last. Peaks of memory are added up, which is the most that there
    can have been at once, also of the replicas that had no part in it, `resting_bytes`.
    """
    both = list(zip(parts, served, strict=True))
    order = [place for _, own in parts for place in own]
    token_ns = [one.token_ns for one in served if one.token_ns is not None]
    peaks = [*(one.peak_memory_bytes for one in served), *resting_bytes]
    return Served(
        started_ns=min(one.started_ns for one in served),
        ended_ns=max(one.ended_ns for one in served),
        output_tokens=_in_place(order, [one.output_tokens for one in served]),
        token_ns=_in_place(order, token_ns) if len(token_ns) == len(served) else None,
        peak_memory_bytes=None if None in peaks else sum(peak for peak in peaks if peak is not None),
        replicas=tuple(
            ReplicaWork(
                name,
                sum(one.output_tokens),
                one.ended_ns - one.started_ns,
                clock_error_ns=max((its.clock_error_ns for its in one.replicas), default=0),
            )
            for (name, _), one in both
        ),
    )


def _in_place(order: Sequence[int], parts: Sequence[tuple[T, ...]]) -> tuple[T, ...]:
    """The values of all parts, each at its place."""
    values = tuple(chain.from_iterable(parts))
    if order == list(range(len(order))):
        return values
    return tuple(value for _, value in sorted(zip(order, values, strict=True), key=itemgetter(0)))


def moved(served: Served, by_ns: int) -> Served:
    """The same, so much later."""
    token_ns = served.token_ns
    if token_ns is not None:
        token_ns = tuple(tuple(at_ns + by_ns for at_ns in times) for times in token_ns)
    return replace(served, started_ns=served.started_ns + by_ns, ended_ns=served.ended_ns + by_ns, token_ns=token_ns)


def refuse_unlike(one: tuple[str, EngineFacts], other: tuple[str, EngineFacts]) -> None:
    """Raises EngineFailed for two replicas, by name and facts, that aren't the same engine: with both names, and what
    differs.
    """
    (name, facts), (other_name, others) = one, other
    if (unlike := _difference(facts, others)) is not None:
        what, mine, theirs = unlike
        raise EngineFailed(
            f"the replicas are not alike: {what} is {mine} of {name}, and {theirs} of {other_name}; figures of a pool "
            "hold for one of them only: give all the same version, options and memory"
        )


def _difference(one: EngineFacts, other: EngineFacts) -> tuple[str, object, object] | None:
    for name in ("version", "dtype", "weights", "context_tokens", "vocabulary"):
        if getattr(one, name) != getattr(other, name):
            return name, getattr(one, name), getattr(other, name)
    if (kinds := (_kind(one), _kind(other)))[0] != kinds[1]:
        return "device", *kinds
    for name in sorted({**one.settings, **other.settings}):
        mine, theirs = one.settings.get(name, "absent"), other.settings.get(name, "absent")
        if mine != theirs:
            return name, mine, theirs
    return None


def _kind(facts: EngineFacts) -> str:
    """`cuda` of `cuda:1`: replicas may be on several."""
    return facts.device.partition(":")[0]


def facts_of(facts: Sequence[EngineFacts], settings: Mapping[str, str | int | float | bool]) -> EngineFacts:
    """The pool's facts, of replicas that are alike: started one after another, their starts and phases are added up."""
    first = facts[0]
    simulated_s = [one.startup_s for one in facts if one.startup_s is not None]
    phases = [name for name in first.phases_s if all(name in one.phases_s for one in facts)]
    return replace(
        first,
        settings={**first.settings, **settings, "replicas": len(facts)},
        startup_s=sum(simulated_s) if len(simulated_s) == len(facts) else None,
        phases_s={name: sum(one.phases_s[name] for one in facts) for name in phases},
        own_process=False,
    )


def added(counted: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """Counters of several engines as one: those that all of them tell; of their front ends the busiest."""
    names = [name for name in counted[0] if all(name in one for one in counted)]
    return {name: (max if name == FRONT_END else sum)(one[name] for one in counted) for name in names}
