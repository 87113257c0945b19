"""Writes a report to a file, in the format that its name ends with: whole, or not at all."""

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from pytest_slmperf.core.errors import SlmperfError, UsageError
from pytest_slmperf.core.outcome import RunOutcome
from pytest_slmperf.report import document
from pytest_slmperf.report.markdown import markdown

FORMATS: Mapping[str, Callable[[RunOutcome], str]] = {".json": document.text, ".md": markdown}
"""Renderers by the ending of a file's name."""


def check_report_path(path: Path) -> None:
    """Find out ahead of the run what would stop `write_report` after it.

    Raises UsageError for an unknown ending, a directory, and a folder that can't be made or written to.
    """
    _renderer(path)
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a directory: name a file for the report")
        folder = path.resolve().parent
        nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    except OSError as error:
        raise UsageError(f"{path}: no report can lie there: {error.strerror or error}") from error
    if not nearest.is_dir():
        raise UsageError(f"{path}: {nearest} is not a directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: {nearest} can't be written to")


def write_report(run: RunOutcome, path: Path) -> None:
    """Write the report, in place of an older one; missing folders are made.

    Raises UsageError for an unknown ending, and SlmperfError that names the path where the disk refuses; what was
    there before is then still there.
    """
    content = _renderer(path)(run)
    target = path.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace(target, content.encode())
    except OSError as error:
        raise SlmperfError(f"the report {path} can't be written: {error.strerror or error}") from error


def _renderer(path: Path) -> Callable[[RunOutcome], str]:
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise UsageError(f"{path}: a report's name ends with {' or '.join(FORMATS)}") from None


def _replace(target: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    fresh = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.chmod(0o666 & ~_umask())
        fresh.replace(target)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise


def _umask() -> int:
    """The mask can only be read by setting it. mkstemp makes files that nobody else may read; a report is no secret."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
