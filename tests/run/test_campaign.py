"""The order of launches, the looks between them and what ends them, with a launcher that is a plain function."""

import math
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial

import pytest

from pytest_slmperf.core.devices.board import BoardFacts
from pytest_slmperf.core.energy.window import Uncertainty
from pytest_slmperf.core.engine import EngineFacts, EngineSpec
from pytest_slmperf.core.errors import EngineDied, EngineFailed, NotJudged, UsageError
from pytest_slmperf.core.launch import CaseRecord, LaunchRecord, Load, RoundPolicy
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.metrics import CORE_PACE
from pytest_slmperf.core.sample import Measurement, Sample, VoidRound
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.core.sweeps.variant import series_of
from pytest_slmperf.core.sweeps.workload import StaticBatch
from pytest_slmperf.core.verdict import Status
from pytest_slmperf.run.accept import on_another_device
from pytest_slmperf.run.brief import Brief, Configuration, Reference, Surroundings
from pytest_slmperf.run.briefing import configurations
from pytest_slmperf.run.campaign import Campaign
from pytest_slmperf.run.ongoing import VOID_ALLOWANCE
from pytest_slmperf.run.plan import REPORT_LAUNCHES

FACTS = EngineFacts("1", "cpu", "float32", "random", context_tokens=64, vocabulary=64)
SWEEP = Sweep("decode", StaticBatch(8, 8), batch_size=[1, 4], gate={"output_throughput": 0.05})
ONE, FOUR = "decode/m/batch=1", "decode/m/batch=4"


def steady(_arm, _case, index):
    """A level of 100 with half a percent of noise, the same in every run."""
    return 100 * random.Random(index).gauss(1, 0.005)


def lost(share, arm="candidate", cases=(ONE, FOUR), until=10**6):
    """The same, with a share taken from one arm up to some launch."""

    def value(at, case, index):
        return steady(at, case, index) * (1 - share if at == arm and case in cases and index < until else 1)

    return value


@dataclass
class Script:
    """Plays launches, and writes down what it was asked for."""

    value: object = steady
    asked: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)
    """(model, arm, cases in their order) of every launch."""
    primed: list[tuple[str, ...]] = field(default_factory=list)
    """The cases that every launch served before it measured any."""
    pauses: list[float] = field(default_factory=list)
    plans: list[tuple[int, int]] = field(default_factory=list)
    facts: EngineFacts = FACTS
    now_s: float = 0.0
    """Every launch takes a second."""
    guard: str = "contended"
    """That makes a launch void."""

    def clock(self):
        return self.now_s

    def launch(self, spec, loads, *, arm, index, policy, prime):  # noqa: ARG002 - the launcher's protocol
        self.now_s += 1
        self.primed.append(tuple(load.case for load in prime(self.facts)))
        self.asked.append((spec.model, arm, tuple(load.case for load in loads)))
        cases = {load.case: self._record(arm, load.case, index) for load in loads}
        return LaunchRecord(arm, index, spec, self.facts, {"engine": "1"}, "2026-01-01T00:00:00+00:00", 0.1, cases)

    def _record(self, arm, case, index):
        value = self.value(arm, case, index)
        if value is None:
            return CaseRecord(case, {}, void_rounds=(VoidRound(index, self.guard, "somebody"),), void="contended")
        return CaseRecord(case, {"output_throughput": (value, value)})

    def planned(self, left, spent):
        self.plans.append((spent + sum(left.values()), spent))

    def launching(self, spec, cases, arm):
        """Nobody looks."""


def stored(level=100.0, launches=20, names=(ONE, FOUR)):
    """A baseline of that level for some cases."""

    def find(case, key):
        if case not in names:
            return Reference(reason="nothing is stored", way_out="record it")
        draw = random.Random(0)
        sample = Sample.of([[level * draw.gauss(1, 0.005)] * 2 for _ in range(launches)])
        return Reference(Measurement(case, key, {"output_throughput": sample}), {"output_throughput": 0.05})

    return find


def campaign(
    script,
    *,
    sweep=SWEEP,
    mode="gate",
    find=None,
    models=("m",),
    arms=1,
    budget_s=None,
    fits=None,
    unfit=None,
    configured=None,
):
    """A campaign of this script."""
    configured = configured or tuple(
        Configuration(
            EngineSpec("e", model),
            tuple(sweep.cases([model])),
            EngineSpec("e", model, python="/other") if arms == 2 else None,
        )
        for model in models
    )
    brief = Brief(sweep, configured, mode, RoundPolicy(), 20, 16, budget_s)
    around = Surroundings(
        launch=script.launch,
        stored=find or stored(),
        loads=lambda _sweep, case, *_: (Load(case.name, ((8, 8),), 0), None),
        fits=fits or (lambda *_: None),
        progress=script,
        unfit=unfit or (lambda _: None),
        pause=script.pauses.append,
        clock=script.clock,
    )
    return Campaign(brief, around, order_seed=1)


