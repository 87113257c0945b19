"""How much memory a model needs: weights, KV cache, the largest batch that fits, and the peak of a case.

Two kinds of figures. The textbook's: what a model needs in an engine that keeps one copy of everything, in the type it
is asked for; they say which batch fits on a GPU. And CTranslate2's on a CPU: what that engine really holds, by how
it packs weights and grows its cache, and by the holes that this leaves in glibc's heap.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.shapes import OPT_POSITION_OFFSET, Family, Role, Shape, tensors

USABLE = 0.9
"""Share of a machine's memory that an engine may take: the rest is the system's and ours."""
ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
MIB, GIB = 2**20, 2**30
RESERVE_BYTES = 0.5 * GIB
"""Of what an engine takes, for activations."""


@cache
def weight_bytes(shape: Shape, dtype: str) -> int:
    """Bytes of the weights, each stored once, in this type. Raises SuiteError for an unknown type.

    int8 is what engines make of it: matrices of 8 bits with a float32 scale for each row, the rest float32.
    """
    element = element_bytes(dtype)
    if element > 1:
        return sum(tensor.size for tensor in tensors(shape)) * element
    matrices = {Role.EMBEDDING, Role.MATRIX}
    return sum(
        tensor.size + 4 * tensor.dimensions[0] if tensor.role in matrices else 4 * tensor.size
        for tensor in tensors(shape)
    )


def kv_bytes_per_token(shape: Shape, dtype: str) -> int:
    """Bytes of keys and values that one token of a request's context takes; an upper bound past a sliding window.

    A cache is never kept in 8 bits here: int8 stands for int8 weights beside a cache of 16 bits.
    """
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * max(element_bytes(dtype), 2)


def kv_capacity_tokens(
    shape: Shape, dtype: str, *, memory_bytes: float, utilisation: float = USABLE, reserve_bytes: float = RESERVE_BYTES
) -> int:
    """Tokens of context that fit beside the weights, for all requests together; 0 where the weights alone don't fit.

    `utilisation` is the share of the memory that the engine may take, `reserve_bytes` what activations need of that.
    """
    left = utilisation * memory_bytes - weight_bytes(shape, dtype) - reserve_bytes
    return max(0, int(left // kv_bytes_per_token(shape, dtype)))


def largest_batch(
    shape: Shape,
    dtype: str,
    *,
    request_tokens: int,
    memory_bytes: float,
    utilisation: float = USABLE,
    reserve_bytes: float = RESERVE_BYTES,
) -> int:
    """Requests of `request_tokens` tokens (prompt and output) that fit at once; 0 where none does."""
    capacity = kv_capacity_tokens(
        shape, dtype, memory_bytes=memory_bytes, utilisation=utilisation, reserve_bytes=reserve_bytes
    )
    return capacity // request_tokens


@dataclass(frozen=True, slots=True)
class Tenant:
    """A model that shares a device with others, and the requests that each of its replicas holds at once."""

    shape: Shape
    dtype: str
    batch: int
    request_tokens: int
    """Prompt and output of one request."""
    replicas: int = 1

    @property
    def cache_bytes(self) -> int:
        """Keys and values of one replica's batch."""
        return self.batch * self.request_tokens * kv_bytes_per_token(self.shape, self.dtype)

    def needed_bytes(self, reserve_bytes: float = RESERVE_BYTES) -> float:
        """What one replica takes: weights, cache, and the reserve for its activations."""
        return weight_bytes(self.shape, self.dtype) + self.cache_bytes + reserve_bytes


def lacking_bytes(
    tenants: Sequence[Tenant],
    *,
    memory_bytes: float,
    utilisation: float = USABLE,
    reserve_bytes: float = RESERVE_BYTES,
) -> float:
    """What a device lacks to hold all replicas of these models at once; 0 where they fit."""
    needed = sum(tenant.replicas * tenant.needed_bytes(reserve_bytes) for tenant in tenants)
    return max(0.0, needed - utilisation * memory_bytes)


