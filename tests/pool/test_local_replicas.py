"""Replicas as processes of this machine: pinned, alike, named when they fail, and gone with their launch."""

import os
import re
import signal
import sys
import threading
import venv
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable, UsageError
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.core.protocol import Measured, MeasurePeak, PeakMeasured, Prepare, Prepared, Ready, Round, Start
from pytest_slmperf.engines.processes import tree
from pytest_slmperf.pool.pinning import pin
from pytest_slmperf.run.launch import run_launch
from pytest_slmperf.run.pinning import choose_cores
from pytest_slmperf.run.process import EngineProcess

LOAD = Load("decode/tiny/batch=5", ((8, 4),) * 5, seed=1)
POLICY = RoundPolicy(rounds=2, round_s=0.02, answer_limit_s=20)
SOURCE = """
import os, time
from pytest_slmperf.core.engine import EngineFacts, Served
from pytest_slmperf.core.errors import EngineUnavailable

class Engine:
    def __init__(self, spec):
        self.log, self.tells = spec.options["log"], spec.options
        self.replica = os.environ["SLMPERF_REPLICA"]
    def start(self):
        with open(self.log, "a") as log: print(self.replica, os.getpid(), *os.sched_getaffinity(0), file=log)
        if self.tells.get("fails") == int(self.replica): raise EngineUnavailable("it was told to")
        settings = {"kv_blocks": 100 - (self.tells.get("fewer") == int(self.replica))}
        return EngineFacts("1", "simulated", "float32", "random", 4096, 1024, settings, startup_s=0.1)
    def serve(self, batch, *, observe):
        if self.tells.get("dies") == int(self.replica): os.kill(os.getpid(), 9)
        started = time.monotonic_ns()
        time.sleep(0.01)
        ended = time.monotonic_ns()
        asked = tuple(request.output_tokens for request in batch)
        return Served(started, ended, asked, tuple((ended,) * n for n in asked) if observe else None, 1000 * len(batch))
    def stop(self): pass
"""
"""An engine that says where it runs. What it serves takes 10 ms, and none of a core."""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """Two replicas of it, installed as a package is that has an entry point."""
    metadata = tmp_path / "placed-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: placed\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[slmperf.engines]\nplaced = placed_engine:Engine\n")
    (tmp_path / "placed_engine.py").write_text(SOURCE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return EngineSpec("placed", "tiny", options={"log": str(tmp_path / "log")}, pool=Pool(2))


def launch(spec, cores=None):
    return run_launch(spec, [LOAD], POLICY, arm="candidate", index=0, cores=cores, quantiles=(0.5,))


def with_options(spec, **options):
    return replace(spec, options={**spec.options, **options})


def started(spec):
    """Of each replica that was started its number, process and cores."""
    lines = Path(spec.options["log"]).read_text().splitlines()
    return [(int(number), int(pid), set(map(int, cores))) for number, pid, *cores in map(str.split, lines)]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


needs_two = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two replicas need two cores")


@needs_two
def test_replicas_are_processes_on_cores_of_their_own_and_serve_at_once(spec):
    """The pool's figures are theirs together: five requests in the time of one replica's, peaks added up, all gone at
    the end.
    """
    cores = choose_cores(1, 2)
    record = launch(spec, cores)
    (one, first, own), (other, second, its) = started(spec)
    assert (one, other) == (1, 2)
    assert first != second
    assert sorted(own | its) == sorted(cores)
    assert not own & its
    assert not alive(first)
    assert not alive(second)
    assert record.facts.settings == {"kv_blocks": 100, "replicas": 2}
    values = record.cases[LOAD.case].values
    assert values["peak_memory_bytes"] == (5000.0,)
    # A busy machine may sleep for longer than 10 ms; one after the other they would never be as fast.
    assert 20 / 0.02 < max(values["output_throughput"]) <= 20 / 0.01
    assert max(values["replica_1_output_throughput"]) <= 12 / 0.01
    assert max(values["replica_2_output_throughput"]) <= 8 / 0.01


@needs_two
def test_a_replica_that_fails_to_start_is_named_and_the_others_are_ended(spec):
    """Those that were ready before it, too."""
    with pytest.raises(EngineUnavailable, match=r"replica 2 of 2 \(core \d+\): it was told to"):
        launch(with_options(spec, fails=2), choose_cores(1, 2))
    assert [alive(pid) for _, pid, _ in started(spec)] == [False, False]


@needs_two
def test_a_replica_that_is_killed_is_named(spec):
    """With how it ended, and which round it was."""
    with pytest.raises(
        EngineFailed, match=r"while serving decode/tiny/batch=5.*: replica 2 of 2 \(core \d+\) died: signal SIGKILL"
    ):
        launch(with_options(spec, dies=2), choose_cores(1, 2))
    assert [alive(pid) for _, pid, _ in started(spec)] == [False, False]


@needs_two
def test_a_replica_that_is_killed_within_a_round_ends_the_launch_and_is_named(spec):
    """From outside, as by the kernel's out-of-memory killer."""
    kills = []

    def kill(_case, number, _rounds):
        if number == 3:
            kills.append(threading.Timer(0.015, os.kill, (started(spec)[0][1], signal.SIGKILL)))
            kills[0].start()

    policy = replace(POLICY, rounds=100)
    words = (
        r"while serving decode/tiny/batch=5, round \d+ of 100: replica 1 of 2 \(core \d+\) died: signal SIGKILL; often"
    )
    with pytest.raises(EngineFailed, match=words):
        run_launch(
            spec,
            [LOAD],
            policy,
            arm="candidate",
            index=0,
            cores=choose_cores(1, 2),
            quantiles=(0.5,),
            progress=kill,
        )
    kills[0].join()
    assert [alive(pid) for _, pid, _ in started(spec)] == [False, False]


@needs_two
def test_replicas_with_unequal_kv_caches_are_refused(spec):
    """Both are named, with what each has."""
    words = r"kv_blocks is 100 of replica 1 of 2 \(core \d+\), and 99 of replica 2 of 2 \(core \d+\)"
    with pytest.raises(EngineFailed, match=words):
        launch(with_options(spec, fewer=2), choose_cores(1, 2))
    assert [alive(pid) for _, pid, _ in started(spec)] == [False, False]


@needs_two
def test_replicas_in_another_environment_run_this_package(spec, tmp_path):
    """The engine is that environment's own; what is installed there of this package, maybe older, isn't looked at."""
    venv.create(tmp_path / "other", with_pip=False, symlinks=True)
    (theirs,) = (tmp_path / "other" / "lib").glob("python*/site-packages")
    for installed in tmp_path.glob("placed*"):
        installed.rename(theirs / installed.name)
    (theirs / "pytest_slmperf").mkdir()
    (theirs / "pytest_slmperf" / "__init__.py").write_text("raise ImportError('an older one')")
    record = launch(replace(spec, python=str(tmp_path / "other" / "bin" / "python")), choose_cores(1, 2))
    assert record.facts.settings["replicas"] == len(started(spec)) == 2


@needs_two
def test_replicas_of_a_real_engine_take_the_memory_of_each():
    """What the kernel tells of both processes is added up, also where one has no part in a batch; libraries that
    they have loaded are told, too.
    """
    spec = EngineSpec("ctranslate2", "tiny-2x64", pool=Pool(2))
    with EngineProcess(spec, launch="candidate/0", cores=choose_cores(1, 2)) as process:
        process.hello(60)
        ready = process.ask(Start(spec), Ready, 60)
        peak = process.ask(MeasurePeak(LOAD), PeakMeasured, 60).memory_bytes
        of_one = process.ask(MeasurePeak(replace(LOAD, lengths=LOAD.lengths[:1])), PeakMeasured, 60).memory_bytes
    assert ready.facts.settings == {"threads": 1, "replicas": 2}
    assert {"python", "numpy", "ctranslate2"} <= ready.versions.keys()
    assert 2e7 < peak < 4e8
    assert of_one == pytest.approx(peak, rel=0.3)


@needs_two
def test_replicas_of_an_engine_that_starts_a_server_have_a_server_each():
    """On cores of its own, in one event loop of the pool's; both have a part in every batch."""
    pytest.importorskip("aiohttp")
    command = f"{sys.executable} -m pytest_slmperf.testing.server --port={{port}} --model=m"
    spec = EngineSpec("openai", "m", options={"command": command}, pool=Pool(2))
    cores = choose_cores(1, 2)
    with EngineProcess(spec, launch="candidate/0", cores=cores) as process:
        process.hello(60)
        facts = process.ask(Start(spec), Ready, 60).facts
        servers = [pid for pid in tree(process.root) if "testing.server" in Path(f"/proc/{pid}/cmdline").read_text()]
        own = [os.sched_getaffinity(pid) for pid in servers]
        process.ask(Prepare(LOAD, round_s=0.01, warmup_limit=1), Prepared, 60)
        measured = process.ask(Round(2, observe=False), Measured, 60)
    assert facts.settings["replicas"] == 2
    assert sorted(map(tuple, own)) == [(core,) for core in cores]
    assert [work.output_tokens for work in measured.replicas] == [2 * 3 * 4, 2 * 2 * 4]
    assert not any(map(alive, servers))


def test_more_replicas_than_cores_are_refused(spec):
    """Before anything is started, with how many are needed."""
    count = len(os.sched_getaffinity(0))
    many = replace(spec, pool=Pool(count + 1))
    with pytest.raises(UsageError, match=re.escape(f"needs {count + 1} cores, one for each thread of each of its")):
        launch(many, tuple(os.sched_getaffinity(0)))
    with pytest.raises(UsageError, match=f"{count + 1} replicas of 1 thread on {count} cores?.*are needed"):
        choose_cores(1, count + 1)


def test_a_core_that_the_control_group_keeps_is_refused(spec):
    """The kernel would take the others without a word."""
    foreign = max(os.sched_getaffinity(0)) + 1
    with pytest.raises(UsageError, match=rf"can't be pinned to core {foreign}: the control group \(cgroup\)"):
        launch(spec, (min(os.sched_getaffinity(0)), foreign))


def test_a_replica_is_pinned_to_all_of_its_cores_or_to_none():
    """The kernel would take those that are left without a word; where one is kept from it, nothing changes."""
    before = os.sched_getaffinity(0)
    foreign = max(before) + 1
    words = rf"can't be pinned to core {foreign}: the control group \(cgroup\) of this run leaves it "
    try:
        with pytest.raises(EngineUnavailable, match=words):
            pin({min(before), foreign})
        assert os.sched_getaffinity(0) == before
        pin({min(before)})
        assert os.sched_getaffinity(0) == {min(before)}
    finally:
        os.sched_setaffinity(0, before)
