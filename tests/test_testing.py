"""The kit for people who write suites and engines."""

from dataclasses import fields, replace

import pytest

from pytest_slmperf.core.answers import NOT_FINITE
from pytest_slmperf.core.errors import EngineUnavailable, UsageError
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.engines import ctranslate2, registry
from pytest_slmperf.engines.fake import Behaviour, FakeEngine, behaviour, create
from pytest_slmperf.testing import EngineSpec, FakeOptions, conforms, fake, slowed, wrong_layer


def test_the_fake_engine_takes_its_options_by_name():
    """Every option of the fake engine is an argument, and one that it doesn't have is refused at once."""
    assert fake("opt-125m", level=800, noise=0.01).options == {"level": 800, "noise": 0.01}
    assert set(FakeOptions.__annotations__) == {field.name for field in fields(Behaviour)}
    with pytest.raises(EngineUnavailable, match="no fault 'sleeps'"):
        fake(fault="sleeps")


def test_a_loss_is_planted_in_any_engine():
    """Slowing changes the spec alone, and a loss that can't be planted is refused."""
    spec = EngineSpec("mine", "model", options={"a": 1})
    assert slowed(spec, 0.2) == replace(spec, planted_loss=0.2)
    for loss in (0, -0.1, 0.9, 1, float("nan")):
        with pytest.raises(UsageError, match="a share above 0 and below"):
            slowed(spec, loss)


@pytest.mark.parametrize(
    "spec", [fake(), fake(noise=0.1, cold=3), slowed(fake(), 0.3)], ids=["plain", "noisy", "slowed"]
)
def test_the_fake_engine_keeps_the_protocol(spec):
    """What this package ships keeps what it promises, slowed too."""
    conforms(registry.create, spec)


def test_the_real_engine_keeps_the_protocol():
    """So does CTranslate2 on a tiny model."""
    pytest.importorskip("ctranslate2")
    conforms(ctranslate2.create, EngineSpec("ctranslate2", "tiny-2x128"))


class Mood:
    """Answers otherwise each time."""

    def __init__(self):
        self._times = 0

    def __call__(self, told):
        self._times += 1
        return tuple((self._times,) * len(one) for one in told)


class Ill:
    """The fake engine with one promise broken."""

    def __init__(self, spec, *, facts=None, served=None, told=None):
        self._engine = create(spec)
        self._facts = facts or {}
        self._served = served or (lambda _served: {})
        self._told = told or (lambda told: told)
        self.stopped = 0

    def start(self):
        """Say what is simulated, or something else."""
        return replace(self._engine.start(), **self._facts)

    def serve(self, batch, *, observe):
        """Serve as the fake does, then spoil it."""
        served = self._engine.serve(batch, observe=observe)
        return replace(served, **self._served(served))

    def answer(self, batch):
        """Answer as the fake does, then spoil it."""
        return self._told(self._engine.answer(batch))

    def stop(self):
        """Count."""
        self.stopped += 1


def _moved(served, by):
    stamps = served.token_ns
    return {"token_ns": stamps and tuple(tuple(by(list(tokens))) for tokens in stamps)}


