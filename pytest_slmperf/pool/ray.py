"""Replicas on the machines of a Ray cluster: an actor for each. The only file that imports ray.

Ray chooses the nodes (a placement group, spread over them), carries requests and answers, notices who has died, and
ends the actors with the process that made them. What is ours is what it doesn't do for a measurement: the number of
threads, which it would set to its own, cores of their own for replicas on one machine, and the nodes' clocks, which are
compared with this machine's, so that what happened there has a time here.
"""

import asyncio
import hashlib
import os
import platform
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from pytest_slmperf import __version__
from pytest_slmperf.core.devices.gpus import gpus_each
from pytest_slmperf.core.devices.remote_clock import RemoteClock, RoundTrip, clock_of, misplaced_ns
from pytest_slmperf.core.engine import (
    Answer,
    Answering,
    Engine,
    EngineFacts,
    EngineSpec,
    ReplicaWork,
    Request,
    Served,
    Stamp,
    StreamingEngine,
)
from pytest_slmperf.core.errors import EngineDied, EngineFailed, EngineUnavailable, UsageError
from pytest_slmperf.core.launch import LAUNCH_VARIABLE
from pytest_slmperf.core.machine import SIMULATED
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.core.units import NS_PER_MS, NS_PER_S
from pytest_slmperf.engines import registry
from pytest_slmperf.engines.address import device_of_pool
from pytest_slmperf.engines.streaming import Streaming
from pytest_slmperf.pool.devices import Host, split_cores
from pytest_slmperf.pool.local import PEAK_OF
from pytest_slmperf.pool.placing import host_here
from pytest_slmperf.pool.replica import name_of, named, own_spec
from pytest_slmperf.worker.memory import forget_peak, peak_bytes

T = TypeVar("T")
Library = Any
"""ray, imported only when a pool is started; what it makes of a class has no types."""
Handle = Any
"""Of an actor."""

EXTRA = "pip install 'pytest-slmperf[ray]'"
REACH_LIMIT_S = 5.0
"""To the head of a cluster. Ray itself would try for half a minute, and say little."""
PLACE_LIMIT_S = 180.0
"""Until all replicas have a place, and their processes run: a cluster may have to free it, not to grow."""
STOP_LIMIT_S = 5.0
MOST_SAID = 600
"""Characters of an error of Ray."""
ROUND_TRIPS = 16
"""By which a node's clock is compared with ours, some 10 ms in all."""
COMPARED_EVERY_S = 10.0
"""In between, clocks drift apart by a millisecond at most."""
A_LITTLE = 0.001
"""Of a custom resource: it chooses the node, and is not used up."""
OURS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED", "CUDA_DEVICE_ORDER")
"""Variables that make launches alike: they are set for an engine's process, and mean the same on a node."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
BOOT = Path("/proc/sys/kernel/random/boot_id")


# What runs on a node


@dataclass(frozen=True, slots=True)
class Identity:
    """What a replica's process says of itself before anything else."""

    package: str
    """Which pytest-slmperf it has: see `package_here`."""
    python: str
    boot: str
    """Another value is another machine, or another start of it; two nodes may be on one machine."""
    pid: int
    threads: str
    """What the variable says that OpenMP reads."""


