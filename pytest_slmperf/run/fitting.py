"""Whether a case fits a machine, before an engine is started to find out."""

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.memory import GIB, USABLE, kv_bytes_per_token, largest_batch, weight_bytes
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.core.sweep import Case
from pytest_slmperf.core.workload import StaticBatch


def too_large(workload: StaticBatch, case: Case, spec: EngineSpec, *, memory_bytes: float | None) -> str | None:
    """Why a case surely doesn't fit, or None. `memory_bytes` is None where nobody knows.

    Counted are the weights and the KV cache, each once and nothing besides: no engine needs less. Models given by path,
    lengths that are drawn and types that only the engine knows are tried.
    """
    shape = SHAPES.get(spec.model)
    prompt, output = workload.prompt_tokens, workload.output_tokens
    if shape is None or not isinstance(prompt, int) or not isinstance(output, int):
        return None
    tokens = prompt + output
    if tokens > shape.context:
        return f"{tokens} tokens of prompt and output exceed the context of {shape.name}, {shape.context}"
    if memory_bytes is None:
        return None
    try:
        fitting = largest_batch(shape, spec.dtype, request_tokens=tokens, memory_bytes=memory_bytes, reserve_bytes=0.0)
    except SuiteError:  # the engine may know the type, or says which it knows
        return None
    if case.batch_size <= fitting:
        return None
    needed = weight_bytes(shape, spec.dtype) + case.batch_size * tokens * kv_bytes_per_token(shape, spec.dtype)
    return (
        f"its weights and KV cache take {needed / GIB:.1f} GiB, and this machine has {memory_bytes / GIB:.1f} GiB "
        f"(a model may take {USABLE:.0%})"
    )
