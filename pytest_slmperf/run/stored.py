"""What is stored for the cases of a run: found, missed when it is stale, and replaced when it is accepted."""

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pytest_slmperf.core.baselines.baseline import BaselineFile, case_order
from pytest_slmperf.core.baselines.lookup import Against, Comparable, Incomparable, lookup
from pytest_slmperf.core.baselines.revision import newer_in_force
from pytest_slmperf.core.errors import BaselineError
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.outcome import SweepOutcome
from pytest_slmperf.core.verdict import Status
from pytest_slmperf.run.accept import Terms, accept, on_another_device
from pytest_slmperf.run.brief import Reference
from pytest_slmperf.run.replacing import check_folder
from pytest_slmperf.run.store import BaselineStore, read_baseline

AB = "or compare both versions side by side, without a baseline: --slmperf-against=python=PATH"
_FOLDERS = ("device", "driver")
"""Fields of a machine that name the folder of its files."""


class StoredCases:
    """The baselines that a run's machine has, each file read once."""

    def __init__(self, folder: Path, machine: Machine, against: Against | None, *, record: str) -> None:
        self._record = f"record it: {record}"
        self._store = BaselineStore(folder)
        self._machine = machine
        self._against = against
        self._files: dict[tuple[str, str], BaselineFile | None] = {}
        self._looked_in: dict[tuple[str, str], BaselineFile | None] = {}
        """Those of them in which a case was looked for."""

    def check_writable(self) -> None:
        """Find out ahead of the launches what would stop `accept` after them. Raises BaselineError."""
        try:
            check_folder(self._store.root)
        except OSError as error:
            raise BaselineError(
                f"{self._store.root}: no baseline can be stored there: {error.filename}: {error.strerror}; name "
                "another folder, --slmperf-baselines=DIR, or make this one writable"
            ) from error

    def check_newest(self, engine: str, suite: str, cases: Iterable[str], now: str) -> None:
        """The same of what is in force, where it was recorded later than `now`. Raises BaselineError."""
        file = self._file(suite, engine)
        for case in cases:
            if newer := newer_in_force(file, case, now):
                raise BaselineError(
                    f"nothing can be recorded: {case} was recorded {newer.recorded}, and this run began {now}: set the "
                    "clock right, or retire what was recorded by a wrong one: slmperf baselines retire"
                )

    def find(self, case: str, key: Mapping[str, object]) -> Reference:
        """What a case is compared with, or why there is nothing. Raises BaselineError for a file that can't be read."""
        suite, engine = case.partition("/")[0], str(key["engine"])
        if elsewhere := on_another_device(key, self._machine):
            return Reference(status=Status.INCOMPARABLE, reason=elsewhere, way_out=AB)
        file = self._looked_in[suite, engine] = self._file(suite, engine)
        found = lookup(file, case, key, self._machine, self._against)
        if isinstance(found, Comparable):
            return Reference(found.measurement, found.tolerances, found.point.versions, notes=found.notes)
        if isinstance(found, Incomparable):
            return Reference(
                status=Status.INCOMPARABLE,
                reason=f"the baseline holds for something else: {found.reason}",
                way_out="; ".join(filter(None, (self._across(found), self._record, AB))),
            )
        asked = self._against.machine(self._machine) if self._against else self._machine
        path = self._store.path_of(asked, engine, suite)
        elsewhere = self._store.elsewhere(asked, engine, suite)
        what, way_out = found.reason, self._record
        if self._against and self._against.field in _FOLDERS:
            # What is recorded now is of the present driver, and not of the one that is asked for.
            way_out = f"see what is stored: slmperf baselines list --baselines={shlex.quote(str(self._store.root))}"
            if file is None:
                what = f"nothing is stored for the {self._against.field} {self._against.value}"
        reason = ". ".join(filter(None, (f"{what} in {path}", elsewhere)))
        return Reference(status=Status.NO_BASELINE, reason=reason, way_out=f"{way_out}; {AB}")

    def gated(self, engine: str, suite: str) -> set[str]:
        """The metrics that are gated in some case of what is compared with; none of a file that can't be read, which
        whoever compares with it is told.
        """
        with suppress(BaselineError):
            file = self._file(suite, engine)
            points = [case.current for case in file.cases.values()] if file else []
            return {
                name for point in points if point for name, kept in point.metrics.items() if kept.tolerance is not None
            }
        return set()

    def _across(self, found: Incomparable) -> str:
        """The option that compares all the same; empty where there is none, since one field may differ and no more."""
        first, *others = found.fields
        another = self._against and self._against.field != first.field
        if others or another or first.stored is None:
            return ""
        return f"compare across it: --slmperf-against={shlex.quote(f'{first.field}={first.stored}')}"

    def _file(self, suite: str, engine: str) -> BaselineFile | None:
        if (suite, engine) not in self._files:
            self._files[suite, engine] = self._store.load(self._machine, engine, suite, self._against)
        return self._files[suite, engine]

    def stale(self, outcomes: Sequence[SweepOutcome], *, whole: bool = True) -> list[str]:
        """Stored cases that the measured suites have no more, one line a file; of this machine's files only.

        A run that isn't `whole` knows only that none of its tests looks at them: another may measure them.
        """
        if self._against and self._against.field in _FOLDERS:
            return []
        lines = []
        for (suite, engine), file in self._looked_in.items():
            there = {name for outcome in outcomes if outcome.sweep == suite for name in outcome.names_on(engine)}
            gone = sorted(set(file.cases) - there, key=case_order) if file else []
            if not gone:
                continue
            holds = f"{self._store.path_of(self._machine, engine, suite)} holds {', '.join(gone)}"
            if whole:
                lines.append(
                    f"{holds}, and no suite measures that any more: "
                    f"slmperf baselines prune REPORT.json --baselines={shlex.quote(str(self._store.root))}, with the "
                    "report of a whole run (--slmperf-report=REPORT.json)"
                )
            else:
                lines.append(
                    f"{holds}, and no test of this run looks at that: a whole run tells whether any suite does"
                )
        return lines

    def orphaned(self, engines: Collection[str], suites: Collection[str], *, whole: bool = True) -> list[str]:
        """Files of this machine and these engines that hold none of these suites, one line each; of a run that isn't
        `whole`, in which another suite may have them, one line for all.

        A file of another engine may be measured by another job. One that can't be read is told, too: whatever it holds,
        no run of these suites compares with it.
        """
        lines: list[str] = []
        others: list[Path] = []
        for engine in sorted(engines):
            looked_at = {self._store.path_of(self._machine, engine, suite) for suite in suites}
            for path in self._store.paths(self._machine, engine):
                if path in looked_at:
                    continue
                try:
                    suite = read_baseline(path).suite
                except BaselineError as error:
                    lines.append(str(error))
                    continue
                if suite in suites:
                    there = self._store.path_of(self._machine, engine, suite)
                    lines.append(f"{path} holds {suite}, which is looked for in {there}: {_git('mv', path, there)}")
                elif not whole:
                    others.append(path)
                else:
                    lines.append(
                        f"{path} holds {suite}, and no sweep has that name any more: {_git('rm', path)}; if the sweep "
                        f"was renamed, {self._record}"
                    )
        if others:
            names = ", ".join(path.name for path in others)
            lines.append(
                f"no test of this run looks at {names} in {others[0].parent}: a run of the whole project (its root, or "
                "all of its testpaths) tells whether any suite does"
            )
        return lines

    def accept(self, outcomes: Sequence[SweepOutcome], terms: Terms) -> list[str]:
        """Store every gated case as the newest recording, all or none, and say what changed. Raises BaselineError."""
        diff = accept(self._store, self._machine, outcomes, terms)
        paths = {
            self._store.path_of(self._machine, spec.engine, outcome.sweep): None
            for outcome in outcomes
            for spec in outcome.specs
            if outcome.asked and outcome.cases
        }
        return [*(f"recorded in {path}" for path in paths), *(f"  {line}" for line in diff.lines())]


def _git(verb: str, *paths: Path) -> str:
    return " ".join(["git", verb, *(shlex.quote(str(path)) for path in paths)])
