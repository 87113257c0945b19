"""What the device of a run reads and computes at the most: measured once on a CPU's cores, and kept for the machine."""

import hashlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_slmperf import worker
from pytest_slmperf.core.datasheets import roof_of
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.explain import GPU, cores_named, shape_named
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.memory import MIB, weight_bytes
from pytest_slmperf.core.roofline import Reading, Roof
from pytest_slmperf.engines.cache import cache_folder

SETS = tuple(size * MIB for size in (1, 16, 64, 256))
"""That each core reads: within its own cache, in the one that cores share, and beyond most. The last one takes half a
second to be made; a model that is read from the nearer ones needs none of it."""
MOST_BYTES = 2**30
"""Of all cores together."""
METHOD = 1
"""Counted up where another way of measuring makes kept roofs wrong."""
KEPT_S = 7 * 86_400.0
LIMIT_S = 30.0
ERROR = 0.25
"""Share by which what is measured of cores differs from one time to the next, on a machine that others share."""
DAMAGED = (ValueError, KeyError, TypeError, AttributeError)
"""What a document raises that is none of ours."""
PROGRAM = Path(worker.__file__).with_name("roof.py")


class Roofs:
    """The roofs of one machine. Lives as long as the run."""

    def __init__(self, machine: Machine, *, folder: Path | None = None) -> None:
        """`folder` keeps what was measured; by default it lies in the user's cache folder."""
        self._machine = machine
        self._folder = folder or cache_folder() / "roofs"
        self._of_cores: dict[int, Roof | None] = {}

    @property
    def known(self) -> Mapping[str, Roof]:
        """By the place of an engine: see core.explain.place_of."""
        board = roof_of(self._machine.device) if self._machine.kind == "cuda" else None
        of_cores = {cores_named(cores): roof for cores, roof in self._of_cores.items() if roof}
        return {**({GPU: board} if board else {}), **of_cores}

    def look_up(self, spec: EngineSpec, cores: Collection[int] | None) -> None:
        """Know the roof of these cores from now on, for this engine: 0.2 s where it was not measured within a week, and
        half a second more where the model is none that caches hold.

        Never while something is measured. Nothing where the machine is no CPU, or there is no model of the engine's.
        """
        if not cores or self._machine.kind != "cpu" or (shape := shape_named(spec.model_name)) is None:
            return
        try:
            sets = sets_for(weight_bytes(shape, spec.dtype), len(cores))
        except SuiteError:  # of a type that nobody knows there is no explanation
            return
        known = self._of_cores.get(len(cores)) or self._kept(len(cores))
        if known is None or known.readings[-1].set_bytes < sets[-1] * len(cores):
            known = self.measure(cores, sets)
        self._of_cores[len(cores)] = known

    def measure(self, cores: Collection[int], sets: Sequence[int] = ()) -> Roof | None:
        """Measure these cores now, by sets of these sizes for each or else by all, and keep what comes out; None where
        they can't be measured.
        """
        sets = sets or sets_for(math.inf, len(cores))
        listed = (",".join(map(str, numbers)) for numbers in (sorted(cores), sets))
        command = [sys.executable, "-P", str(PROGRAM), *listed]
        try:
            done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=True)
            found = json.loads(done.stdout)
            roof = _roof(found)
        except (OSError, subprocess.SubprocessError, *DAMAGED):
            return None
        with suppress(OSError):  # without a cache, each run measures
            place = self._place(len(cores))
            place.parent.mkdir(parents=True, exist_ok=True)
            beside = place.with_suffix(f".{os.getpid()}")
            beside.write_text(json.dumps({**found, "at": time.time()}))
            beside.replace(place)
        return roof

    def _kept(self, cores: int) -> Roof | None:
        try:
            found = json.loads(self._place(cores).read_text())
            return _roof(found) if 0 <= time.time() - found["at"] < KEPT_S else None
        except (OSError, *DAMAGED):
            return None

    def _place(self, cores: int) -> Path:
        machine = self._machine
        named = json.dumps([METHOD, machine.device, machine.driver, machine.fields.get("microcode"), cores])
        return self._folder / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.json"


def sets_for(weights: float, cores: int) -> tuple[int, ...]:
    """What each core is to read so that the roof is known for weights of so many bytes."""
    sets = sorted({min(size, MOST_BYTES // cores) for size in SETS})
    enough = next((size for size in sets if size * cores >= weights), sets[-1])
    return tuple(size for size in sets if size <= enough)


def _roof(found: Mapping[str, Any]) -> Roof:
    """Raises one of DAMAGED for what is none."""
    readings = tuple(Reading(float(size), float(rate)) for size, rate in found["readings"])
    flops = {str(dtype): float(rate) for dtype, rate in found["flops"].items()}
    if not readings or not all(one > 0 for one in (*(reading.bytes_per_s for reading in readings), *flops.values())):
        raise ValueError("a device that reads nothing")
    return Roof(readings, flops, ERROR, "measured")
