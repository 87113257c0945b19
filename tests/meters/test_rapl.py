"""The energy counters of CPU packages, on recorded trees of /sys/class/powercap."""

import os
import tempfile
import time
from pathlib import Path

import pytest
from powercap import RANGE_UJ, Powercap, Ticking

from pytest_slmperf.core.edges import judge_trace
from pytest_slmperf.core.errors import MeterUnavailable
from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.metrics import BOARD
from pytest_slmperf.core.protocol import Measured
from pytest_slmperf.meters.rapl import RaplMeter
from pytest_slmperf.run.metering import open_rapl


@pytest.fixture
def powercap(tmp_path):
    """A machine of two sockets."""
    return Powercap(tmp_path)


def watched(powercap, seconds=0.3, meanwhile=lambda: None):
    """What the meter sees in so many seconds, by package."""
    meter = RaplMeter(root=powercap.root)
    meter.open()
    meter.start()
    time.sleep(seconds / 2)
    meanwhile()
    time.sleep(seconds / 2)
    recording = meter.stop()
    meter.close()
    return {trace.board.partition("package")[2]: trace for trace in recording.traces}


def watts(trace):
    first, last = trace.edges[0], trace.edges[-1]
    return (last.new.joules - first.new.joules) / (last.at_ns - first.at_ns) * 1e9


def test_each_socket_is_counted_once(powercap):
    """Parts of a package, the platform's own counter and the same package by another way are no boards."""
    with Ticking(powercap, {0: 100, 1: 50}):
        traces = watched(powercap)
    assert {name: watts(trace) for name, trace in traces.items()} == pytest.approx({"-0": 100, "-1": 50}, rel=0.1)
    assert [judge_trace(trace) for trace in traces.values()] == [None, None]


def test_a_counter_that_wraps_counts_on(powercap):
    """It begins at 0 again at its range, every few minutes on a busy server."""
    with Ticking(powercap, {0: 100, 1: 100}, first_uj=RANGE_UJ - 20_000_000):
        traces = watched(powercap, seconds=0.6)
    assert [watts(trace) for trace in traces.values()] == pytest.approx([100, 100], rel=0.1)
    assert [judge_trace(trace) for trace in traces.values()] == [None, None]


