"""The engine of another environment is measured with nothing of ours in it, and what it lacks is said."""

import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest
from foreign_engine import install

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineUnavailable, UsageError
from pytest_slmperf.core.launch import RoundPolicy
from pytest_slmperf.run.interpreter import interpreter
from pytest_slmperf.run.launch import run_launch

BROUGHT = ("ctranslate2", "ctranslate2.libs", "numpy", "numpy.libs", "yaml")
"""What `pip install ctranslate2` puts into an empty environment, as far as the engine imports it."""


@pytest.fixture
def bare(tmp_path):
    """An environment in which nothing is installed."""
    venv.create(tmp_path / "other env", with_pip=False, symlinks=True)
    return tmp_path / "other env"


def launch(python, engine="ctranslate2"):
    spec = EngineSpec(engine, "tiny-2x64", python=python and str(python))
    terms = {"arm": "baseline", "index": 0, "cores": None, "quantiles": (0.5,)}
    return run_launch(spec, (), RoundPolicy(answer_limit_s=60), **terms)


def test_an_environment_with_the_engine_alone_makes_its_weights_and_starts(bare, tmp_path, monkeypatch):
    """Whoever compares two versions installs the engine into the other environment, and none of our dependencies."""
    monkeypatch.setenv("SLMPERF_CACHE", str(tmp_path / "cache"))
    ours = Path(find_spec("numpy").origin).parents[1]
    (theirs,) = (bare / "lib").glob("python*/site-packages")
    for name in BROUGHT:
        if (ours / name).exists():
            (theirs / name).symlink_to(ours / name)
    record = launch(bare / "bin" / "python")
    assert record.facts.weights == "random"
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()] == [
        "tiny-2x64-ctranslate2-float32-v1"
    ]


def test_an_environment_without_the_engine_is_named_with_the_way_out(bare):
    """Of two environments, the error says which one lacks the engine, and what installs it."""
    with pytest.raises(EngineUnavailable) as raised:
        launch(bare / "bin" / "python")
    said = str(raised.value)
    assert said.startswith(f"ctranslate2 (tiny-2x64, float32; {bare}/bin/python) cannot be had here: ")
    assert "pip install 'pytest-slmperf[ctranslate2]'" in said


VERSIONED = """
from pytest_slmperf.core.engine import EngineFacts

class Engine:
    def __init__(self, spec): pass
    def start(self): return EngineFacts("{}", "cpu", "float32", "random", 100, 100)
    def stop(self): pass
"""


def test_an_engine_package_of_ones_own_is_each_environments(bare, tmp_path, monkeypatch):
    """A pull request to a serving repository compares the two versions of its engine package."""
    (theirs,) = (bare / "lib").glob("python*/site-packages")
    install(theirs, "served", VERSIONED.format("before"))
    install(tmp_path, "served", VERSIONED.format("after"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    versions = [launch(python, engine="served").facts.version for python in (bare / "bin" / "python", None)]
    assert versions == ["before", "after"]


# -- which interpreter a command line means


def test_a_path_is_taken_as_it_is_with_its_links_and_spaces(bare, monkeypatch):
    """The interpreter of an environment is a link to another's: following it would leave the environment."""
    python = bare / "bin" / "python"
    assert python.is_symlink()
    assert interpreter(str(python)) == str(python)
    monkeypatch.chdir(bare)
    assert interpreter("bin/python") == "bin/python"
    assert interpreter("./bin/python") == "./bin/python"
    monkeypatch.setenv("HOME", str(bare))
    assert interpreter("~/bin/python") == str(python)


def test_a_name_without_a_folder_is_looked_for_as_a_shell_does(monkeypatch):
    """`python3.12` is the one of the PATH."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert interpreter("python") == str(Path(sys.executable).parent / "python")


def test_an_environments_folder_is_answered_with_its_interpreter(bare):
    """The folder is what people remember; the message has the path to give instead."""
    with pytest.raises(
        UsageError, match=r"other env is the folder of an environment: its interpreter is .*/bin/python"
    ):
        interpreter(str(bare))


@pytest.mark.parametrize("text", ["/nowhere/python", "nonesuch", "~nobody-of-this-name/python", "/etc/passwd", "/proc"])
def test_what_cannot_be_executed_is_refused(text):
    """A path that leads nowhere, a file and a folder are no interpreters, and the message says where it looked."""
    with pytest.raises(UsageError, match=f"no such interpreter: {text}, looked for from /"):
        interpreter(text)
