"""A case on its way through a campaign: the launches that it has and still wants, and what they amount to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from pytest_slmperf.core.devices.board import BoardFacts, of_all_launches
from pytest_slmperf.core.energy.same_joules import another_board, joules_apart
from pytest_slmperf.core.energy.window import meter_decides
from pytest_slmperf.core.guards.void import way_out
from pytest_slmperf.core.launch import CaseRecord, Load
from pytest_slmperf.core.metrics import CLOCK, ENERGY
from pytest_slmperf.core.outcome import FreshSamples
from pytest_slmperf.core.sample import NOT_IN_BOTH_ARMS, Interval, Measurement, Sample, VoidRound
from pytest_slmperf.core.sweeps.search import FOUND
from pytest_slmperf.core.sweeps.sweep import Case
from pytest_slmperf.core.verdict import Status, Verdict
from pytest_slmperf.run.brief import Configuration, Reference

VOID_ALLOWANCE = 4
"""Launches that may be void for a case before the case is."""


class Phase(Enum):
    """How far the gate is with a case."""

    UNJUDGED = auto()
    """It has no look: the run judges nothing, or the launches are made for a knee or a frontier."""
    LOOKING = auto()
    """It looks as launches come in, and asks for more of them."""
    CONFIRMING = auto()
    """It waits for the fresh launches of what looked regressed; nothing is `regressed` yet, however many there are."""
    CONFIRMED = auto()
    """It has judged the fresh launches."""


@dataclass
class OngoingCase:
    """The blocks of a case that were measured, and what the gate has said of them so far."""

    case: Case
    configuration: Configuration
    load: Load
    keys: Mapping[str, dict[str, object]]
    """By arm."""
    stored: Reference
    wanted: int
    """Valid blocks, with those that there are."""
    phase: Phase
    note: str | None = None
    blocks: list[dict[str, tuple[int, CaseRecord]]] = field(default_factory=list)
    """Valid blocks in time order; a block has a record for each arm, with the launch's index."""
    voids: list[dict[str, tuple[int, CaseRecord]]] = field(default_factory=list)
    """Blocks with a void launch in some arm: listed, and not used."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    fresh_from: int | None = None
    """Block at which the confirmation began."""
    again: "OngoingCase | None" = None
    """The same case in launches made for a knee or a frontier that looked regressed; the gate doesn't look at them."""

    @property
    def name(self) -> str:
        """`decode/opt-125m/batch=64`."""
        return self.case.name

    @property
    def to_send(self) -> Load:
        """Its load. A search begins at what the baseline holds, or else at what the first launch found: all later ones
        at the same place, so that none hangs on the one before it.
        """
        if not self.load.search:
            return self.load
        name, stored = FOUND[self.case.axis], self.stored.measurement
        known = stored.samples.get(name) if stored else None
        first = (one.values[name][0] for block in self.blocks[:1] for _, one in block.values() if name in one.values)
        return replace(self.load, begin=known.median if known else next(first, None))

    @property
    def exhausted(self) -> bool:
        """Whether too many of its launches were void: it gets no more."""
        return len(self.voids) > VOID_ALLOWANCE

    @property
    def missing(self) -> int:
        """Launches that it still wants, in each arm."""
        return 0 if self.exhausted else max(0, self.wanted - len(self.blocks))

    def confirm_by(self, launches: int) -> None:
        """Want so many fresh launches in each arm, by which alone what looked regressed is confirmed."""
        self.phase, self.fresh_from = Phase.CONFIRMING, len(self.blocks)
        self.wanted = self.fresh_from + launches

    def launched(self, arm: str) -> list[tuple[int, CaseRecord]]:
        """Every launch of an arm in time order: the void ones and those made again, too."""
        own = [block[arm] for block in (*self.blocks, *self.voids)]
        return sorted(own, key=lambda entry: entry[0]) + (self.again.launched(arm) if self.again else [])

    @property
    def why_void(self) -> str:
        """Why the last void block was: of a case that is exhausted."""
        return next(record.void for _, record in self.voids[-1].values() if record.void)

    @property
    def way_out_of_void(self) -> str:
        """What helps against the guard that made the last void block so."""
        record = next(record for _, record in self.voids[-1].values() if record.void)
        return way_out(record.void_rounds[-1].guard if record.void_rounds else "")

    def measured(self, arm: str, name: str) -> bool:
        """Whether some launch of this arm measured a metric, whatever the other arm did."""
        return any(name in block[arm][1].values for block in self.blocks)

    def sample(self, arm: str, name: str, start: int = 0) -> Sample | None:
        """An arm's samples of a metric, from a block on, over the blocks whose launches all measured it."""
        launches = [block[arm][1].values[name] for block in self._complete(name, start)]
        return Sample.of(launches) if launches else None

    def _complete(self, name: str, start: int = 0) -> list[dict[str, tuple[int, CaseRecord]]]:
        """The blocks from one on whose launches all measured a metric."""
        return [block for block in self.blocks[start:] if all(name in one.values for _, one in block.values())]

    def fresh_samples(self, arm: str) -> FreshSamples | None:
        """What an arm's launches made for a claim amount to by now; None where none is valid."""
        if not self.blocks:
            return None
        measurement = self.measurement(arm)
        launches = tuple(block[arm][0] for block in self.blocks)
        return FreshSamples(launches, measurement.samples, measurement.notes)

    def _boards(self) -> tuple[Mapping[str, BoardFacts], Mapping[str, BoardFacts]]:
        """What the joules of now and those of the baseline hold for; both empty where one of them has none."""
        now = of_all_launches(block["candidate"][1].boards for block in self.blocks)
        was = self.stored.measurement.boards if self.stored.measurement else {}
        return (now, was) if now and was else ({}, {})

    @property
    def _of_no_board(self) -> bool:
        """Whether joules are stored without the board that they hold for: a file that was edited."""
        stored = self.stored.measurement
        return stored is not None and not stored.boards and not stored.samples.keys().isdisjoint(ENERGY)

    @property
    def another_board(self) -> str | None:
        """Why joules are reported and not gated: the baseline's are of another board. None where they aren't."""
        return another_board(*self._boards())

    def joules_apart(self) -> tuple[Status, str, str] | None:
        """Why joules are not compared with the stored ones, what that is called and how to go on; None where they are.
        The other arm's are of the same board, at the same time.
        """
        if self._of_no_board:
            return Status.INCOMPARABLE, "the baseline doesn't say of which board its joules are", "record again"
        now, was = self._boards()
        if not now or not self.stored.measurement:
            return None
        clocks = self.sample("candidate", CLOCK), self.stored.measurement.samples.get(CLOCK)
        now_mhz, was_mhz = (clock.median if clock else None for clock in clocks)
        return joules_apart(now, was, (now_mhz, was_mhz))

    def measurement(self, arm: str) -> Measurement:
        """What an arm's launches amount to by now."""
        records = [block[arm] for block in self.blocks]
        names = dict.fromkeys(name for _, record in records for name in record.values)
        samples = {name: sample for name in names if (sample := self.sample(arm, name))}
        unmeasured = {
            name: reason for _, record in records for name, reason in record.unmeasured.items() if name not in samples
        }
        unmeasured |= dict.fromkeys((name for name in names if name not in samples), NOT_IN_BOTH_ARMS)
        notes = [note for _, record in records for note in record.notes]
        parts = {name: len(sample.launches) for name, sample in samples.items() if len(sample.launches) < len(records)}
        boards = of_all_launches(record.boards for _, record in records)
        errors = [record.meter_error for _, record in records if record.meter_error]
        if decides := meter_decides(errors, samples.get("joules_per_output_token"), boards):
            notes.append(decides)
        across = "both arms" if len(self.keys) > 1 else "all"
        voids: list[VoidRound] = []
        for index, record in self.launched(arm):
            voids.extend(replace(void, launch=index) for void in record.void_rounds)
        void = None
        if self.exhausted and self.fresh_from is None and len(self.blocks) < self.wanted:
            void = self.why_void
        return Measurement(
            case=self.name,
            key=self.keys[arm],
            samples=samples,
            unmeasured=unmeasured,
            void_rounds=tuple(voids),
            void=void,
            notes=(
                *_counted(notes),
                *(
                    f"{name} is of {some} of {len(records)} launches: not {across} measured it"
                    for name, some in parts.items()
                ),
            ),
            boards=boards,
            intervals={name: some for name in samples if (some := self._intervals(arm, name))},
        )

    def _intervals(self, arm: str, name: str) -> tuple[tuple[Interval | None, ...], ...]:
        """What an arm's rounds alone tell of a metric, beside the values of its sample; empty where none tells any."""
        records = [block[arm][1] for block in self._complete(name)]
        if not any(name in record.intervals for record in records):
            return ()
        return tuple(record.intervals.get(name, (None,) * len(record.values[name])) for record in records)


def _counted(notes: Sequence[str]) -> tuple[str, ...]:
    """Notes of the same kind (alike in their first words) as one, the first, with the number of launches."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for note in notes:
        kinds.setdefault(tuple(note.split()[:4]), []).append(note)
    return tuple(f"{alike[0]} (in {len(alike)} launches)" if len(alike) > 1 else alike[0] for alike in kinds.values())
