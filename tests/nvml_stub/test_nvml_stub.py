"""The stand-in driver under the real pynvml."""

import ctypes
import os
import subprocess
import sys
import time
from itertools import pairwise

import nvml_standin
import pytest

pynvml = pytest.importorskip("pynvml")

NS = 1_000_000_000
STRUCTURES = [
    "c_nvmlMemory_t", "c_nvmlMemory_v2_t", "nvmlPciInfo_t", "c_nvmlProcessInfo_v2_t", "c_nvmlUtilization_t",
    "c_nvmlProcessUtilizationSample_t", "c_nvmlValue_t", "c_nvmlSample_t", "c_nvmlViolationTime_t",
    "c_nvmlFieldValue_t", "c_nvmlTemperature_v1_t", "c_nvmlGpmSupport_t", "c_nvmlGpmMetric_t", "c_nvmlEventData_t",
]  # fmt: skip


def board(index=0):
    return pynvml.nvmlDeviceGetHandleByIndex(index)


def joules(handle):
    return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000


def field(handle, number):
    (read,) = pynvml.nvmlDeviceGetFieldValues(handle, [number])
    if read.nvmlReturn:
        raise pynvml.NVMLError(read.nvmlReturn)
    return read.value.uiVal if read.valueType == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT else read.value.ullVal


@pytest.fixture
def started(driver):
    """Makes a driver and opens a session."""

    def start(*statements, real=False):
        made = driver(*statements, real=real)
        pynvml.nvmlInit()
        return made

    return start


@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures_are_as_large_as_pynvmls(stub, structure):
    """Else a field would be read where another one was written."""
    assert stub.nvmlstub_size_of(structure.encode()) == ctypes.sizeof(getattr(pynvml, structure))


def test_it_says_that_it_is_no_real_driver(started):
    """By a symbol that NVIDIA's library has not, so what it tells is never taken for real."""
    started()
    assert pynvml.nvmlLib.nvmlstub_is_stub() == 1


# -- energy


def test_the_counter_moves_once_a_period(started):
    """In between it stands still, and each move adds the period's joules."""
    one = started("power 0 400", "period 0.1")
    seen = []
    for _ in range(1000):
        seen.append(joules(board()))
        one.sleep(0.001)
    assert len(set(seen)) == 10
    assert {round(after - before, 3) for before, after in pairwise(sorted(set(seen)))} == {40.0}


def test_jitter_moves_the_updates_and_loses_no_joule(started):
    """Periods are shorter and longer by its share, and what one update leaves out the next one has."""
    one = started("power 0 400", "period 0.1 0.5", "seed 3")
    gaps, last = [], None
    for _ in range(20_000):
        read = joules(board())
        if read != last:
            gaps.append(one.now_ns())
            last = read
        one.sleep(0.001)
    lengths = [(after - before) / NS for before, after in pairwise(gaps[1:])]
    assert max(lengths) > 0.12
    assert min(lengths) < 0.08
    assert joules(board()) == pytest.approx(400 * one.now_ns() / NS, abs=400 * 0.16)


@pytest.mark.parametrize(
    ("power", "true"),
    [
        pytest.param(["power 0 300"], 3000, id="constant"),
        pytest.param(["power 0 100", "power 5 400"], 2500, id="step"),
        pytest.param(["power 0 100", "power 10 300 ramp"], 2000, id="ramp"),
        pytest.param(["power 0 100", "wave 0.5 0.2 200"], 1400, id="wave"),
        pytest.param(["power 0 100", "wave 0.5 0.2 200 0.1", "wave 2 0.5 10"], 1450, id="two waves"),
    ],
)
def test_the_true_energy_is_the_integral_of_the_power(started, power, true):
    """Of steps, ramps and waves in closed form, and the counter shows it."""
    one = started(*power)
    assert one.true_joules(0, 10 * NS) == pytest.approx(true, rel=1e-12)
    one.clock.set_ns(10 * NS + 1)
    assert joules(board()) == pytest.approx(true, rel=1e-6)


def test_gain_is_an_error_of_the_sensor_and_not_of_the_truth(started):
    """Counter and power readings are off by it, and what is to be found is not."""
    one = started("power 0 400", "gain 1.05")
    one.sleep(9.0001)
    assert joules(board()) == pytest.approx(4200)
    assert one.true_joules(0, 10 * NS) == pytest.approx(4000)
    assert pynvml.nvmlDeviceGetPowerUsage(board()) == 420_000


