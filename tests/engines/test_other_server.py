"""The openai engine with llama.cpp's server, of a project that isn't vLLM; `tox run -e llamacpp` runs it."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from whole_gate import PASSED, WholeGate

from pytest_slmperf.core.engine import EngineSpec, Request
from pytest_slmperf.core.errors import EngineFailed
from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.load.prompts import Prompts, prompts
from pytest_slmperf.core.load.traffic import CACHED_TOKENS, RUNNING, Arrivals
from pytest_slmperf.core.protocol import Play
from pytest_slmperf.engines import openai
from pytest_slmperf.testing import conforms
from pytest_slmperf.worker.sending import play

pytestmark = [
    pytest.mark.skipif(
        find_spec("xllamacpp") is None or find_spec("gguf") is None,
        reason="llama.cpp's server isn't installed: tox run -e llamacpp has it",
    ),
    pytest.mark.timeout(900),
]
MODEL = "qwen3-2x128"
SERVER = Path(__file__).with_name("llamacpp_server.py")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The server's command line; its first start writes the model."""
    model = tmp_path_factory.mktemp("llamacpp") / "model.gguf"
    return f"{sys.executable} {SERVER} {{model}} {model} {{port}} {{threads}}"


@pytest.fixture(scope="module")
def spec(command):
    return EngineSpec("openai", MODEL, options={"command": command, "vocabulary": 1024})


@pytest.fixture(scope="module")
def started(spec):
    """A started engine and its facts."""
    engine = openai.create(spec)
    try:
        facts = engine.start()
        yield engine, facts
    finally:
        engine.stop()


def test_it_takes_token_ids_and_a_length(started):
    """What it says of itself is read: its name, its version and the context of a slot."""
    _, facts = started
    assert (facts.weights, facts.device, facts.context_tokens) == (f"served:{MODEL}", "cpu", 2048)
    assert facts.version.startswith("llamacpp b")
    assert facts.settings == {"prompts": "ids", "ignore_eos": True, "keep_alive": False}


def test_static_batches_are_served_and_each_token_has_its_time(started):
    """Every answer has the length that was asked for, and a part for each token."""
    engine, facts = started
    batch = prompts(((16, 24),) * 16, vocabulary=facts.vocabulary, seed=1)
    served = engine.serve(batch, observe=True)
    assert served.output_tokens == (24,) * 16
    assert all(len(set(times)) == 24 for times in served.token_ns)
    assert 32 * 2**20 < served.peak_memory_bytes < 4 * 2**30


def test_requests_of_a_closed_loop_come_and_go_one_by_one(started):
    """Its own counts of prompts, of answers, of its cache and of its batch are read."""
    engine, facts = started
    load = Load("serve", ((16, 240),) * 32, seed=7, arrivals=Arrivals(concurrency=8))
    traffic = play(engine, Play(load, 2.0, 16, 60.0), Prompts(vocabulary=facts.vocabulary, seed=7))
    assert {one.error for one in traffic.exchanges} == {""}
    whole = [one for one in traffic.exchanges if one.asked_tokens == 240]
    assert len(whole) >= 16
    assert all((one.output_tokens, one.prompt_tokens, one.cached_tokens) == (240, 16, 0) for one in whole)
    assert all(len(one.chunk_ns) == 240 for one in whole)
    assert max(look.counters[RUNNING] for look in traffic.looks) > 1
    assert len({look.counters[CACHED_TOKENS] for look in traffic.looks}) == 1


def test_a_request_beyond_its_context_is_refused_in_its_words(started):
    """And the server serves on."""
    engine, facts = started
    with pytest.raises(EngineFailed, match="exceeds the available context size"):
        engine.serve((Request(tuple(range(5, 905)) * 3, 4),), observe=False)
    engine.serve(prompts(((4, 4),), vocabulary=facts.vocabulary, seed=6), observe=False)


def test_the_engine_keeps_the_protocol(spec):
    """What every engine promises, this one keeps with this server."""
    conforms(openai.create, spec)


@pytest.mark.alone
@pytest.mark.timeout(3600)
def test_shipped_suites_are_recorded_green_and_red_by_a_planted_loss(tmp_path, command):
    """Each launch starts a server; answers are long enough for a sender's milliseconds to be a small part of them."""
    sweeps = {
        "latency": f'model = ["{MODEL}"], batch_size = [4], output_tokens = 128',
        "load": f'model = ["{MODEL}"], concurrency = [8], output_tokens = 128',
    }
    gate = WholeGate(tmp_path, f"openai:command={command},vocabulary=1024", sweeps)
    gate.record()
    assert set(gate.judged()) <= PASSED, gate.said
    assert set(gate.judged(loss=0.4)) == {"regressed"}, gate.said
