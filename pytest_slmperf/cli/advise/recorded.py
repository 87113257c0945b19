"""Advice from results: what files hold of a model's settings, and the answer that it gives."""

import argparse
from fnmatch import fnmatchcase
from pathlib import Path

from pytest_slmperf.cli.reading import read_json, read_side
from pytest_slmperf.core.advising import results
from pytest_slmperf.core.advising.advice import advised
from pytest_slmperf.core.advising.question import Limit, Question, metrics_of, objective_of
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.report.advice import Told
from pytest_slmperf.run.advice_state import State, is_state, read_state
from pytest_slmperf.run.regular import read_named

OF_MEASURING = ("batch_size", "replicas", "dtype", "threads", "budget", "state", "retry_failed", "pool", "engine")
"""Options that say what is measured."""


def answer(given: argparse.Namespace, model: str | None, limits: tuple[Limit, ...]) -> Told:
    """What RESULTS say of a model. Raises UsageError for what makes no sense of them, and where nothing is left."""
    told = [name for name in OF_MEASURING if getattr(given, name)]
    if told:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in told)
        raise UsageError(f"{names}: nothing is measured where RESULTS are given")
    points, remarks = read(given)
    if remarks and not points:
        raise UsageError(f"nothing is left of the results: {'; '.join(remarks)}")
    kept = results.chosen(points, model=model, device=given.device)
    evidence = results.evidence_of(kept)
    objective = objective_of(given.wanted, metrics_of(evidence.seen.values()))
    advice = advised(Question(objective, limits, given.within), evidence, tuple(evidence.seen))
    return Told(
        model=kept[0].model,
        machine=kept[0].machine,
        advice=advice,
        evidence=evidence,
        settled=advice.pick is not None,
        why="nothing was measured now, and what the results don't hold may be better",
        launches=sum(len(one.values.get(objective.name, ())) for one in evidence.seen.values()),
        remarks=remarks,
        recorded=True,
    )


def read(given: argparse.Namespace) -> tuple[list[results.Point], tuple[str, ...]]:
    """The points that RESULTS hold, those of `--case` alone where it is given, and remarks on what is left out."""
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
            text = read_named(path).decode("utf-8-sig")
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
    if results.IN_COMPANY in state.of:
        return results.Results((), (f"left out: {path}: {state.of['model']} was measured beside other models",))
    terms = {name: value for name, value in state.of.items() if name not in ("model", "pool", "spread")}
    points = [
        results.Point(
            str(state.of["model"]),
            state.machine.title,
            one.setting,
            {name: [value] for name, value in one.values.items()},
            terms,
            f"{path}, {one.setting}",
            one.unmeasured,
        )
        for one in state.launches
        if not one.failed
    ]
    return results.Results(tuple(points))
