"""Advice on several models: the mix that is planned by what results say of each, and what it gave when measured."""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_slmperf.cli import output
from pytest_slmperf.cli.advise.measured import Screen, spec_of
from pytest_slmperf.cli.advise.recorded import read
from pytest_slmperf.core.advising import mix, results
from pytest_slmperf.core.advising.mixed import MeasuredPart
from pytest_slmperf.core.advising.question import OBJECTIVES, Evidence, Limit, Question, metrics_of, objective_of
from pytest_slmperf.core.errors import LaunchError, UsageError
from pytest_slmperf.core.memory import GIB
from pytest_slmperf.core.shapes import shape_of
from pytest_slmperf.engines import registry
from pytest_slmperf.report import advice as rendered
from pytest_slmperf.report import mixed as rendered_mix
from pytest_slmperf.run import mixing
from pytest_slmperf.run.devices import device_of, machine_of
from pytest_slmperf.run.options import named_engine
from pytest_slmperf.run.settings import Settings, read_settings

NOT_MEASURED = (
    "the mix itself was not measured: that models take turns is assumed, and what they cost each other isn't known; "
    "--measure measures it"
)
FULL_LOAD = (
    "in the mix every model had requests all the time, under its planned batch: one that needs little took more of the "
    "device than was planned, and left the others less"
)
ONE_DEVICE = "the devices were measured one after the other, on one: what they cost each other isn't known"


def answer(given: argparse.Namespace, models: Sequence[str], limits: tuple[Limit, ...]) -> int:
    """Plan the mix, measure it where that is asked for, and print both. Returns the exit code."""
    settings = read_settings(Path.cwd())
    points, remarks = read(given) if given.results else ([], ())
    needs = dict(map(_need, given.need))
    if unknown := needs.keys() - set(models):
        raise UsageError(
            f"--need of {', '.join(sorted(unknown))}: no --model is called so; they are {', '.join(models)}"
        )
    if given.devices < 1:
        raise UsageError(f"--devices={given.devices}: it takes a whole number of at least 1")
    kept = {
        model: results.chosen(points, model=model, device=given.device)
        if any(results.is_model(one.model, model) for one in points)
        else ()
        for model in models
    }
    evidence = {model: results.evidence_of(some) for model, some in kept.items()}
    measured = metrics_of(seen for one in evidence.values() for seen in one.seen.values())
    objective = objective_of(given.wanted, measured or OBJECTIVES["throughput"])
    if not objective.higher_is_better:
        raise UsageError(f"a mix shares a device's time, so it is planned for a throughput, not for {objective.name}")
    dtypes = given.dtype or (settings.dtype,)
    if len(dtypes) > 1:
        raise UsageError("--dtype: one type for a mix; what was measured in another is told by RESULTS")
    question = Question(objective, limits, given.within)
    plan = mix.planned(
        [
            mix.Need(
                model=model,
                shape=shape_of(model),
                dtype=_dtype(evidence[model]) or dtypes[0],
                request_tokens=given.prompt_tokens + given.output_tokens,
                wanted=needs.get(model),
                evidence=evidence[model],
            )
            for model in models
        ],
        question,
        devices=given.devices,
        memory_bytes=given.memory or _memory(settings, given),
    )
    unmeasured = [model for model in models if not evidence[model].seen]
    said = [*remarks]
    if unmeasured:
        said.append(
            f"{', '.join(unmeasured)}: nothing was measured of it alone, so its batch is what fits, and its rate isn't "
            f"known: slmperf advise --model={unmeasured[0]}, then name its file here"
        )
    gave = _measured_mix(given, plan, question, settings, kept) if given.measure else ()
    if any(one.mixed for one in gave):
        said += [FULL_LOAD, *([ONE_DEVICE] if given.devices > 1 else [])]
    elif not gave:
        said.append(NOT_MEASURED)
    told = rendered.ToldMix(plan, objective, tuple(said))
    shown = [*rendered.mix_lines(told), *(["", *rendered_mix.lines(gave)] if gave else [])]
    document = {**rendered.mix_document(told), "measured": rendered_mix.document(gave) if gave else None}
    output.write(rendered.text(document) if given.json else "".join(f"{line}\n" for line in shown))
    return 0 if plan.met and all(one.met for one in gave) else 1


def _measured_mix(
    given: argparse.Namespace,
    plan: mix.Mix,
    question: Question,
    settings: Settings,
    kept: Mapping[str, Sequence[results.Point]],
) -> tuple[MeasuredPart, ...]:
    if given.launches < 1:
        raise UsageError(f"--launches={given.launches}: it takes a whole number of at least 1")
    path = given.state or Path("slmperf-advise-mix.json")
    screen = Screen()
    wanted = mixing.WantedMix(
        plan,
        question,
        spec_of(given, plan.parts[0].model, settings)[0],
        (given.prompt_tokens, given.output_tokens),
        settings,
        given.launches,
        {model: _alone(some) for model, some in kept.items()},
        given.budget * 60 if given.budget else None,
        retry_failed=given.retry_failed,
    )
    try:
        return mixing.measure(wanted, path, say=screen.say, tell=screen.tell, retrying=screen.retrying)
    except (KeyboardInterrupt, LaunchError):
        screen.clear()
        output.remark(f"slmperf: what was measured is kept in {path.stem}-*; the same command goes on from there\n")
        raise
    finally:
        screen.clear()


def _alone(points: Sequence[results.Point]) -> mixing.Alone:
    """What was measured of a model by itself; all of one machine, and alike."""
    if not points:
        return mixing.Alone({}, "", {})
    return mixing.Alone(results.evidence_of(points).seen, points[0].machine, points[0].terms)


def _dtype(evidence: Evidence) -> str:
    """The type that a model was measured in, first of several; empty where nobody said."""
    return next((one.series.dtype for one in evidence.seen if one.series.dtype), "")


def _memory(settings: Settings, given: argparse.Namespace) -> float:
    """What this machine's device has, in bytes. Raises UsageError where nobody knows."""
    name, options = named_engine("--engine", given.engine) if given.engine else (settings.engine or registry.best(), {})
    machine = machine_of(device_of(name, options))
    known = machine.fields.get("gpu_memory_gib" if machine.kind == "cuda" else "memory_gib")
    if not isinstance(known, (int, float)):
        raise UsageError(f"how much memory {machine.device} has isn't known: say it with --memory")
    return float(known) * GIB


def _need(text: str) -> tuple[str, float]:
    name, equals, rate = text.rpartition("=")
    try:
        value = float(rate if equals else "")
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise UsageError(f"--need={text}: it takes MODEL=RATE, as in opt-1.3b=5000")
    return name, value
