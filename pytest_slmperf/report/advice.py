"""Advice as lines for a terminal, and as JSON documents: see `schemas/advice.json`, and `schemas/mix.json` of a mix."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_slmperf.core.advising.advice import CONFIDENCE, Advice, Gain, Pays
from pytest_slmperf.core.advising.mix import Mix, Part
from pytest_slmperf.core.advising.question import Evidence, Question, Seen, Setting
from pytest_slmperf.core.memory import GIB
from pytest_slmperf.core.metrics import Metric
from pytest_slmperf.core.verdict import quantity
from pytest_slmperf.report.table import table

FORMAT = "slmperf-advice"
VERSION = 1


@dataclass(frozen=True)
class Told:
    """Everything that there is to say of one model."""

    model: str
    machine: str
    advice: Advice
    evidence: Evidence
    settled: bool
    why: str
    """Why nothing more is to be measured, or why it ended before."""
    launches: int
    """Of all settings, kept ones included; throw-away ones are none of them."""
    remarks: tuple[str, ...] = ()
    recorded: bool = False
    """Whether nothing was measured for it now."""


def lines(told: Told) -> list[str]:
    """What was measured, then what to run."""
    return [*_table(told), "", *_advice(told), *told.remarks]


def _advice(told: Told) -> Iterator[str]:
    advice, question = told.advice, told.advice.question
    if advice.pick is None:
        yield from _nothing(told)
    else:
        yield f"run {told.model} with {advice.pick.setting}"
        yield f"  {_value(advice.pick, question.objective)}{_over(advice)}"
        for limit in question.limits:
            bound = str(limit).partition(" ")[2]
            yield f"  {_value(advice.pick, limit.metric)} ({bound})"
        if advice.best and advice.best.setting != advice.pick.setting:
            yield f"  as good as {advice.best.setting}, {_value(advice.best, question.objective)}, and lighter"
    replication = advice.replication
    verdict = "replication" if replication.pays is not Pays.UNSURE else "whether replication pays"
    yield f"{verdict} {replication.pays}: {replication.said}"
    launches = f"{told.launches} launch{'es' * (told.launches != 1)}"
    if told.recorded:
        yield f"from {launches}: {told.why}"
    else:
        yield f"{'settled' if told.settled else 'not settled'} after {launches}: {told.why}"


def _nothing(told: Told) -> Iterator[str]:
    advice = told.advice
    yield f"nothing that was measured of {told.model} keeps the limits"
    if advice.nearest:
        missed = "; ".join(map(str, advice.misses))
        yield f"  nearest: {advice.nearest.setting}: {missed}"


def _over(advice: Advice) -> str:
    beside, pick, question = advice.beside, advice.pick, advice.question
    if beside is None or pick is None:
        return "; one instance at its largest batch was not measured"
    if beside.setting == pick.setting:
        return ", and that is one instance at its largest batch"
    there = _value(beside, question.objective).partition(" ")[2]
    missed = "" if beside.keeps(question.limits) else ", which misses a limit"
    return f": {advice.gain} over {beside.setting}, its largest, {there}{missed}"


def _value(one: Seen, meaning: Metric) -> str:
    value = one.of(meaning)
    return f"{meaning.name} {'unmeasured' if value is None else f'{quantity(value)} {meaning.unit}'}"


def _table(told: Told) -> list[str]:
    """A row for each setting. What is the same in all of them has no column: a line below says it."""
    question, advice = told.advice.question, told.advice
    seen = sorted(told.evidence.seen.values(), key=lambda one: (*_configured(one.setting), one.setting.batch))
    own = [
        ("dtype", [one.setting.series.dtype or "-" for one in seen]),
        ("threads", [str(one.setting.series.threads or "-") for one in seen]),
    ]
    varied = {name: cells for name, cells in own if len(set(cells)) > 1}
    headers = ["replicas", "batch", *varied, *(one.name for one in question.metrics), "launches", ""]
    rows = [
        [
            str(one.setting.series.replicas),
            _batch(one.setting),
            *(cells[row] for cells in varied.values()),
            *("-" if (value := one.of(it)) is None else f"{quantity(value)} {it.unit}" for it in question.metrics),
            str(max((len(values) for values in one.values.values()), default=0)),
            _mark(one, advice),
        ]
        for row, one in enumerate(seen)
    ]
    left = ("dtype", "")
    drawn = table(headers, rows, [header for header in headers if header not in left])
    alike = [f"{name} {cells[0]}" for name, cells in own if name not in varied and cells and cells[0] != "-"]
    return [*drawn, *([f"all with {', '.join(alike)}"] if alike else [])]


def _configured(setting: Setting) -> tuple[str, int, int]:
    series = setting.series
    return series.dtype, series.threads, series.replicas


def _batch(setting: Setting) -> str:
    """Of one instance, or of each of several, where they have the same."""
    replicas = setting.series.replicas
    if replicas == 1:
        return str(setting.batch)
    return f"{setting.batch // replicas} each" if setting.batch % replicas == 0 else f"{setting.batch} in all"


def _mark(one: Seen, advice: Advice) -> str:
    marks = []
    if advice.pick and one.setting == advice.pick.setting:
        marks.append("advised")
    if advice.beside and one.setting == advice.beside.setting:
        marks.append("compared with")
    if one.failed:
        marks.append("could not be run")
    elif not one.keeps(advice.question.limits):
        marks.append("misses a limit")
    return ", ".join(marks)


def document(told: Told) -> dict[str, Any]:
    """The same as dicts, lists, texts and finite numbers only."""
    advice, question = told.advice, told.advice.question
    replication = advice.replication
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": told.model,
        "machine": told.machine,
        "question": _question(question),
        "advised": _seen(advice.pick, question),
        "best": _seen(advice.best, question),
        "compared_with": _seen(advice.beside, question),
        "gain": _gain(advice.gain),
        "replication": {
            "verdict": str(replication.pays),
            "gain": _gain(replication.gain),
            "one_instance": _setting(replication.single),
            "several": _setting(replication.several),
        },
        "nearest": None
        if advice.nearest is None
        else {
            **_setting_of(advice.nearest.setting),
            "misses": [
                {"metric": miss.limit.metric.name, "value": miss.value, "excess": miss.limit.excess(miss.value)}
                for miss in advice.misses
            ],
        },
        "settled": told.settled,
        "why": told.why,
        "launches": told.launches,
        "settings": [_measured(one) for one in told.evidence.seen.values()],
        "remarks": list(told.remarks),
    }


def _question(question: Question) -> dict[str, Any]:
    return {
        "objective": question.objective.name,
        "unit": question.objective.unit,
        "higher_is_better": question.objective.higher_is_better,
        "limits": {limit.metric.name: limit.value for limit in question.limits},
        "within": question.within,
    }


def _setting_of(setting: Setting) -> dict[str, Any]:
    series = setting.series
    return {
        "batch": setting.batch,
        "replicas": series.replicas,
        "dtype": series.dtype or None,
        "threads": series.threads or None,
    }


def _setting(setting: Setting | None) -> dict[str, Any] | None:
    return None if setting is None else _setting_of(setting)


def _seen(one: Seen | None, question: Question) -> dict[str, Any] | None:
    if one is None:
        return None
    values = {meaning.name: one.of(meaning) for meaning in question.metrics}
    return {**_setting_of(one.setting), "medians": values}


def _measured(one: Seen) -> dict[str, Any]:
    samples = {name: list(values) for name, values in one.values.items()}
    return {**_setting_of(one.setting), "samples": samples, "failed": one.failed or None}


def _gain(gain: Gain | None) -> dict[str, Any] | None:
    if gain is None:
        return None
    return {"ratio": gain.ratio, "low": gain.low, "high": gain.high, "confidence": CONFIDENCE}


def text(document: Mapping[str, Any]) -> str:
    """A JSON document as text."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


