"""A planned mix, measured: who runs beside whom, and what each model gave there against what was planned."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median

from pytest_slmperf.core.advising.mix import Mix, Part
from pytest_slmperf.core.advising.question import Limit, Question, Seen, mean_log, spread
from pytest_slmperf.core.advising.student import quantile
from pytest_slmperf.core.beside import Beside
from pytest_slmperf.core.metrics import Metric

CONFIDENCE = 0.95
LATENCY = "median_itl_ms"
"""Is told of every model, whatever is limited."""


@dataclass(frozen=True, slots=True)
class Bounded:
    """A value with its interval of 95 %, by Student's t on the logarithms of the launches."""

    value: float
    low: float | None = None
    """None where no launch was repeated."""
    high: float | None = None


@dataclass(frozen=True)
class MeasuredPart:
    """What one part of a mix gave beside the others."""

    part: Part
    question: Question
    mixed: Seen | None = None
    """Its launches beside the others; None where there are none."""
    alone: Seen | None = None
    """Those that the plan rests on, measured as these were; None where they can't be compared."""
    unmeasured: str = ""
    """Why it was not measured."""
    no_slowdown: str = ""
    """Why nobody can say how much slower it is than alone."""

    @property
    def rate(self) -> Bounded | None:
        """In the objective's unit, the geometric mean of the launches."""
        meaning = self.question.objective
        if self.mixed is None or not self.mixed.logs(meaning):
            return None
        return _bounded(mean_log(self.mixed, meaning), (self.mixed,), meaning)

    @property
    def slowdown(self) -> Bounded | None:
        """How many times as slow as alone."""
        meaning = self.question.objective
        if self.rate is None or self.mixed is None or self.alone is None or not self.alone.logs(meaning):
            return None
        step = mean_log(self.alone, meaning) - mean_log(self.mixed, meaning)
        return _bounded(step, (self.alone, self.mixed), meaning)

    @property
    def latencies(self) -> Mapping[str, float]:
        """The median launch of what is limited, in each metric's unit, and of LATENCY."""
        if self.mixed is None:
            return {}
        names = dict.fromkeys((LATENCY, *(one.metric.name for one in self.question.limits)))
        found = {name: self.mixed.values.get(name) for name in names}
        return {name: median(values) for name, values in found.items() if values}

    @property
    def missed(self) -> tuple[Limit, ...]:
        """Limits that the median launch misses in the mix."""
        return () if self.mixed is None else tuple(one for one in self.question.limits if not self.mixed.keeps((one,)))

    @property
    def met(self) -> bool | None:
        """Whether its need and its limits are met in the mix; None where that was not measured."""
        if self.rate is None:
            return None
        return not self.missed and (self.part.wanted is None or self.rate.value >= self.part.wanted * (1 - 1e-9))


def company(mix: Mix, number: int, *, threads: int, tokens: tuple[int, int]) -> tuple[Beside, ...]:
    """Who runs beside a part, under the batches that were planned: each replica of each other part on its device.

    `threads` are those of a part of which nothing was measured, `tokens` the prompt's and the output's.
    """
    part = mix.parts[number]
    return tuple(
        Beside(
            other.model,
            batch_size=other.batch,
            prompt_tokens=tokens[0],
            output_tokens=tokens[1],
            dtype=other.dtype or None,
            threads=threads_of(other, threads),
        )
        for place, other in enumerate(mix.parts)
        if place != number and other.devices == part.devices
        for _ in range(other.replicas)
    )


def threads_of(part: Part, default: int) -> int:
    """Of each of its replicas."""
    return part.setting.series.threads or default if part.setting else default


def unmeasurable(mix: Mix, *, shared_turns: bool) -> Mapping[int, str]:
    """By a part's place, why it can't be measured beside the others on one device. With `shared_turns` processes on the
    device take turns, as on a GPU without MPS.
    """
    wide = {device: part.model for part in mix.parts if part.spread > 1 for device in part.devices}
    many = {device: part.model for part in mix.parts if part.replicas > 1 for device in part.devices}
    why: dict[int, str] = {}
    for place, part in enumerate(mix.parts):
        here = [device for device in part.devices if device in wide]
        if part.spread > 1:
            why[place] = f"it is spread over {part.spread} devices, and the mix is measured on one"
        elif here:
            why[place] = f"{wide[here[0]]} is beside it, which is spread over several devices"
        elif shared_turns and part.devices[0] in many and len({*_on(mix, part.devices[0])}) > 1:
            why[place] = f"the replicas of {many[part.devices[0]]} would take turns with the others, not share by MPS"
    return why


def _on(mix: Mix, device: int) -> Iterable[int]:
    return (place for place, part in enumerate(mix.parts) if device in part.devices)


def comparable(part: MeasuredPart, alone: Seen | None, why_not: str) -> MeasuredPart:
    """With what it gave alone, unless `why_not` says that this was measured otherwise, or nothing was."""
    planned = part.part.setting
    if planned is None or alone is None:
        return replace(part, no_slowdown="nothing was measured of it alone in this setting")
    if planned.batch != part.part.batch * part.part.replicas:
        return replace(part, no_slowdown=f"alone it was measured with {planned.batch} requests in all")
    return replace(part, no_slowdown=why_not) if why_not else replace(part, alone=alone)


def _bounded(log: float, seen: tuple[Seen, ...], meaning: Metric) -> Bounded:
    sd, freedom = spread(seen, meaning)
    if not freedom:
        return Bounded(math.exp(log))
    half = quantile(CONFIDENCE, freedom) * sd * math.sqrt(sum(1 / len(one.logs(meaning)) for one in seen))
    return Bounded(math.exp(log), math.exp(log - half), math.exp(log + half))
