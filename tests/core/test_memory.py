"""Memory figures agree with the published range of batches, and with themselves."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.memory import (
    GIB,
    MIB,
    Tenant,
    fewest_devices,
    held_weight_bytes,
    kv_bytes_per_token,
    kv_capacity_tokens,
    lacking_bytes,
    largest_batch,
    largest_batch_within,
    predicted_peak,
    weight_bytes,
)
from pytest_slmperf.core.shapes import SHAPES, parameters

A100 = 39.4 * GIB
names = st.sampled_from(sorted(SHAPES))
dtypes = st.sampled_from(["float32", "float16", "bfloat16", "int8"])
TINY = SHAPES["tiny-4x256"]

# (model, KV tokens in thousands) on a 40 GB A100, worked out from arXiv 2404.03353's largest batches: 512 requests of
# about 1,960 tokens down to 16 of about 900.
PAPER = [("opt-125m", 1_010), ("opt-350m", 375), ("opt-1.3b", 177), ("opt-2.7b", 98), ("opt-6.7b", 46), ("opt-13b", 14)]


@pytest.mark.parametrize(("name", "thousands"), PAPER)
def test_the_papers_models_leave_room_for_as_many_tokens_as_it_found(name, thousands):
    """0.9 of a 40 GB A100, less weights and half a GiB, holds the KV tokens that the paper's batches imply."""
    assert kv_capacity_tokens(SHAPES[name], "float16", memory_bytes=A100) / 1_000 == pytest.approx(thousands, rel=0.035)


@pytest.mark.parametrize(("name", "request_tokens", "batch"), [("opt-125m", 1_960, 512), ("opt-13b", 880, 16)])
def test_the_papers_largest_batches_fit(name, request_tokens, batch):
    """512 requests fit for OPT-125M and 16 for OPT-13B, as in the paper, and not a quarter more."""
    found = largest_batch(SHAPES[name], "float16", request_tokens=request_tokens, memory_bytes=A100)
    assert batch <= found < 1.25 * batch


@pytest.mark.parametrize(
    ("name", "kv_bytes", "gib"),
    [
        ("opt-125m", 36_864, 0.233),
        ("opt-13b", 819_200, 23.941),
        ("smollm2-135m", 23_040, 0.251),
        ("qwen2.5-0.5b", 12_288, 0.920),
        ("qwen3-0.6b", 114_688, 1.110),
        ("llama-3.2-1b", 32_768, 2.302),
        ("gemma-3-1b", 26_624, 1.862),
    ],
)
def test_weights_and_cache_are_those_of_the_published_configurations(name, kv_bytes, gib):
    """Bytes in float16 equal the table's: KV per token exactly, weights to a thousandth of a GiB."""
    assert kv_bytes_per_token(SHAPES[name], "float16") == kv_bytes
    assert weight_bytes(SHAPES[name], "float16") / GIB == pytest.approx(gib, abs=0.001)


@given(names, dtypes, st.integers(1, 10**12), st.integers(1, 10**12))
def test_more_memory_never_fits_fewer_tokens(name, dtype, less, more):
    """Capacity grows with memory, and is nothing where the weights don't fit."""
    less, more = sorted((less, more))
    tokens = [kv_capacity_tokens(SHAPES[name], dtype, memory_bytes=memory) for memory in (less, more)]
    assert 0 <= tokens[0] <= tokens[1]


@given(names)
def test_fewer_bits_never_take_more_room(name):
    """Weights of 8 bits are smaller than those of 32, and those of 16 bits are half of these."""
    shape = SHAPES[name]
    assert weight_bytes(shape, "int8") < weight_bytes(shape, "float32")
    assert weight_bytes(shape, "float16") == 2 * parameters(shape)
    assert weight_bytes(shape, "float32") == 4 * parameters(shape)


@given(names)
def test_ctranslate2_never_holds_less_than_the_textbook(name):
    """Packed weights and a second copy of the embeddings only add to what a model needs."""
    shape = SHAPES[name]
    assert held_weight_bytes(shape, "float32") > weight_bytes(shape, "float32")


def test_an_unknown_dtype_is_named():
    """A dtype without a size is an error that lists the known ones."""
    with pytest.raises(SuiteError, match="unknown dtype 'fp4': known are float32"):
        weight_bytes(TINY, "fp4")


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 32), st.sampled_from(["float32", "int8"]))
def test_a_batch_takes_its_cache_and_at_most_a_few_times_that(batch_size, prompt, output, dtype):
    """The predicted peak holds the whole cache, counts every part once, and is not absurd."""
    peak = predicted_peak(
        TINY, dtype, batch_size=batch_size, prompt_tokens=prompt, output_tokens=output, process_bytes=10 * MIB
    )
    assert peak.total == peak.process + peak.weights + peak.batch
    assert peak.cache == 2 * TINY.layers * TINY.heads * TINY.head_dim * 4 * batch_size * (prompt + output - 1)
    assert peak.batch >= peak.cache
    logits = batch_size * TINY.vocabulary * 4
    activations = 16 * batch_size * prompt * TINY.ffn * 4
    assert peak.batch <= 4 * peak.cache + activations + logits + 20 * MIB


