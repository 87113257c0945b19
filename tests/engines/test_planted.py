"""A planted loss takes away exactly the share that it says."""

import resource
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from pytest_slmperf.core.engine import Answer, EngineFacts, EngineSpec, Request, Served, StreamingEngine
from pytest_slmperf.core.errors import EngineUnavailable, UsageError
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.engines.planted import Slowed, sound
from pytest_slmperf.engines.registry import create

BATCH = (Request((16,) * 4, 4),)


class Steady:
    """Takes 20 ms for a batch, asleep."""

    def start(self):
        return EngineFacts("1", "simulated", "float32", "random", 64, 64)

    def serve(self, batch, *, observe):
        started_ns = time.monotonic_ns()
        time.sleep(0.02)
        ended_ns = time.monotonic_ns()
        self.lasted_ns = ended_ns - started_ns
        stamps = tuple(started_ns + (ended_ns - started_ns) * step // 4 for step in range(1, 5))
        return Served(started_ns, ended_ns, (4,) * len(batch), (stamps,) * len(batch) if observe else None)

    def stop(self):
        self.stopped = True


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2, 0.5, 0.89])
def test_a_batch_lasts_as_much_longer_as_the_loss_says(loss):
    """At a loss of 0.2 a batch lasts 1.25 times as long, and the time has really passed."""
    inner = Steady()
    engine = Slowed(inner, loss)
    best = 0.0
    for _ in range(50):
        began = time.monotonic_ns()
        served = engine.serve(BATCH, observe=False)
        assert began <= served.started_ns < served.ended_ns <= time.monotonic_ns()
        best = max(best, inner.lasted_ns / (served.ended_ns - served.started_ns))
        if best > 0.98 * (1 - loss):
            break  # other programs can only make a batch longer, and had their chance to
    assert best == pytest.approx(1 - loss, rel=0.03)


def test_the_core_is_busy_meanwhile():
    """The time is burnt, not slept: a sleeping core would cool down and save energy."""
    engine = Slowed(Steady(), 0.8)
    before = resource.getrusage(resource.RUSAGE_SELF)
    engine.serve(BATCH, observe=False)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime > 0.01


def test_token_times_move_in_proportion():
    """Each token is as much later as its batch is slower, and the last one is there before the end."""
    served = Slowed(Steady(), 0.5).serve(BATCH, observe=True)
    gaps = [later - sooner for sooner, later in pairwise((served.started_ns, *served.token_ns[0]))]
    assert gaps == pytest.approx([gaps[0]] * 4, rel=0.01)
    assert gaps[0] >= 2 * 0.005e9 * 0.99
    assert served.token_ns[0][-1] <= served.ended_ns


def test_the_rest_is_the_engines_own():
    """Facts, lengths and stopping pass through."""
    inner = Steady()
    engine = Slowed(inner, 0.1)
    assert engine.start() == inner.start()
    assert engine.serve(BATCH, observe=False).output_tokens == (4,)
    engine.stop()
    assert inner.stopped


@pytest.mark.parametrize("loss", [-0.1, 0.9, 1.0])
def test_an_impossible_loss_is_refused(loss):
    """A loss is a share below 0.9."""
    with pytest.raises(EngineUnavailable, match=r"planted loss of .* is impossible"):
        create(EngineSpec("fake", "tiny", planted_loss=loss))


def test_a_loss_that_is_no_number_is_refused():
    """NaN compares false with every limit: it's refused where an engine is described."""
    with pytest.raises(UsageError, match="'planted_loss' of an engine: nan is no finite number"):
        EngineSpec("fake", "tiny", planted_loss=float("nan"))


def test_what_is_planted_can_be_taken_out():
    """Of the engine, or of the one replica that has it."""
    plain = EngineSpec("fake", "tiny", pool=Pool(2))
    assert sound(replace(plain, planted_loss=0.2)) == plain
    assert sound(replace(plain, planted_loss=0.2, pool=Pool(2, slowed_replica=2))) == plain
    assert sound(replace(plain, planted_loss=0.2, pool=None)) == replace(plain, pool=None)


def test_an_engine_that_streams_goes_on_to_stream():
    """Its own answers and counters: who sends to it slows its clock. One that doesn't stream isn't made to."""
    engine = create(EngineSpec("fake", "tiny", planted_loss=0.2))
    engine.start()
    stamped = []
    assert isinstance(engine, StreamingEngine)
    assert engine.run(engine.stream(BATCH[0], stamped.append)) == Answer(4, 4)
    assert stamped == [1, 1, 1, 1]
    assert engine.run(engine.counters())["running"] == 0
    engine.stop()
    assert not isinstance(Slowed(Steady(), 0.2), StreamingEngine)
