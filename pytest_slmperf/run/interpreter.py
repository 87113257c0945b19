"""The Python of another environment, as a command line names it."""

import os
import shutil
from pathlib import Path

from pytest_slmperf.core.errors import UsageError


def interpreter(text: str) -> str:
    """The program that a path or a command's name stands for, its links unresolved: an environment is where a link is.

    Raises UsageError for what cannot be executed. Whether it is a Python is found out by trying it.
    """
    path = os.path.expanduser(text)  # noqa: PTH111 - Path would make python of ./python, which is looked for elsewhere
    found = shutil.which(path)
    if found:
        return found
    inside = Path(path, "bin", "python")
    if os.access(inside, os.X_OK):
        raise UsageError(f"{text} is the folder of an environment: its interpreter is {inside}")
    raise UsageError(f"there is no such interpreter: {text}, looked for from {Path.cwd()}")
