"""How a process ended, in words."""

import signal

import pytest

from pytest_slmperf.engines.ending import how_it_ended


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-signal.SIGSEGV, "signal SIGSEGV"),
        (-signal.SIGILL, "signal SIGILL; the engine was built for another CPU"),
        (-signal.SIGKILL, "signal SIGKILL; often that is the kernel's out-of-memory killer (see dmesg): try a smaller"),
        (-(signal.SIGRTMIN + 3), f"signal {signal.SIGRTMIN + 3}"),
    ],
)
def test_an_exit_code_or_a_signal_is_named(code, words):
    """A signal by its name, where it has one, and with what to look at."""
    assert how_it_ended(code).startswith(words)


def test_a_lighter_load_is_named_where_it_is_known():
    """As of a model beside, whose requests arrive at a rate: it has no batch."""
    assert how_it_ended(-signal.SIGKILL, "a lower request_rate").endswith("try a lower request_rate")
