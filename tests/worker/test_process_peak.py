"""What of a process's memory is a library's, as the kernel lists its mappings."""

import mmap
from pathlib import Path

import pytest

from pytest_slmperf.engines.processes import library_bytes

LIBRARY = "/usr/lib/libengine.so.1"


def mapping(file, may, rss, anonymous=0):
    """The lines of one mapping that matter, and some that don't. Sizes in KiB."""
    return [
        f"7f0d4c000000-7f0d4c021000 {may} 00000000 fe:00 131                        {file}\n",
        "Size:               9999 kB\n",
        f"Rss:                {rss} kB\n",
        "Pss:                   7 kB\n",
        f"Anonymous:          {anonymous} kB\n",
        "AnonHugePages:         0 kB\n",
        "THPeligible:           0\n",
        "VmFlags: rd mr mw me ac\n",
    ]


@pytest.mark.parametrize(
    ("mappings", "kib"),
    [
        ([mapping(LIBRARY, "r-xp", 100)], 100),
        ([mapping(LIBRARY, "r--p", 30), mapping(LIBRARY, "r-xp", 100), mapping(LIBRARY, "rw-p", 12, 8)], 134),
        ([mapping(LIBRARY, "r-xp", 100), mapping("/usr/bin/python3 (deleted)", "r-xp", 20)], 120),
        ([mapping("/opt/with space/lib.so", "r-xp", 5), mapping("/opt/with other/lib.so", "r--p", 3)], 5),
        ([mapping("/models/model.safetensors", "r--s", 5000)], 0),
        ([mapping("", "rwxp", 64, 64), mapping("[heap]", "rw-p", 200, 200), mapping("[vdso]", "r-xp", 4)], 0),
        ([mapping("/memfd:generated (deleted)", "r-xs", 64), mapping("/dev/zero (deleted)", "rwxs", 8)], 0),
    ],
    ids=["code", "constants-too", "executable", "path-with-spaces", "weights", "no-file", "memory-as-a-file"],
)
def test_a_librarys_pages_are_those_of_its_file_that_the_process_did_not_make_its_own(mappings, kib):
    """Code and constants of each file that is executed; no data file, no generated code, no written page."""
    assert library_bytes(line for lines in mappings for line in lines) == kib * 1024


def test_the_interpreter_has_libraries_mapped():
    """The kernel's own list is understood."""
    with Path("/proc/self/smaps").open(encoding="utf-8") as smaps:
        assert library_bytes(smaps) > 100 * mmap.PAGESIZE
