"""What is found of a machine on which performance is to be gated: lines, each with a grade and what to do."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import NormalDist, median, stdev

from pytest_slmperf.core import gate
from pytest_slmperf.core.baselines.baseline import BaselineFile
from pytest_slmperf.core.baselines.recordable import LEAST_LAUNCHES
from pytest_slmperf.core.judging.tolerance import supported_tolerance
from pytest_slmperf.core.machine import Machine, Role, Scalar
from pytest_slmperf.core.memory import MIB
from pytest_slmperf.core.metrics import Metric
from pytest_slmperf.core.roofline import Roof
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.sweeps.sweep import DEFAULT_TOLERANCE, LARGEST_TOLERANCE

FEWEST = 3
"""Launches from which a spread is told."""
GIGA = 1e9
FINE = 0.05
"""A tolerance up to this is what suites declare; one above it is a warning."""


class Grade(StrEnum):
    """How much a line matters for a gate."""

    OK = "ok"
    WARNING = "warning"
    BLOCKS = "blocks"
    NOT_SEEN = "not seen"
    """This machine doesn't tell, or it hasn't got it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was looked at."""

    topic: str
    grade: Grade
    said: str
    todo: str = ""
    """What to do about it; empty where nothing is to be done."""
    values: Mapping[str, Scalar] = field(default_factory=dict)
    """The figures in it, by names with their units."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that was found of a machine."""

    machine: Machine
    lines: tuple[Line, ...]

    @property
    def fit(self) -> bool:
        """Whether nothing blocks a gate."""
        return not self.of(Grade.BLOCKS)

    def of(self, grade: Grade) -> tuple[Line, ...]:
        """The lines of one grade."""
        return tuple(line for line in self.lines if line.grade is grade)


@dataclass(frozen=True, slots=True)
class Noise:
    """How far launches of one engine spread on this machine."""

    launches: int
    spread: float
    """Standard deviation of the launches' log values."""
    spread_at_most: float
    """Its upper bound at 95 %, were the launches independent and normal."""
    tolerance: float | None
    """The smallest that a recording of 20 launches as noisy as these would support; None where 15 % is too little."""
    tolerance_at_most: float | None
    """The same at the upper bound of the spread."""


def noise(metric: Metric, launches: Sequence[Sequence[float]], max_launches: int) -> Noise | None:
    """What a few launches tell of a machine's noise; None where they are too few to tell anything.

    A drift over hours, and days that differ, can't be seen in them. The gate's own estimate is made of 20 launches.
    """
    if len(launches) < FEWEST:
        return None
    spread = stdev(math.log(median(rounds)) for rounds in launches)
    at_most = spread * math.sqrt((len(launches) - 1) / _chi_squared(0.05, len(launches) - 1))
    tolerances = [_supported(metric, one, max_launches) for one in (spread, at_most)]
    return Noise(len(launches), spread, at_most, *tolerances)


def noise_line(metric: Metric, values: Sequence[Sequence[float]], seconds: float, what: str, max_launches: int) -> Line:
    """What the spread of launches means for a gate. `what` was measured, and it took so many seconds."""
    topic, launches, found = f"noise of {metric.name}", len(values), noise(metric, values, max_launches)
    basis = f"{launches} launch{'' if launches == 1 else 'es'} of {what} in {seconds:.0f} s"
    if found is None:
        return Line(
            topic, Grade.NOT_SEEN, f"{basis} tell nothing of it; {FEWEST} are the least", "allow more time: --seconds"
        )
    figures: dict[str, Scalar] = {
        "launches": launches,
        "seconds": round(seconds, 1),
        "spread": found.spread,
        "spread_at_most": found.spread_at_most,
        "supported_tolerance": found.tolerance,
        "supported_tolerance_at_most": found.tolerance_at_most,
    }
    spread = f"{basis} spread by {found.spread:.2%} (at most {found.spread_at_most:.2%})"
    quieter = "end other work on this machine, fix its clocks, give the engine its own cores; or compare side by side"
    if found.tolerance is None:
        said = f"{spread}: no tolerance up to {LARGEST_TOLERANCE:.0%} is to be had with a stored baseline"
        return Line(topic, Grade.BLOCKS, said, quieter, figures)
    worst = f"at worst {found.tolerance_at_most:.0%}" if found.tolerance_at_most else "at worst none"
    said = f"{spread}: a stored baseline supports a tolerance of about {found.tolerance:.0%}, {worst}"
    if found.tolerance > FINE:
        return Line(topic, Grade.WARNING, said, quieter, figures)
    declare = "" if found.tolerance <= DEFAULT_TOLERANCE else f"declare at least {found.tolerance:.0%} in gate={{…}}"
    return Line(topic, Grade.OK, said, declare, figures)


