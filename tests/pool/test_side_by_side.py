"""Models beside the one that is measured: under their load while it is, named when they fail, gone with the launch."""

import os
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from pytest_slmperf import Beside, Slo, StaticBatch, Sweep
from pytest_slmperf.core.engine import EngineFacts, EngineSpec
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable
from pytest_slmperf.core.launch import BESIDE_VARIABLE, Load, RoundPolicy
from pytest_slmperf.core.load.mix_metrics import mix_metrics
from pytest_slmperf.core.load.traffic import Arrivals
from pytest_slmperf.engines.registry import company
from pytest_slmperf.run.key import case_key
from pytest_slmperf.run.launch import run_launch
from pytest_slmperf.run.pinning import choose_cores

CASE = "mix/tiny/batch=5"
LOAD = Load(CASE, ((8, 4),) * 5, seed=1)
POLICY = RoundPolicy(rounds=2, round_s=0.02, answer_limit_s=20)
SOURCE = """
import os, time
from pytest_slmperf.core.engine import EngineFacts, Served
from pytest_slmperf.core.errors import EngineUnavailable

class Engine:
    def __init__(self, spec): self.spec, self.batches = spec, 0
    def start(self):
        with open(self.spec.options["log"], "a") as log:
            print(self.spec.model, os.getpid(), *os.sched_getaffinity(0), file=log)
        if self.spec.model == "absent": raise EngineUnavailable("it was told to")
        return EngineFacts("1", self.spec.options.get("on", "simulated"), self.spec.dtype, "random", 4096, 1024)
    def serve(self, batch, *, observe):
        self.batches += 1
        if self.spec.model == "dies" and self.batches == 3: os.kill(os.getpid(), 9)
        started = time.monotonic_ns()
        time.sleep(0.01)
        ended = time.monotonic_ns()
        asked = tuple(request.output_tokens - (self.spec.model == "short") for request in batch)
        return Served(started, ended, asked, tuple((ended,) * n for n in asked) if observe else None, 1000)
    def stop(self): pass
"""
"""An engine that says where it runs, and does what its model is called. What it serves takes 10 ms, and none of a core,
so that no guard of this machine looks at it."""

needs_two = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two models need two cores")


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """It, installed as a package is that has an entry point."""
    metadata = tmp_path / "placed-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: placed\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[slmperf.engines]\nplaced = placed_engine:Engine\n")
    (tmp_path / "placed_engine.py").write_text(SOURCE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return EngineSpec("placed", "tiny", options={"log": str(tmp_path / "log"), "real_time": True})


def launch(spec, *beside, load=LOAD, cores=None, policy=POLICY):
    """A launch of it beside these."""
    mixed = replace(spec, beside=beside)
    return run_launch(mixed, [load], policy, arm="candidate", index=0, cores=cores, quantiles=(0.5,))


def other(model="other", **more):
    """Another model with batches of two."""
    return Beside(model, **{"batch_size": 2, "output_tokens": 8, **more})


def started(spec):
    """Of each model that was started its name, process and cores."""
    lines = Path(spec.options["log"]).read_text().splitlines()
    return {model: (int(pid), set(map(int, cores))) for model, pid, *cores in map(str.split, lines)}


@needs_two
def test_each_on_cores_of_its_own_under_its_own_load(spec):
    """What the other did in the rounds is told, its facts are part of the key, and both are gone in the end."""
    cores = choose_cores(2)
    record = launch(spec, other(dtype="int8"), cores=cores)
    there = started(spec)
    assert there["tiny"][1] | there["other"][1] == set(cores)
    assert not there["tiny"][1] & there["other"][1]
    assert not any(Path(f"/proc/{pid}").exists() for pid, _ in there.values())
    case = record.cases[CASE]
    # A batch of two answers of eight tokens in 10 ms, or a busy machine's sleep.
    assert 200 < max(case.values["beside_1_output_throughput"]) <= 1600
    assert max(case.values["output_throughput"]) <= 2000
    assert any("beside_1 is other@2 (core" in note for note in case.notes)
    assert record.facts.settings["beside_1_dtype"] == "int8"


@needs_two
def test_on_the_same_cores(spec):
    """Where it is asked for, the other has no core of its own."""
    launch(spec, other(cores="shared"), cores=choose_cores(1))
    assert started(spec)["tiny"][1] == started(spec)["other"][1]


@needs_two
@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        ("dies", EngineFailed, r"dies@2 \(core \d+, beside tiny\) died: signal SIGKILL; .* try a smaller batch_size"),
        ("absent", EngineUnavailable, r"absent@2 \(core \d+, beside tiny\): it was told to"),
        ("short", EngineFailed, r"short@2 \(core \d+, beside tiny\): wrong answer: generated 7 tokens"),
    ],
)
def test_one_that_fails_is_named(spec, model, error, said):
    """Nothing that is measured beside it counts, and nobody is left."""
    with pytest.raises(error, match=said):
        launch(spec, other(), other(model, cores="shared"), cores=choose_cores(2))
    assert not any(Path(f"/proc/{pid}").exists() for pid, _ in started(spec).values())