def fewest_devices(tenant: Tenant, *, memory_bytes: float, utilisation: float = USABLE, most: int = 8) -> int | None:
    """Over how many devices of this memory one replica has to be spread (tensor parallelism); None beyond `most`.

    Each device holds its part of the weights and of the cache, and a reserve of its own. Heads are dealt out whole, so
    their number is a multiple of the devices'; where fewer heads have keys and values than there are devices, several
    devices hold the same ones.
    """
    shape = tenant.shape
    for devices in range(1, most + 1):
        if shape.heads % devices or (shape.kv_heads % devices and devices % shape.kv_heads):
            continue
        copies = max(1, devices // shape.kv_heads)
        part = (weight_bytes(shape, tenant.dtype) + copies * tenant.cache_bytes) / devices + RESERVE_BYTES
        if part <= utilisation * memory_bytes:
            return devices
    return None


def element_bytes(dtype: str) -> int:
    """Bytes of one element of a type; of `int8_float32` those of the weights. Raises SuiteError for an unknown type."""
    for name in (dtype, dtype.partition("_")[0]):  # int8_float32: the weights' type, then the rest's
        if name in ELEMENT_BYTES:
            return ELEMENT_BYTES[name]
    raise SuiteError(f"unknown dtype {dtype!r}: known are {', '.join(ELEMENT_BYTES)}")


PACKED_ROWS = 512
PACKED_EXTRA_ROWS = 128
"""MKL packs a float32 matrix for its GEMM in panels of 512 rows, and keeps room for 128 more (AVX-512)."""
TOKEN_BYTES = 130
"""One token of a vocabulary: two strings, two places in tables."""
LIBRARY_BYTES = 2 * MIB
"""What the library writes when it starts: its own tables, stacks of its threads, and buffers that MKL keeps. 0.3 to
3.3 MiB were seen. Its pages that it only reads don't count in a peak."""
ROTARY_POSITIONS = 2_048
"""Sines and cosines of so many positions are kept by each layer that rotates its queries."""
HOLES = 0.45
"""What glibc's allocator leaves free between a batch's blocks, as a share of these: those that are freed are too small
for what follows."""
MOST_HOLES = 6
"""Of float32's caches, so many blocks are free at most, however many layers have one. What a quantised layer holds
beside its caches comes between them, and each of them may leave its hole."""
MAPPED_FROM = 32 * MIB
"""It always gives a block of this size a mapping of its own, and then there is no hole."""
LEFT_FROM_PREFILL = 0.3
"""The share of the prefill's activations that stays resident between the caches while these grow."""


@dataclass(frozen=True, slots=True)
class PredictedPeak:
    """The parts of a process's predicted peak, in bytes."""

    process: int
    """Before the engine was started: the interpreter and its modules."""
    weights: int
    """As the engine holds them, with vocabulary and library."""
    batch: int
    """Cache, activations, rotary tables and logits, with the holes that the allocator leaves between them."""
    cache: int
    """The part of `batch` that is keys and values at the last step."""

    @property
    def total(self) -> int:
        """The peak of the process, without the pages of its libraries."""
        return self.process + self.weights + self.batch


@cache
def held_weight_bytes(shape: Shape, dtype: str) -> int:
    """Bytes that CTranslate2 holds for the weights on a CPU, as `float32` or `int8`.

    It packs each matrix for its GEMM, MKL's on an Intel CPU. The embeddings are not packed, so that the output layer,
    which is tied to them, becomes a second copy.
    """
    quantised = element_bytes(dtype) == 1
    held = 0
    for tensor in tensors(shape):
        if tensor.role is Role.EMBEDDING:
            held += sum(_matrix_bytes(*tensor.dimensions, quantised=quantised, packed=one) for one in (False, True))
        elif tensor.role is Role.MATRIX:
            held += _matrix_bytes(*tensor.dimensions, quantised=quantised, packed=True)
        else:
            unused = OPT_POSITION_OFFSET * shape.hidden if tensor.role is Role.POSITIONS else 0
            held += 4 * (tensor.size - unused)
    return held


def _matrix_bytes(rows: int, columns: int, *, quantised: bool, packed: bool) -> int:
    if quantised:
        return rows * columns + 8 * rows  # a scale and a compensation for each row
    panels = -(-rows // PACKED_ROWS)
    return (panels * PACKED_ROWS + PACKED_EXTRA_ROWS if packed else rows) * columns * 4


def predicted_peak(
    shape: Shape, dtype: str, *, batch_size: int, prompt_tokens: int, output_tokens: int, process_bytes: int
) -> PredictedPeak:
    """The peak of a process in which CTranslate2 serves this batch on a CPU, after half of it.

    `process_bytes` is what the process held before the engine was started, without the pages of its libraries, and is
    measured. The worse of two moments counts: the prefill's largest activations beside its caches, and the last step's
    caches. docs/engines.md says how far off it was found: benchmarks/memory_model.py repeats that.
    """
    quantised = element_bytes(dtype) == 1
    seen = prompt_tokens + output_tokens - 1
    prefilled = max(prompt_tokens - 1, 1)  # the last token of a prompt is the first step's
    cache = _cache_bytes(shape, batch_size, seen)
    activations = _activation_bytes(shape, batch_size * prefilled, prefilled, quantised=quantised)
    prefill = _cache_bytes(shape, batch_size, prefilled) + activations
    blocks = 2 * shape.layers  # keys and values of each layer
    holes = HOLES if quantised else min(HOLES, MOST_HOLES / blocks)
    decode = (1 + holes) * cache + LEFT_FROM_PREFILL * activations
    rotary = 0 if shape.family is Family.OPT else 2 * shape.layers * ROTARY_POSITIONS * shape.head_dim * 4
    logits = batch_size * shape.vocabulary * 4
    return PredictedPeak(
        process=process_bytes,
        weights=held_weight_bytes(shape, dtype) + TOKEN_BYTES * shape.vocabulary + LIBRARY_BYTES,
        batch=round(max(prefill, decode)) + rotary + logits,
        cache=cache,
    )


def largest_batch_within(
    shape: Shape, dtype: str, *, memory_bytes: float, prompt_tokens: int, output_tokens: int, process_bytes: int
) -> int:
    """The largest batch up to which each `predicted_peak` stays within this memory; 0 where one request is too much."""

    def fits(batch_size: int) -> bool:
        peak = predicted_peak(
            shape,
            dtype,
            batch_size=batch_size,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            process_bytes=process_bytes,
        )
        return peak.total <= memory_bytes

    return next(batch_size for batch_size in count() if not fits(batch_size + 1))


def _cache_bytes(shape: Shape, batch_size: int, tokens: int) -> int:
    """Bytes of keys and values once each request has this many tokens, all of them where no window drops some.

    Always float32, and for all heads: where several share keys and values, CTranslate2 caches a copy for each.
    """
    kept = sum(min(tokens, shape.window_of(layer) or tokens) for layer in range(shape.layers))
    return 2 * batch_size * kept * shape.heads * shape.head_dim * 4


def _activation_bytes(shape: Shape, rows: int, tokens: int, *, quantised: bool) -> float:
    """Bytes of the largest activations of a layer for so many rows: `tokens` of each request.

    Attention holds its input, its output, the queries and the context, beside a score for each pair of tokens. The
    feed-forward network holds three hidden states and its inner ones; where it is quantised, a 32-bit result beside
    an inner one, and its input twice more: as 8 bits, and as MKL packs it.
    """
    hidden, inner = (_with_holes(rows * width * 4) for width in (shape.hidden, shape.ffn))
    heads, scores = (_with_holes(rows * shape.heads * width * 4) for width in (shape.head_dim, tokens))
    attention = 4 * max(hidden, heads) + scores
    feed_forward = 3 * hidden + (2 if shape.gated else 1) * inner
    return max(attention, feed_forward + (2 * hidden + inner if quantised else 0))


def _with_holes(block_bytes: int) -> float:
    return block_bytes if block_bytes >= MAPPED_FROM else (1 + HOLES) * block_bytes
