"""The meter of a run: opened before the first launch that wants joules, and read around one round of each case."""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from pytest_slmperf.core.devices.board import BoardFacts, BoardRound, BoardState, beside
from pytest_slmperf.core.energy.idle import idle_power
from pytest_slmperf.core.energy.mix import NOTE, of_the_mix
from pytest_slmperf.core.energy.rounds import energy_of_round
from pytest_slmperf.core.energy.tally import Work, work_of
from pytest_slmperf.core.energy.window import (
    COVERAGE_FACTOR,
    BoardEnergy,
    Energy,
    NoEnergy,
    Quantity,
    Terms,
    Uncertainty,
)
from pytest_slmperf.core.engine import Served
from pytest_slmperf.core.errors import MeterUnavailable
from pytest_slmperf.core.guards.board import judge_board
from pytest_slmperf.core.launch import Load, tokens
from pytest_slmperf.core.machine import REMOTE
from pytest_slmperf.core.meter import Around, EnergyMeter, Meter, MeterFacts, Recording
from pytest_slmperf.core.metrics import BOARD, ENERGY
from pytest_slmperf.core.protocol import Measured
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.meters.nvml import NvmlMeter, Pace
from pytest_slmperf.meters.rapl import RaplMeter
from pytest_slmperf.meters.zeus import ZeusMeter, zeus_is_installed
from pytest_slmperf.run.devices import VISIBLE, boards_at
from pytest_slmperf.run.guards import Void

UPDATE_S = 0.1
"""Of an energy counter on most boards, until the meter has seen it."""
METERED_DEVICES = ("cuda", "simulated")
"""Where an engine draws its power from the boards that are read; the simulated one says so to a stand-in driver."""
LEAST_LOOKS = 6
"""At the counters and at everything else, in a window however short."""
SETTLE_S = 1.5
"""So long after the end of an engine its board is free: the driver's utilisation is a mean of a second at most."""
IDLE_S = 2.0
"""So long an idle board is looked at: twenty moves of its counter, and two means of its power. No longer than a window.
"""
CLOCK_SLACK_NS = 100_000_000
"""By which a batch may begin before the question for it, or end after the answer: a simulated clock is off by far more.
"""
ANOTHER_CLOCK = "the engine's times are not those of this machine's clock, which the meter's are"
SHORTEST_WINDOW = 1 / 3
"""Share of the wanted window that must be left, from edge to edge, after the lead-in."""
LONGEST_GAP_NS = 50_000_000
"""Between two rounds of one load: while no more passes, a board keeps its clock and its temperature."""


@dataclass(frozen=True)
class EnergyRound:
    """What the energy round of a case came to. A metric is in `values` or in `unmeasured`."""

    values: Mapping[str, float] = field(default_factory=dict)
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    boards: Mapping[str, BoardFacts] = field(default_factory=dict)
    error: Uncertainty | None = None
    """Of the joules per output token."""


@dataclass
class Stretch:
    """How long a load has run without a pause, by the engine's clock. Lives as long as its case."""

    began_ns: int = 0
    ended_ns: int = 0

    def add(self, started_ns: int, ended_ns: int) -> None:
        """The load ran from then till then."""
        if not self._goes_on(started_ns):
            self.began_ns = started_ns
        self.ended_ns = ended_ns

    def ran_s(self, until_ns: int) -> float:
        """How long it has run if it is on again at this instant; 0 after a pause, and by another clock than this."""
        return (until_ns - self.began_ns) / NS_PER_S if self._goes_on(until_ns) else 0.0

    def _goes_on(self, at_ns: int) -> bool:
        return self.began_ns < self.ended_ns and 0 <= at_ns - self.ended_ns <= LONGEST_GAP_NS


def rounds_of(measured: Measured, lead_in_s: float, most: int) -> list[Measured]:
    """The whole batches of a marked stretch after its lead-in, in so many parts at most, each as long as the others but
    for a batch: as rounds to read throughput from.
    """
    marks = measured.marks
    from_ns = measured.started_ns + lead_in_s * NS_PER_S
    steady = [mark for mark in marks if mark[0] >= from_ns] or marks[-1:]
    parts = min(most, len(steady))
    ends = [round(len(steady) * part / parts) for part in range(parts + 1)]

    def of(some: Sequence[tuple[int, int]]) -> Measured:
        requests, prompt_tokens, output_tokens = (
            total * len(some) // len(marks)
            for total in (measured.requests, measured.prompt_tokens, measured.output_tokens)
        )
        beside, front_end = measured.beside, measured.front_end
        return Measured(
            some[0][0], some[-1][1], requests, prompt_tokens, output_tokens, beside=beside, front_end=front_end
        )

    return [of(steady[begin:end]) for begin, end in pairwise(ends)]


