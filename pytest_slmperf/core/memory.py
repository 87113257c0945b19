"""How much memory a model needs: weights, KV cache, the largest batch that fits, and the peak of a case.

Two kinds of figures. The textbook's: what a model needs in an engine that keeps one copy of everything, in the type it
is asked for; they say which batch fits on a GPU. And CTranslate2's on a CPU: what that engine really holds, by how
it packs weights and grows its cache, and by how glibc serves it (`core/heap.py`).
"""

from dataclasses import dataclass

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.heap import LARGEST_THRESHOLD, MIB, Arena, Block, round_up
from pytest_slmperf.core.shapes import OPT_POSITION_OFFSET, Family, Role, Shape, tensors

ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
GIB = 2**30


# The textbook's figures.


def weight_bytes(shape: Shape, dtype: str) -> int:
    """Bytes of the weights, each stored once, in this type. Raises SuiteError for an unknown type.

    int8 is what engines make of it: matrices of 8 bits with a float32 scale for each row, the rest float32.
    """
    element = _element_bytes(dtype)
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
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * max(_element_bytes(dtype), 2)


def kv_capacity_tokens(
    shape: Shape, dtype: str, *, memory_bytes: float, utilisation: float = 0.9, reserve_bytes: float = 0.5 * GIB
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
    utilisation: float = 0.9,
    reserve_bytes: float = 0.5 * GIB,
) -> int:
    """Requests of `request_tokens` tokens (prompt and output) that fit at once; 0 where none does."""
    capacity = kv_capacity_tokens(
        shape, dtype, memory_bytes=memory_bytes, utilisation=utilisation, reserve_bytes=reserve_bytes
    )
    return capacity // request_tokens


def _element_bytes(dtype: str) -> int:
    for name in (dtype, dtype.partition("_")[0]):  # int8_float32: the weights' type, then the rest's
        if name in ELEMENT_BYTES:
            return ELEMENT_BYTES[name]
    raise SuiteError(f"unknown dtype {dtype!r}: known are {', '.join(ELEMENT_BYTES)}")


# What CTranslate2 4.8 holds on a CPU.

PACKED_ROWS = 512
PACKED_EXTRA_ROWS = 128
"""MKL packs a float32 matrix for its GEMM in panels of 512 rows, and keeps room for 128 more (AVX-512)."""
TOKEN_BYTES = 130
"""One token of a vocabulary: two strings, two places in tables."""
LIBRARY_BYTES = 2 * MIB
"""Pages of the library, and the stacks of its threads."""
SCRATCH_BYTES = 5 * MIB
"""MKL's GEMM takes two such buffers when it first meets a batch, and keeps them; seen: 4 to 9 MiB, by the model."""
ROTARY_POSITIONS = 2_048
SCRATCH_USED_BYTES = MIB
"""What it writes to of each; the rest is address space only."""


@dataclass(frozen=True, slots=True)
class PredictedPeak:
    """The parts of a process's predicted peak, in bytes."""

    process: int
    """Before the engine was started: the interpreter and its modules."""
    weights: int
    """As the engine holds them, with vocabulary and library."""
    batch: int
    """Cache, activations and logits, with the holes that the allocator leaves between them."""
    cache: int
    """The part of `batch` that is keys and values at the last step."""

    @property
    def total(self) -> int:
        """The high-water mark of the process."""
        return self.process + self.weights + self.batch


def held_weight_bytes(shape: Shape, dtype: str, *, packed: bool = True) -> int:
    """Bytes that CTranslate2 holds for the weights on a CPU, as `float32` or `int8`.

    It packs each matrix for its GEMM where that is MKL's (`packed`: Intel CPUs). The embeddings are not packed, so that
    the output layer, which is tied to them, becomes a second copy.
    """
    quantised = _element_bytes(dtype) == 1
    held = 0
    for tensor in tensors(shape):
        if tensor.role is Role.EMBEDDING:
            held += _matrix_bytes(*tensor.dimensions, quantised=quantised, packed=False)
            if packed:
                held += _matrix_bytes(*tensor.dimensions, quantised=quantised, packed=True)
        elif tensor.role is Role.MATRIX:
            held += _matrix_bytes(*tensor.dimensions, quantised=quantised, packed=packed)
        else:
            unused = OPT_POSITION_OFFSET * shape.hidden if tensor.role is Role.POSITIONS else 0
            held += 4 * (tensor.size - unused)
    return held


