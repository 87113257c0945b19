"""Who used the cores meanwhile: two scans of the processes, and whom they leave to blame."""

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.run.guards import TICK_NS

COMMAND_SHOWN = 60
SUSPECTS_NAMED = 5


@dataclass(frozen=True, slots=True)
class Seen:
    """One process in a scan."""

    name: str
    parent: int
    started: int
    """Tells it from another process that gets its id later."""
    cpu_ticks: int
    core: int
    """That it ran on last."""


Scan = Mapping[int, Seen]
"""Processes by their id."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A process that used the cores between two scans."""

    pid: int
    name: str
    cpu_s: float


def suspects(before: Scan, after: Scan, *, cores: Collection[int] | None, root: int) -> list[Suspect]:
    """Who else used the cores between the scans, most first. The engine is all that descends from `root`, its guard."""
    family = _descendants({**before, **after}, root)
    found = []
    for pid, now in after.items():
        if pid in family:
            continue
        earlier = before.get(pid)
        ticks = now.cpu_ticks - (earlier.cpu_ticks if earlier and earlier.started == now.started else 0)
        was_there = cores is None or now.core in cores or (earlier is not None and earlier.core in cores)
        if ticks > 0 and was_there:
            found.append(Suspect(pid, now.name, ticks * TICK_NS / NS_PER_S))
    return sorted(found, key=lambda suspect: -suspect.cpu_s)


def in_rounds(found: Sequence[Suspect], own_ns: int) -> list[Suspect]:
    """The suspects, of whom this process is one for no more than what it worked within the rounds: reading counters
    and waiting for the cores' pace between them takes more, and is no disturbance. Less than a tick isn't told.
    """
    own = [replace(one, cpu_s=own_ns / NS_PER_S) for one in found if one.pid == os.getpid() and own_ns >= TICK_NS]
    return sorted([*own, *(one for one in found if one.pid != os.getpid())], key=lambda suspect: -suspect.cpu_s)


def _descendants(processes: Scan, root: int) -> set[int]:
    """The process, and those that it and they have started."""
    started = defaultdict[int, list[int]](list)
    for pid, process in processes.items():
        started[process.parent].append(pid)
    found = [root]
    for pid in found:
        found.extend(started[pid])
    return set(found)


def blame(found: Sequence[Suspect], command: Callable[[int], str] = lambda _: "") -> str:
    """Who it was, in words: the first few, or that nobody was seen. `command` gives the command line of a process."""
    if not found:
        return "nobody was seen there: a process that has ended since, another container, or the kernel itself"
    named = [
        f"{'pytest-slmperf itself, ' if suspect.pid == os.getpid() else ''}{command(suspect.pid) or suspect.name} "
        f"(pid {suspect.pid}, {suspect.cpu_s:.2g} s of CPU)"
        for suspect in found[:SUSPECTS_NAMED]
    ]
    more = f" and {len(found) - SUSPECTS_NAMED} more" if len(found) > SUSPECTS_NAMED else ""
    return ", ".join(named) + more


def scan() -> Scan:
    """All processes that can be seen."""
    found: dict[int, Seen] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - a quarter of the time of a Path
        if not entry.isdecimal():
            continue
        with suppress(OSError, ValueError, IndexError), open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123 - as above
            content = file.read()
            name = content[content.index(b"(") + 1 : content.rindex(b")")].decode(errors="replace")
            after_name = content[content.rindex(b")") + 2 :].split()
            parent, utime, stime, started, core = (int(after_name[place]) for place in (1, 11, 12, 19, 36))
            found[int(entry)] = Seen(name, parent, started, utime + stime, core)
    return found


def command_line(pid: int) -> str:
    """What was typed to start the process, cut where it is long; "" for the kernel's own and for what has ended."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    line = " ".join(" ".join([words[0].rpartition("/")[2], *words[1:]]).split())
    return line if len(line) <= COMMAND_SHOWN else f"{line[:COMMAND_SHOWN]}…"
