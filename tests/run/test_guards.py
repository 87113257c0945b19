"""Guards void a round for its causes, and name who it was."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import pytest
from foreign_engine import SPINNING, install
from hypothesis import given
from hypothesis import strategies as st
from patience import CONTENDED, spoilt, tries

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.run.guards import TICK_NS, Reading, Stolen, Turns, judge_length, judge_round, load_elsewhere
from pytest_slmperf.run.launch import run_launch
from pytest_slmperf.run.witness import Witness

MS = 1_000_000
ROUND_NS = 100 * MS
CORE, OTHER = 3, 2
QUIET = Reading(
    monotonic_ns=5 * ROUND_NS,
    raw_ns=7 * ROUND_NS,
    boot_ns=9 * ROUND_NS,
    threads={11: Turns(50 * MS, 30 * MS), 12: Turns(900 * MS, 700 * MS)},
    steal_ticks={CORE: 40, OTHER: 90},
    busy_ticks={CORE: 500, OTHER: 800},
    throttles={CORE: 6, OTHER: 0},
    clock_khz={CORE: 3_000_000, OTHER: 1_000_000},
)


def later(*, wall_ns=ROUND_NS, ran_ns=99 * MS, waited_ns=0, **changes):
    """A reading after a round in which the engine's second thread did all the work."""
    threads = {11: QUIET.threads[11], 12: Turns(900 * MS + ran_ns, 700 * MS + waited_ns)}
    after = replace(
        QUIET,
        monotonic_ns=QUIET.monotonic_ns + wall_ns,
        raw_ns=QUIET.raw_ns + wall_ns,
        boot_ns=QUIET.boot_ns + wall_ns,
        threads=threads,
        busy_ticks={CORE: 510, OTHER: 800},
    )
    return replace(after, **changes)


