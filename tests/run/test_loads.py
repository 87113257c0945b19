"""What is sent for a case, and when."""

import pytest

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.launch import RoundPolicy
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.core.sweeps.workload import ClosedLoop, OpenLoop, Replay, StaticBatch, Uniform
from pytest_slmperf.run.loads import load_of

POLICY = RoundPolicy(traffic_s=5.0, observed_requests=100)


def loaded(sweep, policy=POLICY, context_tokens=2048):
    """The load of its only case, and the note."""
    (case,) = sweep.cases(["m"])
    return load_of(sweep, case, context_tokens, policy)


def test_a_static_batch_has_no_arrivals():
    """Its requests are as many as the batch, sent at once."""
    load, note = loaded(Sweep("decode", StaticBatch(8, 4), batch_size=[3]))
    assert (load.lengths, load.arrivals, note) == (((8, 4),) * 3, None, None)


@pytest.mark.parametrize(("concurrency", "count"), [(1, 104), (100, 500)])
def test_a_closed_loop_has_enough_unlike_requests(concurrency, count):
    """Four turns of its places and what its percentiles need: then it begins again."""
    workload = ClosedLoop(Uniform(8, 16), 4, shared_prefix_tokens=2)
    load, _ = loaded(Sweep("serve", workload, concurrency=[concurrency]))
    assert len(load.lengths) == count
    assert (load.arrivals.concurrency, load.arrivals.due_s, load.shared_prefix_tokens) == (concurrency, (), 2)


@pytest.mark.parametrize(("rate", "burstiness"), [(0.5, 1.0), (2, 0.1), (50, 1.0), (50, float("inf"))])
def test_an_open_loop_lasts_until_its_percentiles_have_their_requests(rate, burstiness):
    """Half of it after the ramp is a window of the length that was asked for, with enough requests."""
    workload = OpenLoop(Uniform(8, 16), 4, burstiness=burstiness, ramp_s=4, max_concurrency=7)
    load, _ = loaded(Sweep("rate", workload, request_rate=[rate]))
    arrivals = load.arrivals
    assert len(arrivals.due_s) == len(load.lengths)
    assert (arrivals.concurrency, arrivals.ramp_s, arrivals.recorded) == (7, 4, False)
    last = arrivals.due_s[-1]
    assert last > 4 + 1.7 * max(5, 100 / rate)
    assert sum(at >= 4 + (last - 4) / 2 for at in arrivals.due_s) >= 0.9 * 100


def test_every_launch_sends_the_same_and_another_rate_another():
    """Both arms of a comparison get the very same requests at the very same times."""
    workload = OpenLoop(Uniform(8, 16), 4)
    two, same, three = (loaded(Sweep("rate", workload, request_rate=[rate]))[0] for rate in (20, 20, 30))
    assert two == same
    assert two.arrivals.due_s[0] / three.arrivals.due_s[0] != pytest.approx(1.5)


def test_a_replay_keeps_the_traces_times():
    """Scaled by the speed; what exceeds the context leaves its gap, and is told."""
    once, note = loaded(Sweep("replay", Replay(seconds=60, max_concurrency=9), speed=[1]), context_tokens=1024)
    twice, _ = loaded(Sweep("replay", Replay(seconds=60), speed=[2]), context_tokens=1024)
    assert "requests of the trace exceed its context of 1024 tokens and are left out" in note
    assert once.lengths == twice.lengths
    assert twice.arrivals.due_s == pytest.approx([at / 2 for at in once.arrivals.due_s])
    assert (once.arrivals.concurrency, once.arrivals.recorded) == (9, True)
    assert len(once.lengths) == len(once.arrivals.due_s)


@pytest.mark.parametrize(
    "sweep",
    [
        Sweep("rate", OpenLoop(8, 4), request_rate=[1e-9]),
        Sweep("rate", OpenLoop(8, 4, ramp_s=1e6), request_rate=[1]),
        Sweep("replay", Replay(), speed=[1e-4]),
    ],
)
def test_what_would_last_for_days_is_refused(sweep):
    """Before anything is sent, and with what helps: a unit is wrong."""
    with pytest.raises(SuiteError, match=r"would send for [\d,]+ hours, and at most 24 are taken: raise "):
        loaded(sweep)


@pytest.mark.parametrize(
    ("workload", "places", "size"),
    [
        (StaticBatch(8, 4), {"batch_size": [3]}, lambda load: len(load.lengths)),
        (ClosedLoop(8, 4), {"concurrency": [3]}, lambda load: load.arrivals.concurrency),
        (OpenLoop(8, 4), {"request_rate": [5]}, lambda load: round(len(load.arrivals.due_s), -2)),
    ],
)
def test_a_place_is_for_all_replicas_or_for_each(workload, places, size):
    """Of a fixed total, every variant is sent the same requests at the same times."""

    def loads(**of):
        sweep = Sweep("s", workload, **places, replicas=[1, 2], **of)
        return [load_of(sweep, case, 2048, RoundPolicy(traffic_s=100))[0] for case in sweep.cases(["m"])]

    one, two = loads()
    assert (one.lengths, one.seed, one.arrivals) == (two.lengths, two.seed, two.arrivals)
    one, two = loads(per_replica=True)
    assert size(two) == 2 * size(one)
