"""Chunked prefill on and off (data of arXiv 2503.08311, Table IV: +8.1 % of throughput for one OPT-1.3B at batch 768).

It is vLLM's: on other engines it is skipped. Users come one by one, so that prompts are read while others' answers are
generated.
"""

import pytest

from pytest_slmperf import ClosedLoop, Sweep

CHUNKED = Sweep(
    "chunked-prefill",
    ClosedLoop(prompt_tokens=161, output_tokens=338),
    model=["tiny-2x128"],
    concurrency=[16],
    options={"enable_chunked_prefill": [False, True]},
    gate={"output_throughput": 0.05, "tpot_ms": 0.05},
)
NEAR = 0.05
"""Share of the throughput that it may cost."""


@pytest.fixture(scope="module")
def measured(slmperf, slm_engine):
    """Every case of the sweep, measured once."""
    return slmperf.measure(CHUNKED, slm_engine)


@CHUNKED.each
def test_throughput(measured, model, enable_chunked_prefill, concurrency):
    """Neither way generates fewer tokens a second than its baseline."""
    point = measured.of(model, enable_chunked_prefill=enable_chunked_prefill)[concurrency]
    assert point.output_throughput >= point.baseline.output_throughput


@CHUNKED.each
def test_each_token(measured, model, enable_chunked_prefill, concurrency):
    """No user waits longer from token to token."""
    point = measured.of(model, enable_chunked_prefill=enable_chunked_prefill)[concurrency]
    assert point.tpot_ms <= point.baseline.tpot_ms


@CHUNKED.each
def test_chunks_cost_no_throughput(measured, model, concurrency):
    """Prompts read in pieces let no fewer tokens be generated than prompts read at once."""
    whole, chunked = (measured.of(model, enable_chunked_prefill=one)[concurrency] for one in (False, True))
    assert chunked.output_throughput >= (1 - NEAR) * whole.output_throughput.median
