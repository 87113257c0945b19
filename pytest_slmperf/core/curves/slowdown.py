"""The slowdown of a model by those that run beside it: how many times as slow it is as alone, in one run."""

import math
from dataclasses import dataclass, field, replace

from pytest_slmperf.core.curves.resampling import Estimate, estimate, fewest, log_medians, shift_bounds
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.gate import LIKELY, SURE, Look, margin_of, status_of
from pytest_slmperf.core.metrics import Metric
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.sweeps.sweep import LARGEST_TOLERANCE
from pytest_slmperf.core.verdict import Status, Verdict, percent

TOLERANCE = 0.05
"""By so much larger it may become, where nothing else is asked."""
RESAMPLES = 2000
"""Five of them lie beyond the bound that SURE asks for."""


@dataclass(frozen=True)
class Slowdown:
    """How many times as slow a model is beside others as alone: 1.25 is a fifth less throughput, or a latency that is a
    quarter longer. The interval covers 99 % of what resampled launches give.
    """

    metric: str
    beside: str
    """`opt-1.3b@4`."""
    at: float
    """The place of the sweep."""
    times: Estimate | None = None
    """None where one of the two was not measured; `reason` says so."""
    draws: tuple[float, ...] = field(default=(), repr=False, compare=False)
    """Logarithms of the slowdowns of resampled launches."""
    launches: int = 0
    """The fewest of the two."""
    reason: str = ""
    case: str = ""
    label: str = "batch"
    measured: bool = field(default=False, compare=False)
    """Whether it is what a run measured, and no stored one that the run can be compared with."""

    def __str__(self) -> str:
        where = f"of {self.metric} beside {self.beside} at {self.label} {self.at:g}"
        return f"{self.place} {where}: {self.reason}" if self.reason else f"{self.place} {where}"

    @property
    def place(self) -> str:
        """`1.27 times as slow (1.24…1.31)`, or `no slowdown`."""
        if self.times is None:
            return "no slowdown"
        between = "not bounded"
        if self.times.interval:
            low, high = self.times.interval
            between = f"{low:.4g}…{high:.4g}"
        return f"{self.times.value:.4g} times as slow ({between})"

    def within(self, limit: float) -> Verdict:
        """Whether it is at most so many times, by its interval: in the limit, beyond it, or too close to tell."""
        status, way_out = Status.INCONCLUSIVE, "Measure more launches."
        if self.times and self.times.interval:
            low, high = self.times.interval
            status = Status.UNCHANGED if high <= limit else Status.REGRESSED if low > limit else Status.INCONCLUSIVE
        elif self.times is None:
            status, way_out = Status.UNMEASURED, ""
        said = f"{self}; limit at most {limit:.4g}"
        decided = status is not Status.INCONCLUSIVE
        return self._verdict(status, said, "" if decided else way_out, f"at most {limit:.4g}")

    def unchanged_from(
        self, baseline: "Slowdown", *, tolerance: float = TOLERANCE, confirming: bool = False
    ) -> Verdict:
        """Whether it has not become larger by more than the tolerance, by the gate's rule on resampled launches of both
        sides. `confirming` asks for what is likely alone, of launches that confirm what was sure.
        """
        if not 0 < tolerance <= LARGEST_TOLERANCE:
            raise SuiteError(f"tolerance={tolerance!r}; it is a fraction above 0, up to {LARGEST_TOLERANCE}")
        both = f"{baseline.place} → {self}"
        if (self.metric, self.beside, self.at) != (baseline.metric, baseline.beside, baseline.at):
            return self._verdict(Status.INCOMPARABLE, f"two slowdowns: {baseline} → {self}")
        if self.times is None or baseline.times is None:
            return self._verdict(Status.INCONCLUSIVE, f"nothing to compare: {both}")
        grown = [after - before for before, after in zip(baseline.draws, self.draws, strict=True)]
        by = math.log(self.times.value / baseline.times.value)
        few, sure = min(self.launches, baseline.launches), LIKELY if confirming else SURE
        surely, likely = (shift_bounds(grown, by, level, launches=few) for level in (sure, LIKELY))
        status = status_of(Look(by, surely, likely, sure), margin_of(tolerance, higher_is_better=False))
        said = f"{both}; {math.expm1(by):+.1%}, tolerance {percent(tolerance)}"
        return self._verdict(status, said, "Measure more launches." if status is Status.INCONCLUSIVE else "")

    def _verdict(self, status: Status, reason: str, way_out: str = "", limit: str = "") -> Verdict:
        return Verdict(
            status,
            "slowdown",
            "times",
            higher_is_better=False,
            case=self.case,
            reason=reason,
            way_out=way_out,
            limit=limit,
            measured=self.place,
        )


def slowdown(
    alone: Sample | None, together: Sample | None, meaning: Metric, named: Slowdown, *, seed: int = 0
) -> Slowdown:
    """The slowdown from a model's launches alone and those beside others, `named` as it is to be called. By `seed` the
    draws of two sides are told apart.
    """
    if alone is None or together is None:
        which = "alone" if alone is None else f"beside {named.beside}"
        return replace(named, reason=f"{meaning.name} was not measured {which}")
    import numpy as np  # noqa: PLC0415 - importing a suite must cost nothing

    sign = 1.0 if meaning.higher_is_better else -1.0
    drawn = log_medians([[alone], [together]], seed=seed, resamples=RESAMPLES)
    draws = sign * (drawn[:, 0] - drawn[:, 1])
    launches = fewest([alone, together])
    times = estimate((alone.median / together.median) ** sign, np.exp(draws), launches=launches)
    return replace(named, times=times, draws=tuple(map(float, draws)), launches=launches)
