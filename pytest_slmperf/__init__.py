"""Make performance a test: measure an engine that serves small language models, and gate on what it does.

These are the names that the author of a suite imports. They load when they are first used, and load neither numpy nor
scipy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_slmperf.core.beside import Beside
    from pytest_slmperf.core.engine import EngineSpec
    from pytest_slmperf.core.memory import largest_batch_within, predicted_peak
    from pytest_slmperf.core.pooled import replica_pool
    from pytest_slmperf.core.shapes import shape_of
    from pytest_slmperf.core.slo import Slo
    from pytest_slmperf.core.sweeps.search import Search
    from pytest_slmperf.core.sweeps.sweep import Sweep
    from pytest_slmperf.core.sweeps.workload import (
        ClosedLoop,
        LogNormal,
        OpenLoop,
        Replay,
        StaticBatch,
        TraceLengths,
        Uniform,
    )

__version__ = "0.1.0.dev0"
__all__ = [
    "Beside",
    "ClosedLoop",
    "EngineSpec",
    "LogNormal",
    "OpenLoop",
    "Replay",
    "Search",
    "Slo",
    "StaticBatch",
    "Sweep",
    "TraceLengths",
    "Uniform",
    "__version__",
    "largest_batch_within",
    "predicted_peak",
    "replica_pool",
    "shape_of",
]

_HOMES = {
    "Beside": "pytest_slmperf.core.beside",
    "EngineSpec": "pytest_slmperf.core.engine",
    **dict.fromkeys(
        ("ClosedLoop", "LogNormal", "OpenLoop", "Replay", "StaticBatch", "TraceLengths", "Uniform"),
        "pytest_slmperf.core.sweeps.workload",
    ),
    "Slo": "pytest_slmperf.core.slo",
    "Search": "pytest_slmperf.core.sweeps.search",
    "Sweep": "pytest_slmperf.core.sweeps.sweep",
    "largest_batch_within": "pytest_slmperf.core.memory",
    "predicted_peak": "pytest_slmperf.core.memory",
    "replica_pool": "pytest_slmperf.core.pooled",
    "shape_of": "pytest_slmperf.core.shapes",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
