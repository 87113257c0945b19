"""Projects with and without a recorded baseline."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy  # noqa: F401, ICN001 - pytester forgets what a run imported, and numpy can't be imported twice
import pytest
from metered import MeteredProject
from neighbours import without
from nvml_fixtures import skip_unless_built
from projects import ENGINE, SETTINGS, SUITE, Project

import pytest_slmperf.plugin.session  # noqa: F401 - for the same reason, and because it takes a second


@pytest.fixture
def fresh(pytester: pytest.Pytester) -> Project:
    """A project without a baseline."""
    return Project(pytester.path, pytester)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The baselines of the suite above, recorded once."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "pyproject.toml").write_text(SETTINGS)
    (folder / "test_suite.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", *without(), "--slmperf", "--slmperf-engine", ENGINE]
    done = subprocess.run([*command, "--slmperf-accept"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return folder / "baselines"


@pytest.fixture
def project(fresh: Project, recorded: Path) -> Project:
    """A project with a recorded baseline."""
    shutil.copytree(recorded, fresh.path / "baselines")
    return fresh


@pytest.fixture(scope="module")
def module_project(tmp_path_factory: pytest.TempPathFactory, recorded: Path) -> Project:
    """The same, shared by the tests of a module."""
    folder = tmp_path_factory.mktemp("module")
    shutil.copytree(recorded, folder / "baselines")
    return Project(folder)


@pytest.fixture(scope="session")
def recorded_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Project]:
    """Makes a project of a kind that runs over the stand-in driver, with a baseline that several tests take `again`.

    It takes the kind, and what records: that gives what the run said.
    """

    def made(kind, record=lambda project: project.run("--slmperf-accept")):
        skip_unless_built()
        project = kind(tmp_path_factory.mktemp("recorded"))
        said = record(project)
        assert said.endswith("exit code 0"), said
        assert list(project.path.glob("baselines/*/*/*.json")), said
        return project

    return made


@pytest.fixture(scope="session")
def metered(recorded_once: Callable[..., Project]) -> MeteredProject:
    """A project that gates joules on the stand-in driver, with its baseline."""
    return recorded_once(MeteredProject)
