"""What a person imports who writes suites or engines: a fake engine, planted faults, and the manners of an engine.

Try a suite on any machine, in seconds, with an engine that takes no time, and see it go red:

    import pytest
    from pytest_slmperf.testing import fake, slowed

    @pytest.fixture(scope="session")
    def slm_engine():
        return lambda model: slowed(fake(model, noise=0.002), 0.2)

The same from the command line, of a real engine too: `--slmperf-engine fake:noise=0.002,slowed=0.2`.

An engine of yours is a class with the three methods of `Engine`, a factory that makes one from an `EngineSpec`, and an
entry point of the group `slmperf.engines` that names the factory. One whose requests come and go one by one, as a
server's, is a `StreamingEngine`. `conforms` holds it to what the protocol promises:

    def test_my_engine_keeps_the_protocol():
        conforms(my_package.create, EngineSpec("mine", "some-model"))

A server to hold a client of the OpenAI API to is `pytest_slmperf.testing.server`.
"""

from dataclasses import replace
from typing import TypedDict, Unpack

from pytest_slmperf.core.engine import (
    Answer,
    Engine,
    EngineFactory,
    EngineFacts,
    EngineSpec,
    Request,
    Served,
    Stamp,
    StreamingEngine,
)
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable, RequestFailed, UsageError
from pytest_slmperf.engines.fake import behaviour
from pytest_slmperf.engines.planted import LOSS_LIMIT
from pytest_slmperf.testing.conformance import conforms

__all__ = [
    "Answer",
    "Engine",
    "EngineFactory",
    "EngineFacts",
    "EngineFailed",
    "EngineSpec",
    "EngineUnavailable",
    "FakeOptions",
    "Request",
    "RequestFailed",
    "Served",
    "Stamp",
    "StreamingEngine",
    "conforms",
    "fake",
    "slowed",
    "wrong_layer",
]


class FakeOptions(TypedDict, total=False):
    """Options of the fake engine; what each means stands in `pytest_slmperf.engines.fake`."""

    level: float
    knee: float
    prefill_level: float
    observing_cost: float
    noise: float
    launch_noise: float
    drift: float
    cold: float
    seed: int
    context_tokens: int
    vocabulary: int
    startup_s: float
    memory_bytes: int
    memory_bytes_per_token: int
    tells_memory: bool
    memory_limit_bytes: int
    start_sleep_s: float
    batch_sleep_s: float
    real_time: bool
    load_log: str
    load: float
    fault: str
    fault_batch: int
    unequal_replica: int
    wrong_replica: int
    wrong_answers: str
    wrong_from: int
    rounding: float
    max_running: int
    fault_every: int
    beside_cost: float


def fake(model: str = "fake", *, dtype: str = "float32", **options: Unpack[FakeOptions]) -> EngineSpec:
    """An engine that only simulates: `fake("opt-125m", level=800, noise=0.01)`, or one that fails, `fault="dies"`.

    The model is a name and nothing else. Raises EngineUnavailable for an option or a fault that the engine doesn't
    know. What it measures belongs to the machine `simulated` and is comparable with no real one.
    """
    given = {name: value for name, value in options.items() if isinstance(value, (str, int, float))}
    behaviour(given)
    return EngineSpec("fake", model, dtype=dtype, options=given)


def slowed(engine: EngineSpec, loss: float, *, replica: int | None = None) -> EngineSpec:
    """The same engine with this share of its throughput taken away: with 0.2 a batch lasts 1.25 times as long.

    Works for every engine. Of a pool, all replicas lose it, or one alone, `replica`, counted from 1. It is never
    recorded as a baseline. Raises UsageError for a loss that can't be planted.
    """
    if not 0 < loss < LOSS_LIMIT:
        raise UsageError(f"slowed(…, {loss!r}): a planted loss is a share above 0 and below {LOSS_LIMIT}")
    if replica is None:
        return replace(engine, planted_loss=loss)
    if engine.pool is None:
        raise UsageError(f"slowed(…, replica={replica!r}): {engine.engine} is no replica pool")
    return replace(engine, planted_loss=loss, pool=replace(engine.pool, slowed_replica=replica))


def wrong_layer(engine: EngineSpec, replica: int) -> EngineSpec:
    """The same pool with other weights in one layer of one replica, counted from 1; with 0, of all of them.

    Works for the engines fake, ctranslate2 (of random weights) and transformers, where their replicas are processes. A
    run must find it before it measures. Raises UsageError for an engine that is no pool, or has no such replica.
    """
    if engine.pool is None or not 0 <= replica <= engine.pool.replicas:
        replicas = engine.pool.replicas if engine.pool else "no"
        raise UsageError(f"wrong_layer(…, {replica!r}): {engine.engine} has {replicas} replicas")
    return replace(engine, options={**engine.options, "wrong_replica": replica})
