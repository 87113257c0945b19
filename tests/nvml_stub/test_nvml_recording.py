"""Recordings of a board, replayed by the stand-in. These are synthetic: written here, as the recorder writes them."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import nvml_recording
import nvml_standin
import pytest

from pytest_slmperf.meters.nvml import NvmlMeter

pynvml = pytest.importorskip("pynvml")

NS = 1_000_000_000
PERIOD_US, MOVES = 101_000, 31
JITTER_US = (0, 2_000, -1_000)


def synthetic(**changes):
    """A recording of 3 s of a board that takes 300 W, then 400 W, and is held back by its limit in the last second."""
    edges, mj = [], 5_000_000
    for number in range(MOVES):
        mj += (30_300 if number < MOVES // 2 else 40_400) if number else 0
        at = 40_000 + number * PERIOD_US + JITTER_US[number % 3]
        edges.append([at - 600, at + 600, mj])
    rows = [
        [at, [300_000 + at // 10, 310_000, "!Not Supported"], 305_000, 1980 - at // 10_000, 2619, 50 + at // 1_000_000,
         4 if at >= 2_000_000 else 0, [90, 40]]
        for at in range(1, 3_000_000, 100_000)
    ]  # fmt: skip
    table = {
        "Name": ["NVIDIA H200", 9.1], "UUID": ["GPU-5e9e71c0-0000-4000-8000-000000000001", 12.0],
        "SystemGetDriverVersion": ["580.178.04", 3.0],
        "MemoryInfo": [{"total": 143771, "free": 143767, "used": 4}, 2.0],
        "EnforcedPowerLimit": [650_000, 2.0], "PowerManagementDefaultLimit": [700_000, 2.0], "EccMode": [[1, 1], 2.0],
        "PersistenceMode": [0, 1.0], "MaxClockInfo(1)": [1980, 1.0],
        "MaxClockInfo(3)": ["!NVMLError_NotSupported: Not Supported", 1.0],
        "MaxPcieLinkGeneration": [5, 1.0], "MaxPcieLinkWidth": [8, 1.0],
        "GraphicsRunningProcesses": ["!NVMLError_NoPermission: Insufficient Permissions", 4.0],
        "ProcessUtilization(0)": ["!NVMLError_NotFound: Not Found", 4.0],
    }  # fmt: skip
    watched = {"seconds": 3.0, "edges": edges, "rows": rows, "call_us": {"p50": 3000.0, "p90": 3300.0}}
    return {
        "synthetic": True, "mode": "load", "slow": watched, "fast": {"seconds": 1.0, "edges": edges[:9], "rows": []},
        "table": table, "gpm": "!NVMLError_NotSupported: Not Supported",
        "fields_before": {"74": 7_000_000_000}, "fields_after": {"74": 7_600_000_000, "271": "!Not Supported"},
        **changes,
    }  # fmt: skip


def write(path, told):
    text = json.dumps(told)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture
def replayed(driver, tmp_path):
    """A driver whose board was recorded."""

    def make(told, name="nvml_gemm.json", **options):
        one = driver(*nvml_recording.board_of(write(tmp_path / name, told), tmp_path, **options))
        pynvml.nvmlInit()
        return one

    return make


def board():
    return pynvml.nvmlDeviceGetHandleByIndex(0)


def fields(*numbers):
    return [read.value.uiVal for read in pynvml.nvmlDeviceGetFieldValues(board(), list(numbers))]


@pytest.mark.parametrize("name", ["nvml_gemm.json", "nvml_gemm.json.gz"])
def test_a_recorded_board_moves_its_counter_as_it_did(replayed, name):
    """At the same instants, by the same joules, and from the begin again when it has come to its end."""
    told = synthetic()
    one = replayed(told, name)
    edges = told["slow"]["edges"]
    times = [(low + high) / 2 for low, high, _ in edges]
    pass_us, pass_mj = times[-1] - times[0], edges[-1][2] - edges[0][2]
    for passes in (0, 1, 4):
        for number in (1, 2, 17, 30):
            at_us = passes * pass_us + times[number] - times[0]
            for us, move in ((at_us - 5_000, number - 1), (at_us + 1, number)):
                one.clock.set_ns(round(us * 1000))
                read = pynvml.nvmlDeviceGetTotalEnergyConsumption(board())
                assert read == pytest.approx(passes * pass_mj + edges[move][2] - edges[0][2], abs=1)


def test_the_meter_finds_what_the_recorder_found(replayed):
    """Period, joules and throttling of the replay are the recording's, through the whole meter."""
    one = replayed(synthetic())
    one.clock.set_ns(0)
    meter = NvmlMeter(clock=one.now_ns, sleep=one.sleep)
    facts = meter.open()
    assert (facts.simulated, facts.versions) == (True, {"driver": "580.178.04"})
    recording = meter.watch(6.1)
    (trace,) = recording.traces
    first, last = trace.edges[0], trace.edges[-1]
    assert trace.period_s == pytest.approx(PERIOD_US / 1e6, rel=0.01)
    joules = last.new.joules - first.new.joules
    assert joules == pytest.approx(one.true_joules(round(first.at_ns), round(last.at_ns)), rel=0.01)
    assert {frozenset(), frozenset({"sw_power_cap"})} == {sample.throttles for sample in recording.samples[trace.board]}
    meter.close()


