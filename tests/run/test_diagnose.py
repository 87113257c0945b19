"""A look at a board on the stand-in driver, under the real pynvml, and at this machine; and what is said of it."""

import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from foreign_engine import install
from moving_package import moving_package
from nvml_fixtures import driver, stub  # noqa: F401

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import MeterUnavailable
from pytest_slmperf.core.fitness.diagnosis import Grade
from pytest_slmperf.core.fitness.gpu import board_lines, no_board
from pytest_slmperf.core.launch import CaseRecord
from pytest_slmperf.meters.nvml import NvmlMeter
from pytest_slmperf.run import fingerprint
from pytest_slmperf.run.devices import Device, HeldDevices, boards_at
from pytest_slmperf.run.doctor import bandwidth_of
from pytest_slmperf.run.joules import Joules
from pytest_slmperf.run.metering import open_rapl
from pytest_slmperf.run.noise import Wanted, answer_limit_s, measure_noise, noise_lines, weights_bytes
from pytest_slmperf.run.settings import Settings
from pytest_slmperf.run.watching import (
    EVERY_MOVE,
    board_is_plugged_in,
    hidden_board,
    look_at_packages,
    watch_board,
    watch_cpu,
)

pytest.importorskip("pynvml")
OK, WARNING, BLOCKS, NOT_SEEN = Grade
WINDOW_S = 3.0
SOUND = MappingProxyType(
    dict.fromkeys(
        (
            "meter", "privileges", "gpu clock", "power limit", "gpu throttling", "gpu processes", "mig", "mps",
            "persistence", "gpu errors",
        ),
        OK,
    )
)  # fmt: skip
SHORT = Settings(rounds=2, round_s=0.02, window_s=0.4, lead_in_s=0.1)


@pytest.fixture
def look(driver):  # noqa: F811 - a fixture's name
    """Looks at the board of a scenario for two seconds of its virtual clock. Returns the lines."""

    def lines_of(*statements, window_s=WINDOW_S, seen_s=None):
        one = driver(*statements)
        meter = NvmlMeter(pace=EVERY_MOVE, clock=one.now_ns, sleep=one.sleep)
        return board_lines(watch_board(meter, 2.0), window_s=window_s, seen_s=seen_s)

    return lines_of


def test_cores_are_measured_anew_and_kept(monkeypatch, tmp_path):
    """A run after the doctor takes no time for it; while somebody else measures, nothing is."""
    monkeypatch.setenv("SLMPERF_CACHE", str(tmp_path))
    here, spec = fingerprint.probe(), EngineSpec("ctranslate2", "tiny-2x128")
    (line,) = bandwidth_of(here, Device("cpu"), spec)
    assert line.grade is OK
    assert line.said.startswith("1 core reads ")
    assert len(list((tmp_path / "roofs").iterdir())) == 1
    with closing(HeldDevices(wait_s=0.0, say=print)) as held:
        held.hold([Device("cpu")])
        (busy,) = bandwidth_of(here, Device("cpu"), spec)
    assert busy.grade is NOT_SEEN
    assert bandwidth_of(fingerprint.simulated(), Device("simulated"), EngineSpec("fake", "tiny-2x128")) == ()


def by_topic(lines):
    found = {}
    for line in lines:
        found.setdefault(line.topic, line)
    return found


def test_a_sound_board_is_fit_in_all_that_can_be_seen_of_it(look):
    """Only what stands in for its driver is warned of, and a sensor that is not loaded is not seen through."""
    found = by_topic(look("power 0 70", "period 0.1 0.02"))
    assert {topic: found[topic].grade for topic in SOUND} == SOUND
    assert (found["gpu"].grade, found["gpu"].values["simulated"]) == (WARNING, True)
    assert "driver 580" in found["gpu"].said
    assert found["sensor"].grade is NOT_SEEN
    assert "shows under load" in found["sensor"].said


@pytest.mark.parametrize("period_s", [0.02, 0.1, 0.25])
def test_a_counters_period_and_error_are_measured(look, period_s):
    """The stated period is the board's, and the error that of its edges over a window of the settings."""
    meter = by_topic(look("power 0 400", f"period {period_s}"))["meter"]
    assert meter.grade is OK
    assert meter.values["period_s"] == pytest.approx(period_s, rel=0.05)
    assert 0 < meter.values["edge_error"] < 0.002
    assert f"moves every {period_s * 1000:.3g} ms" in meter.said


