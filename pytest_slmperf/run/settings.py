"""What `[tool.slmperf]` in pyproject.toml says, checked once and handed on as a value."""

import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pytest_slmperf.core import gate
from pytest_slmperf.core.baselines.recordable import LEAST_LAUNCHES
from pytest_slmperf.core.beside import told
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.flaw import flaw
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.sweeps.search import FOUND, Search
from pytest_slmperf.core.sweeps.sweep import DEFAULT_TOLERANCE, MISSING_METER, Sweep
from pytest_slmperf.core.sweeps.workload import COUNTED, LABELS
from pytest_slmperf.run.options import OptionValue, named_engine

LIMITS = tuple(limit.name for limit in fields(Slo))
SEARCHED = tuple(one.name for one in fields(Search))
TOLERANCES = ("asked", "supported")
MOST_LAUNCHES = 200
"""In each arm: a gate's look at so many takes a second of arithmetic, and at twice as many ten."""
LONGEST_S = 604_800.0
"""A week."""


def _whole(value: object) -> bool:
    return isinstance(value, int) and _number(value)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and flaw(value) is None


def _name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()


def _list_of(kind: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _names(value: object) -> bool:
    return _name(value) or _list_of(_name)(value)


def _gates(value: object) -> bool:
    return all(map(_number, value.values())) if isinstance(value, dict) else _list_of(_name)(value)


def _option_lists(value: object) -> bool:
    return isinstance(value, dict) and all(map(_list_of(_option), value.values()))


def _option(value: object) -> bool:
    return isinstance(value, bool) or _name(value) or _number(value)


def _limits(value: object) -> bool:
    return _table_of(LIMITS, value)


def _places(kind: Callable[[object], bool]) -> Callable[[object], bool]:
    """A list, or a search."""
    return lambda value: _list_of(kind)(value) or _table_of(SEARCHED, value)


def _table_of(names: Collection[str], value: object) -> bool:
    return isinstance(value, dict) and value.keys() <= set(names) and all(map(_number, value.values()))


def _beside(value: object) -> bool:
    return value == "none" or (isinstance(value, dict) and told(value))


Kinds = Mapping[str, tuple[Callable[[object], bool], str]]
"""Fields by their name: whether a value is of the field's kind, and what that is."""

MISTYPED = 0.8
"""Likeness of two names, as difflib has it, from which one is the other mistyped."""
CONDITIONS: Kinds = {
    "device": (_name, "a text"),
    **dict.fromkeys(("cores_at_most", "cores_at_least", "memory_gib_at_least"), (_number, "a number")),
}
"""What can be asked of a machine."""
_PLACES: Kinds = {
    axis: (_whole, "a list of whole numbers") if axis in COUNTED else (_number, "a list of numbers") for axis in LABELS
}
AXES: Kinds = {
    "model": (_names, "a list of names"),
    **{axis: (_list_of(kind), said) for axis, (kind, said) in _PLACES.items()},
    **{axis: (_places(_PLACES[axis][0]), f"{_PLACES[axis][1]}, or a table of {', '.join(SEARCHED)}") for axis in FOUND},
    **dict.fromkeys(("replicas", "threads"), (_list_of(_whole), "a list of whole numbers")),
    "dtype": (_list_of(_name), "a list of names"),
    "beside": (_list_of(_beside), "a list of 'none' and tables, as { model = 'opt-1.3b', batch_size = 4 }"),
    "options": (_option_lists, "a table of lists"),
    "prompt_tokens": (_whole, "a whole number"),
    "output_tokens": (_whole, "a whole number"),
    "gate": (_gates, "a table of tolerances, or a list of metrics"),
    "slo": (_limits, f"a table of {', '.join(LIMITS)}, in milliseconds"),
    "percentiles": (_list_of(_number), "a list of numbers"),
    "missing_meter": (MISSING_METER.__contains__, " or ".join(map(repr, MISSING_METER))),
}
"""What can be set of a sweep."""


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """What one kind of machine sweeps: the first whose conditions all hold is used."""

    when: Mapping[str, str | int | float]
    sweep: Mapping[str, Mapping[str, Any]]

    def matches(self, machine: Machine) -> bool:
        """Whether all its conditions hold; a fact that isn't known holds for none."""
        known = machine.flat()
        for condition, asked in self.when.items():
            if condition == "device":
                if str(asked).casefold() not in machine.device.casefold():
                    return False
                continue
            name, _, bound = condition.rpartition("_at_")
            value = known.get(name)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                return False
            if not (value <= float(asked) if bound == "most" else value >= float(asked)):
                return False
        return True


@dataclass(frozen=True, slots=True)
class Undeclared:
    """A sweep that is set for a machine and that no suite declares."""

    line: str
    holds: bool
    """Whether it is of the table that holds on this machine."""
    close: bool
    """Whether a declared sweep has almost this name: `replicas` and `replica-energy` are two."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is set for a project. A flag on the command line wins over what is set here."""

    engine: str | None = None
    """Its name. Default: the best that this machine has."""
    engine_options: Mapping[str, OptionValue] = field(default_factory=dict)
    """Of that engine, written behind its name as on the command line; another that is asked for there has none."""
    dtype: str = "float32"
    threads: int = 1
    baselines: str = "baselines"
    suites: tuple[str, ...] = ()
    """The folders that hold every suite of the project: a run of them all is a run of the whole project.
    Default: pytest's `testpaths`, or else the project's root."""
    tolerance: str = "asked"
    """Recording a metric whose noise needs more than the suite asks for: `asked` refuses, `supported` takes that."""
    baseline_launches: int = LEAST_LAUNCHES
    max_launches: int = 16
    rounds: int = 4
    round_s: float = 0.1
    traffic_s: float = 5.0
    """Of requests that arrive one by one: the least length of the steady state over which they are counted."""
    window_s: float = 3.0
    """Over which joules are counted, in each launch of a case."""
    lead_in_s: float = 1.5
    """Of the load before that window: a mean of power looks back for a second."""
    sensor_seen_s: float | None = None
    """Of each period of a GPU's energy counter, what its sensor sees, where `slmperf doctor` found that it works part
    time. Default: all of it.
    """
    missing_meter: str | None = None
    """What becomes of joules where nothing tells them: `red` or `skip`. Default: see `without_meter`."""
    void_retries: int = 4
    answer_limit_s: float = 600.0
    lock_wait_s: float = 600.0
    order_seed: int | None = None
    """Makes the random order of arms, configurations and cases the same in every run; None draws it anew."""
    machine: tuple[MachineSettings, ...] = field(default=())

    def sweep_on(self, name: str, machine: Machine) -> Mapping[str, Any]:
        """What this machine's settings say of a sweep; empty where they say nothing."""
        kind = self._holding(machine)
        return kind.sweep.get(name, {}) if kind else {}

    def where_on(self, name: str, machine: Machine) -> str:
        """Where that stands, as an error names it."""
        kind = self._holding(machine)
        return f"[tool.slmperf] machine[{self.machine.index(kind)}] sweep.{name}" if kind else ""

    def _holding(self, machine: Machine) -> MachineSettings | None:
        return next((kind for kind in self.machine if kind.matches(machine)), None)

    def undeclared(self, sweeps: Collection[str], machine: Machine) -> list[Undeclared]:
        """What is set of sweeps that are none of these; `machine` is the present one."""
        holding = self._holding(machine)
        found = []
        for place, kind in enumerate(self.machine):
            for name in sorted(kind.sweep.keys() - set(sweeps)):
                close = get_close_matches(name, sorted(sweeps), n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(sweeps)) or 'none'}"
                line = f"[tool.slmperf] machine[{place}] sets sweep.{name}, and no suite here declares it; {hint}"
                mistyped = bool(get_close_matches(name, sweeps, n=1, cutoff=MISTYPED))
                found.append(Undeclared(line, holds=kind is holding, close=mistyped))
        return found

    @property
    def later_gates(self) -> gate.Policy:
        """How a gate will judge by what is recorded now; each metric then has its own tolerance."""
        return gate.Policy(tolerance=DEFAULT_TOLERANCE, max_launches=self.max_launches, design="stored")

    def says_of_meter(self, sweep: Sweep) -> str | None:
        """What the suite, or else the project, sets as `missing_meter`; None where neither does."""
        return sweep.missing_meter or self.missing_meter

    def without_meter(self, sweep: Sweep, machine: Machine) -> str:
        """`red` or `skip`: what becomes of a sweep's joules on this machine where nothing tells them.

        A GPU has a meter, and one that is missing is a fault; most machines without a GPU have none.
        """
        return self.says_of_meter(sweep) or ("red" if machine.kind == "cuda" else "skip")


