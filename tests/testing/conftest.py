"""Servers to test with."""

from contextlib import ExitStack

import pytest

from pytest_slmperf.testing.server import Options, serving

QUICK = {"step_s": 0.001, "step_request_s": 0, "prefill_token_s": 0}


@pytest.fixture(scope="session")
def server():
    """One without faults, for all tests that want none."""
    with serving(Options(**QUICK)) as running:
        yield running


@pytest.fixture
def serve():
    """Start one with options of the test's own."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(
            serving(Options(**(options if options.get("null") else {**QUICK, **options})))
        )
