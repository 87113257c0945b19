"""A meter in one process and an engine in another: one clock, one board, and joules for exactly the tokens counted."""

import json
import subprocess
import sys
from contextlib import ExitStack

import pytest

from pytest_slmperf.core.energy.rounds import energy_of_round
from pytest_slmperf.core.energy.tally import work_of
from pytest_slmperf.core.energy.window import Energy, Terms
from pytest_slmperf.core.engine import Served
from pytest_slmperf.core.meter import Around
from pytest_slmperf.meters.nvml import NvmlMeter

pytest.importorskip("pynvml")
ENGINE = """
import json, sys
from pytest_slmperf.core.engine import EngineSpec, Request
from pytest_slmperf.engines.fake import create
load, log, observe = sys.argv[1:]
options = {"real_time": True, "load": float(load), "load_log": log, "level": 200.0, "knee": 1e9}
engine = create(EngineSpec("fake", "opt-125m", options=options))
engine.start()
for line in sys.stdin:
    served = [engine.serve([Request((1,), 48)] * 8, observe=observe == "observed") for _ in range(int(line))]
    told = [(one.started_ns, one.ended_ns, one.output_tokens, one.token_ns) for one in served]
    print(json.dumps(told), flush=True)
"""
BATCHES = 5
"""Of a quarter of a second each: the engine has to wake up in time only so often."""


@pytest.fixture
def engine(tmp_path):
    """Starts an engine's process, which serves as many batches as it is told."""
    with ExitStack() as running:

        def start(load, *, observed):
            how = "observed" if observed else "plain"
            command = [sys.executable, "-c", ENGINE, str(load), str(tmp_path / "load"), how]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            process = running.enter_context(subprocess.Popen(command, **pipes))

            def serve(batches):
                process.stdin.write(f"{batches}\n")
                process.stdin.flush()
                return [
                    Served(begin, end, tuple(tokens), stamps and tuple(map(tuple, stamps)))
                    for begin, end, tokens, stamps in json.loads(process.stdout.readline())
                ]

            return serve

        yield start


@pytest.mark.alone
@pytest.mark.parametrize("observed", [True, False], ids=["step by step", "whole batches"])
def test_joules_per_token_are_the_boards_over_the_engines_tokens(driver, engine, tmp_path, observed):
    """Both count from edge to edge on one clock, whether the tokens were timed or only the batches."""
    one = driver(f"load {tmp_path / 'load'} 100 500", "period 0.1 0.02", real=True)
    meter = NvmlMeter()
    meter.open()
    idle = meter.states()
    serve = engine(0.75, observed=observed)
    serve(1)
    before = meter.states()
    meter.start()
    batches = serve(BATCHES)
    recording = meter.stop()
    around = Around(idle, before, meter.states())
    work, terms = work_of(batches, prompt_tokens=8), Terms(lead_in_s=0.3, least_s=0.5)
    found = energy_of_round(recording, work, around, terms)
    energy = found.energy
    assert isinstance(energy, Energy), energy
    (board,) = energy.boards
    bound = 4 * board.uncertainty.edge
    assert board.joules == pytest.approx(one.true_joules(round(board.from_ns), round(board.to_ns)), rel=bound)
    if observed:
        stamps = [at for batch in batches for request in batch.token_ns for at in request]
        assert board.output_tokens == pytest.approx(sum(board.from_ns < at <= board.to_ns for at in stamps), abs=16)
    else:
        share = board.seconds / (batches[-1].ended_ns - batches[0].started_ns) * 1e9
        assert board.output_tokens == pytest.approx(share * BATCHES * 8 * 48, rel=0.05)
    assert board.total_tokens > board.output_tokens
    assert [*found.findings.values()] == [()], "the engine's own process is no stranger"
    meter.close()
