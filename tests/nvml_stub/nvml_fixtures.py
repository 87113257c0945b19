"""The stand-in driver as fixtures."""

import ctypes
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nvml_standin
import pytest


@dataclass
class Driver:
    """A driver in this process: what the real pynvml finds."""

    scenario: Path
    stub: ctypes.CDLL
    clock: nvml_standin.VirtualClock | None
    """None where time is real."""
    epoch_ns: int

    def now_ns(self) -> int:
        """What time it is for the driver: CLOCK_MONOTONIC, or the virtual clock."""
        return self.clock.now_ns() if self.clock else time.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        """Let time pass for the driver."""
        (self.clock.sleep if self.clock else time.sleep)(seconds)

    def say(self, statement: str) -> None:
        """One more statement of the scenario, while a session is open: it is true of all boards."""
        wrong: bytes | None = self.stub.nvmlstub_say(statement.encode())
        if wrong:
            raise ValueError(wrong.decode())

    def seconds(self) -> float:
        """What time it is as the scenario's statements have it: seconds since its epoch."""
        return (self.now_ns() - self.epoch_ns) / nvml_standin.NS_PER_S

    def true_joules(self, from_ns: int, to_ns: int, board: int = 0) -> float:
        """What the board really took."""
        joules: float = self.stub.nvmlstub_true_joules(board, from_ns, to_ns)
        return joules


MakeDriver = Callable[..., Driver]


def skip_unless_built() -> None:
    """Skip what needs the stand-in library in processes of its own, where it can't be built."""
    try:
        nvml_standin.library()
    except nvml_standin.NoCompiler as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def stub() -> ctypes.CDLL:
    """The stand-in library, loaded in this process; a skip where it can't be built or a real one came first."""
    try:
        library = nvml_standin.load()
    except nvml_standin.NoCompiler as error:
        pytest.skip(str(error))
    if not hasattr(ctypes.CDLL(nvml_standin.SONAME), "nvmlstub_is_stub"):
        pytest.skip("this process has loaded the real driver's library already")
    return library


@pytest.fixture
def driver(stub: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeDriver]:
    """Makes a driver from a scenario's statements. Its clock is virtual and begins at 1 s, but with real=True."""
    pynvml: Any = pytest.importorskip("pynvml")
    made: list[Driver] = []

    def make(*statements: str, real: bool = False) -> Driver:
        clock = None if real else nvml_standin.VirtualClock(tmp_path / "clock", nvml_standin.NS_PER_S)
        epoch_ns = 0 if clock else time.monotonic_ns()
        scenario = nvml_standin.write_scenario(tmp_path / "scenario", statements, clock=clock, epoch_ns=epoch_ns)
        monkeypatch.setenv(nvml_standin.SCENARIO, str(scenario))
        made.append(Driver(scenario, stub, clock, epoch_ns))
        return made[-1]

    yield make
    while True:  # whoever left a session open doesn't disturb the next test
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            break
    for one in made:
        if one.clock:
            one.clock.close()
