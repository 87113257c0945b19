"""`slmperf advise --measure`: a planned mix, measured on the simulated engine, and what is refused before a launch."""

import json
from importlib.resources import files
from pathlib import Path

import jsonschema_rs
import pytest

FAKE = "--engine=fake:launch_noise=0.003,seed=1,beside_cost=0.5"
MIX = ("--model=opt-125m", "--model=opt-1.3b", "--memory=80", "--measure")
TABLE = """\
model,device,threads,batch,output_throughput
opt-125m,H100,{threads},4,3000
opt-1.3b,H100,{threads},{batch},7000
"""


@pytest.fixture
def advise(advise_here):
    """The verb, beside a table."""
    Path("table.csv").write_text(TABLE.format(threads=1, batch=16))
    return advise_here


def test_a_planned_mix_is_measured_and_goes_on_from_what_is_kept(advise):
    """Each beside the other, half as slow again as alone, as the engine is told to be; nothing twice."""
    for model, batch in (("opt-125m", 4), ("opt-1.3b", 16)):
        advise(FAKE, f"--model={model}", "--replicas=1", f"--batch-size=1,{batch}", "--launches=2")
    kept = ("slmperf-advise-opt-125m.json", "slmperf-advise-opt-1.3b.json")
    words = (*kept, FAKE, *MIX, "--limit=itl_ms=3", "--need=opt-125m=1000")
    code, out, err = advise(*words, "--launches=1")
    assert code == 0, err
    assert err.count(": as planned") == 2
    assert "opt-125m beside opt-1.3b@16:" in err
    assert "the mix itself was not measured" not in out
    code, out, err = advise(*words, "--launches=3", "--json")
    assert code == 0
    assert "slmperf-advise-mix-1-opt-125m.json: going on from 1 launches" in err
    told = json.loads(out)
    text = (files("pytest_slmperf") / "schemas" / "mix.json").read_text(encoding="utf-8")
    jsonschema_rs.validator_for(json.loads(text)).validate(told)
    small, large = told["measured"]
    for one in (small, large):
        assert one["launches"] == 3
        assert one["slowdown"]["low"] < 1.5 < one["slowdown"]["high"]
        assert one["rate"]["low"] < one["rate"]["value"] < one["rate"]["high"]
        assert (one["met"], one["limits"]) == (True, {"median_itl_ms": True})
        assert one["latencies"]["median_itl_ms"] < 3
    assert small["planned"] == pytest.approx(1000)
    code, out, err = advise(*words[:-2], "--launches=3", "--limit=itl_ms=2.5", "--need=opt-125m=1000")
    assert code == 1
    assert "opt-1.3b misses a limit in the mix: median_itl_ms at most 2.5 ms" in out
    assert "slmperf: launch" not in err


def test_the_launches_of_a_mix_are_no_results_of_a_model_alone(advise):
    """They are left out, with the reason."""
    advise("table.csv", FAKE, *MIX, "--launches=1")
    code, out, _ = advise("table.csv", "slmperf-advise-mix-1-opt-125m.json", *MIX[:-1])
    assert code == 0
    assert "left out: slmperf-advise-mix-1-opt-125m.json: opt-125m was measured beside other models" in out


def test_a_need_that_the_mix_misses_fails_and_a_slowdown_across_machines_is_not_told(advise):
    """Where results are of another machine, planned and measured stand beside each other alone."""
    code, out, _ = advise("table.csv", FAKE, *MIX, "--launches=1", "--need=opt-1.3b=6500")
    assert code == 1
    assert "opt-1.3b gives less in the mix than the 6500 that it must" in out
    assert "opt-125m: its slowdown isn't told: alone it was measured on H100, and here is" in out


def test_what_cannot_be_measured_is_said_and_the_rest_is_measured(advise):
    """A model that is spread over two devices is not; one on a third is."""
    words = ("--model=opt-13b", "--model=opt-125m", "--devices=3", "--memory=24", "--dtype=float16", "--measure")
    code, out, err = advise(FAKE, *words, "--launches=1")
    assert code == 1
    assert "opt-13b was not measured in the mix: it is spread over 2 devices" in out
    assert "opt-125m beside nobody:" in err
    assert "the devices were measured one after the other, on one" in out


@pytest.mark.parametrize(
    ("threads", "batch", "tokens", "said"),
    [
        (99_999, 16, 32, "the mix needs 199998 cores, one for each thread of opt-125m, opt-1.3b@16, and"),
        (1, 99_999, 2000, "the mix can't be measured here: what is planned on device 0 lacks"),
        (1, 16, 4000, "4032 tokens of prompt and output exceed the context of opt-125m, 2048"),
    ],
    ids=["cores", "memory", "context"],
)
def test_a_mix_that_does_not_fit_is_refused_before_a_launch(advise, tmp_path, threads, batch, tokens, said):
    """On the cores, in the memory of this machine, or in a model's context."""
    Path("table.csv").write_text(TABLE.format(threads=threads, batch=batch))
    words = ("--memory=9999999", "--threads=1", f"--output-tokens={tokens}")
    code, out, err = advise("table.csv", "--engine=ctranslate2", *MIX, *words)
    assert code == 4
    assert said in " ".join(err.split())
    assert (out, [path.name for path in tmp_path.iterdir()]) == ("", ["table.csv"])


def test_one_model_is_no_mix(advise):
    """So there is none to measure."""
    code, _, err = advise(FAKE, "--measure")
    assert code == 4
    assert "--measure is of a mix: name several models" in err
