"""The engine that advice is about, by the command line and the project's settings."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from pytest_slmperf.cli.arguments import named
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineUnavailable, UsageError
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.core.shapes import shape_of
from pytest_slmperf.engines import registry
from pytest_slmperf.run.options import OptionValue, planted_loss, pool_of
from pytest_slmperf.run.settings import Settings


def named_here(given: argparse.Namespace, settings: Settings) -> tuple[str, Mapping[str, OptionValue]]:
    """The engine of `--engine`, of the settings, or the best that is here, and its options. Raises UsageError."""
    return named(given, settings, settings.engine or ("" if given.engine else registry.best()))


def spec_of(given: argparse.Namespace, model: str, settings: Settings) -> tuple[EngineSpec, Pool | None]:
    """The engine that is measured, and the pool that its options speak of. Raises UsageError for one that is unknown
    or not installed.
    """
    name, options = named_here(given, settings)
    known = {engine.name: engine for engine in registry.available()}
    if name not in known:
        raise UsageError(f"unknown engine {name!r}: known are {', '.join(known)}")
    if known[name].missing:
        raise UsageError(known[name].missing)
    pool, own = pool_of(options)
    planted = planted_loss(own.pop("slowed", 0))
    if name in registry.REAL and not Path(model).expanduser().is_dir():
        _check_model(model)
    return EngineSpec(name, model, settings.dtype, settings.threads, own, planted_loss=planted), pool


def _check_model(model: str) -> None:
    """Raises UsageError for a model that is neither a known shape nor a folder."""
    try:
        shape_of(model)
    except EngineUnavailable as error:
        raise UsageError(str(error)) from error
