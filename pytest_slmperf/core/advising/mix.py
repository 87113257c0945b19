"""Several models on one device or a few: which of them lies where, its share of the memory, its replicas and batch.

Each model runs as it was measured to meet its need, in the lightest such setting. The largest is placed first, on the
device that has the room and the most time left. A device's time is shared: a model that needs half of what it could do
alone takes half of it. That is what taking turns costs; kernels that really run side by side (MPS) take less, and
whether they do is for a measurement of the mix to say.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_slmperf.core.advising.question import Evidence, Question, Setting
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.memory import GIB, RESERVE_BYTES, USABLE, Tenant, fewest_devices, weight_bytes
from pytest_slmperf.core.shapes import Shape

MOST_BATCH = 512
"""Of a model of which nothing was measured: it has the batch that its memory holds."""
MOST_SPREAD = 8
"""Devices that one model is spread over, at most: those that one machine has."""


@dataclass(frozen=True)
class Need:
    """What one model of a mix is asked for."""

    model: str
    shape: Shape
    dtype: str
    request_tokens: int
    """Prompt and output of a request."""
    wanted: float | None = None
    """In the objective's unit, as output tokens a second; None for as much as its share of the device gives."""
    evidence: Evidence = field(default_factory=Evidence)
    """What was measured of it alone."""


@dataclass(frozen=True, slots=True)
class Part:
    """One model's place in a mix."""

    model: str
    devices: tuple[int, ...]
    """On which it lies, from 0; several where it is spread over them."""
    replicas: int
    batch: int
    """In each replica."""
    memory_share: float
    """Of each of its devices, for each replica."""
    alone: float | None
    """What this setting gives alone, by its measurement; None where it was not measured."""
    wanted: float | None
    expected: float | None
    """What it is expected to give beside the others; None where it was not measured."""
    spread: int = 1
    """Over how many devices each replica is spread (tensor parallel)."""
    dtype: str = ""
    setting: Setting | None = None
    """As which it was measured alone; None where it was not."""

    @property
    def met(self) -> bool | None:
        """Whether its need is expected to be met; None where that isn't known."""
        if self.wanted is None or self.expected is None:
            return None
        return self.expected >= self.wanted * (1 - 1e-9)


@dataclass(frozen=True)
class Mix:
    """A plan for several models."""

    parts: tuple[Part, ...]
    """In the order in which the models were named."""
    busy: tuple[float | None, ...]
    """The share of each device's time that is asked for, 1 for all of it; None where a model on it was not measured."""
    memory_bytes: float
    """Of each device."""

    @property
    def met(self) -> bool:
        """Whether no need is known to be missed."""
        return all(part.met is not False for part in self.parts)


@dataclass(frozen=True)
class _Placed:
    need: Need
    setting: Setting | None
    batch: int
    replicas: int
    alone: float | None
    spread: int
    devices: tuple[int, ...] = ()

    @property
    def tenant(self) -> Tenant:
        return Tenant(self.need.shape, self.need.dtype, self.batch, self.need.request_tokens)

    @property
    def bytes_on_each(self) -> float:
        """What its replicas take of each of their devices."""
        held = (self.tenant.needed_bytes(0.0)) / self.spread + RESERVE_BYTES
        return self.replicas * held

    @property
    def busy(self) -> float | None:
        """The share of its devices' time that it asks for; None where that isn't known."""
        return None if not self.alone or self.need.wanted is None else self.need.wanted / self.alone


def planned(needs: Sequence[Need], question: Question, *, devices: int, memory_bytes: float) -> Mix:
    """Where each model goes on so many devices of this memory.

    Raises UsageError for a model of which not even one request fits, however it is spread, and for a mix that doesn't
    fit, with what it lacks.
    """
    light = _mix(needs, question, devices, memory_bytes)
    # A setting that gives more takes less of the time for the same need.
    return light if light.met else _mix(needs, question, devices, memory_bytes, at_best=True)


def _mix(needs: Sequence[Need], question: Question, devices: int, memory_bytes: float, *, at_best: bool = False) -> Mix:
    placed = [
        one
        for need in needs
        for one in _copies(_chosen(need, question, devices, memory_bytes, at_best=at_best), devices)
    ]
    while (packed := _packed(placed, devices, memory_bytes)) is None:
        placed = _smaller(placed, devices, memory_bytes)
    ordered, free = packed
    return Mix(_parts(ordered, free, memory_bytes), _busy(ordered, devices), memory_bytes)


def _packed(placed: Sequence[_Placed], devices: int, memory_bytes: float) -> tuple[list[_Placed], list[float]] | None:
    """Each on the devices that have the room and the most time left, the largest first, and what is left of each
    device's memory; None where they don't fit.
    """
    free, asked = [USABLE * memory_bytes] * devices, [0.0] * devices
    ordered = list(placed)
    for place in sorted(range(len(placed)), key=lambda place: -placed[place].bytes_on_each * placed[place].spread):
        one = placed[place]
        room = [device for device, left in enumerate(free) if left >= one.bytes_on_each]
        if len(room) < one.spread:
            return None
        room.sort(key=lambda device: (round(asked[device], 6), -free[device]))
        ordered[place] = replace(one, devices=tuple(sorted(room[: one.spread])))
        for device in ordered[place].devices:
            free[device] -= one.bytes_on_each
            asked[device] += one.busy or 0.0
    return ordered, free


