"""The NVML meter over the real pynvml and the stand-in driver."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import nvml_standin
import pytest
from decoding import NS, steps

from pytest_slmperf.core.devices.board import Effect
from pytest_slmperf.core.energy.rounds import energy_of_round
from pytest_slmperf.core.energy.window import Energy, NoEnergy, Terms, energy_of
from pytest_slmperf.core.errors import MeterUnavailable
from pytest_slmperf.core.guards.board import void
from pytest_slmperf.core.meter import Around
from pytest_slmperf.meters.nvml import NvmlMeter, Pace, visible_devices

pytest.importorskip("pynvml")
STEADY = Pace(cpu_share=1000)
"""Without the care for this machine's CPU, which a virtual clock knows nothing of."""


@pytest.fixture
def meter(driver):
    """Opens a meter over a scenario; gives the driver, the meter and what it says of itself."""
    opened = []

    def make(*statements, boards=(0,), real=False, **more):
        one = driver(*statements, real=real)
        opened.append(NvmlMeter(boards, pace=STEADY, clock=one.now_ns, sleep=one.sleep, **more))
        return one, opened[-1], opened[-1].open()

    yield make
    for one in opened:
        one.close()


def measured(driver, meter, seconds=5.0, *, opened_w=None):
    """A round under a steady load: its joules, and what the guards say of the first board."""
    idle = before = meter.states()
    first, began = next(iter(before)), driver.now_ns()
    recording = meter.watch(seconds)
    work = steps(began, driver.now_ns())
    found = energy_of_round(recording, work, Around(idle, before, meter.states()), Terms(), limits_w={first: opened_w})
    return found.energy, list(found.findings[first]), recording


def joules_per_token(energy):
    assert isinstance(energy, Energy), energy
    return energy.metrics()["joules_per_output_token"]


def test_joules_per_token_are_true_within_their_uncertainty(meter):
    """With updates that jitter and calls that take their time, on a counter that moves ten times a second."""
    one, nvml, facts = meter("power 0 400", "period 0.1 0.02", "delay DeviceGetTotalEnergyConsumption 0.001 0.3")
    assert facts.simulated
    assert set(facts.sources.values()) == {"counter"}
    energy, findings, recording = measured(one, nvml)
    quantity = joules_per_token(energy)
    truth = 400 * 0.023 / 64
    assert quantity.uncertainty.random < 0.001
    assert quantity.value == pytest.approx(truth, rel=3 * quantity.uncertainty.random)
    assert findings == []
    assert recording.traces[0].period_s == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize("period", [0.02, 0.05, 0.1, 0.3])
def test_the_update_period_is_found_whatever_it_is(meter, period):
    """From the counter's own moves, since no driver tells it, and the joules are as true with each."""
    one, nvml, _ = meter("power 0 400", f"period {period}")
    energy, _, recording = measured(one, nvml)
    assert recording.traces[0].period_s == pytest.approx(period, rel=0.05)
    assert joules_per_token(energy).value == pytest.approx(400 * 0.023 / 64, rel=0.002)


def test_a_gain_error_is_no_part_of_the_interval_but_is_stated(meter):
    """A sensor that shows 4 % too much is not seen by looking, so the total error allows for it."""
    one, nvml, _ = meter("power 0 400", "gain 1.04")
    quantity = joules_per_token(measured(one, nvml)[0])
    assert quantity.value == pytest.approx(1.04 * 400 * 0.023 / 64, rel=0.002)
    assert quantity.uncertainty.total > 0.028


def test_several_boards_are_one_meter(meter):
    """Their power is added up, and a board that is not asked for is not in it."""
    one, nvml, facts = meter(
        "boards 3", "period 0.1 0.02 0.03", "power 0 400", "board 1", "power 0.5 200", "board 2", "power 0.5 50",
        boards=(0, 1),
    )  # fmt: skip
    assert len(facts.boards) == 2
    energy, _, _ = measured(one, nvml)
    assert energy.metrics()["mean_power_w"].value == pytest.approx(600, rel=0.002)


