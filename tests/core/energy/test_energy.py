"""Energy as arithmetic: edges, work, windows, and what they may be wrong by."""

import math
import random
from dataclasses import replace

import pytest

from pytest_slmperf.core.devices.board import SLOWDOWNS, BoardFacts, BoardSample, BoardState, Effect
from pytest_slmperf.core.devices.edges import Edge, EnergyTrace, Look, PowerReading, judge_trace
from pytest_slmperf.core.energy.idle import idle_power, net_of_idle
from pytest_slmperf.core.energy.rounds import energy_of_round, judge_plausibility
from pytest_slmperf.core.energy.tally import BATCH_SWING, STEP_SWING, Work
from pytest_slmperf.core.energy.window import GAIN, Energy, NoEnergy, Terms, Uncertainty, energy_of, meter_decides
from pytest_slmperf.core.meter import Around, Recording
from pytest_slmperf.core.sample import Measurement, Sample

NS = 1_000_000_000
MS = 1_000_000
STEP_MS = 20


def edge(at_ms, joules, *, before=40.0, look_ms=1, gap_ms=1):
    """A move at this time, seen by two looks as long as `look_ms` with a pause in between."""
    at, look, gap = (round(ms * MS) for ms in (at_ms, look_ms, gap_ms))
    old = Look(at - gap // 2 - look, at - gap // 2, joules - before)
    return Edge(old, Look(at + gap // 2, at + gap // 2 + look, joules))


def counter(*, watts=400.0, until_ms=6000, period_ms=100, start_ms=37, board="GPU-a", **more):
    """What a counter of constant power shows."""
    moves = range(start_ms, until_ms, period_ms)
    seen = tuple(edge(at, watts * at / 1000, before=watts * period_ms / 1000) for at in moves)
    return EnergyTrace(board, "counter", edges=seen, **more)


def steps(until_ms=6000, *, tokens=64, prompt=0, step_ms=STEP_MS, swing=STEP_SWING):
    """Work that began at 0, step by step."""
    return tuple(Work(at * MS, (at + step_ms) * MS, tokens, prompt, 0.5, swing) for at in range(0, until_ms, step_ms))


def per_token(energy):
    assert isinstance(energy, Energy), energy
    return energy.metrics()["joules_per_output_token"]


def test_joules_per_token_are_counted_from_edge_to_edge():
    """At constant power every figure of joules is the power over the pace of what it is counted by."""
    found = energy_of([counter(watts=400)], steps(tokens=64, prompt=16))
    assert per_token(found).value == pytest.approx(400 / (64 / 0.02), rel=1e-12)
    metrics = found.metrics()
    assert metrics["mean_power_w"].value == pytest.approx(400, rel=1e-12)
    assert metrics["joules_per_total_token"].value == pytest.approx(400 / (80 / 0.02), rel=1e-12)
    assert metrics["joules_per_request"].value == pytest.approx(400 / (0.5 / 0.02), rel=1e-12)
    assert found.source == "counter"


def test_a_window_begins_after_the_lead_in_and_ends_with_the_load():
    """What a board takes while the load starts, and once it has ended, is in no joules per token."""
    found = energy_of([counter(until_ms=9000)], steps(6000), Terms(lead_in_s=1.5))
    (board,) = found.boards
    assert 1.5 * NS <= board.from_ns < 1.7 * NS
    assert 5.8 * NS < board.to_ns <= 6 * NS
    assert board.seconds == found.seconds


def test_the_uncertainty_is_that_of_both_edges_and_of_the_work_they_cut():
    """The 95 % interval comes of these random parts; the sensor's gain is stated apart."""
    found = per_token(energy_of([counter()], steps()))
    (one,) = {round(edge(50, 1).standard_ns)}
    assert found.uncertainty.edge == pytest.approx(math.sqrt(2) * one / (4.4 * NS), rel=0.05)
    assert found.uncertainty.tokens <= math.sqrt(2) * STEP_SWING * (STEP_MS / 2) / math.sqrt(6) / 4300
    assert found.uncertainty.sensor == 0
    assert found.uncertainty.gain == GAIN
    low, high = found.interval
    assert low < found.value < high
    assert high - low == pytest.approx(2 * 1.96 * found.value * found.uncertainty.random, rel=1e-3)


def test_whole_batches_are_cut_at_the_edges_nearest_to_their_ends():
    """Where batches aren't timed step by step, the tokens of a cut one are the largest doubt, so few are cut."""
    whole = energy_of([counter(until_ms=9000)], steps(9000, step_ms=900, swing=BATCH_SWING))
    (board,) = whole.boards
    for at in (board.from_ns, board.to_ns):
        assert min(at / MS % 900, 900 - at / MS % 900) <= 50
    assert per_token(whole).uncertainty.tokens < 0.01


def test_a_short_window_that_cuts_batches_well_is_no_choice_over_the_least_one():
    """A window is never shorter than the least length, whatever that would spare."""
    seen = EnergyTrace("GPU-a", "counter", tuple(edge(at, 0.4 * at) for at in (1600, 1810, 2100, 2700, 2990)))
    found = energy_of([seen], steps(3000, step_ms=300, swing=BATCH_SWING))
    assert found.seconds >= 1


def test_several_boards_are_one_meter_with_one_uncertainty():
    """Their joules are added up, and their errors are independent of each other."""
    one, other = counter(watts=400), counter(watts=200, start_ms=71, board="GPU-b")
    both = per_token(energy_of([one, other], steps()))
    assert both.value == pytest.approx(600 / (64 / 0.02), rel=1e-9)
    alone = [per_token(energy_of([trace], steps())) for trace in (one, other)]
    absolute = [quantity.value * quantity.uncertainty.random for quantity in alone]
    assert both.value * both.uncertainty.random == pytest.approx(math.hypot(*absolute))


def of_launches(*boards, joules=(0.125,) * 4, watts=(400.0,) * 4):
    """A case of several launches, with its boards."""
    samples = {"joules_per_output_token": joules, "mean_power_w": watts}
    return Measurement(
        "a",
        {},
        {name: Sample.of([[value] for value in values]) for name, values in samples.items()},
        boards={f"GPU-{place}": board for place, board in enumerate(boards)},
    )


IDLE = BoardFacts("counter", idle_w=100.0, idle_error_w=4.0)


def test_net_of_idle_is_what_the_boards_take_beyond_it():
    """Each launch by its own power, the idle power's error and the launches' scatter in one."""
    assert net_of_idle(of_launches(IDLE)).joules_per_output_token == pytest.approx(0.125 * 0.75)
    assert net_of_idle(of_launches(IDLE)).error == pytest.approx(0.125 * 0.01)
    assert net_of_idle(of_launches(IDLE, IDLE)).joules_per_output_token == pytest.approx(0.125 * 0.5)
    assert net_of_idle(of_launches(IDLE, IDLE)).error == pytest.approx(0.125 * 0.01 * math.sqrt(2))
    wide = net_of_idle(of_launches(IDLE, joules=(0.12, 0.13, 0.12, 0.13)))
    assert wide.error > net_of_idle(of_launches(IDLE)).error


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(of_launches(), id="no board"),
        pytest.param(of_launches(IDLE, BoardFacts("counter")), id="one board's idle power isn't known"),
        pytest.param(of_launches(BoardFacts("counter", idle_w=500.0)), id="more idle than under load"),
        pytest.param(replace(of_launches(IDLE), samples={}), id="no joules"),
    ],
)
def test_where_idle_power_is_not_known_nothing_is_net_of_it(case):
    """One board without its idle power, or with more of it than under load, leaves the whole case without."""
    assert net_of_idle(case) is None


@pytest.mark.parametrize(
    ("trace", "watts"),
    [
        (counter(watts=90), 90),
        (EnergyTrace("GPU-a", "power samples", powers=(PowerReading(0, 1, 80.0), PowerReading(5, 6, 90.0))), 85),
    ],
)
def test_idle_power_is_that_from_edge_to_edge_or_the_mean_of_its_readings(trace, watts):
    """A counter tells it by its moves, and a board without one by its readings of power."""
    assert idle_power(trace).value == pytest.approx(watts)


@pytest.mark.parametrize(("read_w", "error"), [(90.0, 0.0), (157.0, 67 / 90 / math.sqrt(3)), (None, 0.0)])
def test_idle_power_is_as_unsure_as_counter_and_readings_differ(read_w, error):
    """Of an idle board they may tell two stories, of which neither is known to be the true one."""
    found = idle_power(counter(watts=90), [BoardSample(at * NS, power_w=read_w) for at in range(3)])
    assert found.value == pytest.approx(90)
    assert found.uncertainty.random == pytest.approx(error, abs=0.001)


BUSY = [BoardSample(NS, utilisation=0.4)]


@pytest.mark.parametrize(
    ("trace", "samples", "reason"),
    [
        (counter(until_ms=100), [], "moved 1 times"),
        (counter(failure="it is lost"), [], "it is lost"),
        (counter(), BUSY, "it was not idle: 40% busy"),
        (EnergyTrace("GPU-a", "power samples", powers=(PowerReading(0, 1, 0.0),) * 2), [], "takes no power"),
    ],
)
def test_idle_power_that_was_not_seen_has_a_reason(trace, samples, reason):
    """A counter that hardly moved or was lost, and a busy board, give no figure and say why."""
    assert reason in idle_power(trace, samples).reason


@pytest.mark.parametrize(("read_w", "marked"), [(400.0, False), (430.0, False), (300.0, True), (None, False)])
def test_a_counter_and_power_readings_that_tell_two_stories_are_marked(read_w, marked):
    """The joules stand; the mark tells both powers."""
    (board,) = energy_of([counter(watts=400)], steps()).boards
    samples = [BoardSample(at * NS, power_w=read_w) for at in range(7)]
    finding = judge_plausibility(board, samples)
    assert (finding is not None) is marked
    if finding:
        assert finding.effect is Effect.MARKED
        assert finding.reason == "its counter says 400.0 W and its power readings 300.0 W"


SPREAD = Sample.of([[1 + 0.01 * (-1) ** launch] for launch in range(8)])
"""Of 1.07 % between launches."""


@pytest.mark.parametrize(
    ("error", "source", "words"),
    [
        pytest.param(Uncertainty(0.004, 0.003, 0.0), "counter", None, id="below half"),
        pytest.param(Uncertainty(0.008, 0.006, 0.0), "counter", "is 1.9 times as long", id="edges and tokens"),
        pytest.param(Uncertainty(0.0, 0.0, 0.01), "counter", "is 3.5 times as long", id="a part-time sensor"),
        pytest.param(Uncertainty(0.0, 0.0, 0.1), "counter", "is 20 times as long", id="far beyond"),
        pytest.param(Uncertainty(0.0, 0.0, 0.03), "zeus", "that of zeus, which no longer window", id="no counter"),
    ],
)
def test_a_meter_whose_error_is_more_than_half_of_the_spread_is_noted_with_the_way_out(error, source, words):
    """An error of edges falls with the window's length, and one of a sensor with its root."""
    noted = meter_decides([error] * 8, SPREAD, {"GPU-a": BoardFacts(source)})
    assert (noted is None) is (words is None)
    assert noted is None or words in noted


def test_too_few_launches_have_no_spread_to_compare_the_meters_error_with():
    """Of fewer than eight nothing is said."""
    few = Sample(SPREAD.launches[:7])
    assert meter_decides([Uncertainty(0.1, 0.0, 0.0)] * 7, few, {"GPU-a": BoardFacts("counter")}) is None
    assert meter_decides([], SPREAD, {}) is None


def stalled(pause_ms):
    """Batches of 100 ms, one of which is longer by a pause."""
    ends = [100 * (k + 1) + pause_ms * (k >= 30) for k in range(57)]
    return tuple(
        Work(begin * MS, end * MS, 64, swing=BATCH_SWING) for begin, end in zip([0, *ends], ends, strict=False)
    )


@pytest.mark.parametrize("pause_ms", [0, 45])
def test_batches_that_take_half_as_long_again_at_most_are_a_steady_load(pause_ms):
    """A batch's length scatters, and no pause is made of that."""
    assert isinstance(energy_of([counter()], stalled(pause_ms)), Energy)


@pytest.mark.parametrize(
    ("traces", "work", "reason"),
    [
        pytest.param([], steps(), "no board was read", id="no board"),
        pytest.param([counter()], (), "nothing was done", id="no work"),
        pytest.param([counter(until_ms=1560)], steps(), "moved 1 times in the 4.5 s", id="counter ends"),
        pytest.param([counter()], steps(1540), "moved 1 times in the 0.04 s", id="window below the period"),
        pytest.param([counter()], steps(2200), "a window of 0.6 s was left", id="short window"),
        pytest.param([counter()], (*steps(3000), *steps(6000)[200:]), "the load paused for", id="pause"),
        pytest.param([counter()], stalled(300), "the load paused for 6.8%", id="a pause amid a batch"),
        pytest.param([counter(watts=0)], steps(), "0 J", id="no power"),
        pytest.param([counter(failure="it is lost")], steps(), "it is lost", id="lost"),
        pytest.param([counter(still_s=1.2)], steps(), "stood still for 1.2 s", id="stuck"),
        pytest.param([EnergyTrace("GPU-a", "power samples")], steps(), "read less than twice", id="nothing read"),
    ],
)
def test_where_there_is_no_number_there_is_a_reason(traces, work, reason):
    """Where joules can't be counted the result is a reason in words, never a zero."""
    found = energy_of(traces, work)
    assert isinstance(found, NoEnergy)
    assert reason in found.reason


QUIET = {"GPU-a": BoardState("GPU-a", 0, processes={}, throttled_ns=dict.fromkeys(SLOWDOWNS, 0))}


@pytest.mark.parametrize(
    ("recording", "work", "lasting"),
    [
        pytest.param(Recording((), missing={"GPU-a": "no counter"}), steps(), True, id="no trace"),
        pytest.param(Recording((counter(),)), steps(2200), False, id="no window"),
    ],
)
def test_a_round_without_a_window_is_told_from_a_board_without_a_trace(recording, work, lasting):
    """The one may be repeated, the other is in vain."""
    found = energy_of_round(recording, work, Around(QUIET, QUIET, QUIET), Terms())
    assert found.energy.lasting is lasting
    assert found.void is None


@pytest.mark.parametrize("at", [10, 30, 50])
def test_a_counter_that_goes_back_is_no_number_wherever_it_does(at):
    """A reset voids the trace, before the window, in it and after it."""

    def fallen(look, place):
        return Look(look.before_ns, look.after_ns, look.joules - 1000 * (place >= at))

    looks = enumerate(counter().edges)
    broken = tuple(Edge(fallen(one.old, place), fallen(one.new, place)) for place, one in looks)
    fault = judge_trace(EnergyTrace("GPU-a", "counter", broken))
    assert (fault.guard, fault.effect) == ("reset", Effect.VOID)
    assert isinstance(energy_of([EnergyTrace("GPU-a", "counter", broken)], steps()), NoEnergy)


def test_one_board_without_a_number_leaves_all_without():
    """The joules of the rest would be taken for those of the whole, so the reason names the board."""
    found = energy_of([counter(), counter(board="GPU-b", failure="it is lost")], steps())
    assert found == NoEnergy("GPU-b: it is lost")


def test_a_round_without_requests_has_no_joules_per_request():
    """Work that tells no requests is counted by its tokens alone."""
    work = tuple(Work(one.started_ns, one.ended_ns, one.output_tokens) for one in steps())
    assert "joules_per_request" not in energy_of([counter()], work).metrics()


def powers(watts, *, source, board="GPU-a"):
    looks = tuple(PowerReading(at * MS, (at + 1) * MS, watts(at / 1000)) for at in range(0, 6000, 50))
    return EnergyTrace(board, source, powers=looks)


@pytest.mark.parametrize(("source", "least"), [("integrated power", 0.01), ("power samples", 0.03)])
def test_integrated_power_stands_in_with_a_larger_error(source, least):
    """Its value is as true at constant power, and its error is at least that of its kind and ten times a counter's."""
    found = per_token(energy_of([powers(lambda _: 400.0, source=source)], steps()))
    assert found.value == pytest.approx(400 / (64 / 0.02), rel=1e-9)
    assert found.uncertainty.random >= least > 10 * per_token(energy_of([counter()], steps())).uncertainty.random


def test_power_that_varies_makes_integrated_power_less_certain():
    """Readings that scatter say less of what happened between them."""
    calm, wild = (
        per_token(energy_of([powers(power, source="integrated power")], steps()))
        for power in (lambda _: 400.0, lambda s: 400 + 150 * math.sin(9 * s))
    )
    assert wild.uncertainty.sensor > 1.5 * calm.uncertainty.sensor


def test_a_part_time_sensor_makes_powers_scatter_and_that_is_stated():
    """What it doesn't see of each update adds an error that the updates' own scatter tells."""
    draw = random.Random(2)
    joules, seen = 0.0, []
    for at in range(37, 6000, 100):
        step = 40 * draw.gauss(1, 0.1)
        joules += step
        seen.append(edge(at, joules, before=step))
    work = steps(step_ms=23)
    whole = per_token(energy_of([EnergyTrace("GPU-a", "counter", tuple(seen))], work))
    part = per_token(energy_of([EnergyTrace("GPU-a", "counter", tuple(seen), period_s=0.1, seen_s=0.025)], work))
    assert whole.uncertainty.sensor == 0
    assert part.uncertainty.sensor == pytest.approx(0.1 * math.sqrt(0.75) / math.sqrt(44), rel=0.3)


@pytest.mark.parametrize(
    ("step_ms", "stated"),
    [
        pytest.param(20, 0.2 * 0.25 / 1.25 / math.sqrt(3), id="five steps a period: always the same part"),
        pytest.param(25, 0.0, id="it sees whole steps"),
        pytest.param(23, 0.0005, id="it moves on through the step"),
    ],
)
def test_a_part_time_sensor_in_step_with_the_load_is_wrong_by_what_it_never_sees(step_ms, stated):
    """It sees the same part of each step where period and step fit, and what the rest may hold is stated."""
    seen = counter(period_s=0.1, seen_s=0.025)
    found = per_token(energy_of([seen], steps(step_ms=step_ms)))
    assert found.uncertainty.sensor == pytest.approx(stated, abs=0.0002)


def test_where_steps_are_unknown_a_part_time_sensor_may_be_in_step_with_them():
    """A load of whole batches is taken for the worst case, with the swing that a batch may have."""
    seen = counter(period_s=0.1, seen_s=0.025)
    found = per_token(energy_of([seen], steps(step_ms=100, swing=BATCH_SWING)))
    assert found.uncertainty.sensor == pytest.approx(0.03 / math.sqrt(3), rel=0.01)


@pytest.mark.parametrize(
    ("until_ms", "period_s", "reason"),
    [
        pytest.param(3400, 0.1, "a window of 1.8 s is too short for the 20 updates", id="a short window"),
        pytest.param(6000, None, "its counter moved too seldom for the 20 updates", id="a period that isn't known"),
        pytest.param(3700, 0.1, None, id="long enough"),
    ],
)
def test_too_few_updates_of_a_part_time_sensor_are_no_number(until_ms, period_s, reason):
    """Of so few its error can't be told, and without an error there are no joules."""
    found = energy_of([counter(until_ms=until_ms, period_s=period_s, seen_s=0.025)], steps(until_ms))
    assert isinstance(found, Energy) if reason is None else reason in found.reason


def test_an_edge_at_high_power_is_more_of_a_doubt():
    """The same doubt of time is more joules where the board takes more."""
    calm = counter().edges
    last = calm[-1]
    higher = Edge(last.old, Look(last.new.before_ns, last.new.after_ns, last.new.joules + 40))
    still = steps(swing=0.0)
    errors = [
        per_token(energy_of([EnergyTrace("GPU-a", "counter", (*calm[:-1], end))], still)).uncertainty.edge
        for end in (last, higher)
    ]
    assert errors[1] == pytest.approx(errors[0] * math.hypot(1, 2) / math.sqrt(2), rel=0.05)


def test_so_is_one_that_a_burst_follows():
    """A burst over an edge may be in the update after it alone."""
    gains = [40.0] * 46
    gains[1] = 80.0  # of the second edge after the lead-in
    seen = tuple(edge(1537 + 100 * k, sum(gains[: k + 1]), before=gains[k]) for k in range(46))
    still = steps(swing=0.0)
    calm, burst = (
        per_token(energy_of([EnergyTrace("GPU-a", "counter", edges)], still)).uncertainty.edge
        for edges in (counter().edges, seen)
    )
    assert burst == pytest.approx(calm * math.hypot(1, 2) / math.sqrt(2), rel=0.05)


def test_a_95_percent_interval_holds_the_truth_in_93_to_97_of_100_windows():
    """With looks of 3 ms, updates of a period that jitters, and power that swings within each step as decoding does."""
    draw, held, trials = random.Random(7), 0, 1000
    truth = 365 / (64 / 0.023)
    for _ in range(trials):
        swing = 65 * draw.choice((1, -1))
        phase = draw.uniform(0, 0.023)

        def energy(at, swing=swing, phase=phase):
            whole, into = divmod(at + phase, 0.023)
            return whole * 0.023 * 365 + 365 * into + swing * (min(into, 0.0115) - max(0.0, into - 0.0115))

        seen = []
        for k in range(1, 48):
            at = 0.1 * k + draw.uniform(-0.001, 0.001)
            begin = at - draw.uniform(0, 0.0035)  # of the gap between two values, in which the move came
            taken, length = draw.uniform(0, 0.003), 0.003
            old = Look(round((begin - taken) * NS), round((begin - taken + length) * NS), 0.0)
            new = Look(old.after_ns + NS // 2000, old.after_ns + NS // 2000 + 3 * MS, energy(at))
            seen.append(Edge(Look(old.before_ns, old.after_ns, energy(at) - 1), new))
        work = tuple(
            Work(round((s * 0.023 - phase) * NS), round(((s + 1) * 0.023 - phase) * NS), 64) for s in range(206)
        )
        quantity = per_token(energy_of([EnergyTrace("GPU-a", "counter", tuple(seen))], work))
        low, high = quantity.interval
        held += low <= truth <= high
    assert 0.93 <= held / trials <= 0.97
