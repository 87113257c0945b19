"""Whether an engine keeps what the protocol promises."""

import asyncio
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_slmperf.core.answers import NOT_FINITE
from pytest_slmperf.core.engine import (
    Answer,
    Answering,
    Engine,
    EngineFactory,
    EngineFacts,
    EngineSpec,
    Request,
    Served,
    StreamingEngine,
)
from pytest_slmperf.core.load.prompts import FIRST_ORDINARY_TOKEN, prompts
from pytest_slmperf.core.load.traffic import COUNTERS
from pytest_slmperf.core.machine import SIMULATED
from pytest_slmperf.worker.serving import WrongAnswer, check

LENGTHS = ((5, 1), (3, 7), (8, 4))
"""(prompt tokens, output tokens): all different, so that an engine that pads or stops early is found out."""


def conforms(factory: EngineFactory, spec: EngineSpec) -> None:
    """Hold an engine to its protocol: start it in this process, serve batches of unlike lengths, and stop it.

    To one that streams, requests of unlike lengths are sent beside each other, too; one that tells its tokens is asked
    for them. Raises AssertionError that lists
    every promise it breaks, and whatever the engine raises.
    """
    engine = factory(spec)
    try:
        facts = engine.start()
        broken = [*_wrong_facts(facts), *_wrong_answers(engine, facts)]
        if isinstance(engine, Answering):
            broken += _wrong_tokens(engine, facts)
        if isinstance(engine, StreamingEngine):
            broken += _wrong_streams(engine, facts)
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


def _wrong_tokens(engine: Answering, facts: EngineFacts) -> Iterator[str]:
    """Ask for the tokens of a batch and of each request alone, that twice."""
    batch = prompts(LENGTHS, vocabulary=max(facts.vocabulary, FIRST_ORDINARY_TOKEN + 1), seed=0)
    told = engine.answer(batch)
    if told is None:
        return
    if tuple(map(len, told)) != tuple(request.output_tokens for request in batch):
        yield f"it tells {', '.join(str(len(one)) for one in told)} tokens of answers of other lengths"
    if any(NOT_FINITE in one for one in told):
        yield "its scores are no finite numbers"
    for request in batch:
        if engine.answer((request,)) != engine.answer((request,)):
            yield f"alone, a prompt of {len(request.prompt)} tokens gets another answer the second time: not greedy"


def _wrong_times(served: Served, last: Served, facts: EngineFacts) -> Iterator[str]:
    """Only of a real engine: simulated time runs on its own."""
    if facts.device == SIMULATED:
        return
    if served.started_ns < last.ended_ns:
        yield "it began before the one before it had ended; times are CLOCK_MONOTONIC, as time.monotonic_ns()"
    if served.ended_ns > time.monotonic_ns():
        yield "it ends in the future; times are CLOCK_MONOTONIC, as time.monotonic_ns()"


@dataclass(frozen=True, slots=True)
class _Stream:
    """A request, and what came back for it."""

    request: Request
    answer: Answer
    stamped: list[int] = field(default_factory=list)
    """The tokens of each part of the answer, as they were stamped."""


def _wrong_streams(engine: StreamingEngine, facts: EngineFacts) -> Iterator[str]:
    """Send requests beside each other, twice: a launch plays more than once."""
    vocabulary = max(facts.vocabulary, FIRST_ORDINARY_TOKEN + 1)
    for seed in (1, 2):
        streams, counted = engine.run(_streamed(engine, prompts(LENGTHS, vocabulary=vocabulary, seed=seed)))
        for one in streams:
            what = f"a stream of {one.request.output_tokens} tokens"
            yield from (f"{what}: {problem}" for problem in _wrong_stream(one))
        for name, value in counted.items():
            if name not in COUNTERS:
                yield f"it counts {name!r}, which isn't of {', '.join(COUNTERS)}"
            elif not math.isfinite(value):
                yield f"it counts {value} {name}"


async def _streamed(
    engine: StreamingEngine, requests: Sequence[Request]
) -> tuple[Sequence[_Stream], Mapping[str, float]]:
    async def one(request: Request) -> _Stream:
        stamped: list[int] = []
        return _Stream(request, await engine.stream(request, stamped.append), stamped)

    return await asyncio.gather(*map(one, requests)), await engine.counters()


def _wrong_stream(one: _Stream) -> Iterator[str]:
    answer, asked = one.answer, one.request.output_tokens
    if answer.output_tokens != asked:
        yield f"it counts {answer.output_tokens} output tokens, which aren't those asked for"
    if not 0 <= answer.cached_tokens <= answer.prompt_tokens or not answer.prompt_tokens:
        yield f"of {answer.prompt_tokens} prompt tokens {answer.cached_tokens} were cached"
    if not one.stamped:
        yield "no part of its answer was stamped"
    elif len(one.stamped) > asked:
        yield f"{len(one.stamped)} parts of its answer were stamped: one without output is none"
    elif all(one.stamped) and sum(one.stamped) != answer.output_tokens:
        yield f"its parts were stamped with {sum(one.stamped)} tokens: say 0 where nobody tells"