def play(script, **of):
    """Run a campaign of this script."""
    return campaign(script, **of).run()


def statuses(outcome):
    return {name: case.verdicts["output_throughput"].status for name, case in outcome.cases.items()}


def test_a_run_without_a_change_ends_with_the_first_look():
    """One launch to prime, eight that are looked at, and no more: the first decisive look is final."""
    script = Script()
    assert set(statuses(play(script)).values()) == {Status.UNCHANGED}
    assert script.asked[0] == ("m", "candidate", ())
    assert len(script.asked) == 1 + 8


@pytest.mark.parametrize(
    ("device", "settings", "served"),
    [("cpu", {}, ()), ("cpu", {"compile": True}, (ONE, FOUR)), ("cuda", {"compile": False}, (ONE, FOUR))],
)
@pytest.mark.parametrize("arms", [1, 2])
def test_what_is_compiled_is_compiled_before_anything_is_measured(device, settings, served, arms):
    """On a GPU, which loads kernels as they are needed, the throw-away launch of each arm serves every case once."""
    script = Script(facts=replace(FACTS, device=device, settings=settings))
    play(script, arms=arms)
    assert script.primed[:arms] == [served] * arms
    assert set(script.primed[arms:]) == {()}


def test_the_order_of_cases_is_random_within_a_launch():
    """Neither case always comes first."""
    script = Script()
    play(script)
    firsts = Counter(cases[0] for _, _, cases in script.asked[1:])
    assert set(firsts) == {ONE, FOUR}


def test_models_take_turns():
    """Configurations are interleaved: no model gets its launches in a row."""
    sweep = Sweep("decode", StaticBatch(8, 8), batch_size=[1], gate={"output_throughput": 0.05})
    script = Script()
    names = ("decode/a/batch=1", "decode/b/batch=1")
    play(script, sweep=sweep, models=("a", "b"), find=stored(names=names))
    models = [model for model, _, cases in script.asked if cases]
    assert len(models) == 16
    assert all(set(models[at : at + 2]) == {"a", "b"} for at in range(0, 16, 2))


def test_arms_are_interleaved_and_neither_always_comes_first():
    """Each block has a launch of both arms, and orders are turned round, so that drift hits both alike."""
    script = Script()
    outcome = play(script, arms=2)
    assert set(statuses(outcome).values()) == {Status.UNCHANGED}
    assert outcome.design == "interleaved"
    arms = [arm for _, arm, cases in script.asked if cases]
    blocks = [tuple(arms[at : at + 2]) for at in range(0, len(arms), 2)]
    assert Counter(blocks) == {("candidate", "baseline"): 4, ("baseline", "candidate"): 4}


def test_a_decided_case_gets_no_more_launches():
    """Only what looks regressed is measured again, in as many fresh launches as the first look had."""
    script = Script(lost(0.2, cases=(FOUR,)))
    outcome = play(script)
    assert statuses(outcome) == {ONE: Status.UNCHANGED, FOUR: Status.REGRESSED}
    assert [cases for _, _, cases in script.asked[9:]] == [(FOUR,)] * 8
    assert "confirmed by fresh launches" in outcome.cases[FOUR].verdicts["output_throughput"].reason


def test_what_is_undecided_gets_more_launches_up_to_the_cap():
    """A loss on the edge of the tolerance is looked at again and again, and ends inconclusive."""
    script = Script(lost(0.05))
    outcome = play(script)
    assert statuses(outcome)[ONE] is Status.INCONCLUSIVE
    assert len(script.asked) == 1 + 16


def test_what_fresh_launches_do_not_confirm_is_inconclusive():
    """A loss that is gone in fresh launches is neither a regression nor a pass."""
    script = Script(lost(0.2, until=9))
    outcome = play(script)
    assert set(statuses(outcome).values()) == {Status.INCONCLUSIVE}
    assert "fresh launches alone" in outcome.cases[ONE].verdicts["output_throughput"].reason


@pytest.mark.parametrize("arms", [1, 2])
def test_a_void_launch_is_repeated(arms):
    """A void block does not count, whichever arm it hit; after it is waited, longer while they follow each other."""
    script = Script(lambda arm, case, index: None if index in (4, 8) else steady(arm, case, index))
    outcome = play(script, arms=arms)
    assert set(statuses(outcome).values()) == {Status.UNCHANGED}
    assert len(script.asked) == arms * (1 + 8 + 2)
    assert script.pauses == [2.0, 2.0]
    if arms == 1:
        assert [void.launch for void in outcome.cases[ONE].measurement.void_rounds] == [4, 8]


