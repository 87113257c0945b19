"""The highest rate within an SLO in whole runs: recorded beyond what the engine can do, gated, and red by a loss."""

import json

import pytest
from capacity import ENGINE, SETTINGS, project_in

SUITE = """
import pytest

from pytest_slmperf import OpenLoop, Slo, Sweep

CAPACITY = Sweep("capacity", OpenLoop(16, 16), request_rate=[5, 12, 40], model=["opt-125m"],
                 slo=Slo(e2el_ms=500), gate={"output_throughput": 0.1})


@pytest.fixture(scope="module")
def capacity(slmperf, slm_engine):
    return slmperf.measure(CAPACITY, slm_engine)


@CAPACITY.each
def test_throughput(capacity, request_rate):
    point = capacity[request_rate]
    assert point.output_throughput >= point.baseline.output_throughput


def test_highest_rate(capacity):
    claim = capacity.highest_rate_within(0.9)
    assert claim.unchanged_from(capacity.baseline.highest_rate_within(0.9))
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    project = project_in(tmp_path_factory.mktemp("recorded"), SUITE, traffic_s=4)
    said = project.apart("--slmperf-accept", engine=ENGINE)
    assert said.endswith("exit code 0"), said
    return project


def claim_of(project):
    (claim,) = json.loads((project.path / "report.json").read_text())["claims"]
    return claim


@pytest.fixture
def project(recorded, tmp_path):
    again = recorded.again(tmp_path)
    again.write("pyproject.toml", SETTINGS.format(traffic_s=4))
    again.write("test_suite.py", SUITE)
    return again


def test_shares_in_time_are_recorded_though_nothing_gates_them(recorded):
    """Where requests pile up there is none, which says by itself that none was in time."""
    file = next((recorded.path / "baselines").rglob("*.json"))
    stored = {name: case["points"][-1]["metrics"] for name, case in json.loads(file.read_text())["cases"].items()}
    assert stored["capacity/opt-125m/rate=12"]["goodput_share"]["tolerance"] is None
    assert "goodput_share" not in stored["capacity/opt-125m/rate=40"]


def test_the_same_engine_keeps_its_highest_rate(project):
    """It lies between two places of the sweep, and the report has it."""
    said = project.apart("--slmperf-report", "report.json", engine=ENGINE)
    assert said.endswith("exit code 0"), said
    claim = claim_of(project)
    assert (claim["case"], claim["metric"], claim["verdict"]) == ("capacity/opt-125m", "highest_rate", "unchanged")
    assert "for 90 % of the requests within the SLO" in claim["reason"]


def test_an_engine_that_is_slower_has_a_lower_one(project):
    """It is red by its own verdict, confirmed by fresh launches, whatever the throughput below it says."""
    said = project.apart("-k", "test_highest_rate", "--slmperf-report", "report.json", engine=f"{ENGINE},slowed=0.2")
    assert said.endswith("exit code 1"), said
    claim = claim_of(project)
    assert claim["verdict"] == "regressed"
    assert "confirmed by fresh launches" in claim["reason"]
