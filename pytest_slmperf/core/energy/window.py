"""Energy of a window: from moves of a counter and stretches of work to joules per token, with their uncertainty.

Energy is counted from edge to edge of a counter while the load runs, and tokens between the same two instants.

Errors are standard uncertainties, relative to the value. They come from the edges' width, from the work that is cut in
two at each end, and from a sensor that sees only a part of the time. The sensor's gain is kept apart: it is the same
for all measurements of one board, so it cancels in their ratio.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist, fmean, median, stdev

from pytest_slmperf.core.devices.board import BoardFacts
from pytest_slmperf.core.devices.edges import Edge, EnergyTrace, Source, judge_trace
from pytest_slmperf.core.energy.tally import STEP_SWING, Tally, Work
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.units import NS_PER_S

COVERAGE = 0.95
COVERAGE_FACTOR = NormalDist().inv_cdf((1 + COVERAGE) / 2)
GAIN = 0.05 / math.sqrt(3)
"""Of a board's power sensor: within 5 %, another for each board (arXiv 2312.02741)."""
INTEGRATED_FLOOR = 0.01
"""Least error of power that was integrated: the readings are means of a second, and hold for a period each."""
SAMPLED_FLOOR = 0.03
"""Least error where each reading sees 25 ms of every 100: in step with the load, it sees the same part each time. And
through Zeus, which doesn't say what it reads.
"""
AVERAGE_LAG_S = 0.55
"""A mean of the last second, up to a period of 0.1 s old, is that much late."""
PAUSE_LIMIT = 0.02
"""Share of a window without work from which it is no steady load."""
METER_SHARE = 0.5
"""Of the spread between launches, what the meter may be wrong by: without it the spread were 13 % smaller at most."""
LEAST_LAUNCHES = 8
"""Of which a spread is told."""
LONGEST = 20.0
"""Times as long as it is, a window may have to be: beyond that more launches are cheaper."""
LEAST_UPDATES = 20
"""Of a counter whose sensor works part time, in a window. Of fewer, what it saw is no sample of bursts at odd times: of
ten updates the 95 % interval held the truth in 87 of 100 windows.
"""
UPDATES_WANTED = f"the {LEAST_UPDATES} updates from which its error can be told"
ENDS_TRIED = 100
"""Edges that are tried as a window's begin and as its end."""


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Standard uncertainties by where they come from, as shares of the value."""

    edge: float
    """Of the two instants."""
    tokens: float
    """Of the work that is cut in two at each of them."""
    sensor: float
    """Of a sensor that doesn't see all of the time."""
    gain: float = GAIN
    """Of the sensor's gain: the same for all measurements of one board."""

    @property
    def random(self) -> float:
        """All but the gain: what two measurements of one board differ by."""
        return math.hypot(self.edge, self.tokens, self.sensor)

    @property
    def total(self) -> float:
        """With the gain: what a measurement differs from the truth by."""
        return math.hypot(self.random, self.gain)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with what it may be wrong by."""

    value: float
    uncertainty: Uncertainty

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, for what is compared with the same board: without the gain."""
        half = COVERAGE_FACTOR * self.uncertainty.random * abs(self.value)
        return self.value - half, self.value + half


@dataclass(frozen=True, slots=True)
class BoardEnergy:
    """What one board took over its window, and what was done in it."""

    board: str
    source: Source
    joules: float
    from_ns: float
    to_ns: float
    output_tokens: float
    total_tokens: float
    requests: float
    uncertainty: Uncertainty

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return (self.to_ns - self.from_ns) / NS_PER_S


@dataclass(frozen=True, slots=True)
class NoEnergy:
    """Why there are no joules."""

    reason: str
    lasting: bool = False
    """Whether another round would have none either, since no meter tells any; otherwise this one left no window."""


