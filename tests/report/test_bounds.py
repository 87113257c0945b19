"""What bounds a sweep's cases, as it is said in each renderer."""

import json
from dataclasses import replace
from importlib.resources import files

import jsonschema_rs
import pytest
from rendered_runs import run_outcome, sweep_outcome

from pytest_slmperf.core.datasheets import roof_of
from pytest_slmperf.core.devices.board import BoardFacts
from pytest_slmperf.core.outcome import CaseOutcome
from pytest_slmperf.core.roofline import limit
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.report.bounds import bound_rows, bounds
from pytest_slmperf.report.document import document, outcome
from pytest_slmperf.report.markdown import markdown
from pytest_slmperf.report.terminal import lines

H100 = roof_of("NVIDIA H100 80GB HBM3")
TOKENS = 128


def case_at(batch, share, *, model="opt-1.3b", watts=None):
    """A case that reaches this share of its limit on an H100, and draws so much power."""
    least = limit(SHAPES[model], "float16", H100, requests=batch, prompt_tokens=TOKENS, output_tokens=TOKENS)
    rate = share * batch * TOKENS / least.least_s
    values = {
        "output_throughput": rate,
        "total_token_throughput": 2 * rate,
        "request_throughput": rate / TOKENS,
        **({"mean_power_w": watts} if watts else {}),
    }
    name = f"decode/{model}/batch={batch}"
    key = {"engine": "vllm", "model": model, "device": "cuda", "dtype": "float16", "threads": 1}
    samples = {metric: Sample.of([[value]] * 3) for metric, value in values.items()}
    boards = {"GPU-1": BoardFacts("counter", 700.0)} if watts else {}
    measurement = Measurement(name, key, samples, boards=boards)
    return CaseOutcome(name, {"model": model, "batch_size": batch}, measurement, None, {})


def run_of(*cases):
    return run_outcome(sweep_outcome(*cases, mode="report"), roofs={"gpu": H100})


def said(*cases):
    run = run_of(*cases)
    return [finding.line() for finding in bounds(run, run.sweeps[0])]


def test_a_series_has_one_line():
    """Neighbours that the same limit bounds are told together, by the lowest and the highest share."""
    (line,) = said(case_at(1, 0.9), case_at(4, 0.71), case_at(16, 0.4))
    bound = "batch=1 to 4: bandwidth-bound, 71–90% of the bandwidth limit"
    assert line == f"what bounds opt-1.3b: {bound}; batch=16: 40% of the bandwidth limit"


def test_a_smaller_pool_is_under_the_roof_of_its_own_boards():
    """A sweep over replicas on a GPU each runs one of them on one of the run's two boards, beside an idle one."""
    alone = case_at(1, 0.9)
    twice = {name: Sample.of([[2 * sample.median]] * 3) for name, sample in alone.measurement.samples.items()}
    key = {**alone.measurement.key, "pool": "gpus", "replicas": 2}
    of_two = Measurement("decode/opt-1.3b/batch=2", key, twice)
    pair = CaseOutcome(of_two.case, {"model": "opt-1.3b", "batch_size": 2}, of_two, None, {})
    run = replace(run_of(alone, pair), roofs={"gpu": H100.times(2)})
    run = replace(run, machine=replace(run.machine, device="2 x NVIDIA H100 80GB HBM3"))
    assert [row.of_limit for row in bound_rows(run, run.sweeps[0])] == ["90% (bandwidth)"] * 2


def test_little_power_at_a_large_batch_is_said_to_be_the_host():
    """With what it draws, and how far it is from what the device would allow."""
    (line,) = said(case_at(64, 0.2, watts=210))
    assert line == "what bounds opt-1.3b: batch=64: host-bound, 30% of its power and 20% of the bandwidth limit"


def test_nothing_is_said_where_nothing_bounds():
    """Cases far below both limits are in the table alone."""
    run = run_of(case_at(1, 0.2), case_at(4, 0.3))
    assert bounds(run, run.sweeps[0]) == []
    assert [row.of_limit for row in bound_rows(run, run.sweeps[0])] == ["20% (bandwidth)", "30% (bandwidth)"]
    assert "what bounds it" in markdown(run)
    assert not any("bound" in line for line in lines(run))


def test_what_is_faster_than_its_limit_is_said():
    """A share above all of it, by more than the roof's error, is a fault of the model or of the roof."""
    (_, line) = said(case_at(1, 1.3))
    assert line.startswith(
        "model and measurement differ: it was measured at 130% of its bandwidth limit (datasheet of H"
    )
    assert line.endswith(": opt-1.3b/batch=1")


def test_every_renderer_says_it():
    """The terminal and Markdown the line, Markdown a row for each case, JSON all figures, by the published schema."""
    run = run_of(case_at(1, 0.9), case_at(64, 0.2, watts=210))
    assert "bandwidth-bound, 90% of the bandwidth limit" in " ".join(lines(run, width=200))
    comment = markdown(run)
    assert "host-bound, 30% of its power" in comment
    assert "| opt-1.3b/batch=64 | host | 20% (bandwidth) | 18% | 4% | 30% | 2.45 GiB | 3.00 GiB |" in comment
    written = json.loads(json.dumps(document(run)))
    schema = json.loads((files("pytest_slmperf") / "schemas" / "report.json").read_text(encoding="utf-8"))
    jsonschema_rs.validator_for(schema).validate(written)
    explanations = [case["explanation"] for case in written["sweeps"][0]["cases"]]
    assert [one["bound"] for one in explanations] == ["bandwidth", "host"]
    assert explanations[1]["power_share"] == pytest.approx(0.3)
    assert outcome(written) == run


def test_without_a_roof_nothing_is_explained():
    """A device that nobody knows, and reports of other tools."""
    run = replace(run_of(case_at(1, 0.9)), roofs={})
    assert bounds(run, run.sweeps[0]) == bound_rows(run, run.sweeps[0]) == []
    assert document(run)["sweeps"][0]["cases"][0]["explanation"] is None
