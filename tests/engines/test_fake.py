"""The fake engine keeps to its simple model, and goes wrong as it is told."""

import math
import os
import statistics
import time
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.answers import NOT_FINITE
from pytest_slmperf.core.engine import EngineSpec, Request
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable
from pytest_slmperf.core.launch import LAUNCH_VARIABLE, REPLICA_VARIABLE
from pytest_slmperf.core.load.prompts import prompts
from pytest_slmperf.engines.fake import Behaviour, behaviour, create

NO_PROMPT_COST = 1e12


def started(**options):
    engine = create(EngineSpec("fake", "tiny", options=options))
    engine.start()
    return engine


def batch(size, prompt_tokens=32, output_tokens=32):
    return (Request((16,) * prompt_tokens, output_tokens),) * size


def throughput(engine, size, batches=1):
    served = [engine.serve(batch(size), observe=False) for _ in range(batches)]
    return sum(map(sum, (one.output_tokens for one in served))) / (served[-1].ended_ns - served[0].started_ns) * 1e9


def test_its_memory_may_stay_untold():
    """As that of an engine on a GPU."""
    assert started().serve(batch(1), observe=False).peak_memory_bytes
    assert started(tells_memory=False).serve(batch(1), observe=False).peak_memory_bytes is None


def test_one_request_alone_gets_the_level():
    """Its output tokens per second are the option's, where prompts cost nothing."""
    assert throughput(started(level=250, prefill_level=NO_PROMPT_COST), 1) == pytest.approx(250, rel=1e-6)


def test_throughput_grows_with_the_batch_and_levels_off_at_the_knee():
    """At the knee it is half of its limit, which is the level times the knee."""
    engine = started(level=1000, knee=16, prefill_level=NO_PROMPT_COST)
    by_size = {size: throughput(engine, size) for size in (1, 4, 16, 64, 256, 4096)}
    assert list(by_size.values()) == sorted(by_size.values())
    assert by_size[4] > 3 * by_size[1]
    assert by_size[16] == pytest.approx(16_000 / 2, rel=0.05)
    assert by_size[4096] == pytest.approx(16_000, rel=0.01)


def test_a_prompt_costs_time_before_the_first_token():
    """It is read at the prefill level, and the tokens after the first come at the engine's pace."""
    served = started(level=1000, prefill_level=10_000).serve(batch(1, prompt_tokens=500), observe=True)
    assert served.token_ns[0][0] - served.started_ns == pytest.approx(51e6, rel=1e-6)
    assert served.token_ns[0][1] - served.token_ns[0][0] == pytest.approx(1e6, rel=1e-6)


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=8))
def test_every_request_gets_its_tokens_one_after_the_other(lengths):
    """For any lengths of prompts and answers, none before the batch began, and the last one ends it."""
    requests = tuple(Request((16,) * prompt, output) for prompt, output in lengths)
    served = started().serve(requests, observe=True)
    assert served.output_tokens == tuple(output for _, output in lengths)
    assert tuple(map(len, served.token_ns)) == served.output_tokens
    for times in served.token_ns:
        assert list(times) == sorted(times)
        assert served.started_ns < times[0]
    assert max(times[-1] for times in served.token_ns) == served.ended_ns


def test_a_request_that_has_finished_speeds_the_others_up():
    """The pace is that of the requests that are still there, not of the batch as it was sent."""
    engine = started(level=1000, knee=1, prefill_level=NO_PROMPT_COST)
    served = engine.serve((Request((16,), 10), Request((16,), 20)), observe=True)
    first, second = served.token_ns[1][9], served.token_ns[1][19]
    assert second - first == pytest.approx((first - served.started_ns) / 2, rel=1e-6)


def test_a_thousand_simulated_batches_take_no_time():
    """They are computed, not waited for, so a test of a suite is quick."""
    engine = started(level=100)
    began = time.perf_counter()
    throughput(engine, 16, batches=1000)
    assert time.perf_counter() - began < 1


def test_time_stands_still_between_batches():
    """Whatever the caller does in between is in no round."""
    engine = started()
    first = engine.serve(batch(1), observe=False)
    time.sleep(0.01)
    assert engine.serve(batch(1), observe=False).started_ns == first.ended_ns


def test_noise_spreads_the_pace_from_one_tenth_of_a_second_to_the_next():
    """Its standard deviation is the option's share, around the level."""
    engine = started(level=200, noise=0.05, seed=1, prefill_level=NO_PROMPT_COST)
    paces = [throughput(engine, 1) for _ in range(400)]
    assert statistics.stdev(paces) / statistics.mean(paces) == pytest.approx(0.05, rel=0.2)
    assert statistics.median(paces) == pytest.approx(200, rel=0.02)


def test_launches_differ_by_the_launch_noise(monkeypatch):
    """The spread between launches is the option's share of the pace."""
    paces = []
    for index in range(300):
        monkeypatch.setenv(LAUNCH_VARIABLE, f"candidate/{index}")
        paces.append(throughput(started(level=1000, launch_noise=0.03, seed=7), 1))
    assert statistics.stdev(paces) / statistics.mean(paces) == pytest.approx(0.03, rel=0.2)


