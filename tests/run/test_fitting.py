"""Which cases are left out because they surely don't fit a machine."""

import pytest

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.memory import GIB, largest_batch
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.core.sweep import Case
from pytest_slmperf.core.workload import ClosedLoop, OpenLoop, Replay, StaticBatch
from pytest_slmperf.run.fitting import static_only, too_large

WORKLOAD = StaticBatch(512, 512)


def said(batch_size, memory_bytes, model="opt-13b", dtype="float16", workload=WORKLOAD):
    spec = EngineSpec("ctranslate2", model, dtype)
    return too_large(workload, Case("decode", spec.model_name, batch_size), spec, memory_bytes=memory_bytes)


def test_the_largest_batch_that_fits_is_tried_and_the_next_is_not():
    """Without a reserve, that a case surely doesn't fit is what the advice of the largest batch says, too."""
    most = largest_batch(SHAPES["opt-13b"], "float16", request_tokens=1024, memory_bytes=40 * GIB, reserve_bytes=0)
    assert said(most, 40 * GIB) is None
    assert "GiB, and this machine has 40.0 GiB (a model may take 90%)" in said(most + 1, 40 * GIB)
    assert "its weights and KV cache take" in said(1, GIB)


@pytest.mark.parametrize(
    "of",
    [
        pytest.param({"memory_bytes": None}, id="a machine that tells no memory"),
        pytest.param({"memory_bytes": GIB, "model": "/models/opt-13b"}, id="a converted model"),
        pytest.param({"memory_bytes": GIB, "dtype": "fp4"}, id="a type that only the engine knows"),
    ],
)
def test_what_nobody_knows_is_tried(of):
    """The engine says whether it fits."""
    assert said(64, **of) is None


def test_a_context_that_is_too_short_needs_no_memory_to_be_known():
    """More tokens than the model's context fit no machine."""
    assert "exceed the context of opt-13b, 2048" in said(1, None, workload=StaticBatch(2000, 2000))


def test_requests_that_come_one_by_one_can_wait_for_memory():
    """Only the context is looked at, where it can be known."""
    assert said(4096, GIB, workload=ClosedLoop(512, 512)) is None
    assert "exceed the context" in said(1, None, workload=OpenLoop(2000, 2000))
    assert said(1, GIB, workload=Replay()) is None


def test_traffic_goes_to_engines_that_stream():
    """Others say so before they are started, and which can take it."""
    why = static_only(ClosedLoop(8, 8), EngineSpec("ctranslate2", "opt-125m"))
    assert why.startswith("ctranslate2 serves static batches only, and requests of ClosedLoop come one by one: ")
    assert "fake" in why
    assert static_only(StaticBatch(8, 8), EngineSpec("ctranslate2", "opt-125m")) is None
    assert static_only(OpenLoop(8, 8), EngineSpec("fake", "opt-125m")) is None
