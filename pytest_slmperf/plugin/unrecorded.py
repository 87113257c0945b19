"""Keeps a recording that was refused: what took so long to measure can be accepted later, where that helps."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_slmperf.core.errors import SlmperfError
from pytest_slmperf.core.machine import slug
from pytest_slmperf.core.revision import newer_in_force
from pytest_slmperf.report import document, files
from pytest_slmperf.run import schema
from pytest_slmperf.run.accept import Remedy, holds_all, remedy
from pytest_slmperf.run.regular import read_regular
from pytest_slmperf.run.store import BaselineStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

    from pytest_slmperf.core.gate import Policy
    from pytest_slmperf.core.outcome import RunOutcome
    from pytest_slmperf.run.options import Options


def keep(config: pytest.Config, options: Options, run: RunOutcome, baselines: Path, policy: Policy) -> list[str]:
    """Put a refused recording into pytest's cache, and say so; one that is stored takes away what was kept before.

    `baselines` is where it was to be stored, and `policy` how later gates will judge. There is a file for each suite,
    named as among the baselines. A report that was asked for has it all, and is kept by whoever asked.
    """
    cache = getattr(config, "cache", None)  # None under `-p no:cacheprovider`
    if options.mode != "accept" or not cache:
        return []
    told = any(path.suffix == ".json" for path in options.reports)
    lines = []
    try:
        store = BaselineStore(baselines)
        kept = BaselineStore(cache.mkdir("slmperf") / "unrecorded" / slug(str(baselines.absolute())))
        for engines, part in _suites(run):
            path = kept.path_of(part.machine, "+".join(engines), part.sweeps[0].sweep)
            before = _read(path)
            if run.recorded:
                if before and holds_all(part, before):
                    path.unlink()  # older than what is in force now
            elif not told and (found := remedy(part, policy)):
                lines.append(_keep(part, path, before) or _hint(path, options, found, older=_is_older(part, store)))
    except (OSError, SlmperfError) as error:
        return [*lines, f"what was measured could not be kept: {error}"]
    return lines


def _suites(run: RunOutcome) -> Iterator[tuple[list[str], RunOutcome]]:
    """What a run measured of each suite, with the names of its engines."""
    for sweep in run.sweeps:
        engines = sorted({spec.engine for spec in sweep.specs})
        yield engines, replace(run, sweeps=(sweep,))


def _keep(part: RunOutcome, path: Path, before: RunOutcome | None) -> str:
    """Write the file, unless what it holds is nothing that the part has, too; then say so."""
    if before and not holds_all(part, before):
        instead = "remove that file, or have a report: --slmperf-report=REPORT.json"
        return f"{path} holds a refused recording of other cases, so this one is not kept; {instead}"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_report(part, path)
    return ""


def _hint(path: Path, options: Options, found: Remedy, *, older: bool) -> str:
    words = ["slmperf", "baselines", "accept", str(path)]
    if options.baselines:
        words.append(f"--baselines={options.baselines}")
    if found is Remedy.OTHER_TOLERANCE:
        words.append("--tolerance=supported")
    if older:
        words.append("--older")
    why = "takes the tolerances that its noise supports" if found is Remedy.OTHER_TOLERANCE else "once that is mended"
    return f"what was measured is kept: {shlex.join(words)} {why}"


def _is_older(part: RunOutcome, store: BaselineStore) -> bool:
    """Whether something that is in force was recorded later: it is another run's, or the clock went back."""
    for sweep in part.sweeps:
        engines = {name: str(case.measurement.key.get("engine")) for name, case in sweep.cases.items()}
        for engine in dict.fromkeys(engines.values()):
            try:
                file = store.load(part.machine, engine, sweep.sweep)
            except SlmperfError:  # that it can't be read is told already
                continue
            if any(newer_in_force(file, name, part.started_at) for name in engines if engines[name] == engine):
                return True
    return False


def _read(path: Path) -> RunOutcome | None:
    """What was kept before; None where there is nothing, or what this version can't read."""
    try:
        content = schema.parsed(read_regular(path))
        return None if schema.violation("report", content) else document.outcome(content)
    except (OSError, ValueError, SlmperfError):
        return None
