"""Why a load's first lengths are staggered, and static batches measured whole: joules per token on a virtual clock."""

import math
from statistics import fmean

import pytest
from decoding import NS

from pytest_slmperf.core.energy.tally import BATCH_SWING, STEP_SWING, Work
from pytest_slmperf.core.energy.window import Terms, energy_of
from pytest_slmperf.meters.nvml import NvmlMeter, Pace
from pytest_slmperf.run.metering import Metering

pytest.importorskip("pynvml")
WEIGHTS_S, CACHE_S, PREFILL_S = 2.6e9 / 3e12, 196_608 / 3e12, 1e-3
"""Of a step, of a token of context in it, and of a prompt: a decoder of 1.3 billion parameters of two bytes, that reads
all of them and the cache of every token once a step, at 3 TB/s.
"""
REQUESTS, PROMPT, OUTPUT = 256, 161, 338
WATTS = 400.0
WINDOW_S, LEAD_IN_S = 3.0, 1.5
BEGAN_S = 1.0
"""Where the virtual clock begins."""
PHASES = 20


def served(seconds, first):
    """The steps of a server that always has REQUESTS: whatever ends makes room for a request of OUTPUT tokens. `first`
    are the lengths of the first wave.
    """
    left, made, context = list(first), [0] * REQUESTS, REQUESTS * PROMPT
    at_s, fresh, work = BEGAN_S, REQUESTS, []
    while at_s < BEGAN_S + seconds:
        ends_s = at_s + WEIGHTS_S + CACHE_S * context + PREFILL_S * fresh
        work.append(Work(round(at_s * NS), round(ends_s * NS), REQUESTS, swing=STEP_SWING))
        at_s, fresh, context = ends_s, 0, context + REQUESTS
        for slot in range(REQUESTS):
            left[slot], made[slot] = left[slot] - 1, made[slot] + 1
            if not left[slot]:
                fresh, context = fresh + 1, context - made[slot]
                left[slot], made[slot] = OUTPUT, 0
    return work


def joules_per_token(energy):
    return energy.metrics()["joules_per_output_token"]


@pytest.fixture
def watched(driver):
    """What a meter sees of a board that draws WATTS for so long, from the begin of the virtual clock."""

    def watch(seconds, *statements, phase_s=0.0):
        one = driver(f"power 0 {WATTS}", f"period 0.1 0.02 {phase_s}", *statements)
        meter = NvmlMeter(pace=Pace(cpu_share=1000), clock=one.now_ns, sleep=one.sleep)
        meter.open()
        recording = meter.watch(seconds)
        meter.close()
        return recording.traces

    return watch


ERRORS = {"in step": (0.03, 0.10), "staggered": (0.0, 0.01)}
"""Of the worst of the windows: at least, and at most."""


@pytest.mark.parametrize("load", ERRORS)
def test_requests_of_one_length_make_windows_wrong_until_their_first_lengths_are_staggered(watched, load):
    """All that began together end together, for ever: what a window holds of their long steps and short ones is chance,
    of which the meter's own error knows nothing.
    """
    in_turn = [math.ceil(OUTPUT * (slot + 1) / REQUESTS) for slot in range(REQUESTS)]
    work = served(20, in_turn if load == "staggered" else [OUTPUT] * REQUESTS)
    whole = work[OUTPUT : len(work) - len(work) % OUTPUT]
    truth = WATTS * (whole[-1].ended_ns - whole[0].started_ns) / NS / (REQUESTS * len(whole))
    traces, first = watched(20), whole[0].started_ns
    errors, stated = [], []
    for phase in range(PHASES):
        from_ns = first + phase * 0.15 * NS
        window = [one for one in work if from_ns <= one.started_ns <= from_ns + (WINDOW_S + 0.2) * NS]
        found = joules_per_token(energy_of(traces, window, Terms(lead_in_s=0.0)))
        errors.append(abs(found.value / truth - 1))
        stated.append(found.uncertainty.random)
    least, most = ERRORS[load]
    assert least <= max(errors) <= most
    assert fmean(stated) < 0.002


@pytest.mark.parametrize("phase_s", [0.0, 0.03, 0.06, 0.09])
def test_static_batches_are_measured_over_whole_ones(watched, driver, phase_s):
    """A batch draws more at its begin than at its end, so that a window from anywhere is wrong by what it cuts. As
    many are served as let a window begin and end where a batch does.
    """
    batch_s, prefill, more_w = 2.4, 0.15, 300
    driver(f"power 0 {WATTS}")
    metering = Metering(NvmlMeter(), window_s=WINDOW_S, lead_in_s=LEAD_IN_S)
    batches = metering.batches(batch_s)
    metering.close()
    (trace,) = watched(batches * batch_s + 0.1, f"wave {batch_s} {prefill} {more_w} {BEGAN_S}", phase_s=phase_s)
    begins = [round((BEGAN_S + place * batch_s) * NS) for place in range(batches)]
    work = [Work(at, round(at + batch_s * NS), REQUESTS * OUTPUT, swing=BATCH_SWING) for at in begins]
    truth_w = WATTS + prefill * more_w
    found = energy_of([trace], work, Terms(lead_in_s=LEAD_IN_S)).metrics()["mean_power_w"]
    assert found.value == pytest.approx(truth_w, rel=min(0.02, 3 * found.uncertainty.random))
    anywhere = [
        (later.new.joules - one.new.joules) / (later.at_ns - one.at_ns) * NS
        for one in trace.edges
        for later in trace.edges
        if WINDOW_S <= (later.at_ns - one.at_ns) / NS < WINDOW_S + 0.11
    ]
    assert max(abs(watts / truth_w - 1) for watts in anywhere) > 0.05
