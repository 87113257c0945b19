"""What a user installs: the wheel and the sdist, built from this tree and used from somewhere else."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = (
    "pytest_slmperf",
    "suites",
    "tests",
    "docs",
    "benchmarks",
    "baselines",
    "conftest.py",
    "tox.ini",
    "mkdocs.yml",
)
PROJECT = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", ".gitignore")
REQUIREMENT = re.compile(r"[\w.-]+")


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command's outcome, without what pytest and Python were told for this run."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON"))}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", check=False)


def build(source: Path, target: str, folder: Path) -> Path:
    """The one file that hatchling builds there."""
    done = run(sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", folder, cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.tar.gz" if target == "sdist" else "*.whl")
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The source distribution of this tree, built from a copy: a build leaves nothing behind."""
    copy = tmp_path_factory.mktemp("source")
    for name in (*SOURCE, *PROJECT):
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            shutil.copy(path, copy)
    return build(copy, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel, built from the source distribution as an installer would."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    return build(source, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The scripts of an environment that holds the wheel and what it declares to need, and nothing else."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    for name in declared(wheel):
        link(name, packages)
    scripts = environment / "bin"
    arguments = ("install", "--no-deps", "--no-index", "--disable-pip-version-check", wheel)
    done = run(sys.executable, "-m", "pip", "--python", scripts / "python", *arguments, cwd=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return scripts


def declared(wheel: Path) -> set[str]:
    """The distributions that the wheel needs, and those that they need, without any extra."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().split("\n\n")[0].splitlines()
    open_ends = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    found: set[str] = set()
    while open_ends:
        requirement, _, condition = open_ends.pop().partition(";")
        name = REQUIREMENT.match(requirement)[0].lower()
        if "extra" in condition or name in found:
            continue
        try:
            open_ends += metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # its condition does not hold here
            continue
        found.add(name)
    return found


def link(name: str, packages: Path) -> None:
    """Have an installed distribution in another environment, too."""
    distribution = metadata.distribution(name)
    tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        (packages / top).symlink_to(distribution.locate_file(top))


def test_the_wheel_holds_what_a_user_needs(wheel):
    """The wheel holds the schemas, the trace, the suites, the licence and the mark of its types, and no test."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = {name.removeprefix("pytest_slmperf/") for name in names if name.startswith("pytest_slmperf/")}
    assert {f"schemas/{name}.json" for name in ("baseline", "comparison", "doctor", "report")} <= package
    assert {"traces/README.md", "traces/azure_llm_2023_conv_excerpt.csv", "py.typed", "suites/__init__.py"} <= package
    assert {f"suites/{path.name}" for path in (ROOT / "suites").glob("test_*.py")} <= package
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"pytest_slmperf"}


def test_the_sdist_holds_what_a_developer_needs(sdist):
    """The source distribution holds the tests, the documents, the suites and what runs them."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"tests/test_packaging.py", "docs/index.md", "suites/test_decode.py", "tox.ini", "LICENSE"} <= names


def test_the_shipped_suites_run_from_anywhere(installed, tmp_path):
    """With the wheel alone, `--pyargs pytest_slmperf.suites` finds every suite, from any folder, and measures them."""
    pytest_of = (installed / "python", "-m", "pytest", "--slmperf", "--slmperf-no-gate", "--slmperf-engine", "fake")
    done = run(*pytest_of, "--collect-only", "--pyargs", "pytest_slmperf.suites", cwd=tmp_path)
    for suite in (ROOT / "suites").glob("test_*.py"):
        assert f"slmperf: {suite.stem.removeprefix('test_').replace('_', '-')}: " in done.stdout
    options = ("--slmperf-report", "report.json", "--pyargs", "pytest_slmperf.suites.test_decode")
    done = run(*pytest_of, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "slmperf decode: measured, not judged" in done.stdout
    assert (tmp_path / "report.json").exists()


def test_the_command_line_says_its_version(installed, wheel, tmp_path):
    """`slmperf --version` is the version that the wheel is named by."""
    done = run(installed / "slmperf", "--version", cwd=tmp_path)
    assert done.stdout == f"slmperf {wheel.name.split('-')[1]}\n"


def test_without_an_engine_the_way_to_one_is_said(installed, tmp_path):
    """With no engine installed, a run says which command installs one, and is no success."""
    done = run(installed / "python", "-m", "pytest", "--slmperf", "--pyargs", "pytest_slmperf.suites", cwd=tmp_path)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "pip install 'pytest-slmperf[ctranslate2]'" in done.stderr
