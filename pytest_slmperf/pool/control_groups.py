"""The control groups (cgroups) of this process, and what they leave it of the machine's memory."""

import re
from collections.abc import Iterator
from pathlib import Path

_AMOUNTS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Limit and use of a group, of version 2 and 1."""


def control_groups(controller: str, *, root: Path = Path("/")) -> Iterator[Path]:
    """Folders of this process's control group and those above it, for a controller; none where it has none."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        unified = not controllers
        if not unified and controller not in controllers.split(","):
            continue
        mounts = ("sys/fs/cgroup", "sys/fs/cgroup/unified") if unified else (f"sys/fs/cgroup/{controller}",)
        for mount in mounts:
            group = root / mount / path.lstrip("/")
            while group.is_relative_to(root / mount):
                yield group
                group = group.parent


def memory_left_bytes(*, root: Path = Path("/")) -> int | None:
    """Memory that this process may still take: what the machine has available, or what is left below the limit of a
    control group, whichever is less; None where neither is told.

    Cached files that nobody has used lately are counted as left: the kernel gives them up first.
    """
    available = re.search(r"^MemAvailable:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    left = [int(available[1]) * 1024] if available else []
    for group in control_groups("memory", root=root):
        for names in _AMOUNTS:
            limit, used = (_text(group / name) for name in names)
            if limit.isdigit() and used.isdigit():
                cached = re.findall(r"^(?:total_)?inactive_file (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
                left.append(max(0, int(limit) - int(used) + max(map(int, cached), default=0)))
    return min(left, default=None)


def _text(path: Path) -> str:
    """What stands in a file of the kernel; nothing where there is none."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
