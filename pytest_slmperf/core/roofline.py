"""How long a batch takes, by what it must compute and read, at a device's rates: about, and at the least.

Two models. `batch_s` says about how long a batch will take, at rates that were seen of an engine: a plan needs no more.
`limit` says how long it takes at the least, whatever the engine: the roofline model (Williams, Waterman and Patterson,
CACM 52 (4), 2009), with the rate of reading by how much is read again and again (Ilic, Pratas and Sousa, IEEE CAL
13 (1), 2014), of a transformer's steps (Pope et al., arXiv 2211.05102).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

from pytest_slmperf.core.memory import element_bytes, kv_bytes_per_token, weight_bytes
from pytest_slmperf.core.shapes import Role, Shape, parameters, tensors

STREAMING_THREADS = 4
"""So many threads draw all that a memory gives."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device does in a second."""

    prefill_flops: float
    decode_flops: float
    """Less than in a prefill: a step's matrices have one row for each request."""
    read_bytes: float
    """Of weights and cache."""
    cache_passes: int
    """How often a step goes over the cache: an engine that grows it by copying reads and writes it once more."""
    load_bytes: float
    """Of weights, until a model is loaded."""

    def of_threads(self, threads: int) -> "Rates":
        """The rates of so many threads, where these are those of one."""
        return Rates(
            prefill_flops=threads * self.prefill_flops,
            decode_flops=threads * self.decode_flops,
            read_bytes=min(threads, STREAMING_THREADS) * self.read_bytes,
            cache_passes=self.cache_passes,
            load_bytes=self.load_bytes,
        )


CPU_THREAD = Rates(prefill_flops=150e9, decode_flops=50e9, read_bytes=15e9, cache_passes=3, load_bytes=0.4e9)
"""CTranslate2 in float32 on one core of a server with AVX-512: batches of 1 to 64 took 0.9 to 1.2 times as long as is
said here of OPT-125M, and 0.45 to 1.1 times of models that fit into a core's cache.
"""
ANY_GPU = Rates(prefill_flops=2e15, decode_flops=2e15, read_bytes=8e12, cache_passes=1, load_bytes=20e9)
"""What no GPU of today exceeds: times at these rates are lower bounds."""


def batch_s(shape: Shape, dtype: str, lengths: Sequence[tuple[int, int]], rates: Rates) -> float:
    """Seconds that a batch of requests of these (prompt, output) lengths takes.

    Each token costs a multiplication and an addition for each parameter; each step reads the weights once for all
    requests, and the cache of each. Raises SuiteError for an unknown type.
    """
    prompt_tokens = sum(prompt for prompt, _ in lengths)
    output_tokens = sum(output for _, output in lengths)
    steps = max(output for _, output in lengths)
    cached_tokens = sum(output * (prompt + output / 2) for prompt, output in lengths)
    computed_s = 2 * parameters(shape) * (prompt_tokens / rates.prefill_flops + output_tokens / rates.decode_flops)
    cache_bytes = rates.cache_passes * cached_tokens * kv_bytes_per_token(shape, dtype)
    return computed_s + (steps * weight_bytes(shape, dtype) + cache_bytes) / rates.read_bytes


def load_s(shape: Shape, dtype: str, rates: Rates) -> float:
    """Seconds until the weights are loaded. Raises SuiteError for an unknown type."""
    return weight_bytes(shape, dtype) / rates.load_bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """How fast a device reads so many bytes again and again: fewer of them lie in a nearer cache."""

    set_bytes: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Roof:
    """What a device reads and computes in a second at the most."""

    readings: tuple[Reading, ...]
    """By size, the smallest first; one where the device is told by its memory alone."""
    flops: Mapping[str, float]
    """Multiplications and additions in a second, by the type that is multiplied; types of which nobody knows are not
    there."""
    error: float
    """Share by which these may be wrong."""
    source: str
    """`measured`, or the name of a datasheet."""
    power_w: float | None = None
    """What the device may draw; None where nobody says."""

    def bytes_per_s(self, set_bytes: float) -> float:
        """How fast a set of this size is read; between two that are known, by the logarithm of its size."""
        first, last = self.readings[0], self.readings[-1]
        if set_bytes <= first.set_bytes or len(self.readings) == 1:
            return first.bytes_per_s
        for less, more in pairwise(self.readings):
            if set_bytes <= more.set_bytes:
                share = math.log(set_bytes / less.set_bytes) / math.log(more.set_bytes / less.set_bytes)
                return less.bytes_per_s * math.exp(share * math.log(more.bytes_per_s / less.bytes_per_s))
        return last.bytes_per_s

    def flops_of(self, dtype: str) -> float | None:
        """What is computed in a second in this type, `int8_float32` as `int8`; None where nobody knows."""
        return self.flops.get(dtype, self.flops.get(dtype.partition("_")[0]))

    def times(self, factor: float) -> "Roof":
        """The roof of so many of these devices together; with a fraction, of a part of one."""
        return replace(
            self,
            readings=tuple(Reading(one.set_bytes * factor, one.bytes_per_s * factor) for one in self.readings),
            flops={dtype: flops * factor for dtype, flops in self.flops.items()},
            power_w=self.power_w and self.power_w * factor,
        )


@dataclass(frozen=True, slots=True)
class Caching:
    """How an engine keeps keys and values."""

    dtype: str | None = None
    """Type in which it keeps them; None for that of the weights, 16 bits at least."""
    all_heads: bool = False
    """Whether heads that share keys and values have a copy each."""
    passes: int = 1
    """How often a step goes over them: see Rates."""

    def bytes_per_token(self, shape: Shape, dtype: str) -> float:
        """Of one layer of one request."""
        heads = shape.heads if self.all_heads else shape.kv_heads
        return 2 * heads * shape.head_dim * max(element_bytes(self.dtype or dtype), 2)


