"""The JSON report."""

import json
import math
from dataclasses import replace
from importlib.resources import files

import jsonschema_rs
import pytest
from hypothesis import given, settings
from rendered_runs import RUNS, case_outcome, claim, effect, run_outcome, sample, sweep_outcome

from pytest_slmperf.core.errors import SlmperfError
from pytest_slmperf.core.verdict import Status
from pytest_slmperf.report.document import counts, document, outcome, text

SCHEMA = json.loads((files("pytest_slmperf") / "schemas" / "report.json").read_text(encoding="utf-8"))
VALID = jsonschema_rs.validator_for(SCHEMA)


@settings(max_examples=60)
@given(RUNS)
def test_round_trip(run):
    """Whatever came out of a run, its document keeps the published schema and reads back as the same run."""
    written = json.loads(text(run))
    VALID.validate(written)
    assert outcome(written) == run


def test_schema_is_a_schema():
    """The published schema is itself valid under draft 2020-12, and describes every field."""
    jsonschema_rs.meta.validate(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for definition in [SCHEMA, *SCHEMA["$defs"].values()]:
        for name, field in definition.get("properties", {}).items():
            assert "description" in field or "$ref" in field, name


@pytest.mark.parametrize("missing", ["machine", "sweeps", "launches", "commit", "complete", "whole"])
def test_schema_refuses_what_lacks_a_field(missing):
    """A document without one of the fields that readers rely on is refused."""
    broken = document(run_outcome())
    del broken[missing]
    assert not VALID.is_valid(broken)


def test_schema_refuses_a_value_of_zero():
    """A sample can't hold a zero: nothing measured is zero."""
    broken = document(run_outcome(sweep_outcome(case_outcome(4))))
    broken["sweeps"][0]["cases"][0]["samples"]["output_throughput"]["launches"][0][0] = 0.0
    assert not VALID.is_valid(broken)


def test_what_acceptance_needs():
    """A case holds its key, coordinates and raw samples with unit, direction and tolerance, gated or not."""
    case = document(run_outcome(sweep_outcome(case_outcome(4))))["sweeps"][0]["cases"][0]
    assert case["case"] == "decode/opt-125m/batch=4"
    assert case["coordinates"] == {"model": "opt-125m", "batch_size": 4}
    assert case["key"]["engine"] == "fake"
    throughput, latency = case["samples"]["output_throughput"], case["samples"]["p99_ttft_ms"]
    assert (throughput["unit"], throughput["higher_is_better"], throughput["tolerance"]) == ("tok/s", True, 0.03)
    assert [len(rounds) for rounds in throughput["launches"]] == [5] * 14
    assert (latency["unit"], latency["higher_is_better"], latency["tolerance"]) == ("ms", False, None)
    assert len(case["baseline_samples"]["output_throughput"]["launches"]) == 20


def test_an_infinite_mde_is_null():
    """JSON has no infinity: an MDE that nothing reaches is null, and infinite again when read."""
    case = case_outcome(4)
    compared = effect(sample(1.0), sample(1.0, 6), mde=math.inf)
    blind = replace(case.verdicts["output_throughput"], effect=compared)
    run = run_outcome(sweep_outcome(replace(case, verdicts={"output_throughput": blind})))
    written = document(run)
    assert written["sweeps"][0]["cases"][0]["verdicts"]["output_throughput"]["mde"] is None
    read = outcome(written).sweeps[0].cases[case.case].verdicts["output_throughput"]
    assert read.effect.mde == math.inf


def test_an_open_bound_is_null():
    """An end that nothing bounds is null on either side, and open again when read."""
    case = case_outcome(4)
    compared = replace(effect(sample(1.0), sample(1.0, 6)), low=0.0, high=math.inf)
    verdict = replace(case.verdicts["output_throughput"], effect=compared)
    written = document(run_outcome(sweep_outcome(replace(case, verdicts={"output_throughput": verdict}))))
    stored = written["sweeps"][0]["cases"][0]["verdicts"]["output_throughput"]
    assert (stored["low"], stored["high"]) == (None, None)
    read = outcome(written).sweeps[0].cases[case.case].verdicts["output_throughput"]
    assert (read.effect.low, read.effect.high) == (0.0, math.inf)


def test_counts_leave_out_what_nobody_judges():
    """Only what somebody was to judge is counted."""
    case = case_outcome(4, Status.REGRESSED)
    recorded = replace(case, verdicts={name: replace(verdict, judged=False) for name, verdict in case.verdicts.items()})
    assert counts(run_outcome(sweep_outcome(case))) == {"unchanged": 1, "regressed": 1}
    assert counts(run_outcome(sweep_outcome(recorded, mode="accept"))) == {}


def test_what_is_asserted_beside_the_gate_counts():
    """A stated limit or a knee is counted with the gated metrics, and is in the document with its figures."""
    limit = claim("median_ttft_ms", Status.REGRESSED, limit="at most 2 ms", reason="beyond the limit: 3 ms")
    run = run_outcome(sweep_outcome(case_outcome(4)), claims=(limit, claim("knee", Status.UNCHANGED)))
    assert counts(run) == {"unchanged": 3, "regressed": 1}
    written = document(run)["claims"][0]
    assert (written["case"], written["metric"]) == ("decode/opt-125m/batch=4", "median_ttft_ms")
    assert (written["verdict"], written["reason"]) == ("regressed", "beyond the limit: 3 ms")
    assert (written["limit"], outcome(document(run)).claims) == ("at most 2 ms", run.claims)


@pytest.mark.parametrize(
    ("changed", "said"), [({"format": "vllm"}, "no report of slmperf"), ({"version": 2}, "version 2")]
)
def test_foreign_documents(changed, said):
    """A document of another tool or of a later version is refused by name."""
    with pytest.raises(SlmperfError, match=said):
        outcome({**document(run_outcome()), **changed})
