"""What bounds a measured case: its share of what the device allows, by a model of what must be read and computed.

The share of the bandwidth limit is what the field calls MBU (model bandwidth utilisation), that of the compute limit
MFU (model FLOPs utilisation, arXiv 2204.02311). docs/models.md says how far the models are off.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pytest_slmperf.core.datasheets import boards_in
from pytest_slmperf.core.devices.board import BoardFacts
from pytest_slmperf.core.devices.gpus import gpus_each
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.memory import GIB, MIB, kv_bytes_per_token, predicted_peak, weight_bytes
from pytest_slmperf.core.metrics import SCALARS
from pytest_slmperf.core.outcome import CaseOutcome, RunOutcome
from pytest_slmperf.core.pool import ELSEWHERE
from pytest_slmperf.core.roofline import GROWN_BY_COPYING, TEXTBOOK, Caching, Limit, Roof, limit
from pytest_slmperf.core.sample import Measurement
from pytest_slmperf.core.shapes import SHAPES, Shape

BOUND_FROM = 0.5
"""A case at this share of a limit is bound by it: no engine of today comes much beyond nine tenths."""
LOW_POWER = 0.55
LARGE_BATCH = 32
"""A board that draws less than this share of its power at such a batch waits for the host that feeds it: 0.33 to 0.50
were seen where the server's own Python was the limit (ML.ENERGY v2, vLLM 0.5.4, A100 and H100), 0.58 and more of the
same models where it wasn't (ML.ENERGY v3, vLLM 0.11.1; arXiv 2411.00136)."""
PEAK_ERROR = 0.25
"""Share by which CTranslate2's peak was off its model at the worst: see docs/engines.md."""
PROCESS_BYTES = 24 * MIB
PROCESS_ERROR_BYTES = 12 * MIB
"""Of a process before its engine starts, and by how much that differs from one environment to the next."""
SUFFIXES = ("-instruct", "-chat", "-base", "-it", "-pt", "-hf")
"""Of the names of checkpoints that have the shape of the one without."""


class Bound(StrEnum):
    """What sets the pace."""

    BANDWIDTH = "bandwidth"
    COMPUTE = "compute"
    HOST = "host"
    """Neither limit is near, and the board draws little power at a large batch: it waits for its host."""
    NEITHER = "neither"
    """Neither limit is near: overhead of each step, kernels far from the device's peak, or what the model leaves out.
    """


@dataclass(frozen=True, slots=True)
class Explanation:
    """A case beside its models. Shares are fractions of 1."""

    bound: Bound
    limit: str
    """`bandwidth` or `compute`: which of them sets most of the limit."""
    limit_share: float
    """Measured output throughput over the most that the device allows."""
    limit_output_throughput: float
    """That most, in tok/s."""
    bandwidth_share: float
    """Of the time that reading alone takes: MBU."""
    compute_share: float | None
    """Of the time that computing alone takes: MFU. None where nobody knows the device's rate in this type."""
    power_share: float | None
    """Of the boards' power limit; None without a meter of boards."""
    bandwidth_bytes_per_s: float
    """What the limit rests on, of a set as large as a step reads."""
    flops_per_s: float | None
    source: str
    """`measured`, or the name of a datasheet."""
    error: float
    """Share by which the limit may be wrong."""
    weight_bytes: int
    """As a textbook counts them, of all replicas; once where threads of one process share them."""
    cache_bytes: int
    """The same of keys and values, when the requests are whole."""
    predicted_peak_bytes: int | None
    """What the process was to take; None for an engine of which there is no such model."""
    differs: tuple[str, ...] = ()
    """Where model and measurement differ by more than the model's error."""


GPU = "gpu"


def cores_named(cores: int) -> str:
    """`1 core`, `2 cores`."""
    return f"{cores} core{'' if cores == 1 else 's'}"


