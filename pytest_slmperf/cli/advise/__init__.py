"""`slmperf advise`: which batch, type and number of replicas to run a model with, from as few launches as settle it."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_slmperf.cli import output
from pytest_slmperf.cli.advise import measured, mixed, recorded
from pytest_slmperf.cli.advise.options import add_options
from pytest_slmperf.cli.arguments import MODEL, add_verb
from pytest_slmperf.core.advising.question import Limit
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.report import advice as rendered
from pytest_slmperf.report import mixed as rendered_mix

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


def add(verbs: "Verbs") -> None:
    """Declare the verb."""
    does = "say which batch, dtype and replicas to run a model with, from as few launches as settle it"
    parser = add_verb(verbs, "advise", does=does, description=DESCRIPTION)
    add_options(parser)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    models = list(dict.fromkeys(given.model))
    limits = tuple(map(Limit.parse, given.limit))
    if len(models) > 1:
        return _of_a_mix(given, models, limits)
    if given.need or given.devices != 1 or given.measure:
        name = "--need" if given.need else "--devices" if given.devices != 1 else "--measure"
        raise UsageError(f"{name} is of a mix: name several models")
    return _of_one(given, models[0] if models else None, limits)


def _of_one(given: argparse.Namespace, model: str | None, limits: tuple[Limit, ...]) -> int:
    told = recorded.answer(given, model, limits) if given.results else measured.answer(given, model or MODEL, limits)
    _print(given, rendered.lines(told), rendered.document(told))
    return 0 if told.settled and told.advice.pick else 1


def _of_a_mix(given: argparse.Namespace, models: Sequence[str], limits: tuple[Limit, ...]) -> int:
    told, gave = mixed.answer(given, models, limits)
    lines = [*rendered.mix_lines(told), *(["", *rendered_mix.lines(gave)] if gave else [])]
    _print(given, lines, {**rendered.mix_document(told), "measured": rendered_mix.document(gave) if gave else None})
    return 0 if told.mix.met and all(one.met for one in gave) else 1


def _print(given: argparse.Namespace, lines: Sequence[str], document: Mapping[str, Any]) -> None:
    output.write(rendered.text(document) if given.json else "".join(f"{line}\n" for line in lines))
