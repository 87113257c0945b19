"""Cases in the JSON form of pytest-benchmark, which dashboards read.

Its `stats` are seconds per output token, round by round, so that its `ops` are output tokens per second. Everything
else that was measured is in `extra_info`, where no gate that takes larger for worse looks.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from statistics import mean, median, stdev
from typing import Any

from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import CaseOutcome, RunOutcome, SweepOutcome

THROUGHPUT = "output_throughput"


def benchmarks(run: RunOutcome) -> list[dict[str, Any]]:
    """One entry for each case with a measured output throughput, as pytest-benchmark 5 writes them."""
    return [
        _entry(sweep, case)
        for sweep in run.sweeps
        for case in sweep.cases.values()
        if THROUGHPUT in case.measurement.samples and not case.measurement.void
    ]


def stats(seconds: Sequence[float]) -> dict[str, Any]:
    """The statistics that pytest-benchmark writes of at least one duration, by its definitions."""
    ordered = sorted(seconds)
    count, total = len(ordered), sum(seconds)
    centre, deviation = mean(seconds), stdev(seconds) if count > 1 else 0.0
    q1, q3 = _quartiles(ordered)
    fence = 1.5 * (q3 - q1)
    stddev_outliers = sum(not centre - deviation <= value <= centre + deviation for value in seconds)
    iqr_outliers = sum(not q1 - fence <= value <= q3 + fence for value in seconds)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": centre,
        "stddev": deviation,
        "rounds": count,
        "median": median(ordered),
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": iqr_outliers,
        "stddev_outliers": stddev_outliers,
        "outliers": f"{stddev_outliers};{iqr_outliers}",
        "ld15iqr": ordered[bisect_left(ordered, q1 - fence)],
        "hd15iqr": ordered[bisect_right(ordered, q3 + fence) - 1],
        "ops": count / total,
        "total": total,
        "data": list(seconds),
        "iterations": 1,
    }


def _entry(sweep: SweepOutcome, case: CaseOutcome) -> dict[str, Any]:
    samples = case.measurement.samples
    return {
        "group": sweep.sweep,
        "name": case.case,
        "fullname": case.case,
        "params": dict(case.coordinates),
        "param": "-".join(map(str, case.coordinates.values())),
        "extra_info": {
            **{name: sample.median for name, sample in samples.items()},
            "units": {name: metric(name).unit for name in samples},
            "verdicts": {name: str(verdict.status) for name, verdict in case.verdicts.items() if verdict.judged},
            "launches": len(samples[THROUGHPUT].launches),
        },
        "options": {},
        "stats": stats([1 / rate for rounds in samples[THROUGHPUT].launches for rate in rounds]),
    }


def _quartiles(ordered: Sequence[float]) -> tuple[float, float]:
    """Medians of the halves for an even count, interpolated for an odd one ("methods 2 and 3")."""
    count = len(ordered)
    if count == 1:
        return ordered[0], ordered[0]
    if count % 2 == 0:
        return median(ordered[: count // 2]), median(ordered[count // 2 :])
    n = count // 4
    if count % 4 == 1:
        return 0.25 * ordered[n - 1] + 0.75 * ordered[n], 0.75 * ordered[3 * n] + 0.25 * ordered[3 * n + 1]
    return 0.75 * ordered[n] + 0.25 * ordered[n + 1], 0.25 * ordered[3 * n + 1] + 0.75 * ordered[3 * n + 2]
