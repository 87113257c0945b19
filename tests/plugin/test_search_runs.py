"""A search for the highest rate in whole runs: recorded, gated from there, and red by a loss."""

import json

import pytest
from capacity import ENGINE, project_in

CASE = "capacity/opt-125m/rate-up-to=64"

SUITE = """
import pytest

from pytest_slmperf import OpenLoop, Search, Slo, Sweep

CAPACITY = Sweep("capacity", OpenLoop(16, 16), request_rate=Search(4, 64, share=0.9), model=["opt-125m"],
                 slo=Slo(e2el_ms=500), gate={"highest_request_rate": 0.05})


@pytest.fixture(scope="module")
def capacity(slmperf, slm_engine):
    return slmperf.measure(CAPACITY, slm_engine)


@CAPACITY.each
def test_highest_rate(capacity, request_rate):
    point = capacity[request_rate]
    assert point.highest_request_rate >= point.baseline.highest_request_rate


def test_what_is_promised(capacity):
    assert capacity[64].highest_request_rate >= 5


def test_no_curve(capacity):
    with pytest.raises(Exception, match="its highest rate is a metric, which a search has found"):
        capacity.highest_rate


def test_of_no_place(capacity):
    with pytest.raises(Exception, match="a search tells highest_request_rate alone"):
        capacity[64].output_throughput.median
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    project = project_in(tmp_path_factory.mktemp("recorded"), SUITE, traffic_s=3)
    said = project.apart("--slmperf-accept", engine=ENGINE)
    assert said.endswith("exit code 0"), said
    return project


@pytest.fixture
def project(recorded, tmp_path):
    recorded.again(tmp_path)
    return project_in(tmp_path, SUITE, traffic_s=3)


def test_a_rate_is_recorded_as_any_metric(recorded):
    """One value a launch, which holds for a share of the requests."""
    file = next((recorded.path / "baselines").rglob("*.json"))
    case = json.loads(file.read_text())["cases"][CASE]
    assert case["key"]["search.share"] == 0.9
    assert len(case["points"][-1]["metrics"]["highest_request_rate"]["launches"]) == 20


def test_the_same_engine_finds_its_rate_again(project):
    """Whole and green, with a bill before."""
    said = project.apart(engine=ENGINE)
    assert said.endswith("exit code 0"), said
    assert f"1 case: {CASE}" in said


def test_an_engine_that_is_slower_has_a_lower_one(project):
    """However far below what was recorded: each launch looks for it."""
    said = project.apart(engine=f"{ENGINE},slowed=0.2")
    assert said.endswith("exit code 1"), said
    assert f"{CASE} highest_request_rate" in said
    assert "confirmed by" in said
