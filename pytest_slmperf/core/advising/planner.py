"""The next measurement: the one from which most is to be expected, or none where the answer is settled.

In this order: one instance at its largest batch, which everything is compared with; then whatever may be better than
the best so far, by expected improvement times the chance that it keeps the limits (Jones, Schonlau and Welch 1998;
Schonlau, Welch and Jones 1998), until none is worth a launch; then what lies far from all that was measured; then
lighter settings that are likely as good; then launches again, of what is advised, of what it is compared with and of
the best, until the gain is known well enough. A launch measures others of its configuration along: what would come next
if each showed what is expected of it. It decides by values alone: where it was interrupted it goes on alike.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

from pytest_slmperf.core.advising.curve import Normal, Prediction
from pytest_slmperf.core.advising.outlook import Outlook
from pytest_slmperf.core.advising.question import Evidence, Limit, Question, Seen, Series, Setting, mean_log, spread
from pytest_slmperf.core.advising.student import quantile
from pytest_slmperf.core.metrics import Metric
from pytest_slmperf.core.verdict import percent

HOPELESS = 0.02
"""What keeps the limits with a smaller probability is not tried."""
RIVAL = 0.05
"""What keeps the limits with a smaller probability is no rival of the best."""
UNSURE = 1.64
"""Standard errors within which a difference may lie on either side."""
LIKELY = 0.5
"""A lighter setting that is as good with this probability is tried."""
LEVEL = 0.98
"""Of an interval, computed as if neither what it is of nor when to stop had been chosen by the same launches: so that,
chosen so, it holds the truth in 95 %. How often it does benchmarks/advise_launches.py says."""
SURE = 0.95
"""Of the limits that what is advised must keep, or of missing them, before it is settled."""
UNSEEN_OCTAVES = 2.0
"""From the nearest batch that was launched: farther off a curve may have a step that nobody has seen."""
LARGEST_STEP = 1.0
"""Of a logarithm, that a curve may rise above its law where an engine takes another kernel: by 60 % and more on two CPU
cores."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How surely it must be known."""

    most_launches: int = 5
    """Of one setting."""
    least_launches: int = 2
    """Of what is advised, and of what that is compared with: one alone says nothing of its error."""
    negligible: float = 0.3
    """An improvement of so much of `within` is not worth the launches that a setting may have; of one of them, its part
    of that.
    """

    together: int = 6
    """Settings that one launch measures at most: all of one configuration."""

    @property
    def worth(self) -> float:
        """The share of `within` that must be expected of a launch."""
        return self.negligible / self.most_launches

    @property
    def looks_for_steps(self) -> bool:
        """Whether launches may be spent on what the law of a curve doesn't expect: not where a setting may have but
        one, so that a full sweep would cost little more.
        """
        return self.most_launches > 1


@dataclass(frozen=True, slots=True)
class Next:
    """What to measure now."""

    setting: Setting
    why: str
    along: tuple["Next", ...] = ()
    """To be measured in the same launch: what would be planned next if each showed what is expected of it."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Nothing more is worth a launch."""

    why: str


Step: TypeAlias = Next | Settled


def plan(question: Question, candidates: Sequence[Setting], evidence: Evidence, policy: Policy) -> Step:
    """What to measure next of these settings. The first one's configuration is what the others are compared with."""
    where = _Standing(question, tuple(candidates), evidence, policy)
    step = where.reference_step() or where.wanted() or where.settled()
    return replace(step, along=_along(where, step)) if isinstance(step, Next) else step


def _along(where: "_Standing", first: Next) -> tuple[Next, ...]:
    """What to measure in the same launch."""
    if where.nothing_known:  # but how curves go with the batch
        where = replace(where, question=replace(where.question, limits=()))
    taken = [first]
    while len(taken) < where.policy.together:
        where = where.after(taken[-1].setting)
        step = where.wanted() or where.for_nothing()
        if not isinstance(step, Next):
            break
        taken.append(step)
    return tuple(taken[1:])


def reference_series(candidates: Iterable[Setting]) -> Series:
    """The configuration that is compared with: the first one that is named, as one instance or as few as there are."""
    every = list(dict.fromkeys(one.series for one in candidates))
    like = [one for one in every if (one.dtype, one.threads) == (every[0].dtype, every[0].threads)]
    return min(like, key=lambda one: one.replicas)


