"""Options that only one engine knows, checked by the fields of a dataclass before anything is loaded."""

from collections.abc import Collection
from dataclasses import fields
from types import NoneType
from typing import TypeVar, get_args, get_type_hints

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineUnavailable

Kind = TypeVar("Kind")


def options_of(kind: type[Kind], spec: EngineSpec) -> Kind:
    """A spec's options as a value of this dataclass, whose fields are of one type each, or of that or None.

    Raises EngineUnavailable for an option that it has no field for, and for one of another type.
    """
    hints = get_type_hints(kind)
    known = {field.name: _given_type(hints[field.name]) for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    for name, value in spec.options.items():
        if name not in known:
            raise EngineUnavailable(f"{spec.engine} has no option {name!r}; it knows {', '.join(known)}")
        if type(value) not in ((int, float) if known[name] is float else (known[name],)):  # True is no number
            raise EngineUnavailable(f"{spec.engine}: {name}={value!r} must be of type {known[name].__name__}")
    return kind(**spec.options)


def refuse_unknown(spec: EngineSpec, name: str, chosen: str, known: Collection[str]) -> None:
    """Raises EngineUnavailable for a choice that the engine doesn't know, with those that it does."""
    if chosen not in known:
        raise EngineUnavailable(f"{spec.engine}: {name}={chosen!r}; it knows {', '.join(known)}")


def _given_type(hint: type) -> type:
    """What an option may be of: a field's type, without None, which cannot be given."""
    (only,) = (kind for kind in (get_args(hint) or (hint,)) if kind is not NoneType)
    assert isinstance(only, type)  # noqa: S101 - a field of ours
    return only