def test_a_mig_instance_is_measured_as_its_board_and_that_is_said(meter):
    """There is no counter of a part, and who else is on the board can't be seen."""
    one, nvml, facts = meter("mig 2", "power 0 300", boards=("MIG-00000000-0000-4000-8000-000000000001",))
    assert facts.boards == ("GPU-00000000-0000-4000-8000-000000000000",)
    energy, findings, _ = measured(one, nvml)
    assert energy.metrics()["mean_power_w"].value == pytest.approx(300, rel=0.002)
    assert {(finding.guard, finding.effect) for finding in findings} == {
        ("mig", Effect.NOTE),
        ("blind", Effect.MARKED),
    }


def test_beside_the_joules_are_utilisation_clocks_temperature_and_sm_activity(meter):
    """Looked at twice a second or so while the counter is, and told in the units of the names."""
    one, nvml, _ = meter(
        "power 0 400", "utilisation 0 90", "sm_clock 0 1755", "memory_clock 0 2600", "temperature 0 61"
    )
    _, _, recording = measured(one, nvml)
    (samples,) = recording.samples.values()
    assert len(samples) >= 9
    assert {(one.utilisation, one.sm_clock_mhz, one.temperature_c) for one in samples} == {(0.9, 1755, 61)}
    assert {one.power_w for one in samples} == {400}
    assert {one.memory_clock_mhz for one in samples} == {2600}
    assert list(recording.sm_activity.values()) == [pytest.approx(0.72)]


def test_a_driver_without_gpm_has_no_sm_activity(meter):
    """It lacks, and is no zero."""
    one, nvml, _ = meter("gpm off")
    assert measured(one, nvml)[2].sm_activity == {}


def test_two_meters_at_once_see_the_same_and_the_last_one_ends_the_session(meter):
    """A second user of the driver in this process can go without taking it from the first."""
    one, nvml, _ = meter("power 0 400")
    with_other = NvmlMeter(pace=STEADY, clock=one.now_ns, sleep=one.sleep)
    with_other.open()
    first, second = measured(one, nvml)[0], measured(one, with_other)[0]
    assert joules_per_token(first).value == pytest.approx(joules_per_token(second).value, rel=0.001)
    with_other.close()
    assert isinstance(measured(one, nvml)[0], Energy)


def test_two_meters_look_at_once_in_threads_in_real_time(meter):
    """Each finds the board's joules within its own stated error, whatever the other does."""
    one, nvml, _ = meter("power 0 400", "period 0.05", real=True)
    other = NvmlMeter()
    other.open()
    began = one.now_ns()
    for each in (nvml, other):
        each.start()
    time.sleep(0.8)
    found = [each.stop() for each in (nvml, other)]
    other.close()
    work = steps(began, one.now_ns())
    for recording in found:
        quantity = joules_per_token(energy_of(recording.traces, work, Terms(0.1, 0.5)))
        doubt = max(0.01, 4 * quantity.uncertainty.random)
        assert quantity.value == pytest.approx(400 * 0.023 / 64, rel=doubt)


def test_what_a_meter_recorded_of_one_board_can_be_replayed_as_another(meter, tmp_path):
    """Its edges are a recording, and the replay has the recorded mean power with our updates or its own."""
    _, nvml, _ = meter("power 0 300", "wave 0.7 0.3 200", "period 0.1 0.05")
    (trace,) = nvml.watch(7).traces
    nvml.close()
    moves = [(edge.at_ns, edge.new.joules) for edge in trace.edges]
    recording = nvml_standin.write_recording(tmp_path / "board.csv", moves)
    mean_w = (moves[-1][1] - moves[0][1]) / (moves[-1][0] - moves[0][0]) * NS
    for ticks in ("", " ticks"):
        again, nvml, _ = meter(f"replay {recording}{ticks}")
        energy, _, _ = measured(again, nvml, 14)
        assert energy.metrics()["mean_power_w"].value == pytest.approx(mean_w, rel=0.02)
        nvml.close()
    assert mean_w == pytest.approx(360, rel=0.02)


def test_looking_takes_its_share_of_a_core_where_edges_may_be_rarer(driver):
    """The fewer looks it may afford, the fewer edges it catches, but one within the stated time."""
    one = driver("power 0 400", "period 0.05")
    counts = {}
    for share, within_s in ((1000, 0.5), (1e-12, 0.5), (1e-12, 2)):
        pace = Pace(cpu_share=share, edge_within_s=within_s)
        nvml = NvmlMeter(pace=pace, clock=one.now_ns, sleep=one.sleep)
        nvml.open()
        counts[share, within_s] = len(nvml.watch(10).traces[0].edges)
        nvml.close()
    assert [*counts.values()] == [pytest.approx(count, abs=3) for count in (100, 22, 8)]