@dataclass(frozen=True, slots=True)
class Energy:
    """What all boards of a meter took. Each has a window of its own, from edge to edge of its own counter."""

    boards: tuple[BoardEnergy, ...]

    @property
    def source(self) -> str:
        """Where the joules come from, all of them."""
        return ", ".join(dict.fromkeys(board.source for board in self.boards))

    @property
    def seconds(self) -> float:
        """Length of the shortest window."""
        return min(board.seconds for board in self.boards)

    def metrics(self) -> dict[str, Quantity]:
        """By the metrics' names: `joules_per_output_token`, `joules_per_total_token`, `mean_power_w`, and
        `joules_per_request` where requests are known. The gate is on these, which are gross.
        """
        boards = self.boards
        found = {
            "joules_per_output_token": _sum([(one, one.joules, one.output_tokens) for one in boards]),
            "joules_per_total_token": _sum([(one, one.joules, one.total_tokens) for one in boards]),
            "joules_per_request": _sum([(one, one.joules, one.requests) for one in boards]),
            "mean_power_w": _sum([(one, one.joules, one.seconds) for one in boards]),
        }
        return {name: quantity for name, quantity in found.items() if quantity}


def _sum(parts: Sequence[tuple[BoardEnergy, float, float]]) -> Quantity | None:
    """The sum over boards of joules over something; None where there is nothing of it."""
    if any(amount <= 0 for _, _, amount in parts):
        return None
    values = [joules / amount for _, joules, amount in parts]
    value = sum(values)
    if value <= 0:
        return None
    errors = [one.uncertainty for one, _, _ in parts]
    shares = [part / value for part in values]

    def together(each: Iterable[float]) -> float:
        return math.hypot(*(share * error for share, error in zip(shares, each, strict=True)))

    return Quantity(
        value,
        Uncertainty(
            edge=together(error.edge for error in errors),
            tokens=together(error.tokens for error in errors),
            sensor=together(error.sensor for error in errors),
            gain=together(error.gain for error in errors),
        ),
    )


@dataclass(frozen=True, slots=True)
class Terms:
    """What a window must be like."""

    lead_in_s: float = 1.5
    """From the begin of the load to the earliest begin of a window: a mean of power looks back for a second."""
    least_s: float = 1.0
    """A shorter window is none."""


def energy_of(traces: Sequence[EnergyTrace], work: Sequence[Work], terms: Terms = Terms()) -> Energy | NoEnergy:
    """The joules of all boards while this work was done, or why there are none."""
    if not traces:
        return NoEnergy("no board was read")
    if not work:
        return NoEnergy("nothing was done while the meter ran")
    tally = Tally(work)
    first_ns = work[0].started_ns + terms.lead_in_s * NS_PER_S
    span = (first_ns, float(work[-1].ended_ns))
    found: list[BoardEnergy] = []
    for trace in traces:
        fault = judge_trace(trace)
        if fault:
            return NoEnergy(f"{trace.board}: {fault.reason}")
        read = _by_counter if trace.source in ("counter", "zeus") else _by_power
        one = read(trace, tally, span, terms)
        if isinstance(one, NoEnergy):
            return NoEnergy(f"{trace.board}: {one.reason}")
        found.append(one)
    return Energy(tuple(found))


def meter_decides(errors: Sequence[Uncertainty], joules: Sample | None, boards: Mapping[str, BoardFacts]) -> str | None:
    """A note where the meter's stated error is more than METER_SHARE of the spread between launches: then the meter
    decides how many launches a verdict takes. None where it isn't, and of too few launches for a spread.

    The error of edges and tokens falls with the window's length, and that of a sensor that works part time with the
    root of it; that of other sources than a counter stays.
    """
    if joules is None or len(joules.launches) < LEAST_LAUNCHES or not errors:
        return None
    values = [median(launch) for launch in joules.launches]
    spread, error = stdev(values) / fmean(values), median(one.random for one in errors)
    share = error / spread if spread else math.inf
    if share <= METER_SHARE:
        return None
    found = (
        f"the meter's error of joules, {error:.2%} (standard), is more than {METER_SHARE:.0%} of their spread between "
        f"launches, {spread:.2%}"
    )
    others = sorted({one.source for one in boards.values()} - {"counter"})
    if others:
        return f"{found}: that of {', '.join(others)}, which no longer window makes smaller"
    by_sensor = median(one.sensor for one in errors) > error / math.sqrt(2)
    longer = math.ceil(10 * min((share / METER_SHARE) ** (2 if by_sensor else 1), LONGEST)) / 10
    return f"{found}. Fewer launches may do where window_s in [tool.slmperf] is {longer:g} times as long"


