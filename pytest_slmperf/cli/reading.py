"""Reads a JSON report that a user names."""

from collections.abc import Iterator
from pathlib import Path

from pytest_slmperf.core.errors import SlmperfError, UsageError
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import RunOutcome
from pytest_slmperf.report import document
from pytest_slmperf.run import schema
from pytest_slmperf.run.regular import read_regular


def read_report(path: Path) -> RunOutcome:
    """The run that a report was written from.

    Raises UsageError for a file that can't be read, and SlmperfError that names the file and the field for one that
    is no report, or one of a later version.
    """
    try:
        content = schema.parsed(read_regular(path))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise SlmperfError(f"{path}: no JSON report: {error}") from error
    ours = isinstance(content, dict) and content.get("format") == document.FORMAT
    if not ours or content.get("version") == document.VERSION:
        broken = schema.violation("report", content)
        if broken:
            raise SlmperfError(f"{path}: no JSON report: {broken}")
    try:
        run = document.outcome(content)
        for name in _metrics(run):
            metric(name)
    except SlmperfError as error:
        raise SlmperfError(f"{path}: {schema.short(str(error))}") from error
    return run


def _metrics(run: RunOutcome) -> Iterator[str]:
    """Everything that a run says it measured or gates."""
    for sweep in run.sweeps:
        yield from sweep.asked
        for case in sweep.cases.values():
            yield from (*case.measurement.samples, *case.verdicts)
