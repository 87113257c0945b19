"""A sweep: a declaration of which cases are measured, which metrics are gated, and how tightly."""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias, TypeVar, cast, get_args

from pytest_slmperf.core.beside import Beside, told
from pytest_slmperf.core.binding import BINDING
from pytest_slmperf.core.engine import model_name
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.metrics import BOARD, ENERGY, GOODPUT, metric
from pytest_slmperf.core.pool import MOST_REPLICAS
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.sweeps.search import FOUND, Search
from pytest_slmperf.core.sweeps.variant import AS_IT_IS, VARIED, Setting, Variant, spelled
from pytest_slmperf.core.sweeps.workload import COUNTED, LABELS, OpenLoop, Replay, StaticBatch, Workload

DEFAULT_TOLERANCE = 0.03
LARGEST_TOLERANCE = 0.15
"""A gate that tolerates more is no gate."""
MOST = 100_000
"""Of a batch, of places in a loop, of requests a second: no client on one machine sends or holds more."""
"""Metrics that there are by an Slo only."""
MISSING_METER = ("red", "skip")
"""What becomes of gated joules where nothing tells them."""
MOST_THREADS = 4096

Test = TypeVar("Test", bound=Callable[..., Any])
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Of a setting that is a text: it stands in a case's name."""

Look: TypeAlias = frozenset[tuple[str, str | float]]
"""Coordinates that the cases of a test have, of which there may be others."""


@dataclass(frozen=True, eq=False)
class Binding:
    """Which cases of which sweep a test looks at. None stands for a test of its own for every case."""

    sweep: "Sweep"
    places: tuple[float, ...] | None = None
    """On the sweep's axis."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """Of the engine, beside those places."""


@dataclass(frozen=True, slots=True)
class Case:
    """A named point of a sweep on one model. A baseline is stored under its name: a renamed test loses no history."""

    sweep: str
    model: str
    at: float
    """On the sweep's axis: a batch size, a concurrency, a request rate or a speed."""
    axis: str = StaticBatch.AXIS
    variant: Variant = AS_IT_IS
    """Of the engine that serves it."""
    per_replica: bool = False
    """Whether `at` counts for each replica of a pool, and not for all of them together."""
    searched: bool = False
    """Whether each launch looks for the highest place up to `at` that keeps the limits."""

    @property
    def series(self) -> str:
        """What the cases of its curve have in common: `decode/opt-125m`, `decode/opt-125m/replicas=2/dtype=int8`."""
        return "/".join((self.sweep, self.model, *self.variant.parts))

    @property
    def label(self) -> str:
        """What its place is called: `batch`, or `batch-each` where it counts for each replica, or `rate-up-to`."""
        return f"{LABELS[self.axis]}{'-each' if self.per_replica else '-up-to' if self.searched else ''}"

    @property
    def name(self) -> str:
        """`decode/opt-125m/batch=64`, `rate/opt-125m/rate=2.5`, `decode/opt-125m/replicas=2/batch-each=32`,
        `capacity/opt-125m/rate-up-to=64`.
        """
        return f"{self.series}/{self.label}={self.at}"

    @property
    def total(self) -> float:
        """The place for all replicas together: 64 for a batch of 32 for each of two."""
        return self.at * self.variant.replicas if self.per_replica else self.at

    @property
    def coordinates(self) -> Mapping[str, str | float]:
        """What a suite looks it up by."""
        return {"model": self.model, **self.variant.coordinates, self.axis: self.at}


