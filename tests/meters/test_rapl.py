"""The energy counters of CPU packages, on recorded trees of /sys/class/powercap."""

import os
import tempfile
import threading
from pathlib import Path

import pytest
from powercap import MS_NS, RANGE_UJ, Powercap

from pytest_slmperf.core.devices.edges import judge_trace
from pytest_slmperf.core.errors import MeterUnavailable
from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.metrics import BOARD
from pytest_slmperf.core.protocol import Measured
from pytest_slmperf.meters.rapl import RaplMeter
from pytest_slmperf.run.metering import BoardsRound, Metering, open_rapl


def opened(powercap):
    """The meter of this machine, on its clock."""
    meter = RaplMeter(root=powercap.root, clock=powercap.clock, sleep=powercap.sleep)
    meter.open()
    return meter


def watched(powercap, seconds):
    """What the meter sees in so many seconds, by package."""
    traces = opened(powercap).watch(seconds).traces
    return {trace.board.partition("package")[2]: trace for trace in traces}


def watts(trace):
    first, last = trace.edges[0], trace.edges[-1]
    return (last.new.joules - first.new.joules) / (last.at_ns - first.at_ns) * 1e9


def test_each_socket_is_counted_once(tmp_path):
    """Parts of a package, the platform's own counter and the same package by another way are no boards."""
    traces = watched(Powercap(tmp_path, (100, 50)), seconds=3)
    assert {name: watts(trace) for name, trace in traces.items()} == pytest.approx({"-0": 100, "-1": 50}, rel=0.001)
    assert [judge_trace(trace) for trace in traces.values()] == [None, None]


def test_a_counter_that_wraps_counts_on(tmp_path):
    """It begins at 0 again at its range, every few minutes on a busy server."""
    traces = watched(Powercap(tmp_path, (100, 50), first_uj=RANGE_UJ - 60_000_000), seconds=3)
    assert [watts(trace) for trace in traces.values()] == pytest.approx([100, 50], rel=0.001)
    assert [judge_trace(trace) for trace in traces.values()] == [None, None]


def guard(powercap, seconds, package="-0"):
    """What voids the joules of a package."""
    finding = judge_trace(watched(powercap, seconds)[package])
    return finding and finding.guard


