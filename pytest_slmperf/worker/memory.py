"""The most memory of its own that this process had resident since it was last asked to forget."""

import ctypes
import gc
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_OURSELVES = Path("/proc/self")
_FORGET_PEAK = "5"
_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ (?P<may>\S+) \S+ \S+ \d+ *(?P<file>.*)")
_NO_FILE = ("/memfd:", "/dev/")
"""Begins of what looks like a path in a list of mappings, and is memory of the process, or a device's."""


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


def library_bytes(smaps: Iterable[str]) -> int:
    """Bytes resident of files that are mapped for execution, but for the pages that the process made its own.

    Of such a file all mappings count, its constants as well as its code; of no other file any: weights that an engine
    maps are no library.
    """
    shared: dict[str, int] = {}
    executed: set[str] = set()
    file = ""
    for line in smaps:
        mapping = _MAPPING.match(line)
        if mapping:
            file = mapping["file"]
            if "x" in mapping["may"]:
                executed.add(file)
            continue
        name, _, size = line.partition(":")
        if name in {"Rss", "Anonymous"}:
            kib = int(size.split()[0])
            shared[file] = shared.get(file, 0) + (kib if name == "Rss" else -kib)
    files = {file for file in executed if file.startswith("/") and not file.startswith(_NO_FILE)}
    return sum(shared.get(file, 0) for file in files) * 1024
