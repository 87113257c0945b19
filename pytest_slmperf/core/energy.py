"""Energy of a window: from moves of a counter and stretches of work to joules per token, with their uncertainty.

A counter's value is the energy at its last update, and it is updated ten times a second or so. So two plain looks are
wrong by up to a period each. An *edge* is seen by looking again and again until the value moves: at that instant it is
true. Energy is counted from edge to edge while the load runs, and tokens between the same two instants.

Errors are standard uncertainties, relative to the value. They come from the edges' width, from the work that is cut in
two at each end, and from a sensor that sees only a part of the time. The sensor's gain is kept apart: it is the same
for all measurements of one board, so it cancels in their ratio.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from statistics import NormalDist, fmean, median, stdev
from typing import Literal, Protocol, TypeAlias

from pytest_slmperf.core.board import BoardSample, BoardState, Effect, Finding
from pytest_slmperf.core.engine import Served

NS_PER_S = 1e9
COVERAGE = 0.95
COVERAGE_FACTOR = NormalDist().inv_cdf((1 + COVERAGE) / 2)
GAIN = 0.05 / math.sqrt(3)
"""Of a board's power sensor: within 5 %, another for each board (arXiv 2312.02741)."""
STEP_SWING = 0.2
"""By how much power may swing around its mean within a step: decode alternates between 300 and 430 W or so."""
BATCH_SWING = 0.75
"""The same within a static batch: its prefill takes the most, and its last, longest requests the least."""
INTEGRATED_FLOOR = 0.01
"""Least error of power that was integrated: the readings are means of a second, and hold for a period each."""
SAMPLED_FLOOR = 0.03
"""Least error where each reading sees 25 ms of every 100: in step with the load, it sees the same part each time."""
AVERAGE_LAG_S = 0.55
"""A mean of the last second, up to a period of 0.1 s old, is that much late."""
RESOLUTION_J = 0.001
"""Of NVML's counter."""
STUCK_S = 1.0
"""A board under load moves its counter at least ten times in this."""
PAUSE_LIMIT = 0.02
"""Share of a window without work from which it is no steady load."""
ENDS_TRIED = 100
"""Edges that are tried as a window's begin and as its end."""

Source: TypeAlias = Literal["counter", "integrated power", "power samples"]
"""Where joules come from: an energy counter; means of power, or its momentary values, added up over time."""


# -- what is read


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a counter: its value is that of some moment between these two."""

    before_ns: int
    after_ns: int
    joules: float

    @property
    def middle_ns(self) -> float:
        """The middle of the look."""
        return (self.before_ns + self.after_ns) / 2


@dataclass(frozen=True, slots=True)
class Edge:
    """A move of a counter: the last look that found the old value, and the first that found the new one."""

    old: Reading
    new: Reading

    @property
    def at_ns(self) -> float:
        """When it moved, as likely before as after."""
        return (self.old.middle_ns + self.new.middle_ns) / 2

    @property
    def half_width_ns(self) -> float:
        """A bound: it moved after the one look began, and before the other ended."""
        return max(self.at_ns - self.old.before_ns, self.new.after_ns - self.at_ns)

    @property
    def standard_ns(self) -> float:
        """Standard uncertainty, each look's value being of any moment of it, and the move of any between the two."""
        between = self.new.middle_ns - self.old.middle_ns
        looks = [(look.after_ns - look.before_ns) ** 2 for look in (self.old, self.new)]
        return math.sqrt((between**2 + fmean(looks)) / 12)


def edges(readings: Sequence[Reading]) -> tuple[Edge, ...]:
    """The moves that a row of looks found."""
    return tuple(Edge(old, new) for old, new in pairwise(readings) if new.joules != old.joules)


@dataclass(frozen=True, slots=True)
class PowerReading:
    """One look at a board's power."""

    before_ns: int
    after_ns: int
    watts: float


@dataclass(frozen=True, slots=True)
class Trace:
    """What a meter saw of one board's energy during a round."""

    board: str
    """UUID, or the name of a package of cores."""
    source: Source
    edges: tuple[Edge, ...] = ()
    """Of a counter, as many as were looked for, in the order of time."""
    powers: tuple[PowerReading, ...] = ()
    """Where there is no counter."""
    failure: str | None = None
    """Why reading it ended before the round did."""
    still_s: float = 0.0
    """The longest time in which look after look found the same value."""
    period_s: float | None = None
    """Of the counter's updates, where known."""
    seen_s: float | None = None
    """Of each period, where the sensor is known to work part time."""


# -- what was done


@dataclass(frozen=True, slots=True)
class Work:
    """A stretch of work whose inside is not known: one step of all requests, or a whole batch."""

    started_ns: int
    ended_ns: int
    output_tokens: int
    prompt_tokens: int = 0
    requests: float = 0
    """That ended with it."""
    swing: float = STEP_SWING
    """By how much power may swing around its mean in it."""


