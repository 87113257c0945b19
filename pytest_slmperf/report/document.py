"""The JSON report: a run as a document, and the document as a run again.

The published schema is `schemas/report.json`. A document holds every raw value, so that a report can be judged again,
rendered on another machine, or accepted as a baseline. JSON has no infinity: an unbounded number is null.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from pytest_slmperf.core.beside import Beside
from pytest_slmperf.core.devices.board import BoardFacts
from pytest_slmperf.core.energy.idle import net_of_idle
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import SlmperfError
from pytest_slmperf.core.explain import Explanation, explained
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import CaseOutcome, FreshSamples, RunOutcome, SweepOutcome
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.core.roofline import Reading, Roof
from pytest_slmperf.core.sample import Measurement, Sample, VoidRound
from pytest_slmperf.core.verdict import Effect, Status, Verdict

FORMAT = "slmperf-report"
VERSION = 1
CONFIDENCE = 0.95


def document(run: RunOutcome) -> dict[str, Any]:
    """The JSON report of a run: dicts, lists, texts and finite numbers only."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "machine": {"device": run.machine.device, "driver": run.machine.driver, "fields": dict(run.machine.fields)},
        "started_at": run.started_at,
        "seconds": run.seconds,
        "launches": sum(sweep.launches for sweep in run.sweeps),
        "commit": run.commit,
        "complete": run.complete,
        "whole": run.whole,
        "tier": run.tier,
        "recorded": run.recorded,
        "counts": counts(run),
        "problems": list(run.problems),
        "remarks": list(run.remarks),
        "claims": [_claim_document(claim) for claim in run.claims],
        "failed_tests": list(run.failed_tests),
        "roofs": {place: _roof_document(roof) for place, roof in run.roofs.items()},
        "sweeps": [_sweep_document(run, sweep) for sweep in run.sweeps],
    }


def text(run: RunOutcome) -> str:
    """The JSON report as text: one line, as it travels between processes and is stored."""
    return json.dumps(document(run), ensure_ascii=False, allow_nan=False) + "\n"


def counts(run: RunOutcome) -> dict[str, int]:
    """How many verdicts came to each status, in the order of Status; statuses that nothing came to are left out.

    What was recorded or only reported is not counted: nobody judged it.
    """
    seen = Counter(verdict.status for verdict in judged(run))
    return {str(status): seen[status] for status in Status if seen[status]}


def judged(run: RunOutcome) -> Iterable[Verdict]:
    """Every verdict of a run that somebody was to judge: of the gated metrics, then what tests claimed beside them."""
    for sweep in run.sweeps:
        for case in sweep.cases.values():
            yield from (verdict for verdict in case.verdicts.values() if verdict.judged)
    yield from run.claims


def outcome(document: Mapping[str, Any]) -> RunOutcome:
    """The run that a report was written from. Raises SlmperfError for what is no report, or one of a later version.

    Only the format and the version are checked here; `run.schema` checks the rest where a document comes from outside.
    """
    if document.get("format") != FORMAT:
        raise SlmperfError(f"this is no report of slmperf: its format is {document.get('format')!r}, not {FORMAT!r}")
    if document.get("version") != VERSION:
        raise SlmperfError(
            f"this report has version {document.get('version')!r}, and this slmperf reads version {VERSION}; "
            "read it with the release that wrote it"
        )
    machine = document["machine"]
    return RunOutcome(
        machine=Machine(machine["device"], machine["driver"], machine["fields"]),
        sweeps=tuple(_sweep(entry) for entry in document["sweeps"]),
        started_at=document["started_at"],
        seconds=document["seconds"],
        commit=document["commit"],
        complete=document["complete"],
        whole=document["whole"],
        tier=document["tier"],
        recorded=document["recorded"],
        problems=tuple(document["problems"]),
        remarks=tuple(document["remarks"]),
        claims=tuple(_claim(entry) for entry in document["claims"]),
        failed_tests=tuple(document["failed_tests"]),
        roofs={place: _roof(entry) for place, entry in document.get("roofs", {}).items()},
    )


def _roof_document(roof: Roof) -> dict[str, Any]:
    return {**asdict(roof), "readings": list(map(asdict, roof.readings))}


def _roof(entry: Mapping[str, Any]) -> Roof:
    return Roof(**{**entry, "readings": tuple(Reading(**one) for one in entry["readings"])})


