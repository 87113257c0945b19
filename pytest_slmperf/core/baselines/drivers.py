"""How the figures of a suite moved from driver to driver of one device, as baseline files have them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pytest_slmperf.core.baselines.baseline import BaselineFile, by_numbers
from pytest_slmperf.core.baselines.comparison import Change, Comparison, Mean, Meaning, compare
from pytest_slmperf.core.baselines.side import of_files
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.machine import GPU_UUID


@dataclass(frozen=True)
class Recorded:
    """What is stored for one driver, and how it moved from the driver before."""

    driver: str
    cases: int
    """With a recording in force."""
    newest: str
    """When the newest of them was recorded, ISO 8601 in UTC; empty where there is none."""
    before: str | None = None
    """The driver before, of those with a baseline."""
    moved: Mapping[str, Mean] = field(default_factory=dict)
    """By the full name of each metric that both have of cases in common."""
    also: tuple[Change, ...] = ()
    """What else differs from the baseline of the driver before: it may be what moved the figures, or forbids to say."""


@dataclass(frozen=True)
class Track:
    """One suite on one engine and device, from the oldest driver with a baseline to the newest."""

    suite: str
    engine: str
    device: str
    recorded: tuple[Recorded, ...]


def tracks(files: Iterable[BaselineFile]) -> tuple[Track, ...]:
    """Every suite, engine and device of these files; drivers in the order of their versions."""
    groups: dict[tuple[str, str, str], list[BaselineFile]] = {}
    for file in files:
        groups.setdefault((file.suite, file.engine, file.machine.device), []).append(file)
    return tuple(Track(*names, tuple(_recorded(groups[names]))) for names in sorted(groups))


def _recorded(files: list[BaselineFile]) -> Iterator[Recorded]:
    before: BaselineFile | None = None
    for file in sorted(files, key=lambda one: version_order(one.machine.driver)):
        points = [case.current.recorded for case in file.cases.values() if case.current]
        compared = _compared(before, file) if before else None
        yield Recorded(
            driver=file.machine.driver,
            cases=len(points),
            newest=max(points, default=""),
            before=before.machine.driver if before else None,
            moved={mean.metric.name: mean for mean in compared.means} if compared else {},
            also=tuple(one for one in compared.changes if _may_move(one)) if compared else (),
        )
        before = file


def version_order(driver: str) -> tuple[object, ...]:
    """Sorts versions by their numbers: 580.65 comes before 580.105."""
    return by_numbers(driver)


def _compared(before: BaselineFile, file: BaselineFile) -> Comparison | None:
    try:
        return compare(of_files("before", [before]), of_files("after", [file]), every=True)
    except UsageError:  # no case in common
        return None


def _may_move(one: Change) -> bool:
    return one.field == GPU_UUID or (one.meaning is not Meaning.NOTE and (one.of, one.field) != ("machine", "driver"))