NO_COUNTER = "fail DeviceGetTotalEnergyConsumption NOT_SUPPORTED"
NO_PROCESSES = "fail DeviceGetComputeRunningProcesses NO_PERMISSION"
REFUSED = (
    "fail DeviceGetTotalEnergyConsumption NO_PERMISSION", "fail field:* NO_PERMISSION",
    "fail DeviceGetPowerUsage NO_PERMISSION",
)  # fmt: skip
MEMORY = "process 4321 0.5 - compute 9000"
SEEN = {
    "slow counter": (["power 0 400", "period 0.5"], "meter", WARNING, "moves every 500 ms", "window_s = 5"),
    "part-time sensor": (
        ["power 0 100", "wave 0.037 0.5 300", "period 0.1", "sensor 0.025"],
        "sensor", WARNING, "it sees a part of the time", "sensor_seen_s = 0.025 and window_s = ",
    ),
    "slow driver": (
        ["power 0 400", "delay DeviceGetTotalEnergyConsumption 0.05 0.3"],
        "meter", WARNING, "the driver answers slowly", "window_s = ",
    ),
    "stuck": (["power 0 400", "stuck 1"], "meter", BLOCKS, "its energy counter stood still", "reset the board"),
    "reset": (["power 0 400", "reset 2"], "meter", BLOCKS, "its energy counter went back", "reset the board"),
    "lost": (["power 0 400", "lost 2"], "meter", BLOCKS, "fell off the bus", "reboot"),
    "no counter": ([NO_COUNTER], "meter", WARNING, "joules come from integrated power, ±2.0%", "no less than 4%"),
    "no means": (
        [NO_COUNTER, "fail field:* NOT_SUPPORTED"], "meter", WARNING, "come from power samples, ±5.9%", "12%",
    ),
    "no joules": (REFUSED, "meter", WARNING, "no joules: no counter, since this user may not ask", "throughput alone"),
    "joules refused": (REFUSED, "privileges", WARNING, "this user may not ask for joules", "run as root"),
    "processes refused": ([NO_PROCESSES], "privileges", WARNING, "this user may not ask for processes", "run as root"),
    "processes unseen": ([NO_PROCESSES], "gpu processes", NOT_SEEN, "this user may not ask", "on the host"),
    "old: processes": (
        ["missing DeviceGetComputeRunningProcesses"], "gpu processes", NOT_SEEN, "too old for it", "on the host",
    ),
    "old: throttling": (
        ["missing DeviceGetFieldValues", "missing DeviceGetViolationStatus"],
        "gpu throttling", NOT_SEEN, "this driver doesn't count hw_thermal, power_brake, sw_thermal", "",
    ),
    "old: temperature": (
        ["missing DeviceGetTemperatureV", "missing DeviceGetTemperature"],
        "gpu", NOT_SEEN, "its temperature: this driver is too old for it", "",
    ),
    "nonsense": (["process 0 0.5 - compute 100"], "gpu processes", NOT_SEEN, "its list is nonsense", "on the host"),
    "throttled": (["throttle hw_thermal 2"], "gpu throttling", BLOCKS, "now: its hardware slowed it down", "cool"),
    "throttled before": (
        ["throttle sw_thermal 0.2 0.7"], "gpu throttling", WARNING,
        "not now; since the driver was loaded its driver slowed it down because it was hot, for 0.5 s", "cooling",
    ),
    "power cap": (["throttle sw_power_cap 0"], "gpu throttling", OK, "its power limit held it back", ""),
    "foreign": (["process 4321 0.5 - compute 512 train.py"], "gpu processes", BLOCKS, "train.py (pid 4321)", "end it"),
    "foreign, later": (["process 4321 2 - compute"], "gpu processes", BLOCKS, "(pid 4321) came", "end it"),
    "foreign, unseen": ([MEMORY, NO_PROCESSES], "gpu processes", BLOCKS, "MiB were in use", "end it"),
    "MIG": (["mig 2"], "mig", WARNING, "those of the whole board", "-mig 0"),
    "no MIG": (["fail DeviceGetMigMode NOT_SUPPORTED"], "mig", NOT_SEEN, "does not support it", ""),
    "MPS": (["process 40 0.5 - compute 300 nvidia-cuda-mps-server"], "mps", OK, "on: a baseline holds", ""),
    "MPS unseen": ([NO_PROCESSES], "mps", NOT_SEEN, "no server of it is seen", ""),
    "persistence": (["persistence off"], "persistence", WARNING, "may unload", "--persistence-mode=1"),
    "persistence unseen": (
        ["fail DeviceGetPersistenceMode NOT_SUPPORTED"], "persistence", NOT_SEEN, "does not support it", "",
    ),
    "ECC": (["ecc_uncorrected 0 2"], "gpu errors", WARNING, "2 uncorrected memory errors", "replace it"),
    "ECC unseen": (["ecc off"], "gpu errors", NOT_SEEN, "uncorrected memory errors: ", ""),
    "Xid": (["xid 2 48"], "gpu errors", BLOCKS, "reported Xid 48 just now", "look it up"),
    "power limit": (["power_limit 0 500"], "power limit", WARNING, "500 W, by default 700 W", "--power-limit=700"),
    "power limit unseen": (
        ["fail DeviceGetEnforcedPowerLimit NOT_SUPPORTED"], "power limit", NOT_SEEN, "does not support it", "",
    ),
    "clock": (["sm_clock 0 1605"], "gpu clock", OK, "1,605 MHz of at most 1,980 MHz", "--lock-gpu-clocks"),
    "clock unseen": (["fail DeviceGetClockInfo NOT_SUPPORTED"], "gpu clock", NOT_SEEN, "does not support it", ""),
}  # fmt: skip
"""Scenarios by what is the matter: their statements, and topic, grade, reason and way out of a line."""


