"""What pytest was asked for, read into the options of a measuring run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.plugin.selection import chosen
from pytest_slmperf.run.options import Options, parse_against, parse_engine
from pytest_slmperf.run.settings import Settings, read_settings

if TYPE_CHECKING:
    import pytest


def refuse_lost_settings(config: pytest.Config) -> None:
    """pytest takes the path of an option that it does not know yet for a test, and may find another root by it.

    Raises UsageError where settings would be lost by that.
    """
    here = config.invocation_params.dir
    if here == config.rootpath:
        return
    if read_settings(here) not in (Settings(), read_settings(config.rootpath)):
        raise UsageError(
            f"{here / 'pyproject.toml'} has [tool.slmperf], and pytest took {config.rootpath} for the root: write "
            "options with =, as in --slmperf-baselines=DIR, or name the root: --rootdir=."
        )


def options_of(config: pytest.Config) -> Options:
    """The options of this run. Raises UsageError for what is wrong, or excludes each other."""
    given = config.option
    if getattr(given, "setuponly", False):
        raise UsageError("--setup-only and --setup-plan run no test, so that nothing would be gated")
    if given.slmperf_accept and given.slmperf_no_gate:
        raise UsageError("--slmperf-accept and --slmperf-no-gate exclude each other")
    if given.slmperf_accept and given.slmperf_against:
        raise UsageError("--slmperf-accept records this machine as it is; it takes no --slmperf-against")
    if given.slmperf_accept and given.slmperf_tier == "quick":
        raise UsageError("--slmperf-accept records every case; it takes no --slmperf-tier quick")
    engine, engine_options = parse_engine(given.slmperf_engine)
    return Options(
        mode="accept" if given.slmperf_accept else "report" if given.slmperf_no_gate else "gate",
        engine=engine,
        engine_options=engine_options,
        baselines=Path(given.slmperf_baselines) if given.slmperf_baselines else None,
        against=parse_against(given.slmperf_against),
        tier=given.slmperf_tier,
        budget_s=given.slmperf_budget * 60 if given.slmperf_budget else None,
        reports=tuple(Path(path) for path in given.slmperf_report),
        chosen=chosen(config),
        keyword=given.keyword,
    )
