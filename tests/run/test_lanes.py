"""Workers of one run on a machine with several GPUs lease one each, by locks that a crash releases."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import nvml_standin
import pytest
from nvml_fixtures import driver, stub  # noqa: F401

from pytest_slmperf.core.errors import DeviceBusy
from pytest_slmperf.run.devices import Device, HeldDevices, device_of, machine_of
from pytest_slmperf.run.lanes import lanes_of, leased

CUDA = Device("cuda")
THREE = (("0",), ("1",), ("2",))


@pytest.fixture(autouse=True)
def three_gpus(driver, monkeypatch):  # noqa: F811 - a fixture's name
    """That this process may see."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    driver("boards 3")


@pytest.mark.parametrize(
    ("scenario", "device", "options", "visible", "lanes"),
    [
        ((), CUDA, {}, None, THREE),
        ((), CUDA, {"device": "cuda"}, "2,0", (("2",), ("0",))),
        ((), CUDA, {"device": "cuda:1"}, None, ()),
        ((), CUDA, {"device_index": 0}, None, ()),
        ((), Device("cpu"), {}, None, ()),
        ((), CUDA, {}, "1", ()),
        (("boards 5",), Device("cuda", 0, 2), {}, None, (("0", "1"), ("2", "3"))),
        (("boards 4", "board 1", "name NVIDIA A100"), CUDA, {}, None, (("0",), ("2",), ("3",))),
        (("boards 2", "mig 2"), CUDA, {}, None, ()),
        (("init DRIVER_NOT_LOADED",), CUDA, {}, None, ()),
    ],
    ids=["each", "visible", "named", "numbered", "no gpu", "one", "of two", "unlike", "mig", "no driver"],
)
def test_a_lane_is_as_many_like_gpus_as_an_engine_takes(  # noqa: PLR0917 - fixtures and parameters
    driver,  # noqa: F811 - a fixture's name
    monkeypatch,
    scenario,
    device,
    options,
    visible,
    lanes,
):
    """Where the engine's options name a GPU, or there is one alone, nothing is shared out."""
    if scenario:
        driver(*scenario)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert lanes_of(device, options) == lanes


@pytest.fixture
def lease(tmp_path):
    """Leases a lane for a worker of this test; its locks are the test's own."""

    def take(held: HeldDevices, first: int = 0):
        return leased(THREE, held, partial(device_of, "onchip", {"device": "cuda"}), first=first)

    take.worker = partial(HeldDevices, wait_s=0, say=lambda _: None, folder=tmp_path)
    return take


def test_each_worker_takes_the_first_free_lane_from_its_own_on(lease):
    """It sees that GPU alone meanwhile; one that comes when all are taken is told who has its own."""
    workers = [lease.worker() for _ in range(4)]
    uuids = []
    for worker, first, taken in zip(workers, (1, 1, 3), ("1", "2", "0"), strict=False):
        with lease(worker, first) as lane:
            assert lane == (taken,)
            assert os.environ["CUDA_VISIBLE_DEVICES"] == taken
            uuids.append(machine_of(CUDA).fields["gpu_uuid"])
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert len(set(uuids)) == 3
    with pytest.raises(DeviceBusy, match=rf"{uuids[0].lower()}|{uuids[0]}"), lease(workers[3], 1):
        pass
    workers[1].close()
    with lease(workers[3], 1) as lane:
        assert lane == ("2",)
    for worker in workers:
        worker.close()


WORKER = """
import sys
from pathlib import Path

from pytest_slmperf.run.devices import HeldDevices, device_of
from pytest_slmperf.run.lanes import leased

held = HeldDevices(wait_s=0, say=print, folder=Path(sys.argv[1]))
with leased((("0",), ("1",)), held, lambda: device_of("onchip", {"device": "cuda"})) as lane:
    print(*lane, flush=True)
    sys.stdin.read()
"""


def test_a_worker_that_is_killed_gives_its_gpu_back(lease, tmp_path):
    """Its lock is the kernel's, which knows of its end."""
    environment = {**os.environ, **nvml_standin.environment(Path(os.environ[nvml_standin.SCENARIO]))}
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    one, other = lease.worker(), lease.worker()
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout.readline() == "0\n"
        with lease(one) as lane:
            assert lane == ("1",)
        os.kill(killed.pid, signal.SIGKILL)
    with lease(other) as lane:
        assert lane == ("0",)
    one.close()
    other.close()
