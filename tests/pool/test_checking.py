"""The tokens of a pool's replicas: each by itself, and each while all others have work."""

from pytest_slmperf.core.answers import Said
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.load.prompts import prompts
from pytest_slmperf.engines import fake
from pytest_slmperf.pool.checking import answers

REQUESTS = prompts([(8, 4)] * 5, vocabulary=1024, seed=1)


class Inside:
    """A replica in this very process, which notes what it is asked for."""

    def __init__(self, name, log, **options):
        self.name, self._log = name, log
        self._engine = fake.create(EngineSpec("fake", "tiny", options=options))

    def send(self, batch, *, observe):
        self._log.append(f"{self.name} is sent {len(batch)}")
        self._served = self._engine.serve(batch, observe=observe)

    def served(self):
        self._log.append(f"{self.name} has served")
        return self._served

    def answer(self, batch):
        self._log.append(f"{self.name} answers {len(batch)}")
        return self._engine.answer(batch)


class Mute(Inside):
    """One that can't tell its tokens."""

    def answer(self, batch):
        super().answer(batch)


def right(places):
    """What the fake model answers."""
    return fake.create(EngineSpec("fake", "tiny")).answer([REQUESTS[place] for place in places])


def test_each_replica_answers_each_prompt_alone():
    """One prompt at a time, to one replica after the other."""
    log = []
    said = answers([Inside("a", log), Inside("b", log)], REQUESTS[:2], together=False)
    assert said == (Said("a", (0, 1), right([0, 1])), Said("b", (0, 1), right([0, 1])))
    assert log == ["a answers 1"] * 2 + ["b answers 1"] * 2


def test_each_replica_answers_its_share_while_the_others_serve_theirs():
    """All of a batch is under way whenever answers are told."""
    log = []
    said = answers([Inside("a", log), Inside("b", log)], REQUESTS, together=True)
    assert said == (Said("a", (0, 1, 2), right([0, 1, 2])), Said("b", (3, 4), right([3, 4])))
    assert log == ["b is sent 2", "a answers 3", "b has served", "a is sent 3", "b answers 2", "a has served"]


def test_more_replicas_than_requests_leave_some_without():
    """A replica without a share isn't asked."""
    log = []
    said = answers([Inside(name, log) for name in "abc"], REQUESTS[:2], together=True)
    assert [(one.who, one.places) for one in said] == [("a", (0,)), ("b", (1,))]
    assert not any(line.startswith("c") for line in log)


def test_a_replica_that_cannot_tell_its_tokens_leaves_nothing_to_compare():
    """Alone and under load; what the others were sent is waited for."""
    log = []
    replicas = [Mute("a", log), Inside("b", log)]
    assert answers(replicas, REQUESTS, together=False) is None
    assert answers(replicas, REQUESTS, together=True) is None
    assert log[-1] == "b has served"
