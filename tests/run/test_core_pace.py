"""A core that is slower than usual is found by a fixed piece of work, and voids the round beside it."""

import os
from itertools import chain, repeat

import pytest
from foreign_engine import SPINNING, install
from patience import SLOW, spoilt, tries

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.run.guards import judge_pace
from pytest_slmperf.run.launch import run_launch
from pytest_slmperf.run.pace import FIRST_READINGS, MOST_CORES, PIECES, REMEMBERED, Pace, slowed

CORE = max(os.sched_getaffinity(0))
USUAL_NS = 150_000
FIRST = [USUAL_NS] * (FIRST_READINGS * PIECES)


class Clock:
    """The pieces' times, one reading after the other, and how often somebody slept."""

    def __init__(self, *readings):
        self.pieces = chain(FIRST, chain.from_iterable([time_ns] * PIECES for time_ns in readings), repeat(USUAL_NS))
        self.sleeps = 0

    def pace(self):
        """A pace that reads these times."""
        return Pace(lambda: next(self.pieces), sleep=self.sleep)

    def sleep(self, _seconds):
        """Count it, and go on at once."""
        self.sleeps += 1


def test_a_reading_is_told_as_a_share_of_the_usual_one():
    """1.2 is a fifth longer than usual."""
    pace = Clock(USUAL_NS, 180_000).pace()
    assert pace.now([CORE]) == {CORE: 1.0}
    assert pace.now([CORE]) == {CORE: pytest.approx(1.2)}


def test_the_fastest_piece_counts():
    """An interrupt, or another process on the core for some pieces, is no slow core."""
    pieces = chain(FIRST, [USUAL_NS * 30] * (PIECES - 1), [USUAL_NS])
    assert Pace(lambda: next(pieces), sleep=lambda _: None).now([CORE]) == {CORE: 1.0}


def test_a_round_waits_for_a_slow_spell_to_end():
    """It begins once the core has its usual pace again."""
    clock = Clock(200_000, 190_000, USUAL_NS)
    pace = clock.pace()
    assert pace.settled([CORE], tolerance=0.1, limit_s=60) == {CORE: 1.0}
    assert clock.sleeps == FIRST_READINGS - 1 + 2


def test_the_time_itself_is_told_as_well():
    """It is what a baseline keeps: a share of what is usual now says nothing of then."""
    pace = Clock(USUAL_NS, 180_000).pace()
    assert pace.latest_ns([CORE]) is None
    pace.now([CORE])
    pace.now([CORE])
    assert pace.latest_ns([CORE]) == 180_000


def test_a_round_waits_no_longer_than_it_may():
    """What doesn't end is told."""
    pace = Clock(*[200_000] * 1000).pace()
    slowness = pace.settled([CORE], tolerance=0.1, limit_s=0.001)
    assert slowed(slowness, 0.1) == {CORE: pytest.approx(4 / 3)}


def test_a_spell_that_is_waited_for_does_not_become_what_is_usual():
    """Only a wait's first reading is remembered."""
    clock = Clock(*[200_000] * (REMEMBERED * 2))
    pace = clock.pace()
    assert pace.settled([CORE], tolerance=0.1, limit_s=60) == {CORE: 1.0}
    assert clock.sleeps >= 2 * REMEMBERED
    assert pace.now([CORE]) == {CORE: 1.0}


def test_what_was_usual_can_be_forgotten():
    """After a fast spell, what was slow beside it is the pace."""
    pace = Clock(*[100_000] * 60, *[USUAL_NS] * 60).pace()
    for _ in range(60):
        pace.now([CORE])
    assert slowed(pace.now([CORE]), 0.1)
    pace.forget()
    assert pace.now([CORE]) == {CORE: 1.0}


