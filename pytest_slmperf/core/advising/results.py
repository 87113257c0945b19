"""What recorded results say of one model's settings: a report's or baseline files' cases, or a table's rows."""

import csv
import io
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import escape
from statistics import median

from pytest_slmperf.core.advising.question import Evidence, Seen, Series, Setting
from pytest_slmperf.core.baselines.lookup import scalar
from pytest_slmperf.core.baselines.side import RecordedCase, Side
from pytest_slmperf.core.engine import model_name
from pytest_slmperf.core.errors import SuiteError, UsageError
from pytest_slmperf.core.machine import shown
from pytest_slmperf.core.metrics import metric

UNDER_WAY = ("batch", "concurrency")
"""What cases are called by whose place is a number of requests under way."""
EACH = "-each"
"""Ends the name of a place that counts for each replica."""
VARIED = ("dtype", "threads", "replicas", "pool", "spread", "weights")
"""Fields of a key in which settings of one model may differ; the weights by their type."""
RESOLVED = "setting."
"""Begins the fields that an engine resolved for itself: a larger batch has another cache."""
IN_COMPANY = "beside_1"
"""Field of a key that only a model with others beside it has: its figures are of the mix, and not of it alone."""


@dataclass(frozen=True)
class Point:
    """Launches of one setting, with what they were measured on and with."""

    model: str
    machine: str
    """Device and driver, or a GPU's name."""
    setting: Setting
    samples: Mapping[str, Sequence[float]]
    """By the metric's full name, the median of each launch."""
    terms: Mapping[str, object] = field(default_factory=dict)
    """What else must be alike: engine, version, workload."""
    case: str = ""
    unmeasured: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """What was read."""

    points: tuple[Point, ...]
    remarks: tuple[str, ...] = ()


def of_side(side: Side) -> Results:
    """The cases of a report or of baseline files whose place is a number of requests under way."""
    points, left_out = [], []
    for one in side.cases:
        setting = _setting(one)
        if setting is None:
            left_out.append(f"{one.measurement.case}: it varies no number of requests")
        elif IN_COMPANY in one.measurement.key:
            left_out.append(f"{one.measurement.case}: it was measured beside other models")
        elif one.measurement.void:
            left_out.append(f"{one.measurement.case}: void: {one.measurement.void}")
        else:
            points.append(_point(one, setting))
    return Results(tuple(points), tuple(f"left out: {why}" for why in left_out))


def _setting(one: RecordedCase) -> Setting | None:
    """What a case ran, by its name's last part and its key."""
    label, _, place = one.measurement.case.rpartition("/")[2].partition("=")
    each = label.endswith(EACH)
    if label.removesuffix(EACH) not in UNDER_WAY or not place.isdecimal():
        return None
    key = one.measurement.key
    replicas, threads = (value if isinstance(value := key.get(name), int) else 0 for name in ("replicas", "threads"))
    replicas = max(1, replicas)
    series = Series(str(key.get("dtype", "")), threads, replicas)
    return Setting(int(place) * (replicas if each else 1), series)


def _point(one: RecordedCase, setting: Setting) -> Point:
    key = {name: value for name, value in one.measurement.key.items() if name != "model"}
    terms = {name: value for name, value in key.items() if name not in VARIED and not name.startswith(RESOLVED)}
    label = one.measurement.case.rpartition("/")[2].partition("=")[0].removesuffix(EACH)
    return Point(
        model=str(one.measurement.key.get("model")),
        machine=one.machine.title,
        setting=setting,
        samples={
            name: [median(rounds) for rounds in sample.launches] for name, sample in one.measurement.samples.items()
        },
        terms={**terms, "place": label},
        case=one.measurement.case,
        unmeasured=one.measurement.unmeasured,
    )