def _sweep_document(run: RunOutcome, sweep: SweepOutcome) -> dict[str, Any]:
    return {
        "sweep": sweep.sweep,
        "design": sweep.design,
        "mode": sweep.mode,
        "specs": [asdict(spec) for spec in sweep.specs],
        "baseline_specs": [asdict(spec) for spec in sweep.baseline_specs],
        "versions": dict(sweep.versions),
        "baseline_versions": None if sweep.baseline_versions is None else dict(sweep.baseline_versions),
        "launches": sweep.launches,
        "fresh_launches": sweep.fresh_launches,
        "seconds": sweep.seconds,
        "skipped": dict(sweep.skipped),
        "unselected": list(sweep.unselected),
        "notes": list(sweep.notes),
        "asked": dict(sweep.asked),
        "cases": [_case_document(case, explained(run, case)) for case in sweep.cases.values()],
    }


def _sweep(entry: Mapping[str, Any]) -> SweepOutcome:
    cases = [_case(case) for case in entry["cases"]]
    return SweepOutcome(
        sweep=entry["sweep"],
        design=entry["design"],
        mode=entry["mode"],
        cases={case.case: case for case in cases},
        specs=tuple(map(_spec, entry["specs"])),
        versions=entry["versions"],
        baseline_versions=entry["baseline_versions"],
        launches=entry["launches"],
        seconds=entry["seconds"],
        skipped=entry["skipped"],
        unselected=tuple(entry["unselected"]),
        notes=tuple(entry["notes"]),
        asked=entry["asked"],
        baseline_specs=tuple(map(_spec, entry["baseline_specs"])),
        fresh_launches=entry["fresh_launches"],
    )


def _spec(entry: Mapping[str, Any]) -> EngineSpec:
    pool = entry.get("pool")
    pool = pool and Pool(**{**pool, "addresses": tuple(pool["addresses"])})
    beside = tuple(Beside(**one) for one in entry.get("beside", ()))
    return EngineSpec(**{**entry, "pool": pool, "beside": beside})


def _case_document(case: CaseOutcome, explanation: Explanation | None) -> dict[str, Any]:
    tolerances = {name: verdict.tolerance for name, verdict in case.verdicts.items()}
    measured = _measurement_document(case.measurement, tolerances)
    baseline = None if case.baseline is None else _measurement_document(case.baseline, tolerances)
    return {
        "case": case.case,
        "coordinates": dict(case.coordinates),
        **measured,
        "explanation": {**asdict(explanation), "differs": list(explanation.differs)} if explanation else None,
        "baseline_samples": None if baseline is None else baseline.pop("samples"),
        "baseline": baseline,
        "verdicts": {name: _verdict_document(verdict) for name, verdict in case.verdicts.items()},
        "fresh_from": case.fresh_from,
        "fresh": _fresh_document(case.fresh, tolerances),
        "fresh_baseline": _fresh_document(case.fresh_baseline, tolerances),
    }


def _case(entry: Mapping[str, Any]) -> CaseOutcome:
    baseline = entry["baseline"]
    return CaseOutcome(
        case=entry["case"],
        coordinates=entry["coordinates"],
        measurement=_measurement(entry["case"], entry, entry["samples"]),
        baseline=None if baseline is None else _measurement(entry["case"], baseline, entry["baseline_samples"]),
        verdicts={name: _verdict(entry["case"], name, verdict) for name, verdict in entry["verdicts"].items()},
        fresh_from=entry["fresh_from"],
        fresh=_fresh(entry["fresh"]),
        fresh_baseline=_fresh(entry["fresh_baseline"]),
    )


def _fresh_document(fresh: FreshSamples | None, tolerances: Mapping[str, float | None]) -> dict[str, Any] | None:
    if fresh is None:
        return None
    return {
        "launches": list(fresh.launches),
        "samples": _sample_documents(fresh.samples, tolerances),
        "notes": list(fresh.notes),
    }


def _fresh(entry: Mapping[str, Any] | None) -> FreshSamples | None:
    if entry is None:
        return None
    return FreshSamples(tuple(entry["launches"]), _samples(entry["samples"]), tuple(entry["notes"]))


