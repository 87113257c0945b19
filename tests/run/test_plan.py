"""What cases and launches take, by the plan."""

import re
from dataclasses import replace

import pytest

from pytest_slmperf.core.beside import Beside
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import RoundPolicy
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.sweeps.search import Search
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.core.sweeps.workload import ClosedLoop, OpenLoop, Replay, StaticBatch, TraceLengths
from pytest_slmperf.run.briefing import round_policy
from pytest_slmperf.run.plan import Cost, Planned, lines, parts_s
from pytest_slmperf.run.settings import Settings

ON_A_CORE = Cost("accept", arms=1, settings=Settings(), max_launches=16, device="cpu")


def said(sweep, cost=ON_A_CORE, models=("tiny-2x128",), *, joules=False, **of):
    """What follows the number of launches and models, of engines like `of`."""
    specs = [replace(EngineSpec("ctranslate2", model), **of) for model in models]
    cases = {case: spec for spec in specs for case in sweep.cases([spec.model_name])}
    planned = Planned(sweep, cases, round_policy(sweep, cost.settings), joules=joules)
    return lines(planned, cost, lambda *_: None)[1].partition(", ")[2]


def minutes(text):
    """The first time of a text."""
    number, unit = re.search(r"([0-9.]+) (s|min|h)", text).groups()
    return float(number) * {"s": 1 / 60, "min": 1, "h": 60}[unit]


def decode(batch_size, **of):
    return Sweep("decode", StaticBatch(128, 128), batch_size=batch_size, gate={"output_throughput": 0.05}, **of)


def test_a_batch_that_outlasts_a_round_takes_its_time():
    """A small model's rounds are of the length that is set; OPT-125M's batches last for seconds, on one core."""
    gated = replace(ON_A_CORE, mode="gate")
    assert said(decode([1]), gated) == "about 10 s to 20 s"
    assert said(decode([1, 4]), gated, ["opt-125m"]) == "about 21 min to 41 min"
    assert said(decode([1, 4, 16, 64]), gated, ["opt-125m"]) == "about 2.7 h to 5.4 h"
    assert minutes(said(decode([1, 4]), gated, ["opt-125m"], threads=8)) < 20 / 3


@pytest.mark.parametrize(
    ("model", "tokens", "batch_size", "launch_s"), [("tiny-2x128", 128, [1, 16], 2.2), ("opt-125m", 32, [1, 4], 39.3)]
)
def test_a_launch_takes_about_what_was_measured(model, tokens, batch_size, launch_s):
    """In processor time of CTranslate2 4.8 on a core with AVX-512, of all that a launch asks of its engine."""
    sweep = replace(decode(batch_size), workload=StaticBatch(tokens, tokens))
    assert 0.5 < launch_s / (60 * minutes(said(sweep, models=[model])) / 20) < 1.5


@pytest.mark.parametrize(
    ("cost", "models", "of"),
    [
        pytest.param({}, ["mine"], {}, id="model of no known shape"),
        pytest.param({}, ["/models/opt-125m"], {}, id="model given by path"),
        pytest.param({"device": "cuda"}, ["opt-125m"], {}, id="GPU"),
        pytest.param({}, ["opt-125m"], {"engine": "transformers"}, id="another engine"),
        pytest.param({}, ["opt-125m"], {"dtype": "fp4"}, id="another type"),
    ],
)
def test_where_little_is_known_the_time_is_at_least_so_long(cost, models, of):
    """The rounds last as long as is set, whatever the engine does."""
    text = said(decode([1, 4]), replace(ON_A_CORE, **cost), models, **of)
    assert re.fullmatch(r"at least [0-9.]+ (s|min)", text)
    assert minutes(text) > 20 * 2 * 0.5 / 60


def test_lengths_of_a_trace_take_their_time():
    """They are drawn as the run draws them; a trace of which nothing fits says nothing."""
    traced = decode([4], percentiles=[99])
    traced = replace(traced, workload=StaticBatch(lengths=TraceLengths()))
    assert said(traced, models=["opt-125m"]).startswith("about ")
    assert said(replace(traced, workload=StaticBatch(4000, 4000)), models=["opt-125m"]).startswith("at least ")


def test_a_percentile_takes_the_requests_that_it_needs():
    """Each launch observes so many, batch by batch."""
    assert minutes(said(decode([1], percentiles=[99]))) > 2 * minutes(said(decode([1])))


