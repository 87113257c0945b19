"""Finding engines by name: the built-in ones, and those that other packages register under `slmperf.engines`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from pytest_slmperf.core.engine import Engine, EngineFactory, EngineSpec
from pytest_slmperf.core.errors import EngineUnavailable
from pytest_slmperf.core.pool import ELSEWHERE, Pool
from pytest_slmperf.engines.company import NOBODY, Company
from pytest_slmperf.engines.planted import slowed

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "slmperf.engines"
POOL = "pytest_slmperf.pool.engine"
"""The module that makes an engine of engines, of a room above this one."""
BESIDE = "pytest_slmperf.pool.beside"
"""The same of models beside an engine."""
WITH_THREADS = ("ctranslate2",)
"""Engines that know replicas inside themselves, and make them of a spec's pool of the kind `threads`."""


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """An engine of this package."""

    target: str
    """`module:attribute` of its factory."""
    needs: tuple[str, ...] = ()
    """Modules without which it cannot start; the extra of this package that installs them has the engine's name."""
    device: str = "cpu"
    """Where it runs unless its options say otherwise: see `default_device`."""
    streams: bool = False
    """Whether it is a `StreamingEngine`: see `streams`."""
    hands_on: bool = False
    """Whether options that it doesn't know are arguments of what serves for it."""
    options: str = "Options"
    """The dataclass, beside its factory, whose fields are its options."""
    dtypes: tuple[str, ...] = ()
    """All that it knows, where it knows the same everywhere; none where its device or its server decides."""
    told_by: str = ""
    """The option that holds the command line of a server that it starts: the only thing that a server is told."""


