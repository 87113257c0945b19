"""Recording, reporting, comparing with another version, and spending less."""

import json
import os
import pty
import re
import shlex
import sys
from pathlib import Path

import jsonschema_rs
import pytest
from projects import ENGINE, SLOWED, SUITE, UNDECIDED, prose

import pytest_slmperf

NOISY = "fake:noise=0.002,launch_noise=0.02,seed=4"


def _report(project) -> dict:
    return json.loads((project.path / "report.json").read_text())


def test_reporting_judges_nothing(fresh):
    """--slmperf-no-gate measures and reports; whatever is asserted, a stated limit too, is skipped with the reason."""
    limit = "\n@DECODE.at(16)\ndef test_limit(decode):\n    assert decode[16].ttft_ms <= 0.001\n"
    fresh.write("test_suite.py", SUITE + limit)
    result = fresh.gate("--slmperf-no-gate", "-rs", "--slmperf-report", "report.json")
    result.assert_outcomes(skipped=5, passed=1)
    result.stdout.fnmatch_lines(["2 cases measured, nothing judged; *", "SKIPPED*test_suite.py:*measured, not judged"])
    assert not fresh.baseline().exists()
    assert len(_report(fresh)["sweeps"][0]["cases"]) == 2


def test_the_report_keeps_its_schema_and_is_written_when_red(project):
    """A red run's report validates, names every verdict, and a Markdown one stands beside it."""
    result = project.gate("--slmperf-report", "report.json", "--slmperf-report", "out/report.md", engine=SLOWED)
    result.assert_outcomes(failed=4, passed=1)
    result.stdout.fnmatch_lines(["report: report.json", "report: out/report.md"])
    schema = json.loads((Path(pytest_slmperf.__file__).parent / "schemas" / "report.json").read_text())
    jsonschema_rs.validator_for(schema).validate(_report(project))
    assert _report(project)["complete"] is True
    for case in _report(project)["sweeps"][0]["cases"]:
        launches = case["samples"]["output_throughput"]["launches"]
        assert 8 <= case["fresh_from"] < len(launches)
    assert "regressed" in (project.path / "out" / "report.md").read_text()


def test_a_recording_may_take_the_tolerance_that_its_noise_supports(fresh):
    """`tolerance = "supported"` records where it else refuses, and says which it took; without it, the gate says so."""
    fresh.settings('tolerance = "supported"')
    taken = fresh.gate("--slmperf-accept", "--slmperf-report", "report.json", engine=NOISY)
    taken.assert_outcomes(skipped=4, passed=1)
    assert _report(fresh)["recorded"] is True
    assert "loosened: decode/opt-125m/batch=1 output_throughput: 3.0% is asked for, and " in prose(taken)
    passed = fresh.gate(engine=NOISY)
    assert passed.ret == 0
    assert "is stored and used" not in prose(passed)
    fresh.settings()
    told = prose(fresh.gate(UNDECIDED, engine=NOISY))
    assert "is stored and used, as the noise of the recording needs: write gate={'output_throughput': 0." in told
    assert 'in the suite, or tolerance = "supported" in [tool.slmperf]' in told
    assert "record again" not in told


SELECTIONS = [
    ("-k", "throughput and 16"),
    ("test_suite.py::test_throughput[batch16]",),
    ("--deselect=test_suite.py::test_first_token", "--deselect=test_suite.py::test_throughput[batch1]"),
    ("--ignore=other", "-m", "slmperf", "."),
]


@pytest.mark.parametrize(
    ("selection", "workers"),
    [*((words, ()) for words in SELECTIONS), (SELECTIONS[0], ("-n1",))],
    ids=[*(words[0] for words in SELECTIONS), "workers"],
)
def test_the_command_that_records_can_be_copied(fresh, selection, workers):
    """Pasted into a shell, it measures what was measured."""
    fresh.apart(*selection, *workers, "--slmperf-report=report.json", UNDECIDED, keep=("xdist",))
    measured = [case["case"] for case in _report(fresh)["sweeps"][0]["cases"]]
    (said,) = {
        verdict["way_out"].partition(";")[0]
        for case in _report(fresh)["sweeps"][0]["cases"]
        for verdict in case["verdicts"].values()
    }
    command = shlex.split(said.removeprefix("record it: pytest "))
    assert f"--slmperf-engine={ENGINE}" in command
    assert "--slmperf-accept" in command
    fresh.plain(*command, "--slmperf-report=report.json", UNDECIDED)
    assert [case["case"] for case in _report(fresh)["sweeps"][0]["cases"]] == measured


