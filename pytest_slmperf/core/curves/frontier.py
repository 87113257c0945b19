"""The frontier of a sweep: which points are worth serving at, since no other beats them in every metric."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist

from pytest_slmperf.core.curves.frontier_change import EQUAL, FrontierChange, change_of, volume_ratio
from pytest_slmperf.core.curves.pareto import MOST_METRICS, hypervolume, pareto
from pytest_slmperf.core.curves.resampling import RESAMPLES
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.gate import LIKELY, SURE, Design, Policy
from pytest_slmperf.core.judging import even_pace
from pytest_slmperf.core.judging.even_pace import Arm
from pytest_slmperf.core.metrics import CORE_PACE, Metric, metric
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import Status, Verdict, interval, percent

_NORMAL = NormalDist()


@dataclass(frozen=True)
class FrontierPolicy:
    """How a frontier is gated: each stored point by the tolerances of its own case."""

    tolerances: Mapping[str, Mapping[str, float]]
    """The fractional loss that is allowed, by case and metric."""
    design: Design = "stored"
    confirming: bool = False
    """What is likely is enough: the launches confirm a verdict that was sure."""

    def of(self, case: str, metrics: Sequence[Metric]) -> tuple[float, ...]:
        """The tolerances of a case. Raises SuiteError where it is not gated in every metric."""
        allowed = self.tolerances.get(case, {})
        missing = [meaning.name for meaning in metrics if meaning.name not in allowed]
        if missing:
            raise SuiteError(
                f"the frontier is of {', '.join(missing)} too, and {case} has no tolerance for it: gate it"
            )
        return tuple(allowed[meaning.name] for meaning in metrics)

    def sure(self, comparisons: int) -> float:
        """The error level of one comparison among so many that make one verdict (Bonferroni)."""
        return (LIKELY if self.confirming else SURE) / comparisons

    def judge(self, metric: Metric, baseline: Arm, now: Arm, tolerance: float) -> Verdict:
        """One comparison, with the whole level at one look: nobody looked at a frontier before."""
        single = Policy(
            tolerance,
            max_launches=len(now[0].launches),
            design=self.design,
            single_look=True,
            confirming=self.confirming,
        )
        return even_pace.judge(metric, baseline, now, single)


@dataclass(frozen=True)
class _Reached:
    """Whether a stored point is reached, and by how much it isn't."""

    status: Status
    said: str = ""
    lost: tuple[str, ...] = ()
    """The metrics that it surely lost."""


