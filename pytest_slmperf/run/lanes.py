"""Several workers of one run on a machine with several GPUs: each measures on GPUs of its own.

A lane is as many GPUs as one engine takes. A worker leases a lane by the locks of its boards (`run.lock`), which the
kernel gives back however the worker ends, and sees nothing else from then on.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from pytest_slmperf.core.devices.gpus import Gpu, names_a_gpu, visible_of
from pytest_slmperf.core.errors import DeviceBusy, MeterUnavailable
from pytest_slmperf.meters import boards
from pytest_slmperf.meters.nvml import visible_devices
from pytest_slmperf.run.devices import VISIBLE, Device, HeldDevices

Lane = tuple[str, ...]
"""What CUDA_VISIBLE_DEVICES calls the GPUs of one worker."""


def lanes_of(device: Device, options: Mapping[str, object]) -> tuple[Lane, ...]:
    """The lanes that there are for engines on this device: those of GPUs like its first, since a case's samples belong
    to one machine. None where there is nothing to choose: on no GPU, and where the options name one.
    """
    if device.kind != "cuda" or device.slices or names_a_gpu(options):
        return ()
    visible = os.environ.get(VISIBLE)
    try:
        seen = visible_of(boards.gpus(), None if visible is None else visible_devices(visible))
    except MeterUnavailable:
        return ()
    whole = [gpu for gpu in seen if isinstance(gpu, Gpu) and not gpu.mig]
    if len(whole) < len(seen):
        return ()
    alike = [gpu for gpu in whole if (gpu.name, gpu.memory_bytes) == (whole[0].name, whole[0].memory_bytes)]
    starts = range(0, len(alike) - device.count + 1, device.count)
    lanes = tuple(tuple(gpu.visible for gpu in alike[start:][: device.count]) for start in starts)
    return lanes if len(lanes) > 1 else ()


@contextmanager
def leased(
    lanes: tuple[Lane, ...], held: HeldDevices, device: Callable[[], Device], *, first: int = 0
) -> Iterator[Lane]:
    """Hold a lane, and let this process and what it starts see it alone: the first that is free from number `first` on,
    or else that one once it is. `device` says what the engines run on then.

    The lane stays held when the body ends, as all that `held` holds. Raises DeviceBusy.
    """
    before = os.environ.get(VISIBLE)
    start = first % len(lanes)
    wanted = [*lanes[start:], *lanes[:start]]
    try:
        for lane in wanted:
            os.environ[VISIBLE] = ",".join(lane)
            with suppress(DeviceBusy):
                held.hold([device()], wait_s=0)
                break
        else:
            lane = wanted[0]
            os.environ[VISIBLE] = ",".join(lane)
            held.hold([device()])
        yield lane
    finally:
        if before is None:
            os.environ.pop(VISIBLE, None)
        else:
            os.environ[VISIBLE] = before
