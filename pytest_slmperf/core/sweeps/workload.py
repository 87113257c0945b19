"""Workloads: the requests of a round, how long they are and how they arrive."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, TypeAlias

from pytest_slmperf.core.errors import SuiteError


@dataclass(frozen=True, slots=True)
class TraceLengths:
    """Prompt and output lengths of real requests, drawn with a seed from a recorded trace.

    `trace` is a name of the package's excerpts (`azure-conversation-2023`) or the path of a CSV file with the columns
    ContextTokens and GeneratedTokens. Requests that exceed the model's context are left out, and counted.
    """

    trace: str = "azure-conversation-2023"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Uniform:
    """Lengths that are drawn from `least` to `most` tokens, each as likely as any other."""

    least: int
    most: int

    def __post_init__(self) -> None:
        if not (_whole(self.least) and _whole(self.most) and self.least <= self.most):
            raise SuiteError(f"{self}: it takes two whole numbers of at least 1, the smaller one first")


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Lengths whose logarithm is normal: most are near the median, and a few are many times as long.

    `spread` is the standard deviation of the logarithm: with 0.5, two thirds lie within 0.6 and 1.6 times the median.
    What is drawn beyond `most` is drawn anew.
    """

    median: int
    spread: float
    most: int

    def __post_init__(self) -> None:
        if not (_whole(self.median) and _whole(self.most) and self.median <= self.most and 0 < self.spread <= 3):
            raise SuiteError(f"{self}: it takes a median of at least 1, up to most, and a spread above 0, up to 3")


Tokens: TypeAlias = int | Uniform | LogNormal
"""A length: the same for all requests, or drawn for each."""


@dataclass(frozen=True, slots=True)
class _Requests:
    """What requests there are: of fixed or drawn lengths, or of a trace's with `lengths=`."""

    prompt_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    lengths: TraceLengths | None = None

    AXIS: ClassVar[str]
    """What a sweep varies of it."""
    LABEL: ClassVar[str]
    """What its cases are called by."""

    def __post_init__(self) -> None:
        given = (self.prompt_tokens, self.output_tokens)
        kind = type(self).__name__
        if self.lengths is None and None in given:
            raise SuiteError(f"{kind} needs prompt_tokens and output_tokens, or lengths=TraceLengths(…)")
        if self.lengths is not None and given != (None, None):
            raise SuiteError(f"{kind} takes prompt_tokens and output_tokens or lengths=TraceLengths(…), not both")
        for name, tokens in zip(("prompt_tokens", "output_tokens"), given, strict=True):
            if not (tokens is None or isinstance(tokens, Uniform | LogNormal) or _whole(tokens)):
                raise SuiteError(
                    f"{kind}: {name}={tokens!r}; it must be a whole number of at least 1, Uniform(…) or LogNormal(…)"
                )


@dataclass(frozen=True, slots=True)
class StaticBatch(_Requests):
    """All requests of a batch are sent at once; the next batch starts when the last token of this one is there.

    A sweep of it says `batch_size`. Lengths are fixed, drawn (`Uniform`, `LogNormal`), or of a trace with `lengths=`.
    """

    AXIS: ClassVar[str] = "batch_size"
    LABEL: ClassVar[str] = "batch"


@dataclass(frozen=True, slots=True)
class ClosedLoop(_Requests):
    """So many requests are under way at any time: when one has ended, the next is sent. As many users, each waiting.

    A sweep of it says `concurrency`. All prompts begin with the same `shared_prefix_tokens`; by default none is shared.
    """

    shared_prefix_tokens: int = 0

    AXIS: ClassVar[str] = "concurrency"
    LABEL: ClassVar[str] = "concurrency"

    def __post_init__(self) -> None:
        _Requests.__post_init__(self)
        _refuse_wrong_prefix(self, self.shared_prefix_tokens)


@dataclass(frozen=True, slots=True)
class OpenLoop(_Requests):
    """Requests are sent when they are due, at a mean rate, whether or not earlier ones have ended. As from the world.

    A sweep of it says `request_rate`, in requests per second. Gaps between arrivals follow a gamma distribution of the
    shape `burstiness`: 1 is Poisson, less is burstier, `math.inf` is a constant rate. The rate grows linearly over the
    first `ramp_s` seconds. No more than `max_concurrency` are under way; who finds no place queues, and that is told.
    """

    burstiness: float = 1.0
    ramp_s: float = 0.0
    max_concurrency: int | None = None
    shared_prefix_tokens: int = 0

    AXIS: ClassVar[str] = "request_rate"
    LABEL: ClassVar[str] = "rate"

    def __post_init__(self) -> None:
        _Requests.__post_init__(self)
        if not (_number(self.burstiness) and self.burstiness > 0):
            raise SuiteError(f"OpenLoop: burstiness={self.burstiness!r}; it must be above 0, or math.inf")
        if not (_number(self.ramp_s) and 0 <= self.ramp_s < math.inf):
            raise SuiteError(f"OpenLoop: ramp_s={self.ramp_s!r}; it must be a number of seconds, at least 0")
        _refuse_wrong_limit(self, self.max_concurrency)
        _refuse_wrong_prefix(self, self.shared_prefix_tokens)