def place_of(key: Mapping[str, object]) -> str | None:
    """Which of a run's roofs an engine of this key is under, `gpu` or `2 cores`; None where nobody knows its device."""
    device, threads, replicas = str(key.get("device")).partition(":")[0], key.get("threads"), key.get("replicas", 1)
    if key.get("pool") in ELSEWHERE:
        return None
    if device == "cuda":
        return GPU
    if device == "cpu" and isinstance(threads, int) and isinstance(replicas, int):
        return cores_named(threads * replicas)
    return None


def explained(run: RunOutcome, case: CaseOutcome) -> Explanation | None:
    """What bounds a case of a run; None where there is no model of it, or no roof."""
    key = case.measurement.key
    place = place_of(key)
    roof = run.roofs.get(place) if place else None
    if roof and place == GPU:  # a smaller pool of a sweep is on some of the run's boards alone
        roof = roof.times(min(1, boards_of(key) / boards_in(run.machine.device)))
    return explain(case.measurement, case.coordinates, roof) if roof else None


def boards_of(key: Mapping[str, object]) -> int:
    """How many GPUs an engine of this key takes."""
    replicas = key.get("replicas")
    apart = replicas if key.get("pool") == "gpus" and isinstance(replicas, int) else 1
    return apart * gpus_each({name.removeprefix("option."): value for name, value in key.items()})


def shape_named(model: str) -> Shape | None:
    """The shape of a model by its name, whatever weights it has: `Qwen2.5-0.5B-Instruct` has that of `qwen2.5-0.5b`."""
    name = model.lower()
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return SHAPES.get(name)


def requests_of(measurement: Measurement, coordinates: Mapping[str, str | float]) -> float | None:
    """Requests that a case had under way at a time; None where nobody says.

    Of a static batch all of it; of traffic what the engine says of its batch, or else the mean that were sent and not
    yet answered.
    """
    for name in ("mean_running_batch", "mean_concurrency"):
        if sample := measurement.samples.get(name):
            return sample.median
    place, replicas = coordinates.get("batch_size", coordinates.get("concurrency")), measurement.key.get("replicas", 1)
    if isinstance(place, str) or place is None or not isinstance(replicas, int):
        return None
    return place * replicas if "-each=" in measurement.case.rpartition("/")[2] else place


def explain(measurement: Measurement, coordinates: Mapping[str, str | float], roof: Roof) -> Explanation | None:
    """What bounds a case with these coordinates, on a device of this roof.

    None where nobody knows the model's shape, its type or how many requests there were, where its weights are quantised
    in a way that has no model here, and without throughputs.
    """
    key, shape = measurement.key, shape_named(str(measurement.key.get("model", "")))
    dtype, replicas = str(key.get("dtype", "")), key.get("replicas", 1)
    tokens, requests = _tokens(measurement), requests_of(measurement, coordinates)
    if not (shape and tokens and requests and isinstance(replicas, int)) or key.get("setting.quantization"):
        return None
    measured, prompt_tokens, output_tokens = tokens
    try:
        # Each replica has its part of the requests and of the device, and reads weights of its own.
        found = limit(
            shape,
            dtype,
            roof.times(1 / replicas),
            requests=requests / replicas,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            caching=caching_of(key),
        )
        weights = (1 if key.get("pool") == "threads" else replicas) * weight_bytes(shape, dtype)
        cache = round(requests * (prompt_tokens + output_tokens) * kv_bytes_per_token(shape, dtype))
    except SuiteError:
        return None
    took_s = requests * output_tokens / measured
    power = _power_share(measurement, roof)
    share = found.least_s / took_s
    peak = None if "pool" in key else _predicted_peak(key, shape, requests)
    return Explanation(
        bound=_bound(found, share, requests, power),
        limit=Bound.BANDWIDTH if found.set_by_reading else Bound.COMPUTE,
        limit_share=share,
        limit_output_throughput=requests * output_tokens / found.least_s,
        bandwidth_share=found.memory_s / took_s,
        compute_share=None if found.compute_s is None else found.compute_s / took_s,
        power_share=power,
        bandwidth_bytes_per_s=replicas * found.bytes_per_s,
        flops_per_s=roof.flops_of(dtype),
        source=roof.source,
        error=roof.error,
        weight_bytes=weights,
        cache_bytes=cache,
        predicted_peak_bytes=peak,
        differs=(*_beyond(found, share, roof), *_other_peak(measurement, peak)),
    )


