"""Whether a case fits a machine and its engine, before an engine is started to find out."""

import math
from collections.abc import Iterator
from difflib import get_close_matches

from pytest_slmperf.core.beside import spelled_beside
from pytest_slmperf.core.devices.gpus import gpus_each
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import SuiteError, UsageError
from pytest_slmperf.core.memory import GIB, USABLE, Tenant, lacking_bytes
from pytest_slmperf.core.pool import ELSEWHERE, POOL_OPTIONS
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.core.sweeps.sweep import Case
from pytest_slmperf.core.sweeps.variant import VARIED
from pytest_slmperf.core.sweeps.workload import Replay, StaticBatch, Workload
from pytest_slmperf.engines import registry

UNTOLD_MEMORY = ("mig", *ELSEWHERE)
"""Kinds of a pool of which nobody knows here what memory each replica has."""
SHARING = ("processes", "mps")
"""Kinds of which each replica has weights of its own, in one memory."""
SERVED_WITH = ("dtype", "threads", "replicas")
"""Of what a sweep varies, that a server has to be told."""
NEAR = 0.85
"""How alike two names are of which one is the other mistyped, as difflib has it: `spred` and `spread` are 0.91."""


def static_only(workload: Workload, spec: EngineSpec) -> str | None:
    """Why the engine can't be sent such requests, or None. What it says when it has started is what counts."""
    if isinstance(workload, StaticBatch) or registry.streams(spec.engine, spec.pool):
        return None
    return (
        f"{spec.engine} serves static batches only, and requests of {type(workload).__name__} come one by one: "
        f"{', '.join(registry.streaming())} can take those"
    )


def lacking(case: Case, spec: EngineSpec) -> str | None:
    """Why the engine surely has no such variant, or None: it has an option, or a type, of another one.

    Raises UsageError for an option that no engine has a name for, where this one or a pool has nearly the same: left
    out, it would never be measured.
    """
    varied = case.variant.coordinates
    types = [(spec.engine, str(varied["dtype"]))] if "dtype" in varied else []
    types += [(one.engine or spec.engine, one.dtype or spec.dtype) for one in spec.beside if one.dtype or one.engine]
    if other := [(engine, dtype) for engine, dtype in types if not registry.has_dtype(engine, dtype)]:
        return f"{other[0][0]} has no dtype {other[0][1]}"
    if unheard := [why for name in SERVED_WITH if name in varied and (why := registry.untold(spec, name))]:
        return unheard[0]
    options = [(spec.engine, name, "") for name in varied if name not in (*VARIED, *POOL_OPTIONS)]
    for one in spec.beside:
        options += [(one.engine or spec.engine, name, f"Beside({one.model!r}): ") for name in one.options]
    return next(filter(None, (_no_option(*option) for option in options)), None)


def _no_option(engine: str, name: str, whose: str) -> str | None:
    if registry.has_option(engine, name):
        return None
    if any(name in (registry.own_options(other) or ()) for other in registry.BUILT_IN):
        return f"{engine} has no option {name}"
    known = [*(registry.own_options(engine) or ()), *POOL_OPTIONS, *VARIED]
    if near := get_close_matches(name, known, n=1, cutoff=NEAR):
        raise UsageError(f"{whose}no engine has an option {name!r}: is {near[0]!r} meant?")
    hand_on = ", ".join(other for other, one in registry.BUILT_IN.items() if one.hands_on)
    return f"{engine} has no option {name} ({hand_on} may: it hands on what it has no name for)"


def too_many_threads(case: Case, spec: EngineSpec, *, cores: int | None) -> str | None:
    """Why a case surely has too few cores, or None. `cores` are those that this process may use, None of what is
    simulated. Where the sweep varies neither replicas nor threads, an engine of too many is an error of whoever set
    them, and no case that another machine measures.
    """
    needed = spec.cores
    if cores is None or needed <= cores or not {"replicas", "threads", "beside"} & case.variant.coordinates.keys():
        return None
    each = f"{spec.pool.replicas} replicas of {_threads(spec.threads)}" if spec.pool else _threads(spec.threads)
    if spec.beside:
        each += f" and {spelled_beside(spec.beside)} beside {'them' if spec.own_cores > 1 else 'it'}"
    return f"{each} need {needed} cores, and this machine gives {cores}"


def _threads(number: int) -> str:
    return f"{number} thread{'s' * (number != 1)}"


def too_large(workload: Workload, case: Case, spec: EngineSpec, *, memory_bytes: float | None) -> str | None:
    """Why a case surely doesn't fit, or None. `memory_bytes` is None where nobody knows.

    Counted are the weights and the KV cache of the model and of those beside it, each once and nothing besides: no
    engine needs less. Where replicas share a memory, the weights count once for each. Models given by path, lengths
    that are drawn and types that only the engine knows are tried. Requests that arrive one by one can wait for memory,
    so that for those only the context is looked at, and of a model beside its weights.
    """
    lengths = () if isinstance(workload, Replay) else (workload.prompt_tokens, workload.output_tokens)
    fixed = [tokens for tokens in lengths if isinstance(tokens, int)]
    shape = SHAPES.get(spec.model)
    if shape is None or len(fixed) != 2:
        return None
    tokens, others = sum(fixed), tuple(_beside(spec))
    for one in (Tenant(shape, spec.dtype, 0, tokens), *others):
        if one.request_tokens > one.shape.context:
            length = f"{one.request_tokens} tokens of prompt and output"
            return f"{length} exceed the context of {one.shape.name}, {one.shape.context}"
    kind, replicas = (spec.pool.kind, spec.pool.replicas) if spec.pool else ("", 1)
    if memory_bytes is None or not isinstance(workload, StaticBatch) or kind in UNTOLD_MEMORY:
        return None
    batch = math.ceil(case.total / replicas) if kind != "threads" else int(case.total)
    own = Tenant(shape, spec.dtype, batch, tokens, replicas if kind in SHARING else 1)
    whose = f"the {own.replicas} replicas'" if own.replicas > 1 else "its"
    budget = spec.pool.memory_bytes * gpus_each(spec.options) if spec.pool and spec.pool.memory_bytes else math.inf
    if why := _lacking(whose, (own,), "the pool may take", budget):
        return why
    if others:
        whose += f" and {spelled_beside(spec.beside)}'s"
    return _lacking(whose, (own, *others), "this machine has", memory_bytes)


def _beside(spec: EngineSpec) -> Iterator[Tenant]:
    """Those beside it whose shapes are known; a load of requests one by one holds as many as there is room for."""
    for one in spec.beside:
        if one.model in SHAPES:
            tokens = one.prompt_tokens + one.output_tokens
            yield Tenant(SHAPES[one.model], one.dtype or spec.dtype, one.batch_size or 0, tokens)


def _lacking(whose: str, tenants: tuple[Tenant, ...], who: str, memory_bytes: float) -> str | None:
    try:
        if not lacking_bytes(tenants, memory_bytes=memory_bytes, reserve_bytes=0.0):
            return None
        needed = sum(one.replicas * one.needed_bytes(reserve_bytes=0.0) for one in tenants)
    except SuiteError:  # the engine may know the type, or says which it knows
        return None
    return (
        f"{whose} weights and KV cache take {needed / GIB:.1f} GiB, and {who} {memory_bytes / GIB:.1f} GiB "
        f"(a model may take {USABLE:.0%})"
    )