def reference(candidates: Iterable[Setting], evidence: Evidence) -> Seen | None:
    """One instance at the largest batch at which it was run; None where it wasn't."""
    series = reference_series(candidates)
    ran = (one for one in evidence.seen.values() if one.setting.series == series and one.values and not one.failed)
    return max(ran, key=lambda one: one.setting.batch, default=None)


def picked(question: Question, evidence: Evidence) -> Seen | None:
    """The lightest of the measured settings that keep the limits and are within so much of the best of them."""
    keeping = [one for one in evidence.measured(question) if one.keeps(question.limits)]
    if not keeping:
        return None
    best = max(question.sign * mean_log(one, question.objective) for one in keeping)
    close = [one for one in keeping if _close(question, question.sign * mean_log(one, question.objective), best)]
    return min(close, key=lambda one: (one.setting.weight, -question.sign * mean_log(one, question.objective)))


def _close(question: Question, log: float, best: float) -> bool:
    return log >= best + math.log1p(-question.within) - 1e-12


def half_width(evidence: Evidence, meaning: Metric, one: Seen, other: Seen) -> float:
    """Of the interval of the logarithm of two settings' ratio, from the launches that were repeated; infinite where
    none was.
    """
    sd, freedom = spread(evidence.seen.values(), meaning)
    counts = [len(seen.values[meaning.name]) for seen in (one, other)]
    return quantile(LEVEL, freedom) * sd * math.sqrt(sum(1 / count for count in counts)) if freedom else math.inf


