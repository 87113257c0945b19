"""A diagnosis as lines for a terminal, and as a JSON document whose schema is `schemas/doctor.json`."""

import json
from typing import Any

from pytest_slmperf.core.fitness.diagnosis import Diagnosis, Grade, Line

FORMAT = "slmperf-doctor"
VERSION = 1


def lines(diagnosis: Diagnosis) -> list[str]:
    """One line for each thing that was looked at, with what to do; the last one says whether the machine is fit."""
    grades = max(map(len, Grade))
    topics = max((len(line.topic) for line in diagnosis.lines), default=0)
    drawn = [f"{line.grade:<{grades}}  {line.topic:<{topics}}  {_said(line)}" for line in diagnosis.lines]
    return [*drawn, "", verdict(diagnosis)]


def verdict(diagnosis: Diagnosis) -> str:
    """Whether a gate can be relied on here, in one line."""
    blocking = dict.fromkeys(line.topic for line in diagnosis.of(Grade.BLOCKS))
    warnings = len(diagnosis.of(Grade.WARNING))
    counted = f"{warnings} warning{'' if warnings == 1 else 's'}, {len(diagnosis.of(Grade.NOT_SEEN))} not seen"
    if blocking:
        return f"not fit to gate on: {', '.join(blocking)} ({counted})"
    return f"fit to gate on ({counted})"


def document(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as dicts, lists, texts and finite numbers only."""
    machine = diagnosis.machine
    return {
        "format": FORMAT,
        "version": VERSION,
        "fit": diagnosis.fit,
        "machine": {"device": machine.device, "driver": machine.driver, "fields": dict(machine.fields)},
        "lines": [
            {
                "topic": line.topic,
                "grade": str(line.grade),
                "said": line.said,
                "todo": line.todo,
                "values": dict(line.values),
            }
            for line in diagnosis.lines
        ],
    }


def text(diagnosis: Diagnosis) -> str:
    """The JSON document as text."""
    return json.dumps(document(diagnosis), ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _said(line: Line) -> str:
    said = f"{line.said} → {line.todo}" if line.todo else line.said
    return " ".join(said.split())