_BOUNDS: Mapping[str, tuple[float, float]] = {
    "threads": (1, 4096),
    "baseline_launches": (LEAST_LAUNCHES, MOST_LAUNCHES),
    "max_launches": (gate.FIRST_LOOK, MOST_LAUNCHES),
    "rounds": (1, 1000),
    "round_s": (0.001, 3600),
    "traffic_s": (0.1, LONGEST_S),
    "window_s": (0.1, LONGEST_S),
    "lead_in_s": (0, LONGEST_S),
    "sensor_seen_s": (0.001, LONGEST_S),
    "void_retries": (0, 1000),
    "answer_limit_s": (0.1, LONGEST_S),
    "lock_wait_s": (0, LONGEST_S),
    "order_seed": (0, 2**63 - 1),
}


def read_settings(root: Path) -> Settings:
    """Settings of the project in this folder; the defaults where it has no pyproject.toml or no `[tool.slmperf]`.

    Raises UsageError that names the file, the field and what it takes.
    """
    path = root / "pyproject.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is no text in UTF-8: {error.reason}") from error
    try:
        tools = tomllib.loads(text).get("tool", {})
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, and an int of too many digits
        raise UsageError(f"{path}: {error}") from error
    table = tools.get("slmperf", {}) if isinstance(tools, dict) else tools
    if not isinstance(table, dict):
        raise UsageError(f"{path}: tool.slmperf is a table: [tool.slmperf]")
    settings = settings_of(table, f"{path} [tool.slmperf]")
    for folder in settings.suites:
        if not (root / folder).is_dir():
            raise UsageError(f"{path} [tool.slmperf]: suites = {folder!r}: there is no folder {root / folder}")
    return settings


