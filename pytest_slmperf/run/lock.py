"""One job at a time measures on a device, and changes a folder of baselines: locks that a crash gives back.

Device locks:

- `cpu` is held by one job on the CPU, alone: it measures cores, caches and memory, and whatever runs beside it takes a
  part of them. Jobs on GPUs share this lock, so that none runs beside a job on the CPU either: the host launches the
  steps of a small model one by one, and where it has to wait for its memory, the GPU would be measured as slower.
- A board's UUID is held by one job on that GPU. Instances of a board (MIG) share its clocks, its power and its meter,
  so they are one device.
- `core N` is held by a job on a GPU, for each core that its engine is pinned to: jobs on two boards take other cores.

They lie where all users of a machine find them, whatever their TMPDIR, and never in a repository.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import filelock

from pytest_slmperf.core.errors import BaselineError, DeviceBusy
from pytest_slmperf.core.machine import slug

FOLDERS = (Path("/run/lock"), Path("/var/lock"), Path("/tmp"))  # noqa: S108 - the same for every user and TMPDIR
EVERYBODY_WRITES = 0o666
BASELINE_LOCKS = 256
"""Folders of baselines share this many locks, so that their number is bounded; sharing one costs a moment's wait."""
ASK_EVERY_S = 0.2
SAY_EVERY_S = 60.0


@contextmanager
def device_lock(
    device: str,
    *,
    wait_s: float,
    shared: bool = False,
    say: Callable[[str], object] | None = None,
    folder: Path | None = None,
) -> Iterator[None]:
    """Hold the device for this process, waiting up to `wait_s` for it; with `shared`, beside others that share it.

    `say` is told who has it when the wait begins, and every minute; by default that goes to stderr. The lock is a
    `flock`, so the kernel gives it back however its holder ends. Raises DeviceBusy, naming the holder.
    """
    tell = say or _to_stderr
    try:
        path = (folder or machine_folder()) / f"slmperf-{slug(device)}.lock"
    except OSError as error:
        raise DeviceBusy(f"no folder for the lock of {device}: {error.strerror}") from error
    try:
        descriptor = _open_for_all(path)
    except OSError as error:
        raise DeviceBusy(f"the lock {path} of {device} can't be taken: {error.strerror or error}") from error
    try:
        _acquire(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, device, path, wait_s=wait_s, say=tell)
        _write_holder(_holder_file(path), "one job or more that share it, the last of them " if shared else "")
        yield
    finally:
        os.close(descriptor)


@contextmanager
def baselines_lock(baselines: Path, *, wait_s: float) -> Iterator[None]:
    """Hold a folder of baselines while it is changed, waiting up to `wait_s` for it.

    Raises BaselineError where another process holds it for longer, and where there can be no lock.
    """
    number = int.from_bytes(hashlib.sha256(os.fsencode(baselines.resolve())).digest()) % BASELINE_LOCKS
    try:
        path = machine_folder() / f"slmperf-baselines-{number}.lock"
        lock = filelock.FileLock(path, timeout=wait_s, mode=EVERYBODY_WRITES)
        lock.acquire()
    except filelock.Timeout as error:
        waited = f"another process has been changing it for {wait_s:g} s"
        raise BaselineError(f"{baselines}: {waited} (lock {error.lock_file})") from error
    except OSError as error:
        raise BaselineError(f"{baselines}: its lock can't be had: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def machine_folder() -> Path:
    """Where all users of this machine can put a lock. Raises OSError where there is no such folder."""
    for folder in FOLDERS:
        with contextlib.suppress(OSError):
            mode = folder.stat().st_mode
            if stat.S_ISDIR(mode) and mode & stat.S_IWOTH and os.access(folder, os.W_OK | os.X_OK):
                return folder
    raise OSError(errno.EACCES, f"none of {', '.join(map(str, FOLDERS))} can be written by all")


def _open_for_all(path: Path) -> int:
    """A lock's file, made for everybody. It may belong to another user."""
    # In a sticky folder the kernel refuses O_CREAT for another user's file (fs.protected_regular).
    flags = os.O_RDONLY | os.O_NOFOLLOW
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, flags)
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, EVERYBODY_WRITES)
    except FileExistsError:  # another process was faster
        return os.open(path, flags)
    os.fchmod(descriptor, EVERYBODY_WRITES)  # whatever the umask says
    return descriptor


def _acquire(
    descriptor: int, kind: int, device: str, path: Path, *, wait_s: float, say: Callable[[str], object]
) -> None:
    began = time.monotonic()
    said = -SAY_EVERY_S
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            waited_s = time.monotonic() - began
            if waited_s >= wait_s:
                raise DeviceBusy(
                    f"{device} is in use by {_holder(path)}; waited {waited_s:.0f} s. Two measurements at once would "
                    "measure each other: wait for it, end it, or allow a longer wait"
                ) from error
            if waited_s - said >= SAY_EVERY_S:
                said = waited_s
                say(f"waiting up to {wait_s - waited_s:.0f} s for {device}, in use by {_holder(path)}")
            time.sleep(min(ASK_EVERY_S, wait_s - waited_s))
        except OSError as error:
            raise DeviceBusy(f"the lock {path} of {device} can't be taken: {error.strerror or error}") from error
        else:
            return


def _holder_file(path: Path) -> Path:
    """Beside the lock: whoever asks for a lock may open its file, and must not spoil what is written there."""
    return path.with_suffix(".holder")


def _holder(path: Path) -> str:
    try:
        return _holder_file(path).read_text(errors="replace").strip() or "an unknown process"
    except OSError:
        return "an unknown process"


def _write_holder(path: Path, before: str) -> None:
    """For the message only, so that nothing depends on it. The file may belong to another user."""
    since = datetime.now(UTC).strftime("%H:%M:%S UTC")
    content = f"{before}pid {os.getpid()} ({_command()}) since {since}\n".encode()
    with contextlib.suppress(OSError):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
        except FileNotFoundError:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, EVERYBODY_WRITES)
            os.fchmod(descriptor, EVERYBODY_WRITES)
        os.write(descriptor, content)
        os.close(descriptor)


def _command() -> str:
    words = [Path(sys.argv[0]).name or "python", *sys.argv[1:]]
    command = " ".join(words)
    return command if len(command) <= 200 else f"{command[:200]}…"


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"slmperf: {line}\n")
