"""What a launch and its engine's process say to each other: one JSON object a line, each with the protocol's version.

The launch speaks first and the worker answers, except for the worker's Hello:

    worker                     launch
    Hello                      Start           load the model
    Ready                      MeasurePeak     how much memory does this load take?  (for each case, the smallest first)
    PeakMeasured               Prepare         warm up on this load and find out how many batches fill a round
    Prepared                   Round           serve that many batches        (as often as wanted)
    Measured                   Prepare | Stop  the next case, or the end
                               Play            send a load with arrivals, until its window has lasted long enough
    Played
                               Question        which tokens are the answers to these requests?  (never timed)
    Answers

In place of any answer the worker may send Failed.
"""

import functools
import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from pytest_slmperf.core.answers import Said
from pytest_slmperf.core.beside import NeighbourWork
from pytest_slmperf.core.engine import EngineFacts, EngineSpec, ReplicaWork, Request, Served
from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.load.traffic import Traffic
from pytest_slmperf.core.slo import Slo

VERSION = 10
"""Counted up with every change to a message."""


class BadMessage(ValueError):
    """A line that is no message of this protocol; the text says what is wrong with it."""


class OtherVersion(BadMessage):
    """A message of another version of this protocol."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The worker runs, and could import what it needs."""

    python: str
    pid: int
    """Of the engine's process, which isn't the one that was started."""


@dataclass(frozen=True, slots=True)
class Start:
    """Load the model."""

    spec: EngineSpec


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine can take a request."""

    facts: EngineFacts
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MeasurePeak:
    """Serve this load once, and say how much memory the process had meanwhile."""

    load: Load


@dataclass(frozen=True, slots=True)
class PeakMeasured:
    """The most memory during that batch, or why it can't be said."""

    memory_bytes: int | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Begin a case: warm up, and find out how many batches fill a round."""

    load: Load
    round_s: float
    warmup_limit: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """The case is warm."""

    batches: int
    """That fill a round."""
    steps: int
    """Warm-up steps that it took."""
    steady: bool
    batch_s: float
    """A batch's length, at the pace of the last steps."""
    started_ns: int
    """By the engine's clock."""
    ended_ns: int


@dataclass(frozen=True, slots=True)
class Round:
    """Serve the prepared load this many times without a pause."""

    batches: int
    observe: bool
    marks: bool = False
    """Whether to tell when each batch began and ended; unlike token times, that costs an engine nothing."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a round came to. Times are those of the engine's clock."""

    started_ns: int
    """Start of the first batch."""
    ended_ns: int
    """End of the last one."""
    requests: int
    prompt_tokens: int
    output_tokens: int
    observed: tuple[Served, ...] = ()
    """The batches with their token times, where those were asked for."""
    marks: tuple[tuple[int, int], ...] = ()
    """Begin and end of each batch, where those were asked for."""
    replicas: tuple[ReplicaWork, ...] = ()
    """Of a pool, what each replica did of all of them."""
    beside: tuple[NeighbourWork, ...] = ()
    """What each model beside this one did meanwhile, and right before and after."""
    front_end: float | None = None
    """Share of a core that a server's front end took meanwhile, by its busiest thread; None where nobody saw one."""


@dataclass(frozen=True, slots=True)
class Play:
    """Send a load with arrivals, and tell what became of each request."""

    load: Load
    window_s: float
    """A closed loop goes on until so long after every place was taken a second time."""
    requests: int
    """And until it has sent so many from then on."""
    limit_s: float
    """An answer that takes longer has failed."""
    slo: Slo | None = None
    """Of an open loop nothing more is sent once more requests have missed it than `may_miss`."""
    may_miss: int = 0


@dataclass(frozen=True, slots=True)
class Played:
    """What became of it."""

    traffic: Traffic
    beside: tuple[NeighbourWork, ...] = ()
    """What each model beside this one did meanwhile, and right before and after."""


@dataclass(frozen=True, slots=True)
class Question:
    """Answer these requests and tell the tokens; nothing is timed."""

    requests: tuple[Request, ...]
    kept: tuple[int, ...]
    """The places of those whose answers are told."""
    together: bool
    """All of them as one batch, spread over replicas as any other; else each alone, by each replica."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The tokens, by replica, or why there are none."""

    said: tuple[Said, ...]
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Stop:
    """Give everything back and end."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine did not do what it was asked."""

    cause: Literal["unavailable", "failed", "memory", "answer"]
    """It can't be had here; it raised; it ran out of memory; its answer is wrong."""
    message: str
    trace: str = ""
    """The last lines of the traceback, where it helps."""


Message: TypeAlias = (
    Hello | Start | Ready | MeasurePeak | PeakMeasured | Prepare | Prepared | Round | Measured | Play | Played
    | Question | Answers | Stop | Failed
)  # fmt: skip

