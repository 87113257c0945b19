"""Where the searches of a campaign begin: at what is stored, or at what the first launch found."""

import math
from collections import defaultdict

from pytest_slmperf.core.engine import EngineFacts, EngineSpec
from pytest_slmperf.core.launch import CaseRecord, LaunchRecord, Load, RoundPolicy
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.sweeps.search import Search
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.core.sweeps.workload import OpenLoop
from pytest_slmperf.run.brief import Brief, Configuration, Reference, Surroundings
from pytest_slmperf.run.campaign import Campaign

NAME = "highest_request_rate"
SWEEP = Sweep("capacity", OpenLoop(8, 8), request_rate=Search(4, 64), slo=Slo(ttft_ms=100), gate={NAME: 0.05})


class Told:
    """Plays launches, and writes down where each was to begin."""

    def __init__(self):
        self.begins = defaultdict(list)

    def launch(self, spec, loads, *, arm, index, policy, prime):  # noqa: ARG002 - the launcher's protocol
        facts = EngineFacts("1", "cpu", "float32", "random", context_tokens=64, vocabulary=64)
        for load in loads:
            self.begins[arm].append(load.begin)
        cases = {load.case: CaseRecord(load.case, {NAME: (20.0 + index % 3 / 100,)}) for load in loads}
        return LaunchRecord(arm, index, spec, facts, {}, "2026-01-01T00:00:00+00:00", 0.1, cases)

    def planned(self, left, spent):
        """Nobody looks."""

    def launching(self, spec, cases, arm):
        """As little."""


def measured(*, stored=None, arms=1):
    told, spec = Told(), EngineSpec("fake", "m")
    arm = Configuration(spec, SWEEP.cases(["m"]), spec if arms > 1 else None)
    policy = RoundPolicy()
    brief = Brief(SWEEP, (arm,), "gate", policy, baseline_launches=20, max_launches=8)

    def find(case, key):
        sample = stored and Sample.of([[stored * math.exp(step / 1000)] for step in range(-10, 11)])
        return Reference(Measurement(case, key, {NAME: sample}), {NAME: 0.05}) if sample else Reference()

    around = Surroundings(
        launch=told.launch,
        stored=find,
        loads=lambda sweep, case, _context, _policy: (Load(case.name, ((8, 8),), 1, search=sweep.search), None),
        fits=lambda *_: None,
        progress=told,
    )
    Campaign(brief, around, order_seed=1).run()
    return told.begins


def test_a_gate_begins_at_what_is_stored():
    """So that a rate that is as it was takes two probes a launch."""
    begins = measured(stored=21.0)["candidate"]
    assert begins == [21.0] * len(begins)


def test_without_a_baseline_all_begin_at_what_the_first_found():
    """At the same place, so that none hangs on the one before it."""
    first, *later = measured()["candidate"]
    assert first is None
    assert len({*later}) == 1
    assert 20 <= later[0] < 20.1


def test_both_arms_begin_at_the_same_place():
    """Or one of them would take other probes, and so might find another rate."""
    begins = measured(arms=2)
    assert begins["candidate"] == begins["baseline"]
    assert None not in begins["candidate"][1:]
