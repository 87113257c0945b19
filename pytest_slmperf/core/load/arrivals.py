"""Arrivals: when the requests of an open loop and of a replayed trace are due.

They are drawn before anything is sent, so both arms of a comparison get the very same.
"""

import math
import random
from collections.abc import Iterator, Sequence

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.sweeps.workload import OpenLoop

NS_DIGITS = 9
"""Due times are whole nanoseconds, so that the last bit of a machine's logarithm is not seen in them."""


def schedule(workload: OpenLoop, rate: float, *, seconds: float, seed: int) -> tuple[float, ...]:
    """Seconds after the start at which requests are due, ascending, from 0 to before `seconds`.

    A renewal process: gaps are independent and follow a gamma distribution of the shape `workload.burstiness`, which
    makes their coefficient of variation 1/√burstiness. Over `workload.ramp_s` the rate grows linearly from 0, by a
    change of time: a gap there is as long as the rate of its place makes it. Nothing is scaled to hit the rate exactly,
    so a shorter schedule is the start of a longer one; how many came is told by the schedule itself.

    The same seed gives the same on every machine and Python. Raises SuiteError for what is no rate, shape or ramp.
    """
    if not (0 < rate < math.inf):
        raise SuiteError(f"a request rate of {rate!r}; it must be a number above 0, in requests per second")
    if not (0 <= workload.ramp_s < math.inf):
        raise SuiteError(f"OpenLoop: ramp_s={workload.ramp_s!r}; it must be 0 or a number of seconds")
    due: list[float] = []
    count = 0.0  # of requests that are due by then at the nominal rate: the time in which gaps have the mean 1
    for gap in _gaps(workload.burstiness, random.Random(f"arrivals {seed}")):
        count += gap
        at = round(_when(count, rate, workload.ramp_s), NS_DIGITS)
        if at >= seconds:
            return tuple(due)
        due.append(at)
    raise AssertionError("gaps never end")


def replayed(offsets_s: Sequence[float], speed: float) -> tuple[float, ...]:
    """Due seconds of a trace's arrivals, `speed` times as fast; `offsets_s` count from the trace's beginning.

    Raises SuiteError, which names the first arrival that is negative, no number, or earlier than the one before it.
    """
    if not (0 < speed < math.inf):
        raise SuiteError(f"a replay's speed of {speed!r}; it must be a number above 0: 2 is twice as fast")
    before = 0.0
    for place, offset in enumerate(offsets_s):
        if not (before <= offset < math.inf):  # nor is NaN
            what = "is negative" if offset < 0 else f"comes after {before!r} s" if offset < before else "is no time"
            raise SuiteError(f"arrival {place} of the trace, at {offset!r} s, {what}; arrivals must ascend from 0")
        before = offset
    return tuple(round(offset / speed, NS_DIGITS) for offset in offsets_s)


def _when(count: float, rate: float, ramp_s: float) -> float:
    """The second by which so many requests are due: the inverse of the rate's integral."""
    in_ramp = rate * ramp_s / 2
    if count < in_ramp:
        return math.sqrt(2 * ramp_s * count / rate)
    return count / rate + ramp_s / 2


def _gaps(shape: float, draw: random.Random) -> Iterator[float]:
    """Gamma variates of this shape and the mean 1, without end.

    G. Marsaglia, W. W. Tsang, A simple method for generating gamma variables, ACM TOMS 26(3), 2000. The standard
    library's `gammavariate` may change from one Python to the next; of its generators only `random()` is promised.
    """
    if not shape > 0:
        raise SuiteError(f"OpenLoop: burstiness={shape!r}; it must be above 0: 1 is Poisson, math.inf a constant rate")
    if shape == math.inf:
        while True:
            yield 1.0
    boost = shape < 1  # below 1 the method draws from the shape above, and a power of a uniform variate corrects it
    d = (shape + 1 if boost else shape) - 1 / 3
    c = 1 / math.sqrt(9 * d)
    normals = _normals(draw)
    while True:
        normal = next(normals)
        v = (1 + c * normal) ** 3
        if v <= 0:
            continue
        if math.log(_open(draw)) >= normal * normal / 2 + d * (1 - v + math.log(v)):
            continue
        yield d * v / shape * (_open(draw) ** (1 / shape) if boost else 1.0)


def _normals(draw: random.Random) -> Iterator[float]:
    """Standard normal variates, by Marsaglia's polar method."""
    while True:
        x, y = 2 * draw.random() - 1, 2 * draw.random() - 1
        square = x * x + y * y
        if 0 < square < 1:
            stretch = math.sqrt(-2 * math.log(square) / square)
            yield x * stretch
            yield y * stretch


def _open(draw: random.Random) -> float:
    """A uniform variate above 0 and up to 1, of which there is a logarithm."""
    return 1.0 - draw.random()
