"""Where files are kept from run to run: weights, and what was measured of the machine."""

import os
from collections.abc import Mapping
from pathlib import Path

CACHE_VARIABLE = "SLMPERF_CACHE"


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder named by SLMPERF_CACHE, or `slmperf` in the user's cache folder (XDG)."""
    if chosen := environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    users = Path(environ.get("XDG_CACHE_HOME", ""))
    return (users if users.is_absolute() else Path.home() / ".cache") / "slmperf"
