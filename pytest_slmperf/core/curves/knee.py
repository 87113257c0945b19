"""The knee of a sweep: past which batch, concurrency or rate more buys too little.

It moves by a factor of 2 to 5 with its definition, so every knee carries the name of the one it was found by. What is
not decided by the curve (a single point, a curve that still rises) is a reason, never a number.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_slmperf.core.curves.resampling import (
    COVERAGE,
    FEWEST_LAUNCHES,
    RESAMPLES,
    covering,
    fewest,
    log_medians,
    moved,
)
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.sample import BadSample, Sample
from pytest_slmperf.core.verdict import Status, Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Column = NDArray[np.float64]

TWO_SEGMENT_POINTS = 4
KNEEDLE_POINTS = 3
_ROUNDING = 1e-9
"""Two slopes that differ by less are those of one straight line."""


@dataclass(frozen=True, slots=True)
class NoKnee:
    """Why a curve has no knee by some definition."""

    reason: str
    beyond: bool = False
    """Whether there may be one past the largest place of the sweep."""


Found = float | NoKnee


def bca(
    batch: Sequence[float],
    throughput: Sequence[float],
    itl: Sequence[float],
    *,
    epsilon: float = 0.1,
    k: float = 2.0,
    reference: int = 32,
) -> Found:
    """The largest batch that scales with more than `epsilon` of perfection, within `k` times a reference's ITL.

    The batching configuration advisor of Mind the Memory Gap (arXiv 2503.08311): max{B : T(B) / (B T(1)) > epsilon and
    L(B) <= k L(reference)}, T total tokens per second, L the inter-token latency in any unit. Needs batch 1 and the
    reference in the sweep.
    """
    batch, (throughput, itl) = _curve(batch, throughput, itl)
    missing = [size for size in (1, reference) if size not in batch]
    if missing:
        return NoKnee(f"the definition needs {' and '.join(map(str, missing))} in the sweep")
    single, limit = throughput[batch.index(1)], k * itl[batch.index(reference)]
    points = zip(batch, throughput, itl, strict=True)
    advised = [size for size, rate, latency in points if rate / (size * single) > epsilon and latency <= limit]
    if not advised:
        return NoKnee("no place keeps both limits")
    if advised[-1] == batch[-1]:
        return NoKnee(f"both limits still hold at {batch[-1]}, the largest of the sweep", beyond=True)
    return advised[-1]


def share_of_maximum(batch: Sequence[float], throughput: Sequence[float], *, share: float = 0.95) -> Found:
    """The smallest batch with at least this share of the sweep's largest throughput."""
    if not 0 < share < 1:
        raise SuiteError(f"share_of_maximum: share={share!r}; it lies between 0 and 1")
    batch, (throughput,) = _curve(batch, throughput)
    if len(batch) < 2:
        return _too_few(batch, 2)
    wanted = share * max(throughput)
    found = next(size for size, rate in zip(batch, throughput, strict=True) if rate >= wanted)
    if found == batch[-1]:
        return NoKnee(f"the throughput still rises at {batch[-1]}, the largest of the sweep", beyond=True)
    return found


def kneedle(batch: Sequence[float], throughput: Sequence[float], *, sensitivity: float = 1.0) -> Found:
    """The first knee of throughput over log2(batch) by Kneedle, offline, for concave rising curves, without smoothing.

    Both axes are scaled to 0…1; a local maximum of (y - x) is a knee once a later difference falls below it by
    `sensitivity` mean steps of x, before the next local maximum (Satopaa, Albrecht, Irwin and Raghavan, Finding a
    "Kneedle" in a Haystack, ICDCSW 2011).
    """
    batch, (throughput,) = _curve(batch, throughput)
    if len(batch) < KNEEDLE_POINTS:
        return _too_few(batch, KNEEDLE_POINTS)
    lowest, highest = min(throughput), max(throughput)
    if highest == lowest:
        return NoKnee("the throughput is the same everywhere")
    width = math.log2(batch[-1] / batch[0])
    difference = [
        (rate - lowest) / (highest - lowest) - math.log2(size / batch[0]) / width
        for size, rate in zip(batch, throughput, strict=True)
    ]
    inner = range(1, len(batch) - 1)
    peaks = [i for i in inner if difference[i - 1] < difference[i] >= difference[i + 1]]
    step = sensitivity / (len(batch) - 1)
    for peak, following in pairwise([*peaks, len(batch)]):
        if any(later < difference[peak] - step for later in difference[peak + 1 : following]):
            return batch[peak]
    return NoKnee("the curve does not bend far enough below its steepest rise")