def without(reason: str) -> EnergyRound:
    """No joules, and nothing of what stands beside them."""
    return EnergyRound(unmeasured=dict.fromkeys((*ENERGY, *BOARD), reason))


class Metering:
    """One session of a meter, from the first launch to the last; without one it says why. `close` ends it."""

    def __init__(
        self,
        meter: Meter | None,
        *,
        window_s: float,
        lead_in_s: float,
        devices: Collection[str] = METERED_DEVICES,
    ) -> None:
        """`devices` are those on which an engine draws its power from what is read."""
        self.window_s = window_s
        self.lead_in_s = lead_in_s
        self._idle_w: dict[str, Quantity] = {}
        self.missing = "" if meter else f"{VISIBLE} hides every GPU"
        """Why there are no joules to be had, or an empty text."""
        self.devices = devices
        self.heard: Callable[[Recording], object] = lambda _: None
        """Is told each recording of a round."""
        self._meter = meter
        self._facts = MeterFacts("", (), {}, simulated=False)
        self._limits_w: Mapping[str, float | None] = {}
        self._update_s = UPDATE_S
        if meter is None:
            return
        try:
            self._facts = meter.open()
        except MeterUnavailable as error:
            self._meter, self.missing = None, str(error)
            return
        self._limits_w = {uuid: state.power_limit_w for uuid, state in meter.states().items()}

    @property
    def source(self) -> EnergyMeter:
        """What a suite sees of it."""
        facts = self._facts
        missing = self.missing or "; ".join(f"{uuid}: {why}" for uuid, why in facts.missing.items())
        sources = dict.fromkeys(source for source in facts.sources.values() if source)
        return EnergyMeter(facts.boards, ", ".join(sources) or None, facts.simulated, missing)

    def nor_has(self, other: str) -> None:
        """Add to the reasons why there are no joules that another meter has none either, and why."""
        if self.missing:
            self.missing = f"{self.missing}; {other}"
        missing = {uuid: f"{why}; {other}" for uuid, why in self._facts.missing.items()}
        self._facts = replace(self._facts, missing=missing)

    def idle(self) -> Mapping[str, BoardState]:
        """Every board before an engine is started; none where there is no meter."""
        return _settled(self._meter) if self._meter else {}

    def measure_idle_power(self) -> None:
        """Of every board, for IDLE_S and no longer than a window: before a run's first engine, since after a load a
        board takes more for seconds. Not where there is no meter, or somebody else is on a board.
        """
        meter = self._meter
        if meter is None or any(map(_taken, _settled(meter).values())):
            return
        meter.start()
        time.sleep(min(IDLE_S, self.window_s))
        recording, states = meter.stop(), meter.states()
        for trace in recording.traces:
            power = idle_power(trace, recording.samples.get(trace.board, ()))
            if isinstance(power, Quantity) and not _taken(states[trace.board]):
                self._idle_w[trace.board] = power

    @property
    def of_all_cores(self) -> bool:
        """Whether what is read counts the joules of all of a CPU's cores, whoever uses them."""
        return "cpu" in self.devices

    def not_of(self, device: str) -> str:
        """Why an engine on this device has no joules here, or an empty text."""
        if not self.missing and device.partition(":")[0] not in self.devices:
            return f"the engine ran on {device}, and the meter reads {', '.join(self._facts.boards)}"
        return self.missing

    def left_of_lead_in_s(self, ran_s: float) -> float:
        """What is left of the lead-in of a load that has run for so long. All of it where power is read instead of a
        counter, since a mean of the last second holds every pause in it.
        """
        counted = set(self._facts.sources.values()) == {"counter"}
        return max(0.0, self.lead_in_s - ran_s) if counted else self.lead_in_s

    def batches(self, batch_s: float, ran_s: float = 0.0) -> int:
        """As many as last what is left of the lead-in, window and two updates, where the load has run for `ran_s`; a
        batch that takes longer than the lead-in is followed by one to look at.
        """
        window_s = self.window_s + 2 * self._update_s
        return math.ceil(self.left_of_lead_in_s(ran_s) / batch_s) + math.ceil(window_s / batch_s)

    @property
    def longest_s(self) -> float:
        """How long a load without batches is to last, for its lead-in and its window."""
        return self.lead_in_s + self.window_s + 2 * self._update_s

    @contextmanager
    def reading(self) -> Iterator["RoundUnderway"]:
        """The meter runs while the body serves."""
        meter = self._meter
        assert meter is not None  # noqa: S101 - whoever has none is told so before
        reading = RoundUnderway(meter.states())
        meter.start()
        reading.began_ns = time.monotonic_ns()
        try:
            yield reading
        finally:
            reading.ended_ns = time.monotonic_ns()
            reading.recording = meter.stop()
            self.heard(reading.recording)
        reading.after = meter.states()
        periods = [trace.period_s for trace in reading.recording.traces if trace.period_s]
        self._update_s = max(periods, default=self._update_s)

    def judge(
        self,
        seen: "BoardsRound",
        load: Load,
        idle: Mapping[str, BoardState],
        *,
        ours: int,
        ran_s: float = 0.0,
        work: Sequence[Work] | None = None,
    ) -> tuple[EnergyRound, Void | None]:
        """What a round came to, and why it is void, if it is: by a guard, or since it left no window.

        `idle` are the boards before the engine's start, `ours` is its process. `ran_s` is how long the load had run
        when the round began, and `work` what was done where that was no batches of the load.
        """
        lead_in_s = self.left_of_lead_in_s(ran_s)
        found = energy_of_round(
            seen.recording,
            _work(seen.measured, load) if work is None else work,
            Around(idle, seen.before, seen.after),
            Terms(lead_in_s=lead_in_s, least_s=SHORTEST_WINDOW * self.window_s),
            limits_w=self._limits_w,
            ours={ours},
        )
        if voided := found.void:
            return without(voided.reason), Void(voided.guard, voided.reason)
        energy = found.energy
        if not seen.timed_here and not seen.recording.missing:
            energy = NoEnergy(ANOTHER_CLOCK, lasting=True)
        if isinstance(energy, Energy) and seen.measured.beside:
            energy = of_the_mix(energy, seen.measured.beside)
        values = _beside(seen.recording, seen.measured.started_ns + lead_in_s * NS_PER_S)
        unmeasured = {name: "no driver told it, or it was 0 all the time" for name in BOARD if name not in values}
        notes = tuple(f"{uuid}: {one.reason}" for uuid, told in found.findings.items() for one in told)
        if isinstance(energy, NoEnergy):
            nothing = EnergyRound(values, {**unmeasured, **dict.fromkeys(ENERGY, energy.reason)}, notes)
            return nothing, None if energy.lasting else Void("window", energy.reason)
        metrics = energy.metrics()
        values |= {name: quantity.value for name, quantity in metrics.items()}
        unmeasured |= {name: "there was none of it in the window" for name in ENERGY if name not in values}
        boards = {one.board: self._facts_of(one, found.power_capped) for one in energy.boards}
        per_token = metrics.get("joules_per_output_token")
        error = per_token.uncertainty if per_token else None
        mix = (NOTE,) if seen.measured.beside else ()
        return EnergyRound(values, unmeasured, (*notes, _described(energy), *mix), boards, error), None

    def _facts_of(self, one: BoardEnergy, power_capped: Mapping[str, float]) -> BoardFacts:
        idle = self._idle_w.get(one.board)
        return BoardFacts(
            one.source,
            self._limits_w.get(one.board),
            self._facts.simulated,
            power_capped=(round(power_capped[one.board], 4),) if one.board in power_capped else (),
            idle_w=round(idle.value, 3) if idle else None,
            idle_error_w=round(idle.value * idle.uncertainty.random, 3) if idle else None,
        )

    def close(self) -> None:
        """End the session."""
        if self._meter:
            self._meter.close()
            self._meter, self.missing = None, "the run has ended"