_SCALARS = (int, str, float, bool, types.NoneType)
_KINDS: Mapping[str, type[Message]] = {kind.__name__.lower(): kind for kind in get_args(Message)}


def encode(message: Message) -> bytes:
    """One line. Raises ValueError for a number that JSON doesn't know (NaN, infinity)."""
    content = {"slmperf": VERSION, "kind": type(message).__name__.lower(), **_plain(message)}
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message of one line. Raises BadMessage, or OtherVersion."""
    try:
        content = json.loads(line)
    except ValueError as error:
        raise BadMessage(f"not JSON: {_shown(line)}") from error
    if not isinstance(content, dict) or "slmperf" not in content:
        raise BadMessage(f"not a message: {_shown(line)}")
    version = content.pop("slmperf")
    if version != VERSION:
        raise OtherVersion(f"protocol {version!r}, where this pytest-slmperf speaks {VERSION}")
    kind = content.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise BadMessage(f"unknown kind {kind!r}: {_shown(line)}")
    message: Message = _value(_KINDS[kind], content, kind)
    return message


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever a message holds
    """The value as JSON knows it. `asdict` copies each of ten thousand token times, and knows one kind of mapping."""
    kind: type = type(value)
    if kind in _SCALARS:
        return value
    if is_dataclass(value):
        return {name: _plain(getattr(value, name)) for name in _names(kind)}
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return value if value and type(value[0]) is int else [_plain(inner) for inner in value]
    return value


def _shown(line: bytes) -> str:
    text = repr(line.decode(errors="replace").rstrip("\n"))
    return text if len(text) <= 200 else f"{text[:200]}… ({len(line)} bytes)"


@functools.cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


@functools.cache
def _names(kind: type) -> Mapping[str, bool]:
    """The fields, in their order, and whether each has to be told."""
    return {one.name: one.default is MISSING and one.default_factory is MISSING for one in fields(kind)}


def _value(hint: Any, content: Any, where: str) -> Any:  # noqa: ANN401 - as wide as JSON
    """The content as what the type hint says, or BadMessage."""
    if isinstance(hint, type) and is_dataclass(hint):
        return _object(hint, content, where)
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin in (Union, types.UnionType):
        return _alternative(arguments, content, where)
    if origin is tuple:
        return _tuple(arguments, content, where)
    if origin is Mapping:
        _checked(isinstance(content, dict), content, hint, where)
        return {name: _value(arguments[1], value, f"{where}.{name}") for name, value in content.items()}
    if hint is float and type(content) is int:
        return float(content)
    fits = content in arguments if origin is Literal else type(content) is hint
    return _checked(fits, content, hint, where)


def _object(kind: type, content: Any, where: str) -> Any:  # noqa: ANN401 - as wide as JSON
    _checked(isinstance(content, dict), content, kind, where)
    known = _names(kind)
    unknown = content.keys() - known.keys()
    missing = {name for name, needed in known.items() if needed and name not in content}
    if unknown or missing:
        wrong = [f"unknown {name}" for name in sorted(unknown)] + [f"no {name}" for name in sorted(missing)]
        raise BadMessage(f"{where}: {', '.join(wrong)}")
    hints = _hints(kind)
    # Most are of a plain type, and requests come by the ten thousand.
    return kind(
        **{
            name: value if type(value) is hints[name] else _value(hints[name], value, f"{where}.{name}")
            for name, value in content.items()
        }
    )


def _tuple(hints: tuple[Any, ...], content: Any, where: str) -> tuple[Any, ...]:  # noqa: ANN401 - as wide as JSON
    _checked(isinstance(content, list), content, tuple, where)
    if hints[-1] is not Ellipsis:
        _checked(len(content) == len(hints), content, hints, where)
        return tuple(_value(hint, value, where) for hint, value in zip(hints, content, strict=True))
    if hints[0] is int:  # token times come by the ten thousand
        _checked(all(type(value) is int for value in content), content, hints, where)
        return tuple(content)
    return tuple(_value(hints[0], value, where) for value in content)


def _alternative(hints: tuple[Any, ...], content: Any, where: str) -> Any:  # noqa: ANN401 - as wide as JSON
    if content is None and types.NoneType in hints:
        return None
    exact = [hint for hint in hints if type(content) is hint]
    candidates = exact or [hint for hint in hints if hint is not types.NoneType]
    for hint in candidates:
        try:
            return _value(hint, content, where)
        except BadMessage:
            continue
    return _checked(False, content, hints, where)  # noqa: FBT003 - reads as what it is: no alternative fits


def _checked(fits: bool, content: Any, hint: Any, where: str) -> Any:  # noqa: ANN401, FBT001 - as wide as JSON
    if not fits:
        raise BadMessage(f"{where}: {_shown(repr(content).encode())} where {hint} belongs")
    return content
