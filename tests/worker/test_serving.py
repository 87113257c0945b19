"""One case in an engine's process: what is sent, what is counted, and what is refused."""

from dataclasses import replace

import pytest

from pytest_slmperf.core.engine import EngineSpec, Request, Served
from pytest_slmperf.core.launch import Load
from pytest_slmperf.engines import fake
from pytest_slmperf.worker.memory import forget_peak, peak_bytes
from pytest_slmperf.worker.serving import Case, WrongAnswer, check

MIB = 1 << 20
LOAD = Load("case", ((8, 4), (16, 6)), seed=1)
REQUESTS = (Request((16,) * 8, 4), Request((16,) * 16, 6))
GOOD = Served(100, 200, (4, 6), ((101, 102, 103, 104), (101, 102, 103, 104, 150, 200)))


def case_of(**options):
    engine = fake.create(EngineSpec("fake", "tiny", options=options))
    return Case(engine, LOAD, replace(engine.start(), vocabulary=1024))


class SilentOnMemory:
    """The simulated engine, but it doesn't say its peak."""

    def __init__(self):
        self._engine = fake.create(EngineSpec("fake", "tiny"))
        self.start, self.stop = self._engine.start, self._engine.stop

    def serve(self, batch, *, observe):
        return replace(self._engine.serve(batch, observe=observe), peak_memory_bytes=None)


def test_a_round_counts_the_work_of_all_its_batches():
    """Requests and tokens of the whole round, from its begin to its end, and no token times unless asked for."""
    measured = case_of().round(3, observe=False)
    assert (measured.requests, measured.prompt_tokens, measured.output_tokens) == (6, 72, 30)
    assert measured.ended_ns > measured.started_ns
    assert measured.observed == ()


def test_the_batches_of_a_round_are_marked_where_that_is_asked_for():
    """Each with its begin and end, one after the other, and without the cost of observing."""
    measured = case_of(observing_cost=1).round(3, observe=False, marks=True)
    assert len(measured.marks) == 3
    assert (measured.marks[0][0], measured.marks[-1][1]) == (measured.started_ns, measured.ended_ns)
    assert measured.observed == ()
    assert case_of().round(3, observe=False).marks == ()


def test_an_observed_round_brings_every_batch_back():
    """With the time of every token."""
    measured = case_of().round(3, observe=True)
    assert len(measured.observed) == 3
    assert all(batch.token_ns for batch in measured.observed)


def test_a_cold_engine_is_warmed_up_until_its_pace_is_steady():
    """The batches of a round are counted by the warm pace, not by the first."""
    prepared = case_of(cold=2).prepare(0.1, 50)
    assert prepared.steady
    assert 5 < prepared.steps < 20
    assert prepared.batches == 15  # of 6.5 ms each


def test_warming_up_ends_at_its_limit():
    """An engine that never settles is measured, and said not to be steady."""
    prepared = case_of(cold=1000).prepare(0.1, 4)
    assert (prepared.steps, prepared.steady) == (4, False)


def test_a_steady_engine_is_warmed_up_briefly():
    """Three steps that agree are enough."""
    assert case_of().prepare(0.1, 50).steps == 3


def test_the_engines_own_word_on_memory_is_taken_of_the_whole_batch():
    """The peak is that of all requests at once, and not the process's."""
    assert case_of(memory_bytes=1000, memory_bytes_per_token=1).measure_peak().memory_bytes == 1034


@pytest.mark.parametrize("device", ["cuda", "simulated"])
def test_the_processs_memory_is_not_taken_for_that_of_another_device(device):
    """Where the engine doesn't say what it takes of its device, the peak has no value, and the reason is given."""
    engine = SilentOnMemory()
    measured = Case(engine, LOAD, replace(engine.start(), device=device)).measure_peak()
    assert measured.memory_bytes is None
    assert f"memory of the device ({device})" in measured.reason


def test_a_servers_memory_is_not_that_of_the_process_that_asks_it():
    """An engine whose work another process does says its peak, or it is unmeasured on the CPU, too."""
    engine = SilentOnMemory()
    facts = replace(engine.start(), device="cpu", own_process=False)
    assert Case(engine, LOAD, facts).measure_peak().memory_bytes is None


def test_the_processs_memory_is_taken_on_a_cpu():
    """There an engine that doesn't say its peak has it from the kernel."""
    engine = SilentOnMemory()
    assert Case(engine, LOAD, replace(engine.start(), device="cpu")).measure_peak().memory_bytes > MIB


def test_the_kernels_high_water_mark_is_forgotten_and_rises_again():
    """So the peak of one case isn't that of the one before."""
    assert forget_peak() is None
    before = peak_bytes()
    block = bytearray(64 * MIB)
    block[::4096] = b"x" * len(block[::4096])
    del block
    assert 60 * MIB < peak_bytes() - before < 80 * MIB
    forget_peak()
    assert peak_bytes() - before < 20 * MIB


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (replace(GOOD, output_tokens=(4, 5)), "generated 5 tokens for request 2 of 2, which asked for 6"),
        (replace(GOOD, output_tokens=(4,)), "answered 1 requests where 2 were sent"),
        (replace(GOOD, ended_ns=100), "took no time"),
        (replace(GOOD, token_ns=None), "not every token has its time"),
        (replace(GOOD, token_ns=(GOOD.token_ns[0], (101, 200))), "not every token has its time"),
        (replace(GOOD, started_ns=105), "before its batch began"),
        (replace(GOOD, ended_ns=150), "after its batch ended"),
        (replace(GOOD, token_ns=(GOOD.token_ns[0], (101, 102, 103, 150, 104, 200))), "out of order"),
    ],
)
def test_an_answer_that_cannot_be_is_refused(wrong, complaint):
    """Whatever is wrong with counts or times is told, and nothing is measured of it."""
    with pytest.raises(WrongAnswer, match=complaint):
        check(REQUESTS, wrong, observe=True)


def test_a_good_answer_is_taken():
    """With token times, and without them where they weren't asked for."""
    check(REQUESTS, GOOD, observe=True)
    check(REQUESTS, replace(GOOD, token_ns=None), observe=False)
