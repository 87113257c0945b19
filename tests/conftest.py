"""What keeps tests from each other, and from the time that a busy machine takes."""

import fcntl
import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is. A change is judged by the same examples every time; others are
# looked for by `HYPOTHESIS_PROFILE=exploring tox run -e py`.
settings.register_profile("exploring", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", settings.get_profile("exploring"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alone: no other test runs beside it, since it sees who else uses the cores")
    for name in ("PYTEST_XDIST_TESTRUNUID", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        os.environ.pop(name, None)  # a run that a test starts is none of these workers


@pytest.fixture(scope="session", autouse=True)
def _no_ci() -> Generator[None]:
    """Let a pytest that a test starts print the same on a CI, where pytest's summary repeats each message whole."""
    with pytest.MonkeyPatch.context() as changed:
        for name in ("CI", "BUILD_NUMBER"):
            changed.delenv(name, raising=False)
        yield


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that are marked `alone`, one after the other: anywhere else each would wait until the other
    worker has ended what it is at, and that is one of the long tests more often than not.
    """
    items.sort(key=lambda item: item.get_closest_marker("alone") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test that is marked `alone` while no other worker runs any."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    shared_by_the_workers = Path(item.config.getoption("basetemp")).parent
    with (shared_by_the_workers / "alone.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        return (yield)
