"""The documents' examples, page by page: its files are written, its commands run, its output is what it shows."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from neighbours import without
from sybil import Document, Region, Sybil
from sybil.parsers.markdown import CodeBlockParser

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "index.md"
PAGES = (
    ROOT / "README.md",
    TUTORIAL,
    *(ROOT / "docs" / name for name in ("suites.md", "energy.md", "testing.md", "traffic.md")),
)
AFTER_THE_TUTORIAL = tuple(ROOT / "docs" / name for name in ("baselines.md", "compare.md", "import.md", "verdicts.md"))
"""Pages that go on with the tutorial's suite."""
SIMULATED = "fake:launch_noise=0.002"
"""What a command measures that names no engine: the real one takes a quiet machine and minutes."""
SPACED = re.compile(r"--slmperf-(?:engine|baselines|against|tier|budget|report) (?=[\w/.\"'$])")
"""An option with its value after a space: pytest takes an existing path there for a test's, and may lose its root."""
FILE = re.compile(r"# (?P<name>[\w./-]+\.(?:py|toml))(?P<more>, continued)?\n")


SPANS = re.compile(r"[\d.]+ (?:s|min)\b")
"""How long something took."""


class Reader:
    """Somebody who does in an empty folder what a page says, from top to bottom."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commands = 0
        self.output = ""
        """Of the last command."""

    def write(self, example) -> None:
        """Write a block that names its file in the first line, or add it to that file; execute one that names none."""
        named = FILE.match(example.parsed)
        if named is None:
            exec(compile(example.parsed, f"{example.path}:{example.line}", "exec"), {})  # noqa: S102 - it is our own
            return
        path = self.folder / named["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text(encoding="utf-8") if named["more"] else ""
        path.write_text(before + example.parsed, encoding="utf-8")
        if path.suffix == ".toml":
            tomllib.loads(path.read_text(encoding="utf-8"))
        else:
            compile(path.read_text(encoding="utf-8"), str(path), "exec")

    def follow(self, example) -> None:
        """Run each command of a block, and find the lines below it in its output, in their order."""
        for session in re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)[1:]:
            command, *expected = session.rstrip().splitlines()
            self.commands += 1
            passes = not any("failed" in line or "regressed" in line for line in expected)
            self.output = output = self.run(command, passes=passes)
            lines = iter(output.splitlines())
            for line in expected:
                pattern = re.compile(".*".join(map(re.escape, line.split("…"))))
                assert any(pattern.fullmatch(real.rstrip()) for real in lines), f"no {line!r} in:\n{output}"

    def find(self, example) -> None:
        """Find a block's words, but for how long something took, in what the last command printed."""
        words = SPANS.split(" ".join(example.parsed.split()))
        assert re.search(SPANS.pattern.join(map(re.escape, words)), " ".join(self.output.split())), self.output

    def run(self, command: str, *, passes: bool) -> str:
        """What a command prints. It ends with 0 if it passes, and with 1 if not."""
        words = shlex.split(command, comments=True)
        if "--slmperf" in words and not any(word.startswith("--slmperf-engine=") for word in words):
            words.append(f"--slmperf-engine={SIMULATED}")
        environment = {**os.environ, "COLUMNS": "110", "PYTEST_ADDOPTS": shlex.join(without())}
        here = Path(sys.executable).parent
        done = subprocess.run(
            [here / words[0], *words[1:]],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        output = f"$ {command}\n{done.stdout}{done.stderr}"
        assert done.returncode == int(not passes), output
        return output


def shown_code(document: Document) -> list[Region]:
    """The blocks of a page that a reader would copy."""
    reader: Reader = document.namespace["reader"]
    parsers = {"python": reader.write, "toml": reader.write, "console": reader.follow, "text": reader.find}
    return [region for language, use in parsers.items() for region in CodeBlockParser(language, use)(document)]


@pytest.mark.parametrize("page", [*PAGES, *AFTER_THE_TUTORIAL], ids=lambda page: page.name)
def test_a_page_works_from_top_to_bottom(page, tmp_path):
    """A reader who copies a page's files and commands, in its order, gets what it shows."""
    reader = Reader(tmp_path)
    if page in AFTER_THE_TUTORIAL:
        _, _, suite = TUTORIAL.read_text(encoding="utf-8").partition("```python\n")
        (tmp_path / "test_decode.py").write_text(suite.partition("```")[0], encoding="utf-8")

    def parse(document: Document) -> list[Region]:
        document.namespace["reader"] = reader
        return shown_code(document)

    for example in Sybil(parsers=[parse]).parse(page).examples():
        example.evaluate()
    if not reader.commands:
        reader.run("pytest --slmperf --slmperf-no-gate", passes=True)


ALL_PAGES = pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))], ids=lambda page: page.name
)


@ALL_PAGES
def test_an_option_and_its_value_are_one_word(page):
    """What a reader copies works with any path."""
    assert SPACED.findall(page.read_text(encoding="utf-8")) == []


@ALL_PAGES
def test_a_benchmark_that_made_a_figure_is_there(page):
    """Benchmarks take minutes to hours, so they don't run here; but they exist, and take the options that are shown."""
    for script, arguments in re.findall(r"python (benchmarks/\w+\.py)([^`\n)]*)", page.read_text(encoding="utf-8")):
        source = (ROOT / script).read_text(encoding="utf-8")
        assert [option for option in re.findall(r"--[\w-]+", arguments) if f'"{option}"' not in source] == []