def test_a_counter_that_was_reset_is_void(tmp_path):
    """Going back is a wrap only where no package could draw as much otherwise."""
    powercap = Powercap(tmp_path, (100, 50), first_uj=RANGE_UJ // 2)
    powercap.events[1.0] = lambda: powercap.raw_uj.__setitem__(0, 0)
    assert guard(powercap, 2) == "reset"


def test_a_counter_that_stops_is_void(tmp_path):
    """As of a machine that was suspended."""
    powercap = Powercap(tmp_path, (100, 50))
    powercap.events[0.5] = lambda: powercap.watts.__setitem__(0, 0)
    assert guard(powercap, 2) == "stuck"


def test_a_counter_that_vanishes_is_void(tmp_path):
    """The other package is read on."""
    powercap = Powercap(tmp_path, (100, 50))
    powercap.events[0.5] = (powercap.folder / "intel-rapl:0" / "energy_uj").unlink
    traces = watched(powercap, 2)
    finding = judge_trace(traces["-0"])
    assert finding is not None
    assert (finding.guard, finding.reason.partition(":")[0]) == ("unreadable", "its energy could not be read")
    assert watts(traces["-1"]) == pytest.approx(50, rel=0.001)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_breaks_off_is_no_recording(tmp_path):
    """What was seen until then isn't taken for the round; each trace says that it broke off."""
    powercap = Powercap(tmp_path, (100, 50))
    meter, broke = opened(powercap), threading.Event()

    def break_off():
        broke.set()
        raise RuntimeError("the clock broke")

    powercap.events[0.5] = break_off
    meter.start()
    broke.wait(10)
    recording = meter.stop()
    assert [judge_trace(trace).guard for trace in recording.traces] == ["unreadable"] * 2
    assert all("broke off" in trace.failure for trace in recording.traces)


def test_a_machine_without_counters_says_so(tmp_path):
    """It says where counters are missing as a rule."""
    with pytest.raises(MeterUnavailable, match="Virtual machines and containers have none"):
        RaplMeter(root=tmp_path).open()


def test_counters_that_a_hypervisor_leaves_at_one_value_are_none(tmp_path):
    """Else every joule measured there would be 0."""
    with pytest.raises(MeterUnavailable, match="stands still at 1,000 J"):
        opened(Powercap(tmp_path))


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


def test_packages_are_told_apart_from_those_of_another_machine_without_its_name(tmp_path):
    """The machine's id is in their names, but can't be read from them."""
    boards = []
    for number, known in enumerate(("0123456789abcdef" * 2, "f" * 32, "f" * 32, "")):
        powercap = Powercap(tmp_path / str(number), (100, 50))
        (powercap.root / "etc" / "machine-id").write_text(known)
        facts = RaplMeter(root=powercap.root, clock=powercap.clock, sleep=powercap.sleep).open()
        assert facts.simulated
        assert len(facts.boards) == 2
        boards.append(facts.boards)
    assert boards[0] != boards[1] == boards[2]
    assert boards[3] == ("CPU-package-0", "CPU-package-1")
    assert "0123456789abcdef" not in "".join(boards[0])


def test_the_power_limit_and_the_time_of_heat_are_told(tmp_path):
    """Each package's limit in W, its time throttled where the kernel counts it, and how busy the CPU was."""
    powercap = Powercap(tmp_path, (100, 50))
    cpu = powercap.root / "sys/devices/system/cpu/cpu0"
    for path, text in (("topology/physical_package_id", "0"), ("thermal_throttle/package_throttle_total_time_ms", "7")):
        (cpu / path).parent.mkdir(parents=True)
        (cpu / path).write_text(f"{text}\n")
    stat = powercap.root / "proc" / "stat"
    stat.parent.mkdir()
    stat.write_text("cpu  100 0 100 700 100 0 0 0 0 0\n")
    meter = opened(powercap)
    first = list(meter.states().values())
    stat.write_text("cpu  110 0 110 1400 180 0 0 0 0 0\n")
    second = list(meter.states().values())
    assert [state.power_limit_w for state in first] == [205, 205]
    assert [state.throttled_ns.get("hw_thermal") for state in first] == [7_000_000, None]
    assert [state.utilisation for state in (first[0], second[0])] == [None, pytest.approx(20 / 800)]
    assert {"processes"} == set(second[0].untold)


def test_joules_per_token_of_an_engine_on_the_cpu_are_its_packages_over_its_tokens(tmp_path):
    """Both sockets are counted, and what else a report needs is said; of an engine elsewhere nothing is."""
    powercap = Powercap(tmp_path, (100, 50))
    meter = RaplMeter(root=powercap.root, clock=powercap.clock, sleep=powercap.sleep)
    metering = Metering(meter, window_s=1.0, lead_in_s=0.1, devices=("cpu",))
    assert (metering.not_of("cpu"), metering.source.source, metering.source.missing) == ("", "counter", "")
    assert "the engine ran on cuda, and the meter reads CPU-" in metering.not_of("cuda")
    states = meter.states()
    began_ns = powercap.now_ns
    recording = meter.watch(1.5)
    marks = [(begin, begin + 20 * MS_NS) for begin in range(began_ns, powercap.now_ns, 20 * MS_NS)]
    requests = 4 * len(marks)
    measured = Measured(began_ns, marks[-1][1], requests, 8 * requests, 8 * requests, marks=tuple(marks))
    seen = BoardsRound(measured, (began_ns, marks[-1][1]), recording, states, meter.states())
    load = Load("metered/tiny/batch=4", ((8, 8),) * 4, seed=1)
    told, void = metering.judge(seen, load, states, ours=1)
    assert void is None
    assert any("a package counts the joules of all its cores" in note for note in told.notes)
    assert told.values["mean_power_w"] == pytest.approx(150, rel=0.005)
    assert told.values["joules_per_output_token"] == pytest.approx(150 / (4 * 8 / 0.02), rel=0.005)
    assert {facts.power_limit_w for facts in told.boards.values()} == {205}
    assert set(told.unmeasured) == set(BOARD)


def test_counters_are_read_beside_whatever_happens(tmp_path):
    """From start to stop, in a thread that ends with it."""
    powercap = Powercap(tmp_path, (100, 50))
    meter = opened(powercap)
    before = threading.active_count()
    meter.start()
    assert threading.active_count() == before + 1
    recording = meter.stop()
    assert threading.active_count() == before
    assert len(recording.traces) == 2
    meter.close()


def test_a_run_on_a_cpu_without_counters_says_why(tmp_path):
    """The reason stands where the joules would, and opening it is no error."""
    metering = open_rapl(window_s=1.0, lead_in_s=0.1, root=tmp_path)
    assert metering.not_of("cpu") == metering.source.missing
    assert metering.source.missing.startswith("no joules of the CPU: /sys/class/powercap shows no package.")