def test_a_case_that_stays_void_is_void_and_the_others_go_on():
    """After the allowance a case gets no more launches, and is red with the guard's reason."""
    script = Script(lambda arm, case, index: None if case == FOUR else steady(arm, case, index))
    outcome = play(script)
    assert statuses(outcome) == {ONE: Status.UNCHANGED, FOUR: Status.VOID}
    assert outcome.cases[FOUR].verdicts["output_throughput"].reason == "contended"
    assert sum(FOUR in cases for _, _, cases in script.asked) == VOID_ALLOWANCE + 1


@pytest.mark.parametrize(("guard", "words"), [("contended", "other work"), ("throttled", "cooling"), ("ecc", "memory")])
def test_a_void_case_is_told_what_helps_against_its_guard(guard, words):
    """Other work need not be there where a board was hot or its memory failed."""
    outcome = play(Script(lambda arm, case, index: None if case == FOUR else steady(arm, case, index), guard=guard))
    assert words in outcome.cases[FOUR].verdicts["output_throughput"].way_out


def test_a_spent_budget_ends_what_is_undecided():
    """Nothing is launched after it, and nothing passes."""
    script = Script()
    outcome = play(script, budget_s=0.0)
    assert set(statuses(outcome).values()) == {Status.INCONCLUSIVE}
    assert script.asked == []
    verdict = outcome.cases[ONE].verdicts["output_throughput"]
    assert verdict.reason == "the budget was spent before e was started"
    assert outcome.cases[ONE].measurement.key == {"engine": "e", "model": "m"}


ONE_EACH = Sweep("decode", StaticBatch(8, 8), batch_size=[1], gate={"output_throughput": 0.05})
EACH = [f"decode/{model}/batch=1" for model in "abc"]


@pytest.mark.parametrize(("budget_s", "launched"), [(2, 2), (2.5, 3), (7, 7), (11.5, 12)])
def test_no_launch_begins_when_the_budget_is_spent(budget_s, launched):
    """Neither to prime an engine nor within a turn of them; a launch that has begun is brought to its end."""
    script = Script()
    outcome = play(script, sweep=ONE_EACH, models=("a", "b", "c"), find=stored(names=EACH), budget_s=budget_s)
    assert len(script.asked) == outcome.launches == launched
    assert statuses(outcome) == dict.fromkeys(EACH, Status.INCONCLUSIVE)


def test_what_is_decided_when_the_budget_is_spent_stands():
    """The look of a case whose last launch was made is free, although the turn was not finished."""
    script = Script()
    outcome = play(script, sweep=ONE_EACH, models=("a", "b", "c"), find=stored(names=EACH), budget_s=3 + 7 * 3 + 1)
    assert len(script.asked) == 3 + 7 * 3 + 1
    assert sorted(statuses(outcome).values()) == [Status.INCONCLUSIVE, Status.INCONCLUSIVE, Status.UNCHANGED]


def test_a_launch_that_the_budget_leaves_without_the_other_arm_is_not_used():
    """It is told, and no sample has it."""
    script = Script()
    outcome = play(script, arms=2, budget_s=2 + 3)
    assert len(script.asked) == 2 + 3
    case = outcome.cases[ONE]
    assert len(case.measurement.samples["output_throughput"].launches) == 1
    assert len(case.baseline.samples["output_throughput"].launches) == 1
    arm = script.asked[-1][1]
    assert f"the last launch of the {arm} is not used: the budget was spent before the other's" in outcome.notes
    assert not any("is not used" in note for note in play(Script(), arms=2, budget_s=2 + 4).notes)


@pytest.mark.parametrize(("arms", "budget_s", "before"), [(1, 1, "a launch"), (2, 3, "a launch of each arm")])
def test_what_was_launched_before_the_budget_was_spent_is_told(arms, budget_s, before):
    """Throw-away launches were made, and maybe one of an arm: a case without one that counts says so."""
    case = play(Script(), arms=arms, budget_s=budget_s).cases[ONE]
    said = f"the budget was spent before {before} was measured; launches made, throw-away ones included: {budget_s}"
    assert case.verdicts["output_throughput"].reason == case.cut_off == said


def test_a_void_launch_is_not_waited_for_when_the_budget_is_spent():
    """Nothing is made after the pause."""
    script = Script(lambda *_: None)
    play(script, budget_s=2)
    assert script.pauses == []


def test_a_budget_that_ends_beside_void_launches_says_why_nothing_counts():
    """Too few of them to call the case void: undecided, for the budget and for what voided them."""
    verdict = play(Script(lambda *_: None), budget_s=3).cases[ONE].verdicts["output_throughput"]
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.reason == "the budget was spent, and all its launches until then were void: contended"


def test_nothing_is_recorded_of_what_the_budget_left_out():
    """A recording would lack the engines that were never started."""
    with pytest.raises(UsageError, match="nothing can be recorded: the budget was spent before e was started"):
        play(Script(), mode="accept", budget_s=0.0)


