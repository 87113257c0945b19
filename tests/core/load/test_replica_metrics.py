"""What each replica does, in figures of its own, and whose loss a loss is."""

from dataclasses import replace

import pytest

from pytest_slmperf.core.engine import ReplicaWork, work_of
from pytest_slmperf.core.load.replica_metrics import blamed, of_batches, of_traffic
from pytest_slmperf.core.load.traffic import Exchange
from pytest_slmperf.core.load.window import Window
from pytest_slmperf.core.metrics import metric, of_any_replica
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import Status, Verdict

SECOND = 1_000_000_000
REGRESSED = Verdict(Status.REGRESSED, "output_throughput", "tok/s", higher_is_better=True)


def work(*seconds, tokens=(100, 100)):
    """What two replicas did in a round that took each so long."""
    return [
        ReplicaWork(f"replica {number} of 2 (core {number})", own, int(lasted * SECOND))
        for number, (own, lasted) in enumerate(zip(tokens, seconds, strict=True), 1)
    ]


def rates(*values):
    """Samples of each replica's own throughput, with the metric of their balance."""
    own = {f"replica_{number}_output_throughput": Sample.of([[value]]) for number, value in enumerate(values, 1)}
    return {**own, "replica_balance": Sample.of([[1.0]])}


def test_each_replica_has_a_throughput_of_its_own():
    """Its own tokens over its own time, one value a round; the slowest over the others is their balance."""
    values, notes = of_batches([work(1.0, 1.0), work(1.0, 1.02)])
    assert values["replica_1_output_throughput"] == (100.0, 100.0)
    assert values["replica_2_output_throughput"] == pytest.approx((100.0, 100 / 1.02))
    assert values["replica_balance"] == pytest.approx((1.0, 1 / 1.02))
    assert notes == []


def test_a_replica_that_is_behind_the_others_is_named():
    """With by how much."""
    _, notes = of_batches([work(1.0, 1.25)])
    words = "replica 2 of 2 (core 2) is behind: it generates 80 tok/s while it serves, 20% less than the others"
    assert notes == [words]


def test_one_replica_alone_has_no_figures_of_its_own():
    """They would be those of the pool, under another name; what it failed is still told."""
    assert of_batches([work(1.0, 1.0)[:1]]) == ({}, [])
    values, notes = of_traffic([exchange(1, at, 1.0, "refused" * (at == 4)) for at in range(8)], Window(0, 10 * SECOND))
    assert values == {}
    assert notes == ["replica 1 failed requests, 1 of 8: refused"]


def test_replicas_with_unlike_parts_are_not_compared():
    """A part of another size is another batch size, and as fast as that."""
    values, notes = of_batches([work(1.0, 1.0, tokens=(100, 50))])
    assert "replica_balance" not in values
    assert notes == []


def test_an_engine_without_replicas_has_none_of_these_figures():
    """Nor has a load of which no round was timed."""
    assert of_batches([[], []]) == ({}, [])
    assert of_batches([]) == ({}, [])
    assert work_of([(), ()]) == ()


def test_the_work_of_several_batches_is_added_up_by_replica():
    """Tokens and time."""
    assert work_of([work(1, 2), work(1, 1)]) == (
        ReplicaWork("replica 1 of 2 (core 1)", 200, 2 * SECOND),
        ReplicaWork("replica 2 of 2 (core 2)", 200, 3 * SECOND),
    )


def exchange(replica, sent_s, lasted_s, error=""):
    sent_ns, first_ns, ended_ns = (int(at * SECOND) for at in (sent_s, sent_s + lasted_s / 10, sent_s + lasted_s))
    stamps = () if error else (first_ns, ended_ns)
    return Exchange(sent_ns, sent_ns, ended_ns, stamps, 8, 0 if error else 2, 2, error=error, replica=replica)


def test_requests_that_came_one_by_one_are_counted_by_replica():
    """In the window alone, with who failed some, and whose answers take longer."""
    window = Window(0, 10 * SECOND)
    sent = [exchange(1, at, 1.0) for at in range(8)] + [exchange(2, at, 2.0) for at in range(8)]
    values, notes = of_traffic([*sent, exchange(2, 3, 1, "refused"), exchange(1, 20, 1)], window)
    assert values["replica_1_request_throughput"] == 0.8
    assert values["replica_2_output_throughput"] == 1.6
    assert values["replica_2_median_ttft_ms"] == pytest.approx(200)
    assert notes == [
        "replica 2 failed requests, 1 of 9: refused",
        "replica 2 is behind: its answers take 100% longer a token than the others'",
    ]
    assert of_traffic([exchange(0, 1, 1)], window) == ({}, [])


def test_a_replicas_own_figures_are_metrics():
    """With the unit and direction of the whole's."""
    own = metric("replica_12_output_throughput")
    assert (own.name, own.unit, own.higher_is_better) == ("replica_12_output_throughput", "tok/s", True)
    assert own.meaning.endswith("of replica 12 alone")
    assert metric("replica_1_median_ttft_ms").unit == "ms"


def test_the_figures_of_all_replicas_have_one_name():
    """A line of a summary has it once, whatever their number."""
    names = ["replica_1_output_throughput", "replica_12_output_throughput", "replica_balance", "replica_1_startup_s"]
    assert {*map(of_any_replica, names)} == {"replica_…_output_throughput", *names[2:]}


@pytest.mark.parametrize(
    ("now", "was", "reason"),
    [
        ((100, 80), (100, 100), "not all 2 replicas have lost alike: replica 2 -20.0%, the others +0.0%"),
        ((80, 80), (100, 100), ""),
        ((100, 80), (100, 80), ""),
        ((100, 80), (), "replica 2 is 20.0% behind the others"),
        ((100, 80, 70), (100, 100, 100), "not all 3 replicas have lost alike: replica 2 -20.0%, replica 3 -30.0%, "),
    ],
)
def test_a_loss_names_the_replicas_whose_it_is(now, was, reason):
    """Each is held to itself in the baseline, and to the others where that has no figure of it."""
    said = blamed(REGRESSED, rates(*now), rates(*was)).reason
    assert said.startswith(reason)
    assert bool(said) == bool(reason)


def test_what_is_said_already_stays():
    """And a verdict that is no loss blames nobody."""
    confirmed = replace(REGRESSED, reason="confirmed")
    assert blamed(confirmed, rates(100, 80), rates(100, 100)).reason.startswith("confirmed; not all")
    unchanged = replace(REGRESSED, status=Status.UNCHANGED)
    assert blamed(unchanged, rates(100, 80), rates(100, 100)) == unchanged
    unlike = {name: sample for name, sample in rates(100, 80).items() if name != "replica_balance"}
    assert blamed(REGRESSED, unlike, {}) == REGRESSED


def test_what_other_machines_clocks_leave_unsure_is_said():
    """A round may begin by one clock and end by another; launches say the same, and none of this machine's."""
    works = [
        ReplicaWork(f"replica {number} of 2", 100, 100_000_000, error_ns) for number, error_ns in ((1, 0), (2, 600_000))
    ]
    notes = of_batches([works])[1]
    assert notes == ["replicas' times come from other machines' clocks: throughput may be off by 0.02 of itself"]
    assert of_batches([[replace(one, clock_error_ns=0) for one in works]])[1] == []