def two_segment(batch: Sequence[float], throughput: Sequence[float]) -> Found:
    """The batch where two straight lines, fitted by least squares over log2(batch), meet with the smallest error.

    The lines share the measured point at the knee, and the second must rise less than the first.
    """
    import numpy as np  # noqa: PLC0415 - importing a suite must cost nothing

    batch, (throughput,) = _curve(batch, throughput)
    if len(batch) < TWO_SEGMENT_POINTS:
        return _too_few(batch, TWO_SEGMENT_POINTS)
    x, y = np.log2(batch), np.array(throughput)
    # Of the lines through the first points, up to each, and through the last ones, from each on.
    left, before = _lines(x, y)
    right, after = (column[::-1] for column in _lines(x[::-1], y[::-1]))
    best = 1 + int((left + right)[1:-1].argmin())
    bends = before[best] - after[best] > _ROUNDING * max(abs(before[best]), abs(after[best]))
    return batch[best] if bends else NoKnee("the throughput rises as fast past the best break, or faster")


_DEFINITIONS: Mapping[str, Callable[..., Found]] = {
    "bca": bca,
    "share_of_maximum": share_of_maximum,
    "kneedle": kneedle,
    "two_segment": two_segment,
}


@dataclass(frozen=True)
class Definition:
    """A definition of the knee by its name, with the settings that differ from its defaults."""

    name: str
    settings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in _DEFINITIONS:
            raise SuiteError(f"unknown definition of a knee {self.name!r}; known are {', '.join(_DEFINITIONS)}")
        known = (_DEFINITIONS[self.name].__kwdefaults__ or {}).keys()
        for setting in self.settings:
            if setting not in known:
                raise SuiteError(f"{self.name} has no setting {setting!r}; it has {', '.join(known) or 'none'}")

    @property
    def label(self) -> str:
        """`bca(epsilon=0.1, k=2, reference=32)`: every setting, the defaults too."""
        settings = {**(_DEFINITIONS[self.name].__kwdefaults__ or {}), **self.settings}
        return f"{self.name}({', '.join(f'{name}={value:g}' for name, value in settings.items())})"

    def of(self, batch: Sequence[float], throughput: Sequence[float], itl: Sequence[float] | None = None) -> Found:
        """The knee of one curve. Raises SuiteError where the definition needs the ITL and there is none."""
        if self.name != "bca":
            return _DEFINITIONS[self.name](batch, throughput, **self.settings)
        if itl is None:
            raise SuiteError("bca needs the inter-token latency everywhere: gate or declare itl_ms")
        return _DEFINITIONS[self.name](batch, throughput, itl, **self.settings)


DEFAULT_DEFINITION = Definition("share_of_maximum")
"""Of a bare `knee`: the smallest batch with 95 % of the largest throughput."""


