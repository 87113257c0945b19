"""Advice on several models: the mix that is planned by what results say of each, and what it gave when measured."""

import argparse
import glob
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_slmperf.cli.advise.engine import named_here, spec_of
from pytest_slmperf.cli.advise.recorded import read
from pytest_slmperf.cli.advise.screen import screen
from pytest_slmperf.core.advising import mix, results
from pytest_slmperf.core.advising.mixed import MeasuredPart
from pytest_slmperf.core.advising.question import OBJECTIVES, Evidence, Limit, Question, metrics_of, objective_of
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.memory import GIB
from pytest_slmperf.core.metrics import Metric
from pytest_slmperf.core.shapes import shape_of
from pytest_slmperf.report.advice import ToldMix
from pytest_slmperf.run import mixing
from pytest_slmperf.run.devices import device_of, machine_of
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


def answer(
    given: argparse.Namespace, models: Sequence[str], limits: tuple[Limit, ...]
) -> tuple[ToldMix, tuple[MeasuredPart, ...]]:
    """Plan the mix, and measure it where that is asked for: the plan, and what each model gave in it. Raises UsageError
    for what can't be asked for.
    """
    settings = read_settings(Path.cwd())
    points, remarks = read(given) if given.results else ([], ())
    needs = _needs(given, models)
    kept = {
        model: results.chosen(points, model=model, device=given.device)
        if any(results.is_model(one.model, model) for one in points)
        else ()
        for model in models
    }
    evidence = {model: results.evidence_of(some) for model, some in kept.items()}
    question = Question(_objective(given, evidence), limits, given.within)
    dtype = _dtype_of_all(given, settings)
    plan = mix.planned(
        [
            mix.Need(
                model=model,
                shape=shape_of(model),
                dtype=_dtype(evidence[model]) or dtype,
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
    gave = _measured_mix(given, plan, question, settings, kept) if given.measure else ()
    said = (*remarks, *_unmeasured(evidence), *_doubts(given, gave))
    return ToldMix(plan, question.objective, said), gave


def _needs(given: argparse.Namespace, models: Sequence[str]) -> dict[str, float]:
    needs = dict(map(_need, given.need))
    if unknown := needs.keys() - set(models):
        raise UsageError(
            f"--need of {', '.join(sorted(unknown))}: no --model is called so; they are {', '.join(models)}"
        )
    return needs


def _objective(given: argparse.Namespace, evidence: Mapping[str, Evidence]) -> Metric:
    measured = metrics_of(seen for one in evidence.values() for seen in one.seen.values())
    objective = objective_of(given.wanted, measured or OBJECTIVES["throughput"])
    if not objective.higher_is_better:
        raise UsageError(f"a mix shares a device's time, so it is planned for a throughput, not for {objective.name}")
    return objective


def _dtype_of_all(given: argparse.Namespace, settings: Settings) -> str:
    """The type of the models of which nobody says in which they were measured."""
    dtypes: tuple[str, ...] = given.dtype or (settings.dtype,)
    if len(dtypes) > 1:
        raise UsageError("--dtype: one type for a mix; what was measured in another is told by RESULTS")
    return dtypes[0]


def _unmeasured(evidence: Mapping[str, Evidence]) -> list[str]:
    """What is to be said of models that were not measured alone."""
    names = [model for model, one in evidence.items() if not one.seen]
    if not names:
        return []
    said = (
        f"{', '.join(names)}: nothing was measured of it alone, so its batch is what fits, and its rate isn't known: "
        f"slmperf advise --model={names[0]}, then name its file here"
    )
    return [said]


def _doubts(given: argparse.Namespace, gave: Sequence[MeasuredPart]) -> list[str]:
    """What the measured mix leaves open, or the plan where nothing was measured."""
    if any(one.mixed for one in gave):
        return [FULL_LOAD, *([ONE_DEVICE] if given.devices > 1 else [])]
    return [] if gave else [NOT_MEASURED]


def _measured_mix(
    given: argparse.Namespace,
    plan: mix.Mix,
    question: Question,
    settings: Settings,
    kept: Mapping[str, Sequence[results.Point]],
) -> tuple[MeasuredPart, ...]:
    path = given.state or Path("slmperf-advise-mix.json")
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
    files = f"{glob.escape(path.stem)}-*{glob.escape(path.suffix)}"
    with screen(f"{path.stem}-*", lambda: any(path.parent.glob(files))) as shown:
        return mixing.measure(wanted, path, say=shown.say, tell=shown.tell, retrying=shown.retrying)


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
    machine = machine_of(device_of(*named_here(given, settings)))
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
