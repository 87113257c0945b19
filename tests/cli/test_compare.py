"""`slmperf compare` and `slmperf baselines matrix`, from the command line."""

import json
import math
import os
import random
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_slmperf.cli import main
from pytest_slmperf.core.baselines.revision import Recording
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.run import schema
from pytest_slmperf.run.store import BaselineStore

H100 = Machine("NVIDIA H100", "580.65", {"cores": 16})
OLD, NEW = "baselines/nvidia-h100/580.65", "baselines/nvidia-h100/590.10"
NAMES = ("decode/opt-125m/batch=1", "decode/opt-125m/batch=16")
PAGE = Path(__file__).parents[2] / "docs" / "compare.md"


def record(driver="580.65", median=4000.0, *, names=NAMES, metric="output_throughput", machine=H100, **key):
    """Store cases of a GPU that this machine has not."""
    draw = random.Random(f"{driver}{median}")
    measurements = []
    for name in names:
        sample = Sample.of([[median * math.exp(draw.gauss(0, 0.002))] * 4 for _ in range(20)])
        facts = {"engine": "vllm", "engine_version": "0.11", "model": "opt-125m", "prompt_tokens": 128, **key}
        measurements.append(Measurement(name, facts, {metric: sample}))
    gated = {(name, metric): 0.03 for name in names}
    recording = Recording(measurements, gated, "2026-01-01T00:00:00Z", commit="0123456")
    BaselineStore(Path("baselines")).accept(replace(machine, driver=driver), [("vllm", "decode", recording)])


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """Every command runs in a project of its own, with baselines of two drivers, the newer 10 % slower."""
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").write_text("[tool.slmperf]\norder_seed = 1\n")  # so that a run is the same every time
    record("580.65", 4000.0)
    record("590.10", 3600.0)
    return tmp_path


@pytest.fixture
def cli(capsys):
    def run(*words):
        """Exit code, and what was printed where."""
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:
            code = ended.code
        printed = capsys.readouterr()
        return code, printed.out or printed.err

    return run


def test_a_driver_that_costs_ten_percent_is_red(cli):
    """Two folders of one device: every case is judged, and the driver is said to differ."""
    code, said = cli("compare", OLD, NEW)
    assert code == 1
    assert said.splitlines()[-1] == "2 regressed"
    assert "differs, what is compared: driver: 580.65 → 590.10" in said
    assert "geometric mean over 2 cases: output_throughput -10." in said


def test_beside_itself_everything_is_unchanged(cli):
    """A folder, a file of it, and any folder above it that holds one machine, are the same."""
    (file,) = Path(OLD).glob("*.json")
    for path in NEW, OLD:
        assert cli("compare", path, path)[0] == 0
    assert cli("compare", OLD, file)[0] == 0
    (Path("baselines/nvidia-h100/590.10/vllm-decode.json")).unlink()
    code, said = cli("compare", "baselines", file)
    assert (code, said.splitlines()[-1]) == (0, "2 unchanged")


def test_recordings_of_an_engine_that_did_not_change(cli):
    """Two reports with other noise are unchanged; a loss of 10 % that was planted in one is found, and said."""
    for name, options in (("a", "seed=1"), ("b", "seed=2"), ("slow", "seed=3,slowed=0.1")):
        words = ("--engine=fake:launch_noise=0.002", "--batch-size=1,4", "--gate=output_throughput=0.04")
        cli("ab", options, options, *words, f"--report={name}.json")
    assert cli("compare", "a.json", "a.json")[0] == 0
    code, said = cli("compare", "a.json", "b.json")
    assert (code, said.splitlines()[-1]) == (0, "2 unchanged")
    code, said = cli("compare", "a.json", "slow.json")
    assert (code, said.splitlines()[-1]) == (1, "2 regressed")
    assert "planted_loss: absent → 0.1" in said


def test_a_tolerance_can_be_given(cli):
    """It counts in place of the stored one."""
    code, said = cli("compare", OLD, NEW, "--tolerance", "output_throughput=0.15")
    assert (code, said.splitlines()[-1]) == (0, "2 unchanged")


