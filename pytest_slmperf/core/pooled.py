"""Several replicas of an engine as one engine: what a suite asks for."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import ParamSpec, TypedDict, Unpack, overload

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.pool import Pool

P = ParamSpec("P")


class PoolOptions(TypedDict, total=False):
    """How the replicas are run and asked; what each means stands in `core.pool.Pool`."""

    kind: str
    spread: str
    addresses: tuple[str, ...]
    resource: str
    memory_bytes: int
    power_limit_w: float


@overload
def replica_pool(engine: EngineSpec, replicas: int, **options: Unpack[PoolOptions]) -> EngineSpec: ...


@overload
def replica_pool(
    engine: Callable[P, EngineSpec], replicas: int, **options: Unpack[PoolOptions]
) -> Callable[P, EngineSpec]: ...


def replica_pool(
    engine: EngineSpec | Callable[P, EngineSpec], replicas: int, **options: Unpack[PoolOptions]
) -> EngineSpec | Callable[P, EngineSpec]:
    """So many replicas of an engine behind one, which is an engine itself: every suite takes it unchanged.

    `kind`: `processes` (beside each other, on a CPU each on cores of its own), `mps`, `mig`, `gpus`, `threads`,
    `endpoints` with `addresses`, or `ray`. `spread`: `even`, `round-robin` or `shortest-queue`. `memory_bytes` and
    `power_limit_w` are a GPU's. What isn't said is as the engine has it already. `engine` may be the fixture
    `slm_engine` itself: then this is one that makes pools. `threads` of the engine are those of each replica. Raises
    UsageError.
    """
    if not isinstance(engine, EngineSpec):
        if not callable(engine):
            raise UsageError(f"replica_pool({engine!r}, …): it takes an engine, or the fixture slm_engine itself")
        make = engine

        def made(*args: P.args, **named: P.kwargs) -> EngineSpec:
            return replica_pool(make(*args, **named), replicas, **options)

        return made
    unknown = options.keys() - {field.name for field in fields(Pool)}
    if unknown:
        raise UsageError(f"replica_pool has no {', '.join(sorted(unknown))}")
    given = {**options, "addresses": tuple(options["addresses"])} if "addresses" in options else dict(options)
    pool = engine.pool or Pool(replicas)
    return replace(engine, pool=replace(pool, replicas=replicas, **given))  # type: ignore[arg-type]  # checked by Pool
