"""The kit for people who write suites and engines."""

from dataclasses import fields, replace

import pytest

from pytest_slmperf.core.errors import EngineUnavailable, UsageError
from pytest_slmperf.engines import ctranslate2, registry
from pytest_slmperf.engines.fake import Behaviour, FakeEngine, behaviour, create
from pytest_slmperf.testing import EngineSpec, FakeOptions, conforms, fake, slowed


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


class Ill:
    """The fake engine with one promise broken."""

    def __init__(self, spec, *, facts=None, served=None):
        self._engine = create(spec)
        self._facts = facts or {}
        self._served = served or (lambda _served: {})
        self.stopped = 0

    def start(self):
        """Say what is simulated, or something else."""
        return replace(self._engine.start(), **self._facts)

    def serve(self, batch, *, observe):
        """Serve as the fake does, then spoil it."""
        served = self._engine.serve(batch, observe=observe)
        return replace(served, **self._served(served))

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
