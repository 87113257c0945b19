"""What a board is and how it is set, as the stand-in driver tells it under the real pynvml."""

import os
import subprocess
import time
from contextlib import ExitStack
from dataclasses import replace

import mps_standin
import pytest

from pytest_slmperf.core.errors import MeterUnavailable
from pytest_slmperf.meters.boards import count, describe, mps_daemon_runs

UUID = "GPU-00000000-0000-4000-8000-000000000000"
TOLD = {
    "gpu_uuid": UUID,
    "gpu_memory_gib": 79.6,
    "vbios": "96.00.74.00.01",
    "pcie_generation": 5,
    "pcie_width": 16,
    "cuda_driver": "13.0",
    "compute_capability": "9.0",
    "max_sm_clock_mhz": 1980,
    "max_memory_clock_mhz": 2619,
    "power_limit_w": 700.0,
    "default_power_limit_w": 700.0,
    "ecc": True,
    "mig": False,
    "mps": False,
    "compute_mode": "default",
    "persistence": True,
    "gpu_virtualisation": "none",
}


@pytest.fixture(autouse=True)
def no_daemon(monkeypatch, tmp_path):
    """Whatever runs on this machine."""
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path / "pipes"))


def test_a_board_is_its_name_its_driver_and_what_it_is_set_to(driver):
    """And a stand-in's is simulated."""
    driver()
    board = describe(0)
    assert (board.name, board.uuid, board.driver, board.simulated) == ("NVIDIA H100 80GB HBM3", UUID, "580.65.06", True)
    assert board.fields == TOLD


@pytest.mark.parametrize(
    ("statement", "field", "value"),
    [
        ("power_limit 0 500", "power_limit_w", 500.0),
        ("application_clock 1605", "locked_clock_mhz", 1605),
        ("ecc off", "ecc", False),
        ("persistence off", "persistence", False),
        ("compute_mode 3", "compute_mode", "exclusive process"),
        ("virtualization 1", "gpu_virtualisation", "passthrough"),
        ("pcie 5 8", "pcie_width", 8),
        ("process 99 0 - compute 30 nvidia-cuda-mps-server", "mps", True),
        ("cuda 12080", "cuda_driver", "12.8"),
    ],
)
def test_a_setting_is_told(driver, statement, field, value):
    """Each as the driver has it now."""
    driver(statement)
    assert describe(0).fields == {**TOLD, field: value}


def test_an_mps_daemon_counts_before_its_first_client(driver, monkeypatch, tmp_path):
    """It starts its server with the first client, and whoever comes next would find another machine. One that was
    killed has left its number, which is nobody's or another process's.
    """
    driver()
    pid_file = tmp_path / "nvidia-cuda-mps-control.pid"
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    mps_standin.install(tmp_path)
    with subprocess.Popen([tmp_path / "nvidia-cuda-mps-server"]) as named_so, ExitStack() as stack:
        stack.callback(named_so.kill)
        pid_file.write_text(f"{named_so.pid}\n")
        until = time.monotonic() + 20
        while not mps_daemon_runs() and time.monotonic() < until:  # the kernel names it a moment after it is begun
            time.sleep(0.01)
        assert describe(0).fields["mps"] is True
    for gone in (named_so.pid, os.getpid()):
        pid_file.write_text(f"{gone}\n")
        assert describe(0).fields["mps"] is False


@pytest.mark.parametrize(
    ("fault", "lacking"),
    [
        ("fail DeviceGetEnforcedPowerLimit NOT_SUPPORTED", "power_limit_w"),
        ("missing DeviceGetMigMode", "mig"),
        ("fail DeviceGetEccMode NO_PERMISSION", "ecc"),
        ("fail DeviceGetComputeRunningProcesses NO_PERMISSION", "mps"),
    ],
)
def test_what_a_driver_does_not_tell_is_left_out(driver, fault, lacking):
    """And nothing else with it."""
    driver(fault)
    assert describe(0).fields == {name: value for name, value in TOLD.items() if name != lacking}


def test_an_error_that_passes_is_asked_again(driver):
    """Or a fact that must match would lack in one run of many."""
    driver("delay DeviceGetEccMode 0.5", "fail DeviceGetEccMode UNKNOWN 0 1.5")
    assert describe(0).fields == TOLD


def test_a_part_of_a_board_is_named_with_its_size(driver):
    """By its own UUID, or by the board's number: CUDA takes the board's first instance where MIG is on."""
    driver("mig 2")
    by_number = describe(0)
    assert by_number.name == "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    assert (by_number.uuid, by_number.fields["mig"]) == (UUID, True)
    by_uuid = describe("MIG-00000000-0000-4000-8000-000000000001")
    assert by_uuid.name == by_number.name


def test_a_board_is_found_by_its_number_and_by_its_uuid(driver):
    """Both name the same board, and two boards of a machine differ by what they are called."""
    driver("boards 2", "board 1", "name NVIDIA H200")
    assert describe(1).name == "NVIDIA H200"
    assert describe(describe(1).uuid) == describe(1)
    assert replace(describe(0), fields={}) != replace(describe(1), fields={})
    assert count() == 2


def test_among_unlike_boards_a_number_in_another_order_is_refused(driver):
    """CUDA's own order isn't the driver's."""
    driver("boards 2", "board 1", "name NVIDIA H200")
    with pytest.raises(MeterUnavailable, match=r"the boards differ .*or name the board's UUID"):
        describe(0, order="FASTEST_FIRST")
    assert describe(UUID, order="FASTEST_FIRST").name == "NVIDIA H100 80GB HBM3"
    driver("boards 2")
    assert describe(1, order="FASTEST_FIRST").name == "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("statement", "wanted", "reason"),
    [
        ("init DRIVER_NOT_LOADED", 0, "the NVIDIA driver is not loaded"),
        ("boards 1", 1, "there is no GPU 1: this machine has 1"),
        ("boards 1", "GPU-ffff", "0 GPUs of this machine have a UUID that begins with GPU-ffff"),
        ("lost 0", 0, "GPU 0: the GPU is lost"),
    ],
)
def test_a_board_that_can_not_be_had_says_why(driver, statement, wanted, reason):
    """No driver, a wrong number, a wrong UUID and a lost board are told apart."""
    driver(statement)
    with pytest.raises(MeterUnavailable, match=reason):
        describe(wanted)


def test_without_a_driver_there_are_no_boards(driver):
    """Counting them is no error then: a machine without a GPU has none."""
    driver("init DRIVER_NOT_LOADED")
    assert count() == 0
