"""Whole runs on a server of the OpenAI API over real sockets: green, red, and nothing left behind."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from statistics import median

import pytest
from few_launches import MEASURED, store
from projects import Project, prose

from pytest_slmperf.cli import main
from pytest_slmperf.testing.server import Options, serving

COMMAND = f"{sys.executable} -m pytest_slmperf.testing.server --port {{port}} --model {{model}}"
SETTINGS = ("round_s = 0.1", "traffic_s = 0.5")
SUITE = """
from pytest_slmperf import StaticBatch, Sweep

DECODE = Sweep("decode", StaticBatch(prompt_tokens=16, output_tokens=8), model=["opt-125m"], batch_size=[4],
               gate={"output_throughput": 0.15})


@DECODE.each
def test_throughput(slmperf, batch_size):
    point = slmperf.measure(DECODE)[batch_size]
    assert point.output_throughput >= point.baseline.output_throughput
"""


@pytest.fixture(scope="module")
def server():
    """One that runs already, with steps so long that a busy machine adds little to them."""
    with serving(Options(model="opt-125m", step_s=0.01)) as running:
        yield running


@pytest.fixture
def openai(fresh):
    """A project with one case, for engines that only simulate: such a run holds no device, and waits for none."""
    fresh.write("test_suite.py", SUITE)
    fresh.settings(*SETTINGS)
    return fresh


def servers_of(folder: Path) -> list[int]:
    """Servers that engines of a run in this folder have started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            ours = (process / "cwd").resolve() == folder.resolve()
        except OSError:  # it has ended by now
            continue
        if ours and b"pytest_slmperf.testing.server" in command:
            found.append(int(process.name))
    return found


def waited_for(condition, limit_s=30):
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_a_server_is_gated(openai, server):
    """It is green beside itself, and red with a planted loss."""
    engine = f"openai:url={server.url},device=simulated"
    store(openai, openai.apart(*MEASURED, engine=engine))
    assert openai.gate(engine=engine).ret == 0
    red = openai.gate(engine=f"{engine},slowed=0.5")
    assert red.ret == 1
    assert "regressed" in prose(red)


def test_a_server_that_is_not_there_is_red(openai):
    """And says where nobody answers."""
    red = openai.gate(engine="openai:url=http://127.0.0.1:1/v1,device=simulated")
    assert red.ret == 1
    assert "http://127.0.0.1:1/v1: nobody answers there" in prose(red)


@pytest.mark.alone
def test_a_closed_loop_feels_a_loss(server, tmp_path, monkeypatch, capsys):
    """Of two arms at the same server, the one with a planted loss has as much less throughput; a run that is too short
    to judge it is no pass.
    """
    monkeypatch.chdir(tmp_path)
    Project(tmp_path).settings(*SETTINGS)
    engine = f"openai:url={server.url},device=simulated"
    load = ("--model", "opt-125m", "--concurrency", "4", "--prompt-tokens", "16", "--output-tokens", "8")
    ended = main(["ab", "same", "slowed=0.5", "--engine", engine, *load, "--budget=0.15", "--report=report.json"])
    said = capsys.readouterr().out
    assert (ended, "1 inconclusive" in said) == (1, True), said
    (case,) = json.loads((tmp_path / "report.json").read_text())["sweeps"][0]["cases"]
    if not case["samples"]:
        pytest.skip(f"this machine is too busy for a launch of each, or to send on time: {case['void_rounds']}")
    before, now = (
        median(rounds[0] for rounds in case[samples]["output_throughput"]["launches"])
        for samples in ("baseline_samples", "samples")
    )
    assert now == pytest.approx(before / 2, rel=0.15)


def test_a_run_that_was_killed_leaves_no_server(openai):
    """Not even by SIGKILL: the server ends with the engine's process."""
    run = openai.start(engine=f"openai:command={COMMAND},device=simulated")
    try:
        assert waited_for(lambda: servers_of(openai.path))
        os.kill(run.pid, signal.SIGKILL)
        assert waited_for(lambda: not servers_of(openai.path))
    finally:
        run.kill()
        run.communicate()