def test_what_nothing_gates_is_shown_when_asked_for(cli):
    """Baselines keep what is gated, and a report all that was measured."""
    words = ("--engine=fake:launch_noise=0.002", "--batch-size=1")
    cli("ab", "same", "same", *words, "--report=a.json")
    assert "not gated" not in cli("compare", "a.json", "a.json")[1]
    code, said = cli("compare", "a.json", "a.json", "--all")
    assert (code, "median_ttft_ms" in said, "not gated" in said) == (0, True, True)


def test_a_comparison_is_written_as_json_and_markdown(cli, project):
    """With the published schema, and although it is red."""
    code, said = cli("compare", OLD, NEW, "--report=new/x.json", "--report=x.md")
    assert code == 1
    assert said.splitlines()[-2:] == ["report: new/x.json", "report: x.md"]
    written = json.loads((project / "new/x.json").read_text())
    assert schema.violation("comparison", written) is None
    assert written["counts"] == {"regressed": 2}
    assert (project / "x.md").read_text().startswith("### slmperf compare: 2 regressed\n")


def test_a_case_that_was_not_recorded_again_is_red(cli):
    """Nothing passes because it wasn't looked at."""
    record("595.01", 4000.0, names=NAMES[:1])
    code, said = cli("compare", OLD, "baselines/nvidia-h100/595.01")
    assert (code, said.splitlines()[-1]) == (1, "1 unchanged, 1 unmeasured")
    assert f"gone: only A has: {NAMES[1]}" in said


def test_another_workload_is_incomparable(cli):
    """The line names the field and both values."""
    record("595.01", 4000.0, prompt_tokens=64)
    code, said = cli("compare", OLD, "baselines/nvidia-h100/595.01")
    assert (code, said.splitlines()[-1]) == (1, "2 incomparable")
    assert "2 incomparable - prompt_tokens: 128 → 64" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((OLD, "nowhere"), "nowhere: there is no such file; name a JSON report"),
        ((OLD, "empty"), "empty: there is no baseline file in it; name a JSON report"),
        ((OLD, "text.json"), "text.json: no JSON: "),
        ((OLD, "list.json"), "list.json: neither a report nor a baseline; name a JSON report"),
        ((OLD, "later.json"), "later.json: this report has version 99"),
        ((OLD, "broken.json"), "broken.json: $"),
        ((OLD, os.devnull), "/dev/null: it is no file"),
        ((OLD, "nameless.json"), "nameless.json: $.cases: "),
        (("extreme.json", NEW), f'extreme.json: $.cases["{NAMES[0]}"].points[0].metrics.output_throughput: '),
        ((OLD, "a\udcff.json"), r"'a\udcff.json': '\udcff' is no character"),
        (("deep", NEW), "deep: there is no baseline file in it"),
        (("deep/a/b", NEW), "deep/a/b/c/x.json: neither a report nor a baseline; name a JSON report"),
        (
            ("reports", NEW),
            "reports: it holds a report, and a folder is one of baselines; name reports/later.json alone",
        ),
        (("baselines", OLD), f"baselines: it holds several machines; name one of {OLD}, {NEW}"),
        (
            (OLD, "baselines/other/1"),
            f"nothing in common: {OLD} has {NAMES[0]}, {NAMES[1]}; baselines/other/1 has decode/x",
        ),
        ((OLD, NEW, "--tolerance=output_throughput"), "is not METRIC=FRACTION, as in output_throughput=0.03"),
        ((OLD, NEW, "--tolerance=output_throughput=3"), "a tolerance is a fraction between 0 and 1"),
        ((OLD, NEW, "--tolerance=ttft_ms=0.1"), "no case in common has median_ttft_ms"),
        ((OLD, NEW, "--report=x.html"), "x.html: a comparison's name ends with .json or .md"),
        ((OLD, NEW, "--report=text.json/x.md"), "text.json: Not a directory"),
        ((OLD,), "the following arguments are required: B"),
    ],
)
def test_wrong_usage_names_the_file_and_the_way_out(cli, project, words, message):
    """It ends with 4, before anything is compared."""
    (project / "empty").mkdir()
    (project / "text.json").write_text("text")
    (project / "list.json").write_text("[]")
    (project / "reports").mkdir()
    (project / "reports/later.json").write_text('{"format": "slmperf-report", "version": 99}')
    (project / "later.json").write_text('{"format": "slmperf-report", "version": 99}')
    (project / "broken.json").write_text('{"format": 1, "suite": "decode", "engine": "vllm", "cases": {}}')
    (project / "deep/a/b/c").mkdir(parents=True)
    (project / "deep/a/b/c/x.json").write_text("{}")
    stored = (project / OLD / "vllm-decode.json").read_text()
    (project / "nameless.json").write_text(stored.replace(f'"{NAMES[1]}"', '""'))
    (project / "extreme.json").write_text(re.sub(r"\[[0-9.]+,", "[1e-310,", stored, count=1))
    record("1", machine=Machine("other", "1"), names=["decode/x"])
    (project / "baselines/other/1").rename(project / "moved")
    if "baselines/other/1" in words:
        (project / "moved").rename(project / "baselines/other/1")
    code, said = cli("compare", *words)
    assert (code, message in said) == (4, True), said


