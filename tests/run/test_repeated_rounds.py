"""A void round is repeated a few times, and what it leaves behind depends on why it is void."""

import os

import pytest

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.core.machine import SIMULATED
from pytest_slmperf.core.protocol import Measured
from pytest_slmperf.run.guards import Void
from pytest_slmperf.run.launch.rounds import Rounds
from pytest_slmperf.run.launch.terms import Terms, silent
from pytest_slmperf.run.pace import FIRST_READINGS, PIECES, Pace
from pytest_slmperf.run.process import EngineProcess

CORE = max(os.sched_getaffinity(0))
MEASURED = Measured(started_ns=1_000, ended_ns=2_000, requests=1, prompt_tokens=1, output_tokens=1)
LOAD = Load("case", ((1, 1),), seed=1)
LATE, SLOWED = Void("late", "requests were late"), Void("slowed", "the cores were slow")


@pytest.fixture(scope="module")
def process():
    with EngineProcess(EngineSpec("fake", "tiny"), launch="candidate/0", cores=None) as started:
        yield started


@pytest.fixture
def tried(process):
    """Tries rounds that are void for these reasons, one after the other: the case, the valid one, and what was told."""

    def attempts(*voids, pace=None, retries=2):
        told = []

        def retrying(reason, number, tries):
            told.append((reason, number, tries))

        pace, policy = pace or Pace(), RoundPolicy(void_retries=retries)
        rounds = Rounds(process, SIMULATED, None, Terms(policy, 7, (), None, silent, retrying, pace))
        case, left = rounds.begin(LOAD), iter(voids)
        found = rounds.valid(case, lambda _slow: (MEASURED, next(left)))
        assert not list(left)
        return case, found, told

    return attempts


def test_a_void_round_is_repeated_and_told(tried):
    """With its reason, before each further try; the case keeps every void round, with its launch."""
    case, found, told = tried(LATE, SLOWED, None)
    assert found is MEASURED
    assert told == [(LATE.reason, 2, 3), (SLOWED.reason, 3, 3)]
    assert [(one.launch, one.guard, one.reason) for one in case.voids] == [
        (7, "late", LATE.reason),
        (7, "slowed", SLOWED.reason),
    ]


def test_tries_end(tried):
    """After as many as the policy says."""
    case, found, _ = tried(LATE, LATE, LATE)
    assert (found, len(case.voids)) == (None, 3)


def test_an_engine_that_answers_nothing_is_not_tried_again(tried):
    """Another round would take as long, and find the same."""
    case, found, told = tried(Void("unanswered", "nothing came back"))
    assert (found, told, len(case.voids)) == (None, [], 1)


@pytest.mark.parametrize(("last", "ran_s"), [(None, 1e-6), (LATE, 0.0)], ids=["valid", "void"])
def test_only_a_valid_round_is_a_lead_in(tried, last, ran_s):
    """A load goes on where its round counts; after a void one it begins anew."""
    case, _, _ = tried(last, retries=0)
    assert case.stretch.ran_s(MEASURED.ended_ns) == ran_s


@pytest.mark.parametrize(("voids", "slowness"), [((SLOWED, SLOWED), 1.0), ((SLOWED, LATE), 2.0)], ids=["all", "some"])
def test_cores_that_were_slow_in_every_try_are_usual_from_then_on(tried, voids, slowness):
    """A spell that lasts is no spell; where something else was amiss too, nothing is known of it."""
    pieces = iter([100] * (FIRST_READINGS + 1) * PIECES + [200] * 100 * PIECES)
    pace = Pace(lambda: next(pieces), sleep=lambda _: None)
    pace.now([CORE])
    tried(*voids, pace=pace, retries=1)
    assert pace.now([CORE]) == {CORE: slowness}
