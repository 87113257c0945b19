"""What can be seen of the processes that an engine has started."""

import subprocess
import sys

import pytest

from pytest_slmperf.engines.processes import on_gpu


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (["/dev/null", "/dev/nvidia0"], True),
        (["/dev/nvidia12"], True),
        (["/dev/kfd"], True),
        (["/dev/nvidiactl", "/dev/nvidia-uvm", "pipe:[7]"], False),
        ([], False),
    ],
)
def test_a_process_that_has_a_gpu_open_is_on_it(tmp_path, devices, expected):
    """Its own device counts; the driver's control device is opened by whoever only asks for GPUs."""
    opened = tmp_path / "41" / "fd"
    opened.mkdir(parents=True)
    for number, device in enumerate(devices):
        (opened / str(number)).symlink_to(device)
    assert on_gpu([40, 41], proc=tmp_path) is expected


def test_a_process_here_has_none():
    """As /proc shows it; one that has ended has none either."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not on_gpu([process.pid])
        process.communicate(b"\n")
    assert not on_gpu([process.pid])