def test_a_case_without_a_baseline_is_measured_a_little():
    """Enough launches for a stated limit, and the verdict says what is missing."""
    script = Script()
    outcome = play(script, find=stored(names=(ONE,)))
    assert statuses(outcome) == {ONE: Status.UNCHANGED, FOUR: Status.NO_BASELINE}
    assert len(outcome.cases[FOUR].measurement.samples["output_throughput"].launches) == REPORT_LAUNCHES


@pytest.mark.parametrize(("mode", "launches"), [("accept", 20), ("report", 8)])
def test_a_run_that_does_not_judge_has_a_fixed_number_of_launches(mode, launches):
    """Recording and reporting look at nothing in between, so that nothing is chosen by its values."""
    script = Script(lost(0.2))
    outcome = play(script, mode=mode)
    assert len(script.asked) == 1 + launches
    assert not any(case.verdicts["output_throughput"].judged for case in outcome.cases.values())


def test_a_case_too_noisy_to_be_recorded_gets_more_launches_and_the_others_none():
    """A spell took some of its launches: more of them bound it."""

    def spell(arm, case, index):
        return steady(arm, case, index) * (0.8 if case == FOUR and 8 <= index < 13 else 1)

    outcome = play(Script(spell), mode="accept")
    shapes = {case: len(one.measurement.samples["output_throughput"].launches) for case, one in outcome.cases.items()}
    assert shapes[ONE] == 20
    assert shapes[FOUR] in (24, 28, 30)


def test_a_tolerance_that_no_machine_supports_is_not_recorded_for_longer():
    """More launches would not help, and the refusal says what is supported."""
    tight = Sweep("decode", StaticBatch(8, 8), batch_size=[1], gate={"output_throughput": 0.02})
    outcome = play(Script(), sweep=tight, mode="accept")
    (case,) = outcome.cases.values()
    assert len(case.measurement.samples["output_throughput"].launches) == 20


def test_a_case_with_enough_launches_is_not_void_for_those_on_top():
    """Twenty were valid; what was to make it quieter can't make it worse."""

    def noisy_then_void(_arm, _case, index):
        return None if index > 20 else 100 * random.Random(index).gauss(1, 0.3)

    outcome = play(Script(noisy_then_void), mode="accept")
    for case in outcome.cases.values():
        assert case.measurement.void is None
        assert len(case.measurement.samples["output_throughput"].launches) == 20


def test_a_recording_ends_on_a_machine_that_no_number_of_launches_helps():
    """Half as many again, and then it is refused for its noise."""
    outcome = play(Script(lambda *at: 100 * random.Random(at[2]).gauss(1, 0.3)), mode="accept")
    assert {len(one.measurement.samples["output_throughput"].launches) for one in outcome.cases.values()} == {30}


def test_what_does_not_fit_is_skipped_before_an_engine_starts():
    """A case that can't be here is left out with its reason; where none can, nothing is started."""
    script = Script()
    outcome = play(script, fits=lambda _sweep, case, _spec: "too large" if case.at == 4 else None)
    assert outcome.skipped == {FOUR: "too large"}
    assert list(outcome.cases) == [ONE]
    script = Script()
    assert not play(script, fits=lambda *_: "too large").cases
    assert not script.asked


def test_a_case_that_only_the_other_arm_cannot_take_is_skipped_too():
    """There would be nothing to compare it with."""
    script = Script()
    outcome = play(script, arms=2, fits=lambda _sweep, _case, spec: "it serves batches" if spec.python else None)
    assert dict(outcome.skipped) == {ONE: "it serves batches", FOUR: "it serves batches"}
    assert not script.asked


def test_a_failed_launch_ends_the_campaign_and_leaves_what_was_measured():
    """The error goes on; the outcome has the launches before it."""

    def dies(arm, case, index):
        if index == 5:
            raise EngineDied("killed")
        return steady(arm, case, index)

    running = campaign(Script(dies))
    with pytest.raises(EngineDied):
        running.run()
    outcome = running.outcome()
    assert len(outcome.cases[ONE].measurement.samples["output_throughput"].launches) == 4
    assert set(statuses(outcome).values()) == {Status.INCONCLUSIVE}


@pytest.mark.parametrize("error", [EngineDied("killed"), KeyboardInterrupt()], ids=["dies", "interrupted"])
def test_nothing_is_regressed_before_it_was_confirmed(error):
    """A run that ends in the last launch of a confirmation confirmed nothing, also of what has all its launches."""
    sweep = Sweep("decode", StaticBatch(8, 8), batch_size=[1], gate={"output_throughput": 0.05})
    names = ("decode/a/batch=1", "decode/b/batch=1")
    slower = lost(0.2, cases=names)

    def ends(arm, case, index):
        if index == 2 + 2 * 8 + 2 * 8 - 1:
            raise error
        return slower(arm, case, index)

    running = campaign(Script(ends), sweep=sweep, models=("a", "b"), find=stored(names=names))
    with pytest.raises(type(error)):
        running.run()
    verdicts = [case.verdicts["output_throughput"] for case in running.outcome().cases.values()]
    assert {verdict.status for verdict in verdicts} == {Status.INCONCLUSIVE}
    assert all("the run ended before it was confirmed" in verdict.reason for verdict in verdicts)