def _smaller(placed: Sequence[_Placed], devices: int, memory_bytes: float) -> list[_Placed]:
    """With half the batch of the model whose caches are largest, or else half its replicas; what it then gives was not
    measured. Raises UsageError where there is nothing to halve.
    """
    can = [place for place, one in enumerate(placed) if one.batch > 1 or one.replicas > 1]
    if not can:
        lacking = sum(one.bytes_on_each * one.spread for one in placed) - USABLE * memory_bytes * devices
        names = ", ".join(one.need.model for one in placed)
        raise UsageError(
            f"the mix does not fit: {names} with one request each lack {max(lacking, 0.0) / GIB:.1f} GiB in all on "
            f"{devices} device{'s' * (devices != 1)} of {memory_bytes / GIB:.1f} GiB (engines may take {USABLE:.0%}), "
            "or fit on none of them together: give them more devices, or a smaller dtype"
        )
    largest = max(can, key=lambda place: placed[place].replicas * placed[place].tenant.needed_bytes())
    one = placed[largest]
    less = replace(one, alone=None, batch=one.batch // 2) if one.batch > 1 else replace(one, alone=None, replicas=1)
    return [less if place == largest else other for place, other in enumerate(placed)]


def _chosen(need: Need, question: Question, devices: int, memory_bytes: float, *, at_best: bool) -> _Placed:
    """The lightest measured setting that meets the need, or, where none does, is as good as the best, which is asked
    for with `at_best`; without measurements one replica and one request, which grow into what is left.
    """
    measured = [one for one in need.evidence.measured(question) if one.keeps(question.limits)]
    rates = {one.setting: value for one in measured if (value := one.of(question.objective)) is not None}
    setting = _setting(rates, None if at_best else need.wanted, question.within)
    batch, replicas = (1, 1) if setting is None else (math.ceil(setting.each), setting.series.replicas)
    one = _Placed(need, setting, batch, replicas, rates.get(setting) if setting else None, spread=1)
    spread = fewest_devices(one.tenant, memory_bytes=memory_bytes, most=min(devices, MOST_SPREAD))
    if spread is None:
        smallest = replace(one.tenant, batch=1)
        spread = fewest_devices(smallest, memory_bytes=memory_bytes, most=min(devices, MOST_SPREAD))
        one = replace(one, batch=1, alone=None)
    if spread is None:
        weights = weight_bytes(need.shape, need.dtype) / GIB
        raise UsageError(
            f"{need.model} does not fit: its weights take {weights:.1f} GiB, and {devices} device"
            f"{'s' * (devices != 1)} of {memory_bytes / GIB:.1f} GiB hold no request beside them: give it more, "
            "or a smaller dtype"
        )
    return replace(one, spread=spread, alone=one.alone if spread == 1 else None)


def _copies(one: _Placed, devices: int) -> list[_Placed]:
    """As many as the need takes, where one can't meet it and there are more devices; each has its part of the need."""
    if one.busy is None or one.busy <= 1 or one.need.wanted is None:
        return [one]
    count = min(devices, math.ceil(one.busy))
    return [replace(one, need=replace(one.need, wanted=one.need.wanted / count))] * count


def _setting(rates: Mapping[Setting, float], wanted: float | None, within: float) -> Setting | None:
    if not rates:
        return None
    most = max(rates.values())
    enough = [one for one, rate in rates.items() if rate >= min((1 - within) * most, wanted or math.inf)]
    return min(enough, key=lambda one: one.weight)


def _parts(placed: Sequence[_Placed], free: Sequence[float], memory_bytes: float) -> tuple[Part, ...]:
    """What is left of a device's memory goes to the caches on it, in proportion to their size."""
    caches = [
        sum(one.replicas * one.tenant.cache_bytes / one.spread for one in placed if device in one.devices)
        for device in range(len(free))
    ]
    of_time = _of_time(placed, len(free))
    parts = []
    for place, one in enumerate(placed):
        grown = min(free[device] / caches[device] for device in one.devices)
        each = one.bytes_on_each / one.replicas + grown * one.tenant.cache_bytes / one.spread
        share = min(of_time[device][place] for device in one.devices)
        expected = None if one.alone is None else one.alone * share
        parts.append(
            Part(
                model=one.need.model,
                devices=one.devices,
                replicas=one.replicas,
                batch=one.batch if one.setting else min(MOST_BATCH, int(1 + grown)),
                memory_share=each / memory_bytes,
                alone=one.alone,
                wanted=one.need.wanted,
                expected=expected,
                spread=one.spread,
                dtype=(one.setting.series.dtype if one.setting else "") or one.need.dtype,
                setting=None if one.alone is None else one.setting,
            )
        )
    return tuple(parts)


def _of_time(placed: Sequence[_Placed], devices: int) -> list[Mapping[int, float]]:
    """The share of each device's time that each model on it gets: what it needs, and what is left in equal parts among
    those that want as much as there is. Where more is needed than there is, all get less, in proportion.
    """
    shares: list[Mapping[int, float]] = []
    for device in range(devices):
        here = {place: one.busy for place, one in enumerate(placed) if device in one.devices}
        needed = {place: busy for place, busy in here.items() if busy is not None}
        taken = sum(needed.values())
        rest = [place for place in here if place not in needed]
        if rest:
            # Those who name no need have an equal share at least of what there is.
            reserved = len(rest) / len(here)
            scale = min(1.0, (1 - reserved) / taken) if taken else 1.0
            left = (1 - scale * taken) / len(rest)
            shares.append({**{place: scale * busy for place, busy in needed.items()}, **dict.fromkeys(rest, left)})
        else:
            scale = min(1.0, 1 / taken) if taken else 1.0
            shares.append({place: scale * busy for place, busy in needed.items()})
    return shares


def _busy(placed: Iterable[_Placed], devices: int) -> tuple[float | None, ...]:
    every = []
    for device in range(devices):
        here = [one.busy for one in placed if device in one.devices]
        every.append(None if None in here else math.fsum(busy for busy in here if busy is not None))
    return tuple(every)