@dataclass(frozen=True)
class Knee:
    """The knee of a sweep by a named definition, with what resampled launches say of it."""

    definition: str
    batch: float | None
    """Or the concurrency, or the rate. None where the curve has no knee; `reason` says why."""
    interval: tuple[float, float] | None
    """Covers 99 % of the knees of resampled launches; None where more than 1 % of those have none, or launches
    are too few."""
    sizes: tuple[float, ...]
    """The places of the sweep, as its batch sizes: a knee is one of them."""
    shares: Mapping[float, float]
    """Share of the resampled curves with their knee at each place; what is missing to 1 had none."""
    seed: int
    reason: str = ""
    case: str = ""
    beyond: float = 0.0
    """Share of the resampled curves whose knee may lie past the largest place."""
    label: str = "batch"
    """What the places are called by."""
    few: bool = False
    """Whether there are too few launches to tell what others might have given."""
    measured: bool = field(default=False, compare=False)
    """Whether it is what a run measured, and no stored one that the run can be compared with."""

    def __str__(self) -> str:
        if self.batch is None:
            return f"no knee by {self.definition}: {self.reason}"
        return f"{self.place} by {self.definition}"

    @property
    def place(self) -> str:
        """`batch 8 (8…16)`, or `no knee`."""
        if self.batch is None:
            return "no knee"
        between = f"{self.interval[0]}…{self.interval[1]}" if self.interval else "not bounded"
        return f"{self.label} {self.batch} ({between})"

    def unchanged_from(self, baseline: "Knee") -> Verdict:
        """Whether the knee is where it was.

        `regressed` (it moved, in either direction) only where the two intervals have no place in common, or where
        the sweep has no knee any more. `unchanged` where 95 % of the resampled knees lie within the baseline's
        interval, and that is one place or two neighbouring ones: a baseline on the edge between two is never known
        better; also where both lie past the largest. Everything else is `inconclusive`; knees by
        other definitions or of other sweeps are `incomparable`.
        """
        status, reason, way_out = self._compared(baseline)
        ways = self._ways(baseline) if status is Status.REGRESSED else ()
        return Verdict(
            status,
            "knee",
            "requests",
            higher_is_better=True,
            case=self.case,
            reason=reason,
            way_out=way_out,
            measured=self.place,
            lost=ways,
        )

    def _compared(self, baseline: "Knee") -> tuple[Status, str, str]:
        both = f"{baseline} → {self}"
        if self.definition != baseline.definition:
            return Status.INCOMPARABLE, f"two definitions: {both}", "Compare knees by one definition."
        if self.sizes != baseline.sizes:
            sizes = [", ".join(map(str, knee.sizes)) for knee in (baseline, self)]
            return Status.INCOMPARABLE, f"two sweeps: {sizes[0]} → {sizes[1]}", f"Sweep {baseline.label} {sizes[0]}."
        moved = self._moved_from(baseline)
        if moved is None:
            both_found = self.interval and baseline.interval
            doubt = "it lies on the edge between two places" if both_found else "nothing to compare"
            if self.few or baseline.few:
                doubt = "too few launches"
            return Status.INCONCLUSIVE, f"{doubt}: {both}", _MORE
        if moved:
            return Status.REGRESSED, f"the knee moved: {both}", ""
        return Status.UNCHANGED, both, ""

    def _moved_from(self, baseline: "Knee") -> bool | None:
        """Whether it moved, or None where that can't be told."""
        if self.few or baseline.few:
            return None
        past, was_past = self.beyond >= COVERAGE, baseline.beyond >= COVERAGE
        if was_past and (past or self.interval):
            return not past
        return moved(self.sizes, baseline, self)

    def _ways(self, baseline: "Knee") -> tuple[str, ...]:
        """Where it moved to: a knee that is gone may lie past the largest, which is upward."""
        if self.interval is None:
            return ("gone", "up") if self.beyond >= COVERAGE else ("gone",)
        upward = baseline.interval is not None and self.interval[0] > baseline.interval[1]
        return ("up",) if upward else ("down",)


_MORE = "What decides it: more launches, places on both sides of the knee, or another definition."


