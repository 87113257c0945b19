"""A sweep: a declaration of which cases are measured, which metrics are gated, and how tightly."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from pytest_slmperf.core.binding import BINDING
from pytest_slmperf.core.engine import model_name
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.metrics import BOARD, ENERGY, metric
from pytest_slmperf.core.workload import StaticBatch

DEFAULT_TOLERANCE = 0.03
LARGEST_TOLERANCE = 0.15
"""A gate that tolerates more is no gate."""
MISSING_METER = ("red", "skip")
"""What becomes of gated joules where nothing tells them."""

Test = TypeVar("Test", bound=Callable[..., Any])
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, eq=False)
class Binding:
    """Which cases of which sweep a test looks at. None stands for a test of its own for every case."""

    sweep: "Sweep"
    batch_sizes: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A named point of a sweep on one model. A baseline is stored under its name: a renamed test loses no history."""

    sweep: str
    model: str
    batch_size: int

    @property
    def name(self) -> str:
        """`decode/opt-125m/batch=64`."""
        return f"{self.sweep}/{self.model}/batch={self.batch_size}"

    @property
    def coordinates(self) -> Mapping[str, str | int]:
        """What a suite looks it up by."""
        return {"model": self.model, "batch_size": self.batch_size}


@dataclass(frozen=True, eq=False)
class Sweep:
    """Cases = models × batch sizes of one workload, and the gated metrics with their tolerances.

        DECODE = Sweep("decode", StaticBatch(prompt_tokens=128, output_tokens=128), batch_size=[1, 4, 16, 64],
                       gate={"output_throughput": 0.03})

    Nothing is measured by declaring it. `model` may stay empty: then the engine that a fixture measures names it.
    `gate` maps a metric's name to the fraction that may be lost; a list of names takes 3 % for each. `percentiles` are
    those of the latencies that a suite looks at: each launch observes enough requests for all of them.
    `missing_meter` says what becomes of joules where nothing tells them: `red`, or `skip`, which skips their tests with
    the reason and gates the rest. By default it is what `[tool.slmperf]` says, or `red` on a GPU and `skip` elsewhere.
    What a machine sweeps can be set in `[tool.slmperf]`, by the sweep's name.
    Raises SuiteError for a declaration that makes no sense.
    """

    name: str
    workload: StaticBatch
    batch_size: Sequence[int]
    gate: Mapping[str, float] | Iterable[str] = field(default_factory=dict)
    model: Sequence[str] = ()
    percentiles: Sequence[float] = ()
    missing_meter: str | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and _NAME.fullmatch(self.name)):
            raise SuiteError(f"Sweep {self.name!r}: a name has small letters, digits, '.', '_' and '-' only")
        sizes, percentiles = tuple(self.batch_size), tuple(self.percentiles)
        if not sizes or any(type(size) is not int or size < 1 for size in sizes) or len(set(sizes)) != len(sizes):
            raise SuiteError(f"Sweep {self.name!r}: batch_size={sizes!r}; it takes different whole numbers, at least 1")
        models = (self.model,) if isinstance(self.model, str) else tuple(self.model)
        if any(not isinstance(model, str) for model in models) or len({*map(model_name, models)}) != len(models):
            said = "it takes names, or paths by their last part, each once"
            raise SuiteError(f"Sweep {self.name!r}: model={models!r}; {said}")
        if any(isinstance(one, bool) or not isinstance(one, (int, float)) or not 0 < one < 100 for one in percentiles):
            raise SuiteError(f"Sweep {self.name!r}: percentiles={list(percentiles)!r}; they lie between 0 and 100")
        if self.missing_meter not in (None, *MISSING_METER):
            said = " or ".join(map(repr, MISSING_METER))
            raise SuiteError(f"Sweep {self.name!r}: missing_meter={self.missing_meter!r}; it takes {said}")
        object.__setattr__(self, "batch_size", sizes)
        object.__setattr__(self, "model", models)
        object.__setattr__(self, "percentiles", percentiles)
        object.__setattr__(self, "gate", self._tolerances())

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
        return tuple(Case(self.name, model_name(model), size) for model in models for size in self.batch_size)

    def each(self, test: Test) -> Test:
        """Decorate a test to run once per case; it takes `batch_size`, `model` or both as arguments."""
        setattr(test, BINDING, Binding(self))
        return test

    def at(self, *batch_sizes: int) -> Callable[[Test], Test]:
        """Decorate a test that looks at these batch sizes only: selecting it alone measures no others."""
        unknown = [size for size in batch_sizes if size not in self.batch_size]
        if not batch_sizes or unknown:
            raise SuiteError(f"Sweep {self.name!r}.at{batch_sizes!r}: its batch sizes are {list(self.batch_size)}")

        def bind(test: Test) -> Test:
            code = getattr(test, "__code__", None)
            wanted = {"batch_size", "model"} & set(code.co_varnames[: code.co_argcount] if code else ())
            if wanted:
                raise SuiteError(
                    f"Sweep {self.name!r}.at(…) passes no {' and no '.join(sorted(wanted))}: decorate with each, "
                    f"or look the point up, as in result[{batch_sizes[0]}]"
                )
            setattr(test, BINDING, Binding(self, batch_sizes))
            return test

        return bind

    def on(self, axes: Mapping[str, Any]) -> "Sweep":
        """This sweep with what a machine's settings say of it: models, batch sizes, lengths, gate and so on."""
        workload = {name: axes[name] for name in ("prompt_tokens", "output_tokens") if name in axes}
        of_sweep = ("model", "batch_size", "gate", "percentiles", "missing_meter")
        rest = {name: axes[name] for name in of_sweep if name in axes}
        if workload and self.workload.lengths:
            raise SuiteError(
                f"Sweep {self.name!r} draws its lengths from a trace; the settings give {', '.join(workload)}"
            )
        return replace(self, **rest, workload=replace(self.workload, **workload))