def caching_of(key: Mapping[str, object]) -> Caching:
    """How the engine of this key keeps keys and values."""
    return GROWN_BY_COPYING if (key.get("engine"), key.get("device")) == ("ctranslate2", "cpu") else TEXTBOOK


def _tokens(measurement: Measurement) -> tuple[float, float, float] | None:
    """Output tokens in a second, and the mean prompt and output of a request; None without the throughputs.

    By these, lengths that are drawn or recorded are known, too.
    """
    names = ("output_throughput", "total_token_throughput", "request_throughput")
    samples = [measurement.samples.get(name) for name in names]
    output, total, finished = (sample.median if sample else 0.0 for sample in samples)
    if not (output and total > output and finished):
        return None
    return output, (total - output) / finished, output / finished


def _power_share(measurement: Measurement, roof: Roof) -> float | None:
    power = measurement.samples.get("mean_power_w")
    limits = [_limit_w(board) for board in measurement.boards.values()]
    if power is None or not limits or roof.power_w is None:
        return None
    return power.median / min(sum(limits) if all(limits) else roof.power_w, roof.power_w)


def _limit_w(board: BoardFacts) -> float:
    return board.power_limit_w or 0.0


def _bound(found: Limit, share: float, requests: float, power_share: float | None) -> Bound:
    if share >= BOUND_FROM:
        return Bound.BANDWIDTH if found.set_by_reading else Bound.COMPUTE
    if power_share is not None and power_share < LOW_POWER and requests >= LARGE_BATCH:
        return Bound.HOST
    return Bound.NEITHER


def _beyond(found: Limit, share: float, roof: Roof) -> tuple[str, ...]:
    if share <= 1 + roof.error:
        return ()
    of_limit = f"{'bandwidth' if found.set_by_reading else 'compute'} limit ({roof.source})"
    why = "the device is faster than that (`slmperf doctor` measures it anew), or the engine reads less than the model"
    return (f"it was measured at {share:.0%} of its {of_limit}, whose error is {roof.error:.0%}: {why}",)


def _predicted_peak(key: Mapping[str, object], shape: Shape, requests: float) -> int | None:
    """By the model of CTranslate2 on a CPU, for batches of equal lengths; None of any other."""
    prompt, output, dtype = key.get("prompt_tokens"), key.get("output_tokens"), str(key.get("dtype"))
    known = (key.get("engine"), key.get("device"), key.get("workload")) == ("ctranslate2", "cpu", "static-batch")
    if not (known and isinstance(prompt, int) and isinstance(output, int) and dtype in ("float32", "int8")):
        return None
    return predicted_peak(
        shape,
        dtype,
        batch_size=round(requests),
        prompt_tokens=prompt,
        output_tokens=output,
        process_bytes=PROCESS_BYTES,
    ).total


def _other_peak(measurement: Measurement, predicted: int | None) -> tuple[str, ...]:
    name = "peak_memory_bytes"
    sample = measurement.samples.get(name)
    if sample is None or predicted is None:
        return ()
    if abs(sample.median - predicted) <= PEAK_ERROR * predicted + PROCESS_ERROR_BYTES:
        return ()
    shown = [f"{one / GIB:.2f} GiB" if one >= GIB else f"{one / MIB:.0f} MiB" for one in (sample.median, predicted)]
    return (f"{SCALARS[name].name} is {shown[0]}, and was to be {shown[1]} by its model",)