@dataclass(frozen=True)
class Curve:
    """The samples of one model's sweep over the batch size, the concurrency or the request rate."""

    throughput: Mapping[float, Sample]
    itl: Mapping[float, Sample] = field(default_factory=dict)
    """Inter-token latency at the same places; may be empty for definitions that don't look at it."""
    case: str = ""
    """The sweep and the model, `decode/opt-125m`."""
    label: str = "batch"
    """What the places are called by."""

    def knee(
        self,
        definition: Definition = DEFAULT_DEFINITION,
        *,
        seed: int = 0,
        resamples: int = RESAMPLES,
    ) -> Knee:
        """The knee of the median curve, and of `resamples` curves of resampled launches.

        One launch measured every place, so launches are drawn whole where all have equally many: see `log_medians`.
        """
        import numpy as np  # noqa: PLC0415 - importing a suite must cost nothing

        sizes = tuple(sorted(self.throughput))
        if not sizes:
            nothing = "nothing was measured"
            return Knee(definition.label, None, None, (), {}, seed, nothing, self.case, label=self.label)
        if definition.name == "bca" and set(self.itl) != set(sizes):
            raise SuiteError("bca needs the inter-token latency everywhere: gate or declare itl_ms")
        columns = [self.throughput, self.itl] if definition.name == "bca" else [self.throughput]
        found = definition.of(sizes, *([column[size].median for size in sizes] for column in columns))
        samples = [column[size] for column in columns for size in sizes]
        few = fewest(samples) < FEWEST_LAUNCHES
        draws = np.exp(log_medians([samples], seed=seed, resamples=resamples)).reshape(resamples, len(columns), -1)
        drawn: list[Found] = [definition.of(sizes, *curve) for curve in draws.tolist()]
        knees = [knee for knee in drawn if not isinstance(knee, NoKnee)]
        shares = {size: knees.count(size) / resamples for size in sizes if size in knees}
        none = few or isinstance(found, NoKnee)
        return Knee(
            definition=definition.label,
            batch=None if isinstance(found, NoKnee) else found,
            interval=None if none else covering(knees, resamples),
            sizes=sizes,
            shares=shares,
            seed=seed,
            reason=found.reason if isinstance(found, NoKnee) else "",
            case=self.case,
            label=self.label,
            few=few,
            beyond=sum(isinstance(one, NoKnee) and one.beyond for one in drawn) / resamples,
        )


def _curve(batch: Sequence[float], *columns: Sequence[float]) -> tuple[list[float], list[list[float]]]:
    """The places in ascending order, and the columns in the same.

    Raises SuiteError for a place twice or not above 0, BadSample for a value that no measurement can have.
    """
    if not batch or len(set(batch)) != len(batch) or any(size <= 0 for size in batch):
        raise SuiteError(f"a curve has every place once, above 0; not {', '.join(map(str, batch)) or 'none'}")
    for column in columns:
        bad = [value for value in column if not (math.isfinite(value) and value > 0)]
        if bad:
            raise BadSample(f"a curve's values are positive and finite, not {bad[0]!r}")
    order = sorted(range(len(batch)), key=batch.__getitem__)
    return [batch[at] for at in order], [[column[at] for at in order] for column in columns]


def _too_few(batch: Sequence[float], needed: int) -> NoKnee:
    return NoKnee(f"{len(batch)} points are too few: {needed} at least")


def _lines(x: "Column", y: "Column") -> "tuple[Column, Column]":
    """Sums of squared errors and slopes of the least-squares lines through the first 1, 2, 3 … points."""
    import numpy as np  # noqa: PLC0415 - as above

    x, y, count = x - x[0], y - y[0], np.arange(1, len(x) + 1)
    of_x, of_y = np.cumsum(x), np.cumsum(y)
    spread = np.cumsum(x * x) - of_x * of_x / count
    common = np.cumsum(x * y) - of_x * of_y / count
    spread[0] = 1.0  # one point has no slope, and no error
    slope = common / spread
    return np.cumsum(y * y) - of_y * of_y / count - slope * common, slope
