"""Adds the measured cases to the file that pytest-benchmark writes, also where it would write none.

pytest-benchmark writes only if some test used its `benchmark` fixture, and never under xdist; a run of performance
suites has no such test. Registered only where pytest-benchmark is.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest

from pytest_slmperf.core.outcome import RunOutcome
from pytest_slmperf.report.benchmark import benchmarks as entries


def register(config: pytest.Config, outcome: Callable[[], RunOutcome]) -> None:
    """Register the bridge if pytest-benchmark is active in this run; `outcome` is called at the session's end."""
    if config.pluginmanager.hasplugin("benchmark"):
        config.pluginmanager.register(BenchmarkBridge(outcome), "slmperf-benchmark")


class BenchmarkBridge:
    """Speaks pytest-benchmark's hooks. Lives as long as the session."""

    def __init__(self, outcome: Callable[[], RunOutcome]) -> None:
        self._outcome = outcome

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        """Add the cases to a file that pytest-benchmark is about to write."""
        output_json["benchmarks"].extend(self._entries())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Before pytest-benchmark's own: write what it would not, for want of benchmarks of its own."""
        config = session.config
        theirs = getattr(config, "_benchmarksession", None)
        if theirs and not theirs.benchmarks and not hasattr(config, "workerinput") and self._entries():
            _write(config, theirs)
        return (yield)

    def _entries(self) -> Sequence[dict[str, Any]]:
        return entries(self._outcome())


def _write(config: pytest.Config, theirs: Any) -> None:  # noqa: ANN401 - a BenchmarkSession, which has no types
    """What `BenchmarkSession.handle_saving` of pytest-benchmark 5.3 does, without asking for benchmarks first."""
    name = theirs.save or theirs.autosave
    if not (theirs.json or name):
        return
    hook = config.hook
    machine = theirs.get_machine_info()
    commit = hook.pytest_benchmark_generate_commit_info(config=config)
    hook.pytest_benchmark_update_commit_info(config=config, commit_info=commit)

    def content(*, include_data: bool) -> dict[str, Any]:
        content: dict[str, Any] = hook.pytest_benchmark_generate_json(
            config=config, benchmarks=[], include_data=include_data, machine_info=machine, commit_info=commit
        )
        hook.pytest_benchmark_update_json(config=config, benchmarks=[], output_json=content)
        return content

    if theirs.json:
        theirs.save_json(content(include_data=True))
    if name:
        theirs.storage.save(content(include_data=theirs.save_data), name)
    # It would now say that no benchmarks have been run, and that it saves nothing.
    theirs.json = theirs.save = theirs.autosave = None
