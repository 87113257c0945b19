"""The fields of a foreign document: each taken by its name, or one error that names the file and the field."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_slmperf.core.errors import SlmperfError
from pytest_slmperf.core.flaw import flaw
from pytest_slmperf.core.sample import LARGEST
from pytest_slmperf.run import schema

MOST = LARGEST / 1e9
"""What is larger is no measured value, and could not be converted to a smaller unit."""
LONGEST = 300
"""Characters of a name or a version."""


@dataclass(frozen=True)
class Fields:
    """One object of a document. What is missing and what is null are the same: the tools write either."""

    file: str
    """How the user calls it, and where it has several results, which of them."""
    value: Mapping[str, Any]
    at: tuple[str | int, ...] = ()

    def __contains__(self, name: str) -> bool:
        return self.value.get(name) is not None

    def wrong(self, name: str, why: str) -> SlmperfError:
        """The error of a field: `run.json: $.failed: why`."""
        return SlmperfError(f"{self.file}: {schema.json_path((*self.at, name))}: {why}")

    def inside(self, name: str) -> "Fields":
        """An object within this one; an empty one where there is none."""
        value = self.value.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise self.wrong(name, f"{_shown(value)} is no object")
        return Fields(self.file, value or {}, (*self.at, name))

    def each(self, name: str) -> Iterator["Fields"]:
        """The objects of a list."""
        for place, value in enumerate(self.items(name)):
            if not isinstance(value, Mapping):
                raise self.wrong(name, f"its item {place} is {_shown(value)}, and no object")
            yield Fields(self.file, value, (*self.at, name, place))

    def items(self, name: str) -> Sequence[Any]:
        """A list; an empty one where there is none."""
        value = self.value.get(name)
        if value is None:
            return ()
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
            raise self.wrong(name, f"{_shown(value)} is no list")
        return value

    def number(self, name: str) -> float:
        """A finite number that isn't negative."""
        found = self.maybe(name)
        if found is None:
            raise self.wrong(name, "it is missing")
        return found

    def maybe(self, name: str) -> float | None:
        """A finite number that isn't negative, or None where there is none."""
        value = self.value.get(name)
        return None if value is None else self.measured(name, value)

    def measured(self, name: str, value: object) -> float:
        """The value as a finite number that isn't negative. Raises SlmperfError that names the field."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(name, f"{_shown(value)} is no number")
        if why := flaw(value):
            raise self.wrong(name, schema.short(why))
        if not 0 <= value <= MOST:
            said = "it is negative" if value < 0 else "nothing that is measured is so large"
            raise self.wrong(name, f"{_shown(value)}: {said}")
        return float(value)

    def rate(self, name: str) -> float:
        """A number above 0, or infinity, which the tools write as `inf` or `Infinity`."""
        value = self.value.get(name)
        if value in ("inf", math.inf):
            return math.inf
        rate = self.number(name)
        if not rate:
            raise self.wrong(name, "it is 0")
        return rate

    def count(self, name: str) -> int:
        """A whole number."""
        found = self.maybe_count(name)
        if found is None:
            raise self.wrong(name, "it is missing")
        return found

    def maybe_count(self, name: str) -> int | None:
        """A whole number, or None where there is none."""
        found = self.maybe(name)
        if found is not None and found != int(found):
            raise self.wrong(name, f"{found:g} is no whole number")
        return None if found is None else int(found)

    def text(self, name: str) -> str | None:
        """A name or a version; None where there is none, or an empty one."""
        value = self.value.get(name)
        if value is None or value == "":
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)  # YAML makes a number of 0.2
        if not isinstance(value, str):
            raise self.wrong(name, f"{_shown(value)} is no text")
        if why := flaw(value):
            raise self.wrong(name, why)
        if len(value) > LONGEST or not value.isprintable():
            raise self.wrong(name, f"{schema.short(repr(value))} is no name")
        return value


def _shown(value: object) -> str:
    return schema.short(repr(value)) if isinstance(value, (str, int, float, bool)) else f"a {type(value).__name__}"