@pytest.mark.alone
def test_a_case_that_stays_slow_is_void_once_and_then_measured_at_that_pace(tmp_path, monkeypatch):
    """A machine that goes on at another pace, after a fast spell too, doesn't make every later case void."""
    install(tmp_path, "spinning", SPINNING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    policy = RoundPolicy(rounds=1, round_s=0.02, answer_limit_s=20, void_retries=0)
    loads = [Load(name, ((8, 4),), seed=1) for name in ("first", "second")]
    for _ in tries():
        fast = chain([USUAL_NS / 2] * (FIRST_READINGS * PIECES), repeat(USUAL_NS))
        pace = Pace(lambda fast=fast: next(fast), sleep=lambda _: None)
        terms = {"arm": "candidate", "index": 0, "cores": (CORE,), "quantiles": ()}
        cases = run_launch(EngineSpec("spinning", "tiny"), loads, policy, pace=pace, **terms).cases
        if not any(spoilt(case, SLOW) for case in cases.values()):
            break
    assert SLOW in cases["first"].void
    assert cases["second"].void is None


def test_a_pace_that_lasts_becomes_the_usual_one():
    """A machine that settles at another clock is measured at that one."""
    pace = Clock(*[200_000] * REMEMBERED).pace()
    for _ in range(REMEMBERED - 1):
        slowness = pace.now([CORE])
    assert slowness == {CORE: 1.0}


def test_a_core_where_this_process_may_not_run_is_left_out():
    """Nothing is known of it, and nothing is void for it."""
    assert Pace().now([max(os.sched_getaffinity(0)) + 100_000]) == {}


def test_of_many_cores_some_are_asked():
    """Asking all of them would take as long as a round."""
    asked = Pace(lambda: USUAL_NS, sleep=lambda _: None).now(sorted(os.sched_getaffinity(0)) * 9)
    assert len(asked) <= MOST_CORES


def test_the_work_runs_on_the_core_and_nowhere_else_and_the_thread_goes_back():
    """The thread's cores are what they were."""
    before = os.sched_getaffinity(0)
    where = set()
    pace = Pace(lambda: where.update(os.sched_getaffinity(0)) or 1, sleep=lambda _: None)
    pace.now([CORE])
    assert where == {CORE}
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("before", "after", "void"),
    [
        pytest.param({3: 1.0}, {3: 1.0}, False, id="as usual"),
        pytest.param({3: 1.0}, {3: 1.09}, False, id="a slight spell began at the end"),
        pytest.param({3: 1.06}, {3: 1.06}, True, id="slow all the time"),
        pytest.param({3: 1.0}, {3: 1.35}, True, id="a slow spell began in the round"),
        pytest.param({2: 1.0, 3: 1.2}, {2: 1.0, 3: 1.2}, True, id="one core of two"),
        pytest.param({}, {}, False, id="nothing is known"),
    ],
)
def test_a_round_beside_a_slow_core_is_void(before, after, void):
    """In the mean of right before and right after it, by more than a twentieth."""
    found = judge_pace(before, after)
    assert (found is not None) is void
    assert found is None or (found.guard == "slowed" and "longer than usual on core 3" in found.reason)


@pytest.mark.alone
def test_a_launch_repeats_a_round_beside_a_slow_core(tmp_path, monkeypatch):
    """The report lists the void round, and the case has all its rounds."""
    install(tmp_path, "spinning", SPINNING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for _ in tries():
        pace = Clock(USUAL_NS, USUAL_NS, 260_000).pace()
        record = run_launch(
            EngineSpec("spinning", "tiny"),
            [Load("case", ((8, 4),), seed=1)],
            RoundPolicy(rounds=2, round_s=0.02, answer_limit_s=20),
            arm="candidate",
            index=0,
            cores=(CORE,),
            quantiles=(),
            pace=pace,
        )
        case = record.cases["case"]
        slow = [void.reason for void in case.void_rounds if void.reason.startswith(SLOW)]
        if (slow and case.void is None) or not spoilt(case, SLOW):
            break
    assert len(slow) == 1
    assert slow[0].startswith(f"a fixed piece of work took 37% longer than usual on core {CORE}")
    assert len(case.values["output_throughput"]) == 2
