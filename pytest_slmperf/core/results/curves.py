"""What the measurements of a sweep come to as curves: knees, frontiers and highest rates, of now or as stored."""

from collections.abc import Collection, Mapping
from typing import NoReturn

from pytest_slmperf.core.curves.frontier import Frontier, frontier
from pytest_slmperf.core.curves.highest_rate import GOODPUT_SHARE, HighestRate, SharesInTime, in_time, untold
from pytest_slmperf.core.curves.knee import DEFAULT_DEFINITION, Curve, Definition, Knee
from pytest_slmperf.core.curves.optimum import Optima, optima
from pytest_slmperf.core.curves.replication import BestReplicas, Choice, Replication
from pytest_slmperf.core.curves.slowdown import Slowdown, slowdown
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.metrics import is_latency, metric
from pytest_slmperf.core.sample import Measurement
from pytest_slmperf.core.sweeps.search import SHARE
from pytest_slmperf.core.sweeps.variant import Setting, Variant, spelled

THROUGHPUT = "output_throughput"
"""What a knee is of, and a frontier of too."""


class Curves:
    """What one model's measurements over the axis come to, on one variant of its engine: of now, or as stored."""

    def __init__(self, name: str, label: str, by_place: Mapping[float, Measurement], gated: Collection[str]) -> None:
        self._name = name
        self._label = label
        """What the cases are called by, as `batch`."""
        self._by_place = by_place
        self._measurements = tuple(by_place.values())
        self._gated = frozenset(gated)
        """What a frontier can be of."""

    def __bool__(self) -> bool:
        """Whether there is anything to compare with."""
        return bool(self._measurements)

    @property
    def knee(self) -> Knee:
        """The knee by 95 % of the maximum."""
        return self.knee_by(DEFAULT_DEFINITION.name)

    def knee_by(self, definition: str, **settings: float) -> Knee:
        """The knee by another definition. Raises SuiteError for an unknown one."""
        throughput, itl = (
            {at: one.samples[name] for at, one in self._by_place.items() if name in one.samples}
            for name in (THROUGHPUT, "median_itl_ms")
        )
        return Curve(throughput, itl, self._name, self._label).knee(Definition(definition, settings))

    @property
    def frontier(self) -> Frontier:
        """The frontier of throughput against the gated latency, the first by its name where several are gated.

        Raises SuiteError where no such pair is gated.
        """
        return self._frontier(*sorted(name for name in self._gated if is_latency(name))[:1])

    def frontier_of(self, *others: str) -> Frontier:
        """The frontier of throughput and one or two other metrics, as `tpot_ms` and `joules_per_output_token`.

        Raises SuiteError for one that isn't gated.
        """
        return self._frontier(*(metric(other).name for other in others))

    def optima(self, first: str, second: str) -> Optima:
        """The best points in two metrics. Raises SuiteError where no case has both."""
        return optima({one.case: one.samples for one in self._measurements}, first, second)

    @property
    def highest_rate(self) -> HighestRate:
        """The highest rate, or concurrency, at which 99 % of the requests meet the sweep's Slo."""
        return self.highest_rate_within(SHARE)

    def highest_rate_within(self, share: float) -> HighestRate:
        """The same for another share of the requests."""
        launches = {at: in_time(one) for at, one in self._by_place.items()}
        return SharesInTime(launches, self._name, self._label).highest(share)

    @property
    def share_in_time(self) -> bool:
        """Whether any place has the share that met the Slo: where none has, nothing says that there was one."""
        return any(GOODPUT_SHARE in one.samples for one in self._by_place.values())

    @property
    def untold_shares(self) -> str:
        """Why the share that met the Slo isn't known of every launch; empty where it is."""
        return next((f"{one.case}: {why}" for one in self._by_place.values() if (why := untold(one))), "")

    @property
    def best_replicas(self) -> BestReplicas:
        """The replica count with the largest throughput, each at its best place."""
        return self.best_replicas_by()

    def best_replicas_by(
        self,
        name: str = THROUGHPUT,
        *,
        within: float = 0.0,  # noqa: ARG002 - of AllCurves
        at: float | None = None,  # noqa: ARG002 - of AllCurves
    ) -> BestReplicas:
        """Raises SuiteError: this is one variant of an engine."""
        raise SuiteError(f"{self._name}: a best replica count by {name} is of several: sweep replicas=[1, 2]")

    def slowdown(
        self,
        beside: Setting,
        *,
        at: float | None = None,  # noqa: ARG002 - of AllCurves
        name: str = THROUGHPUT,  # noqa: ARG002 - of AllCurves
    ) -> Slowdown:
        """Raises SuiteError: this is one variant of an engine."""
        raise SuiteError(f"{self._name}: a slowdown beside {spelled(beside)} is of two: sweep beside=[None, …]")

    def _frontier(self, *others: str) -> Frontier:
        if not others or not self._gated.issuperset((THROUGHPUT, *others)):
            gate = ", ".join(f"'{name}': 0.03" for name in (THROUGHPUT, *(others or ("tpot_ms",))))
            raise SuiteError(
                f"{self._name}: a frontier is of throughput against a latency, or another metric: gate both, as in "
                f"gate={{{gate}}}"
            )
        measured = {one.case: one.samples for one in self._measurements}
        return frontier(measured, (THROUGHPUT, *others), self._name)


