"""Times of batches agree with what was measured, and grow with what a batch must do."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.datasheets import roof_of
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.memory import weight_bytes
from pytest_slmperf.core.roofline import (
    ANY_GPU,
    CPU_THREAD,
    GROWN_BY_COPYING,
    TEXTBOOK,
    Reading,
    Roof,
    batch_s,
    limit,
    load_s,
    prefill_work,
    step_work,
)
from pytest_slmperf.core.shapes import SHAPES

# (model, batch) -> seconds of CTranslate2 4.8, float32, one core of a Xeon with AVX-512, 128 + 128 tokens.
MEASURED_S = {
    ("tiny-2x128", 1): 0.019,
    ("tiny-2x128", 16): 0.162,
    ("tiny-2x128", 64): 0.955,
    ("tiny-4x256", 1): 0.135,
    ("tiny-4x256", 16): 1.163,
    ("tiny-4x256", 64): 5.146,
    ("opt-125m", 1): 5.0,
    ("opt-125m", 4): 11.0,
    ("opt-125m", 16): 22.5,
}


@pytest.mark.parametrize(("model", "batch_size"), MEASURED_S)
def test_a_core_takes_about_as_long_as_was_measured(model, batch_size):
    """Never half as long again, and not much less than half."""
    ratio = MEASURED_S[model, batch_size] / batch_s(SHAPES[model], "float32", [(128, 128)] * batch_size, CPU_THREAD)
    assert 0.4 < ratio < 1.5


@given(
    st.sampled_from(sorted(SHAPES)),
    st.lists(st.tuples(st.integers(1, 2000), st.integers(1, 2000)), min_size=1, max_size=8),
    st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
)
def test_more_requests_take_longer(model, lengths, another):
    """And a GPU is never said to be slower than a core."""
    shape = SHAPES[model]
    took = batch_s(shape, "float16", lengths, CPU_THREAD)
    assert batch_s(shape, "float16", [*lengths, another], CPU_THREAD) > took
    assert batch_s(shape, "float16", lengths, ANY_GPU) < took
    assert batch_s(shape, "float16", lengths, CPU_THREAD.of_threads(4)) <= took / 3.9


def test_more_bytes_are_loaded_for_longer():
    """A quarter of a second for each 100 MB."""
    assert load_s(SHAPES["opt-125m"], "float32", CPU_THREAD) == pytest.approx(1.25, rel=0.01)
    assert load_s(SHAPES["opt-125m"], "int8", CPU_THREAD) == pytest.approx(0.33, rel=0.01)


def test_an_unknown_type_has_no_time():
    """Only the engine may know how large it is."""
    with pytest.raises(SuiteError, match="unknown dtype 'fp4'"):
        batch_s(SHAPES["opt-125m"], "fp4", [(1, 1)], CPU_THREAD)


# By hand: OPT-125M multiplies with 84.9 M parameters in its layers and 38.6 M in its output layer.
def test_a_step_reads_all_weights_once_and_computes_twice_their_number():
    """Per request two operations for each parameter that is multiplied, and four for each element of its context."""
    one = step_work(SHAPES["opt-125m"], "float16", requests=1, context_tokens=0)
    multiplied = 12 * (4 * 768 * 768 + 2 * 768 * 3072) + 50_272 * 768
    assert one.flops == 2 * multiplied
    assert one.read_bytes == weight_bytes(SHAPES["opt-125m"], "float16") - 2 * 2_050 * 768
    many = step_work(SHAPES["opt-125m"], "float16", requests=8, context_tokens=100)
    assert many.flops == 8 * (2 * multiplied + 4 * 12 * 768 * 100)
    assert many.read_bytes == one.read_bytes + 8 * 100 * 36_864


def test_a_prefill_computes_as_many_operations_as_its_prompts_have_pairs():
    """Each token with each matrix and all tokens before it; the output layer for the last token alone."""
    work = prefill_work(SHAPES["opt-125m"], "float16", requests=2, prompt_tokens=10)
    layers = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    assert work.flops == 2 * (2 * layers * 10 + 2 * 50_272 * 768 + 4 * 12 * 768 * 55)


def test_a_window_caps_what_is_read_and_computed():
    """Of Gemma 3's layers five of six look back by 512 tokens."""
    shape = SHAPES["gemma-3-270m"]
    short, long = (step_work(shape, "float16", requests=1, context_tokens=tokens) for tokens in (512, 1_024))
    per_layer = 2 * shape.kv_heads * shape.head_dim * 2
    assert long.read_bytes - short.read_bytes == 3 * 512 * per_layer


