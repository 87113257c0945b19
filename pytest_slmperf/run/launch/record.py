"""A case's record: what a way of measuring found, beside what is told of any case."""

from collections.abc import Mapping, Sequence
from statistics import median

from pytest_slmperf.core.launch import CaseRecord
from pytest_slmperf.core.load.mix_metrics import mix_metrics
from pytest_slmperf.core.metrics import CORE_PACE
from pytest_slmperf.core.protocol import PeakMeasured
from pytest_slmperf.run.launch.rounds import Case, Found

PEAK = "peak_memory_bytes"


def recorded(
    case: Case, found: Found, *, startup: Mapping[str, float], peak: PeakMeasured, quantiles: Sequence[float]
) -> CaseRecord:
    """The record of a case that has all its rounds. `startup` are metrics of the engine's start."""
    values, unmeasured = dict(found.values), dict(found.unmeasured)
    of_mix = mix_metrics([some for some, _ in found.beside], [span for _, span in found.beside], quantiles)
    values.update(of_mix.values)
    unmeasured.update(of_mix.unmeasured)
    values.update({name: (value,) for name, value in startup.items()})
    if case.seen.pace_ns:
        values[CORE_PACE] = (median(case.seen.pace_ns),)
    if peak.memory_bytes is not None and PEAK not in unmeasured:
        values[PEAK] = (float(peak.memory_bytes),)
    else:
        unmeasured.setdefault(PEAK, peak.reason)
    values.update({name: (value,) for name, value in found.energy.values.items()})
    unmeasured.update(found.energy.unmeasured)
    return CaseRecord(
        case.load.case,
        values,
        unmeasured,
        tuple(case.voids),
        notes=(*case.notes, *found.notes, *of_mix.notes),
        boards=found.energy.boards,
        meter_error=found.energy.error,
        intervals=found.intervals,
    )


def voided(case: Case, round_: str, *, tries: int) -> CaseRecord:
    """The record of a case of which this round stayed void, in so many tries."""
    last = case.voids[-1]
    tried = "" if last.guard == "unanswered" else f" (tried {tries} times)"
    void = f"{round_}{tried}: {last.reason}"
    return CaseRecord(case.load.case, {}, void_rounds=tuple(case.voids), void=void, notes=tuple(case.notes))
