"""The environment `lowest` of tox.ini has the bounds of pyproject.toml."""

import tomllib
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OTHER_ENVIRONMENTS = {"transformers", "vllm", "zeus", "ray"}
"""Extras whose tests have an environment of their own, with one version."""


def test_the_lowest_versions_are_what_is_tested():
    """A bound that is lowered or added, of the package or of a light extra, is tested as it is."""
    tox = ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    pinned = {Requirement(line) for line in tox["testenv:lowest"]["deps"].split()}
    extras = PROJECT["optional-dependencies"]
    bounds = {
        *PROJECT["dependencies"],
        *(bound for extra in extras.keys() - OTHER_ENVIRONMENTS for bound in extras[extra]),
    }
    # 1.26 and 1.26.0 are one version
    assert pinned == {Requirement(bound.replace(">=", "==")) for bound in bounds}