@pytest.mark.parametrize(("statements", "topic", "grade", "said", "todo"), SEEN.values(), ids=SEEN)
def test_what_a_driver_tells_is_graded_and_says_what_to_do(look, statements, topic, grade, said, todo):
    """Each thing that a user can meet has a line with its grade, its reason and the way out."""
    found = [line for line in look(*statements) if line.topic == topic]
    assert any(line.grade is grade and said in line.said and todo in line.todo for line in found), found


def test_a_share_of_mps_threads_that_somebody_set_is_a_warning(look, monkeypatch):
    """It was reported to give wrong results in silence."""
    monkeypatch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "50")
    line = by_topic(look())["mps"]
    assert (line.grade, line.todo) == (WARNING, "unset CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")
    assert "parts of half-precision products unwritten, without an error" in line.said


def test_a_full_time_sensor_is_not_blamed_for_a_fast_load(look):
    """The same wave that a part-time sensor sees by chance averages out where all of it is seen."""
    assert by_topic(look("power 0 100", "wave 0.005 0.5 300", "period 0.1"))["sensor"].grade is NOT_SEEN


def test_a_part_time_sensor_that_is_set_needs_a_longer_window_alone(look):
    """The setting that is advised puts its error into that of joules, and is not advised again."""
    scenario = ("power 0 100", "wave 0.037 0.5 300", "period 0.1", "sensor 0.025")
    line = by_topic(look(*scenario, seen_s=0.025))["sensor"]
    assert "so that the error of joules holds it" in line.said
    assert line.todo.startswith("window_s = ")


def test_a_longer_window_is_enough_for_a_slow_counter(look):
    """The setting that is advised ends the warning."""
    assert by_topic(look("power 0 400", "period 0.5", window_s=5.0))["meter"].grade is OK


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("init DRIVER_NOT_LOADED", "the NVIDIA driver is not loaded"),
        ("init LIB_RM_VERSION_MISMATCH", "updated, and the machine not rebooted since"),
        ("init NO_PERMISSION", "this user may not ask for it"),
        ("lost 0", "the GPU is lost"),
        ("missing DeviceGetHandleByIndex", "this driver is too old"),
    ],
)
def test_a_driver_that_fails_blocks(driver, statement, reason):  # noqa: F811 - a fixture's name
    """A driver that is there and doesn't work is broken, and its reason is the line."""
    driver(statement)
    with pytest.raises(MeterUnavailable) as caught:
        watch_board(NvmlMeter(pace=EVERY_MOVE), 0.1)
    error = caught.value
    line = no_board(str(error), needed=False, absent=error.nothing_installed, plugged_in=False)
    assert line.grade is BLOCKS
    assert reason in line.said


