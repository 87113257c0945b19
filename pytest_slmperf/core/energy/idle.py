"""What boards take idle, and what joules are net of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, pstdev, stdev

from pytest_slmperf.core.devices.board import BoardSample
from pytest_slmperf.core.devices.edges import EnergyTrace, judge_trace
from pytest_slmperf.core.energy.window import SAMPLED_FLOOR, NoEnergy, Quantity, Uncertainty
from pytest_slmperf.core.guards.board import IDLE_UTILISATION
from pytest_slmperf.core.sample import Measurement
from pytest_slmperf.core.units import NS_PER_S

MEDIAN_ERROR = math.sqrt(math.pi / 2)
"""Standard error of a median over that of a mean, of many values that are normally distributed."""


def idle_power(trace: EnergyTrace, samples: Sequence[BoardSample] = ()) -> Quantity | NoEnergy:
    """Mean power while nothing runs, in W: what `net_of_idle` subtracts.

    `samples` are what the board said meanwhile. The counter of an idle board may be off by a factor (zeus issue 181:
    187 J where the power readings add up to 327 J), so the difference of the two bounds the error, and what is net of
    it is for the report alone.
    """
    fault = judge_trace(trace)
    if fault:
        return NoEnergy(fault.reason)
    busy = max((sample.utilisation for sample in samples if sample.utilisation), default=0.0)
    if busy > IDLE_UTILISATION:
        return NoEnergy(f"it was not idle: {busy:.0%} busy")
    if trace.powers:
        told = [one.watts for one in trace.powers]
        if not any(told):
            return NoEnergy("it says that it takes no power")
        return Quantity(fmean(told), Uncertainty(0.0, 0.0, math.hypot(SAMPLED_FLOOR, pstdev(told) / fmean(told))))
    if len(trace.edges) < 2:
        return NoEnergy(f"its energy counter moved {len(trace.edges)} times, and two moves are needed")
    begin, end = trace.edges[0], trace.edges[-1]
    length_ns = end.at_ns - begin.at_ns
    edge = math.hypot(begin.standard_ns, end.standard_ns) / length_ns
    watts = (end.new.joules - begin.new.joules) / length_ns * NS_PER_S
    readings = [sample.power_w for sample in samples if sample.power_w]
    apart = math.hypot(fmean(readings) - watts, pstdev(readings)) / watts if readings else 0.0
    return Quantity(watts, Uncertainty(edge, 0.0, apart / math.sqrt(3)))


@dataclass(frozen=True, slots=True)
class NetOfIdle:
    """Joules per output token beyond what the boards take idle; for the report, never for the gate."""

    joules_per_output_token: float
    """The median over the launches."""
    error: float
    """Its standard uncertainty, in J: that of the idle power, and of a median of so many launches that scatter so."""


def net_of_idle(measurement: Measurement) -> NetOfIdle | None:
    """What a case's joules are net of the idle power of its boards, or None where that, or joules, weren't measured.

    Where there are several boards, their windows are taken for alike.
    """
    facts, samples = measurement.boards.values(), measurement.samples
    idle_w = [one.idle_w for one in facts if one.idle_w is not None]
    tokens, power = samples.get("joules_per_output_token"), samples.get("mean_power_w")
    if not facts or len(idle_w) < len(facts) or not tokens or not power:
        return None
    pairs = [(median(joules), median(watts)) for joules, watts in zip(tokens.launches, power.launches, strict=False)]
    net = [joules * (1 - math.fsum(idle_w) / watts) for joules, watts in pairs]
    error_w = math.hypot(*(one.idle_error_w or 0.0 for one in facts))
    of_idle = median(joules / watts for joules, watts in pairs) * error_w
    of_launches = MEDIAN_ERROR * stdev(net) / math.sqrt(len(net)) if len(net) > 1 else 0.0
    return NetOfIdle(median(net), math.hypot(of_idle, of_launches)) if median(net) > 0 else None