def test_without_a_counter_means_of_power_are_integrated(meter):
    """The source is named, and the error is the larger one of means."""
    one, nvml, facts = meter("power 0 400", "fail DeviceGetTotalEnergyConsumption NOT_SUPPORTED")
    assert set(facts.sources.values()) == {"integrated power"}
    energy, _, _ = measured(one, nvml)
    quantity = joules_per_token(energy)
    assert energy.source == "integrated power"
    assert quantity.value == pytest.approx(400 * 0.023 / 64, rel=0.01)
    assert quantity.uncertainty.random >= 0.01


def test_with_neither_counter_nor_means_momentary_power_is_added_up(meter):
    """The source is named, and the error is the largest."""
    one, nvml, facts = meter(
        "power 0 400", "fail DeviceGetTotalEnergyConsumption NOT_SUPPORTED", "fail field:185 NOT_SUPPORTED"
    )
    assert set(facts.sources.values()) == {"power samples"}
    assert joules_per_token(measured(one, nvml)[0]).uncertainty.random >= 0.03


def test_a_board_that_tells_no_power_at_all_has_no_joules_and_a_reason(meter):
    """Each way that was tried is listed with the driver's answer."""
    one, nvml, facts = meter(
        "fail DeviceGetTotalEnergyConsumption NOT_SUPPORTED", "fail field:* NOT_SUPPORTED",
        "fail DeviceGetPowerUsage NO_PERMISSION",
    )  # fmt: skip
    assert set(facts.sources.values()) == {None}
    (reason,) = facts.missing.values()
    assert "no counter, since this board does not support it (NOT_SUPPORTED)" in reason
    assert "no power samples, since this user may not ask for it (NO_PERMISSION)" in reason
    energy, _, recording = measured(one, nvml)
    assert isinstance(energy, NoEnergy)
    assert recording.missing == facts.missing


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("init DRIVER_NOT_LOADED", "the NVIDIA driver is not loaded"),
        ("init LIB_RM_VERSION_MISMATCH", "was updated, and the machine not rebooted"),
        ("init NO_PERMISSION", "this user may not ask"),
        ("no such statement", "the driver refuses the question"),
        ("boards 0", "there is no GPU 0: this machine has 0"),
        ("missing DeviceGetHandleByIndex", "this driver is too old for it"),
        ("lost 0", "fell off the bus"),
        ("fail DeviceGetUUID NO_PERMISSION", "this user may not ask"),
        ("fail SystemGetDriverVersion UNKNOWN", "failed without a reason"),
    ],
)
def test_a_meter_that_can_not_be_opened_says_why_and_leaves_no_session(driver, statement, reason):
    """The driver's error is told in words, and the session that was begun is closed again."""
    pynvml = pytest.importorskip("pynvml")
    driver(statement)
    with pytest.raises(MeterUnavailable, match=reason):
        NvmlMeter().open()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()


