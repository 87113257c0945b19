"""Writes a report to a file, in the format that its name ends with: whole, or not at all."""

from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_slmperf.core.errors import SlmperfError, UsageError
from pytest_slmperf.core.outcome import RunOutcome
from pytest_slmperf.report import document
from pytest_slmperf.report.markdown import markdown
from pytest_slmperf.run.replacing import check_folder, replace_files

FORMATS: Mapping[str, Callable[[RunOutcome], str]] = {".json": document.text, ".md": markdown}
"""Renderers by the ending of a file's name."""


def check_report_path(path: Path) -> None:
    """Find out ahead of the run what would stop `write_report` after it.

    Raises UsageError for an unknown ending, a directory, a device or a pipe, and for a folder that can't be made or
    takes no file.
    """
    _renderer(path)
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a directory: name a file for the report")
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is a device or a pipe, which a report would replace: name a file for it")
        check_folder(path.resolve().parent)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UsageError(f"{path}: no report can lie there: {where}{error.strerror or error}") from error


def write_report(run: RunOutcome, path: Path) -> None:
    """Write the report, in place of an older one; missing folders are made.

    Raises UsageError for an unknown ending, and SlmperfError that names the path where the disk refuses; what was
    there before is then still there.
    """
    write_text(_renderer(path)(run), path)


def write_text(content: str, path: Path) -> None:
    """Write a rendered report whole, or leave what was there. Raises SlmperfError that names the path."""
    try:
        replace_files({path: content.encode(errors="replace")})  # the path of a test may be no UTF-8
    except OSError as error:
        raise SlmperfError(f"the report {path} can't be written: {error.strerror or error}") from error


def _renderer(path: Path) -> Callable[[RunOutcome], str]:
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise UsageError(f"{path}: a report's name ends with {' or '.join(FORMATS)}") from None