@dataclass
class OnCores(Script):
    """Launches on cores that take so many times as long for the fixed piece of work, and have so much throughput."""

    pace: float = 1.0
    level: float = 100.0

    def _record(self, _arm, case, index):
        noise = random.Random(f"{case}{index}").gauss(1, 0.004)
        return CaseRecord(case, {"output_throughput": (self.level * noise,), CORE_PACE: (150_000 * self.pace / noise,)})


def stored_with_pace(**versions):
    """The same baseline, of cores that took 150 µs for the piece of work."""

    def find(case, key):
        found = stored()(case, key)
        times = Sample.of([[150_000 * random.Random(launch).gauss(1, 0.004)] for launch in range(20)])
        samples = {**found.measurement.samples, CORE_PACE: times}
        return replace(found, measurement=replace(found.measurement, samples=samples), versions=versions)

    return find


@pytest.mark.parametrize(("pace", "level", "said"), [(1.15, 87, "all of this loss"), (0.88, 100, "hide a loss")])
def test_another_pace_of_the_cores_is_no_verdict_on_the_engine(pace, level, said):
    """It is void at the first look, and no launch is made to confirm it."""
    outcome = campaign(OnCores(pace=pace, level=level), find=stored_with_pace()).run()
    verdict = outcome.cases[ONE].verdicts["output_throughput"]
    assert verdict.status is Status.VOID
    assert said in verdict.reason
    assert outcome.launches == 9


def test_another_python_takes_another_time_for_the_piece_of_work():
    """So nothing is said of the cores' pace, and what looks regressed is."""
    outcome = campaign(OnCores(pace=1.15, level=87), find=stored_with_pace(python="3.12.1")).run()
    assert outcome.cases[ONE].verdicts["output_throughput"].status is Status.REGRESSED


@dataclass
class OnDriftingCores(Script):
    """Launches on cores that get slower and faster as they go, and have less and more throughput by it."""

    level: float = 100.0

    def _record(self, _arm, case, index):
        value, time = drifting(self.level, index)
        return CaseRecord(case, {"output_throughput": (value,), CORE_PACE: (time,)})


def drifting(level, launch):
    """(throughput, time of the piece of work) of a launch on such cores."""
    slow = 1 + 0.06 * math.sin(2 * math.pi * launch / 8)
    return level * random.Random(launch).gauss(1, 0.005) / slow, 150_000 * slow


def stored_while_drifting(case, key):
    """A baseline of such cores."""
    values, times = zip(*(drifting(100, launch + 100) for launch in range(20)), strict=True)
    samples = {"output_throughput": values, CORE_PACE: times}
    samples = {name: Sample.of([[value] for value in values]) for name, values in samples.items()}
    return Reference(Measurement(case, key, samples), {"output_throughput": 0.05})


@pytest.mark.parametrize(("level", "status"), [(100, Status.UNCHANGED), (85, Status.REGRESSED)])
def test_what_the_drift_of_the_cores_explains_leaves_nothing_undecided(level, status):
    """A pace that changes from launch to launch would make any interval too wide for 5 %."""
    outcome = campaign(OnDriftingCores(level=level), find=stored_while_drifting).run()
    assert outcome.cases[ONE].verdicts["output_throughput"].status is status


def test_the_drift_of_another_python_s_piece_of_work_explains_nothing():
    """Its times can't be put beside each other, so the launches are judged as they were measured."""

    def find(case, key):
        return replace(stored_while_drifting(case, key), versions={"python": "3.12.1"})

    outcome = campaign(OnDriftingCores(), find=find).run()
    assert outcome.cases[ONE].verdicts["output_throughput"].status is Status.INCONCLUSIVE


def test_void_fresh_launches_confirm_nothing():
    """What stays void in its confirmation is neither regressed nor void, whether or not the run came to its end."""
    slower = lost(0.2)
    script = Script(lambda arm, case, index: slower(arm, case, index) if index < 9 else None)
    verdict = play(script).cases[ONE].verdicts["output_throughput"]
    assert verdict.status is Status.INCONCLUSIVE
    assert "no fresh launches to confirm it: they are void: " in verdict.reason
    assert verdict.way_out


TPOT = "median_tpot_ms"
TWO = Sweep("decode", StaticBatch(8, 8), [1], gate={"output_throughput": 0.05, "tpot_ms": 0.05})


@dataclass
class Partial(Script):
    """Launches of which only some have a second metric."""

    holds: object = None
    """Whether a launch of (arm, index) has it."""

    def _record(self, arm, case, index):
        record = super()._record(arm, case, index)
        if self.holds(arm, index):
            return replace(record, values={**record.values, TPOT: (10 + index / 1000,) * 2})
        return replace(record, unmeasured={TPOT: f"the {arm} can't"})


