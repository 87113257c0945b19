"""A variant of an engine: what a sweep changes of it, beside the place on the axis of its workload."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

from pytest_slmperf.core.beside import Beside, neighbours, spelled_beside
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.pool import POOL_OPTIONS, Pool

VARIED = ("replicas", "dtype", "threads", "beside")
"""What a sweep can vary of every engine, in the order in which a case's name has them; then come options of its own."""

Setting: TypeAlias = str | int | float | bool | Beside | tuple[Beside, ...] | None
"""The last three are who runs beside the model: one, several, or nobody."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Settings of an engine by their name, in the order in which a case's name has them. None: the engine as it is."""

    settings: tuple[tuple[str, Setting], ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Of a case's name: `replicas=2`, `dtype=int8`."""
        return tuple(f"{name}={spelled(value)}" for name, value in self.settings)

    @property
    def replicas(self) -> int:
        """How many there are, where that is varied; 1 where it isn't."""
        return cast("int", dict(self.settings).get("replicas", 1))

    @property
    def coordinates(self) -> Mapping[str, str | float]:
        """What a suite looks its cases up by; what is no text and no number is spelled as in the case's name."""
        plain = {name: value for name, value in self.settings if isinstance(value, (str, int, float))}
        truths = {name for name, value in plain.items() if isinstance(value, bool)}
        return {
            name: plain[name] if name in plain and name not in truths else spelled(value)
            for name, value in self.settings
        }

    def of(self, spec: EngineSpec) -> EngineSpec:
        """The engine with these settings in place of its own. One that is no pool becomes one of a single replica, or
        of as many as the settings say. Of a loss that is planted in one replica alone, a pool without that one is free.
        Raises UsageError for a pool that can't be.
        """
        given: dict[str, Any] = dict(self.settings)
        of_pool = {field: given.pop(name) for name, field in POOL_OPTIONS.items() if name in given}
        pool, planted_loss = spec.pool, spec.planted_loss
        if of_pool:
            pool = _changed(spec.pool or Pool(1), of_pool)
            if spec.pool and spec.pool.slowed_replica and not pool.slowed_replica:
                planted_loss = 0.0
        own: dict[str, Any] = {name: given.pop(name) for name in ("dtype", "threads") if name in given}
        if "beside" in given:
            own["beside"] = neighbours(given.pop("beside"))
        return replace(spec, pool=pool, planted_loss=planted_loss, options={**spec.options, **given}, **own)


AS_IT_IS = Variant()
"""Of a sweep that varies no engine."""


def _changed(pool: Pool, fields: Mapping[str, Any]) -> Pool:
    """The pool with these fields; of more addresses than it has replicas then, the first."""
    kind, replicas = fields.get("kind", pool.kind), fields.get("replicas", pool.replicas)
    if kind == "endpoints" and replicas > len(pool.addresses):
        raise UsageError(f"replicas={replicas} of a pool that has {len(pool.addresses)} addresses: name as many")
    addresses = pool.addresses[:replicas] if kind == "endpoints" else pool.addresses if kind == "ray" else ()
    resource = pool.resource if kind == "ray" else ""
    slowed = pool.slowed_replica if pool.slowed_replica and pool.slowed_replica <= replicas else None
    return replace(pool, **{"addresses": addresses, "resource": resource, "slowed_replica": slowed, **fields})


def spelled(value: Setting) -> str:
    """As a case's name has it: `true`, `2`, `int8`; of models beside, `none`, `opt-1.3b@4`."""
    if value is None or isinstance(value, (Beside, tuple)):
        return spelled_beside(value)
    return json.dumps(value) if isinstance(value, bool) else str(value)


def series_of(case: str) -> str:
    """What the cases of one curve have in common: the case's name without its place, `decode/opt-125m/replicas=2`."""
    return case.rpartition("/")[0]


def settings_of(series: str) -> Mapping[str, str]:
    """What a series' name says of its engine, as it is spelled there: `{"replicas": "2"}`."""
    return dict(part.partition("=")[::2] for part in series.split("/")[2:])
