"""The MPS daemon of a pool, over a stand-in for NVIDIA's program: started, its clients verified, ended."""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import mps_standin
import pytest
from mps_standin import CLIENT, OUTSIDER, process

from pytest_slmperf.core.devices.board import THREAD_SHARE
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable
from pytest_slmperf.meters.boards import MPS_PID_FILE
from pytest_slmperf.pool import mps

GPU = "GPU-00000000-0000-4000-8000-000000000000"


@pytest.fixture
def folders() -> Iterator[Path]:
    """Where the folders of daemons lie; a socket's path is short."""
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:
        yield Path(folder)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """MPS is installed."""
    monkeypatch.setenv("PATH", mps_standin.install(tmp_path))
    for name in (mps.PIPES, mps.LOGS, THREAD_SHARE):
        monkeypatch.delenv(name, raising=False)


def alive(folders: Path) -> list[str]:
    """Processes that have a folder of these in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and f"={folders}/".encode() in (entry / "environ").read_bytes():
                found.append((entry / "comm").read_text().strip())
        except OSError:  # it has ended by now
            continue
    return sorted(found)


@pytest.mark.usefixtures("installed")
def test_replicas_are_clients_by_a_process_of_their_own_or_one_that_they_have_started(folders):
    """The daemon has its own pipe and log directories and the pool's GPU alone, no share of its threads is set, and
    nothing of it is left.
    """
    with mps.serving([GPU], folders=folders) as daemon, ExitStack() as replicas:
        assert set(daemon.environment) == {mps.PIPES, mps.LOGS}
        assert daemon.clients() == frozenset()
        one, first = replicas.enter_context(process(CLIENT, daemon.environment))
        two, second = replicas.enter_context(process(CLIENT, daemon.environment, below=True))
        assert two != second
        daemon.check_attached({"replica 1 of 2": one, "replica 2 of 2": two})
        assert daemon.clients() == {first, second}
        assert (Path(daemon.environment[mps.LOGS]) / "control.log").read_text() == f"devices {GPU}\n"
        assert alive(folders).count("nvidia-cuda-mps") == 2
    assert alive(folders) == []
    assert list(folders.iterdir()) == []


@pytest.mark.usefixtures("installed")
def test_a_replica_that_did_not_attach_is_named(folders):
    """CUDA says nothing of it: it would be measured as one under MPS."""
    with (
        mps.serving([GPU], folders=folders) as daemon,
        process(CLIENT, daemon.environment) as (attached, _),
        process(OUTSIDER, daemon.environment) as (other, _),
        pytest.raises(EngineFailed, match=r"replica 2 of 2 is no client of the MPS daemon: it runs without MPS"),
    ):
        daemon.check_attached({"replica 1 of 2": attached, "replica 2 of 2": other}, limit_s=0)


@pytest.mark.usefixtures("installed")
def test_a_replica_that_computes_beside_its_client_is_named(folders):
    """Of a replica with several processes the driver's list may show one that computes and is no client."""
    with (
        mps.serving([GPU], folders=folders) as daemon,
        process(CLIENT, daemon.environment, below=True) as (replica, client),
    ):
        daemon.check_attached({"replica 1 of 1": replica}, lambda: ([client], []), limit_s=0)
        daemon.check_attached({"replica 1 of 1": replica}, lambda: ([replica, client, 1], [replica]), limit_s=0)
        with pytest.raises(EngineFailed, match=f"process {replica} of replica 1 of 1 computes on the GPU beside the"):
            daemon.check_attached({"replica 1 of 1": replica}, lambda: ([replica, client], [client]), limit_s=0)


def test_without_mps_it_says_what_to_install(monkeypatch, folders):
    """And that a pool can do without."""
    monkeypatch.setenv("PATH", str(folders))
    with (
        pytest.raises(EngineUnavailable, match=r"there is no nvidia-cuda-mps-control.*kind processes"),
        mps.serving([GPU], folders=folders),
    ):
        pass


@pytest.mark.usefixtures("installed")
def test_a_daemon_that_does_not_start_is_quoted(monkeypatch, folders):
    """In its own words, and its folder is gone."""
    monkeypatch.setenv("MPS_STANDIN_FAULT", "start")
    with (
        pytest.raises(EngineUnavailable, match=r"did not start \(exit code 1\): Cannot find any usable device"),
        mps.serving([GPU], folders=folders),
    ):
        pass
    assert list(folders.iterdir()) == []


@pytest.mark.usefixtures("installed")
def test_a_daemon_that_does_not_quit_is_killed(monkeypatch, folders, capfd):
    """And its server, whose client it waits for."""
    monkeypatch.setenv("MPS_STANDIN_FAULT", "quit")
    with (
        mps.serving([GPU], folders=folders, quit_limit_s=0.1) as daemon,
        process(CLIENT, daemon.environment) as (replica, _),
    ):
        daemon.check_attached({"replica 1 of 1": replica})
    assert alive(folders) == []
    assert "did not quit within 0.1 s and was killed" in capfd.readouterr().err