@pytest.mark.parametrize(
    ("holds", "status", "reason"),
    [
        (lambda arm, _: arm == "candidate", Status.NO_BASELINE, f"the other arm holds no {TPOT}: the baseline can't"),
        (lambda arm, _: arm == "baseline", Status.UNMEASURED, "the candidate can't"),
        (lambda *_: False, Status.UNMEASURED, "the candidate can't"),
    ],
    ids=["candidate", "baseline", "neither"],
)
def test_a_metric_that_only_one_arm_has_is_never_a_pass(holds, status, reason):
    """It is said which arm lacks it, and why; what both have is judged as always."""
    case = play(Partial(holds=holds), sweep=TWO, arms=2).cases[ONE]
    assert case.verdicts["output_throughput"].status is Status.UNCHANGED
    assert (case.verdicts[TPOT].status, case.verdicts[TPOT].reason) == (status, reason)
    assert TPOT not in case.measurement.samples


def test_a_block_that_lacks_a_metric_in_one_arm_is_left_out_and_told():
    """Blocks that both arms measured are compared, and a note says how many those are."""
    case = play(Partial(holds=lambda arm, index: arm == "candidate" or index > 3), sweep=TWO, arms=2).cases[ONE]
    assert len(case.baseline.samples[TPOT].launches) == len(case.measurement.samples[TPOT].launches) == 8
    assert case.measurement.notes == (f"{TPOT} is of 8 of 9 launches: not both arms measured it",)


def test_the_plan_grows_with_what_is_still_undecided():
    """Progress is told how many launches are expected by now, and how many are done."""
    script = Script(lost(0.2))
    play(script)
    assert script.plans[0] == (9, 1)
    assert script.plans[-1] == (17, 16)


@pytest.mark.parametrize("arms", [1, 2])
def test_fresh_launches_are_made_once_for_each_curve(arms):
    """All cases of the curve are measured again, in as many launches as a confirmation has, and not for each claim."""
    sweep = Sweep("decode", StaticBatch(8, 8), batch_size=[1, 4], gate={"output_throughput": 0.05})
    names = [f"decode/{model}/batch={size}" for model in "ab" for size in (1, 4)]
    script = Script()
    running = campaign(script, sweep=sweep, models=("a", "b"), arms=arms, find=stored(names=names))
    before = running.run()
    fresh = running.fresh(["decode/a"])
    assert running.fresh(["decode/a"]) is fresh
    assert (fresh.way_out == "if it is meant to be so: pytest --slmperf --slmperf-accept") is (arms == 1)
    assert [case.case for case in fresh.cases] == names[:2]
    launched = script.asked[before.launches :]
    assert {(model, *sorted(cases)) for model, _, cases in launched} == {("a", *names[:2])}
    assert len(launched) == 8 * arms
    for case in fresh.cases:
        assert len(case.measurement.samples["output_throughput"].launches) == 8
        assert len(case.baseline.samples["output_throughput"].launches) == (8 if arms == 2 else 20)
    after = running.outcome()
    assert after.launches == before.launches + 8 * arms
    assert after.fresh_launches == 8 * arms
    assert after.seconds >= before.seconds
    without = {name: replace(case, fresh=None, fresh_baseline=None) for name, case in after.cases.items()}
    assert without == before.cases
    assert script.plans[-1] == (8 * arms, 7 * arms)


def test_a_case_that_does_not_fit_is_told_apart_by_what_is_stored():
    """It is skipped, and where a comparable baseline holds it, the outcome says so."""
    for names in ((ONE,), (ONE, FOUR)):
        outcome = play(
            Script(),
            find=stored(names=names),
            fits=lambda _sweep, case, _spec: "too large" if case.name == FOUR else None,
        )
        assert outcome.skipped == {FOUR: "too large"}
        assert outcome.skipped_stored == names[1:]


@pytest.mark.parametrize("arms", [1, 2])
def test_an_outcome_holds_what_was_measured_afresh(arms):
    """Beside the samples that the gate judged: each arm's own, and which launches they are of."""
    running = campaign(Script(), arms=arms)
    before = running.run().launches
    fresh = {case.case: case for case in running.fresh(["decode/m"]).cases}
    for case in running.outcome().cases.values():
        assert case.fresh.samples == fresh[case.case].measurement.samples
        assert len(case.measurement.samples["output_throughput"].launches) == 8
        places = list(case.fresh.launches)
        if arms == 2:
            assert case.fresh_baseline.samples == fresh[case.case].baseline.samples
            places += case.fresh_baseline.launches
        else:
            assert case.fresh_baseline is None
        assert sorted(places) == list(range(before, before + 8 * arms))


