"""An MPS daemon of a pool's own: started for its replicas, verified that each of them is its client, and ended.

CUDA is silent about MPS: a process whose daemon can't be reached runs without it, and one that finds a stranger's runs
under that. So the daemon has a private pipe directory, and after the start its list of clients is compared with the
replicas' processes.

`nvidia-cuda-mps-control -d` leaves its parent, and is ended all the same: by `serving` as a rule; where the engine's
process is killed, by its guard, to which the kernel gives all that has lost its parent (`worker.bootstrap`); and where
the guard is killed, by the launch, which finds it by its environment (`run.process`).
"""

import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable
from pytest_slmperf.meters.boards import MPS_PID_FILE, MPS_PROCESSES

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
FOLDERS = Path("/tmp")  # noqa: S108 - the path of a socket holds 107 bytes, whatever TMPDIR is
PREFIX = "slmperf-mps-"
IN_USE = "in-use"
"""A file that a living pool holds a lock on: the folder of one that was killed is taken away by the next."""
START_LIMIT_S = 20.0
ANSWER_LIMIT_S = 10.0
QUIT_LIMIT_S = 2.0
"""Twice: until it has answered, and until it has ended. A launch gives all of its engine five seconds."""
KILL_LIMIT_S = 10.0
ATTACH_LIMIT_S = 2.0
LOOK_EVERY_S = 0.05
LOG_LINES = 5
NEW_S = 60.0
"""A folder younger than this may be one whose pool has not come to its lock yet."""

Listed = Callable[[], tuple[Collection[int], Collection[int]]]
"""Tells which processes the driver sees on the pool's GPUs: those that compute, and those that do so through MPS."""


@dataclass(frozen=True)
class Daemon:
    """A running MPS daemon."""

    folder: Path
    control: str
    process: int | None = None
    """A descriptor of its process, which can be read once that has ended; None where there is none to be had."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What makes a process its client, once it uses CUDA."""
        return {PIPES: str(self.folder / "pipe"), LOGS: str(self.folder / "log")}

    def clients(self) -> frozenset[int]:
        """The ids of the processes that are its clients now. Raises EngineFailed where it doesn't answer."""
        servers = _numbers(self.ask("get_server_list"))
        return frozenset(pid for server in servers for pid in _numbers(self.ask(f"get_client_list {server}")))

    def ask(self, command: str, *, limit_s: float = ANSWER_LIMIT_S) -> str:
        """What it answers to a command. Raises EngineFailed where it doesn't."""
        try:
            done = subprocess.run(
                [self.control],
                input=f"{command}\n",
                env={**os.environ, **self.environment},
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineFailed(f"the MPS daemon gave no answer to {command!r}: {error}{self._log()}") from error
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise EngineFailed(f"the MPS daemon gave no answer to {command!r}: {said}{self._log()}")
        return done.stdout

    def check_running(self) -> None:
        """Raises EngineFailed where it has ended by itself since its start. Takes microseconds."""
        if self.process is None:
            return
        ended = select.poll()
        ended.register(self.process, select.POLLIN)
        if ended.poll(0):
            raise EngineFailed(
                "the MPS daemon of this pool has ended before its replicas, and whether they still run under MPS can't "
                "be told without it. It was killed, by somebody or for want of memory (see dmesg): run again"
                f"{self._log()}"
            )

    def check_attached(
        self, replicas: Mapping[str, int], listed: Listed = lambda: ((), ()), *, limit_s: float = ATTACH_LIMIT_S
    ) -> None:
        """Raises EngineFailed unless each replica (its name, and the id of its process) is a client, by a process of
        its own or one that it has started, and none of these computes on the GPU beside MPS.

        Asks again for `limit_s`: a client may be listed a moment after it has attached.
        """
        until = time.monotonic() + limit_s
        while missing := self._not_attached(replicas, listed):
            if time.monotonic() > until:
                raise EngineFailed(
                    f"{missing}: it runs without MPS, and nothing says so but the daemon's list of clients. Was CUDA "
                    f"used before its environment was set, does it run in another container, or as another user?"
                    f"{self._log()}"
                )
            time.sleep(LOOK_EVERY_S)

    def _not_attached(self, replicas: Mapping[str, int], listed: Listed) -> str:
        clients = self.clients()
        computing, through_mps = listed()
        for name, process in replicas.items():
            family = family_of(process)
            if not family & clients:
                return f"{name} is no client of the MPS daemon"
            beside = sorted(family & set(computing) - set(through_mps) - clients)
            if beside:
                return f"process {beside[0]} of {name} computes on the GPU beside the MPS daemon"
        return ""

    def _log(self) -> str:
        lines = []
        for name in ("control.log", "server.log"):
            with suppress(OSError):
                lines += (self.folder / "log" / name).read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "".join(["\nits log's last lines:", *(f"\n    {line}" for line in lines)]) if lines else ""


@contextmanager
def serving(gpus: Sequence[str], *, folders: Path = FOLDERS, quit_limit_s: float = QUIT_LIMIT_S) -> Iterator[Daemon]:
    """A daemon for the GPUs with these UUIDs, while the body runs. Its clients count them from 0, in this order.

    Raises EngineUnavailable where MPS isn't installed or doesn't start. Daemon and servers are dead afterwards: killed
    where they don't quit within `quit_limit_s`.
    """
    control = shutil.which(CONTROL)
    if control is None:
        raise EngineUnavailable(
            f"MPS is not installed here: there is no {CONTROL}, which comes with NVIDIA's driver (nvidia-compute-utils "
            "on Debian and Ubuntu). Without it take a pool of the kind processes"
        )
    sweep(folders=folders)
    with _own_folder(folders) as folder:
        daemon = Daemon(folder, control)
        try:
            _start(daemon, gpus)
            with _watched(folder / "pipe") as process:
                yield replace(daemon, process=process)
        finally:
            _end(daemon, quit_limit_s)


@contextmanager
def _own_folder(folders: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=folders))
    try:
        with (folder / IN_USE).open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            for name in ("pipe", "log"):
                (folder / name).mkdir()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(of: int | None = None, *, folders: Path = FOLDERS) -> None:
    """Take away what pools left that were killed: those of the process `of`, or of all that are no longer new. Their
    daemons are dead, or are ended now.
    """
    for folder in folders.glob(f"{PREFIX}{'' if of is None else f'{of}-'}*"):
        with suppress(OSError):  # somebody else's, or gone meanwhile
            made = folder.stat()
            if made.st_uid != os.getuid() or (of is None and time.time() - made.st_mtime < NEW_S):
                continue
            with (folder / IN_USE).open() as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _kill(folder / "pipe")
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _watched(pipes: Path) -> Iterator[int | None]:
    """A descriptor of the daemon's process, where it says its number and the kernel has descriptors of processes."""
    process = None
    with suppress(OSError, ValueError):
        process = os.pidfd_open(int((pipes / MPS_PID_FILE).read_text()))
    try:
        yield process
    finally:
        if process is not None:
            os.close(process)


