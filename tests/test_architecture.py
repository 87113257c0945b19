"""Which room may import what: checked on the source, so that a wrong turn is red before it is a habit."""

import ast
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pytest_slmperf"
OWN = PACKAGE.name

HOMES = {
    "ctranslate2": {"engines/ctranslate2.py"},
    "huggingface_hub": {"engines/transformers.py"},
    "jsonschema_rs": {"run/schema.py"},
    "pynvml": {"meters/nvml.py"},
    "zeus": {"meters/zeus.py"},
    "safetensors": {"engines/transformers.py"},
    "tabulate": {"report/table.py"},
    "yaml": {"report/foreign/reading.py"},
    "ray": {"pool/ray.py"},
    "torch": {"engines/transformers.py"},
    "transformers": {"engines/transformers.py"},
    "filelock": {"run/lock.py"},
    # HTTP and its event loop: the client that measures, and the server that clients are tested against.
    "aiohttp": {"engines/openai.py", "testing/server/app.py", "testing/server/command.py", "testing/server/null.py"},
    "msgspec": {"engines/openai_api.py"},
    "yarl": {"engines/openai.py"},
    "uvloop": {"engines/streaming.py", "testing/server/command.py"},
    "trustme": {"testing/server/command.py"},
    # Arrays are a vocabulary, not a service: what resamples launches, a model's weights, the engine that is fed them,
    # and what a core reads and multiplies.
    "numpy": {
        "core/curves/frontier_change.py",
        "core/curves/knee.py",
        "core/curves/optimum.py",
        "core/curves/replication.py",
        "core/curves/resampling.py",
        "core/curves/slowdown.py",
        "core/judging/tolerance.py",
        "engines/ctranslate2.py",
        "engines/weights.py",
        "worker/roof.py",
    },
}
"""The one file that imports each third-party library; where there are more, why. The rim alone imports pytest's."""
RIM = {"pytest", "_pytest", "pluggy", "xdist", "pytest_benchmark"}
CORE_MAY = {"numpy", "scipy"}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at its top or later."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def third_party() -> dict[str, set[str]]:
    """Each library that is neither Python's nor ours, with the files of the package that import it."""
    files = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        for library in {name.partition(".")[0] for name in imported(path)} - sys.stdlib_module_names - {OWN}:
            files[library].add(path.relative_to(PACKAGE).as_posix())
    return dict(files)


def test_dependencies_point_down_only():
    """No room imports one above it."""
    check = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_library_is_imported_in_one_file():
    """A third-party library has one home, or a reason for each of its homes."""
    assert {library: files for library, files in third_party().items() if library not in RIM} == HOMES


@pytest.mark.parametrize("library", sorted(RIM))
def test_only_the_rim_knows_pytest(library):
    """Nothing but the plugin imports pytest or a plugin of it, so that all else can be used without."""
    assert {file for file in third_party().get(library, ()) if not file.startswith("plugin/")} == set()


def test_core_is_pure():
    """The core imports Python's library, numpy and scipy, and nothing of ours but itself."""
    allowed = sys.stdlib_module_names | CORE_MAY
    for path in (PACKAGE / "core").rglob("*.py"):
        for name in imported(path):
            assert name.partition(".")[0] in allowed or f"{name}.".startswith(f"{OWN}.core."), f"{path}: {name}"


def test_scipy_stats_is_imported_nowhere():
    """It takes longer to import than a gate to decide."""
    for path in PACKAGE.rglob("*.py"):
        assert not any(name.startswith("scipy.stats") for name in imported(path)), path


def test_what_is_not_asked_for_is_not_imported(tmp_path):
    """Switched off, a run of pytest imports at most four modules of ours, and none of numpy, scipy and the engines."""
    (tmp_path / "test_ordinary.py").write_text("def test_ordinary(): pass", encoding="utf-8")
    program = (
        "import sys, pytest\n"
        "assert pytest.main(['-p', 'pytest_slmperf.plugin', '-p', 'no:cacheprovider']) == 0\n"
        "print(sorted(sys.modules))"
    )
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    loaded = ast.literal_eval(done.stdout.splitlines()[-1])
    assert len([name for name in loaded if name.partition(".")[0] == OWN]) <= 4
    assert {"numpy", "scipy", "ctranslate2", "tabulate", "jsonschema_rs"}.isdisjoint(loaded)


def test_every_test_says_what_it_shows():
    """A docstring tells the behaviour that a red test is about: its name alone leaves too much to guess."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert silent == []
