"""The GPUs of a machine and the MIG slices on them as values, and which of them an engine's options mean."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_slmperf.core.errors import UsageError

MOST_DIGITS = 9
"""Of a GPU's number: with more of them it is none, and the engine says so."""
MOST_BOARDS = 1024
"""Of one engine: no machine has as many, and asking for the first that lacks says so."""
SPREADS = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
"""Options of which each says over how many GPUs an engine spreads: over as many as their product, one after the other.
"""


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a GPU that MIG made: compute and memory of its own, and no power of its own."""

    uuid: str
    profile: str
    """`1g.10gb`"""
    board: str
    """The UUID of the whole GPU."""
    memory_bytes: int | None = None

    @property
    def visible(self) -> str:
        """What CUDA_VISIBLE_DEVICES calls it: a slice has no number."""
        return self.uuid


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as its driver describes it. None stands for what it doesn't tell."""

    index: int
    """As the driver counts them, and CUDA under CUDA_DEVICE_ORDER=PCI_BUS_ID."""
    uuid: str
    name: str
    memory_bytes: int | None = None
    free_bytes: int | None = None
    compute_mode: str | None = None
    """One of `meters.boards.COMPUTE_MODES`."""
    power_limit_w: float | None = None
    """As it is set: nobody of us ever sets it."""
    mig: bool = False
    slices: tuple[Slice, ...] = ()

    @property
    def visible(self) -> str:
        """What CUDA_VISIBLE_DEVICES calls it: its number, since some engines read no UUID there."""
        return str(self.index)


def first_gpu(options: Mapping[str, object]) -> int:
    """The number of the first GPU that an engine with these options takes, among those that it may see: its `device`
    (`cuda:1`) or `device_index`. Raises UsageError for one before the first: an engine may count such a number from
    the last one.
    """
    number = str(options.get("device", "")).partition(":")[2]
    told = int(number) if number.isdecimal() and len(number) <= MOST_DIGITS else options.get("device_index", 0)
    index = told if isinstance(told, int) else 0
    if index < 0:
        raise UsageError(f"there is no GPU {index}: they are counted from 0")
    return index


def gpus_each(options: Mapping[str, object]) -> int:
    """Over how many GPUs an engine with these options spreads: see SPREADS."""
    named = {name.replace("-", "_"): value for name, value in options.items()}
    spread = (named.get(name) for name in SPREADS)
    return min(math.prod(size for size in spread if isinstance(size, int) and size > 0), MOST_BOARDS)


def names_a_gpu(options: Mapping[str, object]) -> bool:
    """Whether the options say which GPU is meant, and not only that one is."""
    return "device_index" in options or ":" in str(options.get("device", ""))


def visible_of(gpus: Sequence[Gpu], names: Sequence[int | str] | None) -> list[Gpu | Slice]:
    """What CUDA may see, in its order: the GPUs and slices of these names (numbers, UUIDs or an unmistakable beginning
    of one); all GPUs where there are no names.
    """
    if names is None:
        return list(gpus)
    found: list[Gpu | Slice] = []
    for name in names:
        found += [gpu for gpu in gpus if gpu.index == name or (isinstance(name, str) and gpu.uuid.startswith(name))]
        found += [one for gpu in gpus for one in gpu.slices if one.uuid == name]
    return found