@pytest.mark.parametrize(
    ("ill", "said"),
    [
        ({"facts": {"version": ""}}, "its facts leave version empty"),
        ({"facts": {"weights": "guessed"}}, "say random, or what identifies them"),
        ({"facts": {"vocabulary": 5}}, "leaves no token for a prompt"),
        ({"facts": {"context_tokens": 4}}, "too short to serve anything"),
        ({"facts": {"startup_s": None}}, "a simulated start says how long it took"),
        ({"served": lambda one: {"output_tokens": (*one.output_tokens[:-1], 2)}}, "which asked for"),
        ({"served": lambda one: {"output_tokens": one.output_tokens[:-1]}}, "answered 0 requests where 1 were sent"),
        ({"served": lambda one: {"ended_ns": one.started_ns}}, "a batch took no time"),
        ({"served": lambda _served: {"token_ns": None}}, "not every token has its time"),
        ({"served": lambda one: _moved(one, lambda tokens: tokens[::-1])}, "are out of order"),
        (
            {"served": lambda one: _moved(one, lambda tokens: [at + 10**12 for at in tokens])},
            "after its batch ended",
        ),
        ({"told": lambda told: (told[0][1:], *told[1:])}, "tells 0, 7, 4 tokens of answers of other lengths"),
        ({"told": lambda told: tuple((NOT_FINITE,) * len(one) for one in told)}, "its scores are no finite numbers"),
        ({"told": Mood()}, "gets another answer the second time: not greedy"),
        ({"facts": {"device": "cpu"}, "served": lambda _served: {"ended_ns": 10**19}}, "it ends in the future"),
        ({"facts": {"device": "cpu"}, "served": lambda _served: {"started_ns": 1}}, "began before the one before it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_promise_is_named(ill, said):
    """An engine that breaks the protocol fails with the promise, and is stopped all the same."""
    made = []

    def factory(spec):
        made.append(Ill(spec, **ill))
        return made[0]

    with pytest.raises(AssertionError, match="doesn't keep the protocol") as caught:
        conforms(factory, fake())
    assert said in str(caught.value)
    assert made[0].stopped == 1


class Streams(FakeEngine):
    """The fake engine with one promise of a streaming engine broken."""

    def __init__(self, spec, *, answer=None, stamps=None, counted=None):
        super().__init__(spec, behaviour(spec.options), launch="")
        self._answer, self._stamps, self._counted = answer or {}, stamps or (lambda tokens: [tokens]), counted or {}

    async def stream(self, request, stamp):
        """Stream as the fake does, then spoil it."""

        def spoilt(tokens):
            for one in self._stamps(tokens):
                stamp(one)

        return replace(await super().stream(request, spoilt), **self._answer)

    async def counters(self):
        """What the fake counts, and more."""
        return {**await super().counters(), **self._counted}


@pytest.mark.parametrize(
    ("ill", "said"),
    [
        ({"answer": {"output_tokens": 9}}, "a stream of 7 tokens: it counts 9 output tokens"),
        ({"answer": {"prompt_tokens": 0}}, "of 0 prompt tokens 0 were cached"),
        ({"answer": {"cached_tokens": 99}}, "prompt tokens 99 were cached"),
        ({"stamps": lambda _tokens: []}, "no part of its answer was stamped"),
        ({"stamps": lambda tokens: [tokens, 0]}, "14 parts of its answer were stamped"),
        ({"stamps": lambda tokens: [tokens + 1]}, "its parts were stamped with 14 tokens"),
        ({"counted": {"speed": 1.0}}, "it counts 'speed', which isn't of"),
        ({"counted": {"running": float("nan")}}, "it counts nan running"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_promise_of_a_stream_is_named(ill, said):
    """An engine that streams is held to what it stamps and counts, too."""
    with pytest.raises(AssertionError, match="doesn't keep the protocol") as caught:
        conforms(lambda spec: Streams(spec, **ill), fake())
    assert said in str(caught.value)


def test_a_stream_may_tell_no_tokens_of_its_parts():
    """As a server that says them only at the end."""
    conforms(lambda spec: Streams(spec, stamps=lambda _tokens: [0]), fake())


def test_an_engine_need_not_tell_its_tokens():
    """One that can't, says None, and keeps the protocol."""
    conforms(lambda spec: Ill(spec, told=lambda _told: None), fake())


def test_a_wrong_layer_is_planted_in_a_replica_that_there_is():
    """Counted from 1, or in all of them; an engine without replicas has none."""
    pool = replace(fake(seed=1), pool=Pool(2))
    assert wrong_layer(pool, 2) == replace(pool, options={"seed": 1, "wrong_replica": 2})
    assert wrong_layer(pool, 0).options["wrong_replica"] == 0
    for engine, replica in ((pool, 3), (pool, -1), (fake(), 1)):
        with pytest.raises(UsageError, match=r"wrong_layer\(…, -?\d\): fake has (2|no) replicas"):
            wrong_layer(engine, replica)