def _start(daemon: Daemon, gpus: Sequence[str]) -> None:
    environment = {**os.environ, **daemon.environment, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    said = daemon.folder / "said"
    with said.open("w") as output:  # a pipe would stay open as long as the daemon
        try:
            started = subprocess.run(
                [daemon.control, "-d"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                timeout=START_LIMIT_S,
                check=False,
            )
            why = f"exit code {started.returncode}" if started.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
    if not why:
        try:
            daemon.ask("get_server_list")
        except EngineFailed as error:
            why = str(error)
    if why:
        words = said.read_text(errors="replace").strip()
        raise EngineUnavailable(f"the MPS daemon did not start ({why}){': ' if words else ''}{words}")


def _end(daemon: Daemon, limit_s: float) -> None:
    """Ask it to quit, and kill it where it doesn't. A client that hangs keeps it from quitting."""
    pipes = daemon.folder / "pipe"
    why = f"did not quit within {limit_s:g} s"
    try:
        daemon.ask("quit", limit_s=limit_s)
    except EngineFailed:
        why = "gave no answer"
    else:
        until = time.monotonic() + limit_s
        while _running(pipes) and time.monotonic() < until:
            time.sleep(LOOK_EVERY_S)
    if _kill(pipes):
        sys.stderr.write(f"slmperf: the MPS daemon of this pool {why} and was killed\n")


def _kill(pipes: Path) -> bool:
    """Kill daemon and servers with this pipe directory. Returns whether there were any."""
    until = time.monotonic() + KILL_LIMIT_S
    found = False
    while time.monotonic() < until and (left := _running(pipes)):
        found = True
        for process in left:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(LOOK_EVERY_S)
    return found


def _running(pipes: Path) -> list[int]:
    """Processes of MPS that have this pipe directory in their environment: a server leaves its daemon, too."""
    variable = f"{PIPES}={pipes}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            name, state, _ = _stat(entry)
            if name.startswith(MPS_PROCESSES) and state != "Z":
                found += [int(entry.name)] if variable in (entry / "environ").read_bytes().split(b"\0") else []
    return found


def family_of(process: int) -> set[int]:
    """The process and all that descend from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(entry.name)] = _stat(entry)[2]
    family = {process}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _stat(entry: Path) -> tuple[str, str, int]:
    """Name, state and parent of a process."""
    content = (entry / "stat").read_text(errors="replace")
    state, parent = content.rpartition(")")[2].split()[:2]
    return content.partition("(")[2].rpartition(")")[0], state, int(parent)


def _numbers(listed: str) -> list[int]:
    """The process ids of a list, one a line. A line of anything else is none of them."""
    return [int(line) for line in map(str.strip, listed.splitlines()) if line.isdecimal()]