def test_a_machine_without_a_driver_is_no_broken_one():
    """Nothing is installed that could read a board, and that is told apart from a driver that fails."""
    program = (
        "from pytest_slmperf.run.watching import look_at_board\n"
        "seen = look_at_board((0,), 0.1)\n"
        "print(isinstance(seen, Exception), getattr(seen, 'nothing_installed', None), seen)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NVML_STUB")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    if done.stdout.startswith("False"):
        pytest.skip("this machine has a driver")
    absent, missing = done.stdout.split()[1], done.stdout.partition(" ")[2].partition(" ")[2]
    assert absent == "True"
    assert "there is no NVIDIA driver on this machine" in missing


@pytest.mark.parametrize(
    ("needed", "absent", "plugged_in", "grade"),
    [
        (False, True, False, NOT_SEEN),
        (False, True, True, WARNING),
        (False, False, False, BLOCKS),
        (True, True, False, BLOCKS),
        (True, True, True, BLOCKS),
        (True, False, False, BLOCKS),
    ],
)
def test_a_board_that_can_not_be_read_is_graded_by_who_needs_it(needed, absent, plugged_in, grade):
    """An engine that is to run on it can't; one on the CPU can, but a driver that is broken isn't left so."""
    line = no_board("a reason", needed=needed, absent=absent, plugged_in=plugged_in)
    assert line.grade is grade
    assert ("pytest-slmperf[nvml]" in line.todo) == (absent and (needed or plugged_in))


def test_a_board_whose_joules_zeus_tells_has_a_meter_with_a_larger_error(driver):  # noqa: F811
    """A run counts them, so throughput isn't all that can be gated; without Zeus it is."""
    refused = ("DeviceGetTotalEnergyConsumption", "DeviceGetPower*", "field:185", "field:186")
    one = driver(*(f"fail {what} NOT_SUPPORTED" for what in refused))
    watch = watch_board(NvmlMeter(pace=EVERY_MOVE, clock=one.now_ns, sleep=one.sleep), 0.5)
    found, without = (by_topic(board_lines(one, window_s=3))["meter"] for one in (replace(watch, by_zeus=True), watch))
    assert found.said.startswith("no counter, since ")
    assert found.said.endswith(": joules come from zeus, ±5.9% at best")
    assert (found.values["source"], without.values["source"]) == ("zeus", None)
    assert without.todo == "gate throughput alone here"


@pytest.mark.parametrize(
    ("visible", "index", "boards"), [(None, 0, (0,)), (None, 1, (1,)), ("2,1", 0, (2,)), ("2,1", 1, (1,)), ("", 0, ())]
)
def test_the_board_is_the_engines_as_cuda_counts_them(monkeypatch, visible, index, boards):
    """CUDA_VISIBLE_DEVICES may name the board, or hide them all."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert boards_at(Device("cuda", index).index) == boards


@pytest.mark.parametrize(
    ("index", "visible", "needed", "grade", "said"),
    [
        (0, "", True, BLOCKS, 'CUDA_VISIBLE_DEVICES="" hides every GPU'),
        (
            0,
            "-1",
            False,
            NOT_SEEN,
            'CUDA_VISIBLE_DEVICES="-1" hides every GPU; a CPU\'s throughput can be gated without',
        ),
        (2, "0,1", True, BLOCKS, 'CUDA_VISIBLE_DEVICES="0,1" shows no GPU 2'),
    ],
)
def test_a_hidden_board_is_told_as_such(index, visible, needed, grade, said):
    """What hides it is the reason, and installing a driver no way out."""
    line = hidden_board(index, visible, needed=needed)
    assert (line.grade, line.said) == (grade, said)
    assert line.todo == ("unset it, or name the GPU's number in it: CUDA_VISIBLE_DEVICES=0" if needed else "")


def test_a_board_on_the_bus_is_seen_without_its_driver(tmp_path):
    """An NVIDIA device that displays or renders is a GPU; its sound and another vendor's board are none."""
    for slot, vendor, kind in (("1", "0x10de", "0x040300"), ("2", "0x1002", "0x030000")):
        device = tmp_path / "sys/bus/pci/devices" / slot
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    assert not board_is_plugged_in(tmp_path)
    (tmp_path / "sys/bus/pci/devices/1/class").write_text("0x030200\n")
    assert board_is_plugged_in(tmp_path)