def test_nothing_gated_has_not_passed(cli):
    """Where neither side has a tolerance, the last line says which option gives one, and the exit code is 1."""
    for path in Path("baselines").rglob("*.json"):
        path.write_text(path.read_text().replace('"tolerance": 0.03', '"tolerance": null'))
    code, said = cli("compare", OLD, OLD)
    assert code == 1
    assert "nothing judged, so nothing has passed: give a tolerance, as in --tolerance " in said


def test_the_matrix_has_a_column_for_each_driver(cli):
    """In the order of their versions, with how many cases and since when, and how the figures moved."""
    record("580.105", 4100.0)
    code, said = cli("baselines", "matrix")
    header, _, cases, throughput = said.splitlines()
    assert code == 0
    assert header.split() == ["suite", "engine", "device", "580.65", "580.105", "590.10"]
    assert cases.split("  ")[0] == "decode"
    assert cases.count("2, 2026-01-01") == 3
    assert throughput.split()[0] == "output_throughput"
    assert [cell for cell in throughput.split() if cell.endswith("%")] == ["+2.5%", "-12.2%"]


def test_the_matrix_says_what_else_changed(cli):
    """A step that is not the driver's alone is marked, and what else differs is named."""
    record("595.01", 3700.0, engine_version="0.12")
    said = cli("baselines", "matrix")[1]
    assert said.count(" *") == 1
    note = "* decode on vllm, NVIDIA H100, 590.10 → 595.01: also differs engine_version: 0.11 → 0.12"
    assert said.splitlines()[-1] == note


def test_the_matrix_follows_joules_where_there_are_any(cli):
    """A metric that nobody recorded has no row, unless it is asked for."""
    assert "joules" not in cli("baselines", "matrix")[1]
    record("595.01", 0.5, metric="joules_per_output_token")
    assert "joules_per_output_token" in cli("baselines", "matrix")[1]
    said = cli("baselines", "matrix", "--metric=ttft_ms")[1]
    assert said.splitlines()[-1].split() == ["median_ttft_ms", "–", "–"]


def test_the_matrix_of_one_suite(cli):
    """A suite that nobody recorded is said to be none."""
    assert cli("baselines", "matrix", "--suite=decode")[1] == cli("baselines", "matrix")[1]
    code, said = cli("baselines", "matrix", "--suite=prefill")
    assert (code, said) == (0, "nothing is stored in baselines of the suite prefill\n")
    assert cli("baselines", "matrix", "--metric=speed")[0] == 4


def test_the_commands_of_the_page_work(cli):
    """Every command that docs/compare.md shows of a change of drivers runs; only the slower driver is red."""
    lines = map(str.strip, PAGE.read_text().splitlines())
    shown = [line for line in lines if line.startswith("slmperf ")]
    assert len(shown) >= 4
    for line in shown:
        code, said = cli(*shlex.split(line)[1:])
        assert code == ("compare" in line), f"{line}\n{said}"