def work_of(batches: Iterable[Served], prompt_tokens: int) -> tuple[Work, ...]:
    """Static batches as stretches of work: step by step where token times are known, else whole.

    `prompt_tokens` is of one batch. A prefill belongs to the first step.
    """
    work: list[Work] = []
    for batch in batches:
        tokens, requests = sum(batch.output_tokens), len(batch.output_tokens)
        if not batch.token_ns:
            work.append(Work(batch.started_ns, batch.ended_ns, tokens, prompt_tokens, requests, BATCH_SWING))
            continue
        came = Counter(at for stamps in batch.token_ns for at in stamps)
        ended = Counter(stamps[-1] for stamps in batch.token_ns)
        begin, prompt = batch.started_ns, prompt_tokens
        for at in sorted(came):
            work.append(Work(begin, at, came[at], prompt, ended[at]))
            begin, prompt = at, 0
    return tuple(work)


@dataclass(frozen=True, slots=True)
class Done:
    """What was done by some instant, with shares of the work that it cuts in two."""

    output_tokens: float
    prompt_tokens: float
    requests: float
    busy_ns: float
    loose_ns: float
    """Standard uncertainty from the work that is cut, as time. The nearer end of it bounds the error, and a small error
    is likelier than a large one (a triangle)."""


class Tally:
    """Stretches of work, added up. They are in the order of time, and none begins before the last one ended."""

    def __init__(self, work: Sequence[Work]) -> None:
        self._work = work
        self._starts = [one.started_ns for one in work]
        self._outputs = [0, *accumulate(one.output_tokens for one in work)]
        self._prompts = [0, *accumulate(one.prompt_tokens for one in work)]
        self._requests = [0.0, *accumulate(one.requests for one in work)]
        self._busy = [0, *accumulate(one.ended_ns - one.started_ns for one in work)]

    @property
    def step_s(self) -> float | None:
        """A step's length, the median; None where only whole batches are known."""
        lengths = [one.ended_ns - one.started_ns for one in self._work if one.swing < BATCH_SWING]
        return median(lengths) / NS_PER_S if lengths else None

    def done(self, at_ns: float) -> Done:
        """What was done by this instant."""
        place = bisect_right(self._starts, at_ns) - 1
        if place < 0:
            return Done(0, 0, 0, 0, 0)
        one = self._work[place]
        length = one.ended_ns - one.started_ns
        into = min(at_ns - one.started_ns, length)
        share = into / length if length else 1.0
        return Done(
            output_tokens=self._outputs[place] + share * one.output_tokens,
            prompt_tokens=self._prompts[place] + share * one.prompt_tokens,
            requests=self._requests[place] + share * one.requests,
            busy_ns=self._busy[place] + into,
            loose_ns=one.swing * min(into, length - into) / math.sqrt(6),
        )


# -- what comes out


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

    def net_of_idle(self, idle_w: Mapping[str, Quantity]) -> Quantity | None:
        """Joules per output token beyond what the boards take idle; for the report, never for the gate.

        `idle_w` is by board. None where one lacks its idle power, or no token was made.
        """
        if any(one.board not in idle_w for one in self.boards):
            return None
        gross = _sum([(one, one.joules, one.output_tokens) for one in self.boards])
        idle = [(one, idle_w[one.board]) for one in self.boards]
        if gross is None:
            return None
        spent = sum(quantity.value * one.seconds / one.output_tokens for one, quantity in idle)
        doubt = math.hypot(
            *(quantity.value * quantity.uncertainty.random * one.seconds / one.output_tokens for one, quantity in idle)
        )
        net, was = gross.value - spent, gross.uncertainty
        if net <= 0:
            return None
        larger = gross.value / net
        sensor = math.hypot(was.sensor * larger, doubt / net)
        return Quantity(net, Uncertainty(was.edge * larger, was.tokens * larger, sensor, was.gain))


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


# -- from the one to the other


@dataclass(frozen=True, slots=True)
class Terms:
    """What a window must be like."""

    lead_in_s: float = 1.5
    """From the begin of the load to the earliest begin of a window: a mean of power looks back for a second."""
    least_s: float = 1.0
    """A shorter window is none."""


def energy_of(traces: Sequence[Trace], work: Sequence[Work], terms: Terms = Terms()) -> Energy | NoEnergy:
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
        read = _by_counter if trace.source == "counter" else _by_power
        one = read(trace, tally, span, terms)
        if isinstance(one, NoEnergy):
            return NoEnergy(f"{trace.board}: {one.reason}")
        found.append(one)
    return Energy(tuple(found))


def judge_trace(trace: Trace) -> Finding | None:
    """What is wrong with a source of joules, whatever the work: it could not be read, went back, or stood still."""
    if trace.failure:
        return Finding("unreadable", Effect.VOID, trace.failure)
    looks = [look for edge in trace.edges for look in (edge.old, edge.new)]
    for earlier, later in pairwise(looks):
        if later.joules < earlier.joules - RESOLUTION_J / 2:
            return Finding(
                "reset",
                Effect.VOID,
                f"its energy counter went back from {earlier.joules:,.1f} to {later.joules:,.1f} J: the driver was "
                "reloaded, or the board reset",
            )
    if trace.still_s > STUCK_S:
        return Finding("stuck", Effect.VOID, f"its energy counter stood still for {trace.still_s:.3g} s")
    return None