def test_a_seed_repeats_a_run_launch_by_launch(monkeypatch):
    """With the same seed each launch is what it was, and none is like another."""

    def run():
        paces = []
        for launch in ("candidate/0", "baseline/1", "candidate/2"):
            monkeypatch.setenv(LAUNCH_VARIABLE, launch)
            paces.append(throughput(started(noise=0.05, launch_noise=0.05, seed=3), 4, batches=5))
        return paces

    assert run() == run()
    assert len(set(run())) == 3


def test_without_a_seed_every_launch_is_new():
    """Two runs of the same command scatter as two of a real engine."""
    assert len({throughput(started(launch_noise=0.05), 1) for _ in range(5)}) == 5


def test_drift_changes_the_pace_with_each_launch(monkeypatch):
    """By the option's share from each to the next, as a machine that grows hot."""
    paces = []
    for index in (0, 1, 2):
        monkeypatch.setenv(LAUNCH_VARIABLE, f"candidate/{index}")
        paces.append(throughput(started(level=1000, drift=-0.1, prefill_level=NO_PROMPT_COST), 1))
    assert paces == pytest.approx([1000, 900, 810])


def test_a_cold_engine_warms_up():
    """Its first batch takes the option's times as long, and each later one less."""
    engine = started(cold=3)
    seconds = [1 / throughput(engine, 1) for _ in range(12)]
    assert seconds[0] == pytest.approx(3 * seconds[-1], rel=0.01)
    assert seconds == sorted(seconds, reverse=True)


def test_observing_costs_what_it_is_told_to():
    """The option's share of a batch's time, and only where token times are asked for."""
    engine = started(observing_cost=0.25)
    plain, observed = engine.serve(batch(1), observe=False), engine.serve(batch(1), observe=True)
    assert plain.token_ns is None
    assert observed.ended_ns - observed.started_ns == pytest.approx(
        1.25 * (plain.ended_ns - plain.started_ns), rel=1e-6
    )


def test_memory_grows_with_the_tokens_of_a_batch_up_to_its_limit():
    """Beyond it the batch fails as that of a real engine, with what it needed and what was there."""
    engine = started(memory_bytes=1000, memory_bytes_per_token=10, memory_limit_bytes=2000)
    assert engine.serve(batch(1, 32, 32), observe=False).peak_memory_bytes == 1640
    with pytest.raises(MemoryError, match="2,280 bytes are needed and 2,000 are there"):
        engine.serve(batch(2, 32, 32), observe=False)


def test_its_facts_say_that_it_is_simulated():
    """So its baselines are never taken for those of a real device; the rest is as the options say."""
    facts = create(EngineSpec("fake", "tiny", dtype="int8", options={"vocabulary": 99, "startup_s": 2.0})).start()
    assert (facts.device, facts.dtype, facts.vocabulary, facts.startup_s) == ("simulated", "int8", 99, 2.0)


def test_a_fault_comes_in_its_batch_and_not_before():
    """The batches before the option's number are served as ever."""
    engine = started(fault="raises", fault_batch=3)
    throughput(engine, 1, batches=2)
    with pytest.raises(EngineFailed, match="told to fail"):
        engine.serve(batch(1), observe=False)


def test_short_answers_lack_one_token():
    """The first request of the batch gets one less than it asked for, and the others all."""
    assert started(fault="short", fault_batch=1).serve(batch(2), observe=False).output_tokens == (31, 32)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"levle": 3}, "no option levle; it has level, knee"),
        ({"fault": "sulks"}, "no fault 'sulks'; it has unavailable, raises"),
    ],
)
def test_an_unknown_option_is_refused_with_the_known_ones(options, complaint):
    """A slip of the pen is no option that does nothing."""
    with pytest.raises(EngineUnavailable, match=complaint):
        behaviour(options)