def _matrix_bytes(rows: int, columns: int, *, quantised: bool, packed: bool) -> int:
    if quantised:
        return rows * columns + 8 * rows  # a scale and a compensation for each row
    return (round_up(rows, PACKED_ROWS) + PACKED_EXTRA_ROWS if packed else rows) * columns * 4


def held_kv_bytes_per_token(shape: Shape) -> int:
    """Bytes of cache that one token takes in CTranslate2 on a CPU, in layers that see the whole context.

    Always float32, and for all heads: where several share keys and values, it caches a copy for each.
    """
    return 2 * shape.layers * shape.heads * shape.head_dim * 4


def predicted_peak(
    shape: Shape, dtype: str, *, batch_size: int, prompt_tokens: int, output_tokens: int, process_bytes: int
) -> PredictedPeak:
    """The high-water mark of a process in which CTranslate2 serves this batch on a CPU, as its first one.

    `process_bytes` is what the process held before the engine was started, and is measured. benchmarks/memory_model.py
    finds it within 5 % of what the kernel says for float32, and within 15 % for int8. A later batch finds the allocator
    as an earlier one left it, and may need somewhat more or less.
    """
    quantised = _element_bytes(dtype) == 1
    replaced = {Role.MATRIX, Role.EMBEDDING} if quantised else {Role.MATRIX}  # by packed or quantised ones, when loaded
    freed = (4 * tensor.size for tensor in tensors(shape) if tensor.role in replaced)
    arena = Arena(largest_freed=max((size for size in freed if size <= LARGEST_THRESHOLD), default=0))
    decode = _Decode(shape, arena, batch_size, quantised=quantised)
    chunks = [prompt_tokens - 1] if prompt_tokens > 1 else []
    seen = 0
    for tokens in [*chunks, *[1] * output_tokens]:
        decode.step(tokens, seen, logits=tokens == 1)
        seen += tokens
    return PredictedPeak(
        process=process_bytes,
        weights=held_weight_bytes(shape, dtype) + TOKEN_BYTES * shape.vocabulary + LIBRARY_BYTES,
        batch=arena.peak - decode.unused_bytes,
        cache=sum(2 * decode.cached_bytes(layer, seen) for layer in range(shape.layers)),
    )


def largest_batch_within(
    shape: Shape, dtype: str, *, memory_bytes: float, prompt_tokens: int, output_tokens: int, process_bytes: int
) -> int:
    """The largest batch whose `predicted_peak` stays within this memory; 0 where a single request is too much."""

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

    if not fits(1):
        return 0
    fitting, too_large = 1, 2
    while fits(too_large):
        fitting, too_large = too_large, 2 * too_large
    while too_large - fitting > 1:
        middle = (fitting + too_large) // 2
        fitting, too_large = (middle, too_large) if fits(middle) else (fitting, middle)
    return fitting


