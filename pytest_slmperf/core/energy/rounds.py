"""The joules of a round of several boards: counted, judged by each board's guards, and void where one of them is."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from pytest_slmperf.core.devices.board import BoardRound, BoardSample, Effect, Finding
from pytest_slmperf.core.devices.edges import judge_trace
from pytest_slmperf.core.energy.tally import Work
from pytest_slmperf.core.energy.window import AVERAGE_LAG_S, BoardEnergy, Energy, NoEnergy, Terms, energy_of
from pytest_slmperf.core.guards.board import judge_board, power_cap_share, void
from pytest_slmperf.core.meter import Around, Recording
from pytest_slmperf.core.units import NS_PER_S

PLAUSIBLE = 0.1
"""Share by which a counter and power readings of one board may differ under load. Idle, they may differ by far more."""


@dataclass(frozen=True, slots=True)
class RoundEnergy:
    """The joules of a round, unless a guard voids them, and what the guards found."""

    energy: Energy | NoEnergy
    findings: Mapping[str, tuple[Finding, ...]]
    """By board."""
    power_capped: Mapping[str, float]
    """By board: share of the round in which its power limit held it back. None of those whose driver doesn't tell."""

    @property
    def void(self) -> Finding | None:
        """The first finding that voids, naming its board, or None."""
        for board, found in self.findings.items():
            if voided := void(found):
                return replace(voided, reason=f"{board}: {voided.reason}")
        return None


def energy_of_round(
    recording: Recording,
    work: Sequence[Work],
    around: Around,
    terms: Terms,
    *,
    limits_w: Mapping[str, float | None] = {},
    ours: Collection[int] = (),
) -> RoundEnergy:
    """The joules of all boards of a meter while this work was done, and what is to be said of each board.

    `limits_w` are the boards' power limits when the meter was opened, where known; `ours` are processes known to be
    ours. A board that could not be read, or that a guard voids, leaves all without joules.
    """
    energy = energy_of(recording.traces, work, terms)
    if recording.missing:
        told = (f"{board}: {why}" for board, why in recording.missing.items())
        energy = NoEnergy("; ".join(told), lasting=True)
    counted = {one.board: one for one in energy.boards} if isinstance(energy, Energy) else {}
    steady_ns = work[0].started_ns + terms.lead_in_s * NS_PER_S if work else 0.0
    findings: dict[str, tuple[Finding, ...]] = {}
    capped: dict[str, float] = {}
    for board in around.before:
        faults = (judge_trace(trace) for trace in recording.traces if trace.board == board)
        samples = recording.samples.get(board, ())
        seen = BoardRound(around.idle[board], around.before[board], around.after[board], samples, steady_ns)
        implausible = judge_plausibility(counted[board], samples) if board in counted else None
        judged = judge_board(seen, power_limit_w=limits_w.get(board), ours=ours)
        findings[board] = (*filter(None, faults), *judged, *filter(None, [implausible]))
        share = power_cap_share(seen)
        if share is not None:
            capped[board] = share
    found = RoundEnergy(energy, findings, capped)
    voided = found.void
    return replace(found, energy=NoEnergy(voided.reason)) if voided else found


def judge_plausibility(one: BoardEnergy, samples: Sequence[BoardSample]) -> Finding | None:
    """Marked where a board's counter and its power readings tell two stories of one window.

    A reading is a mean of what came before it, so those of the window's first second are left out.
    """
    first_ns = one.from_ns + 2 * AVERAGE_LAG_S * NS_PER_S
    told = [sample.power_w for sample in samples if first_ns <= sample.at_ns <= one.to_ns and sample.power_w]
    counted_w = one.joules / one.seconds
    if not told or abs(fmean(told) / counted_w - 1) <= PLAUSIBLE:
        return None
    return Finding(
        "implausible",
        Effect.MARKED,
        f"its {one.source} says {counted_w:,.1f} W and its power readings {fmean(told):,.1f} W",
    )
