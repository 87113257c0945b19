"""The smallest tolerance that a machine's noise supports, by drawing the gate of another day from one recording."""

import math
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from pytest_slmperf.core.gate import DAY_SD, Policy, costs_of, levels_of, margin_of
from pytest_slmperf.core.judging import ranks
from pytest_slmperf.core.judging.drift import neighbour_inflation, spread_of_mean
from pytest_slmperf.core.judging.even_pace import evened
from pytest_slmperf.core.judging.same_pace import logs_of
from pytest_slmperf.core.judging.spending import quantile
from pytest_slmperf.core.metrics import Metric
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.sweeps.sweep import LARGEST_TOLERANCE

if TYPE_CHECKING:
    import numpy as np

TOLERANCES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.10, 0.12, LARGEST_TOLERANCE)
"""What a suite can be advised to declare."""
SMALLEST_SUPPORTED = 0.03
"""Of them: two days of a machine without any noise of its own differ too much for less."""
RESAMPLES = 500
DECIDED = 0.99
"""Share of gates without a change that a supported tolerance decides."""


def supported_tolerance(sample: Sample, metric: Metric, policy: Policy, pace: Sample | None = None) -> float | None:
    """The smallest readable tolerance at which a stored gate of this noise, without a change, is decided in 99 %.

    Launches of both arms are drawn from the sample (with a fixed seed) and the day's effect from its normal
    distribution; None where even the largest is too little. With the times of the cores' piece of work it is the noise
    that the gate will see, without what their `pace` explains; but an arm's launches may come at another mean pace, the
    more so the more they resemble their neighbours, and so much more do two arms differ.
    """
    import numpy as np  # noqa: PLC0415 - a verdict needs no numpy, and importing a suite must cost nothing

    even = evened(metric, (sample, pace))
    costs = costs_of(even.samples[0], higher_is_better=metric.higher_is_better)
    count, launches = len(costs), policy.max_launches
    stored = replace(policy, design="stored", single_look=False, confirming=False)
    inflation = neighbour_inflation(costs)
    if count < 2 or math.isinf(inflation):
        return None
    first, second, day = _resampling(count, launches)
    logs = logs_of(pace) if even.spread else []
    day = day * math.hypot(DAY_SD, *(even.spread * spread_of_mean(logs, arm) for arm in (count, launches) if logs))
    # Resampled launches vary less than new ones would, by (count - 1) / count.
    noise = np.asarray(costs) - sum(costs) / count
    noise = (noise * (inflation * math.sqrt(count / (count - 1)))).astype(np.float32)
    pairs = (noise[second][:, :, None] - noise[first][:, None, :]).reshape(len(day), -1)
    distribution = ranks.rank_sum_distribution(count, launches)
    top, levels = pairs.shape[1] - 1, levels_of(stored, count, launches)
    indices = [ranks.critical(distribution, level) for level in levels]
    if None in indices:
        return None
    places = [top // 2, *(top - index for index in indices if index is not None)]
    pairs.partition(places, axis=1)
    estimate, *bounds = (pairs[:, place] for place in places)
    needed = [
        float(
            np.quantile(estimate + day + np.hypot(bound - estimate, quantile(level) * DAY_SD), DECIDED, method="higher")
        )
        for bound, level in zip(bounds, levels, strict=True)
    ]
    for tolerance in TOLERANCES:
        margin = margin_of(tolerance, higher_is_better=metric.higher_is_better)
        if needed[0] < 2 * margin and needed[1] < margin:
            return tolerance
    return None


@lru_cache(maxsize=64)
def _resampling(baseline: int, candidate: int) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    import numpy as np  # noqa: PLC0415 - see supported_tolerance

    random = np.random.default_rng(0)
    return (
        random.integers(0, baseline, (RESAMPLES, baseline)),
        random.integers(0, baseline, (RESAMPLES, candidate)),
        random.standard_normal(RESAMPLES),
    )