def test_a_sliding_window_caps_the_cache():
    """Layers with a window stop growing at it; those without go on."""
    shape = replace(SHAPES["gemma-3-270m"], layers=6, vocabulary=1_024)
    caches = [
        predicted_peak(shape, "float32", batch_size=1, prompt_tokens=1, output_tokens=output, process_bytes=0).cache
        for output in (512, 1_024)
    ]
    one_layer = 2 * 512 * shape.heads * shape.head_dim * 4
    assert caches == [6 * one_layer, 7 * one_layer]


@pytest.mark.parametrize(("layers", "dtype", "holes"), [(4, "float32", 3.6), (32, "float32", 6), (32, "int8", 28.8)])
def test_many_layers_leave_hardly_more_holes_than_a_few(layers, dtype, holes):
    """In float32 no more than six blocks of the cache are free; in int8 a share of all of them."""
    shape = replace(TINY, layers=layers)
    peak = predicted_peak(shape, dtype, batch_size=64, prompt_tokens=1, output_tokens=200, process_bytes=0)
    block = peak.cache / (2 * layers)
    logits = 64 * shape.vocabulary * 4
    assert (peak.batch - logits - peak.cache) / block == pytest.approx(holes, abs=0.1)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_activations_in_mappings_of_their_own_leave_no_holes(dtype):
    """Where an inner activation reaches 32 MiB, a prompt of one token more takes less memory."""
    below, mapped = (
        predicted_peak(TINY, dtype, batch_size=64, prompt_tokens=prompt, output_tokens=1, process_bytes=0)
        for prompt in (128, 129)
    )
    assert 64 * 128 * TINY.ffn * 4 == 32 * MIB
    assert below.batch - below.cache > mapped.batch - mapped.cache + 8 * MIB


@settings(max_examples=25, deadline=None)
@given(st.integers(45, 400), st.sampled_from(["float32", "int8"]))
def test_the_largest_batch_is_the_last_that_fits(mib, dtype):
    """Its predicted peak is within the memory, and that of one request more is not."""
    lengths = {"prompt_tokens": 32, "output_tokens": 96}

    def peak(batch_size):
        return predicted_peak(TINY, dtype, batch_size=batch_size, process_bytes=0, **lengths).total

    largest = largest_batch_within(TINY, dtype, memory_bytes=mib * MIB, process_bytes=0, **lengths)
    assert largest >= 1
    assert peak(largest) <= mib * MIB < peak(largest + 1)
    assert largest_batch_within(TINY, dtype, memory_bytes=peak(1) - 1, process_bytes=0, **lengths) == 0


GPU = 40 * GIB
tenants = st.lists(
    st.builds(
        Tenant,
        st.sampled_from([SHAPES[name] for name in ("opt-125m", "opt-1.3b", "qwen2.5-0.5b", "smollm2-360m")]),
        st.sampled_from(["float16", "int8"]),
        st.integers(1, 64),
        st.integers(16, 2_048),
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=4,
)


@given(tenants, st.integers(1, 80))
def test_a_device_lacks_what_its_models_need_beyond_it(models, gib):
    """With so much more of which an engine may take nine tenths, all replicas of all of them fit."""
    lacking = lacking_bytes(models, memory_bytes=gib * GIB)
    needed = sum(model.replicas * model.needed_bytes() for model in models)
    assert lacking == max(0.0, needed - 0.9 * gib * GIB)
    assert lacking_bytes(models, memory_bytes=gib * GIB + lacking / 0.9 + 1) == 0


def test_one_model_alone_fits_up_to_its_largest_batch():
    """What a device that nobody shares lacks agrees with `largest_batch`."""
    model = Tenant(SHAPES["opt-1.3b"], "float16", 1, 500)
    largest = largest_batch(model.shape, model.dtype, request_tokens=model.request_tokens, memory_bytes=GPU)
    assert lacking_bytes([replace(model, batch=largest)], memory_bytes=GPU) == 0
    assert lacking_bytes([replace(model, batch=largest + 1)], memory_bytes=GPU) > 0


@pytest.mark.parametrize(
    ("model", "gib", "devices"),
    [("opt-13b", 40, 1), ("opt-13b", 24, 2), ("opt-13b", 16, 2), ("opt-13b", 10, 4), ("opt-13b", 2, None)],
)
def test_a_model_too_large_for_one_device_is_spread(model, gib, devices):
    """Over as many as hold its weights and its batch, by whole heads; at most eight."""
    tenant = Tenant(SHAPES[model], "float16", 4, 512)
    assert fewest_devices(tenant, memory_bytes=gib * GIB) == devices


def test_heads_are_dealt_out_whole():
    """Nine heads go over three devices, and not over two."""
    tenant = Tenant(SHAPES["smollm2-135m"], "float16", 64, 2_048)
    needed = tenant.needed_bytes()
    assert fewest_devices(tenant, memory_bytes=0.7 * needed / 0.9 + GIB) in (1, 3)
    assert fewest_devices(tenant, memory_bytes=0.55 * needed) == 3
