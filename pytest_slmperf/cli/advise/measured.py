"""Advice from launches: what is to be measured here, by the command line and the project's settings, and the answer."""

import argparse
from dataclasses import replace
from pathlib import Path

from pytest_slmperf.cli import output
from pytest_slmperf.core.advising.advice import advised
from pytest_slmperf.core.advising.planner import Policy
from pytest_slmperf.core.advising.question import OBJECTIVES, Limit, Question, Series
from pytest_slmperf.core.engine import EngineSpec, model_name
from pytest_slmperf.core.errors import EngineUnavailable, LaunchError, UsageError
from pytest_slmperf.core.machine import REMOTE, slug
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.core.shapes import shape_of
from pytest_slmperf.core.sweep import MOST
from pytest_slmperf.engines import registry
from pytest_slmperf.report.advice import Told
from pytest_slmperf.run import advising
from pytest_slmperf.run.devices import device_of
from pytest_slmperf.run.options import named_engine, planted_loss, pool_of
from pytest_slmperf.run.settings import Settings, read_settings

BATCHES = (1, 2, 4, 8, 16, 32, 64)
BATCHES_ON_A_GPU = (*BATCHES, 128, 256, 512)
REPLICAS = (1, 2)


def answer(given: argparse.Namespace, model: str, limits: tuple[Limit, ...]) -> Told:
    """Measure until it is settled. Raises UsageError for what can't be asked for, and where nothing could be run."""
    settings = read_settings(Path.cwd())
    wanted = _wanted(given, model, limits, settings)
    path = given.state or Path(f"slmperf-advise-{slug(model_name(model))}.json")
    screen = Screen()
    try:
        found = advising.settle(wanted, path, say=screen.say, tell=screen.tell, retrying=screen.retrying)
    except (KeyboardInterrupt, LaunchError):
        screen.clear()
        kept = f"what was measured is kept in {path}; the same command goes on from there"
        output.remark(f"slmperf: {kept if path.exists() else 'nothing was measured yet'}\n")
        raise
    finally:
        screen.clear()
    state, evidence = found.state, found.evidence
    if found.ended and not any(one.values for one in evidence.seen.values()):
        raise UsageError(f"nothing could be run: {found.ended.why}")
    advice = advised(wanted.question, evidence, found.candidates)
    output.remark(f"slmperf: {found.launches} launches now, throw-away ones included; kept in {path}\n")
    return Told(
        model=model_name(model),
        machine=f"{state.machine.device} (driver {state.machine.driver})",
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
    if given.launches < 1:
        raise UsageError(f"--launches={given.launches}: it takes a whole number of at least 1")
    for name in ("prompt_tokens", "output_tokens"):
        if getattr(given, name) < 1:
            raise UsageError(
                f"--{name.replace('_', '-')}={getattr(given, name)}: it takes a whole number of at least 1"
            )
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


def spec_of(given: argparse.Namespace, model: str, settings: Settings) -> tuple[EngineSpec, Pool | None]:
    """The engine that is measured, and the pool that its options speak of. Raises UsageError for one that is unknown
    or not installed.
    """
    if given.engine:
        name, options = named_engine("--engine", given.engine)
    else:
        name, options = settings.engine or registry.best(), {}
        options = dict(settings.engine_options) if settings.engine else {}
    known = {engine.name: engine for engine in registry.available()}
    if name not in known:
        raise UsageError(f"unknown engine {name!r}: known are {', '.join(known)}")
    if known[name].missing:
        raise UsageError(known[name].missing)
    pool, options = pool_of(options)
    planted = planted_loss(options.pop("slowed", 0))
    if name in registry.REAL and not Path(model).expanduser().is_dir():
        _check_model(model)
    return EngineSpec(name, model, settings.dtype, settings.threads, options, planted_loss=planted), pool


def _check_model(model: str) -> None:
    """Raises UsageError for a model that is neither a known shape nor a folder."""
    try:
        shape_of(model)
    except EngineUnavailable as error:
        raise UsageError(str(error)) from error


class Screen:
    """Where progress goes: each launch on a line of its own, and in a terminal its rounds on one that is rewritten."""

    def __init__(self) -> None:
        self._stderr = output.Stderr()
        self._drawn = False

    def say(self, line: str) -> None:
        """One line that stays."""
        self.clear()
        self._stderr.show(f"slmperf: {line}", replace=False)

    def tell(self, case: str, number: int, rounds: int) -> None:
        """A round of a case begins."""
        self._draw(f"round {number} of {rounds}: {case}")

    def retrying(self, reason: str, number: int, tries: int) -> None:
        """A round of the same case was void, for this reason, and is repeated."""
        self._draw(f"a round was void, try {number} of {tries}: {' '.join(reason.split())}")

    def _draw(self, line: str) -> None:
        if self._stderr.rewrites:
            self._stderr.show(f"slmperf: {line}", replace=True)
            self._drawn = True

    def clear(self) -> None:
        """Take the line away that was rewritten."""
        if self._drawn:
            self._stderr.show("", replace=True)
            self._drawn = False
