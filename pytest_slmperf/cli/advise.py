"""`slmperf advise`: which batch, type and number of replicas to run a model with, from as few launches as settle it."""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_slmperf.cli import output
from pytest_slmperf.cli.arguments import MODEL, add_verb
from pytest_slmperf.cli.reading import read_json, read_side
from pytest_slmperf.core.advising import mix, results
from pytest_slmperf.core.advising.advice import advised
from pytest_slmperf.core.advising.mixed import MeasuredPart
from pytest_slmperf.core.advising.planner import Policy
from pytest_slmperf.core.advising.question import (
    OBJECTIVES,
    WITHIN,
    Evidence,
    Limit,
    Question,
    Series,
    metrics_of,
    objective_of,
)
from pytest_slmperf.core.engine import EngineSpec, model_name
from pytest_slmperf.core.errors import EngineUnavailable, LaunchError, UsageError
from pytest_slmperf.core.machine import REMOTE, slug
from pytest_slmperf.core.memory import GIB
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.pool import KINDS, SPREADS, Pool
from pytest_slmperf.core.shapes import shape_of
from pytest_slmperf.core.sweep import MOST
from pytest_slmperf.engines import registry
from pytest_slmperf.report import advice as rendered
from pytest_slmperf.report import mixed as rendered_mix
from pytest_slmperf.run import advising, mixing
from pytest_slmperf.run.advice_state import State, is_state, read_state
from pytest_slmperf.run.devices import device_of, machine_of
from pytest_slmperf.run.options import minutes, named_engine, planted_loss, pool_of
from pytest_slmperf.run.regular import read_regular
from pytest_slmperf.run.settings import Settings, read_settings

if TYPE_CHECKING:
    from pytest_slmperf.cli.arguments import Verbs

DESCRIPTION = """\
Without RESULTS it measures, on this machine: it plans each launch by what it
would learn, keeps what it showed in a file at once, and ends when the answer is
settled. The same command goes on from that file.

With RESULTS it measures nothing. Each is a JSON report, a baseline file or a
folder of them, a file of earlier advice, or a table (CSV) with a row for each
launch, as that of arXiv 2503.08311.

Several models are planned as a mix on one device or a few, by their needs, by
what RESULTS say of each alone, and by memory; --measure then measures the plan.

Exit codes: 0 the answer is settled, 1 it isn't or nothing keeps the limits,
2 interrupted, 4 wrong usage.
"""
BATCHES = (1, 2, 4, 8, 16, 32, 64)
BATCHES_ON_A_GPU = (*BATCHES, 128, 256, 512)
REPLICAS = (1, 2)
OF_MEASURING = ("batch_size", "replicas", "dtype", "threads", "budget", "state", "pool", "engine")
"""Options that say what is measured."""
NOT_MEASURED = (
    "the mix itself was not measured: that models take turns is assumed, and what they cost each other isn't known; "
    "--measure measures it"
)
FULL_LOAD = (
    "in the mix every model had requests all the time, under its planned batch: one that needs little took more of the "
    "device than was planned, and left the others less"
)
ONE_DEVICE = "the devices were measured one after the other, on one: what they cost each other isn't known"


