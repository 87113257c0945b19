"""What a single instance answers, and how a pool is held to it."""

from dataclasses import replace

import pytest
from foreign_engine import install

from pytest_slmperf.core.answers import Said, shares
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineFailed
from pytest_slmperf.core.launch import REPLICA_VARIABLE, Load, RoundPolicy
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.core.protocol import Answers
from pytest_slmperf.engines import fake
from pytest_slmperf.run.answering import Standard, Standards, single
from pytest_slmperf.run.launch import run_launch
from pytest_slmperf.testing import wrong_layer
from pytest_slmperf.worker.answering import answers

MUTE = """
from pytest_slmperf.engines.fake import FakeEngine, behaviour

class Engine(FakeEngine):
    answer = None
    def __init__(self, spec): super().__init__(spec, behaviour(spec.options), launch="")

Engine.device, Engine.streams = "simulated", False
"""
"""An engine that can't tell its tokens."""

LOAD = Load("decode/tiny/batch=32", ((8, 32),) * 32, seed=1)
TWO = EngineSpec("fake", "tiny", pool=Pool(2))


def engine(**options):
    return fake.create(EngineSpec("fake", "tiny", options=options))


def asked(of):
    """What an engine without replicas answers."""
    return lambda ask: answers(of, ask)


class Replicas:
    """A pool of engines in this process."""

    def __init__(self, *engines):
        self._engines = engines

    def answers(self, requests, *, together):
        said = []
        every = [range(len(requests))] * len(self._engines)
        for number, (one, places) in enumerate(
            zip(self._engines, shares(len(requests), len(self._engines)) if together else every, strict=True), 1
        ):
            part = [requests[place] for place in places]
            told = one.answer(part) if together else tuple(one.answer([request])[0] for request in part)
            said.append(Said(f"replica {number} of {len(self._engines)}", tuple(places), told))
        return tuple(said)


@pytest.fixture
def standard():
    """What the simulated engine answers, whose batches round."""
    found = Standard(TWO)
    one = engine(rounding=0.2)
    found.learn([LOAD], one.start(), asked(one))
    return found


def wrong(monkeypatch, **options):
    """An engine that answers wrongly."""
    monkeypatch.setenv(REPLICA_VARIABLE, "1")
    return engine(rounding=0.2, wrong_replica=1, **options)


def test_replicas_like_the_single_instance_pass(standard):
    """Each prompt alone, and the load, in which answers part as often as those of a single instance."""
    pool = asked(Replicas(engine(rounding=0.2), engine(rounding=0.2)))
    standard.check_alone(pool)
    standard.check(LOAD, pool)
    assert not standard.missing


def test_a_replica_with_a_wrong_layer_is_named(standard, monkeypatch):
    """With the prompt and the first token that differs, before any load is sent."""
    pool = asked(Replicas(engine(), wrong(monkeypatch)))
    with pytest.raises(EngineFailed) as failed:
        standard.check_alone(pool)
    assert "the replicas of fake (tiny, float32) answer wrongly: replica 2 of 2 answers prompt 1 of 4" in str(
        failed.value
    )
    assert "token 1 is" in str(failed.value)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("layer", "of the answers of replica 2 of 2, 16 of 16 part from those alone within 2 tokens"),
        ("constant", "of the answers of replica 2 of 2, 16 of 16 are constant"),
        ("not_finite", "replica 2 of 2 generates tokens from scores that are no finite numbers"),
        ("short", "replica 2 of 2 generates 7 tokens where 8 belong"),
    ],
)
def test_a_replica_that_is_wrong_under_load_alone_is_named(standard, monkeypatch, how, said):
    """Whatever is wrong: alone, it answers as it should."""
    pool = asked(Replicas(engine(rounding=0.2), wrong(monkeypatch, wrong_from=2, wrong_answers=how)))
    standard.check_alone(pool)
    with pytest.raises(EngineFailed, match=f"answer wrongly: under {LOAD.case}: {said}"):
        standard.check(LOAD, pool)


def test_an_engine_that_tells_no_tokens_leaves_a_note():
    """It is asked once, and nothing is compared."""
    found, questions = Standard(TWO), []

    def silent(ask):
        questions.append(ask)
        return Answers((), "the engine doesn't tell")

    found.learn([LOAD], engine().start(), silent)
    found.check_alone(silent)
    found.check(LOAD, silent)
    assert len(questions) == 1
    assert found.note == "answers of the replicas were not compared with a single instance's: the engine doesn't tell"


