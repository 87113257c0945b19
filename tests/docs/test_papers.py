"""The page that holds the papers' claims against what was measured."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")


def test_a_command_names_files_that_exist():
    """Every suite and test that a row sends its reader to is there."""
    named = re.findall(r"(?:suites|tests)/[\w/]+\.py", PAGE)
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("row", [line for line in PAGE.splitlines() if line.startswith("| ") and "---" not in line])
def test_a_claim_is_measured_or_says_that_it_is_not(row):
    """A row has a claim, its place, what was found, on what and how: none of it is left empty."""
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == 5
    assert all(cells)
