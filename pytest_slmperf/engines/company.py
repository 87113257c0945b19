"""Models that run beside the engine of a launch, as its process knows them."""

from collections.abc import Mapping
from typing import Protocol

from pytest_slmperf.core.beside import NeighbourWork
from pytest_slmperf.core.engine import EngineFacts


class Company(Protocol):
    """Used by one thread. Whatever goes wrong is raised as an engine raises it, and begins with the model's name."""

    @property
    def settings(self) -> Mapping[str, str | int | float | bool]:
        """What of them, once they are started, the samples hold for."""
        ...

    @property
    def versions(self) -> Mapping[str, str]:
        """Of engines that are none of the measured model, and of libraries that they have loaded."""
        ...

    def check(self, facts: EngineFacts) -> None:
        """Raises EngineUnavailable where the measured engine, by its facts, is on another device than one of them."""
        ...

    def start(self) -> None:
        """Start them, and leave this process the cores that are its own. For before its own engine is made. Blocks."""
        ...

    def begin(self) -> None:
        """Put each under its load; returns when all are."""
        ...

    def end(self, from_ns: int, to_ns: int) -> tuple[NeighbourWork, ...]:
        """Take the loads off again, and tell what each has done; between these instants it was to be under its load.

        Blocks until what is under way is answered. Raises EngineFailed where an answer is wrong.
        """
        ...

    def stop(self) -> None:
        """End them. Called once, also after a failure, or where they were never started."""
        ...


class _Nobody:
    settings: Mapping[str, str | int | float | bool] = {}
    versions: Mapping[str, str] = {}

    def check(self, _facts: EngineFacts) -> None:
        pass

    def start(self) -> None:
        pass

    begin = stop = start

    def end(self, _from_ns: int, _to_ns: int) -> tuple[NeighbourWork, ...]:
        return ()


NOBODY: Company = _Nobody()