def _by_counter(trace: Trace, tally: Tally, span: tuple[float, float], terms: Terms) -> BoardEnergy | NoEnergy:
    inside = [edge for edge in trace.edges if span[0] <= edge.at_ns <= span[1]]
    if len(inside) < 2:
        return NoEnergy(
            f"its energy counter moved {len(inside)} times in the {max(0.0, (span[1] - span[0]) / NS_PER_S):.3g} s of "
            "load after the lead-in, and a window needs two moves: measure longer rounds"
        )
    begin, end = _best_ends(inside, tally, terms.least_s * NS_PER_S)
    length_ns = end.at_ns - begin.at_ns
    weights = _weights(inside, (begin, end))
    uncertainty = Uncertainty(
        edge=math.hypot(begin.standard_ns * weights[0], end.standard_ns * weights[1]) / length_ns,
        tokens=math.hypot(*(tally.done(at.at_ns).loose_ns for at in (begin, end))) / length_ns,
        sensor=_alias(trace, begin, end, tally),
    )
    return _board(trace, end.new.joules - begin.new.joules, (begin.at_ns, end.at_ns), tally, uncertainty, terms)


def _weights(inside: Sequence[Edge], ends: Iterable[Edge]) -> list[float]:
    """Power at each end over the mean: where it is high, the same doubt of time is more of a doubt of joules."""
    mean_j = fmean(edge.new.joules - edge.old.joules for edge in inside)
    return [(edge.new.joules - edge.old.joules) / mean_j if mean_j > 0 else 1.0 for edge in ends]


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


def _alias(trace: Trace, begin: Edge, end: Edge, tally: Tally) -> float:
    """Of a part-time sensor: what it missed by chance, and what it misses because it looks in step with the load."""
    if not trace.seen_s or not trace.period_s or trace.seen_s >= trace.period_s:
        return 0.0
    updates = (end.at_ns - begin.at_ns) / NS_PER_S / trace.period_s
    step_s = tally.step_s
    in_step = SAMPLED_FLOOR if step_s is None else _in_step(trace.period_s, trace.seen_s, step_s, updates)
    return math.hypot(_by_chance(trace, begin, end, updates), in_step / math.sqrt(3))


def _by_chance(trace: Trace, begin: Edge, end: Edge, updates: float) -> float:
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


def _by_power(trace: Trace, tally: Tally, span: tuple[float, float], terms: Terms) -> BoardEnergy | NoEnergy:
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
    trace: Trace, joules: float, window: tuple[float, float], tally: Tally, uncertainty: Uncertainty, terms: Terms
) -> BoardEnergy | NoEnergy:
    begin, end = (tally.done(at) for at in window)
    seconds = (window[1] - window[0]) / NS_PER_S
    if seconds < terms.least_s:
        return NoEnergy(
            f"a window of {seconds:.3g} s was left after the lead-in, and {terms.least_s:.3g} s is the least"
        )
    pause = 1 - (end.busy_ns - begin.busy_ns) / (window[1] - window[0])
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


# -- the protocol of every meter


@dataclass(frozen=True, slots=True)
class MeterFacts:
    """What an opened meter says of itself."""

    name: str
    """`nvml`, …"""
    boards: tuple[str, ...]
    """UUIDs, in the order of everything else."""
    sources: Mapping[str, Source | None]
    """By board: where its joules come from, None where there are none to be had."""
    simulated: bool
    """Whether a stand-in answers: nothing of it is real, and nothing becomes a baseline."""
    versions: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    """By board: why it has no joules."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What a meter saw from start to stop."""

    traces: tuple[Trace, ...]
    """One a board that has joules."""
    samples: Mapping[str, tuple[BoardSample, ...]] = field(default_factory=dict)
    """By board, now and then."""
    sm_activity: Mapping[str, float] = field(default_factory=dict)
    """By board: mean share of SMs that were busy, where the driver tells."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """By board: why it has no trace."""


class Meter(Protocol):
    """A source of joules beside an engine. One object is one session; it is opened once and used by one thread."""

    def open(self) -> MeterFacts:
        """Find the boards. Raises MeterUnavailable, with the way out."""
        ...

    def states(self) -> Mapping[str, BoardState]:
        """Every board as it is now, by its UUID: for before and after. What can't be read is told in the state."""
        ...

    def start(self) -> None:
        """Begin to read, beside whatever happens; returns at once."""
        ...

    def stop(self) -> Recording:
        """End reading, and give what was read. A fault is in the recording; nothing is raised."""
        ...

    def close(self) -> None:
        """End the session. Called once, also after a failure."""
        ...