@pytest.mark.parametrize(("phase_s", "seen_w"), [(0.075, 200), (0.0, 100)])
def test_a_part_time_sensor_sees_the_end_of_each_period_alone(started, phase_s, seen_w):
    """What the load does in the rest of the period is missed, and so is the truth."""
    one = started("power 0 100", f"wave 0.1 0.25 100 {phase_s}", "period 0.1", "sensor 0.025")
    one.sleep(9.0001)
    assert joules(board()) == pytest.approx(seen_w * 10, rel=1e-6)
    assert one.true_joules(0, 10 * NS) == pytest.approx(1250)


def test_power_is_a_mean_of_a_second_or_of_a_moment(started):
    """As the driver has both: a field that lags, and samples that are told once."""
    one = started("power 0 100", "power 5 300")
    one.clock.set_ns(int(5.5001 * NS))
    assert field(board(), pynvml.NVML_FI_DEV_POWER_AVERAGE) == pytest.approx(200_000)
    assert field(board(), pynvml.NVML_FI_DEV_POWER_INSTANT) == pytest.approx(300_000)
    kind, samples = pynvml.nvmlDeviceGetSamples(board(), pynvml.NVML_TOTAL_POWER_SAMPLES, 0)
    assert kind == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
    assert samples[-1].sampleValue.uiVal == pytest.approx(300_000)
    assert samples[-20].sampleValue.uiVal == pytest.approx(100_000)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetSamples(board(), pynvml.NVML_TOTAL_POWER_SAMPLES, samples[-1].timeStamp)


def test_a_reset_begins_at_zero_and_a_stuck_counter_jumps_when_it_is_free(started):
    """What was used meanwhile is counted then."""
    one = started("power 0 100", "reset 5", "stuck 7 8")
    one.clock.set_ns(int(4.95 * NS))
    assert joules(board()) == pytest.approx(490)
    one.clock.set_ns(int(6.05 * NS))
    assert joules(board()) == pytest.approx(100, abs=11)
    one.clock.set_ns(int(7.05 * NS))
    held = joules(board())
    one.clock.set_ns(int(7.95 * NS))
    assert joules(board()) == held
    one.clock.set_ns(int(8.05 * NS))
    assert joules(board()) == pytest.approx(held + 100, abs=11)


def test_a_slow_call_takes_time_and_its_value_is_of_a_moment_in_between(started):
    """It lasts as long as is said, more or less by the jitter's share."""
    one = started("power 0 400", "period 0.001", "delay DeviceGetTotalEnergyConsumption 0.010 0.5")
    lengths = []
    for _ in range(200):
        before = one.now_ns()
        read = joules(board())
        after = one.now_ns()
        lengths.append((after - before) / NS)
        assert 400 * (before / NS - 0.0011) <= read <= 400 * after / NS
    assert min(lengths) == pytest.approx(0.005, abs=0.0005)
    assert max(lengths) == pytest.approx(0.015, abs=0.0005)


# -- following a load, and recordings


def test_power_follows_what_engines_say_of_their_load(started, tmp_path):
    """The loads of all engines add up, and each engine is a process on the board."""
    log = tmp_path / "load"
    one = started(f"load {log} 100 500")
    one.sleep(1)
    nvml_standin.log_load(log, 0.5, pid=70_001, at_ns=one.now_ns())
    one.sleep(1)
    nvml_standin.log_load(log, 1, pid=70_002, at_ns=one.now_ns())
    one.sleep(1)
    nvml_standin.log_load(log, 0, pid=70_001, at_ns=one.now_ns())
    nvml_standin.log_load(log, 0, pid=70_002, at_ns=one.now_ns())
    one.sleep(1.0001)
    assert one.true_joules(0, 5 * NS) == pytest.approx(200 + 300 + 500 + 100)
    assert joules(board()) == pytest.approx(1100, rel=1e-6)
    assert {process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(board())} == {70_001, 70_002}


def test_utilisation_is_the_mean_of_a_sixth_of_a_second(started, tmp_path):
    """It comes up to a new load by and by, as that of a board."""
    log = tmp_path / "load"
    one = started(f"load {log} 100 500")
    nvml_standin.log_load(log, 0.9, pid=1, at_ns=2 * NS)
    for at_s, percent in ((2, 0), (2 + 1 / 12, 45), (2.5, 90)):
        one.clock.set_ns(int(at_s * NS))
        assert pynvml.nvmlDeviceGetUtilizationRates(board()).gpu == percent


