"""The protocol that every engine speaks, and the values that cross it.

An engine lives in a process of its own, started for one launch. Nothing here knows how it got there.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from pytest_slmperf.core.beside import Beside
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.flaw import flaw
from pytest_slmperf.core.pool import Pool

T = TypeVar("T")


def model_name(model: str) -> str:
    """The last part of a model's path, or its name: what its cases are called by."""
    return model.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class EngineSpec:
    """Which engine to start, on which model, and how: everything that a launch needs to know.

    Raises UsageError for a text that is none of UTF-8 and for a number that isn't finite.
    """

    engine: str
    """A name of the entry point group `slmperf.engines`: `ctranslate2`, `fake`, …"""
    model: str
    """A name of the table of shapes (random weights), or the path of a converted model."""
    dtype: str = "float32"
    threads: int = 1
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """What only this engine understands; passed through, recorded, and part of a baseline's key."""
    python: str | None = None
    """Interpreter of another environment to start it with; this one's where None."""
    planted_loss: float = 0.0
    """A share of throughput that the testing kit takes away on purpose; with 0.2 a batch lasts 1.25 times as long."""
    pool: Pool | None = None
    """How many replicas of it serve behind one, and where; None for the engine itself."""
    beside: tuple[Beside, ...] = ()
    """Other models that run beside it on the same device, each under a load of its own. The figures are this one's."""

    def __post_init__(self) -> None:
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("pool", "beside")}
        for name, value in {**self.options, **own}.items():
            if why := flaw(name) or flaw(value):
                raise UsageError(f"{name!r} of an engine: {why}")
        # In one order, so that two engines are alike however their options were written down.
        object.__setattr__(self, "options", dict(sorted(self.options.items())))

    @property
    def cores(self) -> int:
        """Of this machine, that it takes: one for each thread of each replica that runs here, and of each model beside
        it that has cores of its own.
        """
        theirs = sum(one.threads or self.threads for one in self.beside if one.cores == "own")
        return self.own_cores + theirs

    @property
    def own_cores(self) -> int:
        """The same without those of the models beside it."""
        return self.threads * (self.pool.replicas if self.pool and self.pool.here else 1)

    @property
    def model_name(self) -> str:
        """The last part of a path, or the shape's name: what a case is called by. The facts name the weights."""
        return model_name(self.model)


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, as token ids, and the number of tokens that must be generated for it."""

    prompt: tuple[int, ...]
    output_tokens: int


@dataclass(frozen=True, slots=True)
class ReplicaWork:
    """What one replica of a pool did of a batch, or of several."""

    name: str
    """`replica 2 of 4 (core 1)`."""
    output_tokens: int
    served_ns: int
    """How long it served them by itself, whatever the others did."""
    clock_error_ns: int = 0
    """Its times may be off by so much, where they come from another machine's clock."""


