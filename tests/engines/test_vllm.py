"""The vllm engine with vLLM itself, on a CPU; `tox run -e vllm` runs it. A start takes half a minute."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import pytest
from whole_gate import PASSED, TRIES, UNDECIDED, WholeGate

from pytest_slmperf.core.engine import EngineSpec, Request, StreamingEngine
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable
from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.load.prompts import Prompts, prompts
from pytest_slmperf.core.load.traffic import PREEMPTIONS, RUNNING, Arrivals
from pytest_slmperf.core.protocol import Play
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.engines.cache import CACHE_VARIABLE
from pytest_slmperf.engines.processes import tree
from pytest_slmperf.engines.vllm import VLLM, shape_folder
from pytest_slmperf.run.pinning import ranked_cores
from pytest_slmperf.testing import conforms
from pytest_slmperf.worker.sending import play

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM isn't installed: tox run -e vllm has it"),
    pytest.mark.timeout(900),
]
QUICK = {"enforce_eager": True, "distributed_executor_backend": "uni", "max_num_seqs": 64}
"""Options by which it is ready sooner: nothing is compiled, and two processes are enough."""
MODEL = "tiny-2x128"
JSON = {"Content-Type": "application/json"}


def of(**options):
    return EngineSpec("vllm", MODEL, options={**QUICK, "device": "cpu", "kv_cache_memory_bytes": "64M", **options})


@pytest.fixture(scope="module")
def started(cache):
    """A started engine and its facts."""
    engine = VLLM(of(), cache=cache)
    try:
        facts = engine.start()
        yield engine, facts
    finally:
        engine.stop()


def test_it_is_ready_with_what_was_resolved(started):
    """The facts are those of its log and its metrics, and tell how long its start took by phases."""
    engine, facts = started
    assert isinstance(engine, StreamingEngine)
    assert (facts.device, facts.dtype, facts.weights) == ("cpu", "float32", "random")
    assert (facts.context_tokens, facts.vocabulary) == (2048, 1024)
    assert re.match(r"0\.\d+\.\d+\S*, torch 2\.", facts.version)
    settings = facts.settings
    assert settings["kv_blocks"] * settings["block_size"] * 2 * 2 * 128 * 4 == 64 * 2**20
    assert (settings["compile"], settings["prefix_caching"], settings["max_num_seqs"]) == (False, False, 64)
    assert set(facts.phases_s) == {"import", "load"}
    assert facts.phases_s["import"] > facts.phases_s["load"] > 0


def test_static_batches_are_served_and_each_token_has_its_time(started):
    """The batch runs together: in much less than the time that its requests take one by one."""
    engine, facts = started
    one = prompts(((16, 24),), vocabulary=facts.vocabulary, seed=1)
    many = prompts(((16, 24),) * 32, vocabulary=facts.vocabulary, seed=2)
    alone, together = (engine.serve(batch, observe=True) for batch in (one, many))
    assert alone.output_tokens == (24,)
    assert together.output_tokens == (24,) * 32
    assert all(len(times) == 24 and len(set(times)) > 12 for times in together.token_ns)
    alone_ns, together_ns = (served.ended_ns - served.started_ns for served in (alone, together))
    assert together_ns < 16 * alone_ns


def test_its_peak_is_that_of_all_its_processes(started):
    """It holds the KV cache at least, and what torch takes in each process."""
    engine, facts = started
    served = engine.serve(prompts(((16, 4),) * 8, vocabulary=facts.vocabulary, seed=3), observe=False)
    assert len(list(tree(engine.server.pid))) >= 2
    assert 64 * 2**20 < served.peak_memory_bytes < 4 * 2**30


def test_its_random_weights_are_those_of_the_transformers_engine(started, cache):
    """Both choose the same tokens."""
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    engine, facts = started
    (request,) = prompts(((12, 16),), vocabulary=facts.vocabulary, seed=4)
    body = {"model": MODEL, "prompt": request.prompt, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
    asked = HTTPConnection(urlsplit(engine._url).netloc)
    asked.request("POST", "/v1/completions", json.dumps({**body, "return_token_ids": True}), JSON)
    given = json.load(asked.getresponse())["choices"][0]["token_ids"]
    asked.close()
    folder = shape_folder(SHAPES[MODEL], with_weights=True, cache=cache)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generated = model.generate(torch.tensor([request.prompt]), do_sample=False, max_new_tokens=16, eos_token_id=None)
    assert generated[0, 12:].tolist() == given


def test_a_batch_that_its_cache_does_not_hold_at_once_is_out_of_memory(started):
    """Part of it would wait, and the figure would be that of another batch."""
    engine, facts = started
    with pytest.raises(MemoryError, match="raise kv_cache_memory_bytes"):
        engine.serve(prompts(((1024, 1000),) * 33, vocabulary=facts.vocabulary, seed=5), observe=False)
    with pytest.raises(EngineFailed, match="runs 64 requests at once, and 65 were to be: raise max_num_seqs"):
        engine.serve(prompts(((4, 4),) * 65, vocabulary=facts.vocabulary, seed=5), observe=False)


def test_a_request_beyond_its_context_is_refused_in_its_words(started):
    """And the server serves on."""
    engine, facts = started
    with pytest.raises(EngineFailed, match=r"HTTP 400: .*max_tokens"):
        engine.serve((Request(tuple(range(5, 1005)), 1500),), observe=False)
    engine.serve(prompts(((4, 4),), vocabulary=facts.vocabulary, seed=6), observe=False)


def test_requests_of_a_closed_loop_come_and_go_one_by_one(started):
    """Tokens are stamped step by step, counted by vLLM, and its counters tell the running batch."""
    engine, facts = started
    load = Load("serve", ((16, 24),) * 32, seed=7, arrivals=Arrivals(concurrency=8))
    traffic = play(engine, Play(load, 1.0, 16, 60.0), Prompts(vocabulary=facts.vocabulary, seed=7))
    assert {one.error for one in traffic.exchanges} == {""}
    whole = [one for one in traffic.exchanges if one.asked_tokens == 24]
    assert len(whole) >= 16
    assert all((one.output_tokens, one.prompt_tokens, one.cached_tokens) == (24, 16, 0) for one in whole)
    assert all(sum(one.chunk_tokens) == 24 for one in whole)
    assert sum(len(one.chunk_ns) for one in whole) > 12 * len(whole)  # it joins parts where its front end is late
    assert max(look.counters[RUNNING] for look in traffic.looks) > 1
    assert {look.counters[PREEMPTIONS] for look in traffic.looks} == {0}


# -- starts of their own


def test_the_engine_keeps_the_protocol(cache):
    """What every engine promises, this one keeps."""
    conforms(lambda spec: VLLM(spec, cache=cache), of())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"walk_the_dog": True}, "unrecognized arguments: --walk-the-dog"),
        ({"kv_cache_memory_bytes": "1M"}, "max seq len"),
        ({"quantization": "fp8"}, "not supported for quantization method fp8"),
    ],
)
def test_what_vllm_refuses_is_an_error_in_its_words(options, words, cache):
    """Not the end of a log in which each process says that another one failed."""
    engine = VLLM(of(**options), cache=cache)
    try:
        with pytest.raises((EngineUnavailable, MemoryError), match=f"vLLM did not start: .*{words}"):
            engine.start()
    finally:
        engine.stop()


SUITE = """
import pytest
from pytest_slmperf import ClosedLoop, Sweep

