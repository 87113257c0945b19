"""The models that are known by name: their shapes, the tensors they consist of, and how many parameters that makes.

Throughput, memory and energy of a decode with a forced length depend on a model's shape, not on what it has learnt,
so a shape with random weights stands for the model.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from math import prod

from pytest_slmperf.core.errors import EngineUnavailable

OPT_POSITION_OFFSET = 2
"""OPT's table of positions begins with two rows that no position of a prompt uses."""


class Family(StrEnum):
    """Architectures: what a layer is made of."""

    OPT = "opt"
    """Learnt positions, layer norms, biases, ReLU."""
    LLAMA = "llama"
    """Rotary positions, RMS norms, no biases, gated SiLU. SmolLM2 is one of these."""
    QWEN2 = "qwen2"
    """Llama with biases on queries, keys and values."""
    QWEN3 = "qwen3"
    """Llama with normalised queries and keys."""
    GEMMA2 = "gemma2"
    """Llama with gated GELU, and norms before and after each block."""
    GEMMA3 = "gemma3"
    """Gemma 2 with normalised queries and keys, and a sliding window in most layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder's dimensions, in tokens and elements. The embeddings are tied to the output layer in all of them."""

    name: str
    family: Family
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    context: int
    """Prompt and output tokens that a request may have together."""
    embedding: int | None = None
    """Width of the embeddings where it isn't `hidden`: OPT-350M's are half as wide, with a projection in and out."""
    norm_first: bool = True
    """Norms come before their block, and once more at the end; after it, and not at the end, in OPT-350M."""
    rope_base: float = 10_000
    long_rope: bool = False
    """Llama 3.1's scaling of the rotary frequencies: by 32, between the factors 1 and 4, from 8,192 positions."""
    window: int | None = None
    """Tokens that a sliding-window layer looks back."""
    global_every: int = 1
    """Every n-th layer sees the whole context; the others look back by the window."""

    @property
    def embedding_width(self) -> int:
        """Elements of one token's embedding."""
        return self.embedding or self.hidden

    @property
    def gated(self) -> bool:
        """Whether the feed-forward block multiplies two projections."""
        return self.family is not Family.OPT

    @property
    def qkv_rows(self) -> int:
        """Rows of queries, keys and values together."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    def window_of(self, layer: int) -> int | None:
        """Tokens that this layer (from 0) looks back, or None for the whole context."""
        return None if self.window is None or (layer + 1) % self.global_every == 0 else self.window


class Role(StrEnum):
    """What a tensor is for, which says how it is initialised and how an engine stores it."""

    EMBEDDING = "embedding"
    MATRIX = "matrix"
    POSITIONS = "positions"
    NORM = "norm"
    BIAS = "bias"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a model, under a name that no engine owns: `layers.3.ffn.up.weight`."""

    name: str
    dimensions: tuple[int, ...]
    role: Role

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.dimensions)


def tensors(shape: Shape) -> Iterator[Tensor]:
    """All tensors of a model, with queries, keys and values as one."""
    opt = shape.family is Family.OPT
    yield Tensor("embeddings", (shape.vocabulary, shape.embedding_width), Role.EMBEDDING)
    if opt:
        yield Tensor("positions", (shape.context + OPT_POSITION_OFFSET, shape.hidden), Role.POSITIONS)
    if shape.embedding_width != shape.hidden:
        yield Tensor("project_in.weight", (shape.hidden, shape.embedding_width), Role.MATRIX)
        yield Tensor("project_out.weight", (shape.embedding_width, shape.hidden), Role.MATRIX)
    for layer in range(shape.layers):
        yield from _layer(shape, f"layers.{layer}")
    if shape.norm_first:
        yield from _norm("norm", shape.hidden, bias=opt)


def _layer(shape: Shape, name: str) -> Iterator[Tensor]:
    opt = shape.family is Family.OPT
    gemma = shape.family in {Family.GEMMA2, Family.GEMMA3}
    yield from _norm(f"{name}.attention.norm", shape.hidden, bias=opt)
    yield from _linear(f"{name}.attention.qkv", shape.qkv_rows, shape.hidden, bias=opt or shape.family is Family.QWEN2)
    if shape.family in {Family.QWEN3, Family.GEMMA3}:
        yield from _norm(f"{name}.attention.q_norm", shape.head_dim, bias=False)
        yield from _norm(f"{name}.attention.k_norm", shape.head_dim, bias=False)
    yield from _linear(f"{name}.attention.out", shape.hidden, shape.heads * shape.head_dim, bias=opt)
    if gemma:
        yield from _norm(f"{name}.attention.post_norm", shape.hidden, bias=False)
    yield from _norm(f"{name}.ffn.norm", shape.hidden, bias=opt)
    if shape.gated:
        yield from _linear(f"{name}.ffn.gate", shape.ffn, shape.hidden, bias=False)
    yield from _linear(f"{name}.ffn.up", shape.ffn, shape.hidden, bias=opt)
    yield from _linear(f"{name}.ffn.down", shape.hidden, shape.ffn, bias=opt)
    if gemma:
        yield from _norm(f"{name}.ffn.post_norm", shape.hidden, bias=False)


def _linear(name: str, rows: int, columns: int, *, bias: bool) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", (rows, columns), Role.MATRIX)
    if bias:
        yield Tensor(f"{name}.bias", (rows,), Role.BIAS)


def _norm(name: str, width: int, *, bias: bool) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", (width,), Role.NORM)
    if bias:
        yield Tensor(f"{name}.bias", (width,), Role.BIAS)


def parameters(shape: Shape) -> int:
    """Number of parameters, tied ones counted once, as the model's own library counts them."""
    return sum(tensor.size for tensor in tensors(shape))


