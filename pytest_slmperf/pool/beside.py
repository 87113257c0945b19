"""The models beside an engine, of the same or of another one: each a child of its launch's process, with cores of its
own or on the same device.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_slmperf.core.beside import Beside, NeighbourWork, spelled_beside
from pytest_slmperf.core.devices.gpus import first_gpu
from pytest_slmperf.core.engine import EngineFacts, EngineSpec
from pytest_slmperf.core.errors import EngineUnavailable
from pytest_slmperf.core.launch import BESIDE_VARIABLE
from pytest_slmperf.core.machine import SIMULATED
from pytest_slmperf.pool.devices import Placement
from pytest_slmperf.pool.loading import since
from pytest_slmperf.pool.local import Child
from pytest_slmperf.pool.pinning import pin
from pytest_slmperf.pool.placing import host_here

NO_URL = "models beside an engine are started by its launch, and this one's is served elsewhere: leave beside=… out"

ANY = "no device"
"""Where an engine is that is on no device, and waits as if it were."""
NO_URL_BESIDE = "what runs beside an engine is started by its launch: give it command=… in place of url"


def create(spec: EngineSpec) -> "Neighbours":
    """The models that a spec has beside its engine, not started. Raises EngineUnavailable where there can't be any."""
    if "url" in spec.options or (spec.pool is not None and not spec.pool.here):
        raise EngineUnavailable(NO_URL)
    for one in spec.beside:
        if "url" in (options := _options(spec, one)) and "command" not in options:
            raise EngineUnavailable(f"{one.name}: {NO_URL_BESIDE}")
    return Neighbours(spec)


class Neighbours:
    """See `engines.company.Company`. Lives as long as the launch's process."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._children: list[tuple[Beside, Child]] = []
        self._simulated = False
        self._started: list[tuple[EngineSpec, EngineFacts]] = []

    @property
    def settings(self) -> Mapping[str, str | int | float | bool]:
        """The weights, the type and the device of each, as it says."""
        return {
            f"beside_{number}_{name}": getattr(facts, name)
            for number, (_, facts) in enumerate(self._started, 1)
            for name in ("weights", "dtype", "device")
        }

    @property
    def versions(self) -> Mapping[str, str]:
        """Of the other engines, and of what they have loaded."""
        both = zip(self._children, self._started, strict=True)
        others = [(child, *it) for (_, child), it in both if it[0].engine != self._spec.engine]
        return {
            name: value
            for child, theirs, facts in others
            for name, value in {**child.versions, theirs.engine: facts.version}.items()
        }

    def check(self, facts: EngineFacts) -> None:
        """As of any company: models side by side are on one device, and in one time."""
        mine = _place(self._spec, facts)
        for (_, child), (theirs, its) in zip(self._children, self._started, strict=True):
            place = _place(theirs, its)
            if place != mine and (SIMULATED in (place, mine) or ANY not in (place, mine)):
                raise EngineUnavailable(
                    f"{child.name} runs {_where(place)}, and {self._spec.engine} {_where(mine)}: models side by side "
                    "share one device, which the options of most engines name"
                )

    def start(self) -> None:
        """As of any company. One after the other, and each has served a batch of its load when the next begins."""
        spec = self._spec
        cores = host_here(spec).cores
        own, rest = set(cores[: spec.own_cores]), list(cores[spec.own_cores :])
        for one in spec.beside:
            threads = one.threads or spec.threads
            if one.cores == "own" and cores:
                if len(rest) < threads:
                    raise EngineUnavailable(
                        f"{one.name}: it needs {threads} cores of its own, and {len(rest)} are left"
                    )
                its, rest = tuple(rest[:threads]), rest[threads:]
            else:
                its = tuple(sorted(own))
            name = f"{one.name} ({_called(its)}beside {spec.model_name})"
            theirs = replace(
                spec,
                model=one.model,
                engine=one.engine or spec.engine,
                options=_options(spec, one),
                dtype=one.dtype or spec.dtype,
                threads=threads,
                planted_loss=0.0,
                pool=None,
                beside=(),
            )
            child = Child(name, theirs, Placement(cores=its), lighter=one.lighter)
            self._children.append((one, child))
            facts = child.start()
            self._started.append((theirs, facts))
            if (tokens := one.prompt_tokens + one.output_tokens) > facts.context_tokens:
                raise EngineUnavailable(
                    f"{name}: {tokens} tokens of prompt and output exceed its context of {facts.context_tokens}"
                )
        self._simulated = {_place(*one) for one in self._started} == {SIMULATED}
        for one, child in self._children:  # what a first batch takes longer is none of the load
            child.cover(one, 0)
        if own:
            pin(own)
        os.environ[BESIDE_VARIABLE] = spelled_beside(spec.beside)

    def begin(self) -> None:
        """As of any company."""
        if not self._simulated:
            for one, child in self._children:
                child.begin(one)

    def end(self, from_ns: int, to_ns: int) -> tuple[NeighbourWork, ...]:
        """As of any company. In simulated time they do now what they would have done meanwhile."""
        if self._simulated:
            return tuple(
                NeighbourWork(
                    child.name, tuple(since(-from_ns, item) for item in child.cover(one, to_ns - from_ns)), one
                )
                for one, child in self._children
            )
        return tuple(NeighbourWork(child.name, child.end(), one) for one, child in self._children)

    def stop(self) -> None:
        """As of any company."""
        for _, child in reversed(self._children):
            child.stop()


def _options(spec: EngineSpec, one: Beside) -> Mapping[str, str | int | float | bool]:
    """Another engine knows nothing of those of the measured one."""
    return {**(spec.options if one.engine in (None, spec.engine) else {}), **one.options}


def _place(spec: EngineSpec, facts: EngineFacts) -> str:
    """`cpu`, `GPU 0`, `simulated` in simulated time, or ANY."""
    kind = facts.device.partition(":")[0]
    if kind == "cuda":
        return f"GPU {first_gpu(spec.options)}"
    return ANY if kind == SIMULATED and spec.options.get("real_time") else kind


def _where(place: str) -> str:
    return "in simulated time" if place == SIMULATED else f"on {place}"


def _called(cores: Sequence[int]) -> str:
    return f"core{'s' * (len(cores) > 1)} {', '.join(map(str, cores))}, " if cores else ""
