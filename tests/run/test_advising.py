"""Launches for an advice: what is void or fails, what is launched again, and what is kept of it."""

import pytest
from foreign_engine import install

from pytest_slmperf.core.advising.planner import Policy
from pytest_slmperf.core.advising.question import Question, Series, Setting
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.run.advising import Wanted, settle
from pytest_slmperf.run.settings import Settings

DYING = """
import os, signal
from pytest_slmperf.core.launch import LAUNCH_VARIABLE
from pytest_slmperf.engines.fake import FakeEngine, behaviour

class Engine(FakeEngine):
    def __init__(self, spec):
        launch = os.environ[LAUNCH_VARIABLE]
        self._dies = launch.rpartition("/")[2] in os.environ["DIES_IN"].split()
        super().__init__(spec, behaviour({"seed": 1}), launch=launch)

    def serve(self, batch, *, observe):
        if self._dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().serve(batch, observe=observe)
"""
"""Is killed in the launches whose numbers it finds in its environment."""
ONE = Series("float32", 1)
FEW, MANY = Setting(1, ONE), Setting(4, ONE)


@pytest.fixture
def dying(tmp_path, monkeypatch):
    """An engine, and how to say in which launches it dies: the first of each run is the one that is thrown away."""
    install(tmp_path, "dying", DYING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def when(*launches):
        monkeypatch.setenv("DIES_IN", " ".join(map(str, launches)))

    when()
    return EngineSpec("dying", "tiny", options={"device": "simulated"}), when


def advise(path, spec, together=1, **changes):
    """(what came of it, all that was said, the rounds that were repeated)"""
    terms = {"settings": Settings(rounds=1, round_s=0.02), **changes}
    once = Policy(most_launches=1, least_launches=1, together=together)
    wanted = Wanted(Question(metric("output_throughput")), spec, (ONE,), (1, 4), 8, 8, policy=once, **terms)
    said, retried = [], []
    found = settle(wanted, path, say=said.append, tell=lambda *_: None, retrying=lambda *one: retried.append(one))
    return found, said, retried


def test_an_engine_that_dies_once_is_launched_again(tmp_path, dying):
    """Its setting is measured, and nothing is kept of the accident but what was said."""
    spec, dies_in = dying
    dies_in(2)
    found, said, _ = advise(tmp_path / "state.json", spec)
    assert found.evidence.seen[MANY].values["output_throughput"]
    assert not any(one.failed for one in found.state.launches)
    (accident,) = (line for line in said if "accident" in line)
    assert "launched once more, alone: dying (tiny, float32) died" in accident
    assert "signal SIGKILL" in accident


def test_a_setting_whose_engine_dies_twice_is_left_out_until_it_is_asked_for(tmp_path, dying):
    """A run that goes on says so, and forgets it on demand."""
    spec, dies_in = dying
    dies_in(2, 3)
    found, _, _ = advise(tmp_path / "state.json", spec)
    assert "died while" in found.evidence.seen[MANY].failed
    assert found.evidence.seen[FEW].values
    dies_in()
    found, said, _ = advise(tmp_path / "state.json", spec)
    assert found.launches == 0
    assert "going on from 2 launches, 1 of which could not be run: --retry-failed launches them again" in said[0]
    found, said, _ = advise(tmp_path / "state.json", spec, retry_failed=True)
    assert said[0].endswith("going on from 1 launches")
    assert found.evidence.seen[MANY].values["output_throughput"]


def test_out_of_memory_is_no_accident(tmp_path):
    """What needs more than there is was launched once."""
    spec = EngineSpec("fake", "tiny", options={"memory_limit_bytes": 250_000_000 + 40_000 * 16 * 2})
    found, said, _ = advise(tmp_path / "state.json", spec)
    assert "ran out of memory" in found.evidence.seen[MANY].failed
    assert not any("once more" in line for line in said)
    assert found.launches == 3


def test_one_launch_measures_several_batches(tmp_path):
    """Of one configuration; each is kept, and they count as one launch."""
    found, said, _ = advise(tmp_path / "state.json", EngineSpec("fake", "tiny"), together=2)
    assert [one.setting for one in found.state.launches] == [MANY, FEW]
    assert (found.state.made, found.launches) == (1, 2)
    assert [line.partition(": ")[0] for line in said] == ["launch 1"] * 4


def test_what_fails_together_is_launched_alone(tmp_path):
    """The largest batch is to blame, and the other is measured in a launch of its own."""
    spec = EngineSpec("fake", "tiny", options={"memory_limit_bytes": 250_000_000 + 40_000 * 16 * 2})
    found, said, _ = advise(tmp_path / "state.json", spec, together=2)
    assert [bool(one.failed) for one in found.state.launches] == [True, False]
    assert any("launched once more, alone: fake (tiny, float32) ran out of memory" in line for line in said)


def test_rounds_that_are_repeated_are_told(tmp_path):
    """With the reason, as in a run."""
    spec = EngineSpec("fake", "tiny", options={"noise": 0.5, "seed": 1})
    _, _, retried = advise(tmp_path / "state.json", spec, settings=Settings(rounds=4, round_s=0.02))
    assert retried
    assert all(2 <= number <= tries and reason for reason, number, tries in retried)