@dataclass(frozen=True, slots=True)
class Replay:
    """Requests of a recorded trace, with its own lengths and arrival times.

    A sweep of it says `speed`: 1 replays the trace as it was, 2 in half of the time. `trace` is a name of the package's
    excerpts or the path of a CSV file with the columns TIMESTAMP, ContextTokens and GeneratedTokens. Requests that
    exceed the model's context are left out, and counted. `seconds` is how much of the trace's own time is replayed from
    its beginning; None for all.
    """

    trace: str = "azure-conversation-2023"
    seconds: float | None = None
    max_concurrency: int | None = None

    AXIS: ClassVar[str] = "speed"
    LABEL: ClassVar[str] = "speed"

    def __post_init__(self) -> None:
        if self.seconds is not None and not (_number(self.seconds) and 0 < self.seconds < math.inf):
            raise SuiteError(f"Replay: seconds={self.seconds!r}; it must be a number above 0, or None for all of it")
        _refuse_wrong_limit(self, self.max_concurrency)


Workload: TypeAlias = StaticBatch | ClosedLoop | OpenLoop | Replay
LABELS: Mapping[str, str] = {kind.AXIS: kind.LABEL for kind in (StaticBatch, ClosedLoop, OpenLoop, Replay)}
"""What cases are called by, by what their sweep varies: `batch` by `batch_size`."""
COUNTED = (StaticBatch.AXIS, ClosedLoop.AXIS)
"""What is varied in whole numbers."""


def _whole(value: object) -> bool:
    return type(value) is int and value >= 1


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _refuse_wrong_limit(workload: OpenLoop | Replay, limit: object) -> None:
    if not (limit is None or _whole(limit)):
        raise SuiteError(
            f"{type(workload).__name__}: max_concurrency={limit!r}; it must be a whole number of at least 1, or None"
        )


def _refuse_wrong_prefix(workload: ClosedLoop | OpenLoop, shared: int) -> None:
    """A prompt that is all prefix is the same as any other."""
    prompt = workload.prompt_tokens
    least = prompt.least if isinstance(prompt, Uniform) else prompt if isinstance(prompt, int) else None
    if type(shared) is not int or shared < 0 or (least is not None and shared >= least):
        below = "" if least is None else f", below {least}, the shortest prompt"
        raise SuiteError(
            f"{type(workload).__name__}: shared_prefix_tokens={shared!r}; it must be a whole number, at least 0{below}"
        )


def longest(tokens: Tokens) -> int:
    """The most tokens that a length can be."""
    return tokens if isinstance(tokens, int) else tokens.most


def drawn(tokens: Tokens, count: int, seed: str) -> tuple[int, ...]:
    """So many lengths; the same seed gives the same on every machine, and a smaller count the start of a larger one."""
    if isinstance(tokens, int):
        return (tokens,) * count
    draw = random.Random(seed)
    if isinstance(tokens, Uniform):
        return tuple(tokens.least + int(draw.random() * (tokens.most - tokens.least + 1)) for _ in range(count))
    quantile = NormalDist(math.log(tokens.median), tokens.spread)
    share = quantile.cdf(math.log(tokens.most + 0.5))  # below it, nothing is beyond the most
    least = 2**-53
    return tuple(max(1, round(math.exp(quantile.inv_cdf(share * max(draw.random(), least))))) for _ in range(count))


def sample_lengths(
    recorded: Sequence[tuple[int, int]], count: int, *, seed: int, context_tokens: int
) -> tuple[tuple[tuple[int, int], ...], int]:
    """Draw the lengths of `count` requests from recorded ones, and say how many of these exceed the context.

    Nothing is drawn twice before everything that fits was drawn once. A smaller count gives the start of a larger one.
    Raises SuiteError if no recorded request fits.
    """
    fitting = [lengths for lengths in recorded if sum(lengths) <= context_tokens]
    left_out = len(recorded) - len(fitting)
    if not fitting:
        raise SuiteError(f"none of the trace's {len(recorded)} requests fits into a context of {context_tokens} tokens")
    draw = random.Random(seed)
    drawn: list[tuple[int, int]] = []
    while len(drawn) < count:
        draw.shuffle(fitting)
        drawn += fitting
    return tuple(drawn[:count]), left_out
