"""Whether a case fits a machine and its engine, before an engine is started to find out."""

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.memory import GIB, USABLE, kv_bytes_per_token, largest_batch, weight_bytes
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.core.sweep import Case
from pytest_slmperf.core.workload import Replay, StaticBatch, Workload
from pytest_slmperf.engines import registry


def static_only(workload: Workload, spec: EngineSpec) -> str | None:
    """Why the engine can't be sent such requests, or None. What it says when it has started is what counts."""
    if isinstance(workload, StaticBatch) or registry.streams(spec.engine):
        return None
    return (
        f"{spec.engine} serves static batches only, and requests of {type(workload).__name__} come one by one: "
        f"{', '.join(registry.streaming())} can take those"
    )


def too_large(workload: Workload, case: Case, spec: EngineSpec, *, memory_bytes: float | None) -> str | None:
    """Why a case surely doesn't fit, or None. `memory_bytes` is None where nobody knows.

    Counted are the weights and the KV cache, each once and nothing besides: no engine needs less. Models given by path,
    lengths that are drawn and types that only the engine knows are tried. Requests that arrive one by one can wait for
    memory, so that for those only the context is looked at.
    """
    shape = SHAPES.get(spec.model)
    lengths = () if isinstance(workload, Replay) else (workload.prompt_tokens, workload.output_tokens)
    fixed = [tokens for tokens in lengths if isinstance(tokens, int)]
    if shape is None or len(fixed) != 2:
        return None
    tokens = sum(fixed)
    if tokens > shape.context:
        return f"{tokens} tokens of prompt and output exceed the context of {shape.name}, {shape.context}"
    if memory_bytes is None or not isinstance(workload, StaticBatch):
        return None
    try:
        fitting = largest_batch(shape, spec.dtype, request_tokens=tokens, memory_bytes=memory_bytes, reserve_bytes=0.0)
    except SuiteError:  # the engine may know the type, or says which it knows
        return None
    if case.at <= fitting:
        return None
    needed = weight_bytes(shape, spec.dtype) + case.at * tokens * kv_bytes_per_token(shape, spec.dtype)
    return (
        f"its weights and KV cache take {needed / GIB:.1f} GiB, and this machine has {memory_bytes / GIB:.1f} GiB "
        f"(a model may take {USABLE:.0%})"
    )
