"""What `slmperf advise` has measured so far, in a file: each launch is kept at once, and the next run goes on."""

import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_slmperf.core.advising.question import Evidence, Seen, Series, Setting
from pytest_slmperf.core.errors import SlmperfError, UsageError
from pytest_slmperf.core.machine import Machine, Role, Scalar, shown
from pytest_slmperf.run import schema
from pytest_slmperf.run.regular import read_regular
from pytest_slmperf.run.replacing import replace_files

FORMAT = "slmperf-advise"
VERSION = 1


@dataclass(frozen=True)
class Launched:
    """What one launch showed of one setting; it may have measured others of the same configuration, too."""

    setting: Setting
    at: str
    """When the launch began, ISO 8601 in UTC: what one launch measured has this in common."""
    seconds: float
    """That it took, whatever else it measured."""
    values: Mapping[str, float] = field(default_factory=dict)
    """By the metric's full name, the median of its rounds."""
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    failed: str = ""
    """Why the setting can't be run; empty where it can."""


@dataclass(frozen=True)
class State:
    """What was measured, and what of."""

    machine: Machine
    of: Mapping[str, Scalar]
    """What was to be done, flat: engine, model, options, workload."""
    launches: tuple[Launched, ...] = ()
    resolved: Mapping[str, Scalar] = field(default_factory=dict)
    """What the engine said of itself, flat: its version and weights."""

    @property
    def evidence(self) -> Evidence:
        """What all launches of each setting showed."""
        seen: dict[Setting, Seen] = {}
        for one in self.launches:
            before = seen.get(one.setting, Seen(one.setting))
            values = {name: (*before.values.get(name, ()), value) for name, value in one.values.items()}
            unmeasured = {**before.unmeasured, **one.unmeasured}
            seen[one.setting] = Seen(one.setting, {**before.values, **values}, one.failed or before.failed, unmeasured)
        return Evidence(seen)

    def made_of(self, settings: Container[Setting]) -> int:
        """Launches that measured, or could not run, some of these settings."""
        return len({(one.setting.series, one.at) for one in self.launches if one.setting in settings})

    @property
    def made(self) -> int:
        """All launches."""
        return self.made_of([one.setting for one in self.launches])

    def plus(self, launched: Iterable[Launched], resolved: Mapping[str, Scalar] | None = None) -> "State":
        """With what one launch more showed. Raises UsageError where the engine is another one now."""
        for name, now in (resolved or {}).items():
            before = self.resolved.get(name, now)
            if before != now:
                raise UsageError(
                    f"the engine's {name} was {shown(before)} in the launches that are kept, and is {shown(now)} now: "
                    "they can't be compared; name another file with --state"
                )
        return replace(self, launches=(*self.launches, *launched), resolved={**self.resolved, **(resolved or {})})

    def without_failed(self) -> "State":
        """With the launches alone that ran."""
        return replace(self, launches=tuple(one for one in self.launches if not one.failed))

    def differences(self, other: "State") -> str:
        """In what the other's launches can't be compared with these; empty where they can."""
        pairs = {name: (self.of.get(name), other.of.get(name)) for name in {**self.of, **other.of}}
        unlike = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        unlike |= self.machine.differences(other.machine, Role.MUST_MATCH, Role.PART_OF_DEVICE)
        return "; ".join(f"{name}: {shown(mine)} → {shown(theirs)}" for name, (mine, theirs) in unlike.items())


def read_state(path: Path) -> State | None:
    """What a file holds; None where there is no such file. Raises UsageError for one that can't be read, and
    SlmperfError, which names the field, for one that is damaged.
    """
    try:
        text = read_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    try:
        document = schema.parsed(text)
    except ValueError as error:
        raise SlmperfError(f"{path}: no JSON: {error}; delete it to begin anew") from error
    found = document.get("version") if isinstance(document, dict) else None
    if is_state(document) and isinstance(found, int) and found > VERSION:
        raise SlmperfError(f"{path}: version {found}, written by a newer pytest-slmperf: upgrade this one")
    broken = schema.violation("advise_state", document)
    if broken:
        raise SlmperfError(f"{path}: {broken}; delete it to begin anew")
    return _state(document)


def is_state(document: object) -> bool:
    """Whether a JSON document says that it is one of these."""
    return isinstance(document, dict) and document.get("format") == FORMAT


def write_state(state: State, path: Path) -> None:
    """Keep it, in one step. Raises SlmperfError where it can't be written."""
    try:
        replace_files({path: (json.dumps(_document(state), ensure_ascii=False, indent=1) + "\n").encode()})
    except OSError as error:
        raise SlmperfError(f"{path}: what was measured can't be kept: {error.strerror or error}") from error


def _document(state: State) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "machine": state.machine.flat(),
        "of": dict(state.of),
        "resolved": dict(state.resolved),
        "launches": [
            {
                "batch": one.setting.batch,
                "dtype": one.setting.series.dtype,
                "threads": one.setting.series.threads,
                "replicas": one.setting.series.replicas,
                "at": one.at,
                "seconds": one.seconds,
                "values": dict(one.values),
                "unmeasured": dict(one.unmeasured),
                "failed": one.failed,
            }
            for one in state.launches
        ],
    }


def _state(document: Mapping[str, Any]) -> State:
    machine = dict(document["machine"])
    return State(
        machine=Machine(machine.pop("device"), machine.pop("driver"), machine),
        of=document["of"],
        resolved=document["resolved"],
        launches=tuple(
            Launched(
                Setting(one["batch"], Series(one["dtype"], one["threads"], one["replicas"])),
                one["at"],
                one["seconds"],
                one["values"],
                one["unmeasured"],
                one["failed"],
            )
            for one in document["launches"]
        ),
    )