def add(verbs: "Verbs") -> None:
    """Declare the verb."""
    does = "say which batch, dtype and replicas to run a model with, from as few launches as settle it"
    parser = add_verb(verbs, "advise", does=does, description=DESCRIPTION)
    parser.add_argument("results", nargs="*", type=Path, metavar="RESULTS", help="what was measured before")
    parser.add_argument("--model", action="append", default=[], help=f"several make a mix; default: {MODEL}, or theirs")
    wanted = parser.add_argument_group("what is wanted")
    wanted.add_argument(
        "--for",
        dest="wanted",
        default="throughput",
        metavar="WHAT",
        help=f"{', '.join(OBJECTIVES)} or a metric; default: throughput",
    )
    wanted.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="METRIC=VALUE",
        help="that must be kept, may be given several times: itl_ms=40, mean_power_w=300, peak_memory_bytes=8e9",
    )
    wanted.add_argument(
        "--within",
        type=_share,
        default=WITHIN,
        metavar="SHARE",
        help=f"of the best counts as equally good: the lighter setting is advised; default: {WITHIN}",
    )
    _add_measuring(parser)
    recorded = parser.add_argument_group("of RESULTS")
    recorded.add_argument("--case", metavar="PATTERN", help="only cases with such a name, as 'decode/*'")
    recorded.add_argument("--device", metavar="TEXT", help="only what was measured on a machine with this in its name")
    mixed = parser.add_argument_group("of a mix")
    mixed.add_argument(
        "--need",
        action="append",
        default=[],
        metavar="MODEL=RATE",
        help="what a model must give, in the objective's unit",
    )
    mixed.add_argument("--measure", action="store_true", help="launch each model beside the others, on this machine")
    mixed.add_argument("--devices", type=int, default=1, metavar="N", help="that the mix may use; default: 1")
    parser.add_argument("--memory", type=_gib, metavar="GIB", help="of a device; default: what this machine has")
    parser.add_argument("--json", action="store_true", help="print a JSON document in place of the lines")
    parser.set_defaults(run=_run)


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    measured = parser.add_argument_group("what is measured")
    measured.add_argument(
        "--engine", metavar="NAME[:KEY=VALUE,...]", help="default: that of [tool.slmperf], or the best"
    )
    measured.add_argument(
        "--batch-size", type=_counts, metavar="N,N", help="in each replica; default: 1,2,4,… to 64 or 512"
    )
    measured.add_argument("--replicas", type=_counts, metavar="N,N", help="default: 1,2")
    measured.add_argument("--pool", choices=KINDS, help="kind of the replicas; default: processes, or mps on a GPU")
    measured.add_argument("--spread", choices=SPREADS, help=f"default: {SPREADS[0]}")
    measured.add_argument("--dtype", type=_names, metavar="TYPE,TYPE", help="default: that of [tool.slmperf]")
    measured.add_argument("--threads", type=_counts, metavar="N,N", help="of each replica; default: as above")
    measured.add_argument("--prompt-tokens", type=int, default=32, metavar="N", help="default: 32")
    measured.add_argument("--output-tokens", type=int, default=32, metavar="N", help="default: 32")
    measured.add_argument("--launches", type=int, default=5, metavar="N", help="of one setting, at most; default: 5")
    measured.add_argument("--budget", type=minutes, metavar="MINUTES", help="begin no launch after so long")
    measured.add_argument("--state", type=Path, metavar="FILE", help="default: slmperf-advise-MODEL.json here")


def _run(given: argparse.Namespace) -> int:
    models = list(dict.fromkeys(given.model))
    limits = tuple(map(Limit.parse, given.limit))
    if len(models) > 1:
        return _mixed(given, models, limits)
    if given.need or given.devices != 1 or given.measure:
        name = "--need" if given.need else "--devices" if given.devices != 1 else "--measure"
        raise UsageError(f"{name} is of a mix: name several models")
    model = models[0] if models else None
    return _recorded(given, model, limits) if given.results else _measured(given, model or MODEL, limits)


# -- recorded


@dataclass(frozen=True)
class _Recorded:
    """What RESULTS say of a model."""

    points: tuple[results.Point, ...]
    evidence: Evidence
    remarks: tuple[str, ...]


def _recorded(given: argparse.Namespace, model: str | None, limits: tuple[Limit, ...]) -> int:
    told = [name for name in OF_MEASURING if getattr(given, name)]
    if told:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in told)
        raise UsageError(f"{names}: nothing is measured where RESULTS are given")
    points, remarks = _read(given)
    kept = results.chosen(points, model=model, device=given.device)
    evidence = results.evidence_of(kept)
    objective = objective_of(given.wanted, metrics_of(evidence.seen.values()))
    question = Question(objective, limits, given.within)
    advice = advised(question, evidence, tuple(evidence.seen))
    return _tell(
        given,
        rendered.Told(
            model=kept[0].model,
            machine=kept[0].machine,
            advice=advice,
            evidence=evidence,
            settled=advice.pick is not None,
            why="nothing was measured now, and what the results don't hold may be better",
            launches=sum(len(one.values.get(objective.name, ())) for one in evidence.seen.values()),
            remarks=remarks,
            recorded=True,
        ),
    )


def _read(given: argparse.Namespace) -> tuple[list[results.Point], tuple[str, ...]]:
    points: list[results.Point] = []
    remarks: list[str] = []
    for path in given.results:
        found = _results(path)
        points += found.points
        remarks += found.remarks
    if given.case:
        names = [one.case for one in points]
        points = [one for one in points if fnmatchcase(one.case, given.case)]
        if not points:
            raise UsageError(f"no case is called {given.case}; there is {', '.join(names) or 'none'}")
    return points, tuple(remarks)