@pytest.mark.parametrize(
    ("option", "value", "takes"),
    [
        ("level", -3, "a number above 0"),
        ("level", math.nan, "a number above 0"),
        ("knee", "16 requests", "a number above 0"),
        ("drift", -1, "a number above -1"),
        ("noise", -0.1, "a number, at least 0, at most 1"),
        ("noise", True, "a number, at least 0, at most 1"),
        ("launch_noise", 1e300, "a number, at least 0, at most 1"),
        ("startup_s", math.inf, "a number, at least 0"),
        ("fault_batch", 1.5, "a whole number, at least 0"),
        ("vocabulary", 0, "a whole number, at least 1"),
        ("seed", 0.5, "a whole number"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_the_option_takes(option, value, takes):
    """The refusal names the option, its value and its bounds."""
    with pytest.raises(EngineUnavailable) as raised:
        behaviour({option: value})
    assert str(raised.value) == f"the fake engine: {option}={value!r}; it takes {takes}"


@pytest.mark.parametrize("options", [{"level": 1e300}, {"level": 1e-300}, {"drift": 1e300}, {"drift": -0.9999}])
def test_a_pace_that_a_clock_cannot_show_is_refused(options, monkeypatch):
    """A round of batches without a duration would never end, so the launch that would be so fast, or slow, says so."""
    monkeypatch.setenv(LAUNCH_VARIABLE, "candidate/3")
    with pytest.raises(EngineUnavailable, match=r"put launch 3 outside 1e-06 to 1e[+]07 tokens per second"):
        started(**options)


@given(st.sampled_from([field.name for field in fields(Behaviour)]))
def test_every_default_is_a_value_that_the_option_takes(name):
    """To state a default changes nothing."""
    default = getattr(Behaviour(), name)
    if default is not None:
        assert behaviour({name: default}) == Behaviour()


def test_in_real_time_a_batch_lasts_as_long_as_is_said_of_it():
    """The stamps are those of the machine's clock, and the batch is as long as its simulated one."""
    engine = started(real_time=True, level=1000)
    before_ns = time.monotonic_ns()
    served = [engine.serve(batch(1), observe=False) for _ in range(3)]
    assert before_ns <= served[0].started_ns
    assert served[-1].ended_ns <= time.monotonic_ns()
    assert all(one.ended_ns - one.started_ns == pytest.approx(32.32e6, rel=1e-3) for one in served)


def test_a_load_log_tells_when_the_board_is_busy(tmp_path):
    """It has the process, the instant and the load at the begin and at the end of each batch."""
    log = tmp_path / "load"
    engine = started(real_time=True, load_log=str(log), load=0.5)
    served = engine.serve(batch(1), observe=False)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [(int(pid), float(load)) for pid, _, load in lines] == [(os.getpid(), load) for load in (0, 0.5, 0)]
    assert [int(at) for _, at, _ in lines[1:]] == [served.started_ns, served.ended_ns]


def test_a_load_log_of_simulated_time_is_refused():
    """Its instants would be none of the board's; the refusal names the option that helps."""
    with pytest.raises(EngineUnavailable, match="add real_time=true"):
        behaviour({"load_log": "somewhere"})


@pytest.mark.parametrize("options", [{"real_time": 1}, {"load_log": 3, "real_time": True}], ids=str)
def test_a_truth_and_a_text_are_told_from_numbers(options):
    """1 is not true, and 3 is no name of a file."""
    with pytest.raises(EngineUnavailable, match=r"it takes (true or false|a text)"):
        behaviour(options)


# The tokens of its answers

PROMPTS = prompts([(8, 6), (12, 6), (20, 4)], vocabulary=1024, seed=1)


def test_answers_belong_to_a_model_and_a_prompt():
    """Whoever else is in the batch, and in every process; another model answers otherwise."""
    told = started().answer(PROMPTS)
    assert told == tuple(answer for one in PROMPTS for answer in started().answer([one]))
    assert [len(answer) for answer in told] == [6, 6, 4]
    other = create(EngineSpec("fake", "other")).answer(PROMPTS)
    assert not set(told) & set(other)


def test_a_share_of_the_answers_parts_where_batches_round():
    """Of those in a batch, and of none alone; the same batch always rounds alike."""
    many = prompts([(8, 16)] * 200, vocabulary=1024, seed=2)
    exact, rounds = started(), started(rounding=0.3)
    parted = sum(one != other for one, other in zip(rounds.answer(many), exact.answer(many), strict=True))
    assert 40 < parted < 80
    assert rounds.answer(many) == started(rounding=0.3).answer(many)
    assert rounds.answer(many[:1]) == exact.answer(many[:1])


@pytest.mark.parametrize(
    ("planted", "here", "wrong"), [(2, "2", True), (2, "1", False), (0, "1", True), (2, None, False)]
)
def test_a_wrong_replica_answers_as_another_model_would(monkeypatch, planted, here, wrong):
    """It alone, or all of a pool, and nobody who is no replica."""
    monkeypatch.delenv(REPLICA_VARIABLE, raising=False)
    if here:
        monkeypatch.setenv(REPLICA_VARIABLE, here)
    engine = started(wrong_replica=planted)
    monkeypatch.delenv(REPLICA_VARIABLE, raising=False)  # its environment is its own only while it is made
    assert (engine.answer(PROMPTS) != started().answer(PROMPTS)) is wrong


def test_a_wrong_replica_may_be_so_in_large_batches_alone(monkeypatch):
    """As one whose kernels for them are broken: constant, too short, or no numbers."""
    monkeypatch.setenv(REPLICA_VARIABLE, "1")
    of = {how: started(wrong_replica=1, wrong_from=2, wrong_answers=how) for how in ("constant", "short", "not_finite")}
    assert all(engine.answer(PROMPTS[:1]) == started().answer(PROMPTS[:1]) for engine in of.values())
    assert all(len(set(answer)) == 1 for answer in of["constant"].answer(PROMPTS))
    assert [len(answer) for answer in of["short"].answer(PROMPTS)] == [5, 5, 3]
    assert set(of["not_finite"].answer(PROMPTS)[0]) == {NOT_FINITE}
    with pytest.raises(EngineUnavailable, match="no wrong_answers 'odd'; it has layer, constant"):
        started(wrong_answers="odd")