class AllCurves(Curves):
    """The same on several variants: a frontier of them all and the best replica count; a knee is of each by itself."""

    def __init__(
        self,
        name: str,
        label: str,
        by_variant: Mapping[Variant, Mapping[float, Measurement]],
        gated: Collection[str],
        *,
        seed: int = 0,
    ) -> None:
        """`seed` is for what is drawn of them: that of another side must be another one."""
        super().__init__(name, label, {}, gated)
        self._seed = seed
        self._by_variant = by_variant
        self._measurements = tuple(one for by_place in by_variant.values() for one in by_place.values())

    def best_replicas_by(self, name: str = THROUGHPUT, *, within: float = 0.0, at: float | None = None) -> BestReplicas:
        """The best replica count by another metric, the smallest `within` a fraction of it, or the best at one place.

        Raises SuiteError where the variants differ in more than their replicas.
        """
        meaning = metric(name)
        others = {tuple(one for one in variant.settings if one[0] != "replicas") for variant in self._by_variant}
        if len(others) > 1 or not all("replicas" in variant.coordinates for variant in self._by_variant):
            raise SuiteError(
                f"{self._name}: a best replica count is of variants that differ in replicas alone: name the rest, as "
                "in result.of('opt-125m', dtype='int8')"
            )
        samples = {
            variant.replicas: {
                at: one.samples[meaning.name] for at, one in by_place.items() if meaning.name in one.samples
            }
            for variant, by_place in self._by_variant.items()
        }
        return Replication(samples, meaning, self._name, self._label).best(Choice(within, at))

    def slowdown(self, beside: Setting, *, at: float | None = None, name: str = THROUGHPUT) -> Slowdown:
        """How many times as slow the model is beside these as alone, at one place of the sweep.

        Raises SuiteError where the variants differ in more than who is beside, or one of the two was not swept.
        """
        meaning, called = metric(name), spelled(beside)
        others = {tuple(one for one in variant.settings if one[0] != "beside") for variant in self._by_variant}
        by_beside = {variant.coordinates.get("beside"): places for variant, places in self._by_variant.items()}
        if self._by_variant and (len(others) > 1 or None in by_beside):
            raise SuiteError(
                f"{self._name}: a slowdown is of variants that differ in who is beside alone: sweep beside=[None, …], "
                "and name the rest, as in result.of('opt-125m', dtype='int8')"
            )
        places = sorted({at for by_place in by_beside.values() for at in by_place})
        if at is None and len(places) > 1:
            raise SuiteError(f"{self._name}: a slowdown is of one place: add at=…, one of {places}")
        place = at if at is not None else next(iter(places), 0.0)
        found = {one: by_place.get(place) for one, by_place in by_beside.items()}
        samples = [one.samples.get(meaning.name) if (one := found.get(who)) else None for who in ("none", called)]
        named = Slowdown(meaning.name, called, place, case=self._name, label=self._label)
        return slowdown(samples[0], samples[1], meaning, named, seed=self._seed)

    def knee_by(self, definition: str, **_settings: float) -> NoReturn:
        """Raises SuiteError: each variant has its own."""
        raise SuiteError(f"{self._name}: each variant of the engine has its own knee by {definition}")

    def highest_rate_within(self, share: float) -> NoReturn:
        """As `knee_by`."""
        raise SuiteError(f"{self._name}: each variant of the engine has its own highest rate within {share:.0%}")
