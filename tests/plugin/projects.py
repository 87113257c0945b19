"""A project with a suite, as a user would have it: run in this process, or in one of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import pytest
from neighbours import without

ENGINE = "fake:noise=0.002,launch_noise=0.002,seed=1"
SLOWED = f"{ENGINE},slowed=0.2"
UNDECIDED = "--slmperf-budget=0.001"
"""Ends a run after one launch, with verdicts that are red: for what is about any red verdict."""
BASELINE = "baselines/simulated/simulated/fake-decode.json"

SETTINGS = """
[tool.slmperf]
rounds = 2
max_launches = 8
order_seed = 1

[tool.pytest.ini_options]
filterwarnings = ["error"]
"""

SUITE = """
import pytest

from pytest_slmperf import StaticBatch, Sweep

DECODE = Sweep("decode", StaticBatch(prompt_tokens=16, output_tokens=16), batch_size=[1, 16],
               gate={"output_throughput": 0.03, "ttft_ms": 0.05})


@pytest.fixture(scope="module")
def decode(slmperf, slm_engine):
    return slmperf.measure(DECODE, slm_engine("opt-125m"))


@DECODE.each
def test_throughput(decode, batch_size):
    point = decode[batch_size]
    assert point.output_throughput >= point.baseline.output_throughput


@DECODE.each
def test_first_token(decode, batch_size):
    point = decode[batch_size]
    assert point.ttft_ms <= point.baseline.ttft_ms
"""


class Project:
    """A folder with a suite, settings and maybe a baseline."""

    def __init__(self, path: Path, pytester: pytest.Pytester | None = None) -> None:
        self.path = path
        self._pytester = pytester
        self.write("pyproject.toml", SETTINGS)
        self.write("test_suite.py", SUITE)

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def settings(self, *lines: str) -> None:
        """Add fields to [tool.slmperf]."""
        self.write("pyproject.toml", SETTINGS.replace("[tool.slmperf]", "\n".join(["[tool.slmperf]", *lines])))

    def baseline(self) -> Path:
        return self.path / BASELINE

    def again(self, folder: Path) -> Self:
        """A project of this kind in another folder, with the same baselines."""
        shutil.copytree(self.path / "baselines", folder / "baselines")
        return type(self)(folder)

    def gate(self, *args: str, engine: str = ENGINE, keep: tuple[str, ...] = ()) -> pytest.RunResult:
        """`pytest --slmperf` in this process."""
        return self.plain("--slmperf", "--slmperf-engine", engine, *args, keep=keep)

    def plain(self, *args: str, keep: tuple[str, ...] = ()) -> pytest.RunResult:
        """`pytest` in this process."""
        assert self._pytester
        return self._pytester.runpytest_inprocess(*without(keep), *args)

    def command(self, *args: str, keep: tuple[str, ...] = (), engine: str = ENGINE) -> list[str]:
        """`pytest --slmperf` as a command line of its own."""
        return [sys.executable, "-m", "pytest", *without(keep), "--slmperf", "--slmperf-engine", engine, *args]

    def apart(self, *args: str, keep: tuple[str, ...] = (), engine: str = ENGINE) -> str:
        """What it says in a process of its own; the last line is its exit code."""
        command = self.command(*args, keep=keep, engine=engine)
        # Under tox, pytest's cache would be tox's; pytester takes the variable away, too.
        env = {name: value for name, value in os.environ.items() if name != "TOX_ENV_DIR"}
        done = subprocess.run(command, cwd=self.path, capture_output=True, text=True, timeout=120, check=False, env=env)
        return f"{done.stdout}{done.stderr}\nexit code {done.returncode}"

    def start(
        self,
        *args: str,
        engine: str = ENGINE,
        to: int = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
        preexec_fn: Callable[[], None] | None = None,
    ) -> subprocess.Popen[str]:
        """The same, still running; `to` is where it writes."""
        return subprocess.Popen(
            self.command(*args, engine=engine),
            cwd=self.path,
            stdout=to,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {})},
            preexec_fn=preexec_fn,  # noqa: PLW1509 - the child is not forked from a thread
        )


def prose(result: pytest.RunResult) -> str:
    """What a run said, without the line breaks of its terminal."""
    return " ".join(result.stdout.str().split())


def engines_of(folder: Path) -> list[str]:
    """Processes of engines that a run in this folder started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode().replace("\0", " ")
            there = (process / "cwd").resolve()
        except OSError:  # it has ended by now
            continue
        if there == folder.resolve() and "bootstrap.py" in command:
            found.append(command)
    return found
