"""Everything that reads a baseline or a report, beside everything that can be wrong with one."""

import os
import re
from contextlib import chdir
from pathlib import Path

import pytest

from pytest_slmperf.cli import main
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import SlmperfError
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import CaseOutcome, RunOutcome, SweepOutcome
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.core.verdict import Status, Verdict
from pytest_slmperf.report import document
from pytest_slmperf.run.stored import StoredCases

MACHINE = Machine("NVIDIA H100", "580.65", {"gpu_uuid": "GPU-1", "cores": 16})
CASE, OTHER = "decode/opt-125m/batch=1", "decode/opt-125m/batch=16"
STORED, REPORT = Path("baselines/nvidia-h100/580.65/vllm-decode.json"), Path("damaged.json")
KEY = {"engine": "vllm", "model": "opt-125m", "device": "cuda", "prompt_tokens": 128}
DIGITS = "9" * 5000
"""More than Python makes a number of (4,300)."""


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_a_report_that_never_ends_is_refused(tmp_path, capsys, make):
    """It is neither waited for nor read until the memory is full."""
    make(tmp_path / "report.json")
    assert main(["baselines", "accept", str(tmp_path / "report.json")]) == 4
    assert "report.json: it is no file" in capsys.readouterr().err


def nested(levels, opening="[", closing="]"):
    return f"{opening * levels}1{closing * levels}"


DAMAGES = {
    "empty": ("(?s).*", ""),
    "cut off": ("(?s)(.{400}).*", r"\1"),
    "in conflict": ("{", "{\n<<<<<<< HEAD\n"),
    "no UTF-8": ("H100", "\udcff"),
    "half a character": ("NVIDIA H100", r"\\ud83d"),
    "a name twice": ('"cores": 16', '"cores": 16, "cores": 16'),
    "not a number": ('"cores": 16', '"cores": NaN'),
    "infinite": ('"cores": 16', '"cores": 1e9999'),
    "400 digits": ('"cores": 16', f'"cores": {DIGITS[:400]}'),
    "5,000 digits": ('"cores": 16', f'"cores": {DIGITS}'),
    "5,000 digits in a sample": (r"\[4000\.0", f"[{DIGITS}"),
    "5,000 digits in a key": ('"prompt_tokens": 128', f'"prompt_tokens": -{DIGITS}'),
    "5,000 digits in a metric": ('"output_throughput"', f'"p{DIGITS}_ttft_ms"'),
    "a metric of no definition": ('"output_throughput"', '"speed"'),
    "300 arrays deep": ('"cores": 16', f'"cores": {nested(300)}'),
    "900 arrays deep": ('"cores": 16', f'"cores": {nested(900)}'),
    "100,000 arrays deep": ('"cores": 16', f'"cores": {nested(100_000)}'),
    "100,000 objects deep": ('"cores": 16', '"cores": ' + nested(100_000, '{"a":', "}")),
    "nothing but depth": ("(?s).*", nested(100_000)),
    "no object": ("(?s).*", "[]"),
}
"""What is replaced in the text, the first time that it occurs, and by what."""
ODD = {
    "5,000 digits in a case": (f'"{CASE}"', f'"{CASE}{DIGITS}"'),
    "5,000 digits in a driver": ('"580.65"', f'"580.{DIGITS}"'),
    "5,000 digits in a suite": ('"(suite|sweep)": "decode"', rf'"\1": "{DIGITS}"'),
}
"""What no schema forbids, and nobody writes."""
BASELINE_READERS = {
    "list": ("baselines", "list"),
    "show": ("baselines", "show", OTHER),
    "matrix": ("baselines", "matrix"),
    "retire": ("baselines", "retire", OTHER, "--reason=x"),
    "accept": ("baselines", "accept", "report.json"),
    "prune": ("baselines", "prune", "report.json"),
    "compare a folder": ("compare", "baselines", "report.json"),
    "compare a file": ("compare", "report.json", str(STORED)),
}
REPORT_READERS = {
    "accept": ("baselines", "accept", str(REPORT)),
    "prune": ("baselines", "prune", str(REPORT)),
    "compare A": ("compare", str(REPORT), "baselines"),
    "compare B": ("compare", "baselines", str(REPORT)),
}


def case(name):
    sample = Sample.of([[4000.0, 4000.0 + launch * 7 % 20] for launch in range(20)])
    meaning = metric("output_throughput")
    verdict = Verdict(Status.UNMEASURED, meaning.name, meaning.unit, True, name, 0.05, judged=False)
    coordinates = {"model": "opt-125m", "batch_size": int(name.rpartition("=")[2])}
    measured = Measurement(name, KEY, {meaning.name: sample})
    return CaseOutcome(name, coordinates, measured, None, {meaning.name: verdict})