def test_without_a_driver_there_is_a_reason():
    """On a machine without a GPU the meter can't be had, and says so."""
    program = (
        "from pytest_slmperf.meters.nvml import NvmlMeter\n"
        "from pytest_slmperf.core.errors import MeterUnavailable\n"
        "try: NvmlMeter().open()\n"
        "except MeterUnavailable as error: print(error)\n"
        "else: print('there is one')"
    )
    environment = {name: value for name, value in os.environ.items() if name != nvml_standin.SCENARIO}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    if "there is one" in done.stdout:
        pytest.skip("this machine has a driver")
    assert "there is no NVIDIA driver on this machine (LIBRARY_NOT_FOUND)" in done.stdout


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("raise ImportError", r"pip install 'pytest-slmperf\[nvml\]'"),
        ("", "uninstall the package pynvml"),
    ],
)
def test_a_missing_or_wrong_package_says_what_to_install(tmp_path, content, reason):
    """Also where the package of the same name by others is in its place."""
    (tmp_path / "pynvml.py").write_text(content)
    program = (
        "from pytest_slmperf.meters.nvml import NvmlMeter\n"
        "from pytest_slmperf.core.errors import MeterUnavailable\n"
        "try: NvmlMeter().open()\n"
        "except MeterUnavailable as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert reason.replace("\\", "") in done.stdout


FAULTS = [
    pytest.param(["lost 4"], "unreadable", "fell off the bus (Xid 79)", id="lost"),
    pytest.param(["reset 4"], "reset", "counter went back", id="reset"),
    pytest.param(["stuck 3 5.5"], "stuck", "stood still for", id="stuck"),
    pytest.param(
        ["fail DeviceGetTotalEnergyConsumption NO_PERMISSION 4"],
        "unreadable",
        "this user may not ask",
        id="no permission",
    ),
    pytest.param(["fail DeviceGetTotalEnergyConsumption UNKNOWN 4"], "unreadable", "without a reason", id="unknown"),
]


@pytest.mark.parametrize(("statements", "guard", "reason"), FAULTS)
def test_a_fault_of_the_counter_leaves_no_joules_and_names_its_cause(meter, statements, guard, reason):
    """A counter that fails amid a round voids it, under the guard's own name."""
    one, nvml, _ = meter("power 0 400", *statements)
    energy, findings, _ = measured(one, nvml)
    assert isinstance(energy, NoEnergy)
    assert reason in energy.reason
    assert void(findings).guard == guard


@pytest.mark.parametrize(
    ("statements", "opened_w", "guard", "reason"),
    [
        (["throttle hw_thermal 3 4"], None, "throttled", "hardware slowed it down because it was hot, for 20"),
        (["throttle sw_thermal 3 3.02"], None, "throttled", "its driver slowed it down"),
        (["throttle power_brake 3 4", "missing DeviceGetFieldValues"], None, "throttled", "power brake"),
        (["throttle hw_slowdown 3 5"], None, "throttled", "two looks in a row"),
        (["process 4321 0.5 - compute 512 train.py"], None, "foreign", "train.py (pid 4321) was on the board"),
        (["process 4321 3 5 compute 512 train.py"], None, "foreign", "train.py (pid 4321) came in the middle"),
        (["process 4321 3 - graphics"], None, "foreign", "(pid 4321) came in the middle"),
        (
            ["process 4321 0.5 - compute 9000", "fail DeviceGetComputeRunningProcesses NO_PERMISSION"],
            None, "foreign", "MiB were in use before our own start",
        ),
        (
            ["utilisation 0 40", "fail DeviceGetComputeRunningProcesses NO_PERMISSION"],
            None, "foreign", "the board was 40% busy before our own start (who, can't be seen: this user may not",
        ),
        (["power_limit 0 500"], 700, "power limit", "500 W before the round, not 700 W"),
        (["power_limit 0 700", "power_limit 4 500"], None, "power limit", "500 W after the round"),
        (["ecc_uncorrected 0 0", "ecc_uncorrected 4 1"], None, "ecc", "1 uncorrected"),
        (["xid 4 48"], None, "xid", "Xid 48"),
        (["temperature 0 40", "temperature 8 80 ramp"], None, "temperature", "while joules were counted"),
    ],
)  # fmt: skip
def test_a_guard_voids_on_the_stand_in_driver_and_names_its_culprit(meter, statements, opened_w, guard, reason):
    """Each guard sees its cause through the real pynvml, and no joules come out."""
    one, nvml, _ = meter("power 0 400", *statements)
    energy, findings, _ = measured(one, nvml, opened_w=opened_w)
    finding = void(findings)
    assert finding is not None
    assert finding.guard == guard
    assert reason in finding.reason
    assert isinstance(energy, NoEnergy)
    assert finding.reason in energy.reason


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (["persistence off"], {"persistence"}),
        (["temperature 0 60", "temperature 8 68 ramp"], {"temperature"}),
        (["temperature 0 30", "temperature 1 45", "temperature 2 55"], set()),
        (["throttle sw_power_cap 3 4"], {"power cap"}),
        (["process 0 0.5 - compute 100"], {"blind"}),
        (["process 4294967295 0.5 - compute 100"], {"blind"}),
        (["missing DeviceGetComputeRunningProcesses"], {"blind"}),
        (["process 40 0.5 - compute 300 nvidia-cuda-mps-server"], set()),
        (["missing DeviceGetFieldValues"], {"blind"}),
        (["fail field:269 NOT_SUPPORTED", "fail field:270 NOT_SUPPORTED"], {"blind"}),
        (["missing DeviceGetTemperatureV", "missing DeviceGetMemoryInfo_v2", "gpm off"], set()),
        (["ecc off"], {"blind"}),
        (["fail DeviceGetClockInfo NO_PERMISSION"], {"blind"}),
        (["fail EventSetCreate NOT_SUPPORTED"], {"blind"}),
        (["fail DeviceRegisterEvents NO_PERMISSION"], {"blind"}),
    ],
)
def test_what_does_not_void_is_marked_and_the_joules_stand(meter, statements, expected):
    """A newer or older driver that doesn't tell something takes nothing from the joules."""
    one, nvml, _ = meter("power 0 400", *statements)
    energy, findings, _ = measured(one, nvml)
    assert {finding.guard for finding in findings} == expected
    assert void(findings) is None
    assert joules_per_token(energy).value == pytest.approx(400 * 0.023 / 64, rel=0.002)


