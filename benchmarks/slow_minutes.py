"""Noise models for gatebench and gate_runs.py: in each session some launches in a row are slow, wherever they lie.

python gatebench.py --rule pytest_slmperf.core.gate:rule --design stored --models benchmarks/slow_minutes.py --no-public
"""

import numpy as np


def slow_minute(length, by):
    """Launches that differ by 1 %, of which `length` in a row are slower by `by`, on the log scale."""

    def noise(random, arm, rounds):
        sessions, launches = arm.shape
        begin = random.integers(0, launches - length + 1, (sessions, 1))
        place = np.arange(launches)
        slow = by * ((begin <= place) & (place < begin + length))
        between = 0.01 * random.standard_normal(arm.shape)
        return (slow + between)[..., None] + 0.01 * random.standard_normal((*arm.shape, rounds))

    return noise


MODELS = {
    "two by 20 %": {"fn": slow_minute(2, 0.20)},
    "four by 5 %": {"fn": slow_minute(4, 0.05)},
    "four by 20 %": {"fn": slow_minute(4, 0.20)},
}
