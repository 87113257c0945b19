"""The folder of baselines: `<device>/<driver>/<engine>-<suite>.json`, read and changed file by file.

A change is read, made and written under a lock that all runs on a machine share, and replaces each file in one step: a
reader sees the old file or the new one, and two runs that record at once lose nothing of each other.
"""

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_slmperf.core.baselines.baseline import BaselineFile, Retirement
from pytest_slmperf.core.baselines.diff import Diff, diff
from pytest_slmperf.core.baselines.lookup import Against
from pytest_slmperf.core.baselines.revision import Recording, pruned, retired, updated
from pytest_slmperf.core.errors import BaselineError
from pytest_slmperf.core.machine import Machine, slug
from pytest_slmperf.run import baseline_format
from pytest_slmperf.run.lock import baselines_lock
from pytest_slmperf.run.regular import read_regular
from pytest_slmperf.run.replacing import HalfReplacedError, replace_files

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
        return self._folder(machine) / f"{_prefix(engine)}{slug(suite)}.json"

    def _folder(self, machine: Machine) -> Path:
        return self.root / slug(machine.device) / slug(machine.driver)

    def load(self, machine: Machine, engine: str, suite: str, against: Against | None = None) -> BaselineFile | None:
        """The file of this machine, engine and suite, or None where there is none.

        With `against` naming another device or driver, that one's file. Raises BaselineError for a file that can't be
        read.
        """
        path = self.path_of(against.machine(machine) if against else machine, engine, suite)
        return _of_suite(_read(path), path, engine, suite)

    def files(self) -> tuple[Stored, ...]:
        """Every file, by path. Raises BaselineError for one that can't be read."""
        paths = sorted(path for path in self.root.glob("*/*/*.json") if not path.name.startswith("."))
        return tuple(Stored(path, read_baseline(path)) for path in paths)

    def has(self, path: Path) -> bool:
        """Whether there is such a file. Raises BaselineError for one that can't be read."""
        return _read(path) is not None

    def paths(self, machine: Machine, engine: str) -> tuple[Path, ...]:
        """Every file of a machine and an engine, whatever the suite."""
        return tuple(sorted(self._folder(machine).glob(f"{_prefix(engine)}*.json")))

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

    def accept(self, machine: Machine, recordings: Sequence[tuple[str, str, Recording]]) -> Diff:
        """Store recordings, each as (engine, suite, recording), as the newest of their cases, and say what changed.

        All of them or none, in however many files; see `replace_files` for what a crash leaves. Raises BaselineError
        for measurements that no gate may rest on, and where a file can't be read or written.
        """

        def accepted(path: Path, engine: str, suite: str, recording: Recording) -> Change:
            return lambda file: updated(_of_suite(file, path, engine, suite), machine, engine, suite, recording)

        paths = [self.path_of(machine, engine, suite) for engine, suite, _ in recordings]
        return self._change([(path, accepted(path, *one)) for path, one in zip(paths, recordings, strict=True)])

    def retire(self, path: Path, case: str, retirement: Retirement, position: int | None = None) -> Diff:
        """Retire a recording of a case in the file at `path`; the gate falls back on the newest that isn't retired."""
        return self._change([(path, lambda file: retired(_there(file, path), case, retirement, position))])

    def prune(self, measured: Mapping[Path, Collection[str]]) -> Diff:
        """Remove from each file the cases that aren't measured any more, and a file with its last case."""

        def kept(path: Path, cases: Collection[str]) -> Change:
            return lambda file: pruned(_there(file, path), cases)

        return self._change([(path, kept(path, cases)) for path, cases in measured.items()])

    def _change(self, changes: Sequence[tuple[Path, Change]]) -> Diff:
        """Make changes in their order, and write what came of them when all are made."""
        with baselines_lock(self.root, wait_s=self._lock_wait_s):
            before = {path: _read(path) for path, _ in changes}
            after = dict(before)
            for path, change in changes:
                after[path] = change(after[path])
            contents = {path: _content(file, path) for path, file in after.items() if file != before[path]}
            try:
                replace_files(contents)
            except OSError as error:
                why = f"{error.filename}: can't be written: {error.strerror or error}"
                if isinstance(error, HalfReplacedError):
                    raise BaselineError(
                        f"{why}; other files may hold the change already, each of them whole: free the way and do it "
                        "again, or restore them from git"
                    ) from error
                raise BaselineError(f"{why}; what was stored still is") from error
        return sum((diff(before[path], file) for path, file in after.items()), Diff())


def _content(file: BaselineFile | None, path: Path) -> bytes | None:
    return baseline_format.text_of(file, str(path)).encode() if file else None


def _prefix(engine: str) -> str:
    return f"{slug(engine).replace('-', '_')}-"


def read_baseline(path: Path) -> BaselineFile:
    """The values of one file. Raises BaselineError that names the file, the field and the way out."""
    return _there(_read(path), path)


def _read(path: Path) -> BaselineFile | None:
    try:
        text = read_regular(path)
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
    return f"baselines exist for {field} {names}: compare with --slmperf-against={shlex.quote(f'{field}={values[-1]}')}"
