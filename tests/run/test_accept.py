"""Which tolerance a recording is stored with, and when its noise keeps it from being stored."""

from dataclasses import replace

import pytest

from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.outcome import CaseOutcome, RunOutcome, SweepOutcome
from pytest_slmperf.core.sample import Measurement
from pytest_slmperf.run.accept import Settled, holds_all


@pytest.mark.parametrize(
    ("asked", "supported", "or_more", "tolerance", "too_noisy"),
    [
        (0.05, 0.03, False, 0.05, False),
        (0.05, 0.05, False, 0.05, False),
        (0.05, 0.06, False, None, True),
        (0.05, 0.06, True, 0.06, False),
        (0.05, 0.15, True, 0.15, False),
        (0.05, None, False, None, True),
        (0.05, None, True, None, True),
        (0.02, 0.03, False, None, False),
        (0.02, 0.04, False, None, False),
        (0.02, 0.03, True, 0.03, False),
        (0.20, 0.03, False, 0.15, False),
        (0.20, None, False, None, True),
    ],
)
def test_what_noise_supports_against_what_is_asked_for(asked, supported, or_more, tolerance, too_noisy):
    """What is asked for is taken where the noise supports it, and more where that is allowed; a recording goes on for
    longer only where less noise would help, and not for a tolerance that no machine supports.
    """
    found = Settled(asked, supported, or_more)
    assert (found.tolerance, found.too_noisy) == (tolerance, too_noisy)


BOARD = Machine("NVIDIA H100", "580.65", {"gpu_uuid": "GPU-a", "power_limit_w": 700, "kernel": "6.1.0"})


def recording(*sizes, **fields):
    """A run of these batch sizes on the board, with these fields of the machine."""
    names = [f"decode/tiny/batch={size}" for size in sizes]
    cases = {name: CaseOutcome(name, {}, Measurement(name, {}, {}), None, {}) for name in names}
    sweep = SweepOutcome("decode", "stored", "accept", cases, (), {}, None, 20, 1.0, asked={"median_itl_ms": 0.05})
    machine = replace(BOARD, fields={**BOARD.fields, **fields})
    return RunOutcome(machine, (sweep,), "2026-03-01T09:00:00+00:00", 1.0, None, complete=True)


@pytest.mark.parametrize(
    ("fields", "all_of_it"),
    [
        ({}, True),
        ({"compile_caches": "torch"}, True),
        ({"kernel": "6.1.9"}, True),
        ({"power_limit_w": 500}, False),
    ],
)
def test_a_recording_of_as_much_is_of_the_same_machine(fields, all_of_it):
    """What a machine says of a single run, or what is only worth a note, makes it no other one."""
    whole, part = recording(1, 16, compile_caches="none"), recording(1, **fields)
    assert holds_all(whole, part) is all_of_it
    assert not holds_all(part, whole)