def test_engines_may_write_in_another_order_than_they_read_the_clock(started, tmp_path):
    """Each word holds from its own instant on, whenever it arrives."""
    log = tmp_path / "load"
    one = started(f"load {log} 0 100")
    nvml_standin.log_load(log, 1, pid=1, at_ns=2 * NS)
    nvml_standin.log_load(log, 0, pid=1, at_ns=4 * NS)
    assert one.true_joules(0, 5 * NS) == pytest.approx(200)
    nvml_standin.log_load(log, 0.5, pid=2, at_ns=3 * NS)
    assert one.true_joules(0, 5 * NS) == pytest.approx(100 + 100 + 50)


def test_a_late_word_of_an_engine_never_turns_the_counter_back(started, tmp_path):
    """What the counter has shown already is kept, and it comes to the truth later."""
    log = tmp_path / "load"
    one = started(f"load {log} 100 500")
    nvml_standin.log_load(log, 1, pid=1, at_ns=one.now_ns())
    one.clock.set_ns(int(2.05 * NS))
    before = joules(board())
    nvml_standin.log_load(log, 0, pid=1, at_ns=int(1.5 * NS))
    assert joules(board()) == before
    one.sleep(0.1)
    assert joules(board()) == before
    one.clock.set_ns(int(10.0001 * NS))
    assert joules(board()) == pytest.approx(one.true_joules(0, 10 * NS))


def test_an_engine_that_is_gone_loads_no_board(started, tmp_path):
    """A process that died in the middle of a batch is on the board no more."""
    log = tmp_path / "load"
    one = started(f"load {log} 10 500", real=True)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    nvml_standin.log_load(log, 1, pid=ended.pid)
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(board()) == []
    now = one.now_ns()
    assert one.true_joules(now, now + NS) == pytest.approx(10, rel=1e-3)


def test_an_engine_that_is_held_up_between_two_batches_made_no_pause(started, tmp_path):
    """Its words of the end of the one and the begin of the next are written one after the other."""
    log = tmp_path / "load"
    one = started(f"load {log} 100 500", real=True)
    at_ns = one.now_ns()
    nvml_standin.log_load(log, 1, at_ns=at_ns)
    nvml_standin.log_load(log, 0, at_ns=at_ns + 1000)
    assert one.true_joules(at_ns, at_ns + NS) == pytest.approx(500, rel=1e-3)
    time.sleep(0.11)
    assert one.true_joules(at_ns, at_ns + NS) == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize(
    ("head", "rows"),
    [
        ("seconds,joules", [(10.0, 5000), (10.1, 5040), (10.3, 5060), (10.4, 5090)]),
        ("seconds,watts", [(10.0, 400), (10.1, 100), (10.3, 300), (10.4, 300)]),
    ],
)
def test_a_recording_is_replayed_again_and_again(started, tmp_path, head, rows):
    """From its begin when it has ended, with its joules or the integral of its watts."""
    file = tmp_path / "recording.csv"
    file.write_text("\n".join([head, *(f"{at},{value}" for at, value in rows)]))
    one = started(f"replay {file}", "period 0.05")
    assert one.true_joules(0, int(0.4 * NS)) == pytest.approx(90)
    assert one.true_joules(0, int(4.1 * NS)) == pytest.approx(940)
    one.clock.set_ns(int(4.1001 * NS))
    assert joules(board()) == pytest.approx(940, rel=1e-6)


def test_a_recordings_own_updates_can_be_replayed_too(started, tmp_path):
    """The counter then moves when the recorded one did, and shows its values."""
    file = tmp_path / "recording.csv"
    file.write_text("seconds,joules\n0,0\n0.1,40\n0.3,60\n0.4,90\n")
    one = started(f"replay {file} ticks")
    seen = {}
    for ms in range(1, 800):
        one.clock.set_ns(ms * 1_000_000)
        seen.setdefault(round(joules(board())), ms)
    assert seen == {0: 1, 40: 100, 60: 300, 90: 400, 130: 500, 150: 700}


# -- faults


