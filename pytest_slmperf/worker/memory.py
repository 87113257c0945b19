"""The most memory that this process had resident since it was last asked to forget."""

import ctypes
import gc
import re
from contextlib import suppress
from pathlib import Path

_OURSELVES = Path("/proc/self")
_FORGET_PEAK = "5"


def forget_peak() -> str | None:
    """Give back what is free and reset the kernel's high-water mark. Returns why it can't be done, or None."""
    gc.collect()
    with suppress(AttributeError):  # musl has no malloc_trim, and gives memory back by itself
        ctypes.CDLL(None).malloc_trim(0)  # or the mark would start at what an earlier case has left behind
    try:
        (_OURSELVES / "clear_refs").write_text(_FORGET_PEAK)
    except OSError as error:
        return f"the kernel does not reset its high-water mark here ({error})"
    return None


def peak_bytes() -> int:
    """VmHWM. `ru_maxrss` won't do: it is never reset, and in a child it starts at the parent's peak."""
    status = (_OURSELVES / "status").read_text()
    mark = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if mark is None:
        raise OSError("/proc/self/status has no VmHWM")
    return int(mark[1]) * 1024