SERVE = Sweep("serve", ClosedLoop(16, 24), concurrency=[8], model=["{model}"], gate={{}})

@pytest.fixture(scope="module")
def serve(slmperf):
    return slmperf.measure(SERVE)

@SERVE.each
def test_traffic(serve, concurrency):
    assert serve[concurrency].output_throughput >= {floor}
"""
SETTINGS = "[tool.slmperf]\ntraffic_s = 1.0\nvoid_retries = 20\n"


def run(folder, cache, *, floor, slowed=None):
    """A run of the suite in a process of its own."""
    (folder / "test_suite.py").write_text(SUITE.format(model=MODEL, floor=floor))
    (folder / "pyproject.toml").write_text(SETTINGS)
    planted = {} if slowed is None else {"slowed": slowed}
    options = ",".join(f"{name}={value}" for name, value in {**of().options, **planted}.items())
    command = [sys.executable, "-m", "pytest", "--slmperf", f"--slmperf-engine=vllm:{options}", "-p", "no:randomly"]
    return subprocess.Popen(
        [*command, "--slmperf-report=report.json"],
        cwd=folder,
        env={**os.environ, CACHE_VARIABLE: str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(folder, cache, **terms):
    """A run's exit code, output and report; repeated where others had the cores."""
    for _ in range(TRIES):
        running = run(folder, cache, **terms)
        output, _ = running.communicate()
        report = json.loads((folder / "report.json").read_text())
        if not UNDECIDED & report["counts"].keys():
            break
    return running.returncode, output, report


@pytest.mark.alone
@pytest.mark.timeout(3600)
def test_whole_runs_are_green_and_red_by_a_planted_loss(tmp_path, cache):
    """Each launch starts the server, twice six of them; the red run has most of its throughput taken away."""
    code, output, report = finished(tmp_path, cache, floor=1)
    assert code == 0, output
    (case,) = report["sweeps"][0]["cases"]
    floor = 0.6 * median(median(rounds) for rounds in case["samples"]["output_throughput"]["launches"])
    code, output, report = finished(tmp_path, cache, floor=floor, slowed=0.7)
    assert code == 1, output
    assert report["counts"] == {"regressed": 1}, output


@pytest.fixture
def aside(started):
    """The address of the started server, which leaves one core to who sends it requests."""
    engine, _ = started
    first, *others = ranked_cores()
    if not others:
        pytest.skip("who sends the requests takes a core of its own")
    threads = [int(one.name) for process in tree(engine.server.pid) for one in Path(f"/proc/{process}/task").iterdir()]
    for thread in threads:
        os.sched_setaffinity(thread, others)
    yield engine._url
    for thread in threads:
        with suppress(OSError):  # it has ended
            os.sched_setaffinity(thread, {first, *others})


@pytest.mark.alone
@pytest.mark.timeout(3600)
def test_a_shipped_suite_is_recorded_green_and_red_by_a_planted_loss(tmp_path, aside):
    """A server that runs, by the openai engine: a launch is who asks it, so that fifty launches take minutes."""
    sweeps = {"load": f'model = ["{MODEL}"], concurrency = [8], output_tokens = 16'}
    gate = WholeGate(tmp_path, f"openai:url={aside},vocabulary=1024", sweeps)
    gate.record()
    assert set(gate.judged()) <= PASSED, gate.said
    assert set(gate.judged(loss=0.4)) == {"regressed"}, gate.said


def descendants(process):
    return set(tree(process)) - {process}


def alive(process):
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def test_a_run_that_is_killed_leaves_no_process_of_vllms(tmp_path, cache):
    """vLLM's core outlives its server and pytest alike, and the guard ends it all the same."""
    killed = run(tmp_path, cache, floor=1)
    deadline = time.monotonic() + 300
    seen = set()
    while not any("EngineCore" in name for name in map(named, seen)):
        assert killed.poll() is None, killed.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
        seen = descendants(killed.pid)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    deadline = time.monotonic() + 15
    while (left := [named(one) for one in seen if alive(one)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def named(process):
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    return ""
