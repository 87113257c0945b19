"""Shapes are the published ones, and their tensors are all that a model consists of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.errors import EngineUnavailable
from pytest_slmperf.core.shapes import SHAPES, Role, parameters, shape_of, tensors

# Unique parameters as transformers counts them for the published configurations.
PUBLISHED = {
    "opt-125m": 125_239_296,
    "opt-350m": 331_196_416,
    "opt-1.3b": 1_315_758_080,
    "opt-2.7b": 2_651_596_800,
    "opt-6.7b": 6_658_473_984,
    "opt-13b": 12_853_473_280,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "gemma-2-2b": 2_614_341_888,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
}


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_a_known_model_has_exactly_its_published_parameters(name, published):
    """The parameter count of a shape equals that of the published configuration, to the last one."""
    assert parameters(SHAPES[name]) == published


def test_every_known_model_is_checked_or_tiny():
    """A shape without a published count is one of our own, and is called tiny."""
    assert {name for name in SHAPES if not name.startswith("tiny-")} == set(PUBLISHED)


@given(st.sampled_from(sorted(SHAPES)))
def test_a_models_tensors_have_names_of_their_own(name):
    """No two tensors of a model share a name, and all have at least one element."""
    all_tensors = list(tensors(SHAPES[name]))
    assert len({tensor.name for tensor in all_tensors}) == len(all_tensors)
    assert all(tensor.size > 0 for tensor in all_tensors)


@given(st.sampled_from(sorted(SHAPES)))
def test_heads_divide_evenly(name):
    """Query heads are a whole multiple of the heads that share keys and values."""
    shape = SHAPES[name]
    assert shape.heads % shape.kv_heads == 0


def test_only_the_oldest_family_has_positions_and_biases():
    """OPT learns its positions; Llama's descendants have neither those nor biases."""
    roles = {name: {tensor.role for tensor in tensors(SHAPES[name])} for name in ("opt-125m", "llama-3.2-1b")}
    assert roles["opt-125m"] == set(Role)
    assert roles["llama-3.2-1b"] == {Role.EMBEDDING, Role.MATRIX, Role.NORM}


def test_five_of_six_layers_of_gemma_3_look_back_by_the_window():
    """Each sixth layer sees the whole context, the others 512 tokens."""
    shape = SHAPES["gemma-3-1b"]
    assert [layer for layer in range(shape.layers) if shape.window_of(layer) is None] == [5, 11, 17, 23]
    assert {shape.window_of(layer) for layer in range(5)} == {512}


@pytest.mark.parametrize(
    ("typed", "meant"), [("opt-125", "opt-125m"), ("OPT-1.3B", "opt-1.3b"), ("qwen3-0.5b", "qwen3-0.6b")]
)
def test_an_unknown_model_names_what_was_meant(typed, meant):
    """A misspelt model is answered with the close matches, the known names, and that a path is taken too."""
    with pytest.raises(EngineUnavailable, match=rf"unknown model.*Did you mean.*{meant}.*Known are tiny-2x64.*path"):
        shape_of(typed)


def test_a_model_like_no_other_is_answered_without_a_guess():
    """Where nothing is close, nothing is suggested."""
    with pytest.raises(EngineUnavailable) as caught:
        shape_of("zzz")
    assert "Did you mean" not in str(caught.value)