def test_an_engine_that_compiles_is_asked_in_the_shape_that_is_measured():
    """Any other would have to be compiled, too; alone, answers are cut to what is compared."""
    found, one, questions = Standard(TWO), engine(), []

    def ask(question):
        questions.append(question)
        return answers(one, question)

    found.learn([LOAD], replace(one.start(), settings={"compile": True}), ask)
    assert {request.output_tokens for asked in questions if asked.together for request in asked.requests} == {32}
    assert {request.output_tokens for asked in questions if not asked.together for request in asked.requests} == {16, 8}


def test_the_single_instance_is_outside_of_the_pool():
    """Without a planted loss; where replicas are elsewhere, the first of them stands for it."""
    assert single(replace(TWO, planted_loss=0.2)) == EngineSpec("fake", "tiny")
    there = Pool(2, kind="endpoints", addresses=("http://a:1/v1", "http://b:1/v1"))
    assert single(replace(TWO, pool=there)).pool == replace(there, replicas=1, addresses=there.addresses[:1])
    slow = replace(TWO, pool=replace(there, slowed_replica=2), planted_loss=0.2)
    assert single(slow) == single(replace(TWO, pool=there))


def test_the_single_instance_is_started_once_for_all_launches_of_a_pool():
    """And again only for loads that it has not seen; never for what is no pool, or before anything is timed."""
    standards = Standards()
    terms = {"cores": None, "limit_s": 20}
    assert standards.of(replace(TWO, pool=None), [LOAD], **terms) is None
    assert standards.of(TWO, [], **terms) is None
    first = standards.of(TWO, [LOAD], **terms)
    known = dict(first.loads)
    assert first.alone == tuple(answer for one in first.prompts for answer in engine().answer([one]))
    assert standards.of(replace(TWO), [LOAD], **terms) is first
    assert {case: found for case, found in first.loads.items() if found is not known[case]} == {}


def launch(spec, **terms):
    """A launch of one small case."""
    policy = RoundPolicy(rounds=1, round_s=0.01, answer_limit_s=60)
    given = {"arm": "candidate", "index": 0, "cores": None, "quantiles": (0.5,), "standards": Standards(), **terms}
    return run_launch(spec, [replace(LOAD, lengths=((8, 8),) * 32)], policy, **given)


def test_a_pool_is_measured_once_its_answers_are_right():
    """Nothing is said of them then."""
    (case,) = launch(replace(TWO, options={"rounding": 0.2})).cases.values()
    assert case.values["output_throughput"]
    assert not any("answers" in note for note in case.notes)


def test_a_pool_whose_engine_tells_no_tokens_is_measured_with_a_note(tmp_path, monkeypatch):
    """Each case says that nothing was compared."""
    install(tmp_path, "mute", MUTE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    (case,) = launch(EngineSpec("mute", "tiny", pool=Pool(2))).cases.values()
    assert case.void is None
    assert any("were not compared with a single instance's: the engine doesn't tell" in note for note in case.notes)


def test_a_pool_that_is_wrong_under_load_alone_is_not_measured():
    """Whichever of its replicas it is."""
    wrong_under_load = {"wrong_replica": 2, "wrong_from": 4, "rounding": 0.2}
    with pytest.raises(
        EngineFailed, match=f"answer wrongly: under {LOAD.case}: of the answers of replica 2 of 2, 16 of 16"
    ):
        launch(replace(TWO, options=wrong_under_load))


def test_replicas_that_are_all_wrong_do_not_agree_with_a_single_instance():
    """They do with each other: the single instance is none of them, and outside of what the pool sets up."""
    with pytest.raises(EngineFailed, match="replica 1 of 2 answers prompt 1 of 4 otherwise than a single instance"):
        launch(wrong_layer(TWO, 0))


def test_a_wrong_layer_in_a_real_replica_is_found_before_it_is_timed():
    """Two processes, one of which computes otherwise."""
    pytest.importorskip("ctranslate2")
    pool = EngineSpec("ctranslate2", "tiny-2x64", pool=Pool(2))
    with pytest.raises(EngineFailed, match=r"replica 2 of 2.* answers prompt 1 of 4 otherwise than a single instance"):
        launch(wrong_layer(pool, 2))