@pytest.mark.usefixtures("installed")
def test_a_daemon_that_is_killed_is_missed_and_what_it_started_is_ended(folders, capfd):
    """Its server outlives it, and CUDA says nothing: the replicas go on."""
    with mps.serving([GPU], folders=folders) as daemon, process(CLIENT, daemon.environment) as (replica, _):
        daemon.check_attached({"replica 1 of 1": replica})
        daemon.check_running()
        os.kill(int((daemon.folder / "pipe" / MPS_PID_FILE).read_text()), signal.SIGKILL)
        assert select.select([daemon.process], [], [], 10)[0]
        with pytest.raises(EngineFailed, match=r"(?s)daemon of this pool has ended before its.*devices GPU-"):
            daemon.check_running()
        assert alive(folders).count("nvidia-cuda-mps") == 1
    assert alive(folders) == []
    assert list(folders.iterdir()) == []
    assert "gave no answer and was killed" in capfd.readouterr().err


@pytest.mark.usefixtures("installed")
def test_a_strangers_daemon_is_left_alone(monkeypatch, folders):
    """The pool has its own beside it, whatever pipe directory the environment names, and never sees its clients."""
    with mps.serving([GPU], folders=folders) as theirs, process(CLIENT, theirs.environment) as (stranger, _):
        for name, value in theirs.environment.items():
            monkeypatch.setenv(name, value)
        with mps.serving([GPU], folders=folders) as ours:
            assert ours.folder != theirs.folder
            assert ours.clients() == frozenset()
        assert theirs.clients() == {stranger}


@pytest.mark.usefixtures("installed")
def test_a_stale_pipe_directory_is_no_obstacle(monkeypatch, folders):
    """One that the environment names is not used; one that a killed pool left is taken away, daemon and all."""
    stale = folders / "stale"
    stale.mkdir()
    (stale / "nvidia-cuda-mps-control.pid").write_text("4194303")
    (stale / "control").touch()
    monkeypatch.setenv(mps.PIPES, str(stale))
    left = folders / f"{mps.PREFIX}left"
    (left / "pipe").mkdir(parents=True)
    (left / "log").mkdir()
    (left / mps.IN_USE).touch()
    killed = mps.Daemon(left, shutil.which(mps.CONTROL) or "")
    subprocess.run([killed.control, "-d"], env={**os.environ, **killed.environment}, check=True)
    killed.ask("get_server_list")  # it runs, and would not notice that its folder is gone
    an_hour_ago = time.time() - 3600
    os.utime(left, (an_hour_ago, an_hour_ago))
    with mps.serving([GPU], folders=folders) as daemon:
        assert daemon.clients() == frozenset()
        assert sorted(folders.iterdir()) == sorted([stale, daemon.folder])
    assert alive(folders) == []


@pytest.mark.usefixtures("installed")
def test_what_a_killed_engine_left_is_taken_away_by_its_number(folders):
    """However new it is; what a living pool has is left alone."""
    left = folders / f"{mps.PREFIX}4194303-left"
    (left / "pipe").mkdir(parents=True)
    (left / mps.IN_USE).touch()
    with mps.serving([GPU], folders=folders) as daemon:
        for engine in (419430, 4194303, os.getpid()):
            assert left.exists() == (engine != os.getpid())
            mps.sweep(engine, folders=folders)
        assert list(folders.iterdir()) == [daemon.folder]
        assert daemon.clients() == frozenset()


LAUNCH = """
import os, sys, time
from pathlib import Path

from pytest_slmperf.pool import mps
from pytest_slmperf.worker.bootstrap import PR_SET_CHILD_SUBREAPER, die_with, guard, prctl

read_fd = int(sys.argv[1])
prctl(PR_SET_CHILD_SUBREAPER, 1)
parent = os.getpid()
engine = os.fork()
if engine:
    guard(engine, read_fd)
die_with(parent)
with mps.serving(["GPU-0"], folders=Path(sys.argv[2])) as daemon:
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("killed", ["the launch", "the engine"])
def test_the_daemon_ends_with_its_engine_however_that_ends(folders, killed):
    """Although it leaves its parent: whatever loses that becomes the guard's, which ends it."""
    read_end, write_end = os.pipe()
    command = [sys.executable, "-c", LAUNCH, str(read_end), str(folders)]
    with subprocess.Popen(command, pass_fds=[read_end], stdout=subprocess.PIPE, text=True) as guarded:
        os.close(read_end)
        assert guarded.stdout
        engine = int(guarded.stdout.readline())
        assert alive(folders) == ["nvidia-cuda-mps"]
        if killed == "the launch":
            os.close(write_end)  # as the kernel does with those of a process that it kills
        else:
            os.kill(engine, signal.SIGKILL)
        guarded.wait(timeout=20)
    assert alive(folders) == []
    if killed == "the engine":
        os.close(write_end)
