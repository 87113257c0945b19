"""One job measures on a device at a time."""

import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from pytest_slmperf.core.errors import DeviceBusy
from pytest_slmperf.run.lock import device_lock, machine_folder
from pytest_slmperf.run.process import PACKAGE

HOLDER = """
import sys, time
from pathlib import Path
from pytest_slmperf.run.lock import device_lock
with device_lock("NVIDIA A100", wait_s=0, folder=Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the device."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_device_that_another_job_holds_is_busy_and_the_job_is_named(holder, tmp_path):
    """After the wait, once said aloud, the error has the holder's id, command and begin, and the ways out."""
    said = []
    with (
        pytest.raises(
            DeviceBusy, match=f"NVIDIA A100 is in use by pid {holder.pid} \\(.*{tmp_path}.*\\) since"
        ) as busy,
        device_lock("NVIDIA A100", wait_s=0.5, say=said.append, folder=tmp_path),
    ):
        pass
    assert "wait for it, end it, or allow a longer wait" in str(busy.value)
    assert len(said) == 1
    assert said[0].startswith("waiting up to 0 s for NVIDIA A100, in use by pid")


def test_a_crash_gives_the_device_back(holder, tmp_path):
    """A job that was killed holds nothing, and nobody has to tidy up behind it."""
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with device_lock("NVIDIA A100", wait_s=0, folder=tmp_path):
        pass


def test_a_device_is_waited_for(holder, tmp_path):
    """Who waits goes on as soon as the holder ends, not when the wait is over."""

    def end_it(_said):
        holder.kill()

    began = time.monotonic()
    with device_lock("NVIDIA A100", wait_s=30, say=end_it, folder=tmp_path):
        assert time.monotonic() - began < 10


def test_another_device_is_free(holder, tmp_path):
    """A lock holds one device by its name, and no other."""
    assert holder.poll() is None
    with device_lock("cpu", wait_s=0, folder=tmp_path):
        pass


def test_a_device_can_be_held_again_and_by_anybody(tmp_path):
    """Both files can be written by every user, whatever the umask of the first one."""
    umask = os.umask(0o077)
    try:
        for _ in range(2):
            with device_lock("cpu", wait_s=0, folder=tmp_path):
                assert f"pid {os.getpid()} (" in (tmp_path / "slmperf-cpu.holder").read_text()
    finally:
        os.umask(umask)
    for name in ("slmperf-cpu.lock", "slmperf-cpu.holder"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666


def test_those_that_share_a_device_hold_it_together_and_keep_out_whoever_wants_it_alone(tmp_path):
    """Jobs on GPUs share the CPU; a job on the CPU waits for all of them, and they for it."""
    both = [device_lock("cpu", wait_s=0, shared=True, folder=tmp_path) for _ in range(2)]
    with both[0], both[1]:
        alone = device_lock("cpu", wait_s=0, folder=tmp_path)
        with pytest.raises(
            DeviceBusy, match=f"in use by one job or more that share it, the last of them pid {os.getpid()}"
        ):
            alone.__enter__()
    with (
        device_lock("cpu", wait_s=0, folder=tmp_path),
        pytest.raises(DeviceBusy),
        device_lock("cpu", wait_s=0, shared=True, folder=tmp_path),
    ):
        pass
    with device_lock("cpu", wait_s=0, shared=True, folder=tmp_path):
        pass


def test_an_error_gives_the_device_back(tmp_path):
    """Whatever is raised while it is held."""
    with pytest.raises(KeyError), device_lock("cpu", wait_s=0, folder=tmp_path):
        raise KeyError
    with device_lock("cpu", wait_s=0, folder=tmp_path):
        pass


def test_waiting_is_said_on_stderr_unless_somebody_listens(holder, tmp_path, capfd):
    """Nobody sits before a silent command and wonders."""
    with pytest.raises(DeviceBusy), device_lock("NVIDIA A100", wait_s=0.1, folder=tmp_path):
        pass
    assert capfd.readouterr().err.startswith(f"slmperf: waiting up to 0 s for NVIDIA A100, in use by pid {holder.pid}")


def test_the_lock_lies_where_every_user_can_reach_it(monkeypatch, tmp_path):
    """Not in a folder of the user's own, where two users would not see each other."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = machine_folder()
    assert folder != tmp_path
    assert folder.stat().st_mode & stat.S_IWOTH


def test_a_lock_that_cannot_be_made_is_said(tmp_path):
    """The device counts as busy then: nothing is measured without the lock."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceBusy, match="can't be taken"), device_lock("cpu", wait_s=0, folder=tmp_path / "file"):
        pass
