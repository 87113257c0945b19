"""Draw docs/red-run.svg: the tutorial's suite on the simulated engine, with a tenth of its throughput taken away.

Needs `rich`, which nothing else here does.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
WIDTH = 104
ENGINE = "fake:launch_noise=0.002"
INDENT = 8
SLOWED = f"{ENGINE},slowed=0.1"


def tutorial_suite() -> str:
    """The first file of the tutorial."""
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    return re.search(r"```python\n# test_decode.py\n(.*?)```", page, re.DOTALL)[1]


def run(folder: Path, *arguments: str) -> str:
    """What `pytest --slmperf` prints in a folder, in colours."""
    command = [
        "-m",
        "pytest",
        "--slmperf",
        "-p",
        "no:randomly",
        "-p",
        "no:benchmark",
        "--color=yes",
        "--no-header",
        "-rN",
    ]
    done = subprocess.run(
        [sys.executable, *command, *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": str(WIDTH)},
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return done.stdout.decode()  # as it is: text mode would make a new line of every return


def last_seen(line: str) -> str:
    """What is left of a line that was written over, without the blanks that erased it."""
    return line.rpartition("\r")[2].lstrip() if "\r" in line else line


def wrapped(line: Text, console: Console) -> list[Text]:
    """A long line in parts, all but the first indented."""
    first, *rest = line.wrap(console, WIDTH - INDENT) if line.cell_len > WIDTH else [line]
    return [first, *(Text("E" + " " * (INDENT - 1), style="bold red") + part for part in rest)]


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "test_decode.py").write_text(tutorial_suite(), encoding="utf-8")
        run(folder, f"--slmperf-engine={ENGINE}", "--slmperf-accept")
        output = run(folder, f"--slmperf-engine={SLOWED}")
    finally:
        shutil.rmtree(folder)
    plain = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)  # a picture fetches nothing
    plain = plain.replace("Fira Code", "Menlo, Consolas, DejaVu Sans Mono, Liberation Mono")
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115, PTH123
    console.print(f"$ pytest --slmperf --slmperf-engine={SLOWED}", highlight=False)
    for line in output.split("\n"):
        for part in wrapped(Text.from_ansi(last_seen(line)), console):
            console.print(part)
    console.save_svg(str(ROOT / "docs" / "red-run.svg"), title="pytest --slmperf", code_format=plain)


if __name__ == "__main__":
    main()
