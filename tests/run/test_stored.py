"""What is stored for the cases of a run."""

import pytest

from pytest_slmperf.core.baselines.lookup import Against
from pytest_slmperf.core.baselines.revision import Recording
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.outcome import SweepOutcome
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.core.verdict import Status
from pytest_slmperf.run.store import BaselineStore
from pytest_slmperf.run.stored import StoredCases

MACHINE = Machine("a board", "1.0")
CASES = {model: f"decode/{model}/batch=1" for model in ("opt-125m", "opt-350m")}


def key(engine):
    return {"engine": engine, "device": "cpu"}


def outcome(**engines):
    """A sweep that left its cases out, on an engine for each model."""
    specs = tuple(EngineSpec(engine, model.replace("_", "-")) for model, engine in engines.items())
    skipped = dict.fromkeys(CASES.values(), "it is too large")
    return SweepOutcome("decode", "stored", "gate", {}, specs, {}, None, launches=0, seconds=0.0, skipped=skipped)


@pytest.mark.parametrize("field", ["driver", "device"])
def test_a_driver_that_is_asked_for_and_not_stored_is_said_not_to_be(tmp_path, field):
    """Recording would store the present one; those that are there are named."""
    samples = {"output_throughput": Sample.of([[100.0 + launch, 100.0] for launch in range(20)])}
    measurement = Measurement(CASES["opt-125m"], key("ctranslate2"), samples)
    recording = Recording([measurement], {(CASES["opt-125m"], "output_throughput"): 0.05}, "2026-01-01T00:00:00Z")
    BaselineStore(tmp_path).accept(MACHINE, [("ctranslate2", "decode", recording)])
    stored = StoredCases(tmp_path, MACHINE, Against(field, "another"), record="pytest --slmperf --slmperf-accept")
    found = stored.find(CASES["opt-125m"], key("ctranslate2"))
    assert found.status is Status.NO_BASELINE
    assert found.reason.startswith(f"nothing is stored for the {field} another in {tmp_path}")
    assert f"baselines exist for {field} {getattr(MACHINE, field)}: compare with --slmperf-against=" in found.reason
    assert found.way_out.startswith(f"see what is stored: slmperf baselines list --baselines={tmp_path}; ")
    assert "--slmperf-accept" not in found.way_out


def test_what_another_engine_measures_now_is_stale(tmp_path):
    """A model that moved to another engine leaves a stale case, although the sweep still uses both."""
    samples = {"output_throughput": Sample.of([[100.0 + launch, 100.0] for launch in range(20)])}
    measurements = [Measurement(case, key("ctranslate2"), samples) for case in CASES.values()]
    tolerances = {(case, "output_throughput"): 0.05 for case in CASES.values()}
    recording = Recording(measurements, tolerances, "2026-01-01T00:00:00Z")
    BaselineStore(tmp_path).accept(MACHINE, [("ctranslate2", "decode", recording)])
    stored = StoredCases(tmp_path, MACHINE, None, record="pytest --slmperf --slmperf-accept")
    stored.find(CASES["opt-125m"], key("ctranslate2"))
    assert stored.stale([outcome(opt_125m="ctranslate2", opt_350m="ctranslate2")]) == []
    (line,) = stored.stale([outcome(opt_125m="ctranslate2", opt_350m="transformers")])
    assert f"ctranslate2-decode.json holds {CASES['opt-350m']}, and no suite measures that any more" in line
    (line,) = stored.stale([outcome(opt_125m="ctranslate2", opt_350m="transformers")], whole=False)
    assert line.endswith("and no test of this run looks at that: a whole run tells whether any suite does")
    assert "prune" not in line


def test_of_a_part_what_other_suites_may_have_is_one_line(tmp_path):
    """A project with many suites is not told of each of them, whenever one is run."""
    samples = {"output_throughput": Sample.of([[100.0 + launch, 100.0] for launch in range(20)])}
    recordings = []
    for suite in ("decode", "latency", "memory"):
        case = f"{suite}/opt-125m/batch=1"
        measured = [Measurement(case, key("ctranslate2"), samples)]
        tolerances = {(case, "output_throughput"): 0.05}
        recordings.append(("ctranslate2", suite, Recording(measured, tolerances, "2026-01-01T00:00:00Z")))
    BaselineStore(tmp_path).accept(MACHINE, recordings)
    stored = StoredCases(tmp_path, MACHINE, None, record="pytest --slmperf --slmperf-accept")
    assert len(stored.orphaned(["ctranslate2"], ["decode"])) == 2
    (line,) = stored.orphaned(["ctranslate2"], ["decode"], whole=False)
    assert line.startswith("no test of this run looks at ctranslate2-latency.json, ctranslate2-memory.json in ")
