"""A whole pool under MPS: an engine that uses its GPU as CUDA does, over stand-ins for the driver and for MPS."""

import multiprocessing
import os
import select
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import mps_standin
import pytest
from nvml_fixtures import driver, stub  # noqa: F401

from pytest_slmperf.core.devices.board import THREAD_SHARE
from pytest_slmperf.core.engine import EngineSpec, Request
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.engines.registry import create
from pytest_slmperf.meters.boards import MPS_PID_FILE
from pytest_slmperf.pool import mps

ENGINE = '''
"""An engine on a GPU. Its times are the fake engine's; its start attaches to MPS where that is to be found."""

import os
import socket
from dataclasses import replace

from pytest_slmperf.core.errors import EngineUnavailable
from pytest_slmperf.engines import fake


class Attaching:
    def __init__(self, spec):
        self._engine = fake.create(replace(spec, options={}))
        self.serve, self.stop = self._engine.serve, self._engine.stop

    def start(self):
        with open(os.environ["ATTACHING_LOG"], "a") as log:
            pipes, seen = (os.environ[name] for name in ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_VISIBLE_DEVICES"))
            log.write(f"{pipes} {seen}\\n")
        if os.environ.get("ATTACHING_FAILS") == os.environ["SLMPERF_REPLICA"]:
            raise EngineUnavailable("it was told to")
        if os.environ.get("ATTACHING_NOT") != os.environ["SLMPERF_REPLICA"]:
            self._cuda = socket.socket(socket.AF_UNIX)
            self._cuda.connect(pipes + "/control")
            self._cuda.sendall(b"attach")
            self._cuda.recv(100)
        return replace(self._engine.start(), device="cuda")


def create(spec):
    return Attaching(spec)


create.device = "cuda"
'''
SPEC = EngineSpec("attaching", "opt-125m", pool=Pool(2, "mps"))
BATCH = [Request((1,) * 8, 4)] * 4


@pytest.fixture
def machine(driver, tmp_path, monkeypatch):  # noqa: F811 - a fixture's name
    """With a GPU, MPS and that engine. A pool that starts moves this process to the cores that it leaves."""
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("two replicas need a core each")
    for name in (mps.PIPES, THREAD_SHARE, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "attaching_engine.py").write_text(ENGINE)
    package = tmp_path / "attaching-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: attaching\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[slmperf.engines]\nattaching = attaching_engine:create\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", mps_standin.install(tmp_path))
    monkeypatch.setenv("ATTACHING_LOG", str(tmp_path / "log"))
    monkeypatch.setenv(mps.PIPES, str(tmp_path / "nobodys"))
    driver()
    yield driver
    os.sched_setaffinity(0, cores)


def folders(tmp_path: Path) -> list[Path]:
    """The pipe directories that replicas were given, one for each."""
    return [Path(line.split()[0]) for line in (tmp_path / "log").read_text().splitlines()]


@pytest.mark.usefixtures("machine")
def test_replicas_serve_as_clients_of_one_daemon_that_ends_with_them(tmp_path):
    """Each sees the GPU as the daemon counts it."""
    pool = create(SPEC)
    facts = pool.start()
    try:
        one, other = folders(tmp_path)
        assert one == other
        assert len(mps.Daemon(one.parent, str(tmp_path / mps.CONTROL)).clients()) == 2
        assert {line.split()[1] for line in (tmp_path / "log").read_text().splitlines()} == {"0"}
        assert facts.device == "cuda"
        assert "mps_active_thread_percentage" not in facts.settings
        assert pool.serve(BATCH, observe=False).output_tokens == (4, 4, 4, 4)
    finally:
        pool.stop()
    assert not one.exists()


@pytest.mark.usefixtures("machine")
def test_a_replica_that_runs_without_mps_fails_the_start_by_name(monkeypatch, tmp_path):
    """What the user set of the threads is told beside the others' settings, where all attached."""
    monkeypatch.setenv("ATTACHING_NOT", "2")
    with pytest.raises(EngineFailed, match=r"replica 2 of 2 \(GPU 0, MPS\) is no client of the MPS daemon"):
        create(SPEC).start()
    assert multiprocessing.active_children() == []
    assert not folders(tmp_path)[0].parent.exists()


@pytest.mark.usefixtures("machine")
def test_a_replica_that_fails_to_start_ends_those_before_it_and_their_daemon(monkeypatch, tmp_path):
    """It is named; no process and no folder is left."""
    monkeypatch.setenv("ATTACHING_FAILS", "2")
    with pytest.raises(EngineUnavailable, match=r"replica 2 of 2 \(GPU 0, MPS\): it was told to"):
        create(SPEC).start()
    assert multiprocessing.active_children() == []
    assert not folders(tmp_path)[0].parent.exists()


@pytest.mark.usefixtures("machine")
def test_a_daemon_that_is_killed_while_replicas_run_ends_the_launch(tmp_path):
    """They serve on without it, under MPS or not: what they do is no figure of a pool under MPS."""
    pool = create(SPEC)
    pool.start()
    try:
        pool.serve(BATCH, observe=False)
        pipes = folders(tmp_path)[0]
        daemon = os.pidfd_open(int((pipes / MPS_PID_FILE).read_text()))
        signal.pidfd_send_signal(daemon, signal.SIGKILL)
        assert select.select([daemon], [], [], 10)[0]
        os.close(daemon)
        with pytest.raises(EngineFailed, match="the MPS daemon of this pool has ended before its replicas"):
            pool.serve(BATCH, observe=False)
    finally:
        pool.stop()
    assert multiprocessing.active_children() == []
    assert not pipes.parent.exists()


@pytest.mark.usefixtures("machine")
def test_a_share_of_the_threads_that_the_user_set_is_a_setting(monkeypatch):
    """Samples hold for it; nobody else sets one."""
    monkeypatch.setenv(THREAD_SHARE, "50")
    pool = create(SPEC)
    try:
        assert pool.start().settings["mps_active_thread_percentage"] == "50"
    finally:
        pool.stop()


def test_a_strangers_server_on_the_gpu_is_told(machine):
    """Both would share it, and neither be measured alone."""
    machine(f"process {os.getpid()} 0 - compute 30 nvidia-cuda-mps-server")
    with pytest.raises(EngineUnavailable, match=rf"somebody else works on GPU 0 \(pid {os.getpid()}\)"):
        create(SPEC).start()


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("kind", ["processes", "gpus"])
def test_replicas_that_a_strangers_daemon_would_take_are_refused(monkeypatch, tmp_path, kind):
    """CUDA would attach them without a word, and they'd be measured as what they aren't. Of one that is dead only its
    folder is left, and nobody attaches.
    """
    pipes = tmp_path / "theirs"
    pipes.mkdir()
    monkeypatch.setenv(mps.PIPES, str(pipes))
    monkeypatch.setenv("ATTACHING_NOT", "1")
    spec = EngineSpec("attaching", "opt-125m", pool=Pool(1, kind))
    with subprocess.Popen([tmp_path / "nvidia-cuda-mps-server"]) as theirs, ExitStack() as stack:
        stack.callback(theirs.kill)  # its name is what counts while it lives
        (pipes / MPS_PID_FILE).write_text(f"{theirs.pid}\n")
        with pytest.raises(
            EngineUnavailable, match=rf"an MPS daemon runs in .*theirs, and CUDA .*\({kind}\) its clients"
        ):
            create(spec).start()
    pool = create(spec)
    assert pool.start().device == "cuda"
    pool.stop()
