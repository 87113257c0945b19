"""Joules of several machines: each node's meter by its own clock, on a real Ray cluster of two nodes."""

import threading
import time
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import pytest
from powercap import Powercap

from pytest_slmperf.core.devices.edges import Edge, EnergyTrace, Look
from pytest_slmperf.core.devices.remote_clock import RemoteClock, trace_here
from pytest_slmperf.core.energy.tally import Work
from pytest_slmperf.core.energy.window import Energy, Terms, energy_of
from pytest_slmperf.core.errors import MeterUnavailable
from pytest_slmperf.core.meter import Recording
from pytest_slmperf.engines.server import free_port
from pytest_slmperf.meters.rapl import RaplMeter
from pytest_slmperf.pool.node_meters import ClusterMeter, summed
from pytest_slmperf.pool.ray import Cluster
from pytest_slmperf.run.metering import open_ray

on_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray isn't installed: tox run -e ray")
MS_NS = 1_000_000
S_NS = 1000 * MS_NS
STEPS = tuple(Work(at * 10 * MS_NS, (at + 1) * 10 * MS_NS, output_tokens=5) for at in range(300))
"""Three seconds of 500 tokens a second."""


def trace_there(board, watts, lead_ns, *, period_ms=20):
    """A counter that moves every so often, by the clock of its machine."""
    moves = range(period_ms, 3000, period_ms)
    looks = [Look(at * MS_NS + lead_ns, at * MS_NS + lead_ns + 1000, watts * at / 1000) for at in moves]
    before = [replace(look, joules=look.joules - watts * period_ms / 1000) for look in looks]
    return EnergyTrace(board, "counter", tuple(map(Edge, before, looks)))


def joules_of(clocks, watts=(50.0, 30.0)):
    """The energy of two nodes whose counters are known by these clocks."""
    there = [
        trace_there(f"node {place}", one, clock.lead_ns)
        for place, (one, clock) in enumerate(zip(watts, clocks, strict=True))
    ]
    both = summed([Recording((trace_here(trace, clock),)) for trace, clock in zip(there, clocks, strict=True)], {})
    energy = energy_of(both.traces, STEPS, Terms(lead_in_s=0.5))
    assert isinstance(energy, Energy)
    return energy.metrics()


def test_joules_of_two_machines_are_added():
    """Whatever their clocks show: 80 W for 500 tokens a second."""
    metrics = joules_of([RemoteClock(5 * S_NS, 0, 0), RemoteClock(-7 * S_NS, 0, 0)])
    assert metrics["mean_power_w"].value == pytest.approx(80.0, rel=1e-6)
    assert metrics["joules_per_output_token"].value == pytest.approx(0.16, rel=1e-3)


def test_the_clocks_error_is_part_of_the_joules():
    """One of 5 ms at each end of a window of 2.5 s is 0.16 % of a node's joules, and less of the sum."""
    sure, unsure = (joules_of([RemoteClock(S_NS, error_ns, 3 * S_NS)] * 2) for error_ns in (0, 5 * MS_NS))
    before, after = (one["joules_per_output_token"].uncertainty for one in (sure, unsure))
    each = (5e-3 * 2**0.5 / 3**0.5) / 2.46
    both = each * (50**2 + 30**2) ** 0.5 / 80
    assert (after.edge**2 - before.edge**2) ** 0.5 == pytest.approx(both, rel=0.1)
    assert sure["joules_per_output_token"].value == pytest.approx(unsure["joules_per_output_token"].value, rel=1e-3)


@pytest.fixture
def machines(tmp_path):
    """Two machines of one package each that draws 50 and 30 W, in real time."""
    machines = []
    for name, watts in (("one", 50), ("two", 30)):
        (tmp_path / name).mkdir()
        machines.append(Powercap(tmp_path / name, (watts, 1)))
        (tmp_path / name / "etc" / "machine-id").write_text(f"{name}\n")
    over = threading.Event()

    def run():
        last = time.monotonic()
        while not over.wait(0.005):
            now = time.monotonic()
            for one in machines:
                one.move(1000 * (now - last))
            last = now

    thread = threading.Thread(target=run)
    thread.start()
    yield machines
    over.set()
    thread.join()


@pytest.fixture(scope="module")
def cluster():
    """A head and a node."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - where it is installed

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1, resources={"second": 1})
    yield made
    made.shutdown()


@on_ray
def test_each_node_is_read_by_a_meter_of_its_own(cluster, machines):
    """The watts of all packages add up, by this machine's clock."""
    roots = [machine.root for machine in machines]
    meter = ClusterMeter(
        Cluster(cluster.address), lambda node: partial(RaplMeter, root=roots["second" in node["Resources"]])
    )
    facts = meter.open()
    try:
        assert len(facts.boards) == len(set(facts.boards)) == 4
        assert facts.simulated
        assert not facts.missing
        states = meter.states()
        assert states.keys() == set(facts.boards)
        assert all(state.processes is None for state in states.values())
        began_ns = time.monotonic_ns()
        meter.start()
        time.sleep(2)
        recording = meter.stop()
        ended_ns = time.monotonic_ns()
    finally:
        meter.close()
    assert not recording.missing
    steps = [Work(at, at + 10 * MS_NS, 5) for at in range(began_ns, ended_ns, 10 * MS_NS)]
    energy = energy_of(recording.traces, steps, Terms(lead_in_s=0.2, least_s=1))
    assert isinstance(energy, Energy), energy
    power = energy.metrics()["mean_power_w"]
    assert power.value == pytest.approx(82, rel=0.1)
    assert 1e-4 < power.uncertainty.edge < 0.05


@on_ray
def test_a_node_without_a_meter_leaves_all_without_joules(cluster, machines, tmp_path):
    """The reason names the node."""
    (tmp_path / "none").mkdir()
    roots = [machines[0].root, tmp_path / "none"]
    meter = ClusterMeter(
        Cluster(cluster.address), lambda node: partial(RaplMeter, root=roots["second" in node["Resources"]])
    )
    facts = meter.open()
    try:
        (missing,) = facts.missing
        assert missing.startswith("node ")
        meter.start()
        assert missing in meter.stop().missing
    finally:
        meter.close()


@on_ray
def test_no_node_has_a_meter(cluster, tmp_path):
    """There are no joules, and why is said of each."""
    meter = ClusterMeter(Cluster(cluster.address), lambda _: partial(RaplMeter, root=tmp_path))
    with pytest.raises(MeterUnavailable, match=r"no joules of the CPU: .* shows no package"):
        meter.open()


def test_no_cluster_has_no_joules():
    """Where Ray isn't installed, or nobody listens."""
    with pytest.raises(MeterUnavailable, match="Ray"):
        ClusterMeter(Cluster(f"127.0.0.1:{free_port()}")).open()


def test_a_run_on_a_cluster_asks_its_nodes():
    """Its joules are those of nodes; without a cluster there are none, and why is said."""
    metering = open_ray(f"127.0.0.1:{free_port()}", window_s=1, lead_in_s=0.1)
    assert "Ray" in metering.not_of("remote:ray 127.0.0.1:6379")
    metering.missing = ""
    assert metering.not_of("remote:ray 127.0.0.1:6379") == ""
