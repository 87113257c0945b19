"""The gate's looks at the cases of a campaign: when it asks for more launches, and what it says of each case."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_slmperf.core import gate
from pytest_slmperf.core.guards.void import RUN_AGAIN
from pytest_slmperf.core.judging import even_pace
from pytest_slmperf.core.load.replica_metrics import blamed
from pytest_slmperf.core.metrics import BOARD, CORE_PACE, ENERGY, metric
from pytest_slmperf.core.outcome import LARGER, CaseOutcome
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.core.sweeps.sweep import DEFAULT_TOLERANCE, LARGEST_TOLERANCE
from pytest_slmperf.core.verdict import Status, Verdict
from pytest_slmperf.run.accept import settled
from pytest_slmperf.run.brief import Brief
from pytest_slmperf.run.ongoing import OngoingCase, Phase

_NOT_HERE = "where it can't be measured, [[tool.slmperf.machine]] may leave it out of the sweep's gate"


@dataclass(frozen=True)
class Looks:
    """What is needed to judge the cases of a campaign, beside the cases."""

    brief: Brief
    unmetered: Mapping[str, str]
    """Metrics that no meter tells here, each with the reason, where that skips their tests and isn't red."""
    versions: Mapping[str, Mapping[str, str]]
    """By arm, of the launches that there are: the campaign adds those that it makes."""

    def policy(self, tolerance: float) -> gate.Policy:
        """How a metric of this tolerance is judged."""
        return gate.Policy(tolerance=tolerance, max_launches=self.brief.max_launches, design=self.brief.design)

    def at(self, case: OngoingCase) -> None:
        """Judge what is undecided, and ask for more launches where that may decide it."""
        if case.phase is not Phase.LOOKING or case.exhausted:
            return
        more = 0
        for name, tolerance in self._gated(case).items():
            if name in case.verdicts and case.verdicts[name].final:
                continue
            baseline, candidate = self._arms_of(case, name)
            if baseline is None or candidate is None:
                continue
            policy = self.policy(tolerance)
            verdict = self._judge(case, name, (baseline, candidate), policy)
            verdict = self._held_to_pace(case, verdict, (baseline, candidate))
            case.verdicts[name] = verdict
            if not verdict.final:
                more = max(more, gate.more_launches(verdict, baseline, candidate, policy))
        case.wanted = min(len(case.blocks) + more, self.brief.max_launches)

    def _judge(
        self, case: OngoingCase, name: str, arms: tuple[Sample, Sample], policy: gate.Policy, start: int = 0
    ) -> Verdict:
        """The gate's verdict on (baseline, candidate); on what is stored, without the drift that each arm's pace
        explains. Versions side by side drift together.
        """
        baseline, candidate = arms
        was, now = self._paces(case, start)
        if self.brief.design == "interleaved":
            return gate.judge(metric(name), baseline, candidate, policy)
        return even_pace.judge(metric(name), (baseline, was), (candidate, now), policy)

    def _held_to_pace(
        self, case: OngoingCase, verdict: Verdict, arms: tuple[Sample, Sample], start: int = 0
    ) -> Verdict:
        """The verdict on (baseline, candidate), or `void` where what is stored was measured at another pace of the
        cores. Both arms of one that is interleaved share theirs.
        """
        if self.brief.design == "interleaved":
            return verdict
        (baseline, candidate), (was, now) = arms, self._paces(case, start)
        return even_pace.held_to_pace(verdict, metric(verdict.metric), (baseline, was), (candidate, now))

    def _paces(self, case: OngoingCase, start: int) -> tuple[Sample | None, Sample | None]:
        """The cores' pace in what is stored and in the launches since `start`. Another Python takes another time for
        the piece of work, so nothing is known then.
        """
        stored, now = case.stored, self.versions.get("candidate", {})
        if stored.measurement is None or (stored.versions or {}).get("python") != now.get("python"):
            return None, None
        return stored.measurement.samples.get(CORE_PACE), case.sample("candidate", CORE_PACE, start)

    def _gated(self, case: OngoingCase) -> Mapping[str, float]:
        """The tolerance of each gated metric: the stored one where there is one, as the noise supported it.

        A recording stores what the suite asks for now.
        """
        asked = self.brief.sweep.tolerances
        stored = case.stored.tolerances if self.brief.mode == "gate" else {}
        return {
            name: min(self.brief.slack * stored.get(name, tolerance), LARGEST_TOLERANCE)
            for name, tolerance in asked.items()
        }

    def other_tolerances(self, cases: Sequence[OngoingCase]) -> Iterator[str]:
        """Stored tolerances that the suite doesn't ask for. Where the noise needs a larger one, another recording would
        be refused, too: the suite or the settings have to say it.
        """
        for name, asked in self.brief.sweep.tolerances.items():
            stored = [(case, case.stored.tolerances.get(name, asked)) for case in cases]
            if self.brief.supported and all(one >= asked for _, one in stored):
                continue  # larger ones are what the settings want
            needed = {one for case, one in stored if one > asked and self._needs_more(case, name, asked)}
            others = sorted({one for _, one in stored} - {asked} - needed)
            said = f"the suite asks for {asked:.1%} of {name}, and"
            if others:
                yield f"{said} {_percents(others)} is stored and used: record again"
            if needed and not self.brief.supported:
                yield (
                    f"{said} {_percents(sorted(needed))} is stored and used, as the noise of the recording needs: "
                    f'write gate={{{name!r}: {max(needed):g}}} in the suite, or tolerance = "supported" in '
                    "[tool.slmperf]"
                )

    def _needs_more(self, case: OngoingCase, name: str, asked: float) -> bool:
        """Whether the noise of what is stored supports no tolerance as tight as the suite asks for."""
        sample = case.stored.measurement.samples.get(name) if case.stored.measurement else None
        if sample is None:
            return False
        pace = case.stored.measurement.samples.get(CORE_PACE) if case.stored.measurement else None
        policy = self.policy(DEFAULT_TOLERANCE)
        return settled(sample, name, asked, policy, pace=pace, or_more=False).tolerance is None

    def _arms_of(self, case: OngoingCase, name: str, start: int = 0) -> tuple[Sample | None, Sample | None]:
        candidate = case.sample("candidate", name, start)
        if name in ENERGY and case.joules_apart():
            return None, candidate
        if self.brief.design == "interleaved":
            return case.sample("baseline", name, start), candidate
        return (case.stored.measurement.samples.get(name) if case.stored.measurement else None), candidate

    def ask_for_confirmation(self, cases: Sequence[OngoingCase]) -> bool:
        """Want fresh launches of the cases in which something looks regressed; whether there are any."""
        suspects = [case for case in cases if self._suspected(case)]
        for case in suspects:
            case.confirm_by(gate.first_launches(self.policy(DEFAULT_TOLERANCE)))
        return bool(suspects)

    @staticmethod
    def _suspected(case: OngoingCase) -> list[str]:
        return [name for name, verdict in case.verdicts.items() if verdict.status is Status.REGRESSED]

    def confirm(self, case: OngoingCase) -> None:
        """Judge again what looked regressed, by its fresh launches alone."""
        if case.fresh_from is None:
            return
        case.phase = Phase.CONFIRMED
        for name in self._suspected(case):
            baseline, fresh = self._arms_of(case, name, case.fresh_from)
            first = case.verdicts[name]
            if baseline is None or fresh is None or case.missing or case.exhausted:
                case.verdicts[name] = gate.unconfirmed(first, *_why_no_fresh(case, name))
                continue
            policy = gate.confirmation(self.policy(self._gated(case)[name]))
            confirmed = gate.confirm(first, self._judge(case, name, (baseline, fresh), policy, case.fresh_from))
            confirmed = self._held_to_pace(case, confirmed, (baseline, fresh), case.fresh_from)
            if confirmed.status is Status.REGRESSED and self.brief.design == "stored":
                confirmed = replace(confirmed, way_out=self.brief.way_to_accept(case.configuration.candidate))
            case.verdicts[name] = confirmed

    def outcome(self, case: OngoingCase, cut_off: str) -> CaseOutcome:
        """What came out of a case. `cut_off` says why it has no launch that counts; it is empty where it has one."""
        measurement, baseline = self.sides(case)
        verdicts = {}
        for name, tolerance in self._gated(case).items():
            verdict = self._verdict(case, name, measurement, cut_off)
            verdict = blamed(verdict, measurement.samples, baseline.samples if baseline else {})
            verdicts[name] = replace(verdict, case=case.name, tolerance=tolerance)
        fresh = {arm: case.again.fresh_samples(arm) for arm in case.keys} if case.again else {}
        return CaseOutcome(
            case=case.name,
            coordinates=case.case.coordinates,
            measurement=measurement,
            baseline=baseline,
            verdicts=verdicts,
            fresh_from=case.fresh_from,
            fresh=fresh.get("candidate"),
            fresh_baseline=fresh.get("baseline"),
            cut_off=cut_off,
        )

    def sides(self, case: OngoingCase) -> tuple[Measurement, Measurement | None]:
        """What was measured of a case, and what it is compared with: without the cores' pace where nobody can compare
        that.
        """
        interleaved = self.brief.design == "interleaved"
        other = case.measurement("baseline") if interleaved else case.stored.measurement
        if other is not None and not interleaved and self._paces(case, 0)[0] is None:
            other = replace(other, samples={name: one for name, one in other.samples.items() if name != CORE_PACE})
        return case.measurement("candidate"), other

    def _verdict(self, case: OngoingCase, name: str, measurement: Measurement, cut_off: str) -> Verdict:
        meaning = metric(name)
        unmetered = self.unmetered.get(name)
        if unmetered:
            return Verdict(
                Status.UNMEASURED, name, meaning.unit, meaning.higher_is_better, reason=unmetered, judged=False
            )
        prevented = self._prevented(case, name, measurement, cut_off)
        if prevented:
            status, reason, way_out = prevented
            # What another board took is reported; everything else that prevents a judgement is red.
            elsewhere = name in ENERGY and status is Status.INCOMPARABLE and case.another_board is not None
            judged = status is Status.VOID or (self.brief.mode == "gate" and not elsewhere)
            return Verdict(
                status, name, meaning.unit, meaning.higher_is_better, reason=reason, way_out=way_out, judged=judged
            )
        decided = case.verdicts[name]
        if decided.status is Status.REGRESSED and case.phase is not Phase.CONFIRMED:
            return gate.unconfirmed(decided, "the run ended before it was confirmed")
        if decided.status is Status.INCONCLUSIVE and case.missing:
            return replace(decided, reason="the budget was spent before it was decided", final=True)
        return decided

    def _prevented(
        self, case: OngoingCase, name: str, measurement: Measurement, cut_off: str
    ) -> tuple[Status, str, str] | None:
        """Why nothing was judged, what that is called and how to go on; None where the gate has looked."""
        stored = self.brief.design == "stored"
        found: tuple[Status, str, str] | None = None
        if measurement.void and not (name in case.verdicts and case.verdicts[name].final):
            found = Status.VOID, measurement.void, case.way_out_of_void
        elif self.brief.mode != "gate":
            done = "recorded" if self.brief.mode == "accept" else "measured"
            found = Status.UNMEASURED, f"{done}, not judged", ""
        elif stored and not case.stored.measurement:
            found = case.stored.status, case.stored.reason, case.stored.way_out
        elif not case.blocks:
            found = Status.INCONCLUSIVE, cut_off, LARGER
        elif not stored and case.measured("candidate", name) and not case.measured("baseline", name):
            why = case.measurement("baseline").unmeasured.get(name, "no launch measured it")
            found = Status.NO_BASELINE, f"the other arm holds no {name}: {why}", ""
        elif name not in measurement.samples:
            why = measurement.unmeasured.get(name, "no launch measured it")
            lost = name in (*ENERGY, *BOARD) and stored and name in case.stored.tolerances
            why = f"the baseline holds it, and nothing tells it now: {why}" if lost else why
            found = Status.UNMEASURED, why, _NOT_HERE
        elif name in ENERGY and (apart := case.joules_apart()):
            found = apart
        elif self._arms_of(case, name)[0] is None:
            reason = f"the baseline holds no {name}"
            found = Status.NO_BASELINE, reason, f"record it: {self.brief.record}"
        elif name not in case.verdicts:
            found = Status.INCONCLUSIVE, "the run ended before the first look", LARGER
        return found


def _percents(fractions: Sequence[float]) -> str:
    return ", ".join(f"{fraction:.1%}" for fraction in fractions)


def _why_no_fresh(case: OngoingCase, name: str) -> tuple[str, str]:
    """Why a case has not the fresh launches that were to confirm a loss, and what helps."""
    if case.exhausted:
        return f"they are void: {case.why_void}", case.way_out_of_void
    return ("the budget is spent", LARGER) if case.missing else (f"none of them measured {name}", RUN_AGAIN)
