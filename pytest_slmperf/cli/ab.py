"""`slmperf ab A B`: measure two engines side by side, launches interleaved in random order, and judge B by A."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_slmperf.cli import output
from pytest_slmperf.cli.arguments import add_engine, add_gate, add_lengths, add_reports, add_verb, engine_of
from pytest_slmperf.cli.numbers import counts, rates
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.results.point import Ledger
from pytest_slmperf.core.sweeps.sweep import DEFAULT_TOLERANCE, Sweep
from pytest_slmperf.core.sweeps.workload import ClosedLoop, OpenLoop, StaticBatch
from pytest_slmperf.engines import registry
from pytest_slmperf.report import files, terminal
from pytest_slmperf.run.interpreter import interpreter
from pytest_slmperf.run.measuring import Measuring
from pytest_slmperf.run.options import Options, literal, minutes, pairs, planted_loss, pool_of
from pytest_slmperf.run.progress import Progress
from pytest_slmperf.run.settings import read_settings

if TYPE_CHECKING:
    from pytest_slmperf.cli.arguments import Verbs

SAME = "same"
WIDTH = 110
GATE, GATE_OF_A_RATE = ("output_throughput",), ("ttft_ms", "tpot_ms")
"""What is judged where nothing is said: at a rate as many tokens come as are asked for, sooner or later."""
DESCRIPTION = """\
B is judged by A. Each is KEY=VALUE,KEY=VALUE, or `same`, which names nothing:

  python=PATH    the interpreter of another environment; default: this one
  engine, model, dtype, threads
  replicas=2     of a replica pool; pool=KIND and spread=WAY say which
  slowed=0.2     a planted loss
  KEY=VALUE      any option of the engine

What an arm doesn't name comes from --engine and --model, then from
[tool.slmperf], and never from the other arm; except that without --engine, an
engine that one arm names is that of both. The options of --engine hold for an
arm of that engine, and its own win over them.
"""


def add(verbs: "Verbs") -> None:
    """Declare the verb."""
    does = "measure two environments, engine arguments, dtypes or models side by side"
    parser = add_verb(verbs, "ab", does=does, description=DESCRIPTION)
    parser.add_argument("a", metavar="A", help="the arm that is compared with, as in python=.venv-main/bin/python")
    parser.add_argument("b", metavar="B", help="the arm that is judged, as in python=.venv/bin/python, or same")
    add_engine(parser, "of both arms")
    axis = parser.add_mutually_exclusive_group()
    axis.add_argument("--batch-size", type=counts, metavar="N,N", help="static batches; default: 1,16")
    axis.add_argument("--concurrency", type=counts, metavar="N,N", help="requests under way at any time")
    axis.add_argument("--request-rate", type=rates, metavar="R,R", help="requests a second, at random")
    add_lengths(parser)
    add_gate(
        parser,
        f"what is judged, may be given several times; default: output_throughput={DEFAULT_TOLERANCE}, or ttft_ms and "
        "tpot_ms at a request rate",
    )
    parser.add_argument(
        "--budget", type=minutes, metavar="MINUTES", help="end what is undecided so long after the first launch"
    )
    add_reports(parser)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    for path in given.report:
        files.check_report_path(path)
    root = Path.cwd()
    settings = read_settings(root)
    common = engine_of(given, settings, default="")
    baseline, candidate = _arm("A", given.a, common), _arm("B", given.b, common)
    engine = candidate.engine or baseline.engine or settings.engine or registry.best()
    pool, of_engine = pool_of({} if given.engine else settings.engine_options)
    baseline, candidate = (
        replace(
            arm,
            engine=arm.engine or engine,
            pool=arm.pool or (pool if (arm.engine or engine) == settings.engine else None),
            options={**(of_engine if (arm.engine or engine) == settings.engine else {}), **arm.options},
        )
        for arm in (baseline, candidate)
    )
    wanted = Options(
        engine=engine,
        engine_options=candidate.options,
        budget_s=given.budget * 60 if given.budget else None,
    )
    kind, axis = _varied(given)
    sweep = Sweep(
        "ab",
        kind(given.prompt_tokens, given.output_tokens),
        **axis,
        gate=dict(given.gate) if given.gate else GATE_OF_A_RATE if kind is OpenLoop else GATE,
        missing_meter="red",  # whoever asks for joules here wants a verdict on them
    )
    measuring = Measuring(wanted, settings, root=root, progress=Progress(output.Stderr()), ledger=Ledger())
    try:
        arms = [replace(arm, engine=arm.engine or measuring.default_engine) for arm in (baseline, candidate)]
        output.remark("".join(f"{line}\n" for line in measuring.bill(sweep, arms[1])))
        result = measuring.compare(sweep, *arms)
        output.write("\n".join(terminal.lines(measuring.outcome(), WIDTH)) + "\n")
    finally:
        measuring.close()
        for path in given.report:
            files.write_report(measuring.outcome(), path)
        output.write("".join(f"report: {path}\n" for path in given.report))
    verdicts = [verdict for case in result.outcome.cases.values() for verdict in case.verdicts.values()]
    return 0 if verdicts and all(verdict.passed for verdict in verdicts) else 1


def _arm(letter: str, text: str, common: EngineSpec) -> EngineSpec:
    """The engine that one side names: what it doesn't say is what both have. Raises UsageError."""
    own = {} if text == SAME else pairs(letter, text)
    named: dict[str, Any] = {name: str(own.pop(name)) for name in ("engine", "model", "dtype", "python") if name in own}
    shared = common.options if named.get("engine", common.engine) == common.engine else {}
    options = {**shared, **{name: literal(value) for name, value in own.items()}}
    threads = options.pop("threads", common.threads)
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise UsageError(f"{letter}: threads={threads}: it takes a whole number of at least 1")
    try:
        planted = planted_loss(options.pop("slowed", 0))
        pool, options = pool_of(options, common.pool if shared is common.options else None)
        if "python" in named:
            named["python"] = interpreter(named["python"])
    except UsageError as error:
        raise UsageError(f"{letter}: {error}") from error
    return replace(
        common,
        **named,
        threads=threads,
        planted_loss=planted,
        options=options,
        pool=pool,
    )


def _varied(given: argparse.Namespace) -> tuple[type[StaticBatch | ClosedLoop | OpenLoop], dict[str, Any]]:
    """The workload's kind, and the argument of a sweep that varies it."""
    for kind in (StaticBatch, ClosedLoop, OpenLoop):
        if places := getattr(given, kind.AXIS):
            return kind, {kind.AXIS: places}
    return StaticBatch, {StaticBatch.AXIS: [1, 16]}
