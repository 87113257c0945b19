"""A sweep: a declaration of which cases are measured, which metrics are gated, and how tightly."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar, cast, get_args

from pytest_slmperf.core.binding import BINDING
from pytest_slmperf.core.engine import model_name
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.metrics import BOARD, ENERGY, metric
from pytest_slmperf.core.workload import COUNTED, LABELS, Replay, Slo, StaticBatch, Workload

DEFAULT_TOLERANCE = 0.03
LARGEST_TOLERANCE = 0.15
"""A gate that tolerates more is no gate."""
MOST = 100_000
"""Of a batch, of places in a loop, of requests a second: no client on one machine sends or holds more."""
GOODPUT = ("request_goodput", "goodput_share")
"""Metrics that there are by an Slo only."""
MISSING_METER = ("red", "skip")
"""What becomes of gated joules where nothing tells them."""

Test = TypeVar("Test", bound=Callable[..., Any])
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, eq=False)
class Binding:
    """Which cases of which sweep a test looks at. None stands for a test of its own for every case."""

    sweep: "Sweep"
    places: tuple[float, ...] | None = None
    """On the sweep's axis."""


@dataclass(frozen=True, slots=True)
class Case:
    """A named point of a sweep on one model. A baseline is stored under its name: a renamed test loses no history."""

    sweep: str
    model: str
    at: float
    """On the sweep's axis: a batch size, a concurrency, a request rate or a speed."""
    axis: str = StaticBatch.AXIS

    @property
    def name(self) -> str:
        """`decode/opt-125m/batch=64`, `rate/opt-125m/rate=2.5`."""
        return f"{self.sweep}/{self.model}/{LABELS[self.axis]}={self.at}"

    @property
    def coordinates(self) -> Mapping[str, str | float]:
        """What a suite looks it up by."""
        return {"model": self.model, self.axis: self.at}


@dataclass(frozen=True, eq=False)
class Sweep:
    """Cases = models × places on the axis of one workload, and the gated metrics with their tolerances.

        DECODE = Sweep("decode", StaticBatch(prompt_tokens=128, output_tokens=128), batch_size=[1, 4, 16, 64],
                       gate={"output_throughput": 0.03})

    The axis is the workload's: `batch_size` of a `StaticBatch`, `concurrency` of a `ClosedLoop`, `request_rate` of an
    `OpenLoop`, `speed` of a `Replay`. Nothing is measured by declaring it. `model` may stay empty: then the engine that
    a fixture measures names it. `gate` maps a metric's name to the fraction that may be lost; a list of names takes 3 %
    for each. `percentiles` are those of the latencies that a suite looks at: each launch observes enough requests for
    all of them. `slo` says which requests count as good, for `request_goodput` and `goodput_share`. `missing_meter`
    says what becomes of joules where nothing tells them: `red`, or `skip`, which skips their tests with the reason and
    gates the rest. By default it is what `[tool.slmperf]` says, or `red` on a GPU and `skip` elsewhere. What a machine
    sweeps can be set in `[tool.slmperf]`, by the sweep's name.
    Raises SuiteError for a declaration that makes no sense.
    """

    name: str
    workload: Workload
    batch_size: Sequence[int] = ()
    gate: Mapping[str, float] | Iterable[str] = field(default_factory=dict)
    model: Sequence[str] = ()
    percentiles: Sequence[float] = ()
    missing_meter: str | None = None
    concurrency: Sequence[int] = ()
    request_rate: Sequence[float] = ()
    speed: Sequence[float] = ()
    slo: Slo | None = None

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
        object.__setattr__(self, self.axis, places)
        object.__setattr__(self, "model", models)
        object.__setattr__(self, "percentiles", percentiles)
        object.__setattr__(self, "gate", self._tolerances())
        self._check_slo()

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
        """Where on that axis it measures."""
        return cast("tuple[float, ...]", getattr(self, self.axis))  # made so in __post_init__

    @property
    def ends(self) -> "Sweep":
        """The same with the smallest and the largest place only."""
        both: Mapping[str, Any] = {self.axis: sorted({min(self.places), max(self.places)})}
        return replace(self, **both)

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
        """Quantiles of the latencies that must be measured: the median, the declared and the gated ones, ascending."""
        gated = (metric(name).quantile for name in self.tolerances)
        declared = (percentile / 100 for percentile in self.percentiles)
        return tuple(sorted({0.5, *declared, *(quantile for quantile in gated if quantile)}))

    def cases(self, models: Iterable[str]) -> tuple[Case, ...]:
        """The cases on these models, each a name or a path."""
        return tuple(Case(self.name, model_name(model), at, self.axis) for model in models for at in self.places)

    def each(self, test: Test) -> Test:
        """Decorate a test to run once per case; its arguments are the axis's name, `model` or both."""
        setattr(test, BINDING, Binding(self))
        return test

    def at(self, *places: float) -> Callable[[Test], Test]:
        """Decorate a test that looks at these places of the axis only: selecting it alone measures no others."""
        unknown = [place for place in places if place not in self.places]
        if not places or unknown:
            raise SuiteError(f"Sweep {self.name!r}.at{places!r}: its {self.axis} is one of {list(self.places)}")

        def bind(test: Test) -> Test:
            code = getattr(test, "__code__", None)
            wanted = {self.axis, "model"} & set(code.co_varnames[: code.co_argcount] if code else ())
            if wanted:
                raise SuiteError(
                    f"Sweep {self.name!r}.at(…) passes no {' and no '.join(sorted(wanted))}: decorate with each, "
                    f"or look the point up, as in result[{places[0]}]"
                )
            setattr(test, BINDING, Binding(self, places))
            return test

        return bind

    def on(self, axes: Mapping[str, Any]) -> "Sweep":
        """This sweep with what a machine's settings say of it: models, places, lengths, gate and so on.

        Raises SuiteError for what it doesn't have.
        """
        lengths = {name: axes[name] for name in ("prompt_tokens", "output_tokens") if name in axes}
        of_sweep = ("model", "gate", "percentiles", "missing_meter", *LABELS)
        rest = {name: axes[name] for name in of_sweep if name in axes}
        others = [name for name in LABELS if name in axes and name != self.axis]
        if others:
            raise SuiteError(f"Sweep {self.name!r} varies {self.axis}; the settings give {', '.join(others)}")
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


def _rate(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