class Replicated:
    """A replica's engine, in its actor's process on a node."""

    def __init__(self) -> None:
        self._engine: Engine
        self._facts: EngineFacts
        # An engine is used by one thread, and this actor answers meanwhile.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="slmperf-engine")
        self._batch: Sequence[Request] = ()
        self._looks = 0
        self._open: Future[None] | None = None
        self._running: Event
        self._loop: asyncio.AbstractEventLoop
        self._close: asyncio.Event

    async def identity(self) -> Identity:
        """Who this is."""
        threads = os.environ.get("OMP_NUM_THREADS", "")
        return Identity(package_here(), platform.python_version(), boot_here(), os.getpid(), threads)

    async def now_ns(self) -> int:
        """This machine's CLOCK_MONOTONIC."""
        return here_ns()

    async def start(self, spec: EngineSpec, place: "Place") -> tuple[EngineFacts, tuple[int, ...]]:
        """Take this place among the replicas of this machine, and start the engine. Facts and cores.

        Ray gives way to all else on a machine (`RAY_worker_niceness`, 15). What it can't be freed of here is a setting.
        """
        return await self._in_thread(partial(self._start, spec, place))

    def _start(self, spec: EngineSpec, place: "Place") -> tuple[EngineFacts, tuple[int, ...]]:
        cores = own_cores(host_here(spec), place, spec.threads)
        for thread in map(int, os.listdir("/proc/self/task")):  # noqa: PTH208 - numbers, not paths
            with suppress(OSError):  # it has ended, or only root may
                os.setpriority(os.PRIO_PROCESS, thread, place.niceness)
            with suppress(OSError):
                os.sched_setaffinity(thread, cores or os.sched_getaffinity(0))
        self._engine = registry.create(spec)
        facts = self._engine.start()
        niceness = os.getpriority(os.PRIO_PROCESS, 0)
        if niceness > place.niceness:
            facts = replace(facts, settings={**facts.settings, "niceness": niceness})
        self._facts = facts
        return facts, cores

    async def take(self, batch: Sequence[Request]) -> None:
        """Requests that are served from now on, again and again. The first times the kernel is asked for the most
        memory that this process had, where the engine works in it.
        """
        ours = self._facts.device == "cpu" and self._facts.own_process
        self._batch, self._looks = batch, PEAK_OF if ours and forget_peak() is None else 0

    async def serve(self, *, observe: bool) -> Served:
        """Serve them as one static batch."""
        served = await self._in_thread(partial(self._engine.serve, self._batch, observe=observe))
        if self._looks:
            self._looks -= 1
            with suppress(OSError):
                served = replace(served, peak_memory_bytes=served.peak_memory_bytes or peak_bytes())
        return served

    async def answer(self, batch: Sequence[Request]) -> tuple[tuple[int, ...], ...] | None:
        """The tokens of its answers, where the engine tells them."""
        engine = self._engine
        return await self._in_thread(partial(engine.answer, batch)) if isinstance(engine, Answering) else None

    async def stream(self, request: Request) -> AsyncIterator[int | Answer]:
        """The tokens of each part of an answer when it comes, and the answer itself at last."""
        engine = self._engine
        if not isinstance(engine, StreamingEngine):
            raise EngineFailed("it serves static batches only")
        await self._opened(engine)
        here, parts = asyncio.get_running_loop(), asyncio.Queue[int | Future[Answer]]()

        def tell(part: int | Future[Answer]) -> None:
            here.call_soon_threadsafe(parts.put_nowait, part)

        under_way = asyncio.run_coroutine_threadsafe(engine.stream(request, tell), self._loop)
        under_way.add_done_callback(tell)
        try:
            while not isinstance(part := await parts.get(), Future):
                yield part
            yield part.result()
        finally:
            under_way.cancel()

    async def counters(self) -> Mapping[str, float]:
        """What the engine says of itself now."""
        engine = self._engine
        if not isinstance(engine, StreamingEngine):
            return {}
        await self._opened(engine)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(engine.counters(), self._loop))

    async def _opened(self, engine: StreamingEngine) -> None:
        """Let the engine's event loop run, until the engine is asked for something else."""
        if self._open is None:
            self._running = Event()
            self._open = self._thread.submit(engine.run, self._held_open(self._running))
        if not self._running.is_set():
            await asyncio.get_running_loop().run_in_executor(None, self._running.wait)

    async def _held_open(self, running: Event) -> None:
        self._loop, self._close = asyncio.get_running_loop(), asyncio.Event()
        running.set()
        await self._close.wait()

    async def _in_thread(self, do: Callable[[], T]) -> T:
        if self._open is not None:
            self._loop.call_soon_threadsafe(self._close.set)
            held, self._open = self._open, None
            await asyncio.wrap_future(held)
        return await asyncio.get_running_loop().run_in_executor(self._thread, do)

    async def stop(self) -> None:
        """End the engine."""
        if hasattr(self, "_engine"):
            await self._in_thread(self._engine.stop)


@dataclass(frozen=True, slots=True)
class Place:
    """Of one replica among those on its machine."""

    number: int
    """Counted from 0."""
    of: int
    others: frozenset[int] = frozenset()
    """Cores on which the pool's own process runs, where that is on the same machine."""
    niceness: int = 0
    """Of the pool's process, and so what its replicas are to have."""


