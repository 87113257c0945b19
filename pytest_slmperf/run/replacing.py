"""Replaces files in one step each: a reader sees the old one or the new one, and a refused write changes none."""

import errno
import fcntl
import glob
import os
import secrets
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


class HalfReplacedError(OSError):
    """What was staged is in place in some targets, or maybe in all of them, when the system refused to go on."""


def replace_files(contents: Mapping[Path, bytes | None]) -> None:
    """Give every file its content, or remove it where that is None. Missing folders are made, and links followed.

    Every content is on the disk, under a hidden name beside its target, before the first target is touched: a full disk
    or a missing permission leaves all of them as they were. One rename after another then puts them in place. A crash
    between two renames leaves some targets new and the others old, each of them whole; doing it again settles that.
    What a killed process left beside a target is taken away by the next one that replaces it.

    Raises OSError whose `filename` is the target that was refused: HalfReplacedError once a target was replaced.
    """
    targets = {path.resolve(): content for path, content in contents.items()}
    with ExitStack() as staged:
        fresh = {
            target: staged.enter_context(_staged(target, content))
            for target, content in targets.items()
            if content is not None
        }
        _put_in_place(targets, fresh)


def check_folder(folder: Path) -> None:
    """Find out ahead of a long measurement whether files can be put into a folder, which need not be there yet.

    Raises OSError whose `filename` is the folder that was refused.
    """
    nearest = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    with _blamed_on(nearest), tempfile.TemporaryFile(dir=nearest):
        pass


def _put_in_place(targets: Collection[Path], fresh: Mapping[Path, Path]) -> None:
    replaced = False
    try:
        for target in targets:
            with _blamed_on(target):
                if target in fresh:
                    fresh[target].replace(target)
                else:
                    target.unlink(missing_ok=True)
            replaced = True
        for target in targets:
            with _blamed_on(target):
                _sync(target.parent)
    except OSError as error:
        if replaced:
            raise HalfReplacedError(error.errno, error.strerror, error.filename) from error
        raise


@contextmanager
def _staged(target: Path, content: bytes) -> Iterator[Path]:
    """The content in a file beside its target. It is locked while its writer lives, and gone afterwards."""
    with ExitStack() as stack:
        with _blamed_on(target):
            if target.exists() and not (target.is_file() or target.is_dir()):
                raise OSError(errno.EINVAL, "it is a device or a pipe, which would be replaced")
            target.parent.mkdir(parents=True, exist_ok=True)
            for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
                _clear(left)
            fresh, descriptor = _create(target)
            stack.callback(_forget, fresh, descriptor)
            with os.fdopen(descriptor, "wb", closefd=False) as stream:
                if target.exists():
                    os.fchmod(descriptor, target.stat().st_mode & 0o777)
                stream.write(content)
                stream.flush()
                os.fsync(descriptor)
        yield fresh


def _create(target: Path) -> tuple[Path, int]:
    """A new file that is locked. Another process may take it for left over before the lock is had: then another."""
    while True:
        fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # some network file systems have no locks: nobody clears there either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return fresh, descriptor
        os.close(descriptor)


def _forget(fresh: Path, descriptor: int) -> None:
    os.close(descriptor)
    with suppress(OSError):
        fresh.unlink()


def _clear(left: Path) -> None:
    """Take away what a process was writing when it was killed; a living one holds its lock."""
    with suppress(OSError):
        descriptor = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
        finally:
            os.close(descriptor)


def _sync(folder: Path) -> None:
    """Make a changed name outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _blamed_on(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(target)) from error