@dataclass
class RoundUnderway:
    """What the meter sees of a round, filled while it is served."""

    before: Mapping[str, BoardState]
    began_ns: int = 0
    ended_ns: int = 0
    recording: Recording = field(default_factory=lambda: Recording(()))
    after: Mapping[str, BoardState] = field(default_factory=dict)

    def of(self, measured: Measured) -> "BoardsRound":
        """The whole round, with what the engine says of it."""
        return BoardsRound(measured, (self.began_ns, self.ended_ns), self.recording, self.before, self.after)


@dataclass(frozen=True)
class BoardsRound:
    """A round as the engine and the meter saw it."""

    measured: Measured
    span_ns: tuple[int, int]
    recording: Recording
    before: Mapping[str, BoardState]
    after: Mapping[str, BoardState]

    @property
    def timed_here(self) -> bool:
        """Whether the engine's batches lie between the question and the answer: a simulated clock is another."""
        began_ns, ended_ns = self.span_ns
        early, late = began_ns - self.measured.started_ns, self.measured.ended_ns - ended_ns
        return max(early, late) <= CLOCK_SLACK_NS


def open_nvml(
    *,
    window_s: float,
    lead_in_s: float,
    index: int = 0,
    count: int = 1,
    slices: tuple[str, ...] = (),
    seen_s: float | None = None,
) -> Metering:
    """The boards that an engine takes: so many from this `device_index` on, by default the first that CUDA may see; or
    those that these MIG slices are parts of. `seen_s` is the part of each period that their sensors were found to see,
    where they work part time.
    """
    boards = slices or boards_at(index, count)
    if not slices and len(boards) < count:
        return Metering(None, window_s=window_s, lead_in_s=lead_in_s)
    meter = NvmlMeter(boards, pace=pace_for(window_s), seen_s=seen_s)
    metering = Metering(meter, window_s=window_s, lead_in_s=lead_in_s)
    return or_zeus(metering, gpus=tuple(range(index, index + count)))