def test_joules_take_their_time():
    """Where they are counted, each case takes window, two moves of a counter and what is left of the lead-in more in
    each launch; where they are gated, that is timed and no other round.
    """
    (case,) = decode([1]).cases(["opt-125m"])
    plain, counted, gated = (
        parts_s(0.25, case, RoundPolicy(), Settings(), joules=joules, gated=gated)
        for joules, gated in ((False, False), (True, False), (True, True))
    )
    assert plain == {"peak": 0.25, "warm-up": 1.0, "timed": 1.0, "observed": 0.25, "lead-in": 0.0, "window": 0.0}
    assert counted == {**plain, "window": 3.2}
    assert gated == {**plain, "timed": 0.0, "lead-in": 0.25, "window": 3.2}
    assert minutes(said(decode([1]), joules=True)) > minutes(said(decode([1])))


def test_two_arms_take_twice_the_time():
    """Each has its launches, and one to prime it."""
    assert minutes(said(decode([1]), replace(ON_A_CORE, arms=2))) == pytest.approx(2 * minutes(said(decode([1]))), 0.2)


@pytest.mark.parametrize(
    ("sweep", "launch_s"),
    [
        pytest.param(Sweep("serve", ClosedLoop(8, 8), concurrency=[8]), 5, id="closed loop"),
        pytest.param(Sweep("rate", OpenLoop(8, 8), request_rate=[10]), 10, id="open loop"),
        pytest.param(Sweep("rate", OpenLoop(8, 8, ramp_s=30), request_rate=[10]), 40, id="with a ramp"),
        pytest.param(Sweep("rate", OpenLoop(8, 8), request_rate=[1], percentiles=[99]), 200, id="with a percentile"),
        pytest.param(Sweep("replay", Replay(seconds=60), speed=[2]), 30, id="half a minute of a trace"),
        pytest.param(
            Sweep("capacity", OpenLoop(8, 8), request_rate=Search(8, 64), slo=Slo(ttft_ms=9)),
            20,
            id="two probes at least",
        ),
        pytest.param(Sweep("replay", Replay("no such file"), speed=[1]), 0, id="no trace"),
    ],
)
def test_traffic_takes_its_ramp_and_its_window(sweep, launch_s):
    """How long its last answers take, is the engine's affair: it takes at least so long."""
    text = said(sweep, replace(ON_A_CORE, mode="report"), models=["tiny-2x64"], engine="openai")
    assert text.startswith("at least ")
    assert minutes(text) * 60 / 5 == pytest.approx(launch_s + 1, abs=0.2 * launch_s + 1)


def test_an_engine_of_static_batches_is_told_from_a_model_that_is_too_large():
    """The plan says why, once for all cases."""
    sweep = Sweep("serve", ClosedLoop(8, 8), concurrency=[1, 8])
    spec = EngineSpec("ctranslate2", "opt-125m")
    planned = Planned(sweep, dict.fromkeys(sweep.cases(["opt-125m"]), spec), round_policy(sweep, Settings()))
    (line,) = lines(planned, ON_A_CORE, lambda *_: "no")
    assert line.startswith("slmperf: serve: skipped, ctranslate2 serves static batches only, ")
    assert line.endswith(": serve/opt-125m/concurrency=1, serve/opt-125m/concurrency=8")


def test_every_variant_is_launched_by_itself():
    """The plan counts them, and each has its start, with those of the models beside; one that this machine has too few
    cores for is left out.
    """
    one, two = (said(decode([1], threads=threads)) for threads in ([1], [1, 2]))
    sweep = decode([1], threads=[1, 2])
    cases = {case: case.variant.of(EngineSpec("ctranslate2", "tiny-2x128")) for case in sweep.cases(["tiny-2x128"])}
    planned = Planned(sweep, cases, round_policy(sweep, Settings()))
    assert "launches of 2 variants" in lines(planned, ON_A_CORE, lambda *_: None)[1]
    assert minutes(one) < minutes(two)
    alone, beside = (
        minutes(said(decode([1]), beside=(Beside("tiny-2x128", batch_size=1),) * count)) for count in (0, 2)
    )
    assert alone < beside
    left = lines(
        planned, replace(ON_A_CORE, cores=1), lambda _sweep, case, _spec: "no" if "=2" in case.series else None
    )
    why = "2 threads need 2 cores, and this machine gives 1"
    assert left[0] == f"slmperf: decode: skipped, {why}: decode/tiny-2x128/threads=2/batch=1"