def test_an_engine_whose_id_here_is_another_than_the_drivers_is_taken_for_ours(meter):
    """A container sees other ids than the driver may tell: who came with our own start is ours, who came later not."""
    one, nvml, _ = meter("power 0 400")
    idle = nvml.states()
    one.say("process 70001 1 - compute 512 python")
    for later, foreign in ((), False), (("process 80001 7 - compute 512 python",), True):
        before, began = nvml.states(), one.now_ns()
        for statement in later:
            one.say(statement)
        recording = nvml.watch(5)
        around = Around(idle, before, nvml.states())
        found = energy_of_round(recording, steps(began, one.now_ns()), around, Terms(), ours={4711})
        assert (found.void is not None) is foreign
    assert "python (pid 80001) came in the middle" in found.void.reason


def test_a_board_without_any_reading_leaves_the_others_without_joules_too(meter):
    """A sum over some of the boards is none of all, and the reason names the board."""
    one, nvml, facts = meter(
        "boards 2", "power 0 400", "board 1", "fail DeviceGetTotalEnergyConsumption NOT_SUPPORTED",
        "fail field:185 NOT_SUPPORTED", "fail DeviceGetPowerUsage NOT_SUPPORTED", boards=(0, 1),
    )  # fmt: skip
    energy, findings, recording = measured(one, nvml)
    assert len(recording.traces) == 1
    assert energy.reason.startswith(facts.boards[1])
    assert findings == []


def test_an_error_that_passes_is_asked_once_more(meter):
    """One failed look among thousands doesn't lose the round."""
    one, nvml, _ = meter(
        "power 0 400",
        *[f"fail DeviceGetTotalEnergyConsumption UNKNOWN {at} {at + 0.00001:.5f}" for at in (2.1, 3.3)],
        "delay DeviceGetTotalEnergyConsumption 0.001",
    )
    assert isinstance(measured(one, nvml)[0], Energy)


def test_a_fault_of_one_board_leaves_the_others_readable_and_the_meter_without_joules(meter):
    """The trace of the sound board goes on, and the sum is none."""
    one, nvml, _ = meter("boards 2", "power 0 400", "board 1", "lost 4", boards=(0, 1))
    energy, _, recording = measured(one, nvml)
    assert isinstance(energy, NoEnergy)
    assert [trace.failure is None for trace in recording.traces] == [True, False]
    assert len(recording.traces[0].edges) > 20


@pytest.mark.parametrize("seconds", [0.03, 1.55])
def test_a_window_shorter_than_the_update_period_is_no_window(meter, seconds):
    """Without two moves in it there is no joule, and the reason counts the moves."""
    one, nvml, _ = meter("power 0 400")
    energy, _, _ = measured(one, nvml, seconds)
    assert isinstance(energy, NoEnergy)
    assert "moved" in energy.reason


def test_a_load_that_stops_half_way_gives_joules_up_to_its_end_alone(meter):
    """What the board takes afterwards isn't charged to tokens, and a pause amid the load is no window."""
    one, nvml, _ = meter("power 0 400", "power 4.5 90")
    began = one.now_ns()
    recording = nvml.watch(6)
    work = steps(began, int(4.5 * NS))
    quantity = joules_per_token(energy_of(recording.traces, work))
    assert quantity.value == pytest.approx(400 * 0.023 / 64, rel=0.003)
    paused = (*work, *steps(int(6.5 * NS), int(7 * NS)))
    assert "the load paused" in energy_of(recording.traces, paused).reason


