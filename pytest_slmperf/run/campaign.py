"""The campaign: launches in interleaved order, the gate after every look, fresh launches for what looks regressed.

Arms and configurations take turns; within a turn the order is random, and so is the order of cases within a launch.
The first decisive look at a metric is final. A case whose gated metrics are all decided gets no more launches.
"""

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from pytest_slmperf.core import gate
from pytest_slmperf.core.engine import EngineFacts, EngineSpec
from pytest_slmperf.core.errors import EngineFailed, SlmperfError, UsageError
from pytest_slmperf.core.launch import LaunchRecord, Load
from pytest_slmperf.core.metrics import CORE_PACE
from pytest_slmperf.core.outcome import LARGER, CaseOutcome, SweepOutcome
from pytest_slmperf.core.results.claim import Fresh
from pytest_slmperf.core.sample import BadSample, Sample
from pytest_slmperf.core.sweeps.sweep import DEFAULT_TOLERANCE, Case, Sweep
from pytest_slmperf.core.verdict import Status
from pytest_slmperf.run.accept import settled
from pytest_slmperf.run.brief import Brief, Configuration, Prime, Reference, Surroundings
from pytest_slmperf.run.key import case_key
from pytest_slmperf.run.looks import Looks
from pytest_slmperf.run.ongoing import OngoingCase, Phase
from pytest_slmperf.run.plan import first_launches, longest_recording

LONGER_BY = 4
"""Launches, before it is asked again."""
VOID_PAUSE_S = 2.0
"""Pause after a turn with a void case, twice as long after each further one: the culprit may be done by then."""
LONGEST_PAUSE_S = 16.0