def test_a_counter_that_was_reset_is_void(powercap):
    """Going back is a wrap only where no package could draw as much otherwise."""
    with Ticking(powercap, {1: 50}), Ticking(powercap, {0: 100}, first_uj=RANGE_UJ // 2) as ticking:
        traces = watched(powercap, meanwhile=lambda: setattr(ticking, "first_uj", 0))
    finding = judge_trace(traces["-0"])
    assert finding is not None
    assert finding.guard == "reset"
    assert judge_trace(traces["-1"]) is None


def test_a_counter_that_stops_is_void(powercap):
    """As of a machine that was suspended, or whose counter is not filled any more."""
    with Ticking(powercap, {0: 100, 1: 50}) as ticking:
        traces = watched(powercap, seconds=2.4, meanwhile=ticking.stop)
    assert {finding.guard for trace in traces.values() if (finding := judge_trace(trace))} == {"stuck"}


def test_a_counter_that_vanishes_is_void(powercap):
    with Ticking(powercap, {0: 100, 1: 50}) as ticking:

        def vanish():
            ticking.stop()
            (powercap.root / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()

        finding = judge_trace(watched(powercap, meanwhile=vanish)["-0"])
    assert finding is not None
    assert finding.guard == "unreadable"
    assert "could not be read" in finding.reason


def test_a_machine_without_counters_says_so(tmp_path):
    with pytest.raises(MeterUnavailable, match="Virtual machines and containers have none"):
        RaplMeter(root=tmp_path).open()


def test_counters_that_a_hypervisor_leaves_at_one_value_are_none(powercap):
    with pytest.raises(MeterUnavailable, match="stands still at 1,000 J"):
        RaplMeter(root=powercap.root).open()


def test_a_counter_that_only_root_may_read_names_the_way_out():
    """Kernels since 5.10 show it to root alone."""
    with tempfile.TemporaryDirectory() as folder:
        powercap = Powercap(Path(folder))
        (powercap.root / "sys/class/powercap/intel-rapl:0/energy_uj").chmod(0)
        Path(folder).chmod(0o755)
        was = os.geteuid()
        try:
            if was == 0:
                os.seteuid(65534)
            with pytest.raises(MeterUnavailable, match=r"is for root only.*CVE-2020-8694.*sudo chmod a\+r"):
                RaplMeter(root=powercap.root).open()
        finally:
            os.seteuid(was)


def test_packages_are_told_apart_from_those_of_another_machine_without_its_name(powercap, tmp_path_factory):
    other = Powercap(tmp_path_factory.mktemp("other"))
    (other.root / "etc" / "machine-id").write_text("ffffffffffffffffffffffffffffffff\n")
    boards = []
    for one in (powercap, other, other):
        with Ticking(one, {0: 100, 1: 50}):
            facts = RaplMeter(root=one.root).open()
        boards.append(facts.boards)
        assert facts.simulated
    assert boards[0] != boards[1] == boards[2]
    assert all(len(names) == 2 and name.startswith("CPU-") for names in boards for name in names)
    assert "0123456789abcdef" not in "".join(boards[0])


def test_the_power_limit_and_the_time_of_heat_are_told(powercap):
    cpu = powercap.root / "sys/devices/system/cpu/cpu0"
    for path, text in (("topology/physical_package_id", "0"), ("thermal_throttle/package_throttle_total_time_ms", "7")):
        (cpu / path).parent.mkdir(parents=True)
        (cpu / path).write_text(f"{text}\n")
    stat = powercap.root / "proc" / "stat"
    stat.parent.mkdir()
    stat.write_text("cpu  100 0 100 700 100 0 0 0 0 0\n")
    meter = RaplMeter(root=powercap.root)
    with Ticking(powercap, {0: 100, 1: 50}):
        meter.open()
        first = list(meter.states().values())
        stat.write_text("cpu  110 0 110 1400 180 0 0 0 0 0\n")
        second = list(meter.states().values())
    assert [state.power_limit_w for state in first] == [205, 205]
    assert [state.throttled_ns.get("hw_thermal") for state in first] == [7_000_000, None]
    assert [state.utilisation for state in (first[0], second[0])] == [None, pytest.approx(20 / 800)]
    assert {"processes"} == set(second[0].untold)


def test_joules_per_token_of_an_engine_on_the_cpu_are_its_packages_over_its_tokens(powercap):
    """Both sockets are counted, and what else a report needs is said; of an engine elsewhere nothing is."""
    load = Load("metered/tiny/batch=4", ((8, 8),) * 4, seed=1)
    with Ticking(powercap, {0: 100, 1: 50}):
        metering = open_rapl(window_s=0.4, lead_in_s=0.1, root=powercap.root)
        assert (metering.not_of("cpu"), metering.source.source, metering.source.missing) == ("", "counter", "")
        assert "the engine ran on cuda, and the meter reads CPU-" in metering.not_of("cuda")
        idle = metering.idle()
        with metering.reading() as reading:
            marks = [served(0.02) for _ in range(metering.batches(0.02))]
        requests = 4 * len(marks)
        measured = Measured(marks[0][0], marks[-1][1], requests, 8 * requests, 8 * requests, marks=tuple(marks))
        seen = reading.of(measured)
        void, notes = metering.judge(seen, idle, ours=1)
        told = metering.value(seen, load)
        metering.close()
    assert void is None
    assert any("a package counts the joules of all its cores" in note for note in notes)
    rate = 8 * requests / (marks[-1][1] - marks[0][0]) * 1e9
    assert told.values["mean_power_w"] == pytest.approx(150, rel=0.1)
    assert told.values["joules_per_output_token"] == pytest.approx(150 / rate, rel=0.1)
    assert {facts.power_limit_w for facts in told.boards.values()} == {205}
    assert set(told.unmeasured) == set(BOARD)


def served(seconds):
    """Begin and end of a batch that follows the last one at once."""
    began_ns = time.monotonic_ns()
    time.sleep(seconds)
    return began_ns, time.monotonic_ns()
