"""Times of batches agree with what was measured, and grow with what a batch must do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.roofline import ANY_GPU, CPU_THREAD, batch_s, load_s
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