@dataclass(frozen=True, eq=False)
class Sweep:
    """Cases = models × variants of the engine × places on the axis of one workload, and the gated metrics.

        DECODE = Sweep("decode", StaticBatch(prompt_tokens=128, output_tokens=128), batch_size=[1, 4, 16, 64],
                       gate={"output_throughput": 0.03})

    The axis is the workload's: `batch_size` of a `StaticBatch`, `concurrency` of a `ClosedLoop`, `request_rate` of an
    `OpenLoop`, `speed` of a `Replay`. Nothing is measured by declaring it. `model` may stay empty: then the engine that
    a fixture measures names it. `gate` maps a metric's name to the fraction that may be lost; a list of names takes 3 %
    for each. `percentiles` are those of the latencies that a suite looks at: each launch observes enough requests for
    all of them. `slo` says which requests count as good, for `request_goodput` and `goodput_share`. `missing_meter`
    says what becomes of joules where nothing tells them: `red`, or `skip`, which skips their tests with the reason and
    gates the rest. By default it is what `[tool.slmperf]` says, or `red` on a GPU and `skip` elsewhere.

    `replicas`, `dtype`, `threads` and `options` (an engine's own, by their names) vary the engine: each combination is
    launched by itself, in turns with the others, and has a curve of its own, `decode/opt-125m/replicas=2/dtype=int8`.
    `beside` varies who runs beside the model, under a load of its own: `[None, Beside("opt-1.3b", batch_size=4)]`.
    With `per_replica` the places count for each replica of a pool; otherwise for all of them together.

    With `request_rate=Search(8, 64)`, or a concurrency, each launch looks for the highest place that keeps the `slo`,
    which is gated as `highest_request_rate` or `highest_concurrency`.

    What a machine sweeps can be set in `[tool.slmperf]`, by the sweep's name.
    Raises SuiteError for a declaration that makes no sense.
    """

    name: str
    workload: Workload
    batch_size: Sequence[int] = ()
    gate: Mapping[str, float] | Iterable[str] = field(default_factory=dict)
    model: Sequence[str] = ()
    percentiles: Sequence[float] = ()
    missing_meter: str | None = None
    concurrency: Sequence[int] | Search = ()
    request_rate: Sequence[float] | Search = ()
    speed: Sequence[float] = ()
    slo: Slo | None = None
    replicas: Sequence[int] = ()
    dtype: Sequence[str] = ()
    threads: Sequence[int] = ()
    beside: Sequence[Beside | tuple[Beside, ...] | None] = ()
    options: Mapping[str, Sequence[Setting]] = field(default_factory=dict)
    per_replica: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and _NAME.fullmatch(self.name)):
            raise SuiteError(f"Sweep {self.name!r}: a name has small letters, digits, '.', '_' and '-' only")
        places, percentiles = self._places(), tuple(self.percentiles)
        models = (self.model,) if isinstance(self.model, str) else tuple(self.model)
        if any(not isinstance(model, str) for model in models) or len({*map(model_name, models)}) != len(models):
            said = "it takes names, or paths by their last part, each once"
            raise SuiteError(f"Sweep {self.name!r}: model={models!r}; {said}")
        if any(isinstance(one, bool) or not isinstance(one, (int, float)) or not 0 < one < 100 for one in percentiles):
            raise SuiteError(f"Sweep {self.name!r}: percentiles={list(percentiles)!r}; they lie between 0 and 100")
        if fractions := [one for one in percentiles if one < 1]:
            meant = ", ".join(f"{100 * one:g}" for one in fractions)
            raise SuiteError(
                f"Sweep {self.name!r}: percentiles={list(percentiles)!r}; they are per cent, from 1 on: "
                f"is {meant} meant?"
            )
        if self.missing_meter not in (None, *MISSING_METER):
            said = " or ".join(map(repr, MISSING_METER))
            raise SuiteError(f"Sweep {self.name!r}: missing_meter={self.missing_meter!r}; it takes {said}")
        if not self.search:
            object.__setattr__(self, self.axis, places)
        object.__setattr__(self, "model", models)
        object.__setattr__(self, "percentiles", percentiles)
        object.__setattr__(self, "gate", self._tolerances())
        self._check_slo()
        self._check_search()
        self._freeze_settings()

    def _places(self) -> tuple[float, ...]:
        kinds = get_args(Workload)
        if not isinstance(self.workload, kinds):
            said = ", ".join(kind.__name__ for kind in kinds)
            raise SuiteError(f"Sweep {self.name!r}: workload={self.workload!r}; it takes one of {said}")
        others = [name for name in LABELS if name != self.axis and getattr(self, name) != ()]
        if others:
            raise SuiteError(
                f"Sweep {self.name!r}: {', '.join(others)} is none of {type(self.workload).__name__}: a sweep of "
                f"that says {self.axis}=[…]"
            )
        asked = getattr(self, self.axis)
        if isinstance(asked, Search):
            return self._highest(asked)
        if isinstance(asked, Mapping) and self.axis in FOUND:
            meant = ", ".join(f"{name}={value!r}" for name, value in asked.items()) if "low" in asked else "8, 64"
            raise SuiteError(
                f"Sweep {self.name!r}: {self.axis}={asked!r}; it takes a list, as in [1, 8], and a suite writes a "
                f"search as {self.axis}=Search({meant})"
            )
        if isinstance(asked, str) or not isinstance(asked, Iterable):
            raise SuiteError(f"Sweep {self.name!r}: {self.axis}={asked!r}; it takes a list, as in [1, 8]")
        given = tuple(asked)
        counted = self.axis in COUNTED
        if not given or not all(_counts(one) if counted else _rate(one) for one in given):
            said = "whole numbers, at least 1" if counted else "numbers above 0"
            raise SuiteError(f"Sweep {self.name!r}: {self.axis}={given!r}; it takes different {said}")
        if max(given) > MOST:
            raise SuiteError(f"Sweep {self.name!r}: {self.axis}={given!r}; it takes up to {MOST:,}")
        places = tuple(int(one) if one == int(one) else one for one in given)
        if len(set(places)) != len(places):
            raise SuiteError(f"Sweep {self.name!r}: {self.axis}={given!r}; it takes different ones")
        return places

    def _highest(self, search: Search) -> tuple[float, ...]:
        """The highest place of a search. Raises SuiteError for what can't be searched."""
        if self.axis not in FOUND:
            raise SuiteError(f"Sweep {self.name!r}: {self.axis}={search}; searched are {' and '.join(FOUND)}")
        if self.axis in COUNTED and not all(one == int(one) >= 1 for one in (search.low, search.high)):
            raise SuiteError(f"Sweep {self.name!r}: {self.axis}={search}; it takes whole numbers, at least 1")
        if search.high > MOST:
            raise SuiteError(f"Sweep {self.name!r}: {self.axis}={search}; it takes up to {MOST:,}")
        return (int(search.high) if search.high == int(search.high) else search.high,)

    def _freeze_settings(self) -> None:
        """Raises SuiteError for values of which no engine could have any, or that no case could be called by."""
        if not isinstance(self.options, Mapping):
            raise SuiteError(f"Sweep {self.name!r}: options={self.options!r}; it takes a table of lists by their name")
        taken = [name for name in self.options if name in ("model", *VARIED, *LABELS) or not str(name).isidentifier()]
        if taken:
            raise SuiteError(
                f"Sweep {self.name!r}: options has {taken[0]!r}, which is no name of an engine's own option"
            )
        for name in VARIED:
            object.__setattr__(self, name, self._settings(name, getattr(self, name)))
        options = {name: self._settings(name, given) for name, given in sorted(self.options.items())}
        object.__setattr__(self, "options", options)
        if empty := [name for name, values in options.items() if not values]:
            raise SuiteError(f"Sweep {self.name!r}: options: {empty[0]} has no value")
        if type(self.per_replica) is not bool or (self.per_replica and not self.replicas):
            raise SuiteError(
                f"Sweep {self.name!r}: per_replica={self.per_replica!r}; it is True where {self.axis} counts for each "
                "of the replicas=[…] that the sweep has"
            )
        if self.per_replica and max(self.places) * max(self.replicas) > MOST:
            raise SuiteError(f"Sweep {self.name!r}: {self.axis} of all replicas together is at most {MOST:,}")

    def _settings(self, name: str, given: object) -> tuple[Setting, ...]:
        kind, said = {
            "replicas": (
                lambda one: _counts(one) and one <= MOST_REPLICAS,
                f"whole numbers from 1 to {MOST_REPLICAS:,}",
            ),
            "threads": (lambda one: _counts(one) and one <= MOST_THREADS, f"whole numbers from 1 to {MOST_THREADS:,}"),
            "dtype": (_word, "names, as in ['float32', 'int8']"),
            "beside": (_neighbours, "None, Beside(…) and tuples of these"),
        }.get(name, (lambda one: isinstance(one, (bool, int, float)) or _word(one), "texts, numbers and truths"))
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise SuiteError(f"Sweep {self.name!r}: {name}={given!r}; it takes a list of {said}")
        values: tuple[Any, ...] = tuple(map(_declared, given)) if name == "beside" else tuple(given)
        if not all(map(kind, values)):
            raise SuiteError(f"Sweep {self.name!r}: {name}={list(values)!r}; it takes different {said}")
        names = [*map(spelled, values)]
        if twice := [one for one in names if names.count(one) > 1]:
            raise SuiteError(
                f"Sweep {self.name!r}: {name}={list(values)!r}; it takes different {said}, and two of them are called "
                f"{twice[0]} in a case's name"
            )
        return values

    def _check_slo(self) -> None:
        if self.slo is not None and not isinstance(self.slo, Slo):
            raise SuiteError(f"Sweep {self.name!r}: slo={self.slo!r}; it takes Slo(ttft_ms=…, tpot_ms=…, e2el_ms=…)")
        if self.slo and isinstance(self.workload, StaticBatch):
            raise SuiteError(
                f"Sweep {self.name!r}: the requests of a StaticBatch all begin at once: an slo is of those that "
                "arrive, as in a ClosedLoop or an OpenLoop; assert a stated limit instead"
            )
        good = [name for name in self.tolerances if name in GOODPUT]
        if good and not self.slo:
            raise SuiteError(
                f"Sweep {self.name!r} gates {', '.join(good)}, and doesn't say which requests are good: add slo=Slo(…)"
            )

    def _check_search(self) -> None:
        search, gated = self.search, self.tolerances.keys()
        if lost := [name for name in gated & set(FOUND.values()) if not search or name != FOUND[self.axis]]:
            axis = next(axis for axis, name in FOUND.items() if name == lost[0])
            raise SuiteError(f"Sweep {self.name!r} gates {lost[0]}, which a search finds: {axis}=Search(low, high)")
        if not search:
            return
        if self.slo is None:
            raise SuiteError(f"Sweep {self.name!r}: a search is for what keeps limits: add slo=Slo(…)")
        if others := gated - {FOUND[self.axis]}:
            raise SuiteError(
                f"Sweep {self.name!r} gates {', '.join(sorted(others))}: a search goes from place to place, and gates "
                f"{FOUND[self.axis]} alone; gate the others in a sweep that lists its places"
            )
        if self.per_replica or (isinstance(self.workload, OpenLoop) and self.workload.ramp_s):
            what = "per_replica" if self.per_replica else "ramp_s"
            raise SuiteError(f"Sweep {self.name!r}: a search has no {what}")

    def _tolerances(self) -> dict[str, float]:
        names = tuple(self.gate)
        if any(not isinstance(name, str) for name in names):
            raise SuiteError(f"Sweep {self.name!r}: gate={names!r}; it takes names of metrics")
        asked = self.gate if isinstance(self.gate, Mapping) else dict.fromkeys(names, DEFAULT_TOLERANCE)
        tolerances = {}
        for name, tolerance in asked.items():
            number = isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool)
            if not (number and 0 < tolerance <= LARGEST_TOLERANCE):
                raise SuiteError(
                    f"Sweep {self.name!r}: gate[{name!r}]={tolerance!r}; "
                    f"it takes a fraction above 0, up to {LARGEST_TOLERANCE}"
                )
            tolerances[metric(name).name] = float(tolerance)
        return tolerances

    @property
    def axis(self) -> str:
        """What it varies: `batch_size`, `concurrency`, `request_rate` or `speed`."""
        return self.workload.AXIS

    @property
    def places(self) -> tuple[float, ...]:
        """Where on that axis it measures: of a search, the highest place of it."""
        if search := self.search:
            return self._highest(search)
        return cast("tuple[float, ...]", getattr(self, self.axis))  # made so in __post_init__

    @property
    def search(self) -> Search | None:
        """How each launch looks for its place; None where the places are listed."""
        asked = getattr(self, self.axis)
        return asked if isinstance(asked, Search) else None

    @property
    def varied(self) -> Mapping[str, tuple[Setting, ...]]:
        """What it varies of the engine, in the order in which a case's name has it."""
        of_every_engine = {name: getattr(self, name) for name in VARIED}
        return {name: tuple(values) for name, values in {**of_every_engine, **self.options}.items() if values}

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Each combination of what is varied; one without a setting where nothing is."""
        names, values = tuple(self.varied), self.varied.values()
        return tuple(Variant(tuple(zip(names, one, strict=True))) for one in itertools.product(*values))

    @property
    def ends(self) -> "Sweep":
        """The same with the smallest and the largest of what is varied only; of names, which have no order, all."""
        both: dict[str, Any] = {self.axis: self.search or _ends(self.places)}
        both |= {name: _ends(values) for name, values in self.varied.items() if name in VARIED}
        return replace(self, **both, options={name: _ends(values) for name, values in self.options.items()})

    @property
    def tolerances(self) -> Mapping[str, float]:
        """The gated metrics by their full names, each with the fraction that may be lost."""
        return cast("Mapping[str, float]", self.gate)  # made so in __post_init__

    @property
    def metered(self) -> tuple[str, ...]:
        """The gated metrics that a meter tells."""
        return tuple(name for name in self.tolerances if name in (*ENERGY, *BOARD))

    def nothing_left(self, unmetered: Mapping[str, str]) -> str:
        """Why it gates nothing where these metrics can't be had, each for its reason; an empty text where it does."""
        gated = self.tolerances.keys()
        if not gated or gated - unmetered.keys():
            return ""
        return "; ".join(dict.fromkeys(unmetered[name] for name in gated))

    @property
    def quantiles(self) -> tuple[float, ...]:
        """Quantiles of the latencies that must be measured, ascending: the median, the declared and the gated ones, and
        the one that a search hangs on.
        """
        gated = (metric(name).quantile for name in self.tolerances)
        declared = [percentile / 100 for percentile in self.percentiles]
        searched = [self.search.share] if self.search else []
        return tuple(sorted({0.5, *declared, *searched, *(quantile for quantile in gated if quantile)}))

    def cases(self, models: Iterable[str]) -> tuple[Case, ...]:
        """The cases on these models, each a name or a path: those of one variant follow each other."""
        return tuple(
            Case(self.name, model_name(model), at, self.axis, variant, self.per_replica, bool(self.search))
            for model in models
            for variant in self.variants
            for at in self.places
        )

    def each(self, test: Test) -> Test:
        """Decorate a test to run once per case; its arguments are any of the axis's name, `model`, and what else is
        varied, as `replicas`.
        """
        setattr(test, BINDING, Binding(self))
        return test

    def at(self, *places: float, **settings: Setting) -> Callable[[Test], Test]:
        """Decorate a test that looks at these places of the axis only, and at the variants with these settings, as in
        `at(64, replicas=2)`: selecting it alone measures no others.
        """
        unknown = [place for place in places if place not in self.places]
        if not places or unknown:
            raise SuiteError(f"Sweep {self.name!r}.at{places!r}: its {self.axis} is one of {list(self.places)}")
        for name, value in settings.items():
            if value not in self.varied.get(name, ()):
                known = (
                    f"its {name} is one of {list(self.varied[name])}" if name in self.varied else f"it varies no {name}"
                )
                raise SuiteError(f"Sweep {self.name!r}.at({name}={value!r}): {known}")

        def bind(test: Test) -> Test:
            code = getattr(test, "__code__", None)
            wanted = {self.axis, "model", *self.varied} & set(code.co_varnames[: code.co_argcount] if code else ())
            if wanted:
                raise SuiteError(
                    f"Sweep {self.name!r}.at(…) passes no {' and no '.join(sorted(wanted))}: decorate with each, "
                    f"or look the point up, as in result[{places[0]}]"
                )
            setattr(test, BINDING, Binding(self, places, settings))
            return test

        return bind

    def _searching(self, table: Mapping[str, float]) -> Search:
        """The search as settings change it."""
        if self.search:
            return replace(self.search, **table)
        if not {"low", "high"} <= table.keys():
            raise SuiteError(f"Sweep {self.name!r}: {self.axis}={dict(table)}; a search takes low and high")
        return Search(**table)

    def lacks(self, binding: Binding) -> str:
        """What a test looks at that this sweep, as it is on a machine, doesn't have; empty where it has all."""
        asked = {self.axis: binding.places or (), **{name: (value,) for name, value in binding.settings.items()}}
        for name, values in asked.items():
            there = self.places if name == self.axis else self.varied.get(name, ())
            if missing := [value for value in values if value not in there]:
                return f"{self.name} has {name}={list(there)} on this machine and tier, not {missing}"
        return ""

    def on(self, axes: Mapping[str, Any]) -> "Sweep":
        """This sweep with what a machine's settings say of it: models, places, lengths, gate and so on.

        Raises SuiteError for what it doesn't have.
        """
        lengths = {name: axes[name] for name in ("prompt_tokens", "output_tokens") if name in axes}
        of_sweep = ("model", "gate", "percentiles", "missing_meter", *LABELS, *VARIED)
        rest = {name: axes[name] for name in of_sweep if name in axes}
        others = [name for name in LABELS if name in axes and name != self.axis]
        if isinstance(rest.get(self.axis), Mapping):
            rest[self.axis] = self._searching(rest[self.axis])
        given = {**{name: axes[name] for name in VARIED if name in axes}, **axes.get("options", {})}
        others += [name for name in given if name not in self.varied]
        if others:
            varied = ", ".join((self.axis, *self.varied))
            raise SuiteError(f"Sweep {self.name!r} varies {varied}; the settings give {', '.join(others)}")
        if empty := [name for name, values in given.items() if not values]:
            raise SuiteError(f"Sweep {self.name!r}: the settings give no {empty[0]}: leave it out, or name one")
        if "options" in axes:
            rest["options"] = {**self.options, **axes["options"]}
        if "slo" in axes:
            known = {limit.name: getattr(self.slo, limit.name) for limit in fields(Slo)} if self.slo else {}
            rest["slo"] = Slo(**{**known, **axes["slo"]})
        if not lengths:
            return replace(self, **rest)
        if isinstance(self.workload, Replay) or self.workload.lengths:
            raise SuiteError(
                f"Sweep {self.name!r} draws its lengths from a trace; the settings give {', '.join(lengths)}"
            )
        return replace(self, **rest, workload=replace(self.workload, **lengths))


def _counts(value: object) -> bool:
    return type(value) is int and value >= 1


def _declared(one: object) -> object:
    """What settings say of a model beside, in words that they have."""
    if one == "none":
        return None
    return Beside(**one) if isinstance(one, Mapping) and told(one) else one


def _neighbours(value: object) -> bool:
    if value is None or isinstance(value, Beside):
        return True
    return isinstance(value, tuple) and bool(value) and all(isinstance(one, Beside) for one in value)


def _word(value: object) -> bool:
    return isinstance(value, str) and bool(_WORD.fullmatch(value))


def _ends(values: Sequence[Any]) -> tuple[Any, ...]:
    """The smallest and the largest; all of those that are no numbers."""
    if any(isinstance(one, (str, bool)) or not isinstance(one, (int, float)) for one in values):
        return tuple(values)
    return tuple(sorted({min(values), max(values)}))


def _rate(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
