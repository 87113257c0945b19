"""pytest killed while a pool runs under MPS: no process is left, the daemon neither, and the GPU can be had again."""

import os
import shutil
import signal
import time
from pathlib import Path

import mps_standin
import nvml_standin
import pytest
from nvml_fixtures import skip_unless_built
from onchip import PACKAGE, OnChipProject

from pytest_slmperf.meters.boards import MPS_PROCESSES
from pytest_slmperf.pool import mps
from pytest_slmperf.run.lock import device_lock

pytest.importorskip("pynvml")
BOARD = "GPU-22222222-0000-4000-8000-000000000000"
MARK = "SLMPERF_KILLED_POOL"
LOCK_S = 240
"""Another run may measure on this machine."""
ATTACH = """
    def start(self):
        self._cuda = socket.socket(socket.AF_UNIX)
        with suppress(OSError):  # as CUDA does, it goes on without MPS
            self._cuda.connect(os.environ["CUDA_MPS_PIPE_DIRECTORY"] + "/control")
            self._cuda.sendall(b"attach")
            self._cuda.recv(100)
"""
ATTACHING = PACKAGE.replace("\n    def start(self):\n", ATTACH).replace(
    "import os\n", "import os\nimport socket\nfrom contextlib import suppress\n", 1
)


@pytest.fixture
def project(tmp_path):
    """A suite on a GPU, with an engine that takes part in MPS and never ends its first batch."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two replicas need a core each")
    skip_unless_built()
    return OnChipProject(tmp_path, ATTACHING)


def started(project):
    """`pytest --slmperf` with a pool of two."""
    scenario = nvml_standin.write_scenario(project.path / "scenario", [f"uuid {BOARD}"])
    environment = {
        **nvml_standin.environment(scenario),
        "PATH": mps_standin.install(project.path),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(project.path / "packages"), os.environ.get("PYTHONPATH")])),
        mps.PIPES: str(project.path / "pipes"),
        MARK: str(project.path),
    }
    return project.start(engine="onchip:replicas=2,pool=mps,batch_sleep_s=600", env=environment)


def family(folder):
    """All that it has started, and itself: its name and its environment, by process."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = dict(pair.partition("=")[::2] for pair in (entry / "environ").read_text().split("\0"))
            name, _, state = (entry / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:  # it has ended by now
            continue
        if environment.get(MARK) == str(folder) and state.split()[0] != "Z":
            found[int(entry.name)] = (name, environment)
    return found


def complete(folder):
    """The pipes of MPS's two processes, a server coming with the first client, once pytest, guard, engine and two
    replicas are there; before that nothing. Who asks the daemon something is a third for a moment.
    """
    found = list(family(folder).values())
    pipes = [its[mps.PIPES] for name, its in found if name.startswith(MPS_PROCESSES)]
    return pipes if len(pipes) == 2 and len(found) == 7 else []


def wait_for(what, seconds):
    """Until it is true. What it gave last."""
    deadline = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


@pytest.mark.alone  # two replicas take two cores, and a test beside it may hold one of them
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_pool_whose_pytest_was_killed(project, number):
    """Guard, engine, replicas, the daemon that leaves its parent and its server are gone, and the board's lock is free;
    so is the daemon's folder where anybody is left to take it away.
    """
    with started(project) as run:
        try:
            pipes = wait_for(lambda: complete(project.path) or (run.poll() is not None), LOCK_S)
            assert run.poll() is None, run.stdout.read()
            assert pipes, "another run measures on this machine"
            run.send_signal(number)
            run.communicate(timeout=60)
        finally:
            run.kill()
    assert wait_for(lambda: not family(project.path), 20), family(project.path)
    with device_lock(BOARD, wait_s=5):
        pass
    folder = Path(pipes[0]).parent
    assert folder.name.startswith(mps.PREFIX)
    assert folder.exists() == (number == signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
