"""What becomes of a verb whose answer nobody can read."""

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from pytest_slmperf.core.baselines.revision import Recording
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.run.store import BaselineStore

CASE = "decode/opt-125m/batch=1"
FOLDER = "baselines/nvidia-h100/580.65"
AB = ("ab", "same", "same", "--engine=fake", "--batch-size=4", "--budget=0.001")
PROGRAM = [sys.executable, "-c", "import sys; from pytest_slmperf.cli import main; sys.exit(main())"]
VERBS = {
    "help": ("--help",),
    "version": ("--version",),
    "list": ("baselines", "list"),
    "show": ("baselines", "show", CASE),
    "matrix": ("baselines", "matrix"),
    "compare": ("compare", FOLDER, FOLDER),
    "ab": AB,
    "doctor": ("doctor", "--seconds=0", "--engine=fake"),
}


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Runs the program in a project with a baseline, where output is buffered as usual, unless cli otherwise."""
    sample = Sample.of([[4000.0 + launch] * 3 for launch in range(20)])
    measured = Measurement(CASE, {"engine": "vllm"}, {"output_throughput": sample})
    recording = Recording([measured], {(CASE, "output_throughput"): 0.03}, "2026-01-01T00:00:00Z")
    BaselineStore(tmp_path / "baselines").accept(Machine("NVIDIA H100", "580.65"), [("vllm", "decode", recording)])
    monkeypatch.chdir(tmp_path)

    def run(words, stdout, **environment):
        """The exit code, and what was printed on standard error."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            [*PROGRAM, *words], stdout=stdout, stderr=subprocess.PIPE, encoding="utf-8", check=False,
            env={**inherited, **environment},
        )  # fmt: skip
        return done.returncode, done.stderr

    return run


@pytest.mark.parametrize("environment", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
def test_a_full_disk_is_one_line_and_no_pass(cli, words, environment):
    """`slmperf … > file` on a disk without room ends with 1 and one line that says why."""
    with Path("/dev/full").open("w") as full:
        code, said = cli(words, full, **environment)
    *progress, last = said.splitlines()
    assert (code, last) == (1, "slmperf: standard output can't be written: No space left on device")
    assert all(line.startswith("slmperf: ") for line in progress)


@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
def test_a_reader_that_went_away_is_no_news(cli, words):
    """`slmperf … | head` ends as programs do whose pipe is closed: quietly, and not with a pass."""
    unread, written = os.pipe()
    os.close(unread)
    with closing(os.fdopen(written, "wb", buffering=0)) as pipe:
        code, said = cli(words, pipe)
    assert code == 128 + signal.SIGPIPE
    assert all(line.startswith("slmperf: ") for line in said.splitlines())
    assert "can't be written" not in said


def test_an_output_that_is_closed_is_told_before_anything_is_measured(tmp_path):
    """`slmperf ab … >&-` measures nothing: nobody could read what came of it."""
    command = ["/bin/sh", "-c", '"$@" >&-', "sh", *PROGRAM, *AB]
    done = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "slmperf: standard output is closed\n")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("doctor", "--seconds=0", "--engine=fake", "--json"), (0, 1)),
        (("compare", FOLDER, FOLDER), (0,)),
        (("compare", "nowhere", FOLDER), (4,)),
        (AB, (1,)),
    ],
    ids=["doctor", "compare", "wrong usage", "ab"],
)
@pytest.mark.parametrize("stderr", ["full", "closed"])
@pytest.mark.usefixtures("cli")
def test_the_answer_comes_although_nothing_can_be_said_beside_it(words, code, stderr):
    """A standard error that is full or closed costs neither the answer nor the exit code."""
    redirect = {"full": "2>/dev/full", "closed": "2>&-"}[stderr]
    command = ["/bin/sh", "-c", f'"$@" {redirect}', "sh", *PROGRAM, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    assert done.returncode in code
    assert bool(done.stdout) == (code != (4,))


def test_reports_are_written_although_the_output_is_not(cli, tmp_path):
    """What was measured is not lost with the terminal."""
    with Path("/dev/full").open("w") as full:
        code, _ = cli([*AB, "--report=a.json", "--report=b.md"], full)
    assert code == 1
    assert json.loads((tmp_path / "a.json").read_text())["sweeps"]
    assert (tmp_path / "b.md").read_text()


def test_a_terminal_without_these_characters_is_written_to_all_the_same(cli, tmp_path):
    """In a locale whose encoding has no × and no →, the answer comes with escapes in their place."""
    with (tmp_path / "printed").open("w") as file:
        code, said = cli(VERBS["compare"], file, PYTHONIOENCODING="ascii")
    assert (code, said) == (0, "")
    assert r"20\xd73 vs 20\xd73" in (tmp_path / "printed").read_text()
