"""`slmperf baselines`: accept, retire, prune, list and show what is stored. Each verb prints what it changed."""

import argparse
import shlex
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_slmperf.cli import output
from pytest_slmperf.cli.arguments import add_baselines, baselines_of
from pytest_slmperf.cli.reading import read_report
from pytest_slmperf.core.baselines.baseline import Retirement, StoredRecording, case_order
from pytest_slmperf.core.baselines.diff import Diff
from pytest_slmperf.core.baselines.drivers import Recorded, tracks, version_order
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.verdict import quantity
from pytest_slmperf.report.digest import bounded
from pytest_slmperf.report.table import table
from pytest_slmperf.run import fingerprint
from pytest_slmperf.run.accept import Terms, accept, refuse_part
from pytest_slmperf.run.settings import TOLERANCES, read_settings
from pytest_slmperf.run.store import BaselineStore, Stored

if TYPE_CHECKING:
    from pytest_slmperf.cli.arguments import Verbs

FILTERS = ("device", "driver", "engine")
"""By what a file can be chosen."""

MOVED = ("output_throughput", "joules_per_output_token")
"""What `matrix` follows from driver to driver."""
ABSENT = "–"


def add(verbs: "Verbs") -> None:
    """Declare the verb and its own verbs."""
    parser = verbs.add_parser("baselines", help="accept, retire, prune, list and show what is stored, driver by driver")
    own = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    folder = argparse.ArgumentParser(add_help=False)
    add_baselines(folder)
    which = argparse.ArgumentParser(add_help=False, parents=[folder])
    for field in FILTERS:
        which.add_argument(f"--{field}", metavar="NAME", help=f"only where the {field} has this in its name")

    taken = own.add_parser("accept", parents=[folder], help="store what a JSON report holds as the new baseline")
    taken.add_argument("report", type=Path, metavar="REPORT")
    taken.add_argument("cases", nargs="*", metavar="CASE", help="only these; default: every gated case")
    taken.add_argument("--tolerance", choices=TOLERANCES, help="default: what [tool.slmperf] says, or else asked")
    taken.add_argument("--older", action="store_true", help="also in place of a recording that was made later")
    taken.set_defaults(run=_accept)

    out = own.add_parser("retire", parents=[which], help="no longer compare with a recording, and say why")
    out.add_argument("case", metavar="CASE")
    out.add_argument("--reason", required=True, help="for whoever reviews it")
    out.add_argument("--point", type=int, metavar="N", help="as `show` counts them; default: the one in force")
    out.set_defaults(run=_retire)

    less = own.add_parser("prune", parents=[folder], help="remove cases that no suite measures any more")
    less.add_argument("report", type=Path, metavar="REPORT", help="JSON report of a whole run")
    less.set_defaults(run=_prune)

    every = own.add_parser("list", parents=[which], help="every stored case")
    every.set_defaults(run=_list)

    one = own.add_parser("show", parents=[which], help="one case: its key and its recordings")
    one.add_argument("case", metavar="CASE")
    one.set_defaults(run=_show)

    across = own.add_parser("matrix", parents=[folder], help="which drivers have a baseline, and how figures moved")
    across.add_argument("--suite", metavar="NAME", help="only this one")
    across.add_argument("--metric", metavar="NAME", help=f"default: {' and '.join(MOVED)}")
    across.set_defaults(run=_matrix)


def _accept(given: argparse.Namespace) -> int:
    run = read_report(given.report)
    refuse_part(run)
    settings = read_settings(Path.cwd())
    terms = Terms(
        policy=settings.later_gates,
        supported=(given.tolerance or settings.tolerance) == "supported",
        recorded=run.started_at,
        commit=run.commit,
        by=fingerprint.by(),
        older=given.older,
    )
    _say_changes(accept(_store(given, may_be_new=True), run.machine, run.sweeps, terms, given.cases))
    return 0


