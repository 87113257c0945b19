"""Which machine a meter is of, where what it reads has no number of its own."""

import hashlib
import hmac
from pathlib import Path


def machine_digest(root: Path) -> str:
    """Which machine it is, without saying so: CPUs have no number that a user may read, and baselines are committed.

    Made from the machine's id as systemd advises (machine-id(5)): from a digest alone nobody finds the id.
    """
    try:
        known = (root / "etc" / "machine-id").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
    return hmac.new(known.encode(), b"pytest-slmperf", hashlib.sha256).hexdigest()[:12] if known else ""