def test_what_else_was_read_is_told_at_its_time(replayed):
    """Power, clock, temperature, throttling and utilisation are those of the last row before."""
    one = replayed(synthetic())
    begin_us = 40_000

    def at(us):
        one.clock.set_ns((us - begin_us) * 1000)
        rates = pynvml.nvmlDeviceGetUtilizationRates(board())
        return (
            *fields(185, 186),
            pynvml.nvmlDeviceGetPowerUsage(board()),
            pynvml.nvmlDeviceGetClockInfo(board(), pynvml.NVML_CLOCK_SM),
            pynvml.nvmlDeviceGetTemperatureV(board(), pynvml.NVML_TEMPERATURE_GPU),
            pynvml.nvmlDeviceGetCurrentClocksEventReasons(board()),
            rates.gpu,
        )

    assert at(begin_us) == (300_000, 310_000, 305_000, 1980, 50, 0, 90)
    assert at(1_050_000) == (400_000, 310_000, 305_000, 1880, 51, 0, 90)
    assert at(2_450_000) == (540_000, 310_000, 305_000, 1740, 52, 4, 90)
    one.clock.set_ns(30 * NS)
    assert pynvml.nvmlDeviceGetFieldValues(board(), [74])[0].value.ullVal == pytest.approx(0.2 * 30 * NS, rel=1e-6)


def test_a_board_is_what_it_was_and_refuses_what_it_refused(replayed):
    """Its name, its settings and its errors are the recorded ones."""
    replayed(synthetic())
    assert pynvml.nvmlDeviceGetName(board()) == "NVIDIA H200"
    assert pynvml.nvmlDeviceGetUUID(board()).startswith("GPU-5e9e71c0")
    assert pynvml.nvmlDeviceGetMemoryInfo(board()).total == 143771 << 20
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(board()) == 650_000
    assert pynvml.nvmlDeviceGetPersistenceMode(board()) == 0
    assert pynvml.nvmlDeviceGetMaxPcieLinkWidth(board()) == 8
    assert pynvml.nvmlDeviceGetMaxClockInfo(board(), pynvml.NVML_CLOCK_SM) == 1980
    assert not pynvml.nvmlGpmQueryDeviceSupport(board()).isSupportedDevice
    assert pynvml.nvmlDeviceGetFieldValues(board(), [271])[0].nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED
    with pytest.raises(pynvml.NVMLError_NoPermission):
        pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3(board())


def test_a_recording_of_the_counter_alone_is_enough(replayed):
    """What wasn't recorded is the stand-in's own."""
    told = synthetic()
    one = replayed({"fast": told["fast"]}, part="fast")
    assert one.true_joules(0, 808_000_000) == pytest.approx(8 * 30.3, rel=0.01)
    assert pynvml.nvmlDeviceGetClockInfo(board(), pynvml.NVML_CLOCK_SM) == 1980


def damaged(part, place, value):
    told = synthetic()
    told["slow"][part][place] = value
    return told


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("{\"slow\": {\"edges\": [[1, 2, 3], [4", "it can't be read"),
        ("[]", "it is no object of JSON"),
        ({"square": {}}, "it has no edges of a counter in its part 'slow'"),
        ({"slow": {"edges": [[1, 2, 3]]}}, "its counter moved 1 times, and a replay needs two moves"),
        (damaged("edges", 7, [740_000, 741_000]), r"edge 7: \[740000, 741000\] is not \[from, to, millijoules\]"),
        (damaged("edges", 7, [741_000, 740_000, 5_212_100]), "edge 7: .* is not"),
        (damaged("edges", 7, [9_000, 9_900, 5_212_100]), "edge 7: it is no later than the one before"),
        (damaged("edges", 7, [746_000, 747_000, 12]), "edge 7: the counter went back from 5181800 to 12 mJ"),
        (damaged("rows", 3, [300_000, 5]), r"row 3: \[300000, 5\] is not what was read at a time"),
    ],
)  # fmt: skip
def test_a_damaged_recording_is_refused_with_its_place(tmp_path, told, message):
    """The file, the part and the number of the edge or row are named, with what is wrong there."""
    file = tmp_path / "nvml_gemm.json"
    file.write_text(told if isinstance(told, str) else json.dumps(told))
    with pytest.raises(nvml_recording.BadRecording, match=message) as caught:
        nvml_recording.board_of(file, tmp_path)
    assert str(caught.value).startswith(str(file))


def test_a_file_that_is_cut_off_or_missing_is_refused(tmp_path):
    """Nothing is replayed of half a file."""
    cut = write(tmp_path / "nvml_gemm.json.gz", synthetic())
    cut.write_bytes(cut.read_bytes()[:100])
    for file in (cut, tmp_path / "nowhere.json"):
        with pytest.raises(nvml_recording.BadRecording, match="it can't be read"):
            nvml_recording.board_of(file, tmp_path)


@pytest.mark.usefixtures("stub")
def test_the_command_says_how_another_process_sees_the_board(tmp_path):
    """It prints variables of the environment, or what is wrong with the file on stderr."""
    program = [sys.executable, Path(nvml_recording.__file__), write(tmp_path / "nvml_gemm.json", synthetic()), tmp_path]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    told = dict(word.split("=", 1) for word in done.stdout.split())
    assert told.keys() == {"LD_LIBRARY_PATH", nvml_standin.SCENARIO}
    child = "import pynvml; pynvml.nvmlInit(); print(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))"
    seen = subprocess.run(
        [sys.executable, "-c", child], env={**os.environ, **told}, capture_output=True, text=True, check=True
    )
    assert seen.stdout == "NVIDIA H200\n"
    program[2].write_text("{")
    refused = subprocess.run(program, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "nvml_gemm.json: it can't be read" in refused.stderr