def test_the_command_that_records_finds_the_same_files_and_folder(fresh):
    """What changes how pytest finds tests is a part of it, and a folder's name with a space is quoted in it."""
    (fresh.path / "test_suite.py").rename(fresh.path / "suite.py")
    found = ("-o", "python_files=suite.py", "--pyargs", ".", "--slmperf-baselines=my baselines")
    fresh.apart(*found, "--slmperf-report=report.json", UNDECIDED)
    verdict = _report(fresh)["sweeps"][0]["cases"][0]["verdicts"]["output_throughput"]
    command = shlex.split(verdict["way_out"].partition(";")[0].removeprefix("record it: pytest "))
    assert "--pyargs" in command
    assert fresh.plain(*command).ret == 0
    assert list((fresh.path / "my baselines").rglob("fake-decode.json"))


def test_a_planted_loss_is_not_offered_to_be_recorded(project):
    """What regressed by a loss of its own says so; any other names the command that accepts it."""
    planted = _way_out(project, SLOWED)
    assert planted == "a loss of 20% is planted on purpose, and never recorded: take `slowed` away"
    stored = json.loads(project.baseline().read_text())
    for case in stored["cases"].values():
        case["key"]["option.level"] = 800
    project.baseline().write_text(json.dumps(stored))
    meant = _way_out(project, f"{ENGINE},level=800")
    assert meant.startswith("if it is meant to be so: pytest --slmperf -k '(throughput and 16) and decode' --slmperf-")


def _way_out(project, engine) -> str:
    project.gate("-k", "throughput and 16", "--slmperf-report=report.json", engine=engine)
    (case,) = _report(project)["sweeps"][0]["cases"]
    return case["verdicts"]["output_throughput"]["way_out"]


def test_a_planted_loss_is_never_recorded(fresh):
    """What is slowed on purpose is for seeing red, not for a baseline."""
    result = fresh.gate("--slmperf-accept", engine=SLOWED)
    result.assert_outcomes(errors=4, failed=1)
    assert "a loss that is planted on purpose is never recorded: take `slowed` away" in prose(result)
    assert result.stdout.str().count("the same error as in ") == 3
    assert "launch 1" not in result.stdout.str()
    assert not fresh.baseline().exists()


def test_a_spent_budget_is_inconclusive_and_not_green(project):
    """What is undecided when the budget ends is red."""
    result = project.gate("--slmperf-budget", "0.001")
    result.assert_outcomes(failed=4, passed=1)
    assert "4 inconclusive" in prose(result)


def test_a_test_of_a_case_that_this_machine_leaves_out_is_in_the_report(project):
    """It is skipped, and a report without it would look as if nobody had stated a limit there."""
    project.settings('machine = [{ when = { device = "simulated" }, sweep = { decode = { batch_size = [1, 16] } } }]')
    project.write(
        "test_suite.py", SUITE.replace("[1, 16]", "[1, 4, 16]") + "\n@DECODE.at(4)\ndef test_four(decode): pass\n"
    )
    result = project.gate("--slmperf-report", "report.json")
    result.assert_outcomes(passed=5, skipped=1)
    said = "decode has batch_size=[1, 16] on this machine and tier, not [4]: test_four is skipped"
    assert said in prose(result)
    assert said in _report(project)["remarks"]