def work_of(batches: Sequence[Sequence[ReplicaWork]]) -> tuple[ReplicaWork, ...]:
    """What each replica did of several batches of one load."""
    return tuple(
        ReplicaWork(
            own[0].name,
            sum(one.output_tokens for one in own),
            sum(one.served_ns for one in own),
            max(one.clock_error_ns for one in own),
        )
        for own in zip(*batches, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Served:
    """What an engine did with a batch. Times are CLOCK_MONOTONIC, so that another process can place them."""

    started_ns: int
    ended_ns: int
    output_tokens: tuple[int, ...]
    """Tokens generated for each request, in the order of the requests."""
    token_ns: tuple[tuple[int, ...], ...] | None = None
    """When each token of each request was there, or None where the batch was not observed."""
    peak_memory_bytes: int | None = None
    """Where the kernel's high-water mark of the process is the wrong one: a device's own memory, or a simulation's.

    Without it, the peak is unmeasured on any device but `cpu`.
    """
    replicas: tuple[ReplicaWork, ...] = ()
    """Of a pool, what each replica that had a part in it did."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What a started engine says of itself. The settings are those it resolved, not those it was asked for."""

    version: str
    device: str
    """`cpu`, `cuda`, `remote:HOST:PORT`, or `simulated` for an engine that does not do the work it is timed for."""
    dtype: str
    weights: str
    """`random` (drawn as the model's family initialises them), or what identifies them: `sha256:` and a digest of the
    model's files (`pytest_slmperf.engines.weights.content_name`), or another `KIND:VALUE`, as a server's revision."""
    context_tokens: int
    """Prompt and output tokens that a request may have together."""
    vocabulary: int
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    startup_s: float | None = None
    """What the start took in simulated time; None for an engine whose start can be timed from outside."""
    phases_s: Mapping[str, float] = field(default_factory=dict)
    """What each phase of the start took, of those in `core.metrics.STARTUP_PHASES` that the engine tells."""
    own_process: bool = True
    """Whether the process that starts it does its work, so that its memory is the engine's; a server's is another's."""

    @property
    def compiles(self) -> bool:
        """Whether the first batch of a shape builds or loads code that later launches find ready: on a GPU, and where
        its setting `compile` says so.
        """
        return self.device.partition(":")[0] == "cuda" or bool(self.settings.get("compile"))


class Engine(Protocol):
    """What serves a model. One object is one launch; it is used by one thread."""

    def start(self) -> EngineFacts:
        """Load the model and be ready for a request. Blocks.

        Raises EngineUnavailable for an engine, model or dtype that cannot be had here, with the way out.
        """
        ...

    def serve(self, batch: Sequence[Request], *, observe: bool) -> Served:
        """Serve the requests as one static batch and block until the last token.

        Every answer has exactly the forced length. With `observe`, token times are recorded, at whatever that costs.
        Raises EngineFailed.
        """
        ...

    def stop(self) -> None:
        """Give back what was taken. Called once, also after a failure."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine says of a request that it has answered as a whole."""

    output_tokens: int
    """As the engine counts them, never guessed from the number of parts."""
    prompt_tokens: int
    cached_tokens: int = 0
    """Of the prompt, taken from a cache."""
    replica: int = 0
    """Which replica of a pool gave it, counted from 1; 0 for an engine that is none."""


Stamp: TypeAlias = Callable[[int], None]
"""Is called the moment a part of an answer is there that holds output, with its tokens; with 0 where nobody says."""


@runtime_checkable
class StreamingEngine(Engine, Protocol):
    """An engine whose requests come and go one by one, as those of a server: what traffic can be sent to."""

    def connected(self) -> AbstractAsyncContextManager[None]:
        """Is entered in the event loop that requests are streamed in, before the first and until after the last."""
        ...

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it to its end in the event loop of this launch, connected; `engines.streaming.Streaming` does."""
        ...

    async def stream(self, request: Request, stamp: Stamp) -> Answer:
        """Send a request at once and return when its answer is whole; many are under way in one event loop.

        Raises RequestFailed for this request alone, and EngineFailed where no other would fare better.
        """
        ...

    async def counters(self) -> Mapping[str, float]:
        """What it says of itself now, by the names of `core.load.traffic.COUNTERS`; empty where it says nothing."""
        ...


@runtime_checkable
class Fronted(Protocol):
    """An engine with a front end before it, as a server's: processes that only take requests and send answers."""

    def front_end(self) -> float | None:
        """Share of a core that its busiest thread took since this was asked before; None the first time, and where that
        can't be seen. Takes a millisecond.
        """
        ...


@runtime_checkable
class Answering(Protocol):
    """An engine, or a replica of one, that tells which tokens it generates: so several can be held to one."""

    def answer(self, batch: Sequence[Request]) -> tuple[tuple[int, ...], ...] | None:
        """The ids of the tokens that it generates greedily for each request, all of them served as one static batch.

        `core.answers.NOT_FINITE` stands for a token whose score is no finite number. None where it can't tell them. Is
        never timed. Blocks. Raises EngineFailed.
        """
        ...


class EngineFactory(Protocol):
    """What an entry point of the group `slmperf.engines` names."""

    def __call__(self, spec: EngineSpec) -> Engine:
        """Make the engine without starting it: cheap, and free of the engine's own imports."""
        ...
