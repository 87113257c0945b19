"""Keeps a recording that was refused: what took so long to measure can be accepted later, where that helps."""

from __future__ import annotations

import shlex
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from pytest_slmperf.core.baselines.revision import newer_in_force
from pytest_slmperf.core.errors import SlmperfError
from pytest_slmperf.core.machine import slug
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
    named as among the baselines, and one more for a recording of other cases. A report that was asked for has it all,
    and is kept by whoever asked.
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
            first = kept.path_of(part.machine, "+".join(engines), part.sweeps[0].sweep)
            if run.recorded:
                for path in _covered(part, first):
                    path.unlink()  # older than what is in force now
            elif not told and (found := remedy(part, policy)):
                path = _keep(part, first)
                lines.append(_hint(path, options, found, older=_is_older(part, store)))
    except (OSError, SlmperfError) as error:
        return [*lines, f"what was measured could not be kept: {error}"]
    return lines


def _suites(run: RunOutcome) -> Iterator[tuple[list[str], RunOutcome]]:
    """What a run measured of each suite, with the names of its engines."""
    for sweep in run.sweeps:
        engines = sorted({spec.engine for spec in sweep.specs})
        yield engines, replace(run, sweeps=(sweep,))


def _keep(part: RunOutcome, first: Path) -> Path:
    """Write the part where nothing lies that has other cases, and say where that is."""
    covered = _covered(part, first)
    path = covered[0] if covered else next(place for place in _places(first) if _read(place) is None)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_report(part, path)
    for other in covered[1:]:
        other.unlink()
    return path


def _places(first: Path) -> Iterator[Path]:
    """Where recordings of a suite are kept of which none has all cases of another."""
    yield first
    yield from (first.with_name(f"{first.stem}+{number}{first.suffix}") for number in count(2))


def _covered(part: RunOutcome, first: Path) -> list[Path]:
    """The files of the suite that hold no case which the part has not, too."""
    there = [first, *first.parent.glob(f"{first.stem}+*{first.suffix}")]
    return [path for path in there if (before := _read(path)) and holds_all(part, before)]


def _hint(path: Path, options: Options, found: Remedy, *, older: bool) -> str:
    words = ["slmperf", "baselines", "accept", str(path)]
    if options.baselines:
        words.append(f"--baselines={options.baselines}")
    if found is Remedy.OTHER_TOLERANCE:
        words.append("--tolerance=supported")
    if older:
        words.append("--older")
    other = found is Remedy.OTHER_TOLERANCE
    how = "with the tolerances that its noise supports" if other else "as it is, once the problem is mended"
    return f"what was measured of {path.stem} is kept, and is accepted {how}: {shlex.join(words)}"


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