def test_fresh_launches_that_confirm_nothing_are_in_the_outcome():
    """What was measured before the engine died is kept, and the launches are counted."""
    running = campaign(Script(failing))
    running.run()
    assert running.fresh(["decode/m"]).cases == ()
    outcome = running.outcome()
    assert outcome.fresh_launches == 2
    assert outcome.cases[ONE].fresh.launches == (9, 10)
    assert len(outcome.cases[ONE].fresh.samples["output_throughput"].launches) == 2


def test_void_rounds_of_fresh_launches_are_listed():
    """They are repeated as any, and stand among the case's void rounds."""
    script = Script(lambda arm, case, index: None if index in (9, 10) else steady(arm, case, index))
    running = campaign(script)
    running.run()
    assert len(running.fresh(["decode/m"]).cases) == 2
    measurement = running.outcome().cases[ONE].measurement
    assert [void.launch for void in measurement.void_rounds] == [9, 10]
    assert len(measurement.samples["output_throughput"].launches) == 8


def failing(_arm, _case, index):
    """An engine that dies in a later launch."""
    if index > 10:
        raise EngineDied("killed")
    return steady(_arm, _case, index)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (failing, "killed"),
        (lambda arm, case, index: None if index > 10 else steady(arm, case, index), "is void: contended"),
        (lambda arm, case, index: -1.0 if index > 10 else steady(arm, case, index), "has the value -1.0"),
    ],
    ids=["dies", "void", "answers wrongly"],
)
def test_there_may_be_no_fresh_launches(value, why):
    """It is said why; what was measured before stands, and nobody tries again."""
    script = Script(value)
    running = campaign(script)
    assert set(statuses(running.run()).values()) == {Status.UNCHANGED}
    assert why in running.fresh(["decode/m"]).missing
    spent = len(script.asked)
    assert running.fresh(["decode/m"]).cases == ()
    assert len(script.asked) == spent
    assert set(statuses(running.outcome()).values()) == {Status.UNCHANGED}


def test_a_spent_budget_leaves_no_fresh_launches():
    """A claim is not confirmed on borrowed time."""
    script = Script()
    running = campaign(script, budget_s=0.0)
    running.run()
    assert running.fresh(["decode/m"]).missing == "the budget is spent"
    assert script.asked == []


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_an_engine_that_answers_what_nothing_measures_fails(value):
    """It ends the campaign as any failure does, and what was measured before is kept."""
    running = campaign(Script(lambda arm, case, index: value if index == 5 else steady(arm, case, index)))
    with pytest.raises(EngineFailed, match=r"e answered wrongly: decode/m/batch=\d output_throughput: .*positive"):
        running.run()
    assert len(running.outcome().cases[ONE].measurement.samples["output_throughput"].launches) == 4


def test_what_nothing_measures_is_not_recorded_for_twenty_launches():
    """The first launch of a recording tells that a gated metric is unknown here; a gate goes on without it."""
    sweep = Sweep(
        "decode", StaticBatch(8, 8), [1, 4], gate={"output_throughput": 0.05, "joules_per_output_token": 0.05}
    )
    script = Script()
    with pytest.raises(UsageError, match=r"nothing here measures joules_per_output_token, .* out of gate="):
        play(script, sweep=sweep, mode="accept")
    assert len(script.asked) == 2
    verdicts = play(Script(), sweep=sweep).cases[ONE].verdicts
    assert verdicts["joules_per_output_token"].status is Status.UNMEASURED


def test_what_no_baseline_can_hold_for_is_not_measured_for_twenty_launches():
    """Recording on a device that this version doesn't know ends with the throw-away launch; a report measures it."""
    script = Script(facts=replace(FACTS, device="tpu:0"))
    on_a_cpu = partial(on_another_device, machine=Machine("a CPU", "linux-6.1"))
    with pytest.raises(UsageError, match="nothing can be recorded: this version knows nothing of the device tpu:0"):
        play(script, mode="accept", unfit=on_a_cpu)
    assert len(script.asked) == 1
    assert len(play(Script(facts=script.facts), mode="report", unfit=on_a_cpu).cases) == 2


# -- joules

METERED = Sweep("decode", StaticBatch(8, 8), batch_size=[1], gate={"joules_per_output_token": 0.05})
BOARD = {"GPU-a": BoardFacts("counter", 700.0, simulated=True)}


class MeteredScript(Script):
    """Plays launches with the joules of a board at some clock."""

    def __init__(self, boards, clock_mhz, error=None):
        super().__init__()
        self.boards, self.clock_mhz, self.error = boards, clock_mhz, error

    def _record(self, arm, case, index):
        values = {
            "joules_per_output_token": (steady(arm, case, index),),
            "output_throughput": (steady(arm, case, index),),
            **({"sm_clock_mhz": (self.clock_mhz,)} if self.clock_mhz else {}),
        }
        return CaseRecord(case, values, boards=self.boards, meter_error=self.error)