@pytest.mark.parametrize("error", ["DRIVER_NOT_LOADED", "LIB_RM_VERSION_MISMATCH"])
def test_the_init_fails_as_the_scenario_says(driver, error):
    """With the driver's own error."""
    driver(f"init {error}")
    with pytest.raises(pynvml.NVMLError) as caught:
        pynvml.nvmlInit()
    assert caught.value.value == getattr(pynvml, f"NVML_ERROR_{error}")


@pytest.mark.usefixtures("stub")
def test_without_a_scenario_there_is_no_driver(monkeypatch):
    """Found by accident on a library path, it is as a machine without a GPU."""
    monkeypatch.delenv(nvml_standin.SCENARIO, raising=False)
    with pytest.raises(pynvml.NVMLError_DriverNotLoaded):
        pynvml.nvmlInit()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("powr 0 400", "there is no statement powr"),
        ("power 0", "power needs 1 words more"),
        ("power 0 400 ramp now", "power has 1 words too many"),
        ("power zero 400", "zero is not a number"),
        ("power 0 -5", "-5 is less than 0"),
        ("power 0 5 ramp", "there is no point before to ramp from"),
        ("fail DeviceGetUUID NO_SUCH", "NO_SUCH is no error of NVML"),
        ("throttle hot", "hot is none of sw_power_cap"),
        ("board 1", "there are 1 boards"),
        ("boards 99", "at most 16 boards"),
        ("stuck 5 4", "it ends before it begins"),
        ("persistence maybe", "maybe is neither on nor off"),
        ("process -1", "-1 is less than 0"),
        ("period 0.1 1.5", "the jitter is a share of the period"),
        ("replay /nowhere.csv", "/nowhere.csv can't be opened"),
        ("epoch soon", "soon is no number of nanoseconds"),
        ("driver " + 100 * "5", "is longer than 95 bytes"),
    ],
)
def test_a_wrong_scenario_fails_the_init_and_names_its_line(driver, capfd, statement, message):
    """A slip in a test's scenario is never a quiet board."""
    one = driver("# a comment", "", statement)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlInit()
    error = capfd.readouterr().err
    assert f"{one.scenario}, line 5: " in error
    assert message in error


def test_more_can_be_said_while_a_session_is_open(started):
    """It is read as if it had stood at the end of the scenario."""
    one = started("boards 2", "power 0 100")
    one.clock.set_ns(3 * NS)
    one.say("power 4 300")
    one.say(f"lost {one.seconds() + 5}")
    one.clock.set_ns(6 * NS)
    assert [joules(board(number)) for number in (0, 1)] == [1000, 1000]
    one.clock.set_ns(8 * NS)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        joules(board())


def test_what_is_said_wrongly_or_without_a_session_is_refused(driver):
    """The test that said it fails, instead of measuring another scenario."""
    one = driver("power 0 100")
    with pytest.raises(ValueError, match="no session is open"):
        one.say("power 4 300")
    pynvml.nvmlInit()
    with pytest.raises(ValueError, match="there is no statement powr"):
        one.say("powr 4 300")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "fewer than two rows"),
        ("time,power\n0,1\n", "begins with neither"),
        ("seconds,watts\n0,1\n0,2\n", "row 3: the times must rise"),
        ("seconds,joules\n0,5\n1,4\n", "row 3: the times and joules must rise"),
        ("seconds,joules,volts\n0,5,1\n1,6,1\n", "volts is none of power_usage, power_average"),
        ("seconds,joules,sm_clock\n0,5,1\n0,,1\n", "row 3: the times must rise"),
        ("seconds,joules,sm_clock\n0,5,1\n1,6,fast\n", "row 3: fast is not a number"),
        ("seconds,joules,sm_clock\n0,5,1\n1,6,1,1\n", "row 3: it has more cells than the head"),
        ("seconds,joules,sm_clock\n0,5,1\n1\n", "row 3: there is nothing but a time"),
        ("seconds,watts\n0,1\n1;2\n", "row 3: 1;2 is not a number"),
    ],
)
def test_a_wrong_recording_fails_the_init(driver, tmp_path, capfd, content, message):
    """The row and what is wrong in it are named."""
    (tmp_path / "recording.csv").write_text(content)
    driver(f"replay {tmp_path / 'recording.csv'}")
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlInit()
    assert message in capfd.readouterr().err