def test_this_machines_cpu_is_watched_and_a_busy_process_named():
    """A process that keeps a core busy is in the load, with its command."""
    program = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"
    busy = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    try:
        seen = watch_cpu(0.6)
    finally:
        busy.kill()
        busy.wait()
    assert seen.seconds >= 0.6
    assert seen.busy > 0.5 / seen.allowed
    assert "s of CPU" in seen.who
    assert (seen.stolen is None) == (seen.stolen_from_boot is None)
    assert (seen.throttled is None) == (seen.throttled_from_boot is None)


def test_the_counters_of_a_cpu_are_looked_at_for_a_moment(tmp_path):
    """A package whose counter moves is a meter; a machine that shows none has none."""
    with moving_package(tmp_path, every_s=0.002):
        line = look_at_packages(0.4, WINDOW_S, root=tmp_path)
    assert (line.grade, line.values["packages"]) == (OK, 1)
    assert look_at_packages(0.1, WINDOW_S, root=tmp_path / "nothing").grade is NOT_SEEN


def wanted(seconds=200.0, settings=SHORT, **options):
    spec = EngineSpec("fake", "tiny-2x128", options=options)
    return Wanted(spec, None, settings, Path("baselines"), noise_s=seconds)


def nobody_else(**folder):
    return HeldDevices(wait_s=0, say=print, **folder)


def test_a_device_that_somebody_measures_on_is_left_alone(tmp_path):
    """Who has it is said, and nothing is launched beside."""
    other = nobody_else(folder=tmp_path)
    other.hold([Device("cpu")])
    spec = EngineSpec("ctranslate2", "tiny-2x128")
    try:
        (line,) = measure_noise(replace(wanted(), spec=spec), None, nobody_else(folder=tmp_path)).lines
    finally:
        other.close()
    assert (line.topic, line.grade) == ("noise", WARNING)
    assert f"not measured: cpu is in use by pid {os.getpid()}" in line.said


def test_the_spread_of_launches_is_found_and_turned_into_a_tolerance():
    """Launches that spread by 2 % support no tolerance of 3 %, and twenty of them are enough."""
    (line,) = measure_noise(wanted(launch_noise=0.02, seed=3), None, nobody_else()).lines
    assert line.topic == "noise of output_throughput"
    assert line.values["launches"] == 20
    assert 0.005 < line.values["spread"] < 0.04
    assert line.values["supported_tolerance"] >= 0.04
    assert "launches of fake tiny-2x128" in line.said


def test_an_engine_that_fails_blocks():
    """What can't be launched can't be gated, and its reason is the line."""
    (line,) = measure_noise(wanted(fault="raises"), None, nobody_else()).lines
    assert (line.topic, line.grade) == ("noise", BLOCKS)
    assert line.said.startswith("fake tiny-2x128: ")


@pytest.mark.parametrize("batch", [0, 1], ids=["start", "first batch"])
def test_an_engine_that_hangs_blocks_after_a_short_while(batch):
    """It is given up long before a run would, and the line says how long it was waited for."""
    began = time.monotonic()
    (line,) = measure_noise(replace(wanted(fault="hangs", fault_batch=batch), answer_s=1.5), None, nobody_else()).lines
    assert time.monotonic() - began < 30
    assert (line.topic, line.grade) == ("noise", BLOCKS)
    assert line.said.startswith("fake tiny-2x128: fake (tiny-2x128, float32) gave no answer for 2.5 s while ")
    assert line.todo == "if it is only slow, wait longer: --seconds=6; it was given 1.5 s, and 1 s for its weights"


@pytest.mark.parametrize(
    ("model", "answer_s", "allowed_s", "limit_s"),
    [
        ("anything", 30, 600, 30),
        ("opt-125m", 30, 600, 80),
        ("opt-125m", 120, 600, 170),
        ("opt-6.7b", 30, 600, 600),
        ("opt-125m", 30, 10, 10),
    ],
)
def test_how_long_an_engine_is_waited_for_grows_with_its_weights(model, answer_s, allowed_s, limit_s):
    """A large model takes its time to load and to warm up; no answer is waited for longer than in a run."""
    spec = EngineSpec("fake", model)
    asked = Wanted(spec, None, Settings(answer_limit_s=allowed_s), Path("baselines"), noise_s=30, answer_s=answer_s)
    assert answer_limit_s(asked) == pytest.approx(limit_s, abs=1)