def _retire(given: argparse.Namespace) -> int:
    store = _store(given)
    stored = _the_one(store, given)
    reason = given.reason.strip()
    if not reason:
        raise UsageError("--reason is empty: say why, for whoever reviews it")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    changes = store.retire(stored.path, given.case, Retirement(now, reason, fingerprint.by()), given.point)
    number = f"recording {given.point}" if given.point else "the recording in force"
    _say([f"retired: {given.case}: {number} in {stored.path}"])
    _say_changes(changes, otherwise="the gate still compares with the same recording")
    return 0


def _prune(given: argparse.Namespace) -> int:
    run = read_report(given.report)
    if not run.whole or not run.complete:
        why = "measured only a part of the suites (a selection or -x)" if run.complete else "was interrupted or failed"
        raise UsageError(
            f"{given.report}: the run {why}, so it doesn't know every case. Run all of the suites: pytest --slmperf "
            f"--slmperf-report={shlex.quote(str(given.report))}"
        )
    store = _store(given)
    measured: dict[Path, set[str]] = {}
    for sweep in run.sweeps:
        for spec in sweep.specs:
            path = store.path_of(run.machine, spec.engine, sweep.sweep)
            measured.setdefault(path, set()).update(sweep.names_on(spec.engine))
    _say_changes(store.prune({path: cases for path, cases in measured.items() if store.has(path)}))
    engines = {spec.engine for sweep in run.sweeps for spec in sweep.specs}
    left = [path for engine in sorted(engines) for path in store.paths(run.machine, engine) if path not in measured]
    _say(
        f"kept: {path}: the report holds nothing of its suite; if that is gone: git rm {shlex.quote(str(path))}"
        for path in left
    )
    return 0


def _list(given: argparse.Namespace) -> int:
    headers = ("case", "engine", "device", "driver", "in force since", "recordings", "gated")
    rows = []
    for stored in _chosen(_store(given), given):
        file = stored.file
        for name, case in sorted(file.cases.items(), key=lambda one: case_order(one[0])):
            point = case.current
            gated = [metric for metric, kept in point.metrics.items() if kept.tolerance is not None] if point else []
            since = point.recorded if point else "all retired"
            machine = (file.engine, file.machine.device, file.machine.driver)
            rows.append((name, *machine, since, str(len(case.points)), ", ".join(sorted(gated))))
    _say(table(headers, rows, right=("recordings",)) or [f"nothing is stored in {_where(given)}"])
    return 0


def _show(given: argparse.Namespace) -> int:
    found = [stored for stored in _chosen(_store(given), given) if given.case in stored.file.cases]
    if not found:
        raise _unknown(given)
    headers = ("#", "recorded", "commit", "by", "metric", "median", "unit", "launches×rounds", "tolerance", "")
    for stored in found:
        case = stored.file.cases[given.case]
        _say([f"{given.case} in {stored.path}", ""])
        _say(f"  {name}: {value}" for name, value in sorted(case.key.items()))
        rows = [row for place, point in enumerate(case.points, 1) for row in _rows(place, point, point is case.current)]
        _say(["", *table(headers, rows, right=("#", "median", "tolerance")), ""])
        for place, point in enumerate(case.points, 1):
            if point.retired:
                who = f" by {point.retired.by}" if point.retired.by else ""
                _say([f"recording {place} retired {point.retired.when}{who}: {point.retired.reason}"])
    return 0


