"""A baseline file as a value: launches of earlier runs, kept raw, with the machine and the key that they hold for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from pytest_slmperf.core.devices.board import BoardFacts
from pytest_slmperf.core.machine import Machine, Scalar
from pytest_slmperf.core.sample import Sample

PLANTED = "planted"
"""A key's fields that begin so mark a loss put in on purpose. Never stored, and never a difference."""


@dataclass(frozen=True)
class StoredMetric:
    """One metric of a recording."""

    sample: Sample
    unit: str
    higher_is_better: bool
    tolerance: float | None = None
    """The fraction that may be lost, as the noise of this recording supports it; None where nothing gates it."""


@dataclass(frozen=True)
class Retirement:
    """Why a recording no longer counts."""

    when: str
    reason: str
    by: str = ""


@dataclass(frozen=True)
class StoredRecording:
    """One recording of a case."""

    recorded: str
    """ISO 8601 in UTC."""
    metrics: Mapping[str, StoredMetric]
    commit: str | None = None
    by: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    retired: Retirement | None = None
    boards: Mapping[str, BoardFacts] = field(default_factory=dict)
    """What its joules hold for, by the board's UUID."""


@dataclass(frozen=True)
class StoredCase:
    """The recordings of one case, in the order in which they were accepted, all of the same key."""

    key: Mapping[str, Scalar]
    points: tuple[StoredRecording, ...]

    @cached_property
    def current(self) -> StoredRecording | None:
        """What the gate compares with: the newest recording that isn't retired."""
        return next((point for point in reversed(self.points) if not point.retired), None)


@dataclass(frozen=True)
class BaselineFile:
    """Everything stored for one machine, driver, engine and suite."""

    machine: Machine
    engine: str
    suite: str
    cases: Mapping[str, StoredCase]


def instant(recorded: str) -> datetime | None:
    """When a recording was made, from ISO 8601, without an offset in UTC; None for what is no date."""
    text = recorded.upper().replace(":60", ":59")  # a leap second, which RFC 3339 has and Python has not
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def case_order(case: str) -> tuple[object, ...]:
    """Sorts the names of cases with numbers by their value: batch=4 is before batch=16, rate=2.25 before rate=2.5."""
    name, equals, place = case.rpartition("=")
    whole, _, fraction = place.partition(".")
    return (*by_numbers(f"{name}{equals}{whole}"), (0, fraction)) if equals else by_numbers(case)


def by_numbers(text: str) -> tuple[object, ...]:
    """Sorts texts by the whole numbers in them, which may have more digits than Python makes an int of."""
    parts = re.split(r"0*([0-9]+)", text)
    return tuple((len(part), part) if place % 2 else part for place, part in enumerate(parts))