def test_the_weights_in_a_folder_are_its_files(tmp_path):
    """A model that is given by path is as large as what lies there."""
    (tmp_path / "model.bin").write_bytes(bytes(1000))
    (tmp_path / "config.json").write_bytes(bytes(24))
    assert weights_bytes(str(tmp_path)) == 1024
    assert weights_bytes(str(tmp_path / "nothing")) == 0


def test_one_launch_tells_nothing_of_noise():
    """However short the time, one launch is made; its spread isn't known, and that is said."""
    (line,) = measure_noise(wanted(0.01), None, nobody_else()).lines
    assert line.grade is NOT_SEEN
    assert "1 launch of fake tiny-2x128" in line.said
    assert "--seconds" in line.todo


@pytest.mark.parametrize(("void", "grade"), [(1, WARNING), (4, BLOCKS)])
def test_launches_that_are_void_are_counted_with_their_reason(void, grade):
    """Some void launches are a warning; where more than half are, rounds are not to be had."""
    sound = CaseRecord("doctor", {"output_throughput": (100.0, 101.0)})
    spoilt = CaseRecord("doctor", {}, void="round 1 of 4 stayed void: others had the core")
    rounds, noise = noise_lines([*[sound] * 3, *[spoilt] * void], "fake tiny", 9.0, 16)
    assert (rounds.grade, rounds.topic) == (grade, "rounds")
    assert f"{void} of {3 + void} launches of fake tiny were void: round 1 of 4 stayed void" in rounds.said
    assert noise.values["launches"] == 3
    assert [line.topic for line in noise_lines([spoilt], "fake tiny", 9.0, 16)] == ["rounds"]


def test_joules_of_launches_are_in_the_noise_and_show_the_sensor(driver, tmp_path):  # noqa: F811
    """An engine on the board: its joules spread, too, and its load tells whether the sensor sees all of the time."""
    log = tmp_path / "load"
    driver(f"load {log} 100 500", "period 0.02", real=True)
    with closing(Joules(SHORT, fingerprint.simulated(), Device("simulated"))) as joules:
        found = measure_noise(wanted(4.0, real_time=True, load_log=str(log)), joules.metering, nobody_else())
    assert [line.topic for line in found.lines] == ["noise of output_throughput", "noise of joules_per_output_token"]
    assert found.loaded
    assert all(len(trace.edges) > 3 for trace in found.loaded)


def test_joules_of_the_cpus_packages_are_in_the_noise(tmp_path):
    """A run on a CPU counts them, so that the doctor does: with the meter that the run opens."""
    with (
        moving_package(tmp_path, every_s=0.002),
        closing(open_rapl(window_s=SHORT.window_s, lead_in_s=SHORT.lead_in_s, root=tmp_path)) as metering,
    ):
        spec = EngineSpec("fake", "tiny-2x128", options={"real_time": True, "load_log": str(tmp_path / "load")})
        metering.devices = ("simulated",)
        found = measure_noise(replace(wanted(3.0), spec=spec), metering, nobody_else())
    assert [line.topic for line in found.lines] == ["noise of output_throughput", "noise of joules_per_output_token"]


COMPILING = """
import os, time
from pytest_slmperf.core.engine import EngineFacts, Served

class Engine:
    def __init__(self, spec): pass
    def start(self): return EngineFacts("1", "simulated", "float32", "random", 4096, 1024, {{"compile": True}})
    def serve(self, batch, *, observe):
        with open("{log}", "a") as log: print(os.getpid(), file=log)
        began = time.monotonic_ns()
        return Served(began, began + 5_000_000, tuple(request.output_tokens for request in batch))
    def stop(self): pass
"""
"""An engine that notes in which processes it serves."""


@pytest.mark.alone  # or another test holds the device
def test_the_throw_away_launch_compiles_what_a_run_would_compile_in_its_own(tmp_path, monkeypatch):
    """Else the first launch that is measured would pay for all of them."""
    install(tmp_path, "noting", COMPILING.format(log=tmp_path / "batches"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    measure_noise(replace(wanted(0.01), spec=EngineSpec("noting", "tiny")), None, nobody_else())
    served = (tmp_path / "batches").read_text().split()
    assert len(set(served)) == 2  # processes: of the launch that primes, and of the one that is measured
