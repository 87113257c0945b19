"""Keeps a recording that was refused: what took so long to measure can be accepted later, where that helps."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from pytest_slmperf.core.errors import SlmperfError
from pytest_slmperf.report import document, files
from pytest_slmperf.run import schema
from pytest_slmperf.run.accept import Remedy, holds_more, remedy

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from pytest_slmperf.core.gate import Policy
    from pytest_slmperf.core.outcome import RunOutcome
    from pytest_slmperf.run.options import Options


def keep(config: pytest.Config, options: Options, run: RunOutcome, policy: Policy) -> list[str]:
    """Put a refused recording into pytest's cache, and say so; one that is stored takes away what was kept before.

    `policy` is how later gates will judge. A report that was asked for has it all, and is kept by whoever asked.
    """
    cache = getattr(config, "cache", None)  # None under `-p no:cacheprovider`
    if options.mode != "accept" or not cache:
        return []
    told = any(path.suffix == ".json" for path in options.reports)
    try:
        path: Path = cache.mkdir("slmperf") / "unrecorded.json"
        if run.recorded:
            path.unlink(missing_ok=True)  # older than what is in force now
            return []
        found = None if told else remedy(run, policy)
        if not found:
            return []
        kept = _read(path)
        if kept and holds_more(kept, run):
            instead = "remove that file, or have a report: --slmperf-report=REPORT.json"
            return [f"{path} holds a refused recording of more cases, so this one is not kept; {instead}"]
        files.write_report(run, path)
    except (OSError, SlmperfError) as error:
        return [f"what was measured could not be kept: {error}"]
    words = ["slmperf", "baselines", "accept", str(path)]
    if options.baselines:
        words.append(f"--baselines={options.baselines}")
    if found is Remedy.OTHER_TOLERANCE:
        words.append("--tolerance=supported")
    why = "takes the tolerances that its noise supports" if found is Remedy.OTHER_TOLERANCE else "once that is mended"
    return [f"what was measured is kept: {shlex.join(words)} {why}"]


def _read(path: Path) -> RunOutcome | None:
    """What was kept before; None where there is nothing, or what this version can't read."""
    try:
        content = schema.parsed(path.read_bytes())
        return None if schema.violation("report", content) else document.outcome(content)
    except (OSError, ValueError, SlmperfError):
        return None
