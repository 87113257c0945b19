"""How an engine is told which share of a GPU is its own: by options where it reads them, and by a GPU's name."""

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.memory import held_weight_bytes, weight_bytes
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.engines.registry import REAL

NUMBERS_ONLY = ("vllm",)
"""Engines that take CUDA_VISIBLE_DEVICES for numbers, and can't be given a UUID there."""


def reads_uuids(engine: str) -> bool:
    """Whether it can be given a GPU, or a MIG slice, by its UUID."""
    return engine not in NUMBERS_ONLY


def reads_share(engine: str) -> bool:
    """Whether options hold it to a share of a GPU's memory."""
    return engine == "vllm"


def share_of(
    spec: EngineSpec, memory_bytes: int, own_bytes: float, *, share: float, gpus: int = 1
) -> dict[str, str | int | float | bool]:
    """The options, in place of the spec's, with which it takes `own_bytes` of each of its GPUs, which have
    `memory_bytes`. What the spec's own give it in bytes is for all that share a GPU, and it gets this share of them.
    Nothing for an engine that has no such options.

    Raises EngineUnavailable where that holds no model with its KV cache.
    """
    if not reads_share(spec.engine):
        return {}
    from pytest_slmperf.engines import vllm  # noqa: PLC0415 - no other engine needs it

    return vllm.share_of(spec, memory_bytes, own_bytes, share=share, gpus=gpus)


def least_bytes(spec: EngineSpec, device: str) -> int | None:
    """What its weights alone take on a `cuda` or `cpu` device; None where that isn't known before it has started."""
    if spec.engine not in REAL or spec.model not in SHAPES or "quantization" in spec.options:
        return None
    held = held_weight_bytes if (spec.engine, device) == ("ctranslate2", "cpu") else weight_bytes
    try:
        return held(SHAPES[spec.model], spec.dtype)
    except SuiteError:  # `auto`, or a type of this engine alone
        return None
