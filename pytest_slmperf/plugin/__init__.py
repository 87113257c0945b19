"""The rim: pytest's options, fixtures and hooks. Dormant until `--slmperf` is given."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import pytest

from pytest_slmperf.core.binding import BINDING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_slmperf.core.engine import EngineSpec
    from pytest_slmperf.core.meter import EnergyMeter
    from pytest_slmperf.core.sweeps.sweep import Binding
    from pytest_slmperf.core.sweeps.variant import Setting
    from pytest_slmperf.plugin.session import SlmperfSession
    from pytest_slmperf.run.measuring import Measuring

ACTIVE = "slmperf-session"
"""Name under which the session is registered while `--slmperf` is on."""
METER_FIXTURE = "energy_meter"
OWN_FIXTURES = frozenset({"slmperf", "slm_engine", "replica_pool", METER_FIXTURE})


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options that a person types daily; everything else is set in `[tool.slmperf]` or in the suite."""
    group = parser.getgroup("slmperf", "performance suites (pytest-slmperf)")
    group.addoption("--slmperf", action="store_true", help="run the performance suites; without it they are skipped")
    group.addoption(
        "--slmperf-engine",
        metavar="NAME[:KEY=VALUE,...]",
        help="engine to measure, with options of its own; default: the best that this machine has",
    )
    group.addoption("--slmperf-baselines", metavar="DIR", help="folder of the stored baselines; default: baselines/")
    group.addoption(
        "--slmperf-accept",
        action="store_true",
        help="measure at least 20 launches and store them as the new baseline; judges nothing",
    )
    group.addoption("--slmperf-no-gate", action="store_true", help="measure and report without judging")
    group.addoption(
        "--slmperf-against",
        metavar="KEY=VALUE",
        help="compare with the baseline of another driver, engine version or machine (driver=580.65), or with "
        "python=PATH measure the engine of another environment beside this one's, now",
    )
    group.addoption(
        "--slmperf-tier",
        choices=("quick", "gate", "full"),
        default="gate",
        help="how much to spend: quick (smallest and largest of what is varied, half the launches but at least 8, "
        "twice the tolerance), gate, or full (half as many launches again)",
    )
    group.addoption(
        "--slmperf-budget", metavar="MINUTES", type=_minutes, help="end what is undecided by then as inconclusive"
    )
    group.addoption(
        "--slmperf-report",
        metavar="PATH",
        action="append",
        default=[],
        help="write a report (.json or .md); may be given several times",
    )


def _minutes(text: str) -> float:
    from pytest_slmperf.run.options import minutes  # noqa: PLC0415 - only where the option is given

    try:
        return minutes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"a budget is a number of minutes above 0, not {text!r}") from error


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the session where it was asked for."""
    config.addinivalue_line("markers", "slmperf: a performance test; it runs with --slmperf and is skipped without")
    if config.option.slmperf:
        from pytest_slmperf.plugin.session import activate  # noqa: PLC0415 - switched off, nothing below is imported

        activate(config)
        return
    given = [name for name in _given(config) if name != "slmperf"]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise pytest.UsageError(f"{flags} without --slmperf measures nothing; add --slmperf")


def _given(config: pytest.Config) -> list[str]:
    options: dict[str, Any] = vars(config.option)
    return [name for name, value in options.items() if name.startswith("slmperf") and value and value != "gate"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that is bound to a sweep its cases."""
    binding = binding_of(metafunc.function)
    if binding is None or binding.places is not None:
        return
    from pytest_slmperf.core.sweeps.variant import spelled  # noqa: PLC0415 - the suite that is collected has imported it

    active = _active(metafunc.config)
    sweep = active.resolved(binding.sweep) if active else binding.sweep
    axes: dict[str, tuple[Sequence[Setting], str]] = {
        sweep.axis: (sweep.places, sweep.workload.LABEL),
        "model": (tuple(sweep.model), ""),
    }
    for name, settings in sweep.varied.items():
        # A text is an id by itself, as a model is.
        axes[name] = (settings, "" if all(isinstance(value, str) for value in settings) else name)
    for name, (values, label) in axes.items():
        if name in metafunc.fixturenames and values:
            metafunc.parametrize(name, values, ids=[f"{label}{spelled(value)}" for value in values])


