"""A launch measures an engine in a process of its own, and leaves none behind, whatever happens."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from foreign_engine import install

from pytest_slmperf import __version__
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineDied, EngineFailed, EngineHung, EngineUnavailable, UsageError
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.protocol import VERSION, Hello, Ready, Start, encode
from pytest_slmperf.run.launch import run_launch
from pytest_slmperf.run.process import OUTPUT_LIMIT, PACKAGE, EngineProcess

CASE = "decode/tiny/batch=4"
LOAD = Load(CASE, ((32, 32),) * 4, seed=1)
POLICY = RoundPolicy(rounds=3, answer_limit_s=20)


NOTING = """
from pytest_slmperf.core.engine import EngineFacts, Served

class Engine:
    def __init__(self, spec): pass
    def start(self): return EngineFacts("1", "simulated", "float32", "random", 4096, 1024, {{"compile": True}})
    def serve(self, batch, *, observe):
        with open("{log}", "a") as log: print(len(batch), file=log)
        return Served(1, 2, tuple(request.output_tokens for request in batch))
    def stop(self): pass
"""
"""An engine that notes how large its batches are."""


def fake(**options):
    return EngineSpec("fake", "tiny", options=options)


def launch(spec=None, loads=(LOAD,), policy=POLICY, **terms):
    terms = {"arm": "candidate", "index": 0, "cores": None, "quantiles": (0.5, 0.9), **terms}
    return run_launch(spec or fake(), loads, policy, **terms)


def children(pid="self"):
    """Ids of the processes that a process has started and not yet reaped."""
    with suppress(OSError):
        return {
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        }
    return set()


def gone(pid, within_s=2.0):
    """Whether the process has ended, be it that nobody has reaped it yet."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(autouse=True)
def nothing_left_behind():
    before = children()
    yield
    assert children() <= before


# -- what a launch brings back


def test_a_launch_measures_every_load_in_the_order_it_was_given():
    """The record tells its arm, its number, the engine's facts, and versions, begin and length of the launch."""
    loads = [replace(LOAD, case=f"decode/tiny/batch={size}", lengths=((32, 32),) * size) for size in (16, 1, 4)]
    record = launch(loads=loads, index=7, arm="baseline")
    assert list(record.cases) == [load.case for load in loads]
    assert (record.arm, record.index, record.facts.device) == ("baseline", 7, "simulated")
    assert record.versions == {"python": sys.version.split()[0], "pytest-slmperf": __version__, "fake": "1"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record.started_at)
    assert record.seconds > 0


