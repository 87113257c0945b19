"""MIG slices that exist: which of them the replicas of a pool take. None is ever made, changed or taken away here."""

from collections.abc import Sequence

from pytest_slmperf.core.devices.gpus import Gpu, Slice
from pytest_slmperf.core.errors import EngineUnavailable


def choose(gpus: Sequence[Gpu | Slice], replicas: int) -> tuple[Slice, ...]:
    """A slice for each replica, in the order of the driver: alike ones where there are enough of a profile.

    Raises EngineUnavailable where there are too few.
    """
    slices = [part for gpu in gpus for part in (gpu.slices if isinstance(gpu, Gpu) else (gpu,))]
    if len(slices) < replicas:
        off = [gpu for gpu in gpus if isinstance(gpu, Gpu) and not gpu.mig]
        where = f"; MIG is off on GPU {', '.join(str(gpu.index) for gpu in off)}" if off else ""
        raise EngineUnavailable(
            f"{replicas} replicas of the kind mig need as many MIG slices, and there are {len(slices)}{where}. They "
            "are never made from here: as root, nvidia-smi mig --create-gpu-instance PROFILE --default-compute-instance"
        )
    for profile in dict.fromkeys(one.profile for one in slices):
        alike = [one for one in slices if one.profile == profile]
        if len(alike) >= replicas:
            return tuple(alike[:replicas])
    return tuple(slices[:replicas])
