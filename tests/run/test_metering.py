"""Joules of a launch on the stand-in driver, under the real pynvml: counted, void, or missing with the reason."""

import os
from contextlib import suppress
from dataclasses import replace
from statistics import median

import pytest
from nvml_fixtures import driver, stub  # noqa: F401

from pytest_slmperf.core.devices.board import BoardFacts
from pytest_slmperf.core.energy.idle import net_of_idle
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.core.metrics import BOARD, ENERGY, metric
from pytest_slmperf.core.protocol import Measured
from pytest_slmperf.core.results.point import Ledger
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.core.sweeps.workload import StaticBatch
from pytest_slmperf.core.verdict import Status
from pytest_slmperf.meters.nvml import NvmlMeter
from pytest_slmperf.run import fingerprint
from pytest_slmperf.run.brief import Brief, Configuration, Reference
from pytest_slmperf.run.briefing import Bench
from pytest_slmperf.run.campaign import Campaign
from pytest_slmperf.run.devices import Device, HeldDevices
from pytest_slmperf.run.joules import Joules
from pytest_slmperf.run.launch import run_launch
from pytest_slmperf.run.launch.terms import EnergyTerms
from pytest_slmperf.run.measuring import Measuring
from pytest_slmperf.run.metering import (
    LONGEST_GAP_NS,
    SHORTEST_WINDOW,
    Metering,
    Stretch,
    open_nvml,
    pace_for,
    rounds_of,
)
from pytest_slmperf.run.options import Options
from pytest_slmperf.run.progress import Progress
from pytest_slmperf.run.settings import Settings

CASE = "metered/tiny/batch=4"
LOAD = Load(CASE, ((8, 8),) * 4, seed=1)
TOKENS_PER_S = 32 / (8 * (1 + 3 / 16) / 1000 + 32 / 100_000)
"""Of the engine `fake` with this load: eight steps of four requests, after a prefill."""
LEAD_IN_S = 0.05
SETTLED_S = 0.1
"""After the meter's start, when something happens to the board: the load goes on for 0.4 s and more."""


class Eventful(NvmlMeter):
    """A meter on whose board something happens a moment after it was started."""

    def __init__(self, driver, statements, window_s):  # noqa: F811 - a fixture's name
        super().__init__(pace=pace_for(window_s))
        self._driver = driver
        self._statements = statements

    def start(self):
        super().start()
        for statement in self._statements:
            self._driver.say(statement.format(then=self._driver.seconds() + SETTLED_S))


@pytest.fixture
def launch(driver, tmp_path):  # noqa: F811 - a fixture's name
    """Measures one launch on a board of this scenario, with its joules; `{then}` is amid the energy round."""
    log = tmp_path / "load"

    def measure(
        *statements,
        gated=True,
        window_s=0.3,
        lead_in_s=LEAD_IN_S,
        real_time=True,
        void_retries=4,
        boards=(),
        seen_s=None,
        rounds=1,
        **options,
    ):
        later = [one for one in statements if "{then}" in one]
        one = driver(f"load {log} 100 500", "period 0.02", *(one for one in statements if one not in later), real=True)
        terms = {"window_s": window_s, "lead_in_s": lead_in_s}
        if later:
            metering = Metering(Eventful(one, later, window_s), **terms)
        elif boards:
            metering = Metering(NvmlMeter(boards, pace=pace_for(window_s)), **terms)
        else:
            settings = Settings(**terms, sensor_seen_s=seen_s)
            metering = Joules(settings, fingerprint.simulated(), Device("simulated")).metering
            metering.measure_idle_power()
        told = {"load_log": str(log), "real_time": True} if real_time else {}
        try:
            record = run_launch(
                EngineSpec("fake", "tiny", options={**told, **options}),
                [LOAD],
                RoundPolicy(rounds=rounds, round_s=0.02, void_retries=void_retries, answer_limit_s=20),
                arm="candidate",
                index=0,
                cores=None,
                quantiles=(0.5,),
                energy=EnergyTerms(metering, gated=gated, timed=gated),
            )
        finally:
            metering.close()
        return record.cases[CASE]

    return measure


