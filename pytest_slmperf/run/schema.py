"""Reads JSON from outside: its text, the published JSON Schemas, and the first thing in a document that breaks one."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any, NoReturn

import jsonschema_rs

from pytest_slmperf.core.flaw import BEYOND, flaw


def parsed(text: bytes, *, finite: bool = True) -> Any:  # noqa: ANN401 - any JSON
    """A document as it is written, not checked any further. Without `finite`, Python's NaN and Infinity are numbers.

    Raises ValueError that says what and where, for text that is no JSON and for JSON that nothing here can hold: a name
    twice in one object, a number that is none, one of more digits than Python reads, and what is nested too deeply.
    """
    try:
        return json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_no_twins,
            parse_constant=_no_constant if finite else float,
            parse_int=_whole,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        conflict = " (git's conflict markers: keep one side)" if b"\n<<<<<<< " in text else ""
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"not JSON at {place}: {error.msg}{conflict}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {short(repr(twin))} occurs twice in one object")
    return mapping


def _no_constant(literal: str) -> NoReturn:
    raise ValueError(f"{literal} is no JSON, and no sample has such a value")


def _whole(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # it has more than sys.get_int_max_str_digits()
        raise ValueError(f"{short(digits)}: {BEYOND}") from None


def violation(schema: str, document: Any) -> str | None:  # noqa: ANN401 - any JSON
    """What in a document breaks a schema of `schemas/` (`report`, …), as `$.field: why`; None where nothing does.

    Before that, what JSON can spell and nothing here can hold: half a character, and a number beyond a float's.
    """
    unusable = next(_unusable(document), None)
    if unusable:
        return unusable
    try:
        error = next(_validator(schema).iter_errors(document), None)
    except ValueError:
        return "$: nested too deeply"
    return f"{json_path(error.instance_path)}: {short(error.message)}" if error else None


def _unusable(document: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    """The names and values that no text and no number can be, each as `$.field: why`."""
    left: list[tuple[Any, tuple[str | int, ...]]] = [(document, ())]
    while left:  # deeper than Python's own stack
        value, at = left.pop()
        if isinstance(value, Mapping):
            yield from (f"{json_path(at)}: in the name {name!r}: {why}" for name in value if (why := flaw(name)))
            left.extend((inside, (*at, name)) for name, inside in value.items())
        elif isinstance(value, (list, tuple)):
            left.extend((inside, (*at, place)) for place, inside in enumerate(value))
        elif why := flaw(value):
            yield f"{json_path(at)}: {why}"


def json_path(parts: Iterable[str | int]) -> str:
    """`$.cases["decode/opt-125m/batch=1"].points[0]`."""

    def step(part: str | int) -> str:
        if isinstance(part, str) and part.isidentifier():
            return f".{short(part)}"
        return f"[{short(json.dumps(part, ensure_ascii=False))}]"

    return "$" + "".join(map(step, parts))


def short(message: str) -> str:
    """A message that may quote a document of any size, with its middle left out where it is long."""
    return message if len(message) <= 300 else f"{message[:140]} … {message[-140:]}"


@cache
def _validator(schema: str) -> jsonschema_rs.Validator:
    text = resources.files("pytest_slmperf").joinpath("schemas", f"{schema}.json").read_text(encoding="utf-8")
    return jsonschema_rs.validator_for(json.loads(text), validate_formats=True)