def test_places_need_an_engine_that_streams(spec):
    """A concurrency beside an engine of static batches is refused, with what to do."""
    with pytest.raises(EngineUnavailable, match=r"other@3.*static batches only: give it batch_size"):
        launch(spec, Beside("other", concurrency=3, cores="shared"))


def test_served_elsewhere():
    """Beside a server that runs already nobody can be started."""
    with pytest.raises(EngineUnavailable, match="served elsewhere"):
        company(EngineSpec("openai", "m", options={"url": "http://a/v1"}, beside=(other(),)))


@pytest.mark.parametrize(
    ("beside", "arrivals", "rate"),
    [
        (Beside("tiny", batch_size=4, output_tokens=100), None, 4 / (1 + 3 / 16) * 1000),
        (Beside("tiny", concurrency=4, output_tokens=100), Arrivals(concurrency=2), 4 / (1 + 3 / 16) * 1000),
    ],
)
def test_in_simulated_time(beside, arrivals, rate):
    """They have the same clock, and what they generate is what the other's load is, whole rounds long."""
    spec = EngineSpec("fake", "opt-125m", options={"beside_cost": 0.25})
    load = replace(LOAD, arrivals=arrivals)
    alone, mixed = launch(spec, load=load), launch(spec, beside, load=load)
    values = mixed.cases[CASE].values
    assert values["beside_1_output_throughput"] == pytest.approx([rate] * len(values["output_throughput"]), rel=0.05)
    slower = alone.cases[CASE].values["output_throughput"][0] / values["output_throughput"][0]
    assert slower == pytest.approx(1.25, rel=0.01)


def test_requests_at_a_rate_in_simulated_time():
    """As many come as the rate has it, whoever is slow; they are held to limits of their own, by its own options."""
    spec = EngineSpec("fake", "opt-125m", options={"level": 1000})
    slo, policy = Slo(ttft_ms=20), replace(POLICY, round_s=2.0)
    paced = Beside("tiny", request_rate=40, output_tokens=20, slo=slo, options={"level": 500})
    piled = Beside("small", request_rate=40, output_tokens=20, slo=slo, options={"max_running": 1, "level": 500})
    case = launch(spec, paced, piled, policy=policy).cases[CASE]
    values = {name: median(some) for name, some in case.values.items()}
    assert values["beside_1_output_throughput"] == pytest.approx(800, rel=0.15)
    assert values["beside_1_request_throughput"] == pytest.approx(40, rel=0.15)
    assert values["beside_1_median_tpot_ms"] == pytest.approx(2, rel=0.15)
    assert values["beside_1_goodput_share"] == 1
    assert values["beside_2_request_throughput"] == pytest.approx(25, rel=0.1)
    assert values["beside_2_goodput_share"] < 0.2
    assert "beside_2 does not keep up with its rate: its requests pile up" in case.notes
    alone = launch(spec, policy=policy).cases[CASE].values["output_throughput"][0]
    assert values["output_throughput"] == pytest.approx(alone, rel=0.01)
    again = launch(spec, paced, piled, policy=policy).cases[CASE].values
    assert all(again[name] == case.values[name] for name in again if name.startswith("beside"))


@pytest.mark.parametrize("options", [{}, {"real_time": True}])
def test_a_rate_far_beyond_it(options):
    """Is said while it is warmed up, and not when all that has come is answered."""
    spec = EngineSpec("fake", "opt-125m", options=options)
    with pytest.raises(EngineFailed, match=r"tiny@100000rps .*: request_rate=100000 is far more than it can serve"):
        launch(spec, Beside("tiny", request_rate=100_000))


def test_requests_at_a_rate_in_real_time():
    """The load has begun when the first is answered, and ends when it is told to, while none is due."""
    spec = EngineSpec("fake", "opt-125m", options={"real_time": True})
    record = launch(spec, Beside("tiny", request_rate=100, output_tokens=2), Beside("slow", request_rate=0.1))
    values = record.cases[CASE].values
    assert min(values["beside_1_output_throughput"]) > 50
    assert record.seconds < 10


@pytest.fixture
def here(monkeypatch):
    """What a company does to the engine's process, done to this one and taken back."""
    monkeypatch.setenv(BESIDE_VARIABLE, "")
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


@pytest.mark.usefixtures("here")
def test_a_server_of_its_own_command():
    """What its options say takes the place of the measured engine's: here another server, with requests at a rate."""
    pytest.importorskip("aiohttp")
    server = f"{sys.executable} -m pytest_slmperf.testing.server --port={{port}} --model="
    slo = Slo(ttft_ms=10_000)
    paced = Beside("n", request_rate=40, output_tokens=5, slo=slo, options={"command": f"{server}n"}, cores="shared")
    others = company(EngineSpec("openai", "m", options={"command": f"{server}m"}, beside=(paced,)))
    try:
        others.start()
        others.begin()
        began_ns = time.monotonic_ns()
        time.sleep(0.5)
        ended_ns = time.monotonic_ns()
        found = mix_metrics([others.end(began_ns, ended_ns)], [(began_ns, ended_ns)], (0.5,))
    finally:
        others.stop()
    assert others.settings["beside_1_weights"] == "served:n"
    assert found.values["beside_1_goodput_share"] == (1,)
    assert found.values["beside_1_median_ttft_ms"] < found.values["beside_1_median_e2el_ms"]


