"""What is stored for a case, and whether it may be compared with what was measured now."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from pytest_slmperf.core.baselines.baseline import PLANTED, BaselineFile, StoredRecording
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.machine import Machine, Role, Scalar, same, shown, slug
from pytest_slmperf.core.sample import Measurement


@dataclass(frozen=True)
class Against:
    """`--slmperf-against KEY=VALUE`: this field alone may differ, and its stored value must be this one."""

    field: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Against":
        """Raises UsageError for a text that isn't KEY=VALUE."""
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise UsageError(f"{text!r} is not KEY=VALUE, as in driver=580.65")
        return cls(name, value)

    def machine(self, here: Machine) -> Machine:
        """The machine whose baseline is asked for."""
        if self.field == "device":
            return replace(here, device=self.value)
        return replace(here, driver=self.value) if self.field == "driver" else here

    def means(self, stored: object) -> bool:
        """Whether a stored value is the one asked for; a device or driver also by the name of its folder."""
        spelled = {str(stored), json.dumps(stored)}
        return self.value in spelled or (self.field in ("device", "driver") and self.value == slug(str(stored)))


@dataclass(frozen=True)
class Difference:
    """A field in which the stored samples and those of now differ."""

    field: str
    stored: Scalar
    now: Scalar
    asked: str | None = None
    """The value that `--slmperf-against` wanted, where the stored one is another."""

    def __str__(self) -> str:
        if self.asked is not None:
            return f"{self.field}: {shown(self.stored)} (stored), {self.asked} was asked for"
        return f"{self.field}: {shown(self.stored)} (stored) → {shown(self.now)} (now)"


@dataclass(frozen=True)
class Comparable:
    """Stored samples that may be compared."""

    measurement: Measurement
    tolerances: Mapping[str, float]
    """By the metric's full name, for those that were gated when they were recorded."""
    point: StoredRecording
    notes: tuple[str, ...] = ()
    """Differences that void nothing and are worth knowing."""


@dataclass(frozen=True)
class NoBaseline:
    """Nothing is stored for a case."""

    reason: str


@dataclass(frozen=True)
class Incomparable:
    """Something is stored, for other circumstances than these."""

    fields: tuple[Difference, ...]

    @property
    def reason(self) -> str:
        """Every differing field in one line."""
        return "; ".join(map(str, self.fields))


Found: TypeAlias = Comparable | NoBaseline | Incomparable


def lookup(
    file: BaselineFile | None, case: str, key: Mapping[str, object], machine: Machine, against: Against | None = None
) -> Found:
    """What is stored for a case, if it holds for this key and machine.

    With `against`, its field alone may differ. Raises UsageError where neither side has such a field.
    """
    stored = file.cases.get(case) if file else None
    known = {**(file.machine.flat() if file else {}), **machine.flat(), **(stored.key if stored else {}), **key}
    if against and against.field not in known:
        raise UsageError(f"{against.field!r} is no field of {case}; its fields are {', '.join(sorted(known))}")
    if not file or not stored:
        return NoBaseline("nothing is recorded for it")
    if not stored.current:
        last = stored.points[-1].retired
        return NoBaseline(
            f"every recording of it is retired, the last one because: {last.reason if last else 'unknown'}"
        )
    if not file.machine.simulated and any(board.simulated for board in stored.current.boards.values()):
        return NoBaseline(f"a stand-in for a driver told its joules, and {file.machine.device} is a real machine")
    differing = _differences(stored.key, key, file.machine, machine, against)
    if differing:
        return Incomparable(differing)
    return Comparable(
        Measurement(
            case,
            stored.key,
            {name: kept.sample for name, kept in stored.current.metrics.items()},
            boards=stored.current.boards,
        ),
        {name: kept.tolerance for name, kept in stored.current.metrics.items() if kept.tolerance is not None},
        stored.current,
        tuple(str(Difference(name, *pair)) for name, pair in file.machine.differences(machine, Role.NOTE).items()),
    )


def _differences(
    stored: Mapping[str, Scalar], key: Mapping[str, object], was: Machine, machine: Machine, against: Against | None
) -> tuple[Difference, ...]:
    """Every field that must match and doesn't, the key's first."""
    roles = [Role.MUST_MATCH, Role.PART_OF_DEVICE]
    if against and against.field == "device":
        roles.remove(Role.PART_OF_DEVICE)
    pairs = [*key_differences(stored, key).items(), *was.differences(machine, *roles).items()]
    found = [Difference(name, *pair) for name, pair in pairs]
    if not against:
        return tuple(found)
    before = {**stored, **was.flat()}.get(against.field)
    others = [one for one in found if one.field != against.field]
    if not against.means(before):
        return (*others, Difference(against.field, before, None, asked=against.value))
    if was.simulated is not machine.simulated:
        return tuple(found)
    return tuple(others)


def scalar(value: object) -> Scalar:
    """A key's value as a field can hold it."""
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def key_differences(stored: Mapping[str, object], key: Mapping[str, object]) -> dict[str, tuple[Scalar, Scalar]]:
    """Fields of two keys that differ, as (stored, now). A field that one of them lacks is None there."""
    names = [name for name in {**stored, **key} if not name.startswith(PLANTED)]
    return {
        name: (scalar(stored.get(name)), scalar(key.get(name)))
        for name in names
        if not same(stored.get(name), key.get(name))
    }