def _matrix(given: argparse.Namespace) -> int:
    names = [metric(given.metric).name] if given.metric else list(MOVED)
    files = [stored.file for stored in _store(given).files() if given.suite in (None, stored.file.suite)]
    found = tracks(files)
    if not found:
        _say([f"nothing is stored in {_store(given).root}{f' of the suite {given.suite}' if given.suite else ''}"])
        return 0
    drivers = sorted({one.driver for track in found for one in track.recorded}, key=version_order)
    stored = {name for file in files for case in file.cases.values() for point in case.points for name in point.metrics}
    followed = [name for name in names if name in stored or given.metric]
    rows = []
    for track in found:
        by_driver = {one.driver: one for one in track.recorded}
        head = (track.suite, track.engine, track.device)
        cells = [by_driver.get(driver) for driver in drivers]
        rows.append((*head, "cases, newest", *map(_in_force, cells)))
        rows += [("", "", "", name, *(_moved(one, name) for one in cells)) for name in followed]
    _say(table(("suite", "engine", "device", "", *drivers), rows))
    _say(
        f"* {track.suite} on {track.engine}, {track.device}, {one.before} → {one.driver}: also differs {also}"
        for track in found
        for one in track.recorded
        for also in one.also
    )
    return 0


def _in_force(one: Recorded | None) -> str:
    if one is None:
        return ABSENT
    return f"{one.cases}, {one.newest[:10]}" if one.cases else "none in force"


def _moved(one: Recorded | None, name: str) -> str:
    """How a metric moved from the driver before; empty where there is none before."""
    if one is None or one.before is None:
        return ""
    moved = bounded(one.moved[name]) if name in one.moved else ABSENT
    return f"{moved} *" if one.also else moved


def _rows(place: int, point: StoredRecording, in_force: bool) -> list[tuple[str, ...]]:  # noqa: FBT001 - a column
    state = "in force" if in_force else "retired" if point.retired else ""
    rows: list[tuple[str, ...]] = []
    for name, kept in sorted(point.metrics.items()):
        tolerance = "not gated" if kept.tolerance is None else f"{kept.tolerance:.1%}"
        values = (quantity(kept.sample.median), kept.unit, kept.sample.shape, tolerance)
        rows.append((str(place), point.recorded, (point.commit or "")[:12], point.by, name, *values, state))
    return rows


def _store(given: argparse.Namespace, *, may_be_new: bool = False) -> BaselineStore:
    return BaselineStore(baselines_of(given, read_settings(Path.cwd()), may_be_new=may_be_new))


def _chosen(store: BaselineStore, given: argparse.Namespace) -> list[Stored]:
    """The files whose device, driver and engine were asked for."""

    def wanted(stored: Stored) -> bool:
        machine = stored.file.machine
        names = {"device": machine.device, "driver": machine.driver, "engine": stored.file.engine}
        asked = {field: getattr(given, field) for field in names}
        return all(not text or text.casefold() in names[field].casefold() for field, text in asked.items())

    return [stored for stored in store.files() if wanted(stored)]


def _the_one(store: BaselineStore, given: argparse.Namespace) -> Stored:
    found = [stored for stored in _chosen(store, given) if given.case in stored.file.cases]
    if not found:
        raise _unknown(given)
    if len(found) > 1:
        paths = ", ".join(str(stored.path) for stored in found)
        raise UsageError(f"{given.case} is stored in {paths}: choose with --device, --driver or --engine")
    return found[0]


def _unknown(given: argparse.Namespace) -> UsageError:
    return UsageError(f"nothing is stored for {given.case} in {_where(given)}: {_command(given)} names every case")


def _where(given: argparse.Namespace) -> str:
    """The folder that was looked into, and what was asked of its files."""
    asked = {field: getattr(given, field) for field in FILTERS}
    filters = " and ".join(f"{text!r} in its {field}" for field, text in asked.items() if text)
    return f"{_store(given).root}{' with ' if filters else ''}{filters}"


def _command(given: argparse.Namespace) -> str:
    words = ["slmperf", "baselines", "list", *([f"--baselines={given.baselines}"] if given.baselines else [])]
    return f"`{shlex.join(words)}`"


def _say_changes(changes: Diff, otherwise: str = "nothing changed") -> None:
    _say(changes.lines() if changes else [otherwise])


def _say(lines: Iterable[str]) -> None:
    output.write("".join(f"{line}\n" for line in lines))
