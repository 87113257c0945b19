"""Reads a JSON report that a user names."""

import json
from pathlib import Path
from typing import NoReturn

from pytest_slmperf.core.errors import SlmperfError, UsageError
from pytest_slmperf.core.outcome import RunOutcome
from pytest_slmperf.report import document
from pytest_slmperf.run import schema


def read_report(path: Path) -> RunOutcome:
    """The run that a report was written from.

    Raises UsageError for a file that can't be read, and SlmperfError that names the file and the field for one that
    is no report, or one of a later version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise SlmperfError(f"{path}: no JSON report: {error}") from error
    ours = isinstance(content, dict) and content.get("format") == document.FORMAT
    if not ours or content.get("version") == document.VERSION:
        broken = schema.violation("report", content)
        if broken:
            raise SlmperfError(f"{path}: no JSON report: {broken}")
    try:
        return document.outcome(content)
    except SlmperfError as error:
        raise SlmperfError(f"{path}: {error}") from error


def _no_constant(literal: str) -> NoReturn:
    raise ValueError(f"{literal} is no JSON")
