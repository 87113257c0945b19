"""Which cases the selected tests look at: only those are measured."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass, field
from glob import iglob
from typing import TYPE_CHECKING, TypeAlias

from pytest_slmperf.core.sweeps.sweep import Binding, Look, Sweep
from pytest_slmperf.core.sweeps.variant import Setting, Variant
from pytest_slmperf.plugin import binding_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    import pytest

Looks: TypeAlias = set[Look] | None
"""Coordinates of the cases that tests look at; None for all cases."""


@dataclass(frozen=True)
class Selection:
    """What a set of tests looks at."""

    sweeps: dict[Sweep, Looks] = field(default_factory=dict)
    everything: bool = False
    """A test doesn't say which sweep it looks at: it may be any."""


def names_files(config: pytest.Config) -> bool:
    """Whether pytest was asked for single files or tests, and not for folders or the project's `testpaths`."""
    declared = _declared(config)
    return any(
        "::" in argument or ((path := config.invocation_params.dir / argument).is_file() and path not in declared)
        for argument in config.args
    )


def _declared(config: pytest.Config) -> set[Path]:
    """What the project's `testpaths` name."""
    patterns, root = config.getini("testpaths"), config.rootpath
    found = (path for one in patterns for path in iglob(one, root_dir=root, recursive=True))  # noqa: PTH207 - as pytest
    return {root / path for path in found}


def ignored(config: pytest.Config) -> tuple[str, ...]:
    """`--ignore` and `--ignore-glob` as they were given, beside what the project's `addopts` leave out of every run."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    names = {"ignore": "--ignore", "ignore_glob": "--ignore-glob"}
    for option in names.values():
        parser.add_argument(option, action="append", default=[])
    always, _ = parser.parse_known_args(config.getini("addopts"))
    return tuple(
        f"{option}={value}"
        for name, option in names.items()
        for value in (getattr(config.option, name) or [])[len(getattr(always, name)) :]
    )


def chosen(config: pytest.Config) -> tuple[str, ...]:
    """Words of a command line that choose the same tests again, in the same project; -k is not among them."""
    option = config.option
    root = {"-c": option.inifilename, "--rootdir": option.rootdir}
    return (
        *(word for name, value in root.items() if value for word in (name, str(value))),
        *(getattr(option, "file_or_dir", None) or ()),  # --help is answered before the arguments are read
        *(("--pyargs",) if option.pyargs else ()),
        *(word for setting in option.override_ini or () for word in ("-o", setting)),
        *(("-m", option.markexpr) if option.markexpr else ()),
        *(f"--deselect={prefix}" for prefix in option.deselect or ()),
        *ignored(config),
        *(("--lf",) if getattr(option, "lf", False) else ()),
    )


def covers_project(config: pytest.Config, suites: Collection[str]) -> bool:
    """Whether a suite that wasn't collected is none of the project's: all that `[tool.slmperf]` names as its `suites`
    was asked for; where it names none, the root was, or all of the project's `testpaths`.

    Whoever asks for `suites` alone may have others in `gpu_suites`.
    """
    if config.args_source is config.ArgsSource.TESTPATHS and not suites:
        return True
    named = {(config.invocation_params.dir / argument).resolve() for argument in config.args}
    declared = {(config.rootpath / one).resolve() for one in suites} or _declared(config)
    wanted = {config.rootpath} if config.rootpath in named or not declared else declared
    return all(named & {path, *path.parents} for path in wanted)


def selection_of(items: Iterable[pytest.Item]) -> Selection:
    """What the tests look at. One that is bound to no sweep looks at all of every sweep that its module names."""
    sweeps: dict[Sweep, Looks] = {}
    everything = False
    for item in items:
        at = coordinates(item)
        if at is None:
            named = [value for value in vars(getattr(item, "module", object)).values() if isinstance(value, Sweep)]
            sweeps.update(dict.fromkeys(named))
            everything = everything or not named
            continue
        known = sweeps.setdefault(at.sweep, set())
        sweeps[at.sweep] = None if known is None or at.looks is None else known | at.looks
    return Selection(sweeps, everything)


@dataclass(frozen=True)
class Coordinates:
    """Where in a sweep a test stands."""

    sweep: Sweep
    binding: Binding
    """With the place and the settings that it is passed, as if it were bound to those alone."""
    looks: Looks


def coordinates(item: pytest.Item) -> Coordinates | None:
    """The sweep that a test is bound to, and where in it; None for any other test."""
    binding = binding_of(getattr(item, "function", None))
    if binding is None:
        return None
    sweep = binding.sweep
    passed = getattr(getattr(item, "callspec", None), "params", {})
    places = binding.places or ((passed[sweep.axis],) if sweep.axis in passed else None)
    settings = {**binding.settings, **{name: passed[name] for name in sweep.varied if name in passed}}
    return Coordinates(sweep, Binding(sweep, places, settings), _looks(sweep, places, settings))


def _looks(sweep: Sweep, places: tuple[float, ...] | None, settings: Mapping[str, Setting]) -> Looks:
    if places is None and not settings:
        return None
    of_engine = Variant(tuple(settings.items())).coordinates
    at = [{sweep.axis: place} for place in places] if places else [{}]
    return {frozenset({**of_engine, **one}.items()) for one in at}