def test_a_launch_counts_the_joules_of_its_board_beside_everything_else(launch):
    """Per token and per request they fit the board's watts and the engine's pace, and a note says how they came."""
    case = launch()
    assert set(case.values) >= {*ENERGY, *BOARD, "output_throughput"}
    assert case.values["mean_power_w"] == pytest.approx((100 + 0.8 * 400,), rel=0.05)
    assert case.values["joules_per_output_token"] == pytest.approx((420 / TOKENS_PER_S,), rel=0.05)
    assert case.values["joules_per_total_token"] == pytest.approx((210 / TOKENS_PER_S,), rel=0.05)
    assert case.values["joules_per_request"] == pytest.approx((8 * 420 / TOKENS_PER_S,), rel=0.05)
    assert 0.5 < case.values["gpu_utilisation"][0] <= 0.81
    (facts,) = case.boards.values()
    assert (facts.source, facts.power_limit_w, facts.simulated) == ("counter", 700, True)
    assert all(metric(name).name == name for name in (*case.values, *case.unmeasured))
    assert any(note.startswith("joules come from counter, over") for note in case.notes)


@pytest.mark.parametrize(
    ("statement", "guard", "words"),
    [
        pytest.param("reset {then}", "reset", "went back", id="reset"),
        pytest.param("throttle hw_thermal {then}", "throttled", "it was hot", id="throttled"),
        pytest.param("process 4321 {then} - compute 900 miner", "foreign", "miner (pid 4321)", id="foreign"),
        pytest.param("lost {then}", "unreadable", "the GPU is lost", id="lost"),
        pytest.param("power_limit {then} 400", "power limit", "400 W after the round, not 700 W", id="limit"),
        pytest.param("process 4321 0 - compute 900 miner", "foreign", "before our own start", id="foreign before"),
    ],
)
def test_what_happens_to_the_board_in_the_middle_voids_the_case_and_says_what(launch, statement, guard, words):
    """The reason begins with the board, and the void round has the guard's name."""
    case = launch(statement, void_retries=0)
    assert case.values == {}
    assert words in case.void
    (void,) = case.void_rounds
    assert void.guard == guard
    assert void.reason.startswith("GPU-")


def test_the_error_of_a_part_time_sensor_that_is_set_is_in_the_stated_one(launch):
    """What the doctor found is set once, and every run's meter knows it."""
    whole, part = (launch("sensor 0.005", seen_s=seen_s, window_s=0.6).meter_error.sensor for seen_s in (None, 0.005))
    assert whole == 0 < part


def test_a_window_too_short_for_a_part_time_sensor_has_no_joules(launch):
    """They are unmeasured, with the number of updates that it takes."""
    case = launch("sensor 0.005", seen_s=0.005, window_s=0.15, void_retries=0)
    assert "too short for the 20 updates" in case.unmeasured["joules_per_output_token"]
    assert case.meter_error is None


def test_a_counter_that_stands_still_voids_the_case(launch):
    """For more than a second under load: nothing is taken for a small power."""
    case = launch("stuck {then}", window_s=1.5, void_retries=0)
    assert [void.guard for void in case.void_rounds] == ["stuck"]
    assert "stood still" in case.void


