"""Which devices a run holds and meters for a pool, over the stand-in driver."""

from contextlib import closing

import pytest
from nvml_fixtures import driver, stub  # noqa: F401

from pytest_slmperf.core.errors import EngineUnavailable
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.run.devices import Device, device_of, machine_of
from pytest_slmperf.run.metering import open_nvml

CUDA = {"device": "cuda"}


@pytest.fixture(autouse=True)
def machine(driver, monkeypatch):  # noqa: F811 - a fixture's name
    """Four GPUs, or what a test says."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    driver("boards 4")
    return driver


@pytest.mark.parametrize(
    ("options", "pool", "device"),
    [
        (CUDA, Pool(2), Device("cuda")),
        (CUDA, Pool(2, "mps"), Device("cuda")),
        (CUDA, Pool(3, "gpus"), Device("cuda", 0, 3)),
        ({"device": "cuda:1"}, Pool(2, "gpus"), Device("cuda", 1, 2)),
        ({**CUDA, "tensor_parallel_size": 2}, Pool(2, "gpus"), Device("cuda", 0, 4)),
        ({"device": "cpu"}, Pool(2), Device("cpu")),
    ],
)
def test_a_pool_runs_on_the_gpus_of_all_its_replicas(options, pool, device):
    """They are held, metered, and what the machine is."""
    assert device_of("of another package", options, pool) == device


def test_a_smaller_pool_runs_on_a_part_of_a_larger_ones_gpus():
    """So that a sweep over the number of replicas is one run."""
    one, two, other = (device_of("of another package", CUDA, Pool(count, "gpus")) for count in (1, 2, 4))
    assert one.is_part_of(two)
    assert two.is_part_of(other)
    assert not other.is_part_of(two)
    assert not Device("cpu").is_part_of(one)


def test_a_pool_on_slices_is_the_slices_and_its_joules_are_the_boards(machine):
    """Labelled by their profile, with the board's UUID; the board is read once."""
    machine("mig 3")
    device = device_of("of another package", CUDA, Pool(2, "mig"))
    assert str(device) == "2 MIG slices"
    assert machine_of(device).device == "simulated 2 x NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    with closing(open_nvml(window_s=1, lead_in_s=0, slices=device.slices)) as metering:
        assert metering.source.boards == ("GPU-00000000-0000-4000-8000-000000000000",)
    with pytest.raises(EngineUnavailable, match="need as many MIG slices, and there are 3"):
        device_of("of another package", CUDA, Pool(4, "mig"))


def test_slices_that_cannot_be_looked_for_are_an_error_of_the_engine(machine):
    """With the driver's reason."""
    machine("init DRIVER_NOT_LOADED")
    with pytest.raises(EngineUnavailable, match="MIG slices can't be looked for: the NVIDIA driver is not loaded"):
        device_of("of another package", CUDA, Pool(2, "mig"))
