"""The folder of baselines: `<device>/<driver>/<engine>-<suite>.json`, read and changed file by file.

A change is read, made and written under a lock that all runs of a user share, and replaces the file in one step: a
reader sees the old file or the new one, and two runs that record at once lose nothing of each other.
"""

import hashlib
import os
import secrets
import shlex
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import filelock

from pytest_slmperf.core.baseline import BaselineFile, Retirement
from pytest_slmperf.core.diff import Diff, diff
from pytest_slmperf.core.errors import BaselineError
from pytest_slmperf.core.lookup import Against
from pytest_slmperf.core.machine import Machine, slug
from pytest_slmperf.core.revision import Recording, pruned, retired, updated
from pytest_slmperf.run import baseline_format

LOCK_WAIT_S = 60.0
"""A change takes milliseconds; whoever holds the lock for longer is stuck."""

Change = Callable[[BaselineFile | None], BaselineFile | None]


@dataclass(frozen=True)
class Stored:
    """A baseline file and where it lies."""

    path: Path
    file: BaselineFile


class BaselineStore:
    """A folder of baseline files. Lives as long as the folder; holds no file open and nothing in memory."""

    def __init__(self, root: Path, *, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self.root = root
        self._lock_wait_s = lock_wait_s

    def path_of(self, machine: Machine, engine: str, suite: str) -> Path:
        """Where a file belongs. The engine's name has no hyphen there: the suite begins after the first one."""
        name = f"{slug(engine).replace('-', '_')}-{slug(suite)}.json"
        return self.root / slug(machine.device) / slug(machine.driver) / name

    def load(self, machine: Machine, engine: str, suite: str, against: Against | None = None) -> BaselineFile | None:
        """The file of this machine, engine and suite, or None where there is none.

        With `against` naming another device or driver, that one's file. Raises BaselineError for a file that can't be
        read.
        """
        if against and against.field == "device":
            machine = replace(machine, device=against.value)
        if against and against.field == "driver":
            machine = replace(machine, driver=against.value)
        path = self.path_of(machine, engine, suite)
        return _of_suite(_read(path), path, engine, suite)

    def files(self) -> tuple[Stored, ...]:
        """Every file, by path. Raises BaselineError for one that can't be read."""
        paths = sorted(path for path in self.root.glob("*/*/*.json") if not path.name.startswith("."))
        return tuple(Stored(path, read_baseline(path)) for path in paths)

    def elsewhere(self, machine: Machine, engine: str, suite: str) -> str:
        """A sentence that names other drivers, or else devices, with a baseline of this suite; empty where none has.

        Files that can't be read are left out: whoever loads them is told.
        """
        here = self.path_of(machine, engine, suite)
        others = []
        for path in sorted(self.root.glob(f"*/*/{here.name}")):
            with suppress(BaselineError):
                if path != here:
                    others.append(read_baseline(path).machine)
        others = [other for other in others if other.simulated is machine.simulated]
        drivers = [other.driver for other in others if other.device == machine.device]
        devices = [other.device for other in others if other.driver == machine.driver]
        if drivers:
            return _way("driver", drivers)
        return _way("device", devices) if devices else ""

    def accept(self, machine: Machine, engine: str, suite: str, recording: Recording) -> Diff:
        """Store measurements as the newest recordings of their cases, all of them or none, and say what changed.

        Raises BaselineError for measurements that no gate may rest on, and where the file can't be read or written.
        """
        path = self.path_of(machine, engine, suite)

        def accepted(file: BaselineFile | None) -> BaselineFile:
            return updated(_of_suite(file, path, engine, suite), machine, engine, suite, recording)

        return self._change(path, accepted)

    def retire(self, path: Path, case: str, retirement: Retirement, position: int | None = None) -> Diff:
        """Retire a recording of a case in the file at `path`; the gate falls back on the newest that isn't retired."""
        return self._change(path, lambda file: retired(_there(file, path), case, retirement, position))

    def prune(self, path: Path, measured: Collection[str]) -> Diff:
        """Remove the cases that aren't in `measured` from the file at `path`, and the file with its last case."""
        return self._change(path, lambda file: pruned(_there(file, path), measured))

    def _change(self, path: Path, change: Change) -> Diff:
        path = path.resolve()
        with _locked(path, self._lock_wait_s):
            before = _read(path)
            after = change(before)
            if after is None:
                _remove(path)
            elif after != before:
                _replace(path, baseline_format.text_of(after, str(path)))
        return diff(before, after)


def read_baseline(path: Path) -> BaselineFile:
    """The values of one file. Raises BaselineError that names the file, the field and the way out."""
    return _there(_read(path), path)


def _read(path: Path) -> BaselineFile | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would never end, and a device neither
            raise BaselineError(f"{path}: can't be read: it is no file; move it away, or restore the baseline from git")
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BaselineError(
            f"{path}: can't be read: {error.strerror or error}; make it readable, or restore the baseline from git"
        ) from error
    return baseline_format.parse(text, str(path))


def _there(file: BaselineFile | None, path: Path) -> BaselineFile:
    if file is None:
        raise BaselineError(f"{path}: there is no such file; record it: pytest --slmperf --slmperf-accept")
    return file


def _of_suite(file: BaselineFile | None, path: Path, engine: str, suite: str) -> BaselineFile | None:
    """The file, unless another suite's name gives the same file name."""
    if file and (file.engine, file.suite) != (engine, suite):
        raise BaselineError(f"{path}: holds {file.suite} on {file.engine}, not {suite} on {engine}: rename one of them")
    return file


def _way(field: str, values: Sequence[str]) -> str:
    names = ", ".join(dict.fromkeys(values))
    return f"baselines exist for {field} {names}: compare with --slmperf-against {shlex.quote(f'{field}={values[-1]}')}"


@contextmanager
def _locked(path: Path, wait_s: float) -> Iterator[None]:
    """Hold the lock of a baseline file. It lies with the temporary files, where git can't see it."""
    folder = Path(tempfile.gettempdir()) / f"slmperf-{os.getuid()}"
    lock = filelock.FileLock(folder / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.lock", timeout=wait_s)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        waited = f"another process has been changing it for {wait_s:g} s"
        raise BaselineError(f"{path}: {waited} (lock {lock.lock_file})") from error
    except OSError as error:
        raise BaselineError(f"{path}: its lock {lock.lock_file} can't be had: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _replace(path: Path, text: str) -> None:
    """Write the whole file anew beside the old one, then put it in its place; where that fails, the old one stays."""
    folder = path.parent
    fresh = folder / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f".{path.name}.*.tmp"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)
        try:
            with fresh.open("x", encoding="utf-8", newline="\n") as stream:
                if path.exists():
                    os.fchmod(stream.fileno(), path.stat().st_mode & 0o777)
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        _sync(folder)
    except OSError as error:
        raise BaselineError(f"{path}: can't be written: {error.strerror or error}; what was stored still is") from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
        _sync(path.parent)
    except OSError as error:
        raise BaselineError(f"{path}: can't be removed: {error.strerror or error}") from error


def _sync(folder: Path) -> None:
    """Make a changed name outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