def test_of_another_engine():
    """Its options are its own alone, and its version and what serves it are told."""
    pytest.importorskip("aiohttp")
    server = f"{sys.executable} -m pytest_slmperf.testing.server --port={{port}} --model=n"
    served = Beside("n", request_rate=100, output_tokens=8, engine="openai", options={"command": server})
    spec = EngineSpec("fake", "opt-125m", options={"real_time": True, "level": 1000})
    record = launch(spec, served, policy=replace(POLICY, round_s=0.2))
    case = record.cases[CASE]
    assert "beside_1 is openai:n@100rps (beside opt-125m)" in case.notes
    assert min(case.values["beside_1_output_throughput"]) > 10
    assert record.facts.settings["beside_1_weights"] == "served:n"
    assert record.versions["openai"] == "vllm 0"
    key = case_key(Sweep("mix", StaticBatch(8, 4), batch_size=[5]), record, POLICY)
    assert key["beside_1"].startswith("openai:n float32: rate of 100, 32+8 tokens, 1 thread on its own cores")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("options", "facts", "said"),
    [
        ({}, "cpu", "runs in simulated time, and placed on cpu: models side by side share one device"),
        ({"real_time": True}, "cpu", ""),
        ({"real_time": True}, "simulated", "runs on no device, and placed in simulated time"),
    ],
)
def test_all_of_a_mix_are_on_one_device(options, facts, said):
    """Another engine may be elsewhere than the measured one, and then nobody shares anything."""
    other = Beside("tiny", batch_size=2, engine="fake", options=options)
    others = company(EngineSpec("placed", "m", beside=(other,)))
    there = EngineFacts("1", facts, "float32", "random", 4096, 1024)
    try:
        others.start()
        with pytest.raises(EngineUnavailable, match=said) if said else nullcontext():
            others.check(there)
    finally:
        others.stop()


def test_another_gpu_is_another_device(spec):
    """A model there takes nothing of the measured one."""
    there = replace(spec, options={**spec.options, "on": "cuda"})
    aside = other(cores="shared", options={"device_index": 1})
    with pytest.raises(EngineUnavailable, match=r"other@2 .* runs on GPU 1, and placed on GPU 0: models side by side"):
        launch(there, aside)


def test_another_engine_at_an_address():
    """What runs already is started by nobody, and so never put aside."""
    with pytest.raises(EngineUnavailable, match=r"openai:n@1: .*give it command=… in place of url"):
        launch(EngineSpec("fake", "m"), Beside("n", concurrency=1, engine="openai", options={"url": "http://a/v1"}))


def test_a_load_beyond_its_context():
    """Is refused when its engine says how much it takes."""
    with pytest.raises(
        EngineUnavailable, match=r"tiny@1 .*: 5000 tokens of prompt and output exceed its context of 4096"
    ):
        launch(EngineSpec("fake", "opt-125m"), Beside("tiny", batch_size=1, prompt_tokens=4000, output_tokens=1000))


def test_keys_name_them():
    """A mix is no baseline for another one: who is beside, its load, type, threads and cores are part of the key."""
    sweep = Sweep("mix", StaticBatch(8, 4), batch_size=[5])
    record = launch(EngineSpec("fake", "opt-125m"), other("models/opt-1.3b", dtype="int8"))
    key = case_key(sweep, record, POLICY)
    assert key["beside_1"] == "opt-1.3b int8: batch of 2, 32+8 tokens, 1 thread on its own cores"
    assert key["setting.beside_1_weights"] == "random"
    more = Beside("tiny", request_rate=2.5, slo=Slo(ttft_ms=200), options={"level": 500, "log": "x"})
    spec = EngineSpec("fake", "opt-125m", beside=(more,))
    told = case_key(sweep, replace(record, spec=spec), POLICY)["beside_1"]
    assert told == "tiny float32: rate of 2.5, 32+32 tokens, 1 thread on its own cores, level=500, ttft_ms at most 200"
    assert not [name for name in case_key(sweep, launch(EngineSpec("fake", "opt-125m")), POLICY) if "beside" in name]


@needs_two
def test_of_a_real_engine():
    """CTranslate2 serves one model, and another beside it."""
    pytest.importorskip("ctranslate2")
    spec = EngineSpec("ctranslate2", "tiny-2x128")
    record = launch(spec, Beside("tiny-2x128", batch_size=2, output_tokens=8), cores=choose_cores(2))
    case = record.cases[CASE]
    assert case.void or case.values["beside_1_output_throughput"]
    assert record.facts.settings["beside_1_device"] == "cpu"