@pytest.mark.parametrize(
    ("after", "guard", "words"),
    [
        pytest.param(later(), None, "", id="nothing happened"),
        pytest.param(
            later(ran_ns=90 * MS, waited_ns=10 * MS), "contended", "others had the engine's core for 10.0%", id="others"
        ),
        pytest.param(later(ran_ns=98.5 * MS, waited_ns=1.5 * MS), None, "", id="others, below the threshold"),
        pytest.param(later(ran_ns=99 * MS, waited_ns=30 * MS), None, "", id="its own threads waited for each other"),
        pytest.param(later(ran_ns=40 * MS, waited_ns=0), None, "", id="it slept, and nobody kept it from running"),
        pytest.param(
            later(wall_ns=4 * MS, ran_ns=3.6 * MS, waited_ns=0.4 * MS), None, "", id="a short round: wake-ups only"
        ),
        pytest.param(
            later(threads={12: Turns(990 * MS, 700 * MS), 13: Turns(0, 8 * MS)}),
            "contended",
            "8.0%",
            id="a thread that began in the round waited",
        ),
        pytest.param(later(threads=None), None, "", id="the kernel doesn't count waiting"),
        pytest.param(later(steal_ticks={CORE: 41, OTHER: 90}), None, "", id="one tick: it may lie before the round"),
        pytest.param(later(steal_ticks={CORE: 42, OTHER: 90}), "stolen", "about 20% of core 3", id="two ticks stolen"),
        pytest.param(later(steal_ticks={CORE: 40, OTHER: 99}), None, "", id="stolen from another core"),
        pytest.param(later(throttles={CORE: 8, OTHER: 0}), "throttled", "core 3 was slowed down 2 times", id="hot"),
        pytest.param(later(throttles={CORE: 6, OTHER: 4}), None, "", id="another core is hot"),
        pytest.param(
            later(clock_khz={CORE: 2_600_000, OTHER: 1_000_000}),
            "slowed",
            "core 3 fell from 3.00 to 2.60 GHz",
            id="the clock fell",
        ),
        pytest.param(later(clock_khz={CORE: 2_800_000}), None, "", id="the clock fell a little"),
        pytest.param(later(clock_khz={CORE: 4_000_000}), None, "", id="the clock rose"),
        pytest.param(later(throttles={}, clock_khz={}), None, "", id="neither clock nor throttling is shown"),
        pytest.param(
            later(raw_ns=QUIET.raw_ns + ROUND_NS + MS),
            "clock",
            "100 ms by it, 101 ms in truth",
            id="the clock was moved",
        ),
        pytest.param(later(raw_ns=QUIET.raw_ns + ROUND_NS + MS // 10), None, "", id="the clock is being slewed"),
        pytest.param(
            later(boot_ns=QUIET.boot_ns + 4 * 10**9), "suspended", "the machine slept for 3.9 s", id="suspended"
        ),
    ],
)
def test_a_round_is_void_for_its_causes_alone(after, guard, words):
    """Each cause has its guard and its words, and what lies below a threshold or on another core voids nothing."""
    void = judge_round(QUIET, after, cores=(CORE,))
    assert (void.guard if void else None) == guard
    assert words in (void.reason if void else "")


def test_an_unpinned_engine_is_judged_by_its_waiting_on_any_core():
    """Where no core is its own, its threads' waiting is known all the same."""
    busy = later(ran_ns=90 * MS, waited_ns=20 * MS)
    assert judge_round(QUIET, busy, cores=None).guard == "contended"


def test_a_servers_own_waits_are_not_held_against_the_idle_cores_of_its_client():
    """Its processes wait for each other on the cores that they keep busy, and nobody else had those."""
    theirs, ours = frozenset({CORE}), frozenset({CORE + 1})
    before = replace(QUIET, threads={21: Turns(0, 0, theirs), 22: Turns(0, 0, theirs), 23: Turns(0, 0, ours)})

    def after(client_waited_ns):
        threads = {
            21: Turns(ROUND_NS // 2, 3 * ROUND_NS, theirs),
            22: Turns(ROUND_NS // 2, 3 * ROUND_NS, theirs),
            23: Turns(ROUND_NS // 10, client_waited_ns, ours),
        }
        return replace(later(), threads=threads)

    cores = (CORE, CORE + 1)
    assert judge_round(before, after(0), cores=cores, served_ns=ROUND_NS) is None
    late = judge_round(before, after(ROUND_NS // 5), cores=cores, served_ns=ROUND_NS)
    assert (late.guard, late.reason) == ("contended", "others had the engine's 2 cores for 10.0% of the round")


@pytest.mark.parametrize(("rested_ms", "others_ms"), [(40, 0), (30, 10)])
def test_a_server_that_rests_while_its_client_works_is_held_up_by_nobody(rested_ms, others_ms):
    """Its threads waited for each other before that. Nobody counts the rest of the client's core, nor needs to."""
    theirs, ours = frozenset({CORE}), frozenset({CORE + 1})
    threads = {21: Turns(0, 0, theirs), 22: Turns(0, 0, theirs), 23: Turns(0, 0, ours)}
    before = replace(QUIET, threads=threads, idle_ns={CORE: 0})
    threads = {21: Turns(30 * MS, 25 * MS, theirs), 22: Turns(30 * MS, 25 * MS, theirs), 23: Turns(50 * MS, 0, ours)}
    after = replace(later(), threads=threads, idle_ns={CORE: rested_ms * MS})
    void = judge_round(before, after, cores=(CORE, CORE + 1), served_ns=ROUND_NS)
    assert (void is not None) == (others_ms > 4)


@given(st.integers(0, 100), st.integers(0, 300))
def test_no_more_is_blamed_on_others_than_the_engine_waited_and_than_its_core_was_not_its_own(ran_ms, waited_ms):
    """Threads of its own that wait for each other, and sleep that nobody caused, are no contention."""
    void = judge_round(QUIET, later(ran_ns=ran_ms * MS, waited_ns=waited_ms * MS), cores=(CORE,))
    assert (void is not None) == (min(waited_ms, 100 - ran_ms) > 2)


@pytest.mark.parametrize(("rested_ms", "others_ms"), [(30, 0), (24, 6), (0, 30)])
def test_replicas_that_wait_for_who_shares_out_their_work_are_not_held_up_by_others(rested_ms, others_ms):
    """Each core did what its replica did, rested, or worked for others, who took no more than that."""
    cores, both = (CORE, CORE + 1), frozenset({CORE, CORE + 1})
    places = {21: both, 22: frozenset({CORE}), 23: frozenset({CORE + 1})}
    idle_ns = dict.fromkeys(cores, 0)
    before = replace(QUIET, threads={thread: Turns(0, 0, on) for thread, on in places.items()}, idle_ns=idle_ns)
    waited = {thread: Turns(85 * MS if thread > 21 else 0, 20 * MS, on) for thread, on in places.items()}
    after = replace(later(), threads=waited, idle_ns=dict.fromkeys(cores, rested_ms * MS // 2))
    void = judge_round(before, after, cores=cores, served_ns=ROUND_NS)
    assert (void is not None) == (others_ms > 4)
    unseen = judge_round(replace(before, idle_ns={}), replace(after, idle_ns={}), cores=cores, served_ns=ROUND_NS)
    assert unseen.guard == "contended"


def test_what_this_process_does_around_a_round_holds_nobody_up():
    """Its own readings are on the engine's core before it asks for a round, and after it has heard of it."""
    wall_ns = ROUND_NS + 5 * MS
    before = replace(QUIET, idle_ns={CORE: 0})
    held_up = replace(later(wall_ns=wall_ns, ran_ns=ROUND_NS - 5 * MS, waited_ns=8 * MS), idle_ns={CORE: 4 * MS})
    assert judge_round(before, held_up, cores=(CORE,), served_ns=ROUND_NS).guard == "contended"
    assert judge_round(before, replace(held_up, own_ns=5 * MS), cores=(CORE,), served_ns=ROUND_NS) is None


def test_a_late_launcher_is_nobody_on_the_engines_core():
    """Threads of an engine wait for each other; what passes before it hears of a round is no contention."""
    late = later(wall_ns=ROUND_NS + 5 * MS, ran_ns=ROUND_NS, waited_ns=4 * MS)
    assert judge_round(QUIET, late, cores=(CORE,)).guard == "contended"
    assert judge_round(QUIET, late, cores=(CORE,), served_ns=ROUND_NS) is None
    disturbed = later(wall_ns=ROUND_NS + 5 * MS, ran_ns=ROUND_NS - 4 * MS, waited_ns=4 * MS)
    assert judge_round(QUIET, disturbed, cores=(CORE,), served_ns=ROUND_NS).guard == "contended"


def test_a_round_that_was_stolen_whole_is_void_after_however_many_good_ones():
    """What is added up over a case hides no round."""
    earlier = Stolen(ticks={CORE: 0}, wall_ns=50 * ROUND_NS)
    stolen = later(steal_ticks={CORE: 50, OTHER: 90})
    assert judge_round(QUIET, stolen, cores=[CORE], earlier=earlier) is not None


def test_what_is_stolen_little_by_little_voids_a_round_too():
    """One tick in a round of 0.1 s may be chance; one in each of two is a tenth of the core."""
    one_tick = later(steal_ticks={CORE: 41, OTHER: 90})
    assert judge_round(QUIET, one_tick, cores=[CORE]) is None
    void = judge_round(QUIET, one_tick, cores=[CORE], earlier=Stolen().and_of(QUIET, one_tick))
    assert void is not None
    assert (void.guard, void.reason) == (
        "stolen",
        "the hypervisor took about 10% of core 3: other guests of this host",
    )


@pytest.mark.parametrize(("worked_ms", "void"), [(100, False), (51, False), (49, True), (0.1, True)])
def test_a_round_half_as_long_as_wanted_is_too_short(worked_ms, void):
    """What counts is the time that the engine worked."""
    assert (judge_length(int(worked_ms * MS), 0.1) is not None) is void


def test_load_elsewhere_is_that_of_the_cores_that_the_engine_has_not():
    """As the mean share of the time in which those were busy; an engine on all cores has none elsewhere."""
    wall_ns = 10 * TICK_NS
    before = replace(QUIET, busy_ticks={0: 0, 1: 0, 2: 0})
    after = replace(before, monotonic_ns=before.monotonic_ns + wall_ns, busy_ticks={0: 10, 1: 5, 2: 0})
    assert load_elsewhere(before, after, (2,)) == pytest.approx(0.75)
    assert load_elsewhere(before, after, (0, 1, 2)) == 0


def test_a_reading_costs_less_than_a_thousandth_of_a_second():
    """Two of them beside a round of a tenth of a second are no load."""
    witness = Witness(os.getpid(), None)
    times = []
    for _ in range(50):
        began = time.perf_counter()
        witness.read()
        times.append(time.perf_counter() - began)
    assert sorted(times)[10] < 0.001


def test_a_reading_holds_the_threads_of_all_that_a_process_has_started():
    """Also of a child's child in a session of its own, and of none that has ended."""
    start = (
        "import subprocess; child = subprocess.Popen(['sleep', '60'], start_new_session=True); "
        "print(child.pid, flush=True); child.wait()"
    )
    witness = Witness(os.getpid(), None)
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True) as child:
        grandchild = int(child.stdout.readline())
        assert {os.getpid(), child.pid, grandchild} <= witness.read().threads.keys()
        os.kill(grandchild, signal.SIGKILL)
    assert not {child.pid, grandchild} & witness.read().threads.keys()


# -- a real engine, and real others

LOAD = Load("decode/tiny/batch=1", ((8, 4),), seed=1)
POLICY = RoundPolicy(rounds=2, void_retries=1, answer_limit_s=30)


LOADED = (os.cpu_count() - 1) // 4 + 1
"""So many of the other cores are more than a quarter of them, of which a note is made."""


@pytest.fixture
def spinning(tmp_path, monkeypatch):
    """An engine that does nothing, but as hard as it can."""
    install(tmp_path, "spinning", SPINNING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return EngineSpec("spinning", "tiny")


@contextmanager
def busy_process(core):
    """Another process that wants all of a core."""
    burn = f"import os; os.sched_setaffinity(0, [{core}]); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", burn], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with suppress(PermissionError):  # so that it comes first where others are at work on this machine as well
            os.setpriority(os.PRIO_PROCESS, process.pid, -5)
        try:
            yield process.pid
        finally:
            process.kill()


def measured_on(spec, core, policy=POLICY):
    record = run_launch(spec, [LOAD], policy, arm="candidate", index=5, cores=(core,), quantiles=())
    return record.cases[LOAD.case]


def measured_beside(spec, core, *culprits):
    """A case of which others at work on this machine hid nothing."""
    for _ in tries():
        case = measured_on(spec, core)
        if not spoilt(case, CONTENDED, naming=culprits):
            break
    return case


@pytest.mark.alone
def test_another_process_on_the_engines_core_voids_its_rounds_and_is_named(spinning):
    """A case without a valid round has no values, and its reason holds the other's command and id."""
    core = max(os.sched_getaffinity(0))
    with busy_process(core) as culprit:
        case = measured_beside(spinning, core, culprit)
    assert case.values == {}
    assert case.void.startswith("round 1 of 2 stayed void (tried 2 times): others had the engine's core for")
    assert [(void.launch, void.guard) for void in case.void_rounds] == [(5, "contended")] * 2
    said = " ".join(void.reason for void in case.void_rounds)
    assert f" -c import os; os.sched_setaffinity(0, [{core}])" in said
    assert f"(pid {culprit}, " in said


@pytest.mark.alone
@pytest.mark.skipif(len(os.sched_getaffinity(0)) <= LOADED, reason="there are too few cores")
def test_another_process_on_another_core_is_a_note_and_voids_nothing(spinning):
    """It shares caches and memory, so it is named, and blamed for no round."""
    *others, core = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        culprits = [stack.enter_context(busy_process(other)) for other in others[:LOADED]]
        case = measured_beside(spinning, core, *culprits)
    noted = " ".join(note for note in case.notes if "share caches and memory" in note)
    assert any(f"(pid {culprit}, " in noted for culprit in culprits)
    # Others may be at work on this machine while the tests run, and be blamed; these must not.
    assert not any(f"(pid {culprit}, " in void.reason for void in case.void_rounds for culprit in culprits)


AHEAD = f"""{SPINNING}
import os, signal
from contextlib import suppress
from pathlib import Path

def ahead():
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
        Path("/proc/self/autogroup").write_text("-10")
"""
"""With a function that makes its session come first where others are at work on this machine as well."""
DISTURBED = f"""{AHEAD}
class Engine(Engine):
    def start(self):
        ahead()
        return super().start()
    def serve(self, batch, *, observe):
        if observe:
            os.kill(int(os.environ["RIVAL"]), signal.SIGCONT)
        return super().serve(batch, observe=observe)
"""
"""Has its core to itself until it is observed."""


@pytest.mark.alone
def test_a_case_whose_observed_rounds_stay_void_has_no_values(tmp_path, monkeypatch):
    """Throughput that was measured well before is not kept without the latencies of the same case."""
    install(tmp_path, "disturbed", DISTURBED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    spec, core = EngineSpec("disturbed", "tiny"), max(os.sched_getaffinity(0))
    for _ in tries():
        with busy_process(core) as rival:
            os.kill(rival, signal.SIGSTOP)
            monkeypatch.setenv("RIVAL", str(rival))
            case = measured_on(spec, core, replace(POLICY, observed_s=0.1))
        before = case.void is not None and case.void.startswith("round ")  # when nobody of ours was there
        if not before and not spoilt(case, CONTENDED):
            break
    assert case.void.startswith("the observed rounds stayed void (tried 2 times): others had the engine's core for")
    assert case.values == {}
    assert {void.guard for void in case.void_rounds[-2:]} == {"contended"}


SHARING = f"""{AHEAD}
class Engine(Engine):
    def __init__(self, spec):
        self.works = spec.options["works"]
    def start(self):
        if self.works:
            ahead()
        asked, self.ask = os.pipe()
        self.told, tell = os.pipe()
        child = os.fork()
        if not child:
            os.setsid()
            if self.works:
                ahead()
            if os.fork():
                os._exit(0)
            Path(__file__).with_name("daemon").write_text(str(os.getpid()))
            os.close(self.ask)
            while os.read(asked, 1):
                until = time.monotonic_ns() + 5_000_000
                while time.monotonic_ns() < until: pass
                os.write(tell, b".")
            os._exit(0)
        os.waitpid(child, 0)
        return super().start()
    def serve(self, batch, *, observe):
        started = time.monotonic_ns()
        os.write(self.ask, b".")
        if self.works:
            super().serve(batch, observe=observe)
        os.read(self.told, 1)
        ended = time.monotonic_ns()
        asked = tuple(request.output_tokens for request in batch)
        return Served(started, ended, asked, tuple((ended,) * n for n in asked) if observe else None)
"""
"""Has its work done by a daemon, in a session of its own, and works beside it, ahead of others, if it is told to."""


@pytest.fixture
def sharing(tmp_path, monkeypatch):
    """See SHARING: (makes its specification of whether it works itself, the file that gets the daemon's id)."""
    install(tmp_path, "sharing", SHARING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda *, works: EngineSpec("sharing", "tiny", options={"works": works}), tmp_path / "daemon"


@pytest.mark.alone
def test_an_engine_and_what_it_has_started_are_no_others_to_each_other(sharing):
    """They share its core, and no round is void for that, nor is any of them named."""
    spec, daemon = sharing
    core = max(os.sched_getaffinity(0))
    for _ in tries():
        case = measured_on(spec(works=True), core)
        said = " ".join([*(void.reason for void in case.void_rounds), *case.notes])
        assert f"(pid {daemon.read_text()}, " not in said
        if CONTENDED not in said:
            break
    assert CONTENDED not in said


@pytest.mark.alone
def test_others_on_the_core_of_what_the_engine_has_started_void_its_rounds(sharing):
    """Its work is kept waiting, also where its own process only waits for the answer."""
    spec, daemon = sharing
    core = max(os.sched_getaffinity(0))
    with busy_process(core) as culprit:
        case = measured_beside(spec(works=False), core, culprit)
    assert case.values == {}
    assert {void.guard for void in case.void_rounds} == {"contended"}
    said = " ".join(void.reason for void in case.void_rounds)
    assert f"(pid {culprit}, " in said
    assert f"(pid {daemon.read_text()}, " not in said


def test_a_simulated_engine_is_measured_beside_anybody():
    """Its clock is its own, so who else is on the core changes nothing."""
    core = max(os.sched_getaffinity(0))
    with busy_process(core):
        case = measured_on(EngineSpec("fake", "tiny"), core)
    assert case.void_rounds == ()
    assert len(case.values["output_throughput"]) == 2
