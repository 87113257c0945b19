"""The published JSON Schemas, and the first thing in a document that breaks one."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

import jsonschema_rs

from pytest_slmperf.core.flaw import flaw


def violation(schema: str, document: Any) -> str | None:  # noqa: ANN401 - any JSON
    """What in a document breaks a schema of `schemas/` (`report`, …), as `$.field: why`; None where nothing does.

    Before that, what JSON can spell and nothing here can hold: half a character, and a number beyond a float's.
    """
    unusable = next(_unusable(document), None)
    if unusable:
        return unusable
    try:
        error = next(_validator(schema).iter_errors(document), None)
    except ValueError as deep:
        return f"$: {deep}"
    return f"{json_path(error.instance_path)}: {_short(error.message)}" if error else None


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
            return f".{part}"
        return f"[{json.dumps(part, ensure_ascii=False)}]"

    return "$" + "".join(map(step, parts))


def _short(message: str) -> str:
    return message if len(message) <= 300 else f"{message[:140]} … {message[-140:]}"


@cache
def _validator(schema: str) -> jsonschema_rs.Validator:
    text = resources.files("pytest_slmperf").joinpath("schemas", f"{schema}.json").read_text(encoding="utf-8")
    return jsonschema_rs.validator_for(json.loads(text), validate_formats=True)