OUTCOME = RunOutcome(
    MACHINE,
    (
        SweepOutcome(
            sweep="decode",
            design="stored",
            mode="accept",
            cases={name: case(name) for name in (CASE, OTHER)},
            specs=(EngineSpec("vllm", "opt-125m"),),
            versions={},
            baseline_versions=None,
            launches=20,
            seconds=60.0,
            asked={"output_throughput": 0.05},
        ),
    ),
    "2026-01-01T00:00:00+00:00",
    61.0,
    None,
    complete=True,
    whole=True,
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A report, and the baseline file that comes of it."""
    folder = tmp_path_factory.mktemp("recorded")
    with chdir(folder):
        Path("report.json").write_text(document.text(OUTCOME))
        assert main(["baselines", "accept", "report.json"]) == 0
    return {path: (folder / path).read_text() for path in (Path("report.json"), STORED)}


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys, recorded):
    """Runs the program in a project with that report and that file."""
    monkeypatch.chdir(tmp_path)
    STORED.parent.mkdir(parents=True)
    for path, text in recorded.items():
        path.write_text(text)

    def run(*words):
        code = main(words)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def damage(source, target, change):
    """Write what a change makes of a file, and give it back."""
    text = source.read_text()
    changed = re.sub(*change, text, count=1)
    assert changed != text
    target.write_text(changed, errors="surrogateescape")
    return target.read_bytes()


def is_one_clear_error(said, path):
    """Whether the file is named, and nobody has to scroll to read what is wrong with it."""
    return said.startswith(f"slmperf: {path}: ") and said.count("\n") == 1 and len(said) < 1200


@pytest.mark.parametrize("reader", BASELINE_READERS)
@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_baseline_is_one_clear_error(cli, reader, what):
    """Whoever reads it names it with what is wrong and the way out, judges nothing and changes nothing."""
    damaged = damage(STORED, STORED, DAMAGES[what])
    code, out, said = cli(*BASELINE_READERS[reader])
    assert (code, out) == (4 if "compare" in reader else 1, ""), said
    assert is_one_clear_error(said, STORED), said
    assert "git checkout -- " in said or "name a JSON report" in said
    assert STORED.read_bytes() == damaged


@pytest.mark.parametrize("reader", REPORT_READERS)
@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_report_is_one_clear_error(cli, reader, what):
    """The same of a report, and nothing of it is stored."""
    before = STORED.read_bytes()
    damage(Path("report.json"), REPORT, DAMAGES[what])
    code, out, said = cli(*REPORT_READERS[reader])
    assert (code, out) == (4 if "compare" in reader else 1, ""), said
    assert is_one_clear_error(said, REPORT), said
    assert STORED.read_bytes() == before


@pytest.mark.parametrize("what", DAMAGES)
@pytest.mark.usefixtures("cli")
def test_a_run_tells_a_damaged_baseline(what):
    """A gate that is to compare with it stops, and one that never needs it says so all the same."""
    damage(STORED, STORED, DAMAGES[what])
    stored = StoredCases(Path("baselines"), MACHINE, None, record="pytest --slmperf --slmperf-accept")
    with pytest.raises(SlmperfError, match=re.escape(f"{STORED}: ")):
        stored.find(CASE, KEY)
    (line,) = stored.orphaned(["vllm"], ["prefill"])
    assert line.startswith(f"{STORED}: ")


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("reader", BASELINE_READERS)
def test_an_odd_baseline_breaks_nothing(cli, reader, what):
    """Names of any length with numbers of any size are sorted, shown and compared, or refused in words."""
    damage(STORED, STORED, ODD[what])
    code, _, said = cli(*BASELINE_READERS[reader])
    assert code in (0, 1, 4)
    assert (code == 0) <= (said == "")


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("reader", REPORT_READERS)
def test_an_odd_report_breaks_nothing(cli, reader, what):
    """The same of a report, also where its names are too long for a file's."""
    damage(Path("report.json"), REPORT, ODD[what])
    code, _, said = cli(*REPORT_READERS[reader])
    assert code in (0, 1, 4)
    assert (code == 0) <= (said == "")


@pytest.mark.parametrize("what", ODD)
@pytest.mark.usefixtures("cli")
def test_a_run_beside_an_odd_baseline(what):
    """What it holds and no suite measures is listed."""
    damage(STORED, STORED, ODD[what])
    stored = StoredCases(Path("baselines"), MACHINE, None, record="pytest --slmperf --slmperf-accept")
    assert stored.orphaned(["vllm"], ["prefill"])
    if what != "5,000 digits in a suite":
        stored.find(OTHER, KEY)
        assert stored.stale([]) != []
