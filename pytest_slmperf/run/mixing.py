"""Measures a planned mix: each model launched while the others serve beside it, under their planned batches."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_slmperf.core.advising.mix import Mix, Part
from pytest_slmperf.core.advising.mixed import MeasuredPart, company, comparable, threads_of, unmeasurable
from pytest_slmperf.core.advising.question import Question, Seen, Series, Setting
from pytest_slmperf.core.engine import EngineSpec, model_name
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.machine import SIMULATED, Machine, slug
from pytest_slmperf.core.memory import GIB, RESERVE_BYTES, USABLE, Tenant, lacking_bytes
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.core.shapes import shape_of
from pytest_slmperf.run.advising import Wanted, settle
from pytest_slmperf.run.devices import machine_of
from pytest_slmperf.run.launch.terms import TellRetry, TellRound
from pytest_slmperf.run.pinning import usable_cores
from pytest_slmperf.run.settings import Settings

SPENT = "the budget is spent; the same command goes on"


@dataclass(frozen=True)
class Alone:
    """What the plan rests on of one model."""

    seen: Mapping[Setting, Seen]
    machine: str
    """Empty where nothing was measured."""
    terms: Mapping[str, object]
    """As its results name them: `engine`, `prompt_tokens`, `output_tokens`, …"""


@dataclass(frozen=True)
class WantedMix:
    """What is to be measured, and how."""

    mix: Mix
    question: Question
    spec: EngineSpec
    """The engine; its model, type, threads, pool and company are each part's."""
    tokens: tuple[int, int]
    """Of the prompt and the output of each request."""
    settings: Settings
    launches: int
    """Of each part."""
    alone: Mapping[str, Alone]
    """By model."""
    budget_s: float | None = None
    retry_failed: bool = False
    """Whether a part that could not be run by what is kept is launched again."""


def measure(
    wanted: WantedMix, path: Path, *, say: Callable[[str], object], tell: TellRound, retrying: TellRetry
) -> tuple[MeasuredPart, ...]:
    """Launch each part beside the others of its device. Each launch is kept in a file beside `path` when the next one
    begins: one file a part, which the same command goes on from.

    Raises UsageError, before anything is launched, for a mix that this machine has no cores or no memory for and for a
    workload beyond a model's context; else as `run.advising.settle`.
    """
    parts = wanted.mix.parts
    every = {place: _launches(wanted, place) for place in range(len(parts))}
    device = every[0].device(every[0].series[0])
    machine = machine_of(device)
    why = unmeasurable(wanted.mix, shared_turns=device.kind == "cuda")
    measurable = [place for place in every if place not in why]
    for part in parts:
        if sum(wanted.tokens) > (context := shape_of(part.model).context):
            raise UsageError(
                f"{sum(wanted.tokens)} tokens of prompt and output exceed the context of {part.model}, {context}"
            )
    if device.kind != SIMULATED:
        _refuse_unfit(wanted, [every[place] for place in measurable], machine)
    if device.kind == "cuda":
        say("each engine takes memory as it does by default, and not the share that is planned")
    began = time.monotonic()
    found = []
    for place, part in enumerate(parts):
        told = MeasuredPart(part, wanted.question)
        if place in why:
            found.append(replace(told, unmeasured=why[place]))
            continue
        left_s = None if wanted.budget_s is None else wanted.budget_s - (time.monotonic() - began)
        beside = ", ".join(one.name for one in every[place].spec.beside) or "nobody"
        say(f"{part.model} beside {beside}:")
        ended = settle(
            replace(every[place], budget_s=left_s), path_of(path, place, part), say=say, tell=tell, retrying=retrying
        )
        seen = ended.evidence.seen.get(ended.candidates[0])
        if seen is None or seen.failed:
            found.append(replace(told, unmeasured=f"it could not be run: {seen.failed}" if seen else SPENT))
        else:
            found.append(_compared(wanted, replace(told, mixed=seen), machine))
        if ended.ended is None:
            say(f"{part.model}: {SPENT}")
    return tuple(found)


def path_of(path: Path, place: int, part: Part) -> Path:
    """Where the launches of a part are kept: `slmperf-advise-mix-1-opt-125m.json`."""
    return path.with_name(f"{path.stem}-{place + 1}-{slug(model_name(part.model))}{path.suffix}")


def _launches(wanted: WantedMix, place: int) -> Wanted:
    """Those of one part, as of any setting of an engine that has others beside it."""
    part, (prompt, output) = wanted.mix.parts[place], wanted.tokens
    threads = threads_of(part, wanted.spec.threads)
    beside = company(wanted.mix, place, threads=wanted.spec.threads, tokens=wanted.tokens)
    dtype = part.dtype or wanted.spec.dtype
    return Wanted(
        question=wanted.question,
        spec=replace(wanted.spec, model=part.model, dtype=dtype, threads=threads, beside=beside),
        series=(Series(dtype, threads, part.replicas),),
        batches=(part.batch,),
        prompt_tokens=prompt,
        output_tokens=output,
        settings=wanted.settings,
        pool=Pool(1, "processes"),
        repeats=wanted.launches,
        retry_failed=wanted.retry_failed,
    )


def _refuse_unfit(wanted: WantedMix, every: Sequence[Wanted], machine: Machine) -> None:
    """Raises UsageError for more cores or memory than this machine has."""
    cores = usable_cores()
    for one in every:
        if (needed := one.engine(one.series[0]).cores) > cores:
            names = ", ".join(dict.fromkeys((one.spec.model_name, *(other.name for other in one.spec.beside))))
            raise UsageError(
                f"the mix needs {needed} cores, one for each thread of {names}, and this machine gives {cores}: "
                "it can't be measured here; lower threads, or plan fewer models"
            )
    on_a_gpu = machine.kind == "cuda"
    known = machine.fields.get("gpu_memory_gib" if on_a_gpu else "memory_gib")
    if not isinstance(known, (int, float)):
        return
    for device in range(len(wanted.mix.busy)):
        tenants = [
            Tenant(shape_of(part.model), part.dtype or wanted.spec.dtype, part.batch, sum(wanted.tokens), part.replicas)
            for part in wanted.mix.parts
            if part.devices == (device,)
        ]
        reserve = RESERVE_BYTES if on_a_gpu else 0.0
        if lacking := lacking_bytes(tenants, memory_bytes=known * GIB, reserve_bytes=reserve):
            raise UsageError(
                f"the mix can't be measured here: what is planned on device {device} lacks {lacking / GIB:.1f} GiB of "
                f"this machine's {known:.1f} GiB (engines may take {USABLE:.0%})"
            )


def _compared(wanted: WantedMix, part: MeasuredPart, machine: Machine) -> MeasuredPart:
    """With its slowdown against running alone, where that was measured alike, on this machine."""
    alone = wanted.alone[part.part.model]
    seen = alone.seen.get(part.part.setting) if part.part.setting else None
    now = {"engine": wanted.spec.engine, "prompt_tokens": wanted.tokens[0], "output_tokens": wanted.tokens[1]}
    unlike = {name: value for name, value in now.items() if alone.terms.get(name, value) != value}
    why = "; ".join(f"{name} was {alone.terms[name]} alone, and is {value} here" for name, value in unlike.items())
    if alone.machine != machine.title:
        why = f"alone it was measured on {alone.machine or 'nobody knows what'}, and here is {machine.title}"
    return comparable(part, seen, why)
