"""Memory against batch: the largest batch is set by the KV cache (arXiv 2404.03353).

The tolerance is wide because pages of the engine's library come and go with the machine's page cache.
"""

import pytest

from pytest_slmperf import StaticBatch, Sweep, largest_batch_within, predicted_peak, shape_of

LENGTHS = {"prompt_tokens": 32, "output_tokens": 96}
BUDGET = 256 * 2**20
MEMORY = Sweep(
    "memory", StaticBatch(**LENGTHS), model=["tiny-2x128"], batch_size=[8, 48], gate={"peak_memory_bytes": 0.10}
)


@pytest.fixture(scope="module")
def memory(slmperf, slm_engine):
    """Every case of the sweep, measured once."""
    return slmperf.measure(MEMORY, slm_engine)


@MEMORY.each
def test_peak(memory, model, batch_size):
    """No batch size takes more memory than its baseline."""
    point = memory[model, batch_size]
    assert point.peak_memory_bytes <= point.baseline.peak_memory_bytes


def test_the_cache_explains_the_growth(memory):
    """From a small batch to a large one, memory grows by what the model of cache and activations says, within 10 %."""
    for model in memory.models:
        small, *_, large = memory.of(model)
        growth = predicted(model, large) - predicted(model, small)
        assert small.peak_memory_bytes.median + growth == pytest.approx(large.peak_memory_bytes.median, rel=0.10)


def test_the_largest_batch_fits_the_budget(memory):
    """The largest batch of the sweep stays within the budget, as the model of memory says it would."""
    for model in memory.models:
        small, *_, large = memory.of(model)
        process = round(small.peak_memory_bytes.median - predicted(model, small))
        shape, dtype = shape_of(model), large.key["dtype"]
        largest = largest_batch_within(shape, dtype, memory_bytes=BUDGET, process_bytes=process, **LENGTHS)
        assert large.batch_size <= largest
        assert large.peak_memory_bytes <= BUDGET


def predicted(model, point):
    """Bytes that the weights and the batch take, by the model of CTranslate2's memory."""
    if point.key["engine"] != "ctranslate2":
        pytest.skip("the model of memory is of CTranslate2")
    dtype, batch_size = point.key["dtype"], point.batch_size
    return predicted_peak(shape_of(model), dtype, batch_size=batch_size, process_bytes=0, **LENGTHS).total
