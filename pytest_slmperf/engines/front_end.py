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
    """The server behind a port of this machine. Lives as long as the connections to it."""

    def __init__(self, port: int, *, proc: Path = Path("/proc"), now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._port, self._proc, self._now_ns = port, proc, now_ns
        self._processes: tuple[Collection[int], Collection[int]] | None = None
        """Of the front end, and of the engine behind it."""
        self._before: _Used | None = None

    def share(self) -> float | None:
        """Share of a core that the busiest of its threads took since this was asked before; None the first time.

        None as well where no other process of the server works: then its engine is in this one, and takes what it can.
        The first call looks through all processes, for tens of milliseconds; later ones take 10 µs a thread.
        """
        if self._processes is None:
            self._processes = found(self._port, self._proc)
        front, engine = self._processes
        if not front or not engine:
            return None
        before, self._before = self._before, self._used(front, engine)
        now = self._before
        if before is None or not now.threads_ns:
            return None
        passed_ns = now.at_ns - before.at_ns
        if passed_ns <= 0 or now.engine_ns - before.engine_ns < ENGINE_WORKS * passed_ns:
            return None
        return max(ran_ns - before.threads_ns.get(thread, 0) for thread, ran_ns in now.threads_ns.items()) / passed_ns

    def _used(self, front: Iterable[int], engine: Iterable[int]) -> _Used:
        threads_ns = {}
        at_ns = self._now_ns()
        for pid in front:
            with suppress(OSError):  # it has ended
                for thread in os.listdir(self._proc / f"{pid}/task"):  # noqa: PTH208 - a quarter of the time of a Path
                    with suppress(OSError):
                        counters = (self._proc / f"{pid}/task/{thread}/schedstat").read_bytes()
                        threads_ns[int(thread)] = int(counters.split()[0])
        return _Used(at_ns, threads_ns, TICK_NS * sum(_ticks(self._proc / f"{pid}/stat") for pid in engine))


def _ticks(stat: Path) -> int:
    """Processor time of a whole process, all of its threads together; 0 of one that has ended."""
    with suppress(OSError):
        content = stat.read_bytes()
        after_name = content[content.rindex(b")") + 2 :].split()
        return int(after_name[11]) + int(after_name[12])
    return 0


def found(port: int, proc: Path) -> tuple[Collection[int], Collection[int]]:
    """The processes that are the front end of the server at a port, and those behind it.

    A front end has accepted a connection there: who listens and has none may wait for its turn, or have been handed
    the socket by a parent. Where no connection is open, all that listen are taken for it. What they have started,
    and doesn't listen, is behind them.
    """
    listening, connected = sockets_at(port, proc)
    held = _holders(listening | connected, proc)
    listeners = {pid for pid, sockets in held.items() if sockets & listening}
    front = {pid for pid in listeners if held[pid] & connected} or listeners
    return front, {pid for listener in listeners for pid in tree(listener, proc=proc)} - listeners


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


def _holders(sockets: Collection[str], proc: Path) -> dict[int, set[str]]:
    """Which processes have which of these sockets open, as far as that can be seen."""
    held: dict[int, set[str]] = {}
    for entry in os.listdir(proc):  # noqa: PTH208 - as above
        if entry.isdecimal():
            with suppress(OSError):  # it has ended, or is another user's
                for descriptor in os.listdir(proc / entry / "fd"):  # noqa: PTH208 - as above
                    with suppress(OSError):
                        if (link := os.readlink(proc / entry / "fd" / descriptor)) in sockets:  # noqa: PTH115 - as above
                            held.setdefault(int(entry), set()).add(link)
    return held
