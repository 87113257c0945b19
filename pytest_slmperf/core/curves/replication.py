"""How many replicas of one engine are best, by a named definition, and whether replication pays at all.

Throughput over the replica count is flat where the device is full, so that the best count is often one of several that
no launch tells apart: they are named, and a count that changed is a judgement, as a knee that moved is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pytest_slmperf.core.curves.resampling import (
    FEWEST_LAUNCHES,
    Estimate,
    covering,
    estimate,
    fewest,
    log_medians,
    moved,
    undecided,
)
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.gate import margin_of
from pytest_slmperf.core.metrics import Metric
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import Status, Verdict, percent

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Choice:
    """By what the best replica count is chosen. Raises SuiteError for a fraction that makes no sense."""

    within: float = 0.0
    """The smallest count that is at most this fraction worse than the best; 0 for the best itself."""
    at: float | None = None
    """The place of the sweep, as its batch size, at which every count is looked at; None: each at its own best."""

    def __post_init__(self) -> None:
        if not 0 <= self.within < 1:
            raise SuiteError(f"within={self.within!r}; it is a fraction from 0 up to, but not, 1")

    def label(self, metric: Metric, place: str) -> str:
        """`best(ttft_ms, at batch 64)`, `smallest_within(output_throughput, 5.0%, each at its best batch)`."""
        where = f"each at its best {place}" if self.at is None else f"at {place} {self.at:g}"
        if self.within:
            return f"smallest_within({metric.name}, {percent(self.within)}, {where})"
        return f"best({metric.name}, {where})"


BEST = Choice()


@dataclass(frozen=True)
class BestReplicas:
    """The best replica count by a named definition, with what resampled launches say of it."""

    definition: str
    replicas: int | None
    """By the medians; None where nothing was to choose from, and `reason` says why."""
    interval: tuple[int, int] | None
    """Covers 99 % of the best counts of resampled launches; None where there are too few launches."""
    places: Mapping[int, tuple[float, ...]]
    """The measured places of the sweep, as its batch sizes, by replica count, the fewest replicas first."""
    shares: Mapping[int, float] = field(default_factory=dict)
    """Share of resampled launches in which each count is the best."""
    undecided: tuple[int, ...] = ()
    """The counts that can't be told from the best, or that may be within the fraction of it that was asked for. The
    true best is among them in 99 % of measurements.
    """
    at: float | None = None
    """The place at which it is the best."""
    against_one: Estimate | None = None
    """Ratio of the metric to that of one replica at the place that is best for that; None where one wasn't measured.

    The interval knows nothing of the choice: the best of several that are alike looks better than it is.
    """
    one_at: float | None = None
    """The place at which one replica is the best."""
    metric: str = ""
    seed: int = 0
    reason: str = ""
    case: str = ""
    label: str = "batch"
    """What the places are called by."""
    measured: bool = field(default=False, compare=False)
    """Whether it is what a run measured, and no stored one that the run can be compared with."""

    def __str__(self) -> str:
        if self.replicas is None:
            return f"no replica count by {self.definition}: {self.reason}"
        return f"{self.place} by {self.definition}; {self.answer}"

    @property
    def place(self) -> str:
        """`2 replicas (2…4)`, or `no replica count`."""
        if self.replicas is None:
            return "no replica count"
        between = f"{self.interval[0]}…{self.interval[1]}" if self.interval else "not bounded"
        return f"{self.replicas} replica{'s' * (self.replicas != 1)} ({between})"

    @property
    def counts(self) -> tuple[int, ...]:
        """The replica counts of the sweep."""
        return tuple(self.places)

    @property
    def pays(self) -> bool | None:
        """Whether more than one replica is the best; None where that can't be told, or one was not measured.

        By a Choice with `within`, it pays where it is worth more than that fraction.
        """
        if self.interval is None or 1 not in self.places:
            return None
        if self.interval[0] > 1:
            return True
        return False if self.interval == (1, 1) else None

    @property
    def answer(self) -> str:
        """`replication pays: output_throughput +33.7% (+31.2%…+36.0%) over one, batch 256 against 768`."""
        said = {True: "replication pays", False: "replication does not pay", None: "whether replication pays is open"}
        if self.against_one is None or self.replicas == 1:
            return said[self.pays]
        where = f", {self.label} {self.at:g} against {self.one_at:g}" if self.at != self.one_at else ""
        return f"{said[self.pays]}: {self.metric} {self.against_one.as_change} over one{where}"

    def unchanged_from(self, baseline: "BestReplicas") -> Verdict:
        """Whether the best replica count is what it was, by the rule of a knee: see `resampling.moved`.

        `regressed` is a count that changed in either direction, `incomparable` one by another definition or of another
        sweep. What can't be told is `inconclusive`.
        """
        status, reason, way_out = self._compared(baseline)
        return Verdict(
            status,
            "best_replicas",
            "replicas",
            higher_is_better=True,
            case=self.case,
            reason=reason,
            way_out=way_out,
            measured=self.place if self.replicas is None else f"{self.place}; {self.answer}",
            lost=self._ways(baseline) if status is Status.REGRESSED else (),
        )

    def _compared(self, baseline: "BestReplicas") -> tuple[Status, str, str]:
        both = f"{baseline} → {self}"
        if self.definition != baseline.definition:
            return Status.INCOMPARABLE, f"two definitions: {both}", "Compare replica counts by one definition."
        if dict(self.places) != dict(baseline.places):
            was, now = (_spelled(one.places, self.label) for one in (baseline, self))
            return Status.INCOMPARABLE, f"two sweeps: {was} → {now}", f"Sweep {was}."
        if self.interval is None or baseline.interval is None:
            return Status.INCONCLUSIVE, f"nothing to compare: {both}", ""
        changed = moved(self.counts, baseline, self)
        if changed is None:
            return Status.INCONCLUSIVE, f"several counts can't be told apart: {both}", _MORE
        if changed:
            return Status.REGRESSED, f"the best replica count changed: {both}", ""
        return Status.UNCHANGED, both, ""

    def _ways(self, baseline: "BestReplicas") -> tuple[str, ...]:
        """Where it went: fresh launches must have found the same."""
        more = self.interval and baseline.interval and self.interval[0] > baseline.interval[1]
        return ("up",) if more else ("down",)


_MORE = "What decides it: more launches, or the smallest count within a fraction of the best."


@dataclass(frozen=True)
class Replication:
    """Samples of one metric of one model, by replica count and place of the sweep."""

    samples: Mapping[int, Mapping[float, Sample]]
    metric: Metric
    case: str = ""
    """The sweep and the model, `replicas/opt-125m`."""
    label: str = "batch"
    """What the places are called by."""

    def best(self, choice: Choice = BEST, *, seed: int = 0, resamples: int = RESAMPLES) -> BestReplicas:
        """The best count of the medians, and of `resamples` draws of launches.

        Each count has launches of its own; one of them measured all its places, so it is drawn whole. Of counts that
        are equal the smallest is the best. A count without a sample, or without one at the place that was asked for, is
        left out. Raises SuiteError for what is no replica count.
        """
        wrong = [count for count in self.samples if type(count) is not int or count < 1]
        if wrong:
            raise SuiteError(f"replica counts are whole numbers above 0, not {wrong[0]!r}")
        by_count = {
            count: {at: by_place[at] for at in sorted(by_place) if choice.at in (None, at)}
            for count, by_place in sorted(self.samples.items())
        }
        by_count = {count: by_place for count, by_place in by_count.items() if by_place}
        nothing = BestReplicas(
            choice.label(self.metric, self.label),
            replicas=None,
            interval=None,
            places={count: tuple(by_place) for count, by_place in by_count.items()},
            metric=self.metric.name,
            seed=seed,
            case=self.case,
            label=self.label,
        )
        if len(by_count) < 2:
            only = f"only replicas={next(iter(by_count))} was measured" if by_count else "nothing was measured"
            return replace(nothing, reason=f"{only}: sweep two counts or more")
        return self._chosen(by_count, choice, nothing, resamples)

    def _chosen(
        self, by_count: Mapping[int, Mapping[float, Sample]], choice: Choice, found: BestReplicas, resamples: int
    ) -> BestReplicas:
        import numpy as np  # noqa: PLC0415 - importing a suite must cost nothing

        sign = 1.0 if self.metric.higher_is_better else -1.0
        margin = margin_of(choice.within, higher_is_better=self.metric.higher_is_better)
        counts, groups = found.counts, [list(by_place.values()) for by_place in by_count.values()]
        medians = [[sign * math.log(sample.median) for sample in group] for group in groups]
        best_at = [
            places[group.index(max(group))] for places, group in zip(found.places.values(), medians, strict=True)
        ]
        values = [max(group) for group in medians]
        winner = next(at for at, value in enumerate(values) if value >= max(values) - margin)

        draws = sign * log_medians(groups, seed=found.seed, resamples=resamples)
        ends = np.cumsum([len(group) for group in groups])[:-1]
        drawn = np.stack([part.max(axis=1) for part in np.split(draws, ends, axis=1)], axis=1)
        won = (drawn >= drawn.max(axis=1, keepdims=True) - margin).argmax(axis=1).tolist()
        launches = min(map(fewest, groups))
        among = undecided(drawn, values, launches=launches, margin=margin)
        one = counts.index(1) if 1 in counts else None
        return replace(
            found,
            replicas=counts[winner],
            interval=covering([counts[at] for at in won], resamples) if launches >= FEWEST_LAUNCHES else None,
            shares={count: won.count(at) / resamples for at, count in enumerate(counts) if at in won},
            undecided=tuple(counts[at] for at in among),
            at=best_at[winner],
            one_at=None if one is None else best_at[one],
            against_one=None
            if one is None
            else estimate(
                math.exp(sign * (values[winner] - values[one])),
                np.exp(sign * (drawn[:, winner] - drawn[:, one])),
                launches=launches,
            ),
        )


def _spelled(places: Mapping[int, tuple[float, ...]], label: str) -> str:
    """`replicas=1, 2 at batch 32, 64; 4 at batch 32`: counts that were measured at the same places share a part."""
    counts: dict[tuple[float, ...], list[int]] = {}
    for count, at in places.items():
        counts.setdefault(at, []).append(count)
    parts = [
        f"{', '.join(map(str, many))} at {label} {', '.join(map('{:g}'.format, at))}" for at, many in counts.items()
    ]
    return f"replicas={'; '.join(parts)}"