class Campaign:
    """One sweep, measured and judged. Lives as long as the run: what a test asks later may need fresh launches."""

    def __init__(self, brief: Brief, around: Surroundings, *, order_seed: int | None = None) -> None:
        self._brief = brief
        self._around = around
        self._draw = random.Random(order_seed)
        self._cases: list[OngoingCase] = []
        self._skipped: dict[str, str] = {}
        self._skipped_stored: list[str] = []
        self._versions: dict[str, Mapping[str, str]] = {}
        self._looks = Looks(brief, around.unmetered, self._versions)
        self._launches = 0
        self._told_from = 0
        """Launches that were done when what the watcher is told of began."""
        self._fresh: dict[frozenset[str], Fresh] = {}
        self._fresh_launches = 0
        self._orders: dict[Configuration, list[tuple[str, EngineSpec]]] = {}
        """Orders of the arms that the next block turns round."""
        self._pause_s = VOID_PAUSE_S
        self._dropped = ""
        """The arm of the launch that the spent budget left without the other arm's."""
        self._began = around.clock()
        self._seconds = 0.0

    def run(self) -> SweepOutcome:
        """Measure until everything is decided, the cap is reached or the budget is spent. Raises LaunchError."""
        with self._on_the_bill():
            for configuration in self._brief.configurations:
                self._prime(configuration)
            self._measure(self._cases)
            if self._brief.mode == "accept":
                self._record_longer()
            if self._brief.mode == "gate" and self._looks.ask_for_confirmation(self._cases):
                self._measure(self._cases)
                for case in self._cases:
                    self._looks.confirm(case)
        return self.outcome()

    def fresh(self, series: Collection[str]) -> Fresh:
        """Launches of all cases of these curves, as many as confirm a `regressed`, in turns; made once, when they are
        first asked for of a curve.

        They are no part of what the gate judges, and are on the campaign's bill.
        """
        asked = frozenset(series)
        if asked not in self._fresh:
            with self._on_the_bill():
                self._fresh[asked] = self._launch_again(asked)
        return self._fresh[asked]

    def _launch_again(self, series: frozenset[str]) -> Fresh:
        wanted = gate.first_launches(self._looks.policy(DEFAULT_TOLERANCE))
        asked = [case for case in self._cases if case.case.series in series]
        for case in asked:
            case.again = case.again or OngoingCase(
                case.case, case.configuration, case.load, case.keys, case.stored, wanted, Phase.UNJUDGED
            )
        again = [case.again for case in asked if case.again]
        self._told_from, self._pause_s = self._launches, VOID_PAUSE_S
        try:
            self._measure(again)
        except SlmperfError as error:
            return Fresh(missing=str(error))
        finally:
            self._fresh_launches += self._launches - self._told_from
        for case in again:
            if case.exhausted:
                return Fresh(missing=f"{case.name} is void: {case.why_void}")
        if any(case.missing for case in again):
            return Fresh(missing="the budget is spent")
        # What is planted in one variant is never recorded, whatever the others are.
        measured = sorted((case.configuration.candidate for case in again), key=lambda spec: -spec.planted_loss)
        way_out = self._brief.way_to_accept(measured[0]) if self._brief.design == "stored" and again else ""
        outcomes = (CaseOutcome(case.name, case.case.coordinates, *self._looks.sides(case), {}) for case in again)
        return Fresh(tuple(outcomes), way_out=way_out)

    @contextmanager
    def _on_the_bill(self) -> Iterator[None]:
        began = self._around.clock()
        try:
            yield
        finally:
            self._seconds += self._around.clock() - began

    def outcome(self) -> SweepOutcome:
        """What there is by now; also of a campaign that was interrupted."""
        outcomes = [self._looks.outcome(case, self._cut_off(case)) for case in self._cases]
        tolerances = self._brief.sweep.tolerances
        stored = next((case.stored.versions for case in self._cases if case.stored.versions), None)
        return SweepOutcome(
            sweep=self._brief.sweep.name,
            design=self._brief.design,
            mode=self._brief.mode,
            cases={outcome.case: outcome for outcome in outcomes},
            specs=tuple(configuration.candidate for configuration in self._brief.configurations),
            versions=self._versions.get("candidate", {}),
            baseline_versions=self._versions.get("baseline", stored),
            launches=self._launches,
            seconds=self._seconds,
            skipped=dict(self._skipped),
            skipped_stored=tuple(self._skipped_stored),
            notes=self._notes(),
            asked={name: asked for name, asked in tolerances.items() if name not in self._around.unmetered},
            unmetered=self._around.unmetered,
            fresh_launches=self._fresh_launches,
        )

    # -- launches

    def _prime(self, configuration: Configuration) -> None:
        """A throw-away launch of each arm: weights are made, caches are warm, and the engine says what it is. One that
        compiles serves each case once, or the first launch that is measured would pay for all of them.
        """
        nothing_left = self._brief.sweep.nothing_left(self._around.unmetered)
        unfit = {
            case.name: reason
            for case in configuration.cases
            if (reason := nothing_left or self._misfit(case, configuration))
        }
        self._skipped.update(unfit)
        cases = [case for case in configuration.cases if case.name not in unfit]
        if not cases:
            return
        records = self._launch_arms(configuration.arms, [], prime=lambda facts: self._primers(cases, facts))
        if len(records) < len(configuration.arms):
            self._cases.extend(self._never_started(case, configuration) for case in cases)
            return
        brief, with_joules = self._brief, self._around.with_joules
        keys = {
            arm: case_key(brief.sweep, record, brief.policy, with_joules=with_joules) for arm, record in records.items()
        }
        if self._brief.mode == "accept" and (why := self._around.unfit(keys["candidate"])):
            raise UsageError(f"nothing can be recorded: {why}")
        if self._brief.design == "stored":
            find = self._around.stored
            self._skipped_stored.extend(name for name in unfit if find(name, keys["candidate"]).measurement)
        context_tokens = min(record.facts.context_tokens for record in records.values())
        for case in cases:
            load, note = self._load(case, context_tokens)
            stored = (
                self._around.stored(case.name, keys["candidate"]) if self._brief.design == "stored" else Reference()
            )
            wanted = self._first_wanted(stored)
            self._cases.append(OngoingCase(case, configuration, load, keys, stored, wanted, self._first_phase, note))

    def _misfit(self, case: Case, configuration: Configuration) -> str | None:
        """Why some arm surely can't be measured, or None."""
        said = (self._around.fits(self._brief.sweep, case, spec) for _, spec in configuration.arms)
        return next(filter(None, said), None)

    def _primers(self, cases: Sequence[Case], facts: EngineFacts) -> list[Load]:
        if not facts.compiles:
            return []
        return [self._load(case, facts.context_tokens)[0] for case in cases]

    def _load(self, case: Case, context_tokens: int) -> tuple[Load, str | None]:
        return self._around.loads(self._brief.sweep, case, context_tokens, self._brief.policy)

    def _never_started(self, case: Case, configuration: Configuration) -> OngoingCase:
        """A case that the budget leaves undecided before its engine could say what it is. Raises UsageError for a
        recording, which would lack it.
        """
        spent = f"the budget was spent before {configuration.candidate.engine} was started"
        if self._brief.mode == "accept":
            raise UsageError(f"nothing can be recorded: {spent}: {case.name}")
        keys: dict[str, dict[str, object]] = {
            arm: {"engine": spec.engine, "model": spec.model_name} for arm, spec in configuration.arms
        }
        nothing = Reference(status=Status.INCONCLUSIVE, reason=spent, way_out=LARGER)
        load = Load(case.name, (), seed=0)  # of an unknown context, and never sent
        return OngoingCase(case, configuration, load, keys, nothing, self._first_wanted(nothing), self._first_phase)

    def _record_longer(self) -> None:
        """More launches of each case that could not be recorded as it is, for its noise: more bound it better, and a
        spell that took some of them weighs less.
        """
        most = longest_recording(self._brief.baseline_launches)
        while not self._over_budget():
            noisy = [
                case
                for case in self._cases
                if len(case.blocks) < most and not (case.missing or case.exhausted) and self._too_noisy(case)
            ]
            if not noisy:
                return
            for case in noisy:
                case.wanted = min(len(case.blocks) + LONGER_BY, most)
            self._measure(noisy)
            for case in noisy:  # what it had before was enough, whatever became of the launches on top
                case.wanted = min(case.wanted, len(case.blocks))

    def _too_noisy(self, case: OngoingCase) -> bool:
        """Whether its noise keeps it from being recorded; a tolerance that no machine supports is not its noise."""
        pace = case.sample("candidate", CORE_PACE)
        for name, asked in self._brief.sweep.tolerances.items():
            sample = case.sample("candidate", name)
            policy, or_more = self._looks.policy(DEFAULT_TOLERANCE), self._brief.supported
            if sample is not None and settled(sample, name, asked, policy, pace=pace, or_more=or_more).too_noisy:
                return True
        return False

    @property
    def _first_phase(self) -> Phase:
        return Phase.LOOKING if self._brief.mode == "gate" else Phase.UNJUDGED

    def _first_wanted(self, stored: Reference) -> int:
        return first_launches(
            self._brief.mode,
            self._looks.policy(DEFAULT_TOLERANCE),
            self._brief.baseline_launches,
            gated=bool(self._brief.sweep.tolerances),
            stored=stored.measurement is not None,
        )

    def _measure(self, cases: Sequence[OngoingCase]) -> None:
        """Launch until no case wants more, or the budget is spent; the gate looks as it goes."""
        while due := [case for case in cases if case.missing]:
            if self._over_budget():
                return
            turns = list(dict.fromkeys(case.configuration for case in due))
            self._draw.shuffle(turns)
            left = {
                (arm, turn.cases[0].series): max(case.missing for case in due if case.configuration is turn)
                for turn in turns
                for arm, _ in turn.arms
            }
            self._around.progress.planned(left, self._launches - self._told_from)
            void = [self._block(turn, [case for case in due if case.configuration is turn]) for turn in turns]
            if any(void) and any(case.missing for case in due) and not self._over_budget():
                self._around.pause(self._pause_s)
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            elif not any(void):
                self._pause_s = VOID_PAUSE_S
            for case in due:
                if not case.missing:
                    self._looks.at(case)

    def _over_budget(self) -> bool:
        budget = self._brief.budget_s
        return budget is not None and self._around.clock() - self._began >= budget

    def _cut_off(self, case: OngoingCase) -> str:
        """Why a case has no launch that counts; throw-away ones there may have been, and a launch of one arm. Empty
        where it has one.
        """
        if case.blocks:
            return ""
        if case.stored.status is Status.INCONCLUSIVE:
            return case.stored.reason
        ended = "the budget was spent" if self._over_budget() else "the run ended"
        if case.voids:
            return f"{ended}, and all its launches until then were void: {case.why_void}"
        before = "a launch of each arm" if self._brief.design == "interleaved" else "a launch"
        return f"{ended} before {before} was measured; launches made, throw-away ones included: {self._launches}"

    def _block(self, configuration: Configuration, due: list[OngoingCase]) -> bool:
        """One launch of each arm. A case's block counts where it is valid in every arm.

        Returns whether the block of some case is void. One that the budget leaves without an arm is dropped, whatever
        came out of it: the clock ended it, and no value did.
        """
        records = self._launch_arms(self._order(configuration), [case.to_send for case in due])
        if len(records) < len(configuration.arms):
            self._dropped = next(iter(records), "")
            return False
        for case in due:
            block = {arm: (record.index, record.cases[case.name]) for arm, record in records.items()}
            void = any(record.void for _, record in block.values())
            (case.voids if void else case.blocks).append(block)
        return any(record.cases[case.name].void for case in due for record in records.values())

    def _order(self, configuration: Configuration) -> list[tuple[str, EngineSpec]]:
        """Random in one block, turned round in the next: by chance alone, one arm could always come second."""
        before = self._orders.pop(configuration, None)
        if before:
            return before[::-1]
        arms = list(configuration.arms)
        self._draw.shuffle(arms)
        self._orders[configuration] = arms
        return arms

    def _launch_arms(
        self, arms: Sequence[tuple[str, EngineSpec]], loads: list[Load], *, prime: Prime = lambda _: ()
    ) -> dict[str, LaunchRecord]:
        """A launch of each arm, in this order; of fewer where the budget is spent before. None is cut off by it."""
        records: dict[str, LaunchRecord] = {}
        for arm, spec in arms:
            if self._over_budget():
                break
            self._draw.shuffle(loads)
            records[arm] = self._launch(arm, spec, loads, prime)
        return records

    def _launch(self, arm: str, spec: EngineSpec, loads: Sequence[Load], prime: Prime) -> LaunchRecord:
        self._around.progress.launching(spec, [load.case for load in loads], arm)
        policy, index = self._brief.policy, self._launches
        record = self._around.launch(spec, loads, arm=arm, index=index, policy=policy, prime=prime)
        self._launches += 1
        self._versions[arm] = {**self._versions.get(arm, {}), **record.versions}
        _refuse_bad_values(record)
        if self._brief.mode == "accept":
            _refuse_unknown_metrics(record, self._brief.sweep)
        return record

    def _notes(self) -> tuple[str, ...]:
        """What is worth knowing of the sweep as a whole, each once."""
        notes = [note for case in self._cases for note in (case.note, *case.stored.notes, case.another_board) if note]
        if self._brief.mode == "gate":
            notes += self._looks.other_tolerances(self._cases)
        if self._dropped:
            notes.append(f"the last launch of the {self._dropped} is not used: the budget was spent before the other's")
        return tuple(dict.fromkeys(notes))


def _refuse_bad_values(record: LaunchRecord) -> None:
    """Raises EngineFailed for a value that no measurement can have, before it stands beside good ones."""
    for case in record.cases.values():
        for name, values in case.values.items():
            try:
                Sample((values,))
            except BadSample as error:
                raise EngineFailed(f"{record.spec.engine} answered wrongly: {case.case} {name}: {error}") from error


def _refuse_unknown_metrics(record: LaunchRecord, sweep: Sweep) -> None:
    """Raises UsageError for a gated metric that a launch neither measured nor says why: no other will, either."""
    for case in record.cases.values():
        unknown = [name for name in sweep.tolerances if name not in {*case.values, *case.unmeasured}]
        if unknown and not case.void:
            raise UsageError(
                f"{case.case}: nothing here measures {', '.join(unknown)}, so that it can't be recorded: take it out "
                "of gate={…} on this machine"
            )