COLUMNS: Mapping[str, tuple[str, ...]] = {
    "model": ("model",),
    "machine": ("gpu", "device", "machine"),
    "task": ("task", "workload"),
    "dtype": ("dtype",),
    "threads": ("threads",),
    "replicas": ("replicas",),
    "batch_each": ("max_num_seqs", "max_bs", "batch_each"),
    "batch": ("batch_size", "batch", "concurrency"),
    "preemptions": ("preemptions",),
    "output_throughput": ("out_tok_s", "output_throughput"),
    "total_token_throughput": ("total_tok_s", "total_token_throughput"),
    "median_itl_ms": ("mean_itl_ms", "median_itl_ms", "itl_ms"),
    "median_tpot_ms": ("tpot_ms", "mean_tpot_ms", "median_tpot_ms"),
    "median_ttft_ms": ("median_ttft_ms", "ttft_ms", "mean_ttft_ms"),
    "median_e2el_ms": ("median_e2el_ms", "e2el_ms"),
    "mean_power_w": ("mean_power_W", "mean_power_w", "implied_W"),
    "joules_per_output_token": ("J_per_out_tok", "joules_per_output_token"),
    "joules_per_total_token": ("J_per_total_tok", "joules_per_total_token"),
    "joules_per_request": ("J_per_req", "joules_per_request"),
    "peak_memory_bytes": ("peak_memory_bytes",),
}
"""What a table's columns may be called, the first one that it has: as in the data of arXiv 2503.08311, in ML.ENERGY's,
or by the names of our metrics."""
NO_METRIC = ("model", "machine", "task", "dtype", "threads", "replicas", "batch_each", "batch", "preemptions")


def of_table(text: str, label: str) -> Results:
    """The rows of a table (CSV with a header): a launch each. Rows with preemptions are left out: the cache was full,
    and some work was done twice.

    Raises UsageError that names the line and the column.
    """
    rows = list(csv.DictReader(io.StringIO(text)))
    header = list(rows[0]) if rows else []
    named = {name: found for name, known in COLUMNS.items() if (found := next((c for c in known if c in header), ""))}
    if not {"batch", "batch_each"} & named.keys() or not named.keys() - set(NO_METRIC):
        batches = [column for name in ("batch_each", "batch") for column in COLUMNS[name]]
        raise UsageError(
            f"{label}: no table of results: it needs a header with one of {', '.join(batches)} and with metrics, as "
            "output_throughput"
        )
    remarks = []
    if named.get("median_itl_ms", "").startswith("mean"):
        remarks.append(f"{label}: {named['median_itl_ms']}, a mean, stands for median_itl_ms")
    points = []
    for number, row in enumerate(rows, 2):
        one = _Row(f"{label}, line {number}", row, named)
        if one.number("preemptions"):
            remarks.append(f"left out: {label}, line {number}: {one.number('preemptions'):g} preemptions")
            continue
        points.append(one.point())
    return Results(tuple(points), tuple(remarks))


@dataclass(frozen=True)
class _Row:
    """A row of a table."""

    where: str
    cells: Mapping[str, str | None]
    named: Mapping[str, str]

    def text(self, name: str) -> str:
        return (self.cells.get(self.named.get(name, "")) or "").strip()

    def number(self, name: str) -> float | None:
        """Raises UsageError for a cell that holds none."""
        text = self.text(name)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError as error:
            raise UsageError(f"{self.where}: {self.named[name]} is {text!r}, and no number") from error
        if not math.isfinite(value) or (value <= 0 and name != "preemptions"):
            raise UsageError(f"{self.where}: {self.named[name]} is {text}, and no measurement has that value")
        return value

    def whole(self, name: str) -> int | None:
        value = self.number(name)
        if value is not None and value != int(value):
            raise UsageError(f"{self.where}: {self.named[name]} is {self.text(name)}, and no whole number")
        return None if value is None else int(value)

    def point(self) -> Point:
        replicas, threads = self.whole("replicas") or 1, self.whole("threads") or 0
        each, batch = self.whole("batch_each"), self.whole("batch")
        together = batch if each is None else each * replicas
        if together is None:
            raise UsageError(f"{self.where}: it has no batch")
        names = [name for name in self.named if name not in NO_METRIC]
        values = {name: value for name in names if (value := self.number(name)) is not None}
        return Point(
            model=self.text("model"),
            machine=self.text("machine"),
            setting=Setting(together, Series(self.text("dtype"), threads, replicas)),
            samples={name: [value] for name, value in values.items()},
            terms={"task": self.text("task")},
            case=self.where,
        )