def metered(case, key):
    """A baseline with joules."""
    draw = random.Random(0)
    joules = Sample.of([[100 * draw.gauss(1, 0.005)] for _ in range(20)])
    samples = {"joules_per_output_token": joules, "sm_clock_mhz": Sample.of([[1980.0]] * 20)}
    return Reference(Measurement(case, key, samples, boards=BOARD), {"joules_per_output_token": 0.05})


def joules(script, **of):
    return play(script, sweep=METERED, **of).cases[ONE].verdicts["joules_per_output_token"]


def test_joules_of_the_same_board_are_judged():
    """A board that is set as it was for the baseline is compared with it."""
    assert joules(MeteredScript(BOARD, 1980.0), find=metered).status is Status.UNCHANGED


def test_joules_of_another_board_are_not_judged_and_say_so():
    """They are reported: whoever asserts them is told why, and nothing is red."""
    verdict = joules(MeteredScript({"GPU-b": BOARD["GPU-a"]}, 1980.0), find=metered)
    assert (verdict.status, verdict.judged) == (Status.INCOMPARABLE, False)
    assert "joules are reported and not gated" in verdict.reason
    with pytest.raises(NotJudged):
        bool(verdict)


@pytest.mark.parametrize(
    ("boards", "clock_mhz", "words"),
    [
        pytest.param({"GPU-a": BoardFacts("counter", 500.0)}, 1980.0, "500 W, and was 700 W", id="power limit"),
        pytest.param(BOARD, 1605.0, "its clock was 1,605 MHz", id="clock"),
        pytest.param(BOARD, None, "its clock isn't told, and was 1,980 MHz", id="clock not told"),
    ],
)
def test_joules_of_a_board_that_is_set_otherwise_are_void(boards, clock_mhz, words):
    """Another power limit or clock makes other joules at the same throughput."""
    verdict = joules(MeteredScript(boards, clock_mhz), find=metered)
    assert (verdict.status, verdict.judged) == (Status.VOID, True)
    assert words in verdict.reason


def test_joules_that_are_stored_without_their_board_are_compared_with_none():
    """Nobody could see that it is the same one; the verdict is red, and no skip."""

    def nameless(case, key):
        found = metered(case, key)
        return replace(found, measurement=replace(found.measurement, boards={}))

    verdict = joules(MeteredScript(BOARD, 1980.0), find=nameless)
    assert (verdict.status, verdict.judged) == (Status.INCOMPARABLE, True)
    assert "doesn't say of which board" in verdict.reason


@pytest.mark.parametrize(("error", "said"), [(0.0001, False), (0.01, True)])
def test_a_meter_that_is_off_by_more_than_half_of_the_spread_is_a_note(error, said):
    """Then it decides how many launches a verdict takes, and the note names the setting that helps."""
    script = MeteredScript(BOARD, 1980.0, Uncertainty(edge=error, tokens=0.0, sensor=0.0))
    notes = play(script, sweep=METERED, find=metered).cases[ONE].measurement.notes
    found = [note for note in notes if note.startswith("the meter's error of joules")]
    assert bool(found) is said
    assert all("window_s in [tool.slmperf] is" in note for note in found)


def test_joules_of_two_arms_are_of_one_board_at_one_time():
    """Side by side nothing is stored that a board could differ from."""
    assert joules(MeteredScript(BOARD, 1605.0), arms=2).status is Status.UNCHANGED


def test_variants_of_an_engine_take_turns():
    """Each has launches of its own, in turns with the others, and a key of its own; its fresh ones are its alone."""
    sweep = replace(SWEEP, threads=[1, 2], dtype=["float32", "int8"])
    names = [case.name for case in sweep.cases(["m"])]
    script, keys = Script(), {}

    def find(case, key):
        keys[case] = key["threads"]
        return stored(names=names)(case, key)

    specs = configurations(sweep, [EngineSpec("e", "m", threads=7)], lambda _: True, other_python=None)
    running = campaign(script, sweep=sweep, find=find, configured=specs)
    outcome = running.run()
    assert set(statuses(outcome).values()) == {Status.UNCHANGED}
    assert [(spec.dtype, spec.threads) for spec in outcome.specs] == [
        ("float32", 1),
        ("float32", 2),
        ("int8", 1),
        ("int8", 2),
    ]
    assert keys == {case.name: case.variant.coordinates["threads"] for case in sweep.cases(["m"])}
    turns = [series_of(cases[0]) for _, _, cases in script.asked[4:]]
    assert all(len({*turns[start : start + 4]}) == 4 for start in range(0, 32, 4))
    (curve, other, *_) = dict.fromkeys(map(series_of, names))
    fresh = running.fresh([curve])
    assert {series_of(case.case) for case in fresh.cases} == {curve}
    before = len(script.asked)
    both = running.fresh([curve, other])
    assert {series_of(case.case) for case in both.cases} == {curve, other}
    assert {series_of(cases[0]) for _, _, cases in script.asked[before:]} == {other}
    assert outcome.names_on("e") == set(names)
