"""The testing server's latency model, and the truth that it keeps of it."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import log
from statistics import median, quantiles

import pytest
from asking import ask, request

from pytest_slmperf.testing.server import Options
from pytest_slmperf.testing.server.batching import Batch, Job

MS = 1_000_000


def served(options, *jobs, later=()):
    """What the model has each job's tokens due at, those of `later` entering when the first has its third token."""

    async def run():
        batch = Batch(Options(**options))
        running = asyncio.create_task(batch.run())
        due = {}

        async def collect(job):
            due[id(job)] = [await job.tokens.get() for _ in range(job.limit)]

        for job in jobs:
            batch.enter(job)
        collecting = [asyncio.create_task(collect(job)) for job in (*jobs, *later)]
        if later:
            while jobs[0].generated < 3:
                await asyncio.sleep(0.0005)
            for job in later:
                batch.enter(job)
        await asyncio.gather(*collecting)
        running.cancel()
        return [due[id(job)] for job in (*jobs, *later)], batch.counts

    return asyncio.run(run())


def gaps_ms(due_ns):
    """From token to token."""
    return [(after - before) / MS for before, after in pairwise(due_ns)]


def job(tokens, prompt=10):
    return Job(list(range(prompt)), tokens)


def test_a_prompt_and_each_token_take_their_time():
    """The first token comes after a step with the whole prompt in it, each further one after a step."""
    alone = job(10, prompt=100)
    ((*due,),), _ = served({"step_s": 0.004, "prefill_token_s": 0.0001}, alone)
    assert due[0] - alone.admitted_ns == pytest.approx(14 * MS, rel=1e-6)
    assert median(gaps_ms(due)) == pytest.approx(4)


def test_a_step_takes_the_longer_the_more_requests_run():
    """Each of them has a token of each step."""
    due, _ = served({"step_s": 0.003, "step_request_s": 0.0005, "prefill_token_s": 0}, *(job(12) for _ in range(5)))
    assert all(one == due[0] for one in due)
    assert median(gaps_ms(due[0])) == pytest.approx(5)


def test_a_long_prompt_may_take_several_steps():
    """Those who run already have their tokens meanwhile, in steps that take longer."""
    options = {"step_s": 0.002, "step_request_s": 0, "prefill_token_s": 0.0001, "prefill_tokens_per_step": 50}
    early, late = job(30, prompt=10), job(2, prompt=100)
    (due, due_late), _ = served(options, early, later=[late])
    assert 7 in [round(gap, 3) for gap in gaps_ms(due)]
    assert due_late[0] in due


def test_who_finds_no_room_waits():
    """In the order in which they came, till the batch has room."""
    first, second, third = (job(tokens) for tokens in (3, 6, 2))
    due, _ = served({"step_s": 0.002, "max_batch": 2}, first, second, third)
    assert third.admitted_ns >= due[0][-1]
    assert due[2][0] < due[1][-1]


def test_the_youngest_gives_way_where_memory_runs_out():
    """It is put off, has its tokens later, and is counted."""
    options = {"step_s": 0.002, "kv_tokens": 40}
    due, counts = served(options, job(15), job(15))
    assert counts.preemptions == 1
    assert due[1][-1] > due[0][-1]


def test_a_prompt_that_is_known_costs_no_prefill():
    """But its last token, by blocks of 16, and those of another prompt are other ones."""
    options = {"step_s": 0.001, "prefill_token_s": 0.001, "prefix_cache": True}
    known, other = job(2, prompt=40), Job(list(range(1, 41)), 2)
    _, counts = served(options, job(5, prompt=40), later=[known, other])
    assert (known.cached, other.cached) == (32, 0)
    assert (counts.cached_tokens, counts.queried_tokens) == (32, 120)


def test_noise_is_of_the_size_that_is_asked_for_and_repeatable():
    """Log-normal, step by step, from the seed."""
    gaps, again, other = (
        gaps_ms(served({"step_s": 0.002, "noise": 0.2, "prefill_token_s": 0, "seed": seed}, job(150))[0][0])
        for seed in (1, 1, 2)
    )
    # By medians and quartiles, since a busy machine may delay a step.
    first, _, third = quantiles(map(log, gaps), n=4)
    assert (third - first) / 1.349 == pytest.approx(0.2, abs=0.06)
    assert median(gaps) == pytest.approx(2, rel=0.1)
    assert median(abs(a - b) for a, b in zip(gaps, again, strict=True)) < 1e-5
    assert median(abs(a - b) for a, b in zip(gaps, other, strict=True)) > 0.1


def test_the_truth_is_what_was_sent(serve):
    """A client reads each token after the server sent it, and soon; the model's times are kept beside."""
    server = serve(step_s=0.01, prefill_token_s=0.0002)
    began_ns = time.monotonic_ns()
    answer = ask(server, tokens=8, prompt=range(100))
    (truth,) = server.received(1)
    assert began_ns < truth.received_ns <= truth.admitted_ns < truth.prefilled_ns <= truth.chunk_ns[0]
    assert truth.prefilled_ns - truth.admitted_ns == pytest.approx(30 * MS, rel=1e-6)
    assert len(truth.chunk_ns) == truth.output_tokens == truth.asked_tokens == 8
    assert truth.id == answer.events[0]["id"]
    assert truth.ttft_ns == truth.chunk_ns[0] - truth.received_ns
    assert all(sent < read for sent, read in zip(truth.chunk_ns, answer.at_ns, strict=False))
    assert truth.chunk_ns[-1] < truth.ended_ns
    assert (truth.prompt_tokens, truth.status, truth.faults, truth.streamed) == (100, 200, (), True)
    assert truth.chunk_ns[0] - truth.prefilled_ns <= truth.late_ns


def test_requests_share_the_batch(serve):
    """Many at once are served together, and /metrics says how many run and wait."""
    server = serve(step_s=0.005, max_batch=4)
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(ask, server, tokens=120) for _ in range(6)]
        seen = []
        while not all(answer.done() for answer in answers):
            seen.append(metrics(server))
            time.sleep(0.02)
    assert {len(answer.result().tokens) for answer in answers} == {120}
    assert (4, 2) in [(one["vllm:num_requests_running"], one["vllm:num_requests_waiting"]) for one in seen]
    assert metrics(server)["vllm:num_requests_running"] == 0
    received = server.received(6)
    assert [one.index for one in received] == [1, 2, 3, 4, 5, 6]
    assert sorted(one.admitted_ns - one.received_ns > 300 * MS for one in received) == [False] * 4 + [True] * 2


def test_usage_tells_of_the_prefix_cache_where_there_is_one(serve):
    """And /metrics counts."""
    server = serve(prefix_cache=True)
    prompt = range(40)
    cached = [ask(server, prompt=prompt).usage["prompt_tokens_details"]["cached_tokens"] for _ in range(2)]
    assert cached == [0, 32]
    counted = metrics(server)
    assert (counted["vllm:prefix_cache_hits_total"], counted["vllm:prefix_cache_queries_total"]) == (32, 80)
    assert [one.cached_tokens for one in server.received(2)] == [0, 32]


def metrics(server):
    """By name, without labels."""
    text = request(server, "/metrics").body.decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.partition("{")[0].split()[0]: float(line.split()[-1]) for line in lines}