class _Decode:
    """The allocations of CTranslate2's decoder for one batch, in their order (its attention.cc and transformer.cc).

    At each step and layer the cache of the keys, then that of the values, is copied into a new block with room for the
    new tokens: at worst all caches are there, and one of them twice.
    """

    def __init__(self, shape: Shape, arena: Arena, batch_size: int, *, quantised: bool) -> None:
        self._shape = shape
        self._arena = arena
        self._batch = batch_size
        self._quantised = quantised
        self._caches: list[tuple[Block, Block] | None] = [None] * shape.layers
        self._logits: Block | None = None
        self._scratch: list[Block] = []
        self._rotary: list[tuple[int, list[Block]]] = [(0, [])] * shape.layers

    def cached_bytes(self, layer: int, tokens: int) -> int:
        """Bytes of the keys, and as many of the values, of a layer that has seen this many tokens of each request."""
        kept = min(tokens, self._shape.window_of(layer) or tokens)
        return self._bytes(kept * self._shape.heads * self._shape.head_dim)

    @property
    def unused_bytes(self) -> int:
        """Bytes of blocks that are never written to, and so not resident."""
        return len(self._scratch) * (SCRATCH_BYTES - SCRATCH_USED_BYTES)

    def step(self, tokens: int, seen: int, *, logits: bool) -> None:
        """Take in this many tokens of each request after those seen before."""
        shape = self._shape
        current, spare = self._take(tokens * shape.hidden), None
        mask = [self._take(tokens * shape.heads)] if tokens > 1 else []
        for layer in range(shape.layers):
            attended = self._attention(layer, tokens, seen, spare)
            produced = self._take(tokens * shape.hidden)
            self._feed_forward(tokens)
            self._give(attended)
            current, spare = produced, current
        if logits and self._logits is None:
            self._logits = self._take(shape.vocabulary)
        self._give(*mask, current, *([spare] if spare else []))

    def _attention(self, layer: int, tokens: int, seen: int, spare: Block | None) -> Block:
        """The block with the layer's attention output: the spare one where there is one."""
        shape = self._shape
        width = shape.heads * shape.head_dim
        queries = self._take(tokens * max(shape.hidden, width))
        fused = self._project(tokens, shape.hidden, shape.qkv_rows, scratch=1)
        shared = shape.kv_heads < shape.heads
        narrow = tokens * shape.kv_heads * shape.head_dim
        if tokens > 1 and not shared:
            fused = self._replace(fused, tokens * shape.qkv_rows)
        keys, values = self._take(narrow), self._take(narrow)
        if tokens > 1 and shared:
            queries = self._replace(queries, tokens * width)
            keys, values = self._replace(keys, narrow), self._replace(values, narrow)
        if shape.family in {Family.QWEN3, Family.GEMMA3}:
            queries, keys = self._replace(queries, tokens * width), self._replace(keys, narrow)
        if shared:
            keys, values = self._replace(keys, tokens * width), self._replace(values, tokens * width)
        if shape.family is not Family.OPT:
            self._keep_rotary_tables(layer, seen + tokens)
            queries, keys = self._replace(queries, tokens * width), self._replace(keys, tokens * width)
        cached = self._caches[layer]
        if cached is None:
            self._caches[layer] = keys, values
            scores = fused
        else:
            self._give(fused)
            size = self.cached_bytes(layer, seen + tokens)
            new_keys = self._arena.take(size)
            self._give(cached[0])
            self._caches[layer] = new_keys, self._arena.take(size)
            self._give(keys, values)
            scores = cached[1]  # the old values' block is used again
        needed = shape.heads * tokens * min(seen + tokens, shape.window_of(layer) or seen + tokens)
        if scores.size < self._bytes(needed):
            scores = self._replace_after(scores, needed)
        context = self._take(tokens * width)
        self._give(scores)
        if tokens > 1:
            context = self._replace(context, tokens * width)
        output = self._project(tokens, width, shape.hidden, into=spare)
        self._give(queries, context)
        return output

    def _feed_forward(self, tokens: int) -> None:
        shape = self._shape
        inner = [self._project(tokens, shape.hidden, shape.ffn) for _ in range(2 if shape.gated else 1)]
        self._project(tokens, shape.ffn, shape.hidden, into=inner[0], scratch=2)
        self._give(*inner)

    def _keep_scratch(self, buffers: int) -> None:
        if len(self._scratch) < buffers and self._batch > 1:
            self._scratch.append(self._arena.take(SCRATCH_BYTES))

    def _keep_rotary_tables(self, layer: int, positions: int) -> None:
        """Each layer has its own sines and cosines, for 2,048 positions more whenever there are too few."""
        made, blocks = self._rotary[layer]
        if positions > made:
            made = max(positions, made + ROTARY_POSITIONS)
            new = [self._arena.take(made * self._shape.head_dim * 4) for _ in range(2)]
            self._give(*blocks)
            self._rotary[layer] = made, new

    def _project(self, tokens: int, inputs: int, outputs: int, *, into: Block | None = None, scratch: int = 0) -> Block:
        """The output of a linear layer; an int8 one needs its quantised input and an int32 result meanwhile."""
        quantised = [self._take(tokens * inputs // 4), self._take(tokens * outputs)] if self._quantised else []
        if self._quantised:
            self._keep_scratch(scratch)
        output = into or self._take(tokens * outputs)
        self._keep_scratch(scratch)
        self._give(*quantised[::-1])
        return output

    def _replace(self, block: Block, elements: int) -> Block:
        """Another block for a transposed or repeated copy, then the first is freed."""
        copy = self._take(elements)
        self._give(block)
        return copy

    def _replace_after(self, block: Block, elements: int) -> Block:
        """Another block for other contents: the first is freed before."""
        self._give(block)
        return self._take(elements)

    def _bytes(self, elements: int) -> int:
        return self._batch * elements * 4

    def _take(self, elements: int) -> Block:
        return self._arena.take(self._bytes(elements))

    def _give(self, *blocks: Block) -> None:
        for block in blocks:
            self._arena.give(block)