def test_what_primes_an_engine_is_served_once_the_smallest_first_and_brings_nothing_back(tmp_path, monkeypatch):
    """It knows the engine's facts; an engine is asked for half of a batch and the whole, as for its peak of memory."""
    install(tmp_path, "noting", NOTING.format(log=tmp_path / "batches"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    facts = []

    def prime(told):
        facts.append(told)
        return [replace(LOAD, case=f"of {size}", lengths=((8, 4),) * size) for size in (6, 2)]

    record = launch(EngineSpec("noting", "tiny"), loads=(), prime=prime)
    assert record.cases == {}
    assert [told.settings["compile"] for told in facts] == [True]
    assert (tmp_path / "batches").read_text().split() == ["1", "2", "3", "6"]


def test_what_an_engine_says_is_repeated_as_it_is(tmp_path, monkeypatch):
    """Also where it has braces, as a server's JSON does."""
    broken = "        raise ValueError('not JSON: {\"a\": {}}')\n        return Served("
    raising = NOTING.format(log=tmp_path / "batches").replace("        return Served(", broken)
    install(tmp_path, "raising", raising)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EngineFailed, match=r'memory: ValueError: not JSON: \{"a": \{\}\}'):
        launch(EngineSpec("raising", "tiny"))


def test_the_phases_of_a_start_are_metrics_where_the_engine_tells_them(tmp_path, monkeypatch):
    """Each has a value a launch; a phase that no metric knows has none."""
    told = NOTING.replace('{{"compile": True}}', '{{}}, 1.0, {{"load": 0.25, "tea": 9.0}}').replace(
        "Served(1, 2,", "Served(1, 9**9,"
    )
    install(tmp_path, "noting", told.format(log=tmp_path / "batches"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    values = launch(EngineSpec("noting", "tiny"), policy=replace(POLICY, observed_requests=0)).cases[CASE].values
    assert {name: values[name] for name in values if name.startswith("startup")} == {
        "startup_s": (1.0,),
        "startup_load_s": (0.25,),
    }


@pytest.mark.parametrize(("share", "said"), [("0.97", ["its front end used 97% of a core"]), ("0.6", []), ("None", [])])
def test_a_front_end_at_its_limit_is_told_of_a_static_batch(tmp_path, monkeypatch, share, said):
    """In the mean of its rounds; one that has time left, or isn't seen, is nothing to be told of."""
    fronted = f"{NOTING}\n    def front_end(self): return {share}\n".replace("Served(1, 2,", "Served(1, 9**9,")
    install(tmp_path, "fronted", fronted.format(log=tmp_path / "batches"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    case = launch(EngineSpec("fronted", "tiny"), policy=replace(POLICY, observed_requests=0)).cases[CASE]
    assert [note.partition(",")[0] for note in case.notes if "front end" in note] == said


def test_throughput_has_a_value_for_each_round_and_the_rest_one_for_the_launch():
    """And the simulated engine's values are those of its model."""
    case = launch(fake(level=1000, prefill_level=1e12)).cases[CASE]
    per_round = ("output_throughput", "total_token_throughput", "request_throughput")
    assert {name: len(values) for name, values in case.values.items()} == {
        **dict.fromkeys(per_round, 3),
        **dict.fromkeys(("startup_s", "peak_memory_bytes"), 1),
        **{f"median_{name}_ms": 1 for name in ("ttft", "tpot", "itl", "e2el")},
        "p90_itl_ms": 1,
    }
    alone = 1000 / (1 + 3 / 16)
    assert case.values["output_throughput"] == pytest.approx([4 * alone] * 3, rel=1e-5)
    assert case.values["total_token_throughput"] == pytest.approx([8 * alone] * 3, rel=1e-5)
    assert case.values["request_throughput"] == pytest.approx([4 * alone / 32] * 3, rel=1e-5)
    assert case.values["median_tpot_ms"] == pytest.approx((1000 / alone,), rel=1e-5)
    assert case.values["startup_s"] == (0.5,)


def test_every_value_and_every_reason_stands_under_a_known_metric_and_none_under_both():
    """A metric is measured, or it has a reason."""
    case = launch(quantiles=(0.5, 0.9, 0.99)).cases[CASE]
    assert not case.values.keys() & case.unmeasured.keys()
    for name in (*case.values, *case.unmeasured):
        assert metric(name).name == name


def test_a_quantile_that_the_observed_requests_cannot_give_is_unmeasured():
    """The reason says how many it needs, and with so many it is measured."""
    case = launch().cases[CASE]
    assert (
        case.unmeasured["p90_ttft_ms"]
        == "4 requests observed, and this quantile needs 10: declare it in percentiles=[…]"
    )
    observed = replace(POLICY, observed_requests=10)
    assert "p90_ttft_ms" in launch(policy=observed).cases[CASE].values


def test_observing_nothing_leaves_every_latency_unmeasured():
    """The medians are there with their reason, as if they had been asked for."""
    case = launch(policy=replace(POLICY, observed_requests=0)).cases[CASE]
    assert {name for name in case.unmeasured if name.startswith("median")} == {
        "median_ttft_ms", "median_tpot_ms", "median_itl_ms", "median_e2el_ms",
    }  # fmt: skip


def test_observing_leaves_the_throughput_alone():
    """An engine that is slower while observed shows it in its latencies only."""
    plain, observed = launch(fake()), launch(fake(observing_cost=1.0))
    assert plain.cases[CASE].values["output_throughput"] == observed.cases[CASE].values["output_throughput"]
    assert observed.cases[CASE].values["median_e2el_ms"] > plain.cases[CASE].values["median_e2el_ms"]


def test_a_launch_without_loads_says_what_the_engine_is():
    """So that its facts can be had without a measurement."""
    record = launch(loads=())
    assert record.facts.vocabulary == 1024
    assert record.cases == {}


def test_progress_is_told_before_each_round():
    """With the case, the round and how many there are."""
    told = []
    launch(progress=lambda *arguments: told.append(arguments))
    assert told == [(CASE, 1, 3), (CASE, 2, 3), (CASE, 3, 3)]


def test_a_pace_that_does_not_settle_is_noted():
    """The case is measured, and says that its warm-up ended at the limit."""
    record = launch(fake(cold=1000), policy=replace(POLICY, warmup_limit=4))
    assert "the pace was not steady after 4 warm-up steps" in record.cases[CASE].notes


TOO_SOON_WARM = fake(level=100_000, prefill_level=1e12, cold=40)
"""After one step of warming up it still gains so much that the rounds come out too short."""


def test_a_round_that_is_too_short_is_void_and_repeated_longer():
    """The case has all its rounds in the end, and lists the void one with the least length."""
    case = launch(TOO_SOON_WARM, policy=replace(POLICY, warmup_limit=1)).cases[CASE]
    assert case.void_rounds[0].guard == "short"
    assert "50 ms is the least" in case.void_rounds[0].reason
    assert len(case.values["output_throughput"]) == 3


def test_a_case_without_a_valid_round_is_void_and_has_no_values():
    """The reason says which round it was, how often it was tried, and why."""
    never = replace(POLICY, warmup_limit=1, void_retries=0)
    case = launch(TOO_SOON_WARM, policy=never).cases[CASE]
    assert case.values == {}
    assert case.void.startswith("round 1 of 3 stayed void (tried 1 times): it lasted")
    assert [void.launch for void in case.void_rounds] == [0]


SUDDENLY_FASTER = """
from dataclasses import replace
from pytest_slmperf.engines.fake import Behaviour, FakeEngine

class Engine(FakeEngine):
    def __init__(self, spec):
        super().__init__(spec, Behaviour(level=1000), launch="")
    def serve(self, batch, *, observe):
        if self._batches == 2 + 3 + 3:  # after those for the peak, the warm-up and the first round
            self._behaves = replace(self._behaves, level=1_000_000, prefill_level=1e12)
        return super().serve(batch, observe=observe)
"""


def test_a_later_round_that_stays_void_voids_the_whole_case(tmp_path, monkeypatch):
    """A case is never kept with fewer rounds than were wanted."""
    install(tmp_path, "sudden", SUDDENLY_FASTER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    case = launch(EngineSpec("sudden", "tiny"), policy=replace(POLICY, void_retries=0)).cases[CASE]
    assert case.values == {}
    assert case.void.startswith("round 2 of 3 stayed void (tried 1 times): it lasted")


HOARDING = """
from dataclasses import replace
from pytest_slmperf.engines.fake import Behaviour, FakeEngine

class Engine(FakeEngine):
    most = 0
    def __init__(self, spec):
        super().__init__(spec, Behaviour(), launch="")
    def serve(self, batch, *, observe):
        served = super().serve(batch, observe=observe)
        self.most = max(self.most, served.peak_memory_bytes)
        return replace(served, peak_memory_bytes=self.most)
"""
"""Keeps all memory that it ever had."""


@pytest.mark.parametrize("sizes", [(16, 1, 4), (1, 4, 16), (4, 16, 1)])
def test_a_cases_peak_is_the_same_alone_and_beside_others_in_any_order(sizes, tmp_path, monkeypatch):
    """Also of an engine that gives no memory back."""
    install(tmp_path, "hoarding", HOARDING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    loads = [replace(LOAD, case=f"decode/tiny/batch={size}", lengths=((32, 32),) * size) for size in sizes]
    together = launch(EngineSpec("hoarding", "tiny"), loads=loads).cases
    assert list(together) == [load.case for load in loads]
    for load in loads:
        alone = launch(EngineSpec("hoarding", "tiny"), loads=[load]).cases[load.case]
        assert together[load.case].values["peak_memory_bytes"] == alone.values["peak_memory_bytes"]


def test_a_planted_loss_takes_that_share_of_the_throughput():
    """So that a suite can be shown to find a loss of known size."""
    policy = replace(POLICY, rounds=2, observed_requests=0)
    plain, slowed = launch(policy=policy), launch(replace(fake(), planted_loss=0.2), policy=policy)
    best = [max(record.cases[CASE].values["output_throughput"]) for record in (plain, slowed)]
    assert best[1] / best[0] == pytest.approx(0.8, rel=1e-4)


def test_more_threads_than_cores_are_refused():
    """Threads that share a core would be measured waiting for each other."""
    with pytest.raises(UsageError, match="fake needs 2 cores, one for each thread, and was given 1: lower threads"):
        launch(replace(fake(), threads=2), cores=(0,))


def test_what_an_engine_prints_does_not_matter():
    """Lines on stdout and stderr are no messages, and stop nothing."""
    record = launch(fake(fault="chatters", fault_batch=2))
    assert len(record.cases[CASE].values["output_throughput"]) == 3


def test_what_an_engine_prints_is_kept_within_bounds():
    """However much it prints, the file of its last lines stays below its limit."""
    with EngineProcess(fake(fault="chatters"), launch="candidate/0", cores=None) as process:
        process.hello(20)
        process.ask(Start(fake(fault="chatters")), Ready, 20)
        size = os.fstat(process._output.fileno()).st_size
    assert 0 < size < OUTPUT_LIMIT


SPYING = """
import os
from pytest_slmperf.core.engine import EngineFacts

variables = {name: os.environ[name] for name in
             ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONHASHSEED", "CUDA_DEVICE_ORDER", "SLMPERF_LAUNCH")}
cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))

class Engine:
    def __init__(self, spec): pass
    def start(self):
        settings = {**variables, "cores": cores, "session": os.getsid(0), "group": os.getpgid(0),
                    "pid": os.getpid(), "stdin": os.readlink("/proc/self/fd/0")}
        return EngineFacts("1", "cpu", "float32", "random", 100, 100, settings)
    def stop(self): pass
"""
"""Says what its process is like, and what it was like when the engine was imported."""


def test_an_engine_is_pinned_and_has_its_threads_set_before_it_is_loaded(tmp_path, monkeypatch):
    """Its libraries read both when they are imported, whatever the caller's environment says."""
    install(tmp_path, "spying", SPYING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    core = max(os.sched_getaffinity(0))
    settings = launch(EngineSpec("spying", "tiny"), loads=(), index=4, cores=(core,)).facts.settings
    assert settings["cores"] == str(core)
    assert settings["OMP_NUM_THREADS"] == settings["MKL_NUM_THREADS"] == "1"
    assert settings["PYTHONHASHSEED"] == "0"
    assert settings["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert settings["SLMPERF_LAUNCH"] == "candidate/4"
    assert settings["session"] == settings["group"] == settings["pid"]
    assert settings["stdin"] == "/dev/null"


# -- what goes wrong


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("raises", EngineFailed, "failed while .*: the fake engine was told to fail"),
        ("memory", EngineFailed, "ran out of memory while .*told to.*; try a smaller batch"),
        (
            "short",
            EngineFailed,
            "answered wrongly while .*: generated 31 tokens for request 1 of 4, which asked for 32",
        ),
        ("dies", EngineDied, "died while .*: signal SIGKILL; often that is the kernel's out-of-memory killer"),
        ("exits", EngineDied, "died while .*: exit code 3\nits last lines:\n    the fake engine was told to exit"),
        ("babbles", EngineFailed, "broke the protocol while .*: not JSON: .*likes to print"),
    ],
)
def test_a_fault_in_a_round_says_whose_where_and_what_to_do(fault, error, words):
    """The error names the engine, the case and the round, and its kind tells what became of the process."""
    with pytest.raises(error, match=rf"(?s)^fake \(tiny, float32\) {words}") as raised:
        launch(fake(fault=fault, fault_batch=10))
    assert f"serving {CASE}, round 2 of 3" in str(raised.value)


def test_missing_token_times_are_a_wrong_answer():
    """An engine that was observed and tells none has failed; its latencies are not merely absent."""
    observed_batch = 2 + 3 + 3 * 3 + 1  # after the two for the peak, the warm-up and three rounds of three batches
    with pytest.raises(EngineFailed, match=f"answered wrongly while serving {CASE}, observed: .*not every token"):
        launch(fake(fault="unobserved", fault_batch=observed_batch))


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("unavailable", EngineUnavailable, "cannot be had here: the fake engine was told not to be here"),
        ("raises", EngineFailed, "failed while loading the model"),
        ("memory", EngineFailed, "ran out of memory while loading the model"),
        ("dies", EngineDied, "died while loading the model"),
    ],
)
def test_a_fault_at_the_start_is_told_apart(fault, error, words):
    """What can't be had is told from what failed, ran out of memory or died while loading."""
    with pytest.raises(error, match=words):
        launch(fake(fault=fault))


def test_an_unknown_engine_is_unavailable():
    """As one that isn't installed here: the error has its name and what is wrong."""
    with pytest.raises(EngineUnavailable, match=r"nonesuch \(tiny, float32\) cannot be had here: unknown engine"):
        launch(EngineSpec("nonesuch", "tiny"))


def test_an_engine_without_an_answer_is_killed_after_the_limit():
    """The error says for how long it gave none, and in which round."""
    began = time.monotonic()
    with pytest.raises(EngineHung, match=f"no answer for 0.6 s while serving {CASE}, round 1 of 3, and was killed"):
        launch(fake(fault="hangs", fault_batch=7), policy=replace(POLICY, answer_limit_s=0.5))
    assert time.monotonic() - began < 5


def test_a_round_may_last_longer_than_an_answer_is_waited_for():
    """As one that is to hold enough requests of a model beside, which come seldom."""
    policy = RoundPolicy(rounds=1, round_s=1.2, observed_requests=1, answer_limit_s=1.0)
    case = launch(fake(real_time=True), policy=policy).cases[CASE]
    assert case.void is None


def test_an_engine_that_reads_nothing_is_killed_after_the_limit(tmp_path):
    """A load that is larger than the pipe doesn't fit into it, and nobody waits for ever."""
    hello = encode(Hello("3.11", 1)).decode()
    deaf = script(tmp_path, f"import os, sys, time; os.write(int(sys.argv[4]), {hello!r}.encode()); time.sleep(60)")
    large = replace(fake(), python=deaf, options={"name": "x" * (1 << 18)})
    with pytest.raises(EngineHung, match="no answer for 1 s while loading the model"):
        launch(large, policy=replace(POLICY, answer_limit_s=1.0))


def test_a_start_without_an_end_is_killed_after_the_limit():
    """A model that is never loaded holds up nobody for ever."""
    with pytest.raises(EngineHung, match=r"no answer for 0\.5 s while loading the model"):
        launch(fake(start_sleep_s=60), policy=replace(POLICY, answer_limit_s=0.5))


# -- interpreters


def test_an_interpreter_that_is_not_there_is_said_to_be():
    """With its path and the system's reason."""
    with pytest.raises(EngineUnavailable, match=r"/nowhere/python cannot be started \(No such file"):
        launch(replace(fake(), python="/nowhere/python"))


def test_a_program_that_is_no_python_is_said_to_be():
    """With what it ended with."""
    with pytest.raises(
        EngineUnavailable, match=r"(?s)/bin/false does not run our worker; it must be a Python.*exit code 1"
    ):
        launch(replace(fake(), python="/bin/false"))


def test_a_program_that_says_nothing_is_given_up(tmp_path):
    """After the limit, with the same words as one that ends."""
    mute = script(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(EngineUnavailable, match="does not run our worker"):
        launch(replace(fake(), python=mute), policy=replace(POLICY, answer_limit_s=0.5))


def test_a_python_that_is_too_old_is_said_to_be():
    """Its own last words, which name the version that is needed, stand in the error."""
    old = next(filter(None, map(_interpreter, ("3.10", "3.9", "3.8"))), None)
    if old is None:
        pytest.skip("no Python older than 3.11 here")
    with pytest.raises(EngineUnavailable, match=r"(?s)it must be a Python.*pytest-slmperf needs Python 3.11 or newer"):
        launch(replace(fake(), python=old))


def test_another_python_needs_none_of_our_packages(tmp_path):
    """An environment in which nothing at all is installed."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    record = launch(replace(fake(), python=str(tmp_path / "bare/bin/python")))
    assert len(record.cases[CASE].values["output_throughput"]) == 3


def test_a_worker_of_another_version_is_refused(tmp_path):
    """Before it is told what to load; the error has both versions of the protocol."""
    other = script(tmp_path, """import os, sys; os.write(int(sys.argv[4]), b'{"slmperf": 99, "kind": "hello"}\\n')""")
    with pytest.raises(EngineFailed, match=rf"speaks protocol 99, where this pytest-slmperf speaks {VERSION};.* again"):
        launch(replace(fake(), python=other))


def script(folder, content):
    """A program that is started in an interpreter's place."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{content}\n")
    path.chmod(0o755)
    return str(path)


def _interpreter(version):
    found = shutil.which(f"python{version}")
    if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
        return found
    return None


# -- nothing is left behind

PARENT = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.run.launch import run_launch
spec = EngineSpec(sys.argv[1], "tiny", options={{"fault": "hangs", "fault_batch": 6}})  # the first after the warm-up
run_launch(spec, [{LOAD!r}], RoundPolicy(), arm="candidate", index=0, cores=None, quantiles=(),
           progress=lambda *_: print("in the first round", flush=True))
"""


@contextmanager
def hanging_launch(*paths, engine="fake"):
    """(a process whose launch is in a round that never ends, the id of the engine's process)"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, PACKAGE.parent)))}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PARENT, engine], env=environment, **pipes) as parent:
        try:
            assert parent.stdout.readline() == b"in the first round\n"
            time.sleep(0.1)
            (guard,) = children(parent.pid)
            (process,) = (
                child for child in children(guard) if b"bootstrap" in Path(f"/proc/{child}/cmdline").read_bytes()
            )
            yield parent, process
        finally:
            parent.kill()


@pytest.fixture
def hanging():
    """See hanging_launch."""
    with hanging_launch() as both:
        yield both


def test_an_engine_whose_launch_is_killed_does_not_live_on(hanging):
    """Also by SIGKILL, of which the launch itself learns nothing."""
    parent, engine = hanging
    parent.send_signal(signal.SIGKILL)
    assert gone(engine)


def test_ctrl_c_in_the_middle_of_a_batch_ends_both_at_once(hanging):
    """The launch doesn't wait for an answer that would take long."""
    parent, engine = hanging
    parent.send_signal(signal.SIGINT)
    assert gone(engine)
    _, stderr = parent.communicate(timeout=2)
    assert b"KeyboardInterrupt" in stderr


def test_a_launch_that_is_terminated_takes_its_engine_along(hanging):
    """As a job scheduler ends it, by SIGTERM."""
    parent, engine = hanging
    parent.terminate()
    assert gone(engine)


STARTING = """
import os
from pathlib import Path
from pytest_slmperf.engines import fake

class Engine:
    def __init__(self, spec):
        self._engine = fake.create(spec)
        self.serve, self.stop = self._engine.serve, self._engine.stop
    def start(self):
        told, tell = os.pipe()
        child = os.fork()
        if not child:
            {leave}
            os.write(tell, str(os.getpid()).encode())
            os.execvp("sleep", ["sleep", "60"])
        {wait}
        Path(__file__).with_name("child").write_bytes(os.read(told, 20))
        return self._engine.start()
"""
"""The fake engine, which starts a process of its own first."""
WAYS = {
    "child": ("pass", "pass"),
    "session": ("os.setsid()", "pass"),
    "daemon": ("os.setsid(); os.fork() and os._exit(0)", "os.waitpid(child, 0)"),
}
"""What such a process does to leave the engine's process group, and then the engine itself."""


@pytest.fixture(params=WAYS)
def engines_child(request, tmp_path, monkeypatch):
    """The file that gets the id of the process that the engine `starting` starts."""
    leave, wait = WAYS[request.param]
    install(tmp_path, "starting", STARTING.format(leave=leave, wait=wait))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "child"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, None),
        ({"fault": "raises", "fault_batch": 2}, EngineFailed),
        ({"fault": "dies", "fault_batch": 2}, EngineDied),
        ({"fault": "hangs", "fault_batch": 2}, EngineHung),
    ],
)
def test_what_an_engine_has_started_dies_with_it(options, error, engines_child):
    """However the engine ends, and wherever its processes have gone."""
    spec = EngineSpec("starting", "tiny", options=options)
    with pytest.raises(error) if error else nullcontext():
        launch(spec, policy=replace(POLICY, answer_limit_s=2.0))
    assert gone(int(engines_child.read_text()), within_s=0.5)


def test_what_an_engine_has_started_dies_with_a_launch_that_is_killed(engines_child):
    """The kernel tells nobody but the guard, which ends the engine and all that it has started."""
    with hanging_launch(engines_child.parent, engine="starting") as (parent, engine):
        parent.send_signal(signal.SIGKILL)
        assert gone(engine)
        assert gone(int(engines_child.read_text()))


def test_an_engine_whose_guard_is_killed_does_not_live_on():
    """Nor does its launch wait for it: the engine counts as dead."""
    with hanging_launch() as (parent, engine):
        (guard,) = children(parent.pid)
        os.kill(guard, signal.SIGKILL)
        assert gone(engine)
        _, stderr = parent.communicate(timeout=5)
        assert b"EngineDied" in stderr


def test_what_an_engine_has_started_dies_where_its_guard_is_killed(engines_child):
    """The launch ends it in the guard's place, wherever it has gone."""
    with hanging_launch(engines_child.parent, engine="starting") as (parent, engine):
        (guard,) = children(parent.pid)
        os.kill(guard, signal.SIGKILL)
        assert gone(engine)
        _, stderr = parent.communicate(timeout=5)
        assert b"EngineDied" in stderr
        assert gone(int(engines_child.read_text()), within_s=0.5)


def test_a_launch_whose_guard_was_killed_ends_nothing_of_another_launch(engines_child):
    """Of two that measure at once, under the same name, it ends its own alone."""
    with hanging_launch() as (other, others_engine):
        with hanging_launch(engines_child.parent, engine="starting") as (parent, _):
            (guard,) = children(parent.pid)
            os.kill(guard, signal.SIGKILL)
            parent.communicate(timeout=5)
        assert not gone(others_engine, within_s=0.2)
        assert other.poll() is None


IN_A_NAMESPACE = """
import os, sys
from pathlib import Path
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import RoundPolicy
from pytest_slmperf.run.launch import run_launch
assert os.readlink("/proc/self") != str(os.getpid())
run_launch(EngineSpec("starting", "tiny"), (), RoundPolicy(), arm="candidate", index=0, cores=None, quantiles=())
try:
    os.kill(int(Path(sys.argv[1]).read_text()), 0)
except ProcessLookupError:
    print("gone")
"""


def test_what_an_engine_has_started_dies_where_proc_shows_an_outer_namespace(engines_child):
    """Processes have other numbers there than the system calls use."""
    namespace = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--pid", "--fork"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no PID namespace can be had here")
    command = [*namespace, sys.executable, "-c", IN_A_NAMESPACE, str(engines_child)]
    path = os.pathsep.join(map(str, (engines_child.parent, PACKAGE.parent)))
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=30, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout == "gone\n", done.stderr


def test_an_error_in_the_launch_itself_leaves_no_engine():
    """Also one that is no fault of the engine's, raised between two rounds."""

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(progress=interrupt)


def test_no_descriptor_is_left_open():
    """After a launch that went well, and after one whose engine died."""
    launch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    launch()
    with suppress(EngineDied):
        launch(fake(fault="dies", fault_batch=2))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
