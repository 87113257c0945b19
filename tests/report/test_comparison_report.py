"""A comparison in a terminal, in Markdown and as JSON."""

import json
import math
import re
from dataclasses import replace
from importlib.resources import files

import jsonschema_rs
import pytest
from hypothesis import given, settings
from rendered_runs import MACHINE, case_outcome, case_outcomes, run_outcome, sample, sweep_outcome

from pytest_slmperf.core.baselines.comparison import compare
from pytest_slmperf.core.baselines.side import of_run
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.verdict import Status
from pytest_slmperf.report.comparison import check_path, closing, document, lines, markdown, text, write
from pytest_slmperf.report.markdown import COMMENT_LIMIT

SCHEMA = json.loads((files("pytest_slmperf") / "schemas" / "comparison.json").read_text(encoding="utf-8"))
VALID = jsonschema_rs.validator_for(SCHEMA)
JOULES = "joules_per_output_token"


def side(label, *cases, **fields):
    return of_run(label, run_outcome(sweep_outcome(*cases), **fields))


def compared(*, every=False):
    """A case that regressed in throughput, one that didn't, one gone and one new; on another driver."""
    old = side("old.json", *(case_outcome(batch) for batch in (1, 4, 16)))
    slower = case_outcome(4, Status.REGRESSED, seed=7)
    new = side(
        "new.json",
        case_outcome(1, seed=7),
        slower,
        case_outcome(64),
        machine=replace(MACHINE, driver="590.10"),
        commit=None,
    )
    return compare(old, new, every=every)


@settings(max_examples=30)
@given(case_outcomes(), case_outcomes())
def test_what_is_written_keeps_the_schema(old, drawn):
    """Whatever is compared, its document keeps the published schema, and the other renderings are texts."""
    new = replace(drawn, case=old.case, measurement=replace(drawn.measurement, case=old.case))
    found = compare(side("a", old), side("b", new, commit=None), every=True)
    VALID.validate(json.loads(text(found)))
    assert lines(found)
    assert len(markdown(found)) <= COMMENT_LIMIT


def test_the_schema_is_a_schema():
    """The published schema is itself valid, and describes every field."""
    jsonschema_rs.meta.validate(SCHEMA)
    for definition in [SCHEMA, *SCHEMA["$defs"].values()]:
        for name, field in definition.get("properties", {}).items():
            assert "description" in field or "$ref" in field, name


def test_a_terminal_shows_a_row_for_each_metric_and_then_what_is_not_the_same():
    """Old, new, change with interval, tolerance and verdict; then the mean, what failed, and the fields."""
    shown = lines(compared())
    assert shown[0] == "A: old.json (NVIDIA H100 80GB HBM3, 580.65.06; 3 cases, recorded 2026-03-01)"
    assert " decode on fake: B against A " in shown[2]
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in shown if line.startswith("opt-125m/batch=")}
    assert len(rows) == 6
    throughput = rows["opt-125m/batch=4", "output_throughput"]
    assert throughput[-1] == "regressed"
    assert throughput[2] == "tok/s"
    assert throughput[3].startswith("-")
    assert "3.0%" in throughput
    assert rows["opt-125m/batch=16", JOULES][-1] == "unmeasured"
    (mean,) = [line for line in shown if line.startswith("geometric mean over 2 cases: output_throughput ")]
    assert re.fullmatch(r".* [+-]\d+\.\d% \([+-]\d+\.\d…[+-]\d+\.\d\)", mean)
    assert "gone: only A has: decode/opt-125m/batch=16" in shown
    assert "new: only B has: decode/opt-125m/batch=64" in shown
    assert "differs, what is compared: driver: 580.65.06 → 590.10" in shown
    assert "differs, worth a note: commit: 0c3d2f1 → absent" in shown
    assert shown[-1] == "3 unchanged, 1 regressed, 2 unmeasured"


