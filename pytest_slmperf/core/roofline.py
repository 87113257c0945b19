"""How long a batch takes, coarsely: what it must compute and read, at a device's rates."""

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_slmperf.core.memory import kv_bytes_per_token, weight_bytes
from pytest_slmperf.core.shapes import Shape, parameters

STREAMING_THREADS = 4
"""So many threads draw all that a memory gives."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device does in a second."""

    prefill_flops: float
    decode_flops: float
    """Less than in a prefill: a step's matrices have one row for each request."""
    read_bytes: float
    """Of weights and cache."""
    cache_passes: int
    """How often a step goes over the cache: an engine that grows it by copying reads and writes it once more."""
    load_bytes: float
    """Of weights, until a model is loaded."""

    def of_threads(self, threads: int) -> "Rates":
        """The rates of so many threads, where these are those of one."""
        return Rates(
            prefill_flops=threads * self.prefill_flops,
            decode_flops=threads * self.decode_flops,
            read_bytes=min(threads, STREAMING_THREADS) * self.read_bytes,
            cache_passes=self.cache_passes,
            load_bytes=self.load_bytes,
        )


CPU_THREAD = Rates(prefill_flops=150e9, decode_flops=50e9, read_bytes=15e9, cache_passes=3, load_bytes=0.4e9)
"""CTranslate2 in float32 on one core of a server with AVX-512: batches of 1 to 64 took 0.9 to 1.2 times as long as is
said here of OPT-125M, and 0.45 to 1.1 times of models that fit into a core's cache.
"""
ANY_GPU = Rates(prefill_flops=2e15, decode_flops=2e15, read_bytes=8e12, cache_passes=1, load_bytes=20e9)
"""What no GPU of today exceeds: times at these rates are lower bounds."""


def batch_s(shape: Shape, dtype: str, lengths: Sequence[tuple[int, int]], rates: Rates) -> float:
    """Seconds that a batch of requests of these (prompt, output) lengths takes.

    Each token costs a multiplication and an addition for each parameter; each step reads the weights once for all
    requests, and the cache of each. Raises SuiteError for an unknown type.
    """
    prompt_tokens = sum(prompt for prompt, _ in lengths)
    output_tokens = sum(output for _, output in lengths)
    steps = max(output for _, output in lengths)
    cached_tokens = sum(output * (prompt + output / 2) for prompt, output in lengths)
    computed_s = 2 * parameters(shape) * (prompt_tokens / rates.prefill_flops + output_tokens / rates.decode_flops)
    cache_bytes = rates.cache_passes * cached_tokens * kv_bytes_per_token(shape, dtype)
    return computed_s + (steps * weight_bytes(shape, dtype) + cache_bytes) / rates.read_bytes


def load_s(shape: Shape, dtype: str, rates: Rates) -> float:
    """Seconds until the weights are loaded. Raises SuiteError for an unknown type."""
    return weight_bytes(shape, dtype) / rates.load_bytes