@pytest.mark.parametrize("window_s", [0.1, 0.3, 3.0])
@pytest.mark.parametrize("lead_in_s", [0.0, 1.5])
@pytest.mark.parametrize("look_s", [0.0001, 0.01])
def test_a_window_has_its_edges_however_short_it_is_and_whatever_looking_costs(driver, window_s, lead_in_s, look_s):  # noqa: F811
    """On a counter that moves ten times a second, wherever the load begins between two moves."""
    for phase_s in (0.0, 0.03, 0.06, 0.09):
        one = driver("power 0 400", f"period 0.1 0.02 {phase_s}", f"delay DeviceGetTotalEnergyConsumption {look_s}")
        pace = replace(pace_for(window_s), cpu_share=1e-12)
        meter = NvmlMeter(pace=pace, clock=one.now_ns, sleep=one.sleep)
        metering = Metering(meter, window_s=window_s, lead_in_s=lead_in_s)
        began_ns = one.now_ns()
        (trace,) = meter.watch(0.01 * metering.batches(0.01)).traces
        edges = [edge for edge in trace.edges if edge.at_ns - began_ns >= lead_in_s * 1e9]
        assert len(edges) >= max(2, min(6, 10 * window_s))
        assert (edges[-1].at_ns - edges[0].at_ns) / 1e9 >= SHORTEST_WINDOW * window_s
        metering.close()


def test_a_round_that_was_too_short_for_its_counter_is_repeated_as_long_as_that_needs(launch):
    """How often a counter moves is known from the first try: the next holds two of its updates more."""
    case = launch("period 0.35", window_s=0.1, lead_in_s=1.25, void_retries=1)
    assert [void.guard for void in case.void_rounds] == ["window"]
    assert "mean_power_w" in case.values


def test_a_load_that_has_run_up_to_the_meters_start_has_had_its_lead_in(launch):
    """No power of before is in its joules, with the lead-in behind it as with all of it to come."""
    for lead_in_s in (0.02, 0.3):
        assert launch(lead_in_s=lead_in_s, gated=False).values["mean_power_w"] == pytest.approx((420,), rel=0.05)


S = 1_000_000_000


def test_a_stretch_goes_on_from_round_to_round_until_the_load_pauses():
    """Its length is that since the pause; an instant before its end is one of another clock."""
    stretch = Stretch()
    assert stretch.ran_s(0) == 0
    stretch.add(S, 2 * S)
    stretch.add(2 * S + LONGEST_GAP_NS, 3 * S)
    assert stretch.ran_s(3 * S + LONGEST_GAP_NS) == pytest.approx(2.05)
    assert stretch.ran_s(3 * S + LONGEST_GAP_NS + 1) == stretch.ran_s(3 * S - 1) == 0
    stretch.add(4 * S, 5 * S)
    assert stretch.ran_s(5 * S) == 1


@pytest.mark.parametrize(("statements", "left_s"), [((), 0.5), (("missing DeviceGetTotalEnergyConsumption",), 1.5)])
def test_what_a_load_has_run_is_of_its_lead_in_where_a_counter_is_read(driver, statements, left_s):  # noqa: F811
    """A mean of power looks back over the pauses between the rounds, and wants all of it."""
    driver("power 0 400", *statements)
    metering = Metering(NvmlMeter(), window_s=3.0, lead_in_s=1.5)
    assert metering.left_of_lead_in_s(1.0) == left_s
    assert metering.batches(0.1, 1.0) == 10 * left_s + 32
    metering.close()