def own_cores(host: Host, place: Place, threads: int) -> tuple[int, ...]:
    """The cores of one of several replicas on a machine, beside those of the pool's process where there are enough;
    none where Ray was told of more cores than there are.
    """
    if place.of * threads > len(host.cores):
        return ()
    beside = tuple(core for core in host.cores if core not in place.others)
    cores = beside if place.of * threads <= len(beside) else host.cores
    return split_cores(replace(host, cores=cores), place.of, threads)[place.number]


# What runs here


def replicas_on(spec: EngineSpec, loop: Streaming) -> "tuple[OnRay, ...]":
    """A replica for each that the pool asks for, in the cluster that its address names, or one that is started here.

    Raises UsageError for addresses that are none of a cluster.
    """
    pool = spec.pool
    assert pool is not None  # noqa: S101 - it is of one
    if len(pool.addresses) > 1:
        raise UsageError(f"a pool on Ray takes the address of one cluster, HOST:PORT, and not {len(pool.addresses)}")
    for address in pool.addresses:
        refuse_no_address(address)
    cluster = Cluster(pool.addresses[0] if pool.addresses else None)
    places = Places(cluster, spec, pool)
    return tuple(OnRay(places, spec, number, loop) for number in range(1, pool.replicas + 1))


class Cluster:
    """The connection to a Ray cluster, or to one that is started on this machine and ends with the connection."""

    def __init__(self, address: str | None, *, logs: bool = True) -> None:
        """With `logs`, what actors print is printed here, too."""
        self._address, self._logs = address, logs
        self._ray: Library = None

    @property
    def ray(self) -> Library:
        """The library, connected. Raises EngineUnavailable: not installed, nobody there, or of another version."""
        if self._ray is None:
            self._ray = self._connected()
        return self._ray

    def _connected(self) -> Library:
        os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
        try:
            import ray  # noqa: PLC0415 - 0.5 s, and an extra
        except ImportError as error:
            raise EngineUnavailable(f"Ray is not installed: {EXTRA}") from error
        if self._address is not None:
            refuse_unreachable(self._address)
        try:
            ray.init(
                address=self._address or "local",
                configure_logging=False,
                log_to_driver=self._logs,
                **({} if self._address else {"include_dashboard": False}),
            )
        except (RuntimeError, ConnectionError, ValueError, ray.exceptions.RayError) as error:
            ray.shutdown()  # it may have come half of the way
            raise EngineUnavailable(f"{self._who}: {_first_words(error)}{_way_out(str(error))}") from error
        return ray

    @property
    def _who(self) -> str:
        return f"the Ray cluster at {self._address}" if self._address else "a Ray cluster of this machine"

    def actor_on(self, node: str, kind: type, *arguments: object) -> Handle:
        """An actor on this node and no other, beside whatever else is there. Raises what Ray does."""
        ray = self.ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415 - as ray

        there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        return ray.remote(kind).options(num_cpus=0, scheduling_strategy=there).remote(*arguments)

    def close(self) -> None:
        """End the connection; Ray ends what was made through it."""
        if self._ray is not None:
            ray, self._ray = self._ray, None
            ray.shutdown()


def refuse_no_address(address: str) -> None:
    """Raises UsageError for what is no address of a cluster."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()) or "/" in address:
        raise UsageError(
            f"{address!r} is no address of a Ray cluster: HOST:PORT of its head, as `ray start --head` says it, from a "
            "machine that is a node of it"
        )


def refuse_unreachable(address: str) -> None:
    """Raises EngineUnavailable for an address where nobody listens."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_LIMIT_S).close()
    except (OSError, OverflowError) as error:
        raise EngineUnavailable(
            f"the head of the Ray cluster at {address} can't be reached ({error}): start it there "
            f"(ray start --head --port={port}), and this machine as a node of it (ray start --address={address})"
        ) from error


def _way_out(text: str) -> str:
    if "ersion mismatch" in text:
        return "; install the same versions of Ray and Python on all nodes and here"
    if "IP address" in text or "raylet" in text.casefold():
        return "; this machine has to be a node of it: ray start --address=HOST:PORT"
    return ""