def test_an_engine_that_grows_its_cache_by_copying_reads_it_three_times():
    """In float32, and for all heads: CTranslate2 on a CPU."""
    shape = SHAPES["smollm2-135m"]
    textbook, copying = (
        step_work(shape, "int8", requests=4, context_tokens=64, caching=one) for one in (TEXTBOOK, GROWN_BY_COPYING)
    )
    weights = step_work(shape, "int8", requests=0, context_tokens=0).read_bytes
    assert (copying.read_bytes - weights) == pytest.approx(3 * 2 * 3 * (textbook.read_bytes - weights))


ROOF = Roof((Reading(2e6, 60e9), Reading(32e6, 30e9), Reading(512e6, 10e9)), {"float32": 100e9}, 0.2, "measured")


def test_what_lies_in_a_nearer_cache_is_read_faster():
    """Between two sizes by the logarithm; beyond the known ones as the nearest."""
    assert ROOF.bytes_per_s(1) == ROOF.bytes_per_s(2e6) == 60e9
    assert ROOF.bytes_per_s(8e6) == pytest.approx(math.sqrt(60e9 * 30e9))
    assert ROOF.bytes_per_s(1e12) == ROOF.bytes_per_s(512e6) == 10e9


@given(st.floats(1e3, 1e12), st.floats(1.001, 100), st.floats(0.1, 8))
def test_roofs_are_monotone_and_add_up(size, more, factor):
    """A larger set is never read faster, and so many devices read sets so many times as large so many times as fast."""
    assert ROOF.bytes_per_s(size) >= ROOF.bytes_per_s(size * more)
    assert ROOF.times(factor).bytes_per_s(size * factor) == pytest.approx(factor * ROOF.bytes_per_s(size))
    assert ROOF.times(factor).flops_of("float32") == pytest.approx(factor * 100e9)


def test_a_type_that_nobody_measured_has_no_compute_limit():
    """Reading alone sets the limit then."""
    of_int8 = limit(SHAPES["opt-125m"], "int8", ROOF, requests=8, prompt_tokens=64, output_tokens=64)
    assert of_int8.compute_s is None
    assert of_int8.least_s == of_int8.memory_s == of_int8.read_s
    assert ROOF.flops_of("float32_int8") == 100e9


@given(
    st.sampled_from(sorted(SHAPES)),
    st.integers(1, 256),
    st.integers(1, 1_000),
    st.integers(1, 1_000),
    st.sampled_from(["float32", "float16", "int8"]),
)
def test_a_limit_is_no_less_than_either_of_its_parts(model, requests, prompt, output, dtype):
    """Reading and computing at the same time take at least as long as the longer one, and at most as both."""
    found = limit(SHAPES[model], dtype, ROOF, requests=requests, prompt_tokens=prompt, output_tokens=output)
    computing = found.compute_s or 0.0
    assert max(found.memory_s, computing) <= found.least_s * (1 + 1e-9)
    assert found.least_s <= (found.memory_s + computing) * (1 + 1e-9)
    assert 0 <= found.read_s <= found.least_s


def test_the_batch_at_which_a_step_computes_longer_than_it_reads():
    """On an H100, in 16 bits, a step of OPT-1.3B without a context is bound by bandwidth up to about 300 requests:
    989 TFLOPS over 3.35 TB/s are 295 operations for each byte, and a parameter has two of each.
    """
    roof = roof_of("NVIDIA H100 80GB HBM3")

    def computes_longer(requests):
        work = step_work(SHAPES["opt-1.3b"], "float16", requests=requests, context_tokens=0)
        return work.flops / roof.flops_of("float16") > work.read_bytes / roof.bytes_per_s(work.set_bytes)

    assert not computes_longer(280)
    assert computes_longer(310)