def pace_for(window_s: float) -> Pace:
    """How often a meter looks, for LEAST_LOOKS in a window of so many seconds."""
    pace, often_s = Pace(), window_s / LEAST_LOOKS
    return replace(
        pace,
        edge_every_s=min(pace.edge_every_s, often_s),
        edge_within_s=min(pace.edge_within_s, often_s),
        sample_every_s=min(pace.sample_every_s, often_s),
    )


def open_rapl(*, window_s: float, lead_in_s: float, root: Path = Path("/")) -> Metering:
    """The packages of this machine's CPU; `root` holds its /sys."""
    return or_zeus(Metering(RaplMeter(root=root), window_s=window_s, lead_in_s=lead_in_s, devices=("cpu",)))


def open_ray(address: str, *, window_s: float, lead_in_s: float) -> Metering:
    """The nodes of a Ray cluster, each by a meter of its own."""
    from pytest_slmperf.pool.node_meters import ClusterMeter  # noqa: PLC0415 - of no other run
    from pytest_slmperf.pool.ray import Cluster  # noqa: PLC0415 - as it

    return Metering(
        ClusterMeter(Cluster(address, logs=False)), window_s=window_s, lead_in_s=lead_in_s, devices=(REMOTE,)
    )


def elsewhere(*, window_s: float, lead_in_s: float) -> Metering:
    """Of a server on another machine: there is nothing to be read."""
    metering = Metering(None, window_s=window_s, lead_in_s=lead_in_s)
    metering.missing = "the server is on another machine, and its joules can't be read from here"
    return metering


def or_zeus(metering: Metering, *, gpus: tuple[int, ...] = ()) -> Metering:
    """This, or where it has no joules what Zeus has, if that is installed: of these GPUs, or else of the whole chip."""
    if metering.source.source or not zeus_is_installed():
        return metering
    for wanted in dict.fromkeys((gpus, ())):
        other = Metering(
            ZeusMeter(wanted), window_s=metering.window_s, lead_in_s=metering.lead_in_s, devices=metering.devices
        )
        if not other.missing:
            metering.close()
            return other
        metering.nor_has(other.missing)
    return metering


def _settled(meter: Meter) -> Mapping[str, BoardState]:
    """The boards before an engine is started.

    The launch before leaves its memory and its share of a second's utilisation for a moment: a board that seems to be
    somebody else's is looked at again for SETTLE_S.
    """
    until = time.monotonic() + SETTLE_S
    while True:
        states = meter.states()
        if time.monotonic() > until or not any(map(_taken, states.values())):
            return states
        time.sleep(SETTLE_S / LEAST_LOOKS)


def _taken(state: BoardState) -> bool:
    """Whether somebody seems to be on a board where nobody of ours is."""
    return any(found.guard == "foreign" for found in judge_board(BoardRound(state, state, state)))


def _work(measured: Measured, load: Load) -> tuple[Work, ...]:
    """The batches of a round, of which an engine tells begin and end alone."""
    asked = tuple(output for _, output in load.lengths)
    return work_of([Served(begin, end, asked) for begin, end in measured.marks], tokens(load) - sum(asked))


def _beside(recording: Recording, from_ns: float) -> dict[str, float]:
    """What the driver says beside the joules from some instant on: of several boards the mean, and the sum of their
    memory. A sample is positive, so that what was 0 all the time is left out.
    """
    of_boards = [beside([one for one in samples if one.at_ns >= from_ns]) for samples in recording.samples.values()]
    of_boards.extend({"sm_activity": share} for share in recording.sm_activity.values())
    found = {}
    for name in BOARD:
        told = [one[name] for one in of_boards if name in one]
        value = (math.fsum(told) if name.endswith("_bytes") else fmean(told)) if told else 0.0
        if value > 0:
            found[name] = value
    return found


def _described(energy: Energy) -> str:
    """Source, window and error, as one line for the report."""
    quantity = energy.metrics()["mean_power_w"]
    error = quantity.uncertainty
    random, gain = COVERAGE_FACTOR * error.random, COVERAGE_FACTOR * error.gain
    parts = (("edges", error.edge), ("tokens", error.tokens), ("sensor", error.sensor))
    listed = ", ".join(f"{name} {COVERAGE_FACTOR * share:.2%}" for name, share in parts)
    return (
        f"joules come from {energy.source}, over {energy.seconds:.3g} s, ±{random:.2%} ({listed}) at 95 %; the gain of "
        f"this board's sensor, alike in all its runs, adds ±{gain:.1%}"
    )
