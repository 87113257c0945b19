"""Small models of every family, and batches of requests, for the tests of the engines that serve them."""

from dataclasses import replace

from hypothesis import strategies as st

from pytest_slmperf.core.load.prompts import prompts
from pytest_slmperf.core.shapes import SHAPES

ARCHITECTURES = (
    "opt-125m",
    "opt-350m",
    "smollm2-135m",
    "smollm2-1.7b",
    "qwen2.5-0.5b",
    "qwen3-0.6b",
    "llama-3.2-1b",
    "gemma-2-2b",
    "gemma-3-270m",
)

lengths = st.tuples(st.integers(1, 12), st.integers(1, 9))
"""(prompt tokens, output tokens) of a short request."""


def shrunk(name, window=None):
    """The same architecture as a known model's, small enough to run at once; with another window, if it has one."""
    shape = SHAPES[name]
    return replace(
        shape,
        layers=7 if shape.window else 2,
        hidden=64,
        heads=4,
        kv_heads=2 if shape.kv_heads < shape.heads else 4,
        head_dim=16,
        ffn=128,
        vocabulary=512,
        embedding=32 if shape.embedding else None,
        window=shape.window and (window or shape.window),
    )


def requests(*pairs):
    """A batch of requests of these lengths."""
    return prompts(pairs, vocabulary=512, seed=1)
