"""What the gate says of one metric."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from pytest_slmperf.core.errors import NotJudged


class Status(StrEnum):
    """The verdicts. Only the first two pass."""

    UNCHANGED = "unchanged"
    IMPROVED = "improved"
    REGRESSED = "regressed"
    INCONCLUSIVE = "inconclusive"
    NO_BASELINE = "no-baseline"
    INCOMPARABLE = "incomparable"
    VOID = "void"
    UNMEASURED = "unmeasured"

    @property
    def passes(self) -> bool:
        """Whether a test that asserts it is green."""
        return self in (Status.UNCHANGED, Status.IMPROVED)


@dataclass(frozen=True)
class Effect:
    """How far the candidate is from the baseline, and what this comparison could have seen.

    `ratio` is candidate / baseline; `low` and `high` bound it with 95 % confidence, 0 and infinity where there are too
    few launches for a bound. `mde` is the smallest fractional
    loss that would have been found with 80 % power at the present spread and launches, infinite where none would.
    """

    baseline: float
    candidate: float
    ratio: float
    low: float
    high: float
    mde: float
    baseline_shape: str
    candidate_shape: str


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one metric of one case.

    Its truth is True, or raises AssertionError with the whole line: it is never False, so that neither `not`, `or` nor
    `all` can turn red into green or lose the message. Where nothing is judged, its truth raises NotJudged.
    """

    status: Status
    metric: str
    unit: str
    higher_is_better: bool
    case: str = ""
    tolerance: float | None = None
    effect: Effect | None = None
    reason: str = ""
    """Why, for every status that is not decided by the effect alone."""
    way_out: str = ""
    """The command or the change that resolves it."""
    final: bool = True
    """False while more launches could still decide."""
    judged: bool = True
    """False in a run that records or only reports."""
    limit: str = ""
    """`at most 200 ms`: the number that it was judged against, where a test stated one."""
    measured: str = ""
    """What was measured of a stated limit, a knee or a frontier, with its bounds: `187 ms (181…192)`, `batch 8 (8…16)`.
    """
    lost: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """What was lost of a value that has parts, as the points of a frontier: fresh launches must have lost it, too."""
    on_asked: Callable[[], None] | None = field(default=None, compare=False, repr=False)

    @property
    def passed(self) -> bool:
        """Whether it passes, without asking for its truth."""
        return self.status.passes

    @property
    def gated(self) -> bool:
        """Whether it is of a gated metric. A stated limit, a knee and a frontier have no tolerance of their own."""
        return self.tolerance is not None

    def __bool__(self) -> bool:
        __tracebackhide__ = True  # pytest then shows the line of the suite, not this one
        if self.on_asked:
            self.on_asked()
        if not self.judged:
            raise NotJudged(self.reason)
        if not self.passed:
            raise AssertionError(self.message())
        return True

    def of_medians(self, baseline: float, candidate: float) -> "Verdict":
        """The same verdict, which names these medians: those measured, where it was made on corrected values."""
        effect = replace(self.effect, baseline=baseline, candidate=candidate) if self.effect else None
        return replace(self, effect=effect)

    def line(self) -> str:
        """One line that a stranger can act on."""
        parts = [f"{self.status}: {self.case} {self.metric}".rstrip()]
        if self.effect:
            parts.append(_change(self.effect, self.unit, self.tolerance))
        if self.reason:
            parts.append(f"- {self.reason}")
        return " ".join(parts)

    def message(self) -> str:
        """The line, then what to do about it."""
        return "\n".join(part for part in (self.line(), self.way_out) if part)


def _change(effect: Effect, unit: str, tolerance: float | None) -> str:
    seen = f"{interval(effect)}, {effect.baseline_shape} vs {effect.candidate_shape} launches×rounds"
    limits = [f"tolerance {percent(tolerance)}"] if tolerance is not None else []
    limits.append(f"MDE {percent(effect.mde)}")
    figures = f"{quantity(effect.baseline)} → {quantity(effect.candidate)} {unit}"
    return f"{figures} ({seen}; {', '.join(limits)})"


def interval(effect: Effect) -> str:
    """`-8.4%, 95 % CI -10.0%…-6.8%`: the change and its bounds, as every sentence has them."""
    return change_within(effect.ratio, effect.low, effect.high)


def change_within(ratio: float, low: float, high: float) -> str:
    """The same of a ratio between bounds of 95 % that is no effect of a gate."""
    return f"{ratio - 1:+.1%}, 95 % CI {change(low)}…{change(high)}"


def percent(fraction: float) -> str:
    """`3.0%`; the sign of infinity for what nothing bounds."""
    return f"{fraction:.1%}" if math.isfinite(fraction) else "∞"


def change(ratio: float) -> str:
    """A bound as a change: `+1.2%`, or an infinity where nothing bounds it. A ratio of 0 is no loss of 100 %."""
    if ratio <= 0:
        return "-∞"
    return f"{ratio - 1:+.1%}" if math.isfinite(ratio) else "+∞"


def quantity(value: float) -> str:
    """Four significant digits, without an exponent where people don't expect one."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