def test_markdown_shows_what_failed_and_folds_what_passed():
    """A comment begins with the counts, and what passed takes one line."""
    shown = markdown(compared())
    assert shown.startswith("### slmperf compare: 3 unchanged, 1 regressed, 2 unmeasured\n")
    assert "| ❌ regressed | opt-125m/batch=4 | output_throughput |" in shown
    assert "<summary>3 passed</summary>" in shown
    assert "driver: 580.65.06 → 590.10" in shown


def test_what_nothing_gates_is_marked():
    """It has its change, and neither a tolerance nor a verdict."""
    found = compared(every=True)
    (row,) = [line for line in lines(found) if "batch=1 " in line and "p99_ttft_ms" in line]
    assert row.endswith("not gated")
    assert "<summary>2 not gated</summary>" in markdown(found)
    (entry,) = [one for one in document(found)["rows"] if one["case"].endswith("=1") and one["metric"] == "p99_ttft_ms"]
    assert (entry["verdict"], entry["tolerance"], entry["mde"]) == (None, None, None)
    assert entry["low"] < entry["ratio"] < entry["high"]


def test_a_difference_in_some_cases_says_in_how_many():
    """A field that differs everywhere needs no count."""
    other = case_outcome(4)
    measurement = replace(other.measurement, key={**other.measurement.key, "dtype": "int8"})
    found = compare(
        side("a", case_outcome(1), other), side("b", case_outcome(1), replace(other, measurement=measurement))
    )
    assert "differs, what is compared: dtype: float32 → int8, in 1 of 2 cases" in lines(found)


def test_the_document_holds_the_raw_values():
    """So that it can be judged again: every launch of both sides, and where each case is from."""
    found = compared()
    written = json.loads(text(found))
    first = written["rows"][0]
    assert first["old"] == [list(rounds) for rounds in found.rows[0].old.launches]
    assert (written["passed"], written["counts"]) == (False, {"unchanged": 3, "regressed": 1, "unmeasured": 2})
    assert written["a"]["cases"][0]["driver"] == "580.65.06"
    assert [one["meaning"] for one in written["changes"]] == ["compared", "note"]


def test_a_bound_that_nothing_bounds_is_null():
    """JSON has no infinity."""
    one = case_outcome(4)
    alone = replace(one, measurement=replace(one.measurement, samples={"output_throughput": sample(1.0, launches=1)}))
    written = document(compare(side("a", alone), side("b", alone, started_at="2026-03-02T09:00:00Z"), every=True))
    row, mean = written["rows"][0], written["means"][0]
    assert math.isfinite(row["ratio"])
    assert [row["low"], row["high"], row["mde"], mean["low"], mean["high"]] == [None] * 5


def test_nothing_judged_says_how_to_judge():
    """Where no side has a tolerance, the last line names the option."""
    ungated = replace(case_outcome(4), verdicts={})
    found = compare(side("a", ungated), side("b", ungated))
    assert closing(found).startswith("nothing judged, so nothing has passed: give a tolerance, as in --tolerance ")


def test_a_hostile_name_steers_no_terminal():
    """Control characters of a file that somebody sent are shown, and not obeyed."""
    found = compare(side("a\x1b[2J", case_outcome(4)), side("b", case_outcome(4)))
    assert not any("\x1b" in line for line in lines(found))


@pytest.mark.parametrize("name", ["compared.json", "compared.md"])
def test_a_file_is_written_whole(tmp_path, name):
    """In the format of its ending, in place of what was there; folders are made."""
    path = tmp_path / "new" / name
    check_path(path)
    write(compared(), path)
    assert path.read_text(encoding="utf-8") == {".json": text, ".md": markdown}[path.suffix](compared())
    assert [entry.name for entry in path.parent.iterdir()] == [name]


def test_an_unknown_ending_is_wrong_usage(tmp_path):
    """The endings that there are, are named, before anything is compared."""
    with pytest.raises(UsageError, match=r"ends with \.json or \.md"):
        check_path(tmp_path / "compared.html")