def _opt(name: str, *, layers: int, hidden: int, heads: int, vocabulary: int = 50_272) -> Shape:
    return Shape(
        name=name,
        family=Family.OPT,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=4 * hidden,
        vocabulary=vocabulary,
        context=2_048,
    )


def _smollm2(name: str, *, layers: int, hidden: int, kv_heads: int, ffn: int, rope_base: float = 100_000) -> Shape:
    return Shape(
        name=name,
        family=Family.LLAMA,
        layers=layers,
        hidden=hidden,
        heads=hidden // 64,
        kv_heads=kv_heads,
        head_dim=64,
        ffn=ffn,
        vocabulary=49_152,
        context=8_192,
        rope_base=rope_base,
    )


def _qwen2_5(name: str, *, layers: int, hidden: int, heads: int, ffn: int) -> Shape:
    return Shape(
        name=name,
        family=Family.QWEN2,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=2,
        head_dim=hidden // heads,
        ffn=ffn,
        vocabulary=151_936,
        context=32_768,
        rope_base=1_000_000,
    )


def _qwen3(  # noqa: PLR0913 - a row of the table below
    name: str, *, layers: int, hidden: int, heads: int, ffn: int, kv_heads: int = 8, vocabulary: int = 151_936
) -> Shape:
    return Shape(
        name=name,
        family=Family.QWEN3,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=128,
        ffn=ffn,
        vocabulary=vocabulary,
        context=40_960,
        rope_base=1_000_000,
    )


def _llama3_2(name: str, *, layers: int, hidden: int, heads: int) -> Shape:
    return Shape(
        name=name,
        family=Family.LLAMA,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=8,
        head_dim=hidden // heads,
        ffn=8_192,
        vocabulary=128_256,
        context=131_072,
        rope_base=500_000,
        long_rope=True,
    )


def _gemma3(name: str, *, layers: int, hidden: int, ffn: int) -> Shape:
    return Shape(
        name=name,
        family=Family.GEMMA3,
        layers=layers,
        hidden=hidden,
        heads=4,
        kv_heads=1,
        head_dim=256,
        ffn=ffn,
        vocabulary=262_144,
        context=32_768,
        rope_base=1_000_000,
        window=512,
        global_every=6,
    )


SHAPES = {
    shape.name: shape
    for shape in (
        # For laptops, tests and the main job: they fit into a core's cache.
        _opt("tiny-2x64", layers=2, hidden=64, heads=1, vocabulary=512),
        _opt("tiny-2x128", layers=2, hidden=128, heads=2, vocabulary=1_024),
        _opt("tiny-4x256", layers=4, hidden=256, heads=4, vocabulary=4_096),
        # A large cache, and little to compute: 96 KiB of float32 for each token.
        _qwen3("tiny-24x32", layers=24, hidden=32, heads=4, kv_heads=4, ffn=64, vocabulary=512),
        # The models of arXiv 2404.03353.
        _opt("opt-125m", layers=12, hidden=768, heads=12),
        replace(_opt("opt-350m", layers=24, hidden=1_024, heads=16), embedding=512, norm_first=False),
        _opt("opt-1.3b", layers=24, hidden=2_048, heads=32),
        _opt("opt-2.7b", layers=32, hidden=2_560, heads=32),
        _opt("opt-6.7b", layers=32, hidden=4_096, heads=32),
        _opt("opt-13b", layers=40, hidden=5_120, heads=40),
        # Those that are served today.
        _smollm2("smollm2-135m", layers=30, hidden=576, kv_heads=3, ffn=1_536),
        _smollm2("smollm2-360m", layers=32, hidden=960, kv_heads=5, ffn=2_560),
        _smollm2("smollm2-1.7b", layers=24, hidden=2_048, kv_heads=32, ffn=8_192, rope_base=130_000),
        _qwen2_5("qwen2.5-0.5b", layers=24, hidden=896, heads=14, ffn=4_864),
        _qwen2_5("qwen2.5-1.5b", layers=28, hidden=1_536, heads=12, ffn=8_960),
        _qwen2_5("qwen2.5-3b", layers=36, hidden=2_048, heads=16, ffn=11_008),
        _qwen3("qwen3-0.6b", layers=28, hidden=1_024, heads=16, ffn=3_072),
        _qwen3("qwen3-1.7b", layers=28, hidden=2_048, heads=16, ffn=6_144),
        _qwen3("qwen3-4b", layers=36, hidden=2_560, heads=32, ffn=9_728),
        _llama3_2("llama-3.2-1b", layers=16, hidden=2_048, heads=32),
        _llama3_2("llama-3.2-3b", layers=28, hidden=3_072, heads=24),
        Shape(
            name="gemma-2-2b",
            family=Family.GEMMA2,
            layers=26,
            hidden=2_304,
            heads=8,
            kv_heads=4,
            head_dim=256,
            ffn=9_216,
            vocabulary=256_000,
            context=4_096,  # half of the model's own: within its window, an engine without windows does the same work
        ),
        _gemma3("gemma-3-270m", layers=18, hidden=640, ffn=2_048),
        _gemma3("gemma-3-1b", layers=26, hidden=1_152, ffn=6_912),
    )
}
"""Every shape by its name. Dimensions are those of the models' published configurations."""


def shape_of(model: str) -> Shape:
    """The shape of this name. Raises EngineUnavailable with the close matches and all known names."""
    if model in SHAPES:
        return SHAPES[model]
    close = difflib.get_close_matches(model.lower(), SHAPES, n=3)
    suggestion = f" Did you mean {' or '.join(close)}?" if close else ""
    raise EngineUnavailable(
        f"unknown model {model!r}.{suggestion} Known are {', '.join(SHAPES)}; "
        "the path of a folder with a converted model is taken as well"
    )