def _by_counter(trace: EnergyTrace, tally: Tally, span: tuple[float, float], terms: Terms) -> BoardEnergy | NoEnergy:
    inside = [edge for edge in trace.edges if span[0] <= edge.at_ns <= span[1]]
    if len(inside) < 2:
        return NoEnergy(
            f"its energy counter moved {len(inside)} times in the {max(0.0, (span[1] - span[0]) / NS_PER_S):.3g} s of "
            "load after the lead-in, and a window needs two moves: measure longer rounds"
        )
    part_time_s = _part_time_period_s(trace)
    if part_time_s == math.inf:
        return NoEnergy(f"its sensor sees a part of the time, and its counter moved too seldom for {UPDATES_WANTED}")
    sampled_s = LEAST_UPDATES * part_time_s
    begin, end = _best_ends(inside, tally, max(terms.least_s, sampled_s) * NS_PER_S)
    length_ns = end.at_ns - begin.at_ns
    if length_ns < (sampled_s - part_time_s / 2) * NS_PER_S:
        return NoEnergy(
            f"its sensor sees a part of the time, and a window of {length_ns / NS_PER_S:.3g} s is too short for "
            f"{UPDATES_WANTED}: {sampled_s:.3g} s is the least"
        )
    weights = _weights(inside, (begin, end))
    uncertainty = Uncertainty(
        edge=math.hypot(begin.standard_ns * weights[0], end.standard_ns * weights[1]) / length_ns,
        tokens=math.hypot(*(tally.done(at.at_ns).loose_ns for at in (begin, end))) / length_ns,
        sensor=math.hypot(_alias(trace, begin, end, tally), SAMPLED_FLOOR if trace.source == "zeus" else 0.0),
    )
    return _board(trace, end.new.joules - begin.new.joules, (begin.at_ns, end.at_ns), tally, uncertainty, terms)


def _weights(inside: Sequence[Edge], ends: Iterable[Edge]) -> list[float]:
    """Power at each end over the mean: where it is high, the same doubt of time is more of a doubt of joules.

    Of the updates before and after it the one with more: a burst over the end, shorter than an update, is thinned out
    in both, and the power at that instant is nearer to the higher mean than to either's middle.
    """
    gains = [edge.new.joules - edge.old.joules for edge in inside]
    mean_j = fmean(gains)
    places = map(inside.index, ends)
    return [max(gains[at : at + 2]) / mean_j if mean_j > 0 else 1.0 for at in places]


def _best_ends(inside: Sequence[Edge], tally: Tally, least_ns: float) -> tuple[Edge, Edge]:
    """The window with the least error: a long one, from and to narrow edges that cut little work in two."""
    if inside[-1].at_ns - inside[0].at_ns < least_ns:
        return inside[0], inside[-1]

    def weighed(some: Sequence[Edge]) -> list[tuple[float, float, Edge]]:
        return [(one.at_ns, one.standard_ns**2 + tally.done(one.at_ns).loose_ns ** 2, one) for one in some]

    begins, ends = weighed(inside[:ENDS_TRIED]), weighed(inside[-ENDS_TRIED:])
    pairs = (
        ((doubt + other_doubt) / (later - at) ** 2, place, other_place)
        for place, (at, doubt, _) in enumerate(begins)
        for other_place, (later, other_doubt, _) in enumerate(ends)
        if later - at >= max(least_ns, 1.0)
    )
    _, place, other_place = min(pairs)
    return begins[place][2], ends[other_place][2]


def _part_time_period_s(trace: EnergyTrace) -> float:
    """Period of a sensor that works part time, infinite where it isn't known; 0 of one that sees all of the time."""
    if not trace.seen_s:
        return 0.0
    period_s = trace.period_s or math.inf
    return period_s if trace.seen_s < period_s else 0.0


def _alias(trace: EnergyTrace, begin: Edge, end: Edge, tally: Tally) -> float:
    """Of a part-time sensor: what it missed by chance, and what it misses because it looks in step with the load."""
    period_s, seen_s = _part_time_period_s(trace), trace.seen_s
    if not period_s or not seen_s:
        return 0.0
    updates = (end.at_ns - begin.at_ns) / NS_PER_S / period_s
    step_s = tally.step_s
    in_step = SAMPLED_FLOOR if step_s is None else _in_step(period_s, seen_s, step_s, updates)
    return math.hypot(_by_chance(trace, begin, end, updates), in_step / math.sqrt(3))


