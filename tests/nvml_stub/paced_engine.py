"""An engine in real time that takes no GPU, and power on the stand-in driver's board: each step is slept through.

Its options: `step_ms` (5), how long a step takes whatever the batch; `load` (0.8), how busy the board is meanwhile,
0 to 1; `load_log`, the file that the scenario's statement `load` names. More `load` at the same `step_ms` is a loss of
joules alone.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import nvml_standin

from pytest_slmperf.core.engine import EngineFacts, EngineSpec, Request, Served

NS_PER_MS = 1_000_000


class Engine:
    """One launch."""

    def __init__(self, spec: EngineSpec) -> None:
        self._step_ns = round(float(spec.options.get("step_ms", 5)) * NS_PER_MS)
        self._load = float(spec.options.get("load", 0.8))
        log = spec.options.get("load_log")
        self._log = Path(str(log)) if log else None

    def start(self) -> EngineFacts:
        """Be on the board, idle."""
        self._tell(0)
        return EngineFacts("1", "simulated", "float32", "random", context_tokens=4096, vocabulary=1024)

    def serve(self, batch: Sequence[Request], *, observe: bool) -> Served:
        """Sleep through as many steps as the longest request has tokens."""
        asked = tuple(request.output_tokens for request in batch)
        started_ns = time.monotonic_ns()
        self._tell(self._load, started_ns)
        stamps = []
        for step in range(1, max(asked) + 1):
            time.sleep(max(0.0, (started_ns + step * self._step_ns - time.monotonic_ns()) / 1e9))
            stamps.append(time.monotonic_ns())
        self._tell(0, stamps[-1])
        token_ns = tuple(tuple(stamps[:tokens]) for tokens in asked) if observe else None
        return Served(started_ns, stamps[-1], asked, token_ns)

    def stop(self) -> None:
        """Nothing was taken."""

    def _tell(self, load: float, at_ns: int | None = None) -> None:
        if self._log:
            nvml_standin.log_load(self._log, load, at_ns=at_ns)