def test_a_marked_stretch_is_rounds_of_whole_batches_after_its_lead_in():
    """As many as are wanted or there are batches for, alike but for a batch; the last batch where none is left."""
    marks = tuple((place * S, place * S + S) for place in range(10))
    whole = Measured(0, 10 * S, requests=40, prompt_tokens=160, output_tokens=80, marks=marks, front_end=0.5)
    rounds = rounds_of(whole, 1.5, 3)
    assert [(one.started_ns // S, one.ended_ns // S, one.requests) for one in rounds] == [
        (2, 5, 12),
        (5, 7, 8),
        (7, 10, 12),
    ]
    assert [(one.prompt_tokens, one.output_tokens) for one in rounds] == [(48, 24), (32, 16), (48, 24)]
    assert {one.front_end for one in rounds} == {0.5}
    assert len(rounds_of(whole, 8.0, 4)) == 2
    assert [one.started_ns // S for one in rounds_of(whole, 99.0, 4)] == [9]


@pytest.mark.parametrize("statements", [(), ("init DRIVER_NOT_LOADED",)])
def test_where_joules_are_gated_throughput_is_read_from_the_same_stretch(launch, statements):
    """In as many parts as there would be rounds, also where nothing tells the joules; else in rounds of its own."""
    of_window, of_rounds = (launch(*statements, gated=gated, rounds=3).values for gated in (True, False))
    assert len(of_window["output_throughput"]) == len(of_rounds["output_throughput"]) == 3
    for values in (of_window, of_rounds):
        assert median(values["output_throughput"]) == pytest.approx(TOKENS_PER_S, rel=0.05)
    if not statements:
        joules_a_second = of_window["joules_per_output_token"][0] * median(of_window["output_throughput"])
        assert joules_a_second == pytest.approx(of_window["mean_power_w"][0], rel=0.05)


def test_where_no_joules_are_gated_a_void_energy_round_leaves_the_rest_alone(launch):
    """Throughput is kept, and the joules are unmeasured with the guard's reason."""
    case = launch("throttle hw_thermal {then}", gated=False, void_retries=0)
    assert case.void is None
    assert "output_throughput" in case.values
    assert {case.unmeasured[name] for name in ENERGY} == {case.unmeasured["mean_power_w"]}
    assert "stayed void" in case.unmeasured["mean_power_w"]
    assert "it was hot" in case.unmeasured["mean_power_w"]


def test_without_a_counter_power_is_integrated_with_its_larger_error(launch):
    """Means of power stand in, and the record says that they do."""
    case = launch("fail DeviceGetTotalEnergyConsumption NOT_SUPPORTED")
    assert [facts.source for facts in case.boards.values()] == ["integrated power"]
    assert any("joules come from integrated power" in note for note in case.notes)


def test_without_permission_joules_are_unmeasured_with_the_reason(launch):
    """The case is measured in all the rest, and void for nothing."""
    refused = [f"fail {call} NO_PERMISSION" for call in ("DeviceGetTotalEnergyConsumption", "DeviceGetPower*")]
    case = launch(*refused, *(f"fail field:{number} NO_PERMISSION" for number in (185, 186)))
    assert case.void is None
    assert "output_throughput" in case.values
    assert "this user may not ask for it (NO_PERMISSION)" in case.unmeasured["joules_per_output_token"]


def test_several_boards_are_one_meter_of_which_each_is_guarded(launch):
    """Their joules and memory are added up, and whatever one of them is void for, all are."""
    alone, both = launch("boards 2"), launch("boards 2", boards=(0, 1))
    for name in ("joules_per_output_token", "mean_power_w", "gpu_memory_used_bytes"):
        assert both.values[name][0] == pytest.approx(2 * alone.values[name][0], rel=0.1)
    assert set(both.boards) == {f"GPU-00000000-0000-4000-8000-00000000000{index}" for index in (0, 1)}
    hot = launch("boards 2", "board 1", "throttle hw_thermal 0", boards=(0, 1), void_retries=0)
    assert hot.void_rounds[0].reason.startswith("GPU-00000000-0000-4000-8000-000000000001: ")


def test_what_could_not_be_seen_of_the_board_is_said_in_the_notes(launch):
    """With the driver's reason, and what stood in for it."""
    notes = launch("fail DeviceGetComputeRunningProcesses NO_PERMISSION", "ecc off").notes
    assert any("who is on the board can't be seen (this user may not ask for it" in note for note in notes)
    assert any("its memory and utilisation said that it was free" in note for note in notes)
    assert any("this board tells nothing of ECC errors" in note for note in notes)


def test_a_board_without_joules_says_why_each_meter_has_none(driver):  # noqa: F811 - a fixture's name
    """Its own meter's reason comes first."""
    driver(
        *(f"fail {what} NO_PERMISSION" for what in ("DeviceGetTotalEnergyConsumption", "DeviceGetPower*", "field:185"))
    )
    metering = Metering(NvmlMeter(), window_s=0.1, lead_in_s=0.0)
    metering.nor_has("no joules through Zeus: it sees none")
    missing = metering.source.missing
    metering.close()
    assert missing.startswith("GPU-00000000-0000-4000-8000-000000000000: no counter, since ")
    assert missing.endswith("(NO_PERMISSION); no joules through Zeus: it sees none")


def test_without_a_driver_joules_are_unmeasured_with_the_reason(launch):
    """The throughput is measured all the same."""
    case = launch("init DRIVER_NOT_LOADED")
    assert "the NVIDIA driver is not loaded" in case.unmeasured["joules_per_output_token"]
    assert "output_throughput" in case.values


def test_a_simulated_clock_has_no_joules(launch):
    """An engine's own time is not that in which a board takes power."""
    case = launch(real_time=False)
    assert "not those of this machine's clock" in case.unmeasured["joules_per_output_token"]


def test_a_hidden_gpu_is_not_read(launch, monkeypatch):
    """Whoever hides every GPU from CUDA has none metered, and the variable stays as it was."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "hides every GPU" in launch().unmeasured["mean_power_w"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_the_boards_idle_power_is_measured_before_the_engine_starts_and_is_no_metric(launch):
    """It is a fact of the board, with its error, and joules net of it follow from both."""
    case = launch()
    (facts,) = case.boards.values()
    assert facts.idle_w == pytest.approx(100, rel=0.02)
    assert 0 <= facts.idle_error_w < 5
    assert not any("idle" in name for name in (*case.values, *case.unmeasured))
    net = net_of_idle(
        Measurement(CASE, {}, {name: Sample.of([value]) for name, value in case.values.items()}, boards=case.boards)
    )
    assert net.joules_per_output_token == pytest.approx(320 / TOKENS_PER_S, rel=0.07)


class Screen:
    """Nobody looks."""

    rewrites = False

    def show(self, line, *, replace):
        """See the screen's protocol."""


class Warming(Screen):
    """Nobody looks, and the board takes more from when the first launch is told."""

    def __init__(self, driver):  # noqa: F811 - a fixture's name
        self._driver = driver

    def show(self, line, *, replace):  # noqa: ARG002 - the screen's protocol
        if "launch 1" in line:
            with suppress(ValueError):  # no session is open where no joules are known to come
                self._driver.say(f"load {self._driver.scenario.with_name('load')} 300 500")


@pytest.mark.parametrize(
    ("statements", "names", "idle_w"),
    [
        pytest.param((), ["metered"], 100, id="metered first"),
        pytest.param((), ["plain", "metered"], 100, id="metered later"),
        pytest.param((), ["plain", None, "metered"], None, id="not known to come"),
        pytest.param(("process 4321 0 2 compute 900 miner",), ["metered"], None, id="others at first"),
    ],
)
def test_idle_power_is_measured_before_the_runs_first_engine_or_never(driver, tmp_path, statements, names, idle_w):  # noqa: F811
    """Not after a launch, be it one that only primes or one of a sweep without joules; nor beside somebody else."""
    log = tmp_path / "load"
    one = driver(f"load {log} 100 500", "period 0.02", *statements, real=True)
    settings = Settings(rounds=1, round_s=0.02, window_s=0.3, lead_in_s=LEAD_IN_S, max_launches=8, void_retries=4)
    progress = Progress(Warming(one))
    run = Measuring(Options(engine="fake", tier="quick"), settings, root=tmp_path, progress=progress, ledger=Ledger())
    sweeps = {"plain": Sweep("plain", StaticBatch(8, 8), [4], gate={"output_throughput": 0.05}), "metered": METERED}
    for name in names[: names.index(None)] if None in names else names:
        run.coverage.select(sweeps[name], None)
    for name in filter(None, names):
        run.measure(sweeps[name], run.engine("tiny", load_log=str(log), real_time=True))
    run.close()
    (case,) = run.outcome().sweeps[-1].cases.values()
    (facts,) = case.measurement.boards.values()
    assert facts.idle_w == (None if idle_w is None else pytest.approx(idle_w, rel=0.05))


METERED = Sweep("metered", StaticBatch(8, 8), batch_size=[4], gate={"output_throughput": 0.05, "mean_power_w": 0.05})


@pytest.fixture
def gate(driver, tmp_path):  # noqa: F811 - a fixture's name
    """Gates a case on a board of this scenario; gives its verdicts. `stored` is what the baseline says."""

    def run(*statements, stored=lambda *_: Reference(reason="nothing is stored"), with_joules=True):
        driver(f"load {tmp_path / 'load'} 100 500", "period 0.02", *statements, real=True)
        spec = EngineSpec("fake", "tiny", options={"load_log": str(tmp_path / "load"), "real_time": True})
        metering = open_nvml(window_s=0.1, lead_in_s=LEAD_IN_S)
        progress = Progress(Screen())
        held = HeldDevices(wait_s=0, say=progress.remark)
        bench = Bench(fingerprint.simulated(), stored, progress, Device("simulated"), held)
        around = replace(bench.surroundings(METERED, metering, with_joules=with_joules), pause=lambda _: None)
        policy = RoundPolicy(rounds=1, round_s=0.02, void_retries=0)
        brief = Brief(METERED, (Configuration(spec, tuple(METERED.cases(["tiny"]))),), "gate", policy, 20, 16)
        (case,) = Campaign(brief, around).run().cases.values()
        metering.close()
        return case.verdicts

    return run


@pytest.mark.parametrize("with_joules", [True, False])
def test_the_key_says_where_throughput_is_read_with_the_joules(gate, with_joules):
    """So that it is never compared with that of rounds of its own."""
    keys = []

    def stored(_case, key):
        keys.append(key)
        return Reference(reason="nothing is stored")

    gate(stored=stored, with_joules=with_joules)
    assert keys[0].get("timed") == ("with joules" if with_joules else None)


def test_a_board_that_stays_throttled_makes_every_gated_metric_of_its_case_void(gate):
    """Throughput too: a slow board is no regression."""
    verdicts = gate("throttle hw_thermal 0")
    assert {verdict.status for verdict in verdicts.values()} == {Status.VOID}
    assert all("it was hot" in verdict.reason for verdict in verdicts.values())


@pytest.mark.parametrize(
    "uncounted",
    [
        pytest.param([], id="counted"),
        pytest.param(
            ["fail field:74 NOT_SUPPORTED", "fail DeviceGetViolationStatus NOT_SUPPORTED"], id="seen in the mask"
        ),
    ],
)
def test_a_board_that_its_power_limit_holds_back_as_it_did_not_for_the_baseline_has_void_joules(gate, uncounted):
    """Whether the driver counts that time or only shows it at the moment."""

    def stored(case, key):
        samples = {"mean_power_w": Sample.of([[420.0]] * 20)}
        boards = {"GPU-00000000-0000-4000-8000-000000000000": BoardFacts("counter", 700.0, power_capped=(0.0,) * 20)}
        return Reference(Measurement(case, key, samples, boards=boards), {"mean_power_w": 0.05})

    verdict = gate("throttle sw_power_cap 0", *uncounted, stored=stored)["mean_power_w"]
    assert (verdict.status, verdict.judged) == (Status.VOID, True)
    assert "held it back for 100.0% of the rounds, and for 0.0% of the baseline's" in verdict.reason


@pytest.mark.parametrize(("statement", "share"), [("throttle sw_power_cap 0 - 0.4", 0.4), ("driver 580.65.06", 0.0)])
def test_a_launch_keeps_how_long_the_power_limit_held_its_board_back(launch, statement, share):
    """As a share of the energy round, for each launch."""
    (facts,) = launch(statement).boards.values()
    assert facts.power_capped == (pytest.approx(share, abs=0.02),)