@dataclass(frozen=True)
class Frontier:
    """The non-dominated cases of a sweep in two or more metrics, with the samples of all its cases."""

    metrics: tuple[Metric, ...]
    points: Mapping[str, tuple[float, ...]]
    """Medians of the non-dominated cases, in the metrics' order and units, best first in the first metric."""
    samples: Mapping[str, tuple[Sample, ...]]
    """Samples of every measured case, dominated or not: another case may reach what one has lost."""
    case: str = ""
    paces: Mapping[str, Sample] = field(default_factory=dict)
    """Times of the cores' piece of work in the launches of a case, where they are known."""
    measured: bool = field(default=False, compare=False)
    """Whether it is what a run measured, and no stored one that the run can be compared with."""

    def __str__(self) -> str:
        shown = ", ".join(name.removeprefix(f"{self.case}/") for name in self.points)
        return f"{self.name}: {shown or 'no point'}"

    def change_from(
        self, stored: "Frontier", *, equal: float = EQUAL, seed: int = 0, resamples: int = RESAMPLES
    ) -> FrontierChange:
        """Which points are dominated now, by how much, and how much of the stored volume is left.

        Values that differ by no more than the fraction `equal` are alike. Raises SuiteError for two kinds of frontier,
        and where one of them has no point.
        """
        if self._unlike(stored):
            raise SuiteError(self._unlike(stored))
        if not (self.points and stored.points):
            raise SuiteError(f"{self.case}: a frontier without a point changed in nothing that could be told")
        sides = [(side.samples, tuple(side.points)) for side in (self, stored)]
        return change_of(self.metrics, *sides, equal=equal, seed=seed, resamples=resamples)

    def unchanged_from(self, baseline: "Frontier", policy: FrontierPolicy) -> Verdict:
        """Whether every point of the baseline's frontier is still reached.

        A stored point is reached where its own case, or else any other, passes in every metric by the tolerances of the
        point's own case. It is lost where no case reaches it and its own regressed in some metric, surely enough for
        the number of comparisons that a frontier makes: that is `regressed`.
        """
        if unlike := self._unlike(baseline):
            return self._verdict(Status.INCOMPARABLE, unlike)
        if not baseline.points:
            return self._verdict(Status.NO_BASELINE, "the baseline's frontier has no point")
        judged = {name: self._reached(baseline, policy, name) for name in baseline.points}
        reached = sum(one.status.passes for one in judged.values())
        volume = volume_ratio(self.metrics, self.samples, baseline.samples) if self.samples else None
        measured = f"{reached} of {len(judged)} points reached" + (f", volume {volume.as_change}" if volume else "")
        return replace(self._of_points(judged, policy), measured=measured)

    def _of_points(self, judged: "Mapping[str, _Reached]", policy: FrontierPolicy) -> Verdict:
        """The worst that became of a stored point."""
        for status, said in _SAID.items():
            which = {name: one for name, one in judged.items() if one.status is status}
            if which:
                # What confirms a loss repeats no figures: those of the first launches stand before it.
                bare = policy.confirming and status is Status.REGRESSED
                points = {name.removeprefix(f"{self.case}/"): one.said for name, one in which.items()}
                named = "; ".join(name if bare else f"{name} ({said})" for name, said in points.items())
                lost = tuple(f"{name} {of}" for name, one in which.items() for of in one.lost)
                reason = f"{len(which)} of {len(judged)} stored points {said}: {named}"
                return replace(self._verdict(status, reason), lost=lost)
        improved = [name for name, one in judged.items() if one.status is Status.IMPROVED]
        if improved:
            return self._verdict(Status.IMPROVED, f"every stored point is reached, surpassed: {', '.join(improved)}")
        return self._verdict(Status.UNCHANGED, f"all {len(judged)} stored points are reached")

    def hypervolume(self, reference: Sequence[float]) -> float:
        """`hypervolume` of the points, from a reference in the metrics' own units."""
        return hypervolume(tuple(self.points.values()), [one.higher_is_better for one in self.metrics], reference)

    @property
    def name(self) -> str:
        """`frontier of output_throughput and median_itl_ms`."""
        *others, last = (meaning.name for meaning in self.metrics)
        return f"frontier of {', '.join(others)} and {last}"

    def _unlike(self, other: "Frontier") -> str:
        """Why the two can't be compared; empty where they can."""
        alike = [meaning.name for meaning in self.metrics] == [meaning.name for meaning in other.metrics]
        return "" if alike else f"two kinds of frontier: {other.name} and {self.name}"

    def _verdict(self, status: Status, reason: str) -> Verdict:
        return Verdict(status, self.name, "", True, self.case, reason=reason)  # noqa: FBT003 - a larger frontier is better

    def _reached(self, baseline: "Frontier", policy: FrontierPolicy, name: str) -> "_Reached":
        """What became of a stored point."""
        stored, tolerances = baseline.samples[name], policy.of(name, self.metrics)
        # Arms side by side share their pace, and drift together.
        was = baseline.paces.get(name) if policy.design == "stored" else None

        def judged(case: str) -> list[Verdict]:
            now = self.paces.get(case)
            four = zip(self.metrics, stored, self.samples[case], tolerances, strict=True)
            return [
                policy.judge(meaning, (one, was), (other, now), tolerance) for meaning, one, other, tolerance in four
            ]

        own = judged(name) if name in self.samples else None
        if own and all(verdict.passed for verdict in own):
            better = any(verdict.status is Status.IMPROVED for verdict in own)
            return _Reached(Status.IMPROVED if better else Status.UNCHANGED)
        for other, samples in self.samples.items():
            close = other != name and self._close(stored, samples, tolerances)
            if close and all(verdict.passed for verdict in judged(other)):
                return _Reached(Status.UNCHANGED)
        if own is None:
            return _Reached(Status.UNMEASURED, "not measured")
        level = policy.sure(len(baseline.points) * len(self.metrics))
        lost = [verdict for verdict in own if _surely_regressed(verdict, level)]
        if lost:
            by_how_much = ", ".join(map(_by_how_much, lost))
            return _Reached(Status.REGRESSED, by_how_much, tuple(verdict.metric for verdict in lost))
        doubtful = [verdict for verdict in own if not verdict.passed]
        return _Reached(Status.INCONCLUSIVE, ", ".join(map(_by_how_much, doubtful)))

    def _close(self, stored: Sequence[Sample], samples: Sequence[Sample], tolerances: Sequence[float]) -> bool:
        """Whether the medians alone allow that these samples reach the stored ones: cheaper than the gate."""
        for meaning, before, now, tolerance in zip(self.metrics, stored, samples, tolerances, strict=True):
            ratio = now.median / before.median
            if (1 - ratio if meaning.higher_is_better else ratio - 1) > tolerance:
                return False
        return True


_SAID = {
    Status.REGRESSED: "are no longer reached by any case",
    Status.UNMEASURED: "were not measured",
    Status.INCONCLUSIVE: "can't be told",
}


def frontier(cases: Mapping[str, Mapping[str, Sample]], metrics: Sequence[str], case: str = "") -> Frontier:
    """The frontier of the cases that have a sample of every metric; `metrics` are names, two or three."""
    meanings = tuple(metric(name) for name in metrics)
    if not 2 <= len(meanings) == len({meaning.name for meaning in meanings}) <= MOST_METRICS:
        raise SuiteError(f"a frontier is of two or three different metrics, not {', '.join(metrics) or 'none'}")
    samples = {
        name: tuple(measured[meaning.name] for meaning in meanings)
        for name, measured in cases.items()
        if all(meaning.name in measured for meaning in meanings)
    }
    names = list(samples)
    values = [tuple(sample.median for sample in samples[name]) for name in names]
    best = [(values[place], names[place]) for place in pareto(values, [one.higher_is_better for one in meanings])]
    best.sort(key=lambda entry: entry[0][0], reverse=meanings[0].higher_is_better)
    paces = {name: cases[name][CORE_PACE] for name in samples if CORE_PACE in cases[name]}
    return Frontier(meanings, {name: point for point, name in best}, samples, case, paces)


def _surely_regressed(verdict: Verdict, level: float) -> bool:
    """Whether it regressed, and that there is a loss at all is sure at this level."""
    effect = verdict.effect
    if verdict.status is not Status.REGRESSED or effect is None or not 0 < effect.low <= effect.high < math.inf:
        return False
    loss = -math.log(effect.ratio) if verdict.higher_is_better else math.log(effect.ratio)
    deviation = math.log(effect.high / effect.low) / (2 * _NORMAL.inv_cdf(0.975))
    return loss > -_NORMAL.inv_cdf(level) * deviation


def _by_how_much(verdict: Verdict) -> str:
    effect, tolerance = verdict.effect, verdict.tolerance
    if effect is None or tolerance is None:
        return f"{verdict.metric} {verdict.status}"
    return f"{verdict.metric} {interval(effect)}, tolerance {percent(tolerance)}"