def _active(config: pytest.Config) -> SlmperfSession | None:
    active: SlmperfSession | None = config.pluginmanager.get_plugin(ACTIVE)
    return active


def binding_of(test: object) -> Binding | None:
    """The sweep that a test was decorated with, or None."""
    binding: Binding | None = getattr(test, BINDING, None)
    return binding


def measures(item: pytest.Item) -> bool:
    """Whether an item is a performance test: marked, bound to a sweep, or using a fixture of ours."""
    fixtures = getattr(item, "fixturenames", ())
    bound = binding_of(getattr(item, "function", None)) is not None
    return bound or not OWN_FIXTURES.isdisjoint(fixtures) or item.get_closest_marker("slmperf") is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without the flag, skip what would measure."""
    if config.pluginmanager.has_plugin(ACTIVE):
        return
    off = pytest.mark.skip(reason="measures performance: run with --slmperf")
    for item in items:
        if measures(item):
            item.add_marker(off)


@pytest.fixture(scope="session")
def slmperf(request: pytest.FixtureRequest) -> Measuring:
    """Measures sweeps.

    `slmperf.measure(SWEEP, slm_engine("opt-125m"))` measures the cases of that sweep which the selected tests look at,
    each launch of the engine in a process of its own, and returns the result: `result[64].output_throughput`,
    `result[64].ttft_ms.p99`, `result[64].baseline`, `result.knee`, `result.frontier`, `result.highest_rate`. With
    several models, give `slm_engine` itself (the sweep's `model=[...]` are measured, interleaved) or a list of engines,
    and look points up by `result["opt-125m", 64]`; those of a sweep that varies the engine by
    `result.of("opt-125m", replicas=2)[64]`. The same sweep on the same engine is measured once in a run. Put it
    in a fixture of `scope="module"`.
    """
    active = _active(request.config)
    if active is None:
        pytest.skip("measures performance: run with --slmperf")
    return active.measuring


@pytest.fixture(scope="session")
def slm_engine(slmperf: Measuring) -> Callable[..., EngineSpec]:
    """Names an engine: `slm_engine("opt-125m", dtype="int8")`.

    The model is a name of the table of shapes (random weights) or the path of a converted model. `dtype`, `threads`,
    `engine` and any option of the engine's own may be given; what isn't comes from `--slmperf-engine` and
    `[tool.slmperf]`. Nothing is started by it. Redefine this fixture in a conftest.py to measure an engine of yours.
    """
    return slmperf.engine


@pytest.fixture(scope="session")
def replica_pool() -> Callable[..., EngineSpec]:
    """Makes several replicas of an engine one engine: `replica_pool(slm_engine("opt-125m"), replicas=2)`.

    `kind` says where they run: `processes` (beside each other, on a CPU each on cores of its own), `mps`, `mig`,
    `gpus`, `threads` inside an engine that has them, `endpoints` with `addresses`, or `ray`. `spread` says how requests
    go to them: `even`, `round-robin` or `shortest-queue`. `--slmperf-engine=NAME:replicas=2,pool=mps,spread=even` says
    the same of every engine of a run. Nothing is started by it. It is `pytest_slmperf.replica_pool`.
    """
    from pytest_slmperf.core.pooled import replica_pool as pooled  # noqa: PLC0415 - only where it is asked for

    return pooled


@pytest.fixture(scope="session")
def energy_meter(slmperf: Measuring) -> EnergyMeter:
    """Counts the joules of a suite's sweeps: `mean_power_w`, `joules_per_output_token`, GPU utilisation and the like.

    A sweep that gates one of the joules has them counted anyhow; this fixture asks for them where nothing gates them.
    It gives the `boards` that are read (UUIDs), the `source` of their joules, whether a stand-in answers (`simulated`),
    and in `missing` why there are none; what is missing is unmeasured, and never 0.
    """
    return slmperf.energy_meter
