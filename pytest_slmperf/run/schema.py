"""The published JSON Schemas, and the first thing in a document that breaks one."""

import json
import math
from collections.abc import Iterable
from functools import cache, reduce
from importlib import resources
from typing import Any

import jsonschema_rs


def violation(schema: str, document: Any) -> str | None:  # noqa: ANN401 - any JSON
    """What in a document breaks a schema of `schemas/` (`report`, …), as `$.field: why`; None where nothing does."""
    try:
        error = next(_validator(schema).iter_errors(document), None)
    except UnicodeEncodeError as surrogate:
        return f"$: a text has half a surrogate pair ({surrogate.object[surrogate.start]!r}), which is no character"
    if error is None:
        return None
    value = reduce(lambda inside, part: inside[part], error.instance_path, document)  # error.instance has null for inf
    infinite = isinstance(value, float) and not math.isfinite(value)
    why = f"{value} is no number of JSON" if infinite else _short(error.message)
    return f"{json_path(error.instance_path)}: {why}"


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