BUILT_IN = {
    "ctranslate2": BuiltIn("pytest_slmperf.engines.ctranslate2:create", needs=("ctranslate2",)),
    "transformers": BuiltIn(
        "pytest_slmperf.engines.transformers:create",
        needs=("torch", "transformers"),
        device="auto",
        dtypes=("float32", "bfloat16", "float16"),
    ),
    "vllm": BuiltIn(
        "pytest_slmperf.engines.vllm:create",
        needs=("vllm", "aiohttp", "msgspec"),
        device="auto",
        streams=True,
        hands_on=True,
        dtypes=("auto", "half", "float16", "bfloat16", "float", "float32"),
    ),
    "openai": BuiltIn(
        "pytest_slmperf.engines.openai:create", needs=("aiohttp", "msgspec"), streams=True, told_by="command"
    ),
    "fake": BuiltIn("pytest_slmperf.engines.fake:create", device="simulated", streams=True, options="Behaviour"),
}
REAL = ("ctranslate2", "vllm", "transformers")
"""Built-in engines that do the work they are timed for, best first."""


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether an engine can be used by this interpreter."""

    name: str
    missing: str | None
    """What is missing and how to get it, or None for an engine that can be used."""

    @property
    def usable(self) -> bool:
        """Whether nothing is missing."""
        return self.missing is None


def create(spec: EngineSpec) -> Engine:
    """The engine that a spec names, not started; slowed down where the spec plants a loss. Where it has a pool, that.

    Raises EngineUnavailable for a name that nobody registered, or whose factory cannot be imported or refuses the spec.
    """
    if spec.pool and spec.pool.kind == "threads":
        _refuse_threads(spec, spec.pool)
    elif spec.pool:
        pooled: Engine = import_module(POOL).create(spec)
        return pooled
    engine = _factory(spec.engine)(spec)
    if spec.planted_loss:
        return slowed(engine, spec.planted_loss)
    return engine


def company(spec: EngineSpec) -> Company:
    """The models that a spec has beside its engine, not started; nobody where it has none."""
    if not spec.beside:
        return NOBODY
    others: Company = import_module(BESIDE).create(spec)
    return others


def default_device(name: str, options: Mapping[str, object] = MappingProxyType({})) -> str:
    """Where an engine runs unless its option `device` says otherwise: `cpu`, `cuda`, `simulated`, `auto` (on a GPU if
    any), or `remote:HOST:PORT` where the option `url` of `openai` leads to another machine.

    An engine of another package says so in the attribute `device` of its factory; one that says nothing, or can't be
    imported here, is taken to run on the CPU. What it says when it has started is what counts.
    """
    if name == "openai" and "url" in options:
        from pytest_slmperf.engines.address import device_of_url  # noqa: PLC0415 - engines' processes need it not

        return device_of_url(str(options["url"])) or BUILT_IN[name].device
    if name in BUILT_IN:
        return BUILT_IN[name].device
    try:
        return str(getattr(_factory(name), "device", "cpu"))
    except EngineUnavailable:
        return "cpu"


def _refuse_threads(spec: EngineSpec, pool: Pool) -> None:
    if spec.engine not in WITH_THREADS:
        raise EngineUnavailable(
            f"{spec.engine} has no replicas inside itself; {', '.join(WITH_THREADS)} has: take the kind processes"
        )
    if pool.slowed_replica is not None:
        raise EngineUnavailable("replicas of the kind threads are one engine, of which no part can be slowed by itself")


def lives_elsewhere(name: str) -> bool:
    """Whether an engine works in processes that it starts or finds itself, or in simulated time: several of them then
    live in one process, and stream in one event loop.
    """
    return name in BUILT_IN and BUILT_IN[name].streams


def streams(name: str, pool: Pool | None = None) -> bool:
    """Whether requests can be sent to an engine one by one; others serve static batches only.

    An engine of another package says so in the attribute `streams` of its factory. One that can't be imported here,
    but perhaps by another interpreter, is taken to: the launch will tell. A pool on this machine streams where its
    replicas work elsewhere: one that does its own work is served batches in a process of its own.
    """
    if pool is not None and pool.kind not in (*ELSEWHERE, "threads"):
        return lives_elsewhere(name)
    if name in BUILT_IN:
        return BUILT_IN[name].streams
    try:
        return bool(getattr(_factory(name), "streams", False))
    except EngineUnavailable:
        return True


def has_option(name: str, option: str) -> bool:
    """Whether an engine may have an option of this name. One of another package may have any, and so may one whose
    module can't be imported here.
    """
    known = own_options(name)
    return known is None or option in known or BUILT_IN[name].hands_on


def own_options(name: str) -> frozenset[str] | None:
    """The options that an engine has a name for, without what it hands on; None where nobody knows them here."""
    if name not in BUILT_IN:
        return None
    try:
        known = getattr(import_module(BUILT_IN[name].target.partition(":")[0]), BUILT_IN[name].options)
    except ImportError:
        return None
    return frozenset(field.name for field in fields(known))


def has_dtype(name: str, dtype: str) -> bool:
    """Whether an engine may know this type of weights."""
    return name not in BUILT_IN or not BUILT_IN[name].dtypes or dtype in BUILT_IN[name].dtypes


def untold(spec: EngineSpec, what: str) -> str:
    """Why a server isn't told its `dtype`, its `threads` or that it is one of several `replicas`, so that a sweep over
    them would measure one thing under several names; empty where it is told, or no server serves for the engine. One
    that is started has so many cores as threads in any case, and a replica one of its own.
    """
    option = BUILT_IN[spec.engine].told_by if spec.engine in BUILT_IN else ""
    command = spec.options.get(option) if option else ""
    if command is None and what == "replicas":
        apart = spec.pool is None or spec.pool.kind in ELSEWHERE
        return (
            "" if apart else "replicas of a server that runs already are all the same one: pool=endpoints names others"
        )
    if command is None:
        return f"a server that runs already has the {what} that it has"
    if option and what == "dtype" and "{dtype}" not in str(command):
        return f"{option} has no {{dtype}}, so the server is told none"
    return ""


def streaming() -> tuple[str, ...]:
    """The built-in engines that stream."""
    return tuple(name for name, engine in BUILT_IN.items() if engine.streams)


def available() -> tuple[Availability, ...]:
    """All known engines, the built-in ones first. Imports none of them."""
    built_in = tuple(Availability(name, _missing(name, engine)) for name, engine in BUILT_IN.items())
    registered = tuple(
        Availability(
            name, None if _importable(point.module) else f"{point.module} cannot be found: reinstall its package"
        )
        for name, point in _registered().items()
    )
    return built_in + registered


def best() -> str:
    """The best engine that this interpreter has. Never one that only simulates.

    Raises EngineUnavailable if there is none, with the command that installs one.
    """
    for name in REAL:
        if _missing(name, BUILT_IN[name]) is None:
            return name
    raise EngineUnavailable(
        f"there is no engine to measure: {_missing(REAL[0], BUILT_IN[REAL[0]])}, or name another with --slmperf-engine"
    )


def _factory(name: str) -> EngineFactory:
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].target.partition(":")
        try:
            return cast("EngineFactory", getattr(import_module(module), attribute))
        except ImportError as error:
            raise EngineUnavailable(
                f"the engine {name} cannot be imported ({error}): pip install 'pytest-slmperf[{name}]'"
            ) from error
    point = _registered().get(name)
    if point is None:
        known = ", ".join([*BUILT_IN, *_registered()])
        raise EngineUnavailable(
            f"unknown engine {name!r}: known are {known}; a package adds one under the entry point group {ENTRY_POINTS}"
        )
    try:
        return cast("EngineFactory", point.load())
    except (ImportError, AttributeError) as error:
        raise EngineUnavailable(f"the engine {name} ({point.value}) cannot be imported: {error}") from error


def _registered() -> "dict[str, EntryPoint]":
    """Engines of other packages; a built-in name stays ours."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - every engine's process would pay 17 ms for it

    return {point.name: point for point in entry_points(group=ENTRY_POINTS) if point.name not in BUILT_IN}


def _missing(name: str, engine: BuiltIn) -> str | None:
    if all(map(_importable, engine.needs)):
        return None
    return f"{name} is not installed: pip install 'pytest-slmperf[{name}]'"


def _importable(module: str) -> bool:
    return find_spec(module.partition(".")[0]) is not None
