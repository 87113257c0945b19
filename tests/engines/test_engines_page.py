"""The tables of docs/engines.md hold what there is."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.engines import ctranslate2, openai, transformers, vllm
from pytest_slmperf.engines.registry import BUILT_IN

PAGE = (Path(__file__).parents[2] / "docs" / "engines.md").read_text(encoding="utf-8")


def rows(header):
    """The rows below a table's header."""
    _, _, after = PAGE.partition(f"{header}\n")
    assert after, header
    return [row.split(" | ") for row in after.partition("\n\n")[0].splitlines()[1:]]


def test_every_model_is_in_the_table():
    """No name is missing, and none is shown that isn't known."""
    names = [name for row in rows("| family | names |") for name in re.findall(r"`([\w.-]+)`", row[1])]
    assert sorted(names) == sorted(SHAPES)


def test_every_engine_is_in_the_table():
    """In the order in which they are preferred."""
    assert [row[0].strip("| `") for row in rows("| name | what | installed by |")] == list(BUILT_IN)


@pytest.mark.parametrize(
    "engine", [ctranslate2, transformers, vllm, openai], ids=lambda engine: engine.__name__.rpartition(".")[2]
)
def test_every_option_is_in_the_table(engine):
    """Each engine's options are shown in the order of its fields."""
    name = engine.__name__.rpartition(".")[2]
    _, _, section = PAGE.casefold().partition(f"## {name}: types and options\n")
    table = section.partition("| option | |\n")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [field.name for field in fields(engine.Options)]
