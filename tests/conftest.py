"""Tests side by side on several workers of pytest-xdist, and those that need the machine for themselves."""

import fcntl
from collections.abc import Generator
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alone: no other test runs beside it, since it sees who else uses the cores")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test that is marked `alone` while no other worker runs any."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    shared_by_the_workers = Path(item.config.getoption("basetemp")).parent
    with (shared_by_the_workers / "alone.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        return (yield)