def _measurement_document(measurement: Measurement, tolerances: Mapping[str, float | None]) -> dict[str, Any]:
    return {
        "key": dict(measurement.key),
        "samples": _sample_documents(measurement.samples, tolerances),
        "unmeasured": dict(measurement.unmeasured),
        "void": measurement.void,
        "void_rounds": [
            {"launch": void.launch, "guard": void.guard, "reason": void.reason} for void in measurement.void_rounds
        ],
        "notes": list(measurement.notes),
        "boards": {uuid: asdict(board) for uuid, board in measurement.boards.items()},
        "net_of_idle": asdict(net) if (net := net_of_idle(measurement)) else None,
        "round_intervals": {
            name: [[bounds and list(bounds) for bounds in rounds] for rounds in launches]
            for name, launches in measurement.intervals.items()
        },
    }


def _measurement(case: str, entry: Mapping[str, Any], samples: Mapping[str, Any]) -> Measurement:
    return Measurement(
        case=case,
        key=entry["key"],
        samples=_samples(samples),
        unmeasured=entry["unmeasured"],
        void=entry["void"],
        void_rounds=tuple(VoidRound(**void) for void in entry["void_rounds"]),
        notes=tuple(entry["notes"]),
        boards={uuid: BoardFacts.of(board) for uuid, board in entry["boards"].items()},
        intervals={
            name: tuple(tuple(bounds and (bounds[0], bounds[1]) for bounds in rounds) for rounds in launches)
            for name, launches in entry.get("round_intervals", {}).items()
        },
    )


def _sample_documents(
    samples: Mapping[str, Sample], tolerances: Mapping[str, float | None]
) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "unit": metric(name).unit,
            "higher_is_better": metric(name).higher_is_better,
            "tolerance": tolerances.get(name),
            "launches": [list(rounds) for rounds in sample.launches],
        }
        for name, sample in samples.items()
    }


def _samples(entries: Mapping[str, Any]) -> dict[str, Sample]:
    return {name: Sample.of(entry["launches"]) for name, entry in entries.items()}


def _verdict_document(verdict: Verdict) -> dict[str, Any]:
    effect = verdict.effect
    return {
        "verdict": str(verdict.status),
        "unit": verdict.unit,
        "higher_is_better": verdict.higher_is_better,
        "tolerance": verdict.tolerance,
        "ratio": effect.ratio if effect else None,
        "low": (effect.low or None) if effect else None,
        "high": _bounded(effect.high) if effect else None,
        "confidence": CONFIDENCE if effect else None,
        "mde": _bounded(effect.mde) if effect else None,
        "baseline_median": effect.baseline if effect else None,
        "candidate_median": effect.candidate if effect else None,
        "baseline_shape": effect.baseline_shape if effect else None,
        "candidate_shape": effect.candidate_shape if effect else None,
        "reason": verdict.reason,
        "way_out": verdict.way_out,
        "final": verdict.final,
        "judged": verdict.judged,
    }


def _verdict(case: str, name: str, entry: Mapping[str, Any]) -> Verdict:
    return Verdict(
        status=Status(entry["verdict"]),
        metric=name,
        unit=entry["unit"],
        higher_is_better=entry["higher_is_better"],
        case=case,
        tolerance=entry["tolerance"],
        effect=None if entry["ratio"] is None else _effect(entry),
        reason=entry["reason"],
        way_out=entry["way_out"],
        final=entry["final"],
        judged=entry["judged"],
    )


def _claim_document(claim: Verdict) -> dict[str, Any]:
    return {
        "case": claim.case,
        "metric": claim.metric,
        "verdict": str(claim.status),
        "unit": claim.unit,
        "higher_is_better": claim.higher_is_better,
        "limit": claim.limit,
        "measured": claim.measured,
        "reason": claim.reason,
        "way_out": claim.way_out,
    }


def _claim(entry: Mapping[str, Any]) -> Verdict:
    return Verdict(
        status=Status(entry["verdict"]),
        metric=entry["metric"],
        unit=entry["unit"],
        higher_is_better=entry["higher_is_better"],
        case=entry["case"],
        reason=entry["reason"],
        way_out=entry["way_out"],
        limit=entry["limit"],
        measured=entry["measured"],
    )


def _effect(entry: Mapping[str, Any]) -> Effect:
    return Effect(
        baseline=entry["baseline_median"],
        candidate=entry["candidate_median"],
        ratio=entry["ratio"],
        low=entry["low"] or 0.0,
        high=math.inf if entry["high"] is None else entry["high"],
        mde=math.inf if entry["mde"] is None else entry["mde"],
        baseline_shape=entry["baseline_shape"],
        candidate_shape=entry["candidate_shape"],
    )


def _bounded(value: float) -> float | None:
    return value if math.isfinite(value) else None