def test_a_missing_scenario_or_clock_fails_the_init(driver, monkeypatch, tmp_path, capfd):
    """The error says which of them can't be read."""
    one = driver()
    one.clock.path.write_bytes(b"short")
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlInit()
    assert "is no clock" in capfd.readouterr().err
    monkeypatch.setenv(nvml_standin.SCENARIO, str(tmp_path / "nowhere"))
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlInit()
    assert "can't be opened" in capfd.readouterr().err


def test_any_call_can_fail_for_a_time(started):
    """By its name or the begin of it, with any error, for all time or a part of it."""
    one = started("fail DeviceGetTotalEnergyConsumption UNKNOWN 2 3", "fail nvmlDeviceGetClock* NO_PERMISSION")
    assert joules(board()) == 100
    one.sleep(1)
    with pytest.raises(pynvml.NVMLError_Unknown):
        joules(board())
    one.sleep(1)
    assert joules(board()) == 300
    with pytest.raises(pynvml.NVMLError_NoPermission):
        pynvml.nvmlDeviceGetClockInfo(board(), 1)


def test_an_old_driver_lacks_newer_symbols_and_fields(started):
    """What it has under older names is told."""
    started("missing DeviceGetTemperatureV", "missing DeviceGetComputeRunningProcesses", "fail field:269 NOT_SUPPORTED")
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetTemperatureV(board(), 0)
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetComputeRunningProcesses_v3(board())
    assert pynvml.nvmlDeviceGetTemperature(board(), 0) == 55
    with pytest.raises(pynvml.NVMLError_NotSupported):
        field(board(), 269)
    assert field(board(), 270) == 0


def test_a_lost_board_answers_nothing_and_the_others_do(started):
    """From the instant on at which it is lost."""
    one = started("boards 2", "board 1", "lost 2")
    handles = [board(0), board(1)]
    one.sleep(1.5)
    assert joules(handles[0]) == 250
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        joules(handles[1])


def test_throttling_is_in_the_mask_while_it_lasts_and_in_the_counters_for_ever(started):
    """Of a share of the time, the counters have that share."""
    one = started("throttle sw_thermal 2 3 0.5", "throttle hw_thermal 2 2.5", "throttle sw_power_cap 2 4")
    one.clock.set_ns(int(2.25 * NS))
    assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(board()) == 0x20 | 0x40 | 0x8 | 0x4
    one.clock.set_ns(10 * NS)
    assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(board()) == 0
    assert [field(board(), number) for number in (74, 76, 269, 270, 271)] == [2 * NS, 0, NS // 2, NS // 2, 0]
    assert pynvml.nvmlDeviceGetViolationStatus(board(), pynvml.NVML_PERF_POLICY_THERMAL).violationTime == NS


def test_processes_come_and_go(started):
    """Each has its memory, its name and its kind while it is there, whatever nonsense its id is."""
    one = started("process 4321 2 3 compute 2048 train.py", "process 0 2 3", "process 4294967295 2 3 mps")
    before = pynvml.nvmlDeviceGetMemoryInfo(board()).used
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(board()) == []
    one.sleep(1)
    assert [process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(board())] == [4321, 0]
    assert [process.pid for process in pynvml.nvmlDeviceGetMPSComputeRunningProcesses(board())] == [4294967295]
    assert pynvml.nvmlSystemGetProcessName(4321) == "train.py"
    assert pynvml.nvmlDeviceGetMemoryInfo(board()).used - before == (2048 + 1024 + 1024) << 20
    one.sleep(1)
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(board()) == []


def test_with_mig_on_power_is_the_boards_and_much_else_is_not_told(started):
    """As of a real board: a part has a UUID and a parent, and neither counter nor utilisation."""
    started("mig 2", "power 0 300")
    assert pynvml.nvmlDeviceGetMigMode(board()) == [1, 1]
    instance = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(board(), 1)
    assert pynvml.nvmlDeviceGetUUID(instance).startswith("MIG-")
    assert joules(board()) == 300
    with pytest.raises(pynvml.NVMLError_NotSupported):
        joules(instance)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(board(), 2)
    with pytest.raises(pynvml.NVMLError_NoPermission):
        pynvml.nvmlDeviceGetComputeRunningProcesses(board())
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetUtilizationRates(board())
    parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(instance)
    assert pynvml.nvmlDeviceGetUUID(parent) == pynvml.nvmlDeviceGetUUID(board())


# -- what else a board says


def test_boards_differ_where_the_scenario_says_so(started):
    """What is said before the first `board` is said of all."""
    started("boards 2", "power 0 100", "board 1", "power 0.5 200", "name NVIDIA A100-SXM4-40GB", "uuid GPU-b")
    assert pynvml.nvmlDeviceGetCount() == 2
    assert [pynvml.nvmlDeviceGetName(board(i)) for i in range(2)] == ["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB"]
    assert [joules(board(i)) for i in range(2)] == [100, 150]
    assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID("GPU-b")) == 1
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByUUID("GPU-c")