def settings_of(table: Mapping[str, Any], where: str) -> Settings:
    """Settings from a parsed table; `where` is what an error names."""
    known = [item.name for item in fields(Settings) if item.name != "engine_options"]
    _refuse_unknown(table, known, where)
    alone = {name: value for name, value in table.items() if name not in ("machine", "suites")}
    values = {name: _checked(name, value, where) for name, value in alone.items()}
    suites = table.get("suites", [])
    if not _list_of(_name)(suites):
        raise UsageError(f"{where}: suites = {suites!r}; it takes a list of folders")
    machines = table.get("machine", [])
    if not isinstance(machines, list):
        raise UsageError(f"{where}: machine is an array of tables: [[tool.slmperf.machine]]")
    kinds = tuple(_machine_settings(kind, f"{where} machine[{place}]") for place, kind in enumerate(machines))
    if "engine" in values:
        values["engine"], values["engine_options"] = _engine(values["engine"], f"{where}: engine")
    return replace(Settings(), **values, suites=tuple(suites), machine=kinds)


def _engine(text: str, where: str) -> tuple[str, Mapping[str, OptionValue]]:
    name, options = named_engine(where, text)
    if "slowed" in options:
        raise UsageError(f"{where} {text}: a loss is planted from the command line, --slmperf-engine={text}")
    for option, value in options.items():
        if why := flaw(value):
            raise UsageError(f"{where} {text}: {option}: {why}")
    return name, options


def _checked(name: str, value: Any, where: str) -> Any:  # noqa: ANN401 - a parsed file's value, of the field's type after
    if name in _BOUNDS:
        least, most = _BOUNDS[name]
        fraction = isinstance(least, float) or isinstance(most, float)
        if not ((_number if fraction else _whole)(value) and least <= value <= most):
            kind = "a number" if fraction else "a whole number"
            raise UsageError(f"{where}: {name} = {value!r}; it takes {kind} of at least {least:g}, at most {most:g}")
        return float(value) if fraction else int(value)
    if not _name(value):
        raise UsageError(f"{where}: {name} = {value!r}; it takes a text, without control characters")
    words = {"tolerance": TOLERANCES, "missing_meter": MISSING_METER}.get(name)
    if words and value not in words:
        raise UsageError(f"{where}: {name} = {value!r}; it takes {' or '.join(map(repr, words))}")
    return value


def _machine_settings(table: object, where: str) -> MachineSettings:
    if not isinstance(table, Mapping):
        raise UsageError(f"{where}: it takes a table with `when` and `sweep`")
    _refuse_unknown(table, ("when", "sweep"), where)
    when, sweeps = table.get("when", {}), table.get("sweep", {})
    if not isinstance(when, Mapping) or not isinstance(sweeps, Mapping):
        raise UsageError(f"{where}: `when` and `sweep` are tables")
    _refuse_other_kinds(when, CONDITIONS, f"{where} when")
    for name, axes in sweeps.items():
        if not isinstance(axes, Mapping):
            raise UsageError(f"{where} sweep: {name} is a table of {', '.join(AXES)}")
        _refuse_other_kinds(axes, AXES, f"{where} sweep.{name}")
    return MachineSettings(when, sweeps)


def _refuse_other_kinds(given: Mapping[str, Any], kinds: Kinds, where: str) -> None:
    _refuse_unknown(given, kinds, where)
    for name, value in given.items():
        is_of_kind, said = kinds[name]
        if not is_of_kind(value):
            raise UsageError(f"{where}: {name} = {value!r}; it takes {said}")


def _refuse_unknown(given: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
            raise UsageError(f"{where}: unknown field {name!r}{hint}")
