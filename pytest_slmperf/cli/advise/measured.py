"""Advice from launches: what is to be measured here, by the command line and the project's settings, and the answer."""

import argparse
from dataclasses import replace
from pathlib import Path

from pytest_slmperf.cli import output
from pytest_slmperf.cli.advise.engine import spec_of
from pytest_slmperf.cli.advise.screen import screen
from pytest_slmperf.core.advising.advice import advised
from pytest_slmperf.core.advising.planner import Policy
from pytest_slmperf.core.advising.question import OBJECTIVES, Limit, Question, Series
from pytest_slmperf.core.engine import model_name
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.machine import REMOTE, slug
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.core.sweeps.sweep import MOST
from pytest_slmperf.report.advice import Told
from pytest_slmperf.run import advising
from pytest_slmperf.run.devices import device_of
from pytest_slmperf.run.settings import Settings, read_settings

BATCHES = (1, 2, 4, 8, 16, 32, 64)
BATCHES_ON_A_GPU = (*BATCHES, 128, 256, 512)
REPLICAS = (1, 2)


def answer(given: argparse.Namespace, model: str, limits: tuple[Limit, ...]) -> Told:
    """Measure until it is settled. Raises UsageError for what can't be asked for, and where nothing could be run."""
    settings = read_settings(Path.cwd())
    wanted = _wanted(given, model, limits, settings)
    path = given.state or Path(f"slmperf-advise-{slug(model_name(model))}.json")
    with screen(str(path), path.exists) as shown:
        found = advising.settle(wanted, path, say=shown.say, tell=shown.tell, retrying=shown.retrying)
    state, evidence = found.state, found.evidence
    if found.ended and not any(one.values for one in evidence.seen.values()):
        raise UsageError(f"nothing could be run: {found.ended.why}")
    advice = advised(wanted.question, evidence, found.candidates)
    output.remark(f"slmperf: {found.launches} launches now, throw-away ones included; kept in {path}\n")
    return Told(
        model=model_name(model),
        machine=state.machine.title,
        advice=advice,
        evidence=evidence,
        settled=found.ended is not None,
        why=found.ended.why if found.ended else "the budget is spent; the same command goes on",
        launches=state.made_of(evidence.seen),
    )


def _wanted(given: argparse.Namespace, model: str, limits: tuple[Limit, ...], settings: Settings) -> advising.Wanted:
    spec, pool = spec_of(given, model, settings)
    there = device_of(spec.engine, spec.options).kind
    on_a_gpu, remote = there == "cuda", there.partition(":")[0] == REMOTE
    replicas = given.replicas or ((1,) if remote else REPLICAS)
    dtypes, threads = given.dtype or (spec.dtype,), given.threads or (spec.threads,)
    batches = given.batch_size or (BATCHES_ON_A_GPU if on_a_gpu else BATCHES)
    if (most := max(batches) * max(replicas)) > MOST:
        raise UsageError(f"{most:,} requests in all replicas together: it takes at most {MOST:,}")
    measurable = OBJECTIVES.get(given.wanted) or (metric(given.wanted).name,)
    return advising.Wanted(
        question=Question(metric(measurable[0]), limits, given.within),
        spec=spec,
        series=tuple(Series(dtype, count, many) for dtype in dtypes for count in threads for many in replicas),
        batches=batches,
        prompt_tokens=given.prompt_tokens,
        output_tokens=given.output_tokens,
        settings=settings,
        pool=_pool(given, pool or Pool(1, "mps" if on_a_gpu else "processes")),
        policy=Policy(most_launches=given.launches, least_launches=min(2, given.launches)),
        budget_s=given.budget * 60 if given.budget else None,
        memory_bytes=given.memory,
        retry_failed=given.retry_failed,
    )


def _pool(given: argparse.Namespace, default: Pool) -> Pool:
    return replace(default, kind=given.pool or default.kind, spread=given.spread or default.spread)