def chosen(points: Sequence[Point], *, model: str | None, device: str | None) -> tuple[Point, ...]:
    """Those of one model on one machine, measured alike; `model` and `device` choose by name, the second by a part of
    it. Raises UsageError where nothing is left, and for several models, machines or methods.
    """
    if not points:
        raise UsageError("the results hold no case with a number of requests under way")
    models = list(dict.fromkeys(one.model for one in points))
    kept = [one for one in points if model is None or is_model(one.model, model)]
    if not kept:
        raise UsageError(f"the results hold nothing of {model}; they hold {', '.join(models)}")
    if len(models) > 1 and model is None:
        raise UsageError(
            f"the results hold several models: choose one, --model={models[0]}, or more of them for a mix; there are "
            f"{_list(models)}"
        )
    machines = list(dict.fromkeys(one.machine for one in kept))
    kept = [one for one in kept if device is None or device.casefold() in one.machine.casefold()]
    if not kept:
        raise UsageError(
            f"nothing was measured on {device!r}; the results are of {_list(machines) or 'nobody knows what'}"
        )
    machines = list(dict.fromkeys(one.machine for one in kept))
    if len(machines) > 1:
        raise UsageError(
            f"the results are of several machines, {_list(machines)}: no batch is compared across machines"
            f"{_choosing(machines)}"
        )
    _refuse_unlike(kept)
    return tuple(kept)


def is_model(recorded: str, wanted: str) -> bool:
    """Whether a model is the one that is asked for, by its name or by the last part of a path or of a hub's name."""
    return wanted in (recorded, model_name(recorded)) or recorded == model_name(wanted)


def _list(names: Iterable[str]) -> str:
    return ", ".join(filter(None, names))


def _choosing(machines: Sequence[str]) -> str:
    """How one of them is chosen: by its device, or with the driver where that tells it from the others."""
    for part in (part for one in machines for part in (one.partition(" (")[0], one)):
        if sum(part.casefold() in one.casefold() for one in machines) == 1:
            return f"; choose one, as in --device={shlex.quote(part)}"
    return ""


def _refuse_unlike(points: Sequence[Point]) -> None:
    first = points[0]
    for one in points[1:]:
        if differ := _difference(first, one):
            name, before, now = differ
            which = _alike(points)
            way_out = f"choose some, as in --case={shlex.quote(which)}" if which else "give results of one of both only"
            raise UsageError(
                f"{first.case} and {one.case} were not measured alike: {name} is {shown(scalar(before))} and "
                f"{shown(scalar(now))}; {way_out}"
            )


def _difference(one: Point, other: Point) -> tuple[str, object, object] | None:
    """The first term in which they differ, with both values."""
    for name in {**one.terms, **other.terms}:
        if (mine := one.terms.get(name)) != (theirs := other.terms.get(name)):
            return name, mine, theirs
    return None


def _alike(points: Sequence[Point]) -> str:
    """A pattern of names that leaves several points, all measured alike; empty where names tell none from the others.
    Shorter ones first: a sweep's, then those of a curve of it; of a table's rows, or of launches, those of a file.
    """
    for one in points:
        file, in_file, _ = one.case.partition(", ")
        parts = one.case.split("/")
        beginnings = [f"{file}, "] if in_file else [f"{'/'.join(parts[:end])}/" for end in range(1, len(parts))]
        for beginning in beginnings:
            kept = [other for other in points if fnmatchcase(other.case, f"{escape(beginning)}*")]
            if len(kept) > 1 and not any(_difference(kept[0], other) for other in kept[1:]):
                return f"{escape(beginning)}*"
    return ""


def evidence_of(points: Iterable[Point]) -> Evidence:
    """What the points say of each setting; launches of one setting come together."""
    seen: dict[Setting, Seen] = {}
    for one in points:
        before = seen.get(one.setting, Seen(one.setting))
        values = {name: tuple(values) for name, values in before.values.items()}
        for name, launches in one.samples.items():
            values[_full(name)] = (*values.get(_full(name), ()), *launches)
        unmeasured = {**before.unmeasured, **one.unmeasured}
        seen[one.setting] = Seen(one.setting, values, unmeasured=unmeasured)
    return Evidence(seen)


def _full(name: str) -> str:
    try:
        return metric(name).name
    except SuiteError:  # of another version
        return name