def _first_words(error: BaseException) -> str:
    """What an error of Ray says, without its stack and its tables, in one line."""
    lines = [line.strip() for line in (str(error) or type(error).__name__).splitlines()]
    return " ".join(line for line in lines if line)[:MOST_SAID]


class Places:
    """Where the replicas of a pool are: their actors, made together, and ended with the last of them."""

    def __init__(self, cluster: Cluster, spec: EngineSpec, pool: Pool) -> None:
        self._cluster, self._spec, self._pool = cluster, spec, pool
        self._group: Any = None
        self._actors: list[Handle] = []
        self._nodes: list[str] = []
        self._identities: list[Identity] = []
        self._held: set[int] = set()

    @property
    def ray(self) -> Library:
        """Connected."""
        return self._cluster.ray

    def take(self, number: int) -> tuple[Handle, str, Place]:
        """The actor of a replica, the address of its node, and its place there.

        Raises EngineUnavailable where they don't all find a place, or a node has other versions.
        """
        self._held.add(number)
        if not self._actors:
            self._make()
        boots = [one.boot for one in self._identities]
        mine = boots[number - 1]
        others = frozenset(os.sched_getaffinity(0)) if mine == boot_here() else frozenset()
        place = Place(boots[: number - 1].count(mine), boots.count(mine), others, os.getpriority(os.PRIO_PROCESS, 0))
        return self._actors[number - 1], self._nodes[number - 1], place

    def _make(self) -> None:
        ray = self.ray
        bundle = self._bundle(ray)
        placing, replicas = ray.util, self._pool.replicas
        has = ray.cluster_resources()
        if any(replicas * amount > has.get(name, 0) for name, amount in bundle.items()):
            raise self._no_place(ray, bundle)
        self._group = placing.placement_group([bundle] * replicas, strategy="SPREAD")
        if not self._group.wait(PLACE_LIMIT_S):
            raise self._no_place(ray, bundle)
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # noqa: PLC0415 - as ray

        environment = {name: value for name in (*OURS, LAUNCH_VARIABLE) if (value := os.environ.get(name))}
        environment |= dict.fromkeys(OURS[:3], str(self._spec.threads))
        made = ray.remote(Replicated)
        self._actors = [
            made.options(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                max_restarts=0,
                max_concurrency=10_000,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=place),
                runtime_env={"env_vars": environment},
            ).remote()
            for place in range(self._pool.replicas)
        ]
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        table = placing.placement_group_table(self._group)["bundles_to_node_id"]
        self._nodes = [addresses.get(table[place], table[place]) for place in range(self._pool.replicas)]
        both = zip(self._actors, self._nodes, strict=True)
        self._identities = [self._identity(ray, actor, node) for actor, node in both]

    def _no_place(self, ray: Library, bundle: Mapping[str, float]) -> EngineUnavailable:
        has, free = _listed(ray.cluster_resources()), _listed(ray.available_resources())
        return EngineUnavailable(
            f"Ray has no place for {self._pool.replicas} replicas of {_listed(bundle)} each: its cluster has {has}, "
            f"and free are {free}"
        )

    def _bundle(self, ray: Library) -> dict[str, float]:
        spec = self._spec
        device = str(spec.options.get("device", registry.default_device(spec.engine, spec.options))).partition(":")[0]
        bundle: dict[str, float] = {"CPU": spec.threads}
        if device == "cuda" or (device == "auto" and ray.cluster_resources().get("GPU")):
            bundle["GPU"] = gpus_each(spec.options)
        if self._pool.resource:
            bundle[self._pool.resource] = A_LITTLE
        return bundle

    def _identity(self, ray: Library, actor: Handle, node: str) -> Identity:
        try:
            found: Identity = ray.get(actor.identity.remote(), timeout=PLACE_LIMIT_S)
        except ray.exceptions.RayError as error:
            if "pytest_slmperf" in str(error) and "No module" in str(error):
                raise EngineUnavailable(
                    f"the Ray node {node} has no pytest-slmperf: install {__version__} there, as here"
                ) from error
            raise EngineUnavailable(f"the Ray node {node} starts no replica: {_first_words(error)}") from error
        refuse_other_versions(found, node)
        return found

    def leave(self, number: int) -> None:
        """A replica has stopped; the last one ends the connection."""
        self._held.discard(number)
        if not self._held:
            self._actors = []
            self._cluster.close()