def bandwidth_line(where: str, roof: Roof | None) -> Line:
    """How fast the device that an engine is on, `2 cores` or a board's name, reads and multiplies: a report tells by
    that what bounds a case.
    """
    if roof is None:
        said = f"nobody knows how fast {where} reads and multiplies, so no report says what bounds a case there"
        return Line("bandwidth", Grade.NOT_SEEN, said)
    sizes = [f" of {one.set_bytes / MIB:.0f} MiB" for one in roof.readings] if len(roof.readings) > 1 else [""]
    reads = [f"{one.bytes_per_s / GIGA:,.3g} GB/s{size}" for one, size in zip(roof.readings, sizes, strict=True)]
    multiplies = [f"{flops / GIGA:,.0f} GFLOPS in {dtype}" for dtype, flops in roof.flops.items()]
    said = f"{where} reads {', '.join(reads)}, and multiplies at {', '.join(multiplies)} ({roof.source})"
    values: dict[str, Scalar] = {
        **{f"read_of_{one.set_bytes / MIB:.0f}_mib_bytes_per_s": one.bytes_per_s for one in roof.readings},
        **{f"flops.{dtype}": flops for dtype, flops in roof.flops.items()},
    }
    return Line("bandwidth", Grade.OK, said, values=values)


def engines_line(
    installed: Mapping[str, str], missing: Mapping[str, str], default: str | None, asked: str = ""
) -> Line:
    """The engines that can be used here, with their versions, and why others can't; `default` is None without any that
    does the work it is timed for, and `asked` is the one that the diagnosis is for.
    """
    there = [f"{name} {version}".strip() for name, version in installed.items()]
    values: dict[str, Scalar] = {"default": default, **{f"engine.{name}": one for name, one in installed.items()}}
    said = f"{', '.join(there)}{f'; {default} by default' if default else ''}"
    ways = "; ".join(missing.values())
    if default is None:
        return Line("engines", Grade.BLOCKS, f"{said} alone, which does no work", ways, values)
    if asked in missing:
        return Line("engines", Grade.BLOCKS, f"{said}; {asked} can't be used here", missing[asked], values)
    return Line("engines", Grade.OK, f"{said}{f'. Not here: {ways}' if ways else ''}", values=values)


def baselines_line(folder: str, files: Sequence[BaselineFile], machine: Machine, engine: str) -> Line:
    """What is stored in a folder that an engine on this machine can be compared with."""
    topic, here = "baselines", f"{engine} on {machine.device}, {machine.driver}"
    record = "record them: pytest --slmperf --slmperf-accept"
    own = [file for file in files if (file.engine, file.machine.device) == (engine, machine.device)]
    found = [file for file in own if file.machine.driver == machine.driver]
    differing = {
        name: pair
        for file in found
        for name, pair in file.machine.differences(machine, Role.MUST_MATCH, Role.PART_OF_DEVICE).items()
    }
    cases = sum(bool(case.current) for file in found for case in file.cases.values())
    values: dict[str, Scalar] = {"folder": folder, "files": len(found), "cases": cases, "match": not differing}
    if differing:
        listed = ", ".join(f"{name} was {was}, is {now}" for name, (was, now) in differing.items())
        return Line(
            topic, Grade.WARNING, f"{cases} cases of {here} in {folder} are incomparable: {listed}", record, values
        )
    if cases:
        suites = ", ".join(sorted(file.suite for file in found))
        return Line(topic, Grade.OK, f"{cases} cases of {here} in {folder}: {suites}", values=values)
    drivers = sorted({file.machine.driver for file in own})
    if drivers:
        said = f"none of {here} in {folder}; there are of {', '.join(drivers)}"
        todo = f"{record}; or compare with --slmperf-against=driver={drivers[-1]}"
        return Line(topic, Grade.WARNING, said, todo, values)
    return Line(topic, Grade.WARNING, f"none of {here} in {folder}", record, values)


def _supported(metric: Metric, spread: float, max_launches: int) -> float | None:
    """The gate's own answer for a recording of launches that are normal, independent and spread like this."""
    count = LEAST_LAUNCHES
    places = [(number * 7 % count + 0.5) / count for number in range(count)]  # neighbours are not alike
    values = [math.exp(spread * NormalDist().inv_cdf(place)) for place in places]
    policy = gate.Policy(tolerance=DEFAULT_TOLERANCE, max_launches=max_launches)
    return supported_tolerance(Sample.of([value] for value in values), metric, policy)


def _chi_squared(level: float, freedom: int) -> float:
    """A quantile of the chi-squared distribution (Wilson and Hilferty): at 0.05 too low by 23 % for 2 degrees of
    freedom, 7 % for 3 and 1 % from 5 on.
    """
    part = 2 / (9 * freedom)
    return freedom * max(1e-3, 1 - part + NormalDist().inv_cdf(level) * math.sqrt(part)) ** 3
