"""The front end of a server on this machine: the processes that take its requests and send its answers, where other
processes are its engine. Whatever of it /proc doesn't show is not judged.
"""

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.engines.processes import tree

ENGINE_WORKS = 0.05
"""Share of a core that a server's other processes use, at least, where its engine is among them: what Python's
multiprocessing or a shell leaves beside a server sleeps.
"""
TICK_NS = NS_PER_S // os.sysconf("SC_CLK_TCK")
_LISTENING, _CONNECTED = "0A", "01"
"""A socket's state in /proc/net/tcp."""


@dataclass(frozen=True, slots=True)
class _Used:
    """Processor time since the processes' begin."""

    at_ns: int
    threads_ns: Mapping[int, int]
    """Of the front end, thread by thread."""
    engine_ns: int


class FrontEnd:
    """The front end of the server that listens at a port of this machine. Lives as long as the connections to it."""

    def __init__(
        self,
        port: int,
        server: Collection[int] | None = None,
        *,
        proc: Path = Path("/proc"),
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Is looked for among the processes of the `server`, for a millisecond each at most, or else among all."""
        self._proc, self._now_ns = proc, now_ns
        self._front, self._engine = found(port, server, proc=proc)
        self._before: _Used | None = None

    def share(self) -> float | None:
        """Share of a core that the busiest of its threads took since this was asked before; None the first time.

        None as well where no other process of the server works: then its engine is in this one, and takes what it can.
        Takes 10 µs a thread.
        """
        if not self._front or not self._engine:
            return None
        before, now = self._before, self._used()
        self._before = now
        if before is None or not now.threads_ns:
            return None
        passed_ns = now.at_ns - before.at_ns
        if passed_ns <= 0 or now.engine_ns - before.engine_ns < ENGINE_WORKS * passed_ns:
            return None
        return max(ran_ns - before.threads_ns.get(thread, 0) for thread, ran_ns in now.threads_ns.items()) / passed_ns

    def _used(self) -> _Used:
        threads_ns = {}
        at_ns = self._now_ns()
        for pid in self._front:
            with suppress(OSError):  # it has ended
                for thread in os.listdir(self._proc / f"{pid}/task"):  # noqa: PTH208 - a quarter of the time of a Path
                    with suppress(OSError):
                        counters = (self._proc / f"{pid}/task/{thread}/schedstat").read_bytes()
                        threads_ns[int(thread)] = int(counters.split()[0])
        return _Used(at_ns, threads_ns, TICK_NS * sum(_ticks(self._proc / f"{pid}/stat") for pid in self._engine))


def _ticks(stat: Path) -> int:
    """Processor time of a whole process, all of its threads together; 0 of one that has ended."""
    with suppress(OSError):
        content = stat.read_bytes()
        after_name = content[content.rindex(b")") + 2 :].split()
        return int(after_name[11]) + int(after_name[12])
    return 0


def found(
    port: int, server: Collection[int] | None = None, *, proc: Path = Path("/proc")
) -> tuple[Collection[int], Collection[int]]:
    """The processes that are the front end of the server at a port, and those behind it.

    A front end has accepted a connection there: who listens and has none may wait for its turn, or have been handed
    the socket by a parent. Where no connection is open, all that listen are taken for it. Behind them is all else of
    the `server`, or where its processes aren't known, all that those which listen have started.
    """
    listening, connected = sockets_at(port, proc)
    if not listening:
        return (), ()
    held = _holders(listening | connected, _all_of(proc) if server is None else server, proc)
    listeners = {pid for pid, sockets in held.items() if sockets & listening}
    front = {pid for pid in listeners if held[pid] & connected} or listeners
    started = {pid for listener in listeners for pid in tree(listener, proc=proc)}
    return front, (started if server is None else set(server)) - listeners


def sockets_at(port: int, proc: Path) -> tuple[set[str], set[str]]:
    """The sockets that listen at a port, and those of connections that were made to it, as links in `fd` name them."""
    listening: set[str] = set()
    connected: set[str] = set()
    for table in ("net/tcp", "net/tcp6"):
        with suppress(OSError):
            for row in (proc / table).read_text().splitlines()[1:]:
                _, local, _, state, *_, inode = row.split()[:10]
                if int(local.rpartition(":")[2], 16) == port and state in (_LISTENING, _CONNECTED):
                    (listening if state == _LISTENING else connected).add(f"socket:[{inode}]")
    return listening, connected


def _all_of(proc: Path) -> list[int]:
    return [int(entry) for entry in os.listdir(proc) if entry.isdecimal()]  # noqa: PTH208 - as above


def _holders(sockets: Collection[str], among: Iterable[int], proc: Path) -> dict[int, set[str]]:
    """Which processes have which of these sockets open, as far as that can be seen."""
    held: dict[int, set[str]] = {}
    for pid in among:
        with suppress(OSError):  # it has ended, or is another user's
            for descriptor in os.listdir(f"{proc}/{pid}/fd"):  # noqa: PTH208 - as above
                with suppress(OSError):
                    link = os.readlink(f"{proc}/{pid}/fd/{descriptor}")  # noqa: PTH115 - as above
                    if link in sockets:
                        held.setdefault(pid, set()).add(link)
    return held
