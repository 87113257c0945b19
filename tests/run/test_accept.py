"""Which tolerance a recording is stored with, and when its noise keeps it from being stored."""

import pytest

from pytest_slmperf.run.accept import Settled


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
