"""Joules of a launch on the stand-in driver, under the real pynvml: counted, void, or missing with the reason."""

import os
import time
from dataclasses import replace

import pytest
from nvml_fixtures import driver, stub  # noqa: F401

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.core.metrics import BOARD, ENERGY, metric
from pytest_slmperf.core.sweep import Sweep
from pytest_slmperf.core.verdict import Status
from pytest_slmperf.core.workload import StaticBatch
from pytest_slmperf.run import fingerprint
from pytest_slmperf.run.brief import Brief, Configuration, Reference
from pytest_slmperf.run.briefing import Bench
from pytest_slmperf.run.campaign import Campaign
from pytest_slmperf.run.launch import EnergyTerms, run_launch
from pytest_slmperf.run.metering import open_nvml
from pytest_slmperf.run.progress import Progress

CASE = "metered/tiny/batch=4"
LOAD = Load(CASE, ((8, 8),) * 4, seed=1)
BEGIN_S = 1.5
"""When the timed round begins, in the scenario's seconds; the energy round follows within a tenth."""
MIDDLE_S = BEGIN_S + 0.45


@pytest.fixture
def launch(driver, tmp_path):  # noqa: F811 - a fixture's name
    """Measures one launch on a board of this scenario, with its joules."""
    log = tmp_path / "load"

    def measure(*statements, gated=True, window_s=0.5, real_time=True, **options):
        driver(f"load {log} 100 500", "period 0.02", *statements, real=True)
        epoch, waits = time.monotonic(), any(f"{MIDDLE_S}" in one for one in statements)
        metering = open_nvml(window_s=window_s, lead_in_s=0.1)
        told = {"load_log": str(log), "real_time": True} if real_time else {}
        try:
            record = run_launch(
                EngineSpec("fake", "tiny", options={**told, **options}),
                [LOAD],
                RoundPolicy(rounds=1, round_s=0.02, void_retries=0, answer_limit_s=20),
                arm="candidate",
                index=0,
                cores=None,
                quantiles=(0.5,),
                progress=lambda *_: time.sleep(max(0.0, epoch + BEGIN_S - time.monotonic())) if waits else None,
                energy=EnergyTerms(metering, gated=gated),
            )
        finally:
            metering.close()
        return record.cases[CASE]

    return measure


def test_a_launch_counts_the_joules_of_its_board_beside_everything_else(launch):
    case = launch()
    assert set(case.values) >= {*ENERGY, *BOARD, "output_throughput"}
    assert case.values["mean_power_w"] == pytest.approx((100 + 0.8 * 400,), rel=0.03)
    rate = case.values["output_throughput"][0]
    assert case.values["joules_per_output_token"] == pytest.approx((420 / rate,), rel=0.04)
    assert case.values["joules_per_total_token"] == pytest.approx((210 / rate,), rel=0.04)
    assert case.values["joules_per_request"] == pytest.approx((8 * 420 / rate,), rel=0.04)
    assert case.values["gpu_utilisation"] == pytest.approx((0.8,), rel=0.1)
    (facts,) = case.boards.values()
    assert (facts.source, facts.power_limit_w, facts.simulated) == ("counter", 700, True)
    assert all(metric(name).name == name for name in (*case.values, *case.unmeasured))
    assert any(note.startswith("joules come from counter, over") for note in case.notes)


@pytest.mark.parametrize(
    ("statement", "guard", "words"),
    [
        pytest.param(f"reset {MIDDLE_S}", "reset", "went back", id="reset"),
        pytest.param(f"throttle hw_thermal {MIDDLE_S}", "throttled", "it was hot", id="throttled"),
        pytest.param(f"process 4321 {MIDDLE_S} - compute 900 miner", "foreign", "miner (pid 4321)", id="foreign"),
        pytest.param(f"lost {MIDDLE_S}", "unreadable", "the GPU is lost", id="lost"),
        pytest.param(
            f"power_limit 0 700; power_limit {MIDDLE_S} 400",
            "power limit",
            "400 W after the round, not 700 W",
            id="limit",
        ),
        pytest.param("process 4321 0 - compute 900 miner", "foreign", "before our own start", id="foreign before"),
    ],
)
def test_what_happens_to_the_board_in_the_middle_voids_the_case_and_says_what(launch, statement, guard, words):
    case = launch(*statement.split("; "))
    assert case.values == {}
    assert words in case.void
    (void,) = case.void_rounds
    assert void.guard == guard
    assert void.reason.startswith("GPU-")