@dataclass(frozen=True)
class _Standing:
    """What is asked and known at one moment."""

    question: Question
    candidates: tuple[Setting, ...]
    evidence: Evidence
    policy: Policy
    taken: tuple[Setting, ...] = ()
    """What the next launch measures already: what goes with it is of the same configuration, and sure to fit if that
    does."""

    @cached_property
    def _outlook(self) -> Outlook:
        return Outlook(self.question, self.candidates, self.evidence)

    @property
    def nothing_known(self) -> bool:
        """Whether no setting was measured yet."""
        return not self.evidence.measured(self.question)

    def after(self, setting: Setting) -> "_Standing":
        """As if the next launch had shown of a setting what is expected of it, or anything where nothing is known."""
        expected = {one: self._outlook.of(setting, one) for one in self.question.metrics}
        values = {one.name: math.exp(seen.mean) if seen else 1.0 for one, seen in expected.items()}
        return replace(self, evidence=self.evidence.plus(setting, values), taken=(*self.taken, setting))

    def wanted(self) -> Step | None:
        """What is to be measured beside the reference, the most urgent first."""
        return self.better() or self.second() or self.spanned() or self.lighter() or self.again() or self.as_good()

    def for_nothing(self) -> Step | None:
        """What a launch may measure beside what it is made for: of a series that is new, what lies farthest from all
        else in it; of another what is advised or compared with, and its rivals.
        """
        new = not any(one.series == self.taken[0].series for one in self.evidence.seen if one not in self.taken)
        if new and (far := self._far_from_known(1.0)):
            return Next(far, "it costs no launch")
        both = (picked(self.question, self.evidence), reference(self.candidates, self.evidence))
        rivals = [one for one in self._open if self._outlook.keeps(one) >= RIVAL and self._reach(one) >= 0]
        for one in (*(one.setting for one in both if one), *sorted(rivals, key=self._reach, reverse=True)):
            if one in self._open:
                return Next(one, "it costs no launch")
        return None

    def _reach(self, setting: Setting) -> float:
        """How far a setting may be beyond the best, of the objective's logarithm."""
        seen, best = self._outlook.of(setting, self.question.objective), self._best
        if seen is None or best is None:
            return -math.inf
        known = self.evidence.seen.get(setting)
        launches = max(1, known.launches(self.question) if known else 0)
        sd = self._outlook.sd(self.question.objective) * math.sqrt(1 / launches + 1 / best.launches)
        return self.question.sign * (seen.mean - best.log) + 2 * sd

    def reference_step(self) -> Step | None:
        """One instance at its largest batch. Where that fails, what fits is found by halves."""
        series = reference_series(self.candidates)
        batches = sorted({one.batch for one in self.candidates if one.series == series})
        known = {one.setting.batch: one for one in self.evidence.seen.values() if one.setting.series == series}
        failed = [place for place, batch in enumerate(batches) if batch in known and known[batch].failed]
        ran = [place for place, batch in enumerate(batches) if batch in known and not known[batch].failed]
        fewest, most = max(ran, default=-1), min(failed, default=len(batches))
        if not most:
            return Settled(f"{Setting(batches[0], series)} could not be run: {known[batches[0]].failed}")
        if fewest == most - 1:
            return None
        place = len(batches) - 1 if not failed else (fewest + most) // 2
        why = "all others are compared with it" if not failed else "the largest batch that fits is to be found"
        return Next(Setting(batches[place], series), f"one instance at its largest batch: {why}")

    def better(self) -> Step | None:
        """What may be better than the best so far."""
        question, best = self.question, self._best
        if best is None:
            return self._feasible()
        level = best.log + question.sign * math.log1p(question.within)
        noise = self._outlook.sd(question.objective) / math.sqrt(best.launches)
        scores = {
            setting: self._outlook.keeps(setting) * seen.improvement(level, question.sign, noise=noise)
            for setting in self._open
            if setting != best.setting and (seen := self._outlook.of(setting, question.objective))
        }
        if not scores:
            return None
        setting = max(scores, key=scores.__getitem__)
        if scores[setting] <= self.policy.worth * question.within:
            return None
        seen = self._outlook.of(setting, question.objective)
        assert seen is not None  # noqa: S101 - it has a score
        chance = 1 - seen.below(level) if question.sign > 0 else seen.below(level)
        return Next(setting, f"it beats the best so far with a chance of {chance * self._outlook.keeps(setting):.0%}")

    def second(self) -> Step | None:
        """Half the batch of what would be advised, where nothing else of its series is known: past a full cache a
        larger batch brings less, and one point can't say so.
        """
        pick = picked(self.question, self.evidence)
        series = pick.setting.series if pick else None
        if pick is None or any(one.series == series and one != pick.setting for one in self.evidence.seen):
            return None
        octaves = {one: math.log2(pick.setting.batch / one.batch) for one in self._open if one.series == series}
        others = [one for one, below in octaves.items() if below and self._outlook.keeps(one) >= HOPELESS]
        nearest = min(others, key=lambda one: abs(octaves[one] - 1), default=None)
        return Next(nearest, "a second point tells how the curve goes") if nearest else None

    def spanned(self) -> Step | None:
        """What lies far from all that was measured of its series, where a step from one kernel to the next could make
        it the best: the law expects none.
        """
        far = self._far_from_known(UNSEEN_OCTAVES) if self.policy.looks_for_steps else None
        return Next(far, "nothing near it was measured, and a curve may have a step there") if far else None

    def _far_from_known(self, least: float) -> Setting | None:
        """What is farthest from all that was measured of its series, by so many octaves at least, and may be the best
        where a curve has a step.
        """
        question, best = self.question, self._best
        if best is None:
            return None
        level = question.sign * best.log + math.log1p(question.within)
        far: dict[Setting, tuple[float, float]] = {}
        for setting in self._open:
            octaves = self._octaves_from_known(setting)
            seen = self._outlook.of(setting, question.objective)
            if octaves < least or seen is None or self._outlook.keeps(setting) < HOPELESS:
                continue
            if (promise := question.sign * seen.mean) + LARGEST_STEP >= level:
                far[setting] = octaves, promise
        return max(far, key=far.__getitem__, default=None)

    def _octaves_from_known(self, setting: Setting) -> float:
        """To the nearest batch that was launched of its series; infinite where none was."""
        known = (one.each for one in self.evidence.seen if one.series == setting.series)
        return min((abs(math.log2(setting.each / each)) for each in known), default=math.inf)

    def lighter(self) -> Step | None:
        """What is lighter than what would be advised, and likely as good."""
        question, best, pick = self.question, self._best, picked(self.question, self.evidence)
        if best is None or pick is None:
            return None
        level = best.log + question.sign * math.log1p(-question.within)
        for setting in sorted(self._open, key=lambda one: one.weight):
            seen = self._outlook.of(setting, question.objective)
            if setting.weight >= pick.setting.weight or setting in self.evidence.seen or seen is None:
                continue
            as_good = seen.below(level) if question.sign < 0 else 1 - seen.below(level)
            if as_good * self._outlook.keeps(setting) >= LIKELY:
                return Next(setting, f"it is lighter, and as good with a chance of {as_good:.0%}")
        return None

    def again(self) -> Step | None:
        """A further launch of what is advised or compared with, where the gain or a limit isn't known well enough."""
        question, pick = self.question, picked(self.question, self.evidence)
        beside = reference(self.candidates, self.evidence)
        if pick is None:
            return None
        both = [pick]
        if beside and beside.setting != pick.setting and beside.launches(question):
            both.append(beside)
        few = [one for one in both if one.launches(question) < self.policy.most_launches and self._may(one.setting)]
        if not few:
            return None
        fewest = min(few, key=lambda one: one.launches(question))
        if fewest.launches(question) < self.policy.least_launches:
            return Next(fewest.setting, "one launch says nothing of its error")
        if pick in few and not _decided(pick, question.limits, self._outlook.sd):
            return Next(pick.setting, "whether it keeps the limits isn't sure yet")
        if len(both) == 2 and not self._gain_is_known(*both):
            return Next(fewest.setting, f"the gain isn't known to {percent(question.within)} yet")
        return None

    def as_good(self) -> Step | None:
        """A further launch of what is advised or of the best, where the one may not be as good as the other."""
        question, best, pick = self.question, self._best, picked(self.question, self.evidence)
        if best is None or pick is None or best.setting == pick.setting:
            return None
        counts = {best.setting: best.launches, pick.setting: pick.launches(question)}
        short = question.sign * (best.log - mean_log(pick, question.objective)) + math.log1p(-question.within)
        error = self._outlook.sd(question.objective) * math.sqrt(sum(1 / count for count in counts.values()))
        few = [one for one, count in counts.items() if count < self.policy.most_launches and self._may(one)]
        if not few or abs(short) > UNSURE * error:
            return None
        why = f"whether what is advised is within {percent(question.within)} of the best isn't sure yet"
        return Next(min(few, key=counts.__getitem__), why)

    def _gain_is_known(self, pick: Seen, beside: Seen) -> bool:
        return half_width(self.evidence, self.question.objective, pick, beside) <= math.log1p(self.question.within)

    def settled(self) -> Settled:
        """Why nothing more is measured."""
        if picked(self.question, self.evidence) is None:
            return Settled("no setting is likely to keep the limits")
        return Settled("no other setting is expected to be better by what is worth a launch")

    def _feasible(self) -> Step | None:
        """Where nothing keeps the limits yet: what most likely does."""
        chances = {one: self._outlook.keeps(one) for one in self._open}
        likeliest = max(chances, key=chances.__getitem__, default=None)
        if likeliest is None or chances[likeliest] < HOPELESS:
            return None
        # Of those that are about as likely, the one that promises most: the largest batch, as a rule.
        close = [one for one, chance in chances.items() if chance >= 0.9 * chances[likeliest]]
        promises = {one: seen.mean for one in close if (seen := self._outlook.of(one, self.question.objective))}
        setting = max(promises, key=lambda one: self.question.sign * promises[one], default=likeliest)
        return Next(setting, f"nothing keeps the limits yet, and it does with a chance of {chances[setting]:.0%}")

    @cached_property
    def _open(self) -> tuple[Setting, ...]:
        """The settings that may be measured, once more or for the first time."""
        most = self.policy.most_launches
        return tuple(
            one
            for one in self.candidates
            if self._may(one)
            and not self.evidence.fails(one)
            and (one not in self.evidence.seen or self.evidence.seen[one].launches(self.question) < most)
        )

    def _may(self, setting: Setting) -> bool:
        """Whether it may be measured in the next launch."""
        if not self.taken or setting in self.taken:
            return not self.taken
        ran = (one.setting for one in self.evidence.seen.values() if one.values and not one.failed)
        return setting.series == self.taken[0].series and any(
            one.series == setting.series and one.batch >= setting.batch for one in ran
        )

    @cached_property
    def _keeping(self) -> tuple[Seen, ...]:
        return tuple(one for one in self.evidence.measured(self.question) if one.keeps(self.question.limits))

    @cached_property
    def _best(self) -> "_Best | None":
        """The best in the objective among those that keep the limits."""
        question = self.question
        best = max(self._keeping, key=lambda one: question.sign * mean_log(one, question.objective), default=None)
        return _Best(best.setting, mean_log(best, question.objective), best.launches(question)) if best else None


@dataclass(frozen=True, slots=True)
class _Best:
    setting: Setting
    log: float
    launches: int


def _decided(one: Seen, limits: Iterable[Limit], sd_of: Callable[[Metric], float]) -> bool:
    """Whether its launches tell surely enough that it keeps each limit."""
    for limit in limits:
        logs = one.logs(limit.metric)
        seen = Prediction((Normal(1.0, sum(logs) / len(logs), sd_of(limit.metric) / math.sqrt(len(logs))),))
        below = seen.below(math.log(limit.value))
        if not (below >= SURE or below <= 1 - SURE):
            return False
    return True