def test_the_quick_tier_measures_the_ends_and_skips_the_rest(project):
    """Tests of cases that a tier leaves out are skipped with the reason, and what is stored of them isn't stale."""
    project.write(
        "test_suite.py", SUITE.replace("[1, 16]", "[1, 4, 16]") + "\n@DECODE.at(4)\ndef test_four(decode):\n    pass\n"
    )
    result = project.gate("--slmperf-tier", "quick", "-rs")
    result.assert_outcomes(passed=5, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*decode has batch_size=[[]1, 16[]] on this machine and tier, not [[]4[]]"])


def test_another_field_may_be_compared_across(project):
    """--slmperf-against KEY=VALUE lets that field alone differ."""
    project.settings('dtype = "int8"')
    result = project.gate("--slmperf-against", "dtype=float32")
    result.assert_outcomes(passed=5)


def test_another_engine_version_may_be_compared_across(project):
    """So a new version of an engine is judged by the old one's baseline."""
    text = project.baseline().read_text()
    assert '"engine_version": "1"' in text
    project.baseline().write_text(text.replace('"engine_version": "1"', '"engine_version": "0.9"'))
    refused = project.gate(UNDECIDED)
    refused.assert_outcomes(failed=4, passed=1)
    assert "engine_version: 0.9 (stored) → 1 (now)" in prose(refused)
    project.gate("--slmperf-against", "engine_version=0.9").assert_outcomes(passed=5)


def test_another_environment_is_measured_beside_this_one(fresh):
    """--slmperf-against python=PATH needs no baseline: slowed here it is red."""
    against = ("--slmperf-against", f"python={sys.executable}", "--slmperf-report", "report.json")
    red = fresh.gate(*against, engine="fake:noise=0.002,launch_noise=0.002,slowed=0.2")
    red.assert_outcomes(failed=4, passed=1)
    assert "4 regressed" in prose(red)
    assert _report(fresh)["sweeps"][0]["design"] == "interleaved"


def test_a_log_gets_sparse_lines(project):
    """Where nobody looks, a line tells now and then where a run is."""
    lines = [line for line in project.gate().outlines if line.startswith("slmperf: fake")]
    assert lines[0] == "slmperf: fake opt-125m: launch 1: starting"
    assert len(lines) <= 2


def test_a_terminal_gets_one_line_that_is_rewritten(project):
    """Where somebody looks, one line says case, launch, round and the time left, and is gone in the end."""
    ours, theirs = pty.openpty()
    look = {"TERM": "xterm", "COLUMNS": "120", "PY_COLORS": ""}  # pytester switches colours off
    run = project.start("--slmperf-no-gate", engine=f"{ENGINE},start_sleep_s=0.1", to=theirs, env=look)
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:  # Linux says so when the other end is closed
        pass
    finally:
        os.close(ours)
    assert run.wait(timeout=30) == 0
    drawn = [part for part in seen.decode().split("\r") if part.startswith("slmperf: fake")]
    assert len(drawn) > 3
    assert any(
        re.search(r"launch \d of about 6, round 1 of 2: decode/opt-125m/batch=\d+, about", part) for part in drawn
    )
    assert all("\n" not in part for part in drawn)


@pytest.mark.parametrize("style", ["auto", "short", "line", "native"])
def test_every_style_of_traceback_keeps_the_message(project, style):
    """The figures are there in each of pytest's styles; the short summary has them in all of them."""
    result = project.gate("-k", "throughput and 16", f"--tb={style}", "-rf", UNDECIDED)
    assert "inconclusive: de" in prose(result)


def test_a_sweep_that_gates_nothing_is_not_said_to_be_recorded(fresh):
    """Only what is stored is named: beside a gated sweep, one without a gate leaves no file."""
    other = SUITE.replace("DECODE", "OTHER").replace('"decode"', '"other"').replace("def decode", "def other")
    other = other[: other.index("@OTHER.each")].replace('gate={"output_throughput": 0.03, "ttft_ms": 0.05}', "gate={}")
    measured = "def test_other(other):\n    assert other[1].ttft_ms <= 60_000\n"
    fresh.write("test_other.py", f"{other}{measured}")
    result = fresh.gate("--slmperf-accept")
    assert result.ret == 0
    assert "fake-decode.json" in prose(result)
    assert "fake-other.json" not in prose(result)
    assert [path.name for path in fresh.baseline().parent.iterdir()] == ["fake-decode.json"]
