"""The text of a baseline file: values to JSON that reads well in a review, and back.

Keys are sorted, and the rounds of one launch stand on one line: a new recording is a block of added lines.
"""

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from pytest_slmperf.core.baselines.baseline import BaselineFile, Retirement, StoredCase, StoredMetric, StoredRecording
from pytest_slmperf.core.devices.board import BoardFacts
from pytest_slmperf.core.errors import BaselineError, SuiteError
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.sample import BadSample, Sample
from pytest_slmperf.run import schema

FORMAT = 1


def text_of(file: BaselineFile, where: str) -> str:
    """The file's text. Raises BaselineError, which names `where`, for values that the schema doesn't allow."""
    document = {
        "format": FORMAT,
        "suite": file.suite,
        "engine": file.engine,
        "machine": file.machine.flat(),
        "cases": {name: _case(case) for name, case in file.cases.items()},
    }
    broken = schema.violation("baseline", document)
    if broken:
        raise BaselineError(f"{where}: can't be written: {broken}")
    return "".join(_pretty(document, "")) + "\n"


def _case(case: StoredCase) -> dict[str, Any]:
    return {"key": dict(case.key), "points": [_point(point) for point in case.points]}


def _point(point: StoredRecording) -> dict[str, Any]:
    stored = {
        "recorded": point.recorded,
        "commit": point.commit,
        "by": point.by,
        "versions": dict(point.versions),
        "metrics": {name: _metric(kept) for name, kept in point.metrics.items()},
    }
    if point.boards:
        stored["boards"] = {uuid: asdict(board) for uuid, board in point.boards.items()}
    if point.retired:
        stored["retired"] = {"when": point.retired.when, "reason": point.retired.reason, "by": point.retired.by}
    return stored


def _metric(kept: StoredMetric) -> dict[str, Any]:
    return {
        "unit": kept.unit,
        "higher_is_better": kept.higher_is_better,
        "tolerance": kept.tolerance,
        "launches": [list(rounds) for rounds in kept.sample.launches],
    }


def _pretty(value: object, indent: str) -> Iterable[str]:
    """JSON text, two spaces a level; an array of plain values stays on one line."""
    inner = indent + "  "
    if isinstance(value, Mapping) and value:
        separator = "{\n"
        for name in sorted(value):
            yield f"{separator}{inner}{json.dumps(name, ensure_ascii=False)}: "
            yield from _pretty(value[name], inner)
            separator = ",\n"
        yield f"\n{indent}}}"
    elif isinstance(value, list) and any(isinstance(item, (list, Mapping)) for item in value):
        separator = "[\n"
        for item in value:
            yield f"{separator}{inner}"
            yield from _pretty(item, inner)
            separator = ",\n"
        yield f"\n{indent}]"
    else:
        yield json.dumps(value, ensure_ascii=False, allow_nan=False)


def parse(text: bytes, where: str) -> BaselineFile:
    """The values of a file's text. Raises BaselineError that names the file, the field and the way out."""
    document = _document(text, where)
    found = document.get("format") if isinstance(document, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise BaselineError(
            f"{where}: $.format: {schema.short(str(found))}, written by a newer pytest-slmperf; this one reads up to "
            f"{FORMAT}: upgrade it"
        )
    broken = schema.violation("baseline", document)
    if broken:
        raise _damaged(where, broken)
    machine = dict(document["machine"])
    return BaselineFile(
        Machine(machine.pop("device"), machine.pop("driver"), machine),
        document["engine"],
        document["suite"],
        {name: _case_of(case, name, where) for name, case in document["cases"].items()},
    )


def _document(text: bytes, where: str) -> Any:  # noqa: ANN401 - JSON whose schema is not checked yet
    if not text.strip():
        raise _damaged(where, "$: the file is empty")
    try:
        return schema.parsed(text)
    except ValueError as error:
        raise _damaged(where, f"$: {error}") from error


def _case_of(case: Mapping[str, Any], name: str, where: str) -> StoredCase:
    at = ("cases", name, "points")
    points = (_point_of(point, (*at, place), where) for place, point in enumerate(case["points"]))
    return StoredCase(case["key"], tuple(points))


def _point_of(point: Mapping[str, Any], at: tuple[str | int, ...], where: str) -> StoredRecording:
    retired = point.get("retired")
    metrics = point["metrics"].items()
    return StoredRecording(
        recorded=point["recorded"],
        metrics={name: _metric_of(stored, name, (*at, "metrics", name), where) for name, stored in metrics},
        commit=point["commit"],
        by=point["by"],
        versions=point["versions"],
        retired=Retirement(retired["when"], retired["reason"], retired["by"]) if retired else None,
        boards={uuid: BoardFacts.of(board) for uuid, board in point.get("boards", {}).items()},
    )


def _metric_of(stored: Mapping[str, Any], name: str, at: tuple[str | int, ...], where: str) -> StoredMetric:
    try:
        meaning = metric(name)
        sample = Sample.of(stored["launches"])
    except (SuiteError, BadSample) as error:
        raise _damaged(where, f"{schema.json_path(at)}: {error}") from error
    if meaning.name != name:
        raise _damaged(where, f"{schema.json_path(at)}: {name} is stored as {meaning.name}")
    for field, now in (("unit", meaning.unit), ("higher_is_better", meaning.higher_is_better)):
        if stored[field] != now:
            changed = f"{name} has {stored[field]!r} here, and {now!r} by its definition"
            raise _damaged(where, f"{schema.json_path((*at, field))}: {changed}")
    return StoredMetric(sample, meaning.unit, meaning.higher_is_better, stored["tolerance"])


def _damaged(where: str, what: str) -> BaselineError:
    restore = f"git checkout -- {shlex.quote(where)}"
    way_out = f"take it from git ({restore}), or delete it and record: pytest --slmperf --slmperf-accept"
    return BaselineError(f"{where}: {schema.short(what)}; {way_out}")
