"""Energy counters that are looked at until they move, in a thread beside whatever happens."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pytest_slmperf.core.devices.edges import STUCK_S, Edge, EnergyTrace, Look, Source
from pytest_slmperf.core.units import NS_PER_S

LOOK_EVERY_S = 0.001
"""Between two looks for an edge: it is known to that."""
BROKE_OFF = "the meter's thread broke off; its error is on standard error"
"""What was seen until then isn't taken for the round."""


@dataclass(slots=True)
class Watch:
    """What was seen of one counter since the start."""

    board: str
    look: Callable[[], Look]
    edges: list[Edge] = field(default_factory=list)
    still_s: float = 0.0
    failure: str | None = None

    def trace(self, source: Source) -> EnergyTrace:
        """What was seen, as a meter tells it."""
        return EnergyTrace(self.board, source, tuple(self.edges), failure=self.failure, still_s=self.still_s)


class Lookout:
    """Looks for edges of some counters, of one after the other. `faults` are the errors that end looking at one."""

    def __init__(
        self,
        name: str,
        *,
        every_s: float,
        sleep: Callable[[float], None],
        clock: Callable[[], int],
        faults: tuple[type[Exception], ...],
    ) -> None:
        """`every_s` is how long it rests from one edge to the next."""
        self._name = name
        self._every_s = every_s
        self._sleep = sleep
        self._clock = clock
        self._faults = faults
        self._stop = threading.Event()
        self._watches: tuple[Watch, ...] = ()
        self._whole = True
        self._thread: threading.Thread | None = None

    def start(self, watches: Iterable[Watch]) -> None:
        """Begin to look, in a thread."""
        self._stop.clear()
        self._watches = tuple(watches)
        self._whole = False
        self._thread = threading.Thread(target=self._look_to_the_end, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> tuple[Watch, ...]:
        """End looking, where it was begun, after some milliseconds."""
        self._stop.set()
        if self._thread:
            self._thread.join()
            self._thread = None
        for watch in self._watches:
            if not self._whole:
                watch.failure = watch.failure or BROKE_OFF
        return self._watches

    def _look_to_the_end(self) -> None:
        self._look_on(self._stop.is_set)
        self._whole = True

    def watch(self, watches: Iterable[Watch], seconds: float) -> tuple[Watch, ...]:
        """Look for so long, in this thread: on whatever clock this has, as tests do."""
        self._watches = tuple(watches)
        end_ns = self._clock() + round(seconds * NS_PER_S)
        self._look_on(lambda: self._clock() >= end_ns)
        return self._watches

    def _look_on(self, done: Callable[[], bool]) -> None:
        while not done():
            for watch in self._watches:
                if watch.failure is None:
                    try:
                        self._find_edge(watch, done)
                    except self._faults as error:
                        watch.failure = f"its energy could not be read: {error}"
            self._sleep(self._every_s)

    def _find_edge(self, watch: Watch, done: Callable[[], bool]) -> None:
        first = old = watch.look()
        while not done():
            self._sleep(LOOK_EVERY_S)
            new = watch.look()
            if new.joules != old.joules:
                watch.edges.append(Edge(old, new))
                return
            old = new
            watch.still_s = max(watch.still_s, (new.after_ns - first.before_ns) / NS_PER_S)
            if watch.still_s > STUCK_S:
                return