def test_a_counter_that_is_read_by_a_slow_driver_is_less_certain_and_still_true(meter):
    """The longer a look takes, the wider the edge is stated to be."""
    one, nvml, _ = meter("power 0 400", "delay DeviceGetTotalEnergyConsumption 0.030 0.3")
    quantity = joules_per_token(measured(one, nvml)[0])
    assert 0.002 < quantity.uncertainty.random < 0.01
    assert quantity.value == pytest.approx(400 * 0.023 / 64, rel=0.02)


def test_one_session_stays_open_over_many_rounds_and_closing_twice_is_nothing(meter):
    """Rounds don't wait for the driver to be opened again."""
    one, nvml, _ = meter("power 0 400")
    found = [joules_per_token(measured(one, nvml)[0]).value for _ in range(3)]
    assert found == pytest.approx([400 * 0.023 / 64] * 3, rel=0.002)
    nvml.close()
    nvml.close()


def test_closing_while_it_looks_ends_the_looking(meter):
    """An interrupted run leaves no thread that goes on reading."""
    _, nvml, _ = meter("power 0 400", real=True)
    nvml.start()
    nvml.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_breaks_off_is_no_recording(driver):
    """What was seen until then isn't taken for the round; the trace says that it broke off."""
    one = driver("power 0 400")

    broke = threading.Event()

    def sleep(_seconds):
        broke.set()
        raise RuntimeError("the clock broke")

    nvml = NvmlMeter(clock=one.now_ns, sleep=sleep)
    nvml.open()
    nvml.start()
    broke.wait(10)
    (trace,) = nvml.stop().traces
    nvml.close()
    assert "broke off" in trace.failure


def test_a_recording_in_a_thread_and_a_state_in_between_do_not_disturb_each_other(meter):
    """The guards may read the board while the counter is looked at."""
    _, nvml, _ = meter("power 0 400", "period 0.02", real=True)
    nvml.start()
    states = [nvml.states() for _ in range(20)]
    time.sleep(0.3)
    recording = nvml.stop()
    assert len(states) == 20
    assert len(recording.traces[0].edges) >= 3


@pytest.mark.parametrize(
    ("boards", "reason"),
    [
        ((4,), "there is no GPU 4"),
        (("GPU-",), "2 GPUs of this machine"),
        (("GPU-ffff",), "0 GPUs of this machine"),
        (("MIG-1",), "there is none"),
    ],
)
def test_a_board_that_is_not_there_is_named(driver, boards, reason):
    """By its number or UUID, with how many there are."""
    driver("boards 2")
    with pytest.raises(MeterUnavailable, match=reason):
        NvmlMeter(boards).open()


def test_a_lost_board_that_is_not_ours_is_no_matter(meter):
    """Another job's broken GPU stops no measurement on this one."""
    one, nvml, facts = meter("boards 2", "board 1", "uuid GPU-b", "power 0 400", "board 0", "lost 0", boards=("GPU-b",))
    assert facts.boards == ("GPU-b",)
    assert isinstance(measured(one, nvml)[0], Energy)


@pytest.mark.parametrize(
    ("text", "boards"),
    [("0", (0,)), ("1,0", (1, 0)), ("GPU-a,2", ("GPU-a", 2)), ("MIG-b", ("MIG-b",)), ("", ()), ("0,-1,1", (0,))],
)
def test_what_cuda_shows_an_engine_is_what_its_meter_reads(text, boards):
    """Numbers, UUIDs and parts of boards, in CUDA's order, up to the first that CUDA doesn't take."""
    assert visible_devices(text) == boards


def test_the_state_of_a_board_says_what_it_could_not_read_and_why(meter):
    """Each field on its own: the others are told."""
    _, nvml, _ = meter("fail DeviceGetClockInfo NO_PERMISSION", "missing DeviceGetMigMode")
    (state,) = nvml.states().values()
    assert state.sm_clock_mhz is None
    assert state.untold["clock"] == "this user may not ask for it (NO_PERMISSION)"
    assert state.mig is None
    assert replace(state, untold={}).power_limit_w == 700
