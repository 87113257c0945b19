"""What a worker tells of an engine's answers."""

import pytest

from pytest_slmperf.core.answers import Said
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.load.prompts import prompts
from pytest_slmperf.core.protocol import Answers, Question
from pytest_slmperf.engines import fake
from pytest_slmperf.engines.planted import slowed
from pytest_slmperf.worker.answering import answers

REQUESTS = prompts([(8, 4), (12, 5), (6, 3)], vocabulary=1024, seed=1)


class Silent:
    """An engine that tells nothing."""


class Mute:
    """One that could tell tokens, as a server may, and has none."""

    def answer(self, batch):
        assert batch


class Pool:
    """One with replicas."""

    def answers(self, requests, *, together):
        assert len(requests) == 3
        return (Said("a", (0, 1), ((1,), (2,))), Said("b", (2,), ((3 + together,),)))


@pytest.mark.parametrize("together", [True, False])
def test_the_kept_answers_of_an_engine_are_told(together):
    """One without replicas has no name."""
    engine = fake.create(EngineSpec("fake", "tiny"))
    told = answers(engine, Question(REQUESTS, (0, 2), together))
    assert told == Answers((Said("", (0, 2), engine.answer([REQUESTS[0], REQUESTS[2]])),))
    assert [len(one) for one in told.said[0].answers] == [4, 3]


def test_an_engine_is_asked_all_at_once_or_one_by_one():
    """In a batch, rounding may change what it answers."""
    engine = fake.create(EngineSpec("fake", "tiny", options={"rounding": 1}))
    alone, together = (answers(engine, Question(REQUESTS, (0, 1, 2), how)) for how in (False, True))
    assert all(one != other for one, other in zip(alone.said[0].answers, together.said[0].answers, strict=True))
    assert alone.said[0].answers == fake.create(EngineSpec("fake", "tiny")).answer(REQUESTS)


@pytest.mark.parametrize("engine", [Silent(), Mute(), slowed(Silent(), 0.1)], ids=["silent", "mute", "slowed"])
def test_an_engine_that_tells_no_tokens_is_said_to(engine):
    """Nothing is compared, and that is no fault of its own."""
    told = answers(engine, Question(REQUESTS, (0,), together=False))
    assert told == Answers((), "the engine doesn't tell which tokens it generates")


def test_a_slowed_engine_answers_as_it_does():
    """What takes its speed away leaves its words."""
    engine = fake.create(EngineSpec("fake", "tiny"))
    ask = Question(REQUESTS, (0, 1, 2), together=True)
    assert answers(slowed(engine, 0.2), ask) == answers(engine, ask)


def test_the_replicas_of_a_pool_are_named():
    """Each with the kept requests that it answered."""
    assert answers(Pool(), Question(REQUESTS, (1, 2), together=True)) == Answers(
        (Said("a", (1,), ((2,),)), Said("b", (2,), ((4,),)))
    )
