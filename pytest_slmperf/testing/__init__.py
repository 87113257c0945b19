"""What a person imports who writes suites or engines: a fake engine, planted losses, and the manners of an engine.

Try a suite on any machine, in seconds, with an engine that takes no time, and see it go red:

    import pytest
    from pytest_slmperf.testing import fake, slowed

    @pytest.fixture(scope="session")
    def slm_engine():
        return lambda model: slowed(fake(model, noise=0.002), 0.2)

The same from the command line, of a real engine too: `--slmperf-engine fake:noise=0.002,slowed=0.2`.

An engine of yours is a class with the three methods of `Engine`, a factory that makes one from an `EngineSpec`, and an
entry point of the group `slmperf.engines` that names the factory. `conforms` holds it to what the protocol promises:

    def test_my_engine_keeps_the_protocol():
        conforms(my_package.create, EngineSpec("mine", "some-model"))

A server to hold a client of the OpenAI API to is `pytest_slmperf.testing.server`.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TypedDict, Unpack

from pytest_slmperf.core.engine import Engine, EngineFactory, EngineFacts, EngineSpec, Request, Served
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable, UsageError
from pytest_slmperf.core.machine import SIMULATED
from pytest_slmperf.core.workload import FIRST_ORDINARY_TOKEN, prompts
from pytest_slmperf.engines.fake import behaviour
from pytest_slmperf.engines.planted import LOSS_LIMIT
from pytest_slmperf.worker.serving import WrongAnswer, check

__all__ = [
    "Engine",
    "EngineFactory",
    "EngineFacts",
    "EngineFailed",
    "EngineSpec",
    "EngineUnavailable",
    "FakeOptions",
    "Request",
    "Served",
    "conforms",
    "fake",
    "slowed",
]

LENGTHS = ((5, 1), (3, 7), (8, 4))
"""(prompt tokens, output tokens): all different, so that an engine that pads or stops early is found out."""


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
    max_running: int
    fault_every: int


def fake(model: str = "fake", *, dtype: str = "float32", **options: Unpack[FakeOptions]) -> EngineSpec:
    """An engine that only simulates: `fake("opt-125m", level=800, noise=0.01)`, or one that fails, `fault="dies"`.

    The model is a name and nothing else. Raises EngineUnavailable for an option or a fault that the engine doesn't
    know. What it measures belongs to the machine `simulated` and is comparable with no real one.
    """
    given = {name: value for name, value in options.items() if isinstance(value, (str, int, float))}
    behaviour(given)
    return EngineSpec("fake", model, dtype=dtype, options=given)


def slowed(engine: EngineSpec, loss: float) -> EngineSpec:
    """The same engine with this share of its throughput taken away: with 0.2 a batch lasts 1.25 times as long.

    Works for every engine. It is never recorded as a baseline. Raises UsageError for a loss that can't be planted.
    """
    if not 0 < loss < LOSS_LIMIT:
        raise UsageError(f"slowed(…, {loss!r}): a planted loss is a share above 0 and below {LOSS_LIMIT}")
    return replace(engine, planted_loss=loss)


def conforms(factory: EngineFactory, spec: EngineSpec) -> None:
    """Hold an engine to its protocol: start it in this process, serve batches of unlike lengths, and stop it.

    Raises AssertionError that lists every promise it breaks, and whatever the engine raises.
    """
    engine = factory(spec)
    try:
        facts = engine.start()
        broken = [*_wrong_facts(facts), *_wrong_answers(engine, facts)]
    finally:
        engine.stop()
    if broken:
        raise AssertionError("\n".join([f"{spec.engine} doesn't keep the protocol:", *broken]))


def _wrong_facts(facts: EngineFacts) -> Iterator[str]:
    for name in ("version", "device", "dtype"):
        if not getattr(facts, name):
            yield f"its facts leave {name} empty: a baseline holds for one"
    kind, _, identity = facts.weights.partition(":")
    if facts.weights != "random" and not (kind and identity):
        yield f"its weights are {facts.weights!r}: say random, or what identifies them, as in sha256:1a2b…"
    if facts.vocabulary <= FIRST_ORDINARY_TOKEN:
        yield f"a vocabulary of {facts.vocabulary} leaves no token for a prompt: {FIRST_ORDINARY_TOKEN + 1} at least"
    if facts.context_tokens < max(map(sum, LENGTHS)):
        yield f"a context of {facts.context_tokens} tokens is too short to serve anything"
    if facts.device == SIMULATED and facts.startup_s is None:
        yield "a simulated start says how long it took, startup_s"


def _wrong_answers(engine: Engine, facts: EngineFacts) -> Iterator[str]:
    """Serve single requests and whole batches, with and without observing."""
    before_ns = time.monotonic_ns()
    vocabulary = max(facts.vocabulary, FIRST_ORDINARY_TOKEN + 1)
    last = Served(0, before_ns, ())
    for count, lengths in enumerate([LENGTHS[:1], LENGTHS, LENGTHS[::-1], LENGTHS]):
        observe = count % 2 == 1
        batch = prompts(lengths, vocabulary=vocabulary, seed=count)
        served = engine.serve(batch, observe=observe)
        what = f"a batch of {len(batch)}, {'observed' if observe else 'not observed'}"
        try:
            check(batch, served, observe=observe)
        except WrongAnswer as error:
            yield f"{what}: {error}"
            continue
        yield from (f"{what}: {problem}" for problem in _wrong_times(served, last, facts))
        last = served


def _wrong_times(served: Served, last: Served, facts: EngineFacts) -> Iterator[str]:
    """Only of a real engine: simulated time runs on its own."""
    if facts.device == SIMULATED:
        return
    if served.started_ns < last.ended_ns:
        yield "it began before the one before it had ended; times are CLOCK_MONOTONIC, as time.monotonic_ns()"
    if served.ended_ns > time.monotonic_ns():
        yield "it ends in the future; times are CLOCK_MONOTONIC, as time.monotonic_ns()"
