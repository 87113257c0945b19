"""What becomes of a suite's joules where nothing tells them: red, or skipped aloud while the rest is gated."""

import re

import pytest
from metered import BASELINE, SUITE, MeteredProject
from nvml_fixtures import skip_unless_built
from projects import Project

pytest.importorskip("pynvml")
NO_DRIVER = ("init DRIVER_NOT_LOADED",)
REASON = "no joules of NVIDIA boards: the NVIDIA driver is not loaded"

LIMITS = """
import pytest

from pytest_slmperf import StaticBatch, Sweep

LIMITED = Sweep("limited", StaticBatch(prompt_tokens=8, output_tokens=8), batch_size=[4], missing_meter={policy!r})


@pytest.fixture(scope="module")
def limited(slmperf, slm_engine, energy_meter):
    return slmperf.measure(LIMITED, slm_engine("opt-125m"))


@LIMITED.each
def test_throughput(limited, batch_size):
    assert limited[batch_size].output_throughput >= 1


@LIMITED.each
def test_energy(limited, batch_size):
    assert limited[batch_size].joules_per_output_token <= 1000
"""


@pytest.fixture
def project(tmp_path):
    """A project whose suite gates throughput and joules."""
    skip_unless_built()
    return MeteredProject(tmp_path)


@pytest.mark.parametrize(
    ("driver", "policy", "ends"),
    [
        pytest.param((), "red", ("exit code 0", "3 passed in"), id="a driver, red"),
        pytest.param((), "skip", ("exit code 0", "3 passed in"), id="a driver, skip"),
        pytest.param(NO_DRIVER, "red", ("exit code 1", "1 failed, 2 passed in"), id="none, red"),
        pytest.param(NO_DRIVER, "skip", ("exit code 0", "2 passed, 1 skipped in"), id="none, skip"),
    ],
)
def test_a_stated_limit_of_joules_without_a_meter_is_what_the_suite_says(project, driver, policy, ends):
    """With a meter, the policy changes nothing; without one the throughput is looked at all the same."""
    project.write("test_suite.py", LIMITS.format(policy=policy))
    said = project.run("-rs", scenario=driver)
    assert said.endswith(ends[0]), said
    assert ends[1] in said
    assert ("SKIPPED" in said) is ("skipped" in ends[1])
    assert (REASON in said) is bool(driver)


GONE = "the baseline holds it, and nothing tells it now: no joules of NVIDIA boards: "


@pytest.mark.parametrize(
    "scenario",
    [NO_DRIVER, ("fail DeviceGetUUID UNKNOWN",)],
    ids=["the driver", "the board"],
)
def test_a_meter_that_told_what_is_stored_and_is_gone_is_red(metered, tmp_path, scenario):
    """Where nobody set that it skips: the throughput is gated, and the joules are red, with the reason."""
    project = metered.again(tmp_path)
    said = project.run("-rs", scenario=scenario)
    assert said.endswith("exit code 1"), said
    assert GONE in " ".join(said.split())
    assert "1 failed, 2 passed in" in said
    said = project.run("--slmperf-accept", scenario=scenario)
    assert said.endswith("exit code 1"), said
    assert "nothing can be recorded: metered gates joules_per_output_token, and no joules of NVIDIA boards" in said


def test_a_meter_that_is_gone_is_skipped_where_that_is_set(metered, tmp_path):
    """Whoever says so knows that the joules of the baseline aren't gated."""
    project = metered.again(tmp_path)
    project.settings('missing_meter = "skip"')
    said = project.run("-rs", scenario=NO_DRIVER)
    assert said.endswith("exit code 0"), said
    assert "2 passed, 1 skipped in" in said


def test_joules_alone_are_red_too_where_their_meter_is_gone(metered, tmp_path):
    """The sweep isn't left out for want of anything else."""
    project = metered.again(tmp_path)
    joules = SUITE.replace('"output_throughput": 0.03, ', "").partition("\n@METERED.each\ndef test_throughput")
    energy = "@METERED.each\ndef test_energy" + joules[2].partition("@METERED.each\ndef test_energy")[2]
    project.write("test_suite.py", joules[0] + "\n\n" + energy)
    said = project.run(scenario=NO_DRIVER)
    assert said.endswith("exit code 1"), said
    assert GONE in " ".join(said.split())


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    """The same suite in simulated time, where no GPU is to be seen."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    project = Project(tmp_path)
    project.write("test_suite.py", SUITE)
    return project


def test_what_can_not_be_metered_is_recorded_and_gated_without_its_joules(simulated):
    """The throughput is gated as ever, and the test of joules is skipped with the reason: the run is green."""
    said = simulated.apart("--slmperf-accept")
    assert said.endswith("exit code 0"), said
    recorded = (simulated.path / BASELINE).read_text()
    assert "output_throughput" in recorded
    assert "joules_per_output_token" not in recorded
    said = simulated.apart("-rs")
    assert said.endswith("exit code 0"), said
    assert "1 unchanged" in said
    assert re.search(r"SKIPPED \[1\] test_suite.py:\d+: CUDA_VISIBLE_DEVICES hides every GPU", said)


def test_where_a_missing_meter_is_red_nothing_is_recorded(simulated):
    """Else the baseline would lack the joules in silence."""
    simulated.settings('missing_meter = "red"')
    said = simulated.apart("--slmperf-accept")
    assert said.endswith("exit code 1"), said
    assert "nothing can be recorded: metered gates joules_per_output_token, and CUDA_VISIBLE_DEVICES hides" in said
