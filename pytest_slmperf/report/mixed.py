"""What a planned mix gave when it was measured: lines for a terminal, and `measured` of `schemas/mix.json`."""

from collections.abc import Iterator, Sequence
from typing import Any

from pytest_slmperf.core.advising.mixed import LATENCY, Bounded, MeasuredPart
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.verdict import quantity
from pytest_slmperf.report.table import table


def lines(measured: Sequence[MeasuredPart]) -> list[str]:
    """A row for each part, then whatever its row can't say."""
    unit = measured[0].question.objective.unit
    headers = ["in the mix", f"planned [{unit}]", f"measured [{unit}]", "slowdown", *_latencies(measured), ""]
    rows = [_row(one, measured) for one in measured]
    return [*table(headers, rows, headers[1:-1]), *_said(measured)]


def _latencies(measured: Sequence[MeasuredPart]) -> list[str]:
    """What is limited, and the latency between tokens."""
    return list(dict.fromkeys((LATENCY, *(one.metric.name for one in measured[0].question.limits))))


def _row(one: MeasuredPart, measured: Sequence[MeasuredPart]) -> list[str]:
    values = [one.latencies.get(name) for name in _latencies(measured)]
    units = [metric(name).unit for name in _latencies(measured)]
    told = ["-" if value is None else f"{quantity(value)} {unit}" for value, unit in zip(values, units, strict=True)]
    planned = "-" if one.part.expected is None else quantity(one.part.expected)
    verdict = {None: "not measured", True: "met", False: "missed"}[one.met]
    return [one.part.model, planned, _bounded(one.rate), _bounded(one.slowdown), *told, verdict]


def _bounded(value: Bounded | None) -> str:
    if value is None:
        return "-"
    interval = "" if value.low is None or value.high is None else f" ({quantity(value.low)}…{quantity(value.high)})"
    return quantity(value.value) + interval


def _said(measured: Sequence[MeasuredPart]) -> Iterator[str]:
    for one in measured:
        name = one.part.model
        if one.unmeasured:
            yield f"{name} was not measured in the mix: {one.unmeasured}"
            continue
        if one.no_slowdown:
            yield f"{name}: its slowdown isn't told: {one.no_slowdown}"
        for limit in one.missed:
            yield f"{name} misses a limit in the mix: {limit}"
        if one.met is False and not one.missed:
            yield f"{name} gives less in the mix than the {quantity(one.part.wanted or 0)} that it must"


def document(measured: Sequence[MeasuredPart]) -> list[dict[str, Any]]:
    """The same as dicts, lists, texts and finite numbers only, in the order of the plan's parts."""
    return [
        {
            "model": one.part.model,
            "planned": one.part.expected,
            "rate": _interval(one.rate),
            "slowdown": _interval(one.slowdown),
            "latencies": dict(one.latencies),
            "limits": {limit.metric.name: limit not in one.missed for limit in one.question.limits}
            if one.mixed
            else {},
            "met": one.met,
            "launches": one.mixed.launches(one.question) if one.mixed else 0,
            "unmeasured": one.unmeasured or None,
            "no_slowdown": one.no_slowdown or None,
        }
        for one in measured
    ]


def _interval(value: Bounded | None) -> dict[str, float | None] | None:
    return None if value is None else {"value": value.value, "low": value.low, "high": value.high}
