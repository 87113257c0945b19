"""Reads a file that a user or an earlier run left, and nothing that never ends."""

import errno
import os
import stat
from pathlib import Path

from pytest_slmperf.core.errors import UsageError

LARGEST_BYTES = 1 << 28
"""Of a report of thousands of cases, or a file of baselines: some tens of MiB."""


def read_regular(path: Path) -> bytes:
    """The content of a file. Raises OSError, also for a pipe or a device, which would never end, and for one of more
    than LARGEST_BYTES.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe without a writer would wait for one
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no file", str(path))
        if found.st_size > LARGEST_BYTES:
            raise OSError(errno.EFBIG, f"it has more than {LARGEST_BYTES >> 20} MiB", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read(LARGEST_BYTES)
    finally:
        os.close(descriptor)


def read_named(path: Path) -> bytes:
    """The content of a file that somebody named. Raises UsageError where `read_regular` raises OSError."""
    try:
        return read_regular(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