@dataclass(frozen=True)
class ToldMix:
    """A plan for several models, and how far it can be relied on."""

    mix: Mix
    objective: Metric
    remarks: tuple[str, ...] = field(default_factory=tuple)


def mix_lines(told: ToldMix) -> list[str]:
    """Each model's place, then what each device is asked for."""
    unit = told.objective.unit
    headers = ["model", "devices", "memory", "replicas", "batch", f"alone [{unit}]", f"expected [{unit}]", "wanted"]
    rows = [_part(part) for part in told.mix.parts]
    said = table(headers, rows, headers[2:])
    return [*said, "", *_devices(told.mix), *told.remarks]


def _part(part: Part) -> list[str]:
    where = ", ".join(map(str, part.devices)) + (f" (tensor parallel over {part.spread})" if part.spread > 1 else "")
    rates = ["-" if rate is None else quantity(rate) for rate in (part.alone, part.expected, part.wanted)]
    rates[-1] += " (missed)" if part.met is False else ""
    return [part.model, where, f"{part.memory_share:.1%}", str(part.replicas), str(part.batch), *rates]


def _devices(mix: Mix) -> Iterator[str]:
    for device, busy in enumerate(mix.busy):
        memory = sum(part.replicas * part.memory_share for part in mix.parts if device in part.devices)
        asked = "what it is asked for isn't known" if busy is None else f"asked for {busy:.0%} of its time"
        yield f"device {device}: {memory:.0%} of {mix.memory_bytes / GIB:.1f} GiB, {asked}"


def mix_document(told: ToldMix) -> dict[str, Any]:
    """The same as dicts, lists, texts and finite numbers only."""
    mix = told.mix
    return {
        "format": "slmperf-mix",
        "version": VERSION,
        "objective": told.objective.name,
        "met": mix.met,
        "memory_bytes": mix.memory_bytes,
        "busy": list(mix.busy),
        "parts": [
            {
                "model": part.model,
                "devices": list(part.devices),
                "tensor_parallel_size": part.spread,
                "memory_share": part.memory_share,
                "replicas": part.replicas,
                "batch": part.batch,
                "alone": part.alone,
                "expected": part.expected,
                "wanted": part.wanted,
            }
            for part in mix.parts
        ],
        "remarks": list(told.remarks),
    }