TEXTBOOK = Caching()
"""What any engine has to read."""
GROWN_BY_COPYING = Caching(dtype="float32", all_heads=True, passes=CPU_THREAD.cache_passes)
"""CTranslate2 on a CPU."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a phase computes and reads."""

    flops: float
    read_bytes: float
    set_bytes: float
    """Of what it reads: weights and caches, each counted once."""


def prefill_work(
    shape: Shape, dtype: str, *, requests: float, prompt_tokens: float, caching: Caching = TEXTBOOK
) -> Work:
    """All prompts at once: each token is multiplied with each matrix and with the tokens before it, the last one of a
    prompt with the vocabulary; the weights are read once, keys and values written. Raises SuiteError for an unknown
    type.
    """
    matrices, vocabulary = _multiplied(shape)
    seen = sum(_tokens_seen(prompt_tokens, shape.window_of(layer)) for layer in range(shape.layers))
    attention = 4 * shape.heads * shape.head_dim * seen
    weights = _weight_bytes(shape, dtype)
    cache = requests * _cached_tokens(shape, prompt_tokens) * caching.bytes_per_token(shape, dtype)
    return Work(
        flops=requests * (2 * matrices * prompt_tokens + 2 * vocabulary + attention),
        read_bytes=weights + cache,
        set_bytes=weights + cache,
    )


def step_work(shape: Shape, dtype: str, *, requests: float, context_tokens: float, caching: Caching = TEXTBOOK) -> Work:
    """One token for each request: the weights are read once for all, keys and values of each request's context.
    Raises SuiteError for an unknown type.
    """
    matrices, vocabulary = _multiplied(shape)
    seen = _cached_tokens(shape, context_tokens)
    weights = _weight_bytes(shape, dtype)
    cache = requests * seen * caching.bytes_per_token(shape, dtype)
    return Work(
        flops=requests * (2 * matrices + 2 * vocabulary + 4 * shape.heads * shape.head_dim * seen),
        read_bytes=weights + caching.passes * cache,
        set_bytes=weights + cache,
    )


@dataclass(frozen=True, slots=True)
class Limit:
    """How long requests take at the least, in seconds."""

    memory_s: float
    """To read all that must be read."""
    compute_s: float | None
    """To compute all that must be computed; None where nobody knows the device's rate in this type."""
    least_s: float
    """Phase by phase the longer one of both."""
    read_s: float
    """The part of `least_s` in which reading is the longer one."""
    bytes_per_s: float
    """How fast a step reads."""

    @property
    def set_by_reading(self) -> bool:
        """Whether reading sets most of it."""
        return 2 * self.read_s >= self.least_s


def limit(  # noqa: PLR0913 - all but three by name
    shape: Shape,
    dtype: str,
    roof: Roof,
    *,
    requests: float,
    prompt_tokens: float,
    output_tokens: float,
    caching: Caching = TEXTBOOK,
) -> Limit:
    """How long a batch of so many requests takes at the least, or so many that are under way at any time.

    Numbers may be means. Steps are taken at their mean context. The first token comes of the prefill. Raises SuiteError
    for an unknown type.
    """
    context = prompt_tokens + output_tokens / 2
    phases = (
        (1.0, prefill_work(shape, dtype, requests=requests, prompt_tokens=prompt_tokens, caching=caching)),
        (
            max(0.0, output_tokens - 1),
            step_work(shape, dtype, requests=requests, context_tokens=context, caching=caching),
        ),
    )
    rate, bytes_per_s = roof.flops_of(dtype), 0.0
    memory_s = compute_s = least_s = read_s = 0.0
    for times, work in phases:
        bytes_per_s = roof.bytes_per_s(work.set_bytes)
        reading_s = times * work.read_bytes / bytes_per_s
        computing_s = times * work.flops / rate if rate else 0.0
        memory_s, compute_s = memory_s + reading_s, compute_s + computing_s
        least_s += max(reading_s, computing_s)
        read_s += reading_s if reading_s >= computing_s else 0.0
    return Limit(memory_s, compute_s if rate else None, least_s, read_s, bytes_per_s)


@cache
def _multiplied(shape: Shape) -> tuple[int, int]:
    """Parameters that each token is multiplied with, and those of the output layer, which is tied to the embeddings."""
    sizes = {Role.MATRIX: 0, Role.EMBEDDING: 0}
    for tensor in tensors(shape):
        if tensor.role in sizes:
            sizes[tensor.role] += tensor.size
    return sizes[Role.MATRIX], sizes[Role.EMBEDDING]


@cache
def _weight_bytes(shape: Shape, dtype: str) -> float:
    """What a step reads: all weights but the table of positions, of which it needs a row for each request."""
    unread = sum(tensor.size for tensor in tensors(shape) if tensor.role is Role.POSITIONS)
    return weight_bytes(shape, dtype) - unread * (4 if element_bytes(dtype) == 1 else element_bytes(dtype))


def _cached_tokens(shape: Shape, tokens: float) -> float:
    """Tokens that the caches of all layers hold of a request together: a window drops some."""
    return sum(min(tokens, shape.window_of(layer) or tokens) for layer in range(shape.layers))


def _tokens_seen(tokens: float, window: int | None) -> float:
    """Tokens that those of a prompt look at in a layer, each itself included."""
    inside = min(tokens, window or tokens)
    return inside * (inside + 1) / 2 + (tokens - inside) * inside