def _results(path: Path) -> results.Results:
    """What a path holds. Raises UsageError, and SlmperfError for a damaged file."""
    if path.suffix.casefold() == ".csv":
        try:
            text = read_regular(path).decode("utf-8-sig")
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: not UTF-8 at byte {error.start}") from error
        return results.of_table(text, str(path))
    if path.is_file() and is_state(read_json(path)):
        state = read_state(path)
        assert state is not None  # noqa: S101 - it was read just before
        return _of_state(state, path)
    return results.of_side(read_side(path))


def _of_state(state: State, path: Path) -> results.Results:
    """The launches that were kept for earlier advice; none of those in a mix, which say nothing of a model alone."""
    if "beside_1" in state.of:
        return results.Results((), (f"left out: {path}: {state.of['model']} was measured beside other models",))
    machine = f"{state.machine.device} (driver {state.machine.driver})"
    terms = {name: value for name, value in state.of.items() if name not in ("model", "pool", "spread")}
    points = [
        results.Point(
            str(state.of["model"]),
            machine,
            one.setting,
            {name: [value] for name, value in one.values.items()},
            terms,
            f"{path}, launch {number}",
            one.unmeasured,
        )
        for number, one in enumerate(state.launches, 1)
        if not one.failed
    ]
    return results.Results(tuple(points))


# -- measured


def _measured(given: argparse.Namespace, model: str, limits: tuple[Limit, ...]) -> int:
    settings = read_settings(Path.cwd())
    wanted = _wanted(given, model, limits, settings)
    path = given.state or Path(f"slmperf-advise-{slug(model_name(model))}.json")
    screen = _Screen()
    try:
        found = advising.settle(wanted, path, say=screen.say, tell=screen.tell)
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
    code = _tell(
        given,
        rendered.Told(
            model=model_name(model),
            machine=f"{state.machine.device} (driver {state.machine.driver})",
            advice=advised(wanted.question, evidence, found.candidates),
            evidence=evidence,
            settled=found.ended is not None,
            why=found.ended.why if found.ended else "the budget is spent; the same command goes on",
            launches=sum(one.setting in evidence.seen for one in state.launches),
        ),
    )
    output.remark(f"slmperf: {found.launches} launches now, throw-away ones included; kept in {path}\n")
    return code


def _wanted(given: argparse.Namespace, model: str, limits: tuple[Limit, ...], settings: Settings) -> advising.Wanted:
    spec, pool = _spec(given, model, settings)
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
    )


def _pool(given: argparse.Namespace, default: Pool) -> Pool:
    return replace(default, kind=given.pool or default.kind, spread=given.spread or default.spread)


def _spec(given: argparse.Namespace, model: str, settings: Settings) -> tuple[EngineSpec, Pool | None]:
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


class _Screen:
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
        if self._stderr.rewrites:
            self._stderr.show(f"slmperf: round {number} of {rounds}: {case}", replace=True)
            self._drawn = True

    def clear(self) -> None:
        """Take the line away that was rewritten."""
        if self._drawn:
            self._stderr.show("", replace=True)
            self._drawn = False


# -- mixed


def _mixed(given: argparse.Namespace, models: Sequence[str], limits: tuple[Limit, ...]) -> int:
    settings = read_settings(Path.cwd())
    points, remarks = _read(given) if given.results else ([], ())
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
    screen = _Screen()
    wanted = mixing.WantedMix(
        plan,
        question,
        _spec(given, plan.parts[0].model, settings)[0],
        (given.prompt_tokens, given.output_tokens),
        settings,
        given.launches,
        {model: _alone(some) for model, some in kept.items()},
        given.budget * 60 if given.budget else None,
    )
    try:
        return mixing.measure(wanted, path, say=screen.say, tell=screen.tell)
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


# -- said


def _tell(given: argparse.Namespace, told: rendered.Told) -> int:
    lines = "".join(f"{line}\n" for line in rendered.lines(told))
    output.write(rendered.text(rendered.document(told)) if given.json else lines)
    return 0 if told.settled and told.advice.pick else 1


def _check_model(model: str) -> None:
    """Raises UsageError for a model that is neither a known shape nor a folder."""
    try:
        shape_of(model)
    except EngineUnavailable as error:
        raise UsageError(str(error)) from error


def _counts(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (0,)
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: it takes whole numbers of at least 1, as in 1,16")
    return found


def _names(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r}: it takes names, as in float32,int8")
    return found


def _share(text: str) -> float:
    return _number(text, "a share between 0 and 1, as in 0.02", most=1.0)


def _gib(text: str) -> float:
    return _number(text, "a number of GiB, as in 80", most=math.inf) * GIB


def _number(text: str, what: str, *, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < most:
        raise argparse.ArgumentTypeError(f"{text!r}: it takes {what}")
    return value