def refuse_other_versions(there: Identity, node: str) -> None:
    """Raises EngineUnavailable for a node whose pytest-slmperf or Python isn't ours: what is sent wouldn't be
    understood, or would be measured in another way.
    """
    for what, theirs, ours in (
        ("pytest-slmperf", there.package, package_here()),
        ("Python", there.python, platform.python_version()),
    ):
        if theirs != ours:
            raise EngineUnavailable(
                f"the Ray node {node} has {what} {theirs}, and this machine has {ours}: install the same on both"
            )


def _listed(resources: Mapping[str, float]) -> str:
    """Resources without those that Ray makes for itself."""
    told = [
        f"{value:g} {name}"
        for name, value in sorted(resources.items())
        if not name.startswith(("node:", "memory", "object_store_memory")) and "_group_" not in name
    ]
    return ", ".join(told) or "nothing"


@cache
def package_here() -> str:
    """The version of this package with a digest of its sources: before a release, many have the same version."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return f"{__version__} (sources {digest.hexdigest()[:8]})"


def boot_here() -> str:
    """Of this machine and its last start."""
    return BOOT.read_text().strip() if BOOT.exists() else platform.node()


def here_ns() -> int:
    """The clock that every machine is asked for."""
    return time.monotonic_ns()


def compare_clocks(ray: Library, actor: Handle) -> RemoteClock:
    """The clock of the machine that an actor is on, which answers `now_ns`. Raises what Ray does."""
    trips = []
    for _ in range(ROUND_TRIPS):
        sent_ns = here_ns()
        there_ns: int = ray.get(actor.now_ns.remote())
        trips.append(RoundTrip(sent_ns, there_ns, here_ns()))
    return clock_of(trips)


class OnRay:
    """An actor as a replica. See `pool.replica.Replica`."""

    def __init__(self, places: Places, spec: EngineSpec, number: int, loop: Streaming) -> None:
        """`loop` is whose event loop requests are streamed in."""
        self._places, self._number, self._loop = places, number, loop
        self._streams: set[asyncio.Task[object]] = set()
        self._spec = own_spec(spec, number)
        self._pool = spec.pool
        self._label = ""
        self._actor: Handle = None
        self._clock: RemoteClock
        self._simulated = False
        self._tells_truth = True
        self._batch: Sequence[Request] | None = None
        self._sent_ns = 0
        self._under_way: Any = None

    @property
    def name(self) -> str:
        """`replica 2 of 4 (node 10.0.0.2)`."""
        assert self._pool is not None  # noqa: S101 - it is one of a pool
        return name_of(self._number, self._pool.replicas, self._label)

    @property
    def clock_error_ns(self) -> int:
        """By how much its times may be wrong here, now."""
        return 0 if self._simulated else self._clock.error_at(time.monotonic_ns())

    def start(self) -> EngineFacts:
        """Find its place, compare its clock with ours, and start its engine there.

        Raises EngineUnavailable, EngineFailed, EngineDied and MemoryError.
        """
        self._actor, node, place = self._places.take(self._number)
        self._label = f"node {node}"
        facts: EngineFacts
        facts, cores = self._ask(self._actor.start.remote(self._spec, place))
        if cores:
            self._label += f", core{'s' if len(cores) > 1 else ''} {', '.join(map(str, cores))}"
        # The simulated engine may say that it began before it was asked, also in real time.
        self._tells_truth = facts.device != SIMULATED
        self._simulated = not self._tells_truth and not self._spec.options.get("real_time")
        self._compare_clocks()
        remote = device_of_pool(self._pool) if self._pool else None
        if remote is not None and facts.device != SIMULATED:
            facts = replace(facts, device=remote)
        return facts

    def _compare_clocks(self) -> None:
        try:
            self._clock = compare_clocks(self._places.ray, self._actor)
        except Exception as error:
            raise self._failure(error) from error

    def send(self, batch: Sequence[Request], *, observe: bool) -> None:
        """Hand it a static batch. The same object isn't carried over again."""
        if not self._simulated and time.monotonic_ns() - self._clock.at_ns > COMPARED_EVERY_S * NS_PER_S:
            self._compare_clocks()
        if self._batch is not batch:
            self._ask(self._actor.take.remote(tuple(batch)))
            self._batch = batch
        self._sent_ns = time.monotonic_ns()
        self._under_way = self._actor.serve.remote(observe=observe)

    def served(self) -> Served:
        """Block until the batch is served; its times are of our clock. Raises EngineFailed, EngineDied, MemoryError."""
        served: Served = self._ask(self._under_way)
        if self._simulated:
            return served
        received_ns = time.monotonic_ns()
        if self._tells_truth and self._misplaced_ns(served, received_ns):
            self._compare_clocks()  # a time service may make one of them run faster for a while
            if beyond_ns := self._misplaced_ns(served, received_ns):
                raise EngineFailed(
                    f"{self.name}: its batch seems to lie {beyond_ns / NS_PER_MS:.3g} ms outside of the time from its "
                    "question to its answer: a machine slept meanwhile, or its clock jumped"
                )
        clock = self._clock
        work = ReplicaWork(
            self.name, sum(served.output_tokens), served.ended_ns - served.started_ns, clock.error_at(received_ns)
        )
        return replace(
            served,
            replicas=(work,),
            started_ns=clock.here_ns(served.started_ns),
            ended_ns=clock.here_ns(served.ended_ns),
            token_ns=served.token_ns and tuple(tuple(map(clock.here_ns, stamps)) for stamps in served.token_ns),
        )

    def _misplaced_ns(self, served: Served, received_ns: int) -> int:
        return misplaced_ns(self._clock, served.started_ns, served.ended_ns, self._sent_ns, received_ns)

    async def stream(self, request: Request, stamp: Stamp) -> Answer:
        """Its parts are stamped when they are here: what Ray takes to carry them is part of what a client sees."""
        if self._simulated:
            raise EngineFailed(
                f"{self.name}: simulated time is of one process, and traffic to a node passes in this one"
            )
        if self._pool and self._pool.slowed_replica == self._number:
            raise EngineFailed(f"{self.name}: on Ray, a loss that is planted in one replica alone is of static batches")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it is a coroutine of the pool's
        self._streams.add(task)
        try:
            async for reference in self._actor.stream.remote(request):
                part = await reference
                if isinstance(part, Answer):
                    return part
                stamp(part)
        except Exception as error:
            raise self._failure(error) from error
        finally:
            self._streams.discard(task)
        raise EngineFailed(f"{self.name}: its answer has no end")

    async def counters(self) -> Mapping[str, float]:
        """What its engine says of itself."""
        try:
            told: Mapping[str, float] = await self._actor.counters.remote()
        except Exception as error:
            raise self._failure(error) from error
        return told

    def answer(self, batch: Sequence[Request]) -> tuple[tuple[int, ...], ...] | None:
        """The tokens of its answers, where its engine tells them."""
        told: tuple[tuple[int, ...], ...] | None = self._ask(self._actor.answer.remote(tuple(batch)))
        return told

    def _ask(self, reference: Any) -> Any:  # noqa: ANN401 - whatever an actor answers
        try:
            return self._places.ray.get(reference)
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> Exception:
        """An error of Ray, or of the engine behind it, as one of ours."""
        ray = self._places.ray
        if isinstance(error, ray.exceptions.RayActorError | ray.exceptions.NodeDiedError):
            return EngineDied(f"{self.name} died: {_first_words(error)}")
        cause = getattr(error, "cause", None)
        return named(self.name, cause if isinstance(cause, Exception) else error)

    def stop(self) -> None:
        """End its engine and its actor. What is still streamed is given up first: Ray ends this process otherwise."""
        try:
            if self._streams:
                self._loop.run(_given_up(self._streams))
            if self._actor is not None:
                ray = self._places.ray
                with suppress(Exception):  # it is dead, or hangs: Ray ends it
                    ray.get(self._actor.stop.remote(), timeout=STOP_LIMIT_S)
                ray.kill(self._actor)
                self._actor = None
        finally:
            self._places.leave(self._number)


async def _given_up(tasks: "set[asyncio.Task[object]]") -> None:
    under_way = list(tasks)
    for task in under_way:
        task.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)
