"""Joules of requests that come and go one by one, on the stand-in driver: over the window whose tokens are counted."""

import json
from statistics import median

import pytest
from few_launches import MEASURED, store
from metered import BUSY_W, MeteredProject
from nvml_fixtures import skip_unless_built

pytest.importorskip("pynvml")
pytestmark = pytest.mark.alone  # requests are sent in real time, and who sends them late voids a round

SUITE = """
import pytest

from pytest_slmperf import ClosedLoop, Sweep

METERED = Sweep("metered", ClosedLoop(8, 8), concurrency=[4], model=["opt-125m"],
                gate={"joules_per_output_token": 0.15})


@METERED.each
def test_energy(slmperf, slm_engine, energy_meter, concurrency):
    point = slmperf.measure(METERED, slm_engine)[concurrency]
    assert point.joules_per_output_token <= point.baseline.joules_per_output_token
"""


class TrafficProject(MeteredProject):
    """A folder with a suite that gates joules of a closed loop."""

    def __init__(self, path):
        super().__init__(path)
        self.settings("traffic_s = 0.25", "max_launches = 8")
        self.write("test_suite.py", SUITE)

    def reported(self, *args, **terms):
        """What a run said, and its one case."""
        said = self.run("--slmperf-report=report.json", *args, **terms)
        return said, self.case()

    def case(self):
        """The one case of the last run's report."""
        (sweep,) = json.loads((self.path / "report.json").read_text())["sweeps"]
        return sweep["cases"][0]


@pytest.fixture(scope="module")
def recorded(recorded_once):
    """A project with a baseline, and the report that it is of."""
    return recorded_once(TrafficProject, lambda project: store(project, project.run(*MEASURED)))


def middle(case, metric):
    return median(rounds[0] for rounds in case["samples"][metric]["launches"])


def test_joules_of_traffic_are_its_boards_power_over_its_throughput(recorded):
    """Counted over the same stretch."""
    case = recorded.case()
    expected = middle(case, "mean_power_w") / middle(case, "output_throughput")
    assert middle(case, "joules_per_output_token") == pytest.approx(expected, rel=0.1)


def test_a_board_that_takes_more_for_the_same_traffic_is_red(recorded, tmp_path):
    """As of batches."""
    said, case = recorded.again(tmp_path).reported(busy_w=BUSY_W * 1.6)
    assert said.endswith("exit code 1"), said
    assert "regressed: metered/opt-125m/concurrency=4 joules_per_output_token" in said, said
    joules = (middle(one, "joules_per_output_token") for one in (recorded.case(), case))
    before, now = joules
    assert 1.3 * before < now < 1.7 * before


def test_a_board_that_somebody_else_is_on_voids_traffic(tmp_path):
    """By the guards of boards, and by their name; the budget ends the run after a void launch."""
    skip_unless_built()
    project = TrafficProject(tmp_path)
    said, case = project.reported("--slmperf-budget=0.05", scenario=["process 4321 0 1000000 compute 900 miner"])
    assert said.endswith("exit code 1"), said
    found = [one["reason"] for one in case["void_rounds"] if one["guard"] == "foreign"]
    assert found, said
    assert "miner (pid 4321)" in found[0]
    assert not case["samples"]
