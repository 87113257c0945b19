"""The most memory of its own that this process had resident since it was last asked to forget."""

import ctypes
import gc
import re
from contextlib import suppress
from pathlib import Path

from pytest_slmperf.engines.processes import library_bytes

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
    """The kernel's high-water mark (VmHWM) less the pages of executables and libraries. Raises OSError without either.

    How many of those pages are mapped hangs on the page cache: a touched page brings the cached ones around it along,
    as many as were read or written in one piece. The same launch was seen to hold 24 MiB of them after its libraries
    were read page by page, and 39 MiB after they were written anew. All processes share them, and the kernel takes
    them back at will. They are counted as they are now, after the peak: a warm engine maps no more of them.

    `ru_maxrss` won't do for the mark: it is never reset, and in a child it starts at the parent's peak.
    """
    status = (_OURSELVES / "status").read_text()
    mark = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if mark is None:
        raise OSError("/proc/self/status has no VmHWM")
    with (_OURSELVES / "smaps").open(errors="replace") as mappings:
        return int(mark[1]) * 1024 - library_bytes(mappings)
