"""Memory against batch: the largest batch is set by the KV cache (arXiv 2404.03353)."""

import pytest

from pytest_slmperf import StaticBatch, Sweep

MEMORY = Sweep(
    "memory",
    StaticBatch(prompt_tokens=32, output_tokens=96),
    model=["tiny-4x256"],
    batch_size=[32],
    gate={"peak_memory_bytes": 0.03},
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
