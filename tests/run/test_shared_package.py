"""Others at work while a package's joules are counted: which hold all its cores, whoever uses them."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from foreign_engine import SPINNING, install
from moving_package import moving_package
from patience import tries

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.meters.rapl import RaplMeter
from pytest_slmperf.run.guards import Reading, Turns, judge_package
from pytest_slmperf.run.launch import EnergyTerms, run_launch
from pytest_slmperf.run.metering import Metering

MS = 1_000_000
BEFORE = Reading(0, 0, 0, threads={7: Turns(0, 0)}, busy_ticks=dict.fromkeys(range(4), 100))


def after(*, engine_ms, busy_ms):
    """Four cores after so much work of the engine and of all."""
    ticks = round(busy_ms / 1000 * os.sysconf("SC_CLK_TCK"))
    return replace(BEFORE, threads={7: Turns(engine_ms * MS, 0)}, busy_ticks={**BEFORE.busy_ticks, 1: 100 + ticks})


@pytest.mark.parametrize(
    ("engine_ms", "busy_ms", "words"),
    [
        pytest.param(3000, 3000, None, id="the engine alone"),
        pytest.param(2800, 3000, None, id="a tenth at most"),
        pytest.param(2400, 3000, "20% of all cores' work was others'", id="more"),
        pytest.param(60, 90, None, id="no more than whole ticks may be off by"),
    ],
)
def test_a_package_is_shared_where_others_did_more_than_a_tenth_of_the_work(engine_ms, busy_ms, words):
    """On whatever core: so much of the joules of all cores may be theirs."""
    void = judge_package(BEFORE, after(engine_ms=engine_ms, busy_ms=busy_ms))
    assert (void is None) is (words is None)
    assert void is None or (void.guard == "package" and words in void.reason)


def test_where_the_engines_time_is_not_told_nothing_is_blamed():
    """A kernel that doesn't count it leaves the note on load elsewhere."""
    assert judge_package(BEFORE, replace(after(engine_ms=0, busy_ms=3000), threads=None)) is None


BURN = "import os, sys; os.sched_setaffinity(0, [int(sys.argv[1])]); print(flush=True)\nwhile True: pass"


@pytest.mark.alone
def test_joules_counted_beside_others_on_another_core_are_void_and_name_them(tmp_path, monkeypatch):
    """Throughput hardly feels them, and has a note alone; the joules are theirs, too."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("a core for the others is needed")
    install(tmp_path, "spinning", SPINNING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    policy = RoundPolicy(rounds=1, round_s=0.01, observed_requests=0, void_retries=0, answer_limit_s=30)
    load = Load("decode/tiny/batch=1", ((8, 4),), seed=1)
    with moving_package(tmp_path, every_s=0.005):
        metering = Metering(RaplMeter(root=tmp_path), window_s=0.6, lead_in_s=0.1, devices=("cpu",))
        burning = subprocess.Popen([sys.executable, "-c", BURN, str(cores[0])], stdout=subprocess.PIPE)
        try:
            burning.stdout.readline()
            for _ in tries(20):
                record = run_launch(
                    EngineSpec("spinning", "tiny"), [load], policy, arm="candidate", index=1, cores=(cores[-1],),
                    quantiles=(), energy=EnergyTerms(metering, gated=True),
                )  # fmt: skip
                case = record.cases[load.case]
                found = [void for void in case.void_rounds if void.guard == "package"]
                if found or case.void is None:  # else others kept its joules from being counted at all
                    break
        finally:
            burning.kill()
            burning.wait()
            burning.stdout.close()
            metering.close()
    if case.void and not found:
        pytest.skip(f"others on this machine hid it: {case.void}")
    assert found, "its joules are counted beside others"
    assert "of all cores' work was others'" in found[0].reason
    assert f"(pid {burning.pid}" in found[0].reason
