"""What a command line asked for, read into values."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pytest_slmperf.core.baselines.lookup import Against
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.flaw import flaw
from pytest_slmperf.core.pool import POOL_OPTIONS, Pool
from pytest_slmperf.engines.planted import LOSS_LIMIT
from pytest_slmperf.run.interpreter import interpreter

PYTHON = "python"
"""`--slmperf-against python=PATH` measures another environment's engine; every other field is one of a baseline."""


OptionValue = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for; it wins over the settings.

    Raises UsageError for a text that is none of UTF-8 and for a number that isn't finite.
    """

    mode: Literal["gate", "accept", "report"] = "gate"
    engine: str | None = None
    engine_options: Mapping[str, OptionValue] = field(default_factory=dict)
    baselines: Path | None = None
    against: Against | None = None
    tier: Literal["quick", "gate", "full"] = "gate"
    budget_s: float | None = None
    reports: tuple[Path, ...] = ()
    chosen: tuple[str, ...] = ()
    """Words of a command line that choose the same tests again, without -k."""
    keyword: str = ""
    """The expression of -k."""

    def __post_init__(self) -> None:
        given: dict[str, object] = {
            "--slmperf-engine": self.engine,
            **self.engine_options,
            "--slmperf-against": self.against and f"{self.against.field}={self.against.value}",
            "--slmperf-baselines": str(self.baselines),
            "--slmperf-report": " ".join(map(str, self.reports)),
        }
        for name, value in given.items():
            if why := flaw(name) or flaw(value):
                raise UsageError(f"{name!r} of the command line: {why}")

    @property
    def other_python(self) -> str | None:
        """The interpreter of the environment that is measured beside this one, where one is named."""
        return self.against.value if self.against and self.against.field == PYTHON else None

    @property
    def record(self) -> str:
        """The command that records what this one measures; without a loss that it plants."""
        return self._record(self.keyword)

    def record_only(self, sweep: str) -> str:
        """The same of one sweep."""
        return self._record(f"({self.keyword}) and {sweep}" if self.keyword not in ("", sweep) else sweep)

    def _record(self, keyword: str) -> str:
        kept = {name: value for name, value in self.engine_options.items() if not name.startswith("slowed")}
        pairs = "".join(f",{name}={value}" for name, value in kept.items())
        words = ["pytest", "--slmperf", *self.chosen, *(("-k", keyword) if keyword else ())]
        if self.engine:
            words.append(f"--slmperf-engine={self.engine}{f':{pairs[1:]}' if pairs else ''}")
        if self.baselines:
            words.append(f"--slmperf-baselines={self.baselines}")
        return shlex.join([*words, "--slmperf-accept"])


def parse_engine(text: str | None) -> tuple[str | None, dict[str, OptionValue]]:
    """`NAME` or `NAME:KEY=VALUE,KEY=VALUE`; values are read as numbers and truths where they look like them.

    Raises UsageError for what is none of these.
    """
    if not text:
        return None, {}
    return named_engine("--slmperf-engine", text)


def named_engine(where: str, text: str) -> tuple[str, dict[str, OptionValue]]:
    """An engine and its options, as `where` names them. Raises UsageError."""
    name, colon, rest = text.partition(":")
    if not name:
        raise UsageError(f"{where} {text}: it takes NAME or NAME:KEY=VALUE,KEY=VALUE")
    return name, {key: literal(value) for key, value in pairs(where, rest).items()} if colon else {}


def pairs(where: str, text: str) -> dict[str, str]:
    """KEY=VALUE,KEY=VALUE. Raises UsageError that says `where`, also for a key that is given twice."""
    found: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise UsageError(f"{where}: {part!r} is not KEY=VALUE, as in dtype=int8")
        if key in found:
            raise UsageError(f"{where}: {key} is given twice: {found[key]} and {value}")
        found[key] = value
    return found


def literal(text: str) -> OptionValue:
    """An option's value as it was typed: a truth or a number where it looks like one, a text otherwise."""
    if text.casefold() in ("true", "false"):
        return text.casefold() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def pool_of(
    options: Mapping[str, OptionValue], before: Pool | None = None
) -> tuple[Pool | None, dict[str, OptionValue]]:
    """The pool that options of a command line speak of, and the other options. What isn't said of it is as `before`.

    `replicas=2,pool=mps,spread=even,addresses=URL+URL,slowed_replica=2`, and a GPU's budgets. Raises UsageError.
    """
    named = {POOL_OPTIONS[name]: value for name, value in options.items() if name in POOL_OPTIONS}
    others = {name: value for name, value in options.items() if name not in POOL_OPTIONS}
    if not named:
        return before, others
    given: dict[str, Any] = dict(named)
    if "addresses" in given:
        given["addresses"] = tuple(part for part in str(given["addresses"]).split("+") if part)
        given.setdefault("replicas", max(1, len(given["addresses"])))
    return replace(before, **given) if before else Pool(**{"replicas": 1, **given}), others


def planted_loss(value: OptionValue) -> float:
    """A share of throughput to take away. Raises UsageError for what is none."""
    if isinstance(value, (str, bool)) or not 0 <= value < LOSS_LIMIT:
        raise UsageError(f"slowed={value}: it takes a share of at least 0 and below {LOSS_LIMIT}")
    return float(value)


def minutes(text: str) -> float:
    """A budget. Raises ValueError for what is no time, as argparse asks."""
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(text)
    return value


def parse_against(text: str | None) -> Against | None:
    """`KEY=VALUE`, as in `driver=580.65` or `python=.venv-main/bin/python`."""
    if not text:
        return None
    try:
        against = Against.parse(text)
    except UsageError as error:
        raise UsageError(f"--slmperf-against {error}, or python=PATH") from error
    if against.field == PYTHON:
        try:
            return replace(against, value=interpreter(against.value))
        except UsageError as error:
            raise UsageError(f"--slmperf-against {error}") from error
    return against