def test_clocks_limits_temperature_and_health_change_over_time(started):
    """In steps or in a ramp, as the scenario says."""
    one = started(
        "sm_clock 0 1980", "sm_clock 5 1605", "power_limit 0 700", "power_limit 5 500", "persistence off",
        "temperature 0 50", "temperature 10 70 ramp", "ecc_uncorrected 0 0", "ecc_uncorrected 5 2",
        "utilisation 0 0", "utilisation 5 80",
    )  # fmt: skip

    def read():
        return (
            pynvml.nvmlDeviceGetClockInfo(board(), pynvml.NVML_CLOCK_SM),
            pynvml.nvmlDeviceGetEnforcedPowerLimit(board()),
            pynvml.nvmlDeviceGetTemperatureV(board(), pynvml.NVML_TEMPERATURE_GPU),
            pynvml.nvmlDeviceGetTotalEccErrors(board(), 1, 0),
            pynvml.nvmlDeviceGetUtilizationRates(board()).gpu,
        )

    assert read() == (1980, 700_000, 52, 0, 0)
    assert pynvml.nvmlDeviceGetPersistenceMode(board()) == 0
    one.clock.set_ns(5 * NS)
    assert read() == (1605, 500_000, 60, 2, 80)


def test_gpm_gives_means_between_two_samples(started):
    """Of activity in percent, over the time between them."""
    one = started("utilisation 0 0", "utilisation 2 100")
    first, second = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
    pynvml.nvmlGpmSampleGet(board(), first)
    one.sleep(4)
    pynvml.nvmlGpmSampleGet(board(), second)
    asked = pynvml.c_nvmlGpmMetricsGet_t(version=1, numMetrics=2, sample1=first, sample2=second)
    asked.metrics[0].metricId, asked.metrics[1].metricId = 1, 2
    answered = pynvml.nvmlGpmMetricsGet(asked)
    assert [answered.metrics[i].value for i in range(2)] == pytest.approx([75, 60])
    for sample in (first, second):
        pynvml.nvmlGpmSampleFree(sample)


def test_an_xid_is_an_event_once(started):
    """It is there from its time on, and gone once it was waited for."""
    one = started("xid 2 79")
    events = pynvml.nvmlEventSetCreate()
    pynvml.nvmlDeviceRegisterEvents(board(), pynvml.nvmlEventTypeXidCriticalError, events)
    with pytest.raises(pynvml.NVMLError_Timeout):
        pynvml.nvmlEventSetWait_v2(events, 0)
    one.sleep(2)
    assert pynvml.nvmlEventSetWait_v2(events, 0).eventData == 79
    with pytest.raises(pynvml.NVMLError_Timeout):
        pynvml.nvmlEventSetWait_v2(events, 0)
    pynvml.nvmlEventSetFree(events)


# -- time and processes


def test_in_real_time_all_processes_see_one_counter(started):
    """What one has read, another one that reads later doesn't find to be less."""
    one = started("power 0 400", "period 0.02", real=True)
    program = (
        "import pynvml, time; pynvml.nvmlInit(); h = pynvml.nvmlDeviceGetHandleByIndex(0)\n"
        "print(time.monotonic_ns(), pynvml.nvmlDeviceGetTotalEnergyConsumption(h), time.monotonic_ns())"
    )
    time.sleep(0.05)
    environment = {**os.environ, **nvml_standin.environment(one.scenario)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    before_ns, read_mj, after_ns = map(int, done.stdout.split())
    assert 400 * ((before_ns - one.epoch_ns) / NS - 0.021) <= read_mj / 1000 <= 400 * (after_ns - one.epoch_ns) / NS
    assert joules(board()) >= read_mj / 1000


def test_sessions_are_counted(started):
    """The driver is there until the last one is closed."""
    started()
    pynvml.nvmlInit()
    pynvml.nvmlShutdown()
    assert pynvml.nvmlDeviceGetCount() == 1
    pynvml.nvmlShutdown()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
