"""Whether a case fits a machine and its engine, before an engine is started to find out."""

import math

from pytest_slmperf.core.beside import spelled_beside
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.gpus import gpus_each
from pytest_slmperf.core.memory import GIB, USABLE, kv_bytes_per_token, largest_batch, weight_bytes
from pytest_slmperf.core.pool import ELSEWHERE, POOL_OPTIONS
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.core.sweep import Case
from pytest_slmperf.core.variant import VARIED
from pytest_slmperf.core.workload import Replay, StaticBatch, Workload
from pytest_slmperf.engines import registry

UNTOLD_MEMORY = ("mig", *ELSEWHERE)
"""Kinds of a pool of which nobody knows here what memory each replica has."""
SHARING = ("processes", "mps")
"""Kinds of which each replica has weights of its own, in one memory."""


def static_only(workload: Workload, spec: EngineSpec) -> str | None:
    """Why the engine can't be sent such requests, or None. What it says when it has started is what counts."""
    if isinstance(workload, StaticBatch) or registry.streams(spec.engine, spec.pool):
        return None
    return (
        f"{spec.engine} serves static batches only, and requests of {type(workload).__name__} come one by one: "
        f"{', '.join(registry.streaming())} can take those"
    )


def lacking(case: Case, spec: EngineSpec) -> str | None:
    """Why the engine surely has no such variant, or None: it has an option, or a type, of another one."""
    for name, value in case.variant.coordinates.items():
        if name == "dtype" and not registry.has_dtype(spec.engine, str(value)):
            return f"{spec.engine} has no dtype {value}"
        if name not in (*VARIED, *POOL_OPTIONS) and not registry.has_option(spec.engine, name):
            return f"{spec.engine} has no option {name}"
    return None


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

    Counted are the weights and the KV cache, each once and nothing besides: no engine needs less. Where replicas share
    a memory, the weights count once for each. Models given by path, lengths that are drawn and types that only the
    engine knows are tried. Requests that arrive one by one can wait for memory, so that for those only the context is
    looked at.
    """
    shape = SHAPES.get(spec.model)
    lengths = () if isinstance(workload, Replay) else (workload.prompt_tokens, workload.output_tokens)
    fixed = [tokens for tokens in lengths if isinstance(tokens, int)]
    if shape is None or len(fixed) != 2:
        return None
    tokens = sum(fixed)
    if tokens > shape.context:
        return f"{tokens} tokens of prompt and output exceed the context of {shape.name}, {shape.context}"
    kind, replicas = (spec.pool.kind, spec.pool.replicas) if spec.pool else ("", 1)
    if memory_bytes is None or not isinstance(workload, StaticBatch) or kind in UNTOLD_MEMORY:
        return None
    whose = "this machine has"
    budget = spec.pool.memory_bytes * gpus_each(spec.options) if spec.pool and spec.pool.memory_bytes else math.inf
    if budget < memory_bytes:
        whose, memory_bytes = "the pool may take", budget
    batch = math.ceil(case.total / replicas) if kind != "threads" else int(case.total)
    copies = replicas if kind in SHARING else 1
    share = memory_bytes / copies
    try:
        fitting = largest_batch(shape, spec.dtype, request_tokens=tokens, memory_bytes=share, reserve_bytes=0.0)
    except SuiteError:  # the engine may know the type, or says which it knows
        return None
    if batch <= fitting:
        return None
    each = weight_bytes(shape, spec.dtype) + batch * tokens * kv_bytes_per_token(shape, spec.dtype)
    needed, its = copies * each, "its" if copies == 1 else f"the {copies} replicas'"
    return (
        f"{its} weights and KV cache take {needed / GIB:.1f} GiB, and {whose} {memory_bytes / GIB:.1f} GiB "
        f"(a model may take {USABLE:.0%})"
    )
