"""Standard output that takes nothing, as on a full disk: what is said of it, and what becomes of the rest."""

import os
from contextlib import suppress
from typing import TextIO


def unwritable(error: OSError) -> str:
    """What is wrong with it, in words."""
    return f"standard output can't be written: {error.strerror or error}"


def discard(stream: TextIO) -> None:
    """Leave what is still buffered, and all that follows, to nobody: the interpreter would try again at its end, and
    complain.
    """
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