def test_a_counter_that_stands_still_voids_the_case(launch):
    case = launch(f"stuck {MIDDLE_S}", window_s=1.6)
    assert [void.guard for void in case.void_rounds] == ["stuck"]
    assert "stood still" in case.void


def test_where_no_joules_are_gated_a_void_energy_round_leaves_the_rest_alone(launch):
    case = launch(f"throttle hw_thermal {MIDDLE_S}", gated=False)
    assert case.void is None
    assert "output_throughput" in case.values
    assert {case.unmeasured[name] for name in ENERGY} == {case.unmeasured["mean_power_w"]}
    assert "stayed void" in case.unmeasured["mean_power_w"]
    assert "it was hot" in case.unmeasured["mean_power_w"]


def test_without_a_counter_power_is_integrated_with_its_larger_error(launch):
    case = launch("fail DeviceGetTotalEnergyConsumption NOT_SUPPORTED")
    assert [facts.source for facts in case.boards.values()] == ["integrated power"]
    assert any("joules come from integrated power" in note for note in case.notes)


def test_without_permission_joules_are_unmeasured_with_the_reason(launch):
    refused = [f"fail {call} NO_PERMISSION" for call in ("DeviceGetTotalEnergyConsumption", "DeviceGetPower*")]
    case = launch(*refused, *(f"fail field:{number} NO_PERMISSION" for number in (185, 186)))
    assert case.void is None
    assert "output_throughput" in case.values
    assert "this user may not ask for it (NO_PERMISSION)" in case.unmeasured["joules_per_output_token"]


def test_without_a_driver_joules_are_unmeasured_with_the_reason(launch):
    case = launch("init DRIVER_NOT_LOADED")
    assert "the NVIDIA driver is not loaded" in case.unmeasured["joules_per_output_token"]
    assert "output_throughput" in case.values


def test_a_simulated_clock_has_no_joules(launch):
    case = launch(real_time=False)
    assert "not those of this machine's clock" in case.unmeasured["joules_per_output_token"]


def test_a_hidden_gpu_is_not_read(launch, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "hides every GPU" in launch().unmeasured["mean_power_w"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_a_board_that_stays_throttled_makes_every_gated_metric_of_its_case_void(driver, tmp_path):  # noqa: F811
    driver(f"load {tmp_path / 'load'} 100 500", "period 0.02", "throttle hw_thermal 0", real=True)
    sweep = Sweep("metered", StaticBatch(8, 8), batch_size=[4], gate={"output_throughput": 0.05, "mean_power_w": 0.05})
    spec = EngineSpec("fake", "tiny", options={"load_log": str(tmp_path / "load"), "real_time": True})
    metering = open_nvml(window_s=0.3, lead_in_s=0.1)
    bench = Bench(fingerprint.simulated(), lambda *_: Reference(reason="nothing is stored"), Progress(Screen()))
    around = replace(bench.surroundings(sweep, metering), pause=lambda _: None)
    policy = RoundPolicy(rounds=1, round_s=0.02, void_retries=0)
    brief = Brief(sweep, (Configuration(spec, tuple(sweep.cases(["tiny"]))),), "gate", policy, 20, 16)
    (case,) = Campaign(brief, around).run().cases.values()
    metering.close()
    assert {verdict.status for verdict in case.verdicts.values()} == {Status.VOID}
    assert all("it was hot" in verdict.reason for verdict in case.verdicts.values())


class Screen:
    """Nobody looks."""

    rewrites = False

    def show(self, line, *, replace):
        """See the screen's protocol."""
