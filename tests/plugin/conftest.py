"""Projects with and without a recorded baseline."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy  # noqa: F401, ICN001 - pytester forgets what a run imported, and numpy can't be imported twice
import pytest
from metered import metered_baselines  # noqa: F401 - a fixture
from projects import ENGINE, SETTINGS, SUITE, Project, without

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
    command = [sys.executable, "-m", "pytest", *without(()), "--slmperf", "--slmperf-engine", ENGINE]
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