def _by_chance(trace: EnergyTrace, begin: Edge, end: Edge, updates: float) -> float:
    """How the powers from edge to edge scatter, over the root of the number of updates."""
    inside = [edge for edge in trace.edges if begin.at_ns <= edge.at_ns <= end.at_ns]
    freedom = len(inside) - 2
    if freedom < 3 or not trace.period_s or not trace.seen_s:
        return SAMPLED_FLOOR
    mean_w = (end.new.joules - begin.new.joules) / (end.at_ns - begin.at_ns) * NS_PER_S
    squares = 0.0
    for one, other in pairwise(inside):
        seconds = (other.at_ns - one.at_ns) / NS_PER_S
        deviation_j = (other.new.joules - one.new.joules) - mean_w * seconds
        squares += deviation_j**2 / (mean_w**2 * seconds * trace.period_s)
    unseen = 1 - trace.seen_s / trace.period_s
    of_student = freedom / (freedom - 2)  # variance of a t distribution: few edges tell little of the scatter
    return math.sqrt(squares / freedom * of_student * unseen / updates)


def _in_step(period_s: float, seen_s: float, step_s: float, updates: float) -> float:
    """A bound: of each period the sensor sees some steps and a part of one, and that part's place in the step moves on
    by the remainder of period over step. After each whole turn through the step, the error has cancelled.
    """
    whole, moves_on = seen_s / step_s, period_s / step_s
    part = min(whole % 1, 1 - whole % 1)
    turns = updates * min(moves_on % 1, 1 - moves_on % 1)
    return STEP_SWING * part / whole * min(1.0, 1 / (2 * turns) if turns else 1.0)


def _by_power(trace: EnergyTrace, tally: Tally, span: tuple[float, float], terms: Terms) -> BoardEnergy | NoEnergy:
    inside = [one for one in trace.powers if span[0] <= one.before_ns and one.after_ns <= span[1]]
    if len(inside) < 2:
        return NoEnergy("it has no energy counter, and its power was read less than twice after the lead-in")
    times = [(one.before_ns + one.after_ns) / 2 for one in inside]
    joules = math.fsum(
        (one.watts + other.watts) / 2 * (later - earlier) / NS_PER_S
        for (one, earlier), (other, later) in pairwise(zip(inside, times, strict=True))
    )
    seconds = (times[-1] - times[0]) / NS_PER_S
    mean_w = joules / seconds
    if mean_w <= 0:
        return NoEnergy("it has no energy counter, and says that it takes no power")
    scatter = stdev(one.watts for one in inside) / mean_w
    if trace.source == "integrated power":
        sensor = math.hypot(INTEGRATED_FLOOR, math.sqrt(2) * scatter * AVERAGE_LAG_S / seconds)
    else:
        updates = seconds / (trace.period_s or 0.1)
        sensor = math.hypot(SAMPLED_FLOOR, scatter / math.sqrt(max(1.0, updates)))
    loose = [tally.done(at).loose_ns for at in (times[0], times[-1])]
    uncertainty = Uncertainty(edge=0.0, tokens=math.hypot(*loose) / (times[-1] - times[0]), sensor=sensor)
    return _board(trace, joules, (times[0], times[-1]), tally, uncertainty, terms)


def _board(
    trace: EnergyTrace, joules: float, window: tuple[float, float], tally: Tally, uncertainty: Uncertainty, terms: Terms
) -> BoardEnergy | NoEnergy:
    begin, end = (tally.done(at) for at in window)
    seconds = (window[1] - window[0]) / NS_PER_S
    if seconds < terms.least_s:
        return NoEnergy(
            f"a window of {seconds:.3g} s was left after the lead-in, and {terms.least_s:.3g} s is the least"
        )
    idle_ns = window[1] - window[0] - (end.busy_ns - begin.busy_ns)
    pause = max(idle_ns, tally.stall_ns(*window)) / (window[1] - window[0])
    if pause > PAUSE_LIMIT:
        return NoEnergy(f"the load paused for {pause:.1%} of a window of {seconds:.3g} s")
    if joules <= 0:
        return NoEnergy(f"it took {joules:.3g} J in {seconds:.3g} s under load, which can't be")
    output = end.output_tokens - begin.output_tokens
    return BoardEnergy(
        board=trace.board,
        source=trace.source,
        joules=joules,
        from_ns=window[0],
        to_ns=window[1],
        output_tokens=output,
        total_tokens=output + end.prompt_tokens - begin.prompt_tokens,
        requests=end.requests - begin.requests,
        uncertainty=uncertainty,
    )
