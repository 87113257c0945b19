"""What may be recorded: every reason why a gate may not rest on a measurement, or on one metric of it."""

import math
from collections.abc import Mapping

from pytest_slmperf.core.baselines.baseline import PLANTED
from pytest_slmperf.core.machine import NOT_SAID, SIMULATED, Machine
from pytest_slmperf.core.metrics import ENERGY
from pytest_slmperf.core.sample import Measurement

LEAST_LAUNCHES = 20
"""With fewer, the gate's error rates don't hold."""


def unfit(measurement: Measurement, machine: Machine, engine: str) -> str | None:
    """Why no metric of a case can be recorded for this machine and engine, or None."""
    key = measurement.key
    if measurement.void:
        return f"void: {measurement.void}"
    planted = [f"{name}={value}" for name, value in key.items() if name.startswith(PLANTED) and value]
    if planted:
        return f"measured with a loss planted on purpose ({', '.join(planted)}); it can't be recorded"
    pretended = "fake" in (engine, key.get("engine")) or key.get("device") == SIMULATED
    if pretended and not machine.simulated:
        return f"simulated samples can't be recorded for a real machine ({machine.device})"
    if key.get("engine", engine) != engine:
        return f"measured on {key['engine']}, and this is a baseline of {engine}"
    return _not_said({**key, "device": machine.device, "driver": machine.driver}) or _not_flat(key)


def _not_said(facts: Mapping[str, object]) -> str | None:
    missing = [name for name, value in facts.items() if value == NOT_SAID]
    options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
    return f"nobody said its {', '.join(missing)}: import it again with {options}" if missing else None


def _not_flat(key: Mapping[str, object]) -> str | None:
    for name, value in key.items():
        flat = value is None or isinstance(value, (str, int, float, bool))
        if not flat or (isinstance(value, float) and not math.isfinite(value)):
            return f"its key's field {name} is {value!r}; a key holds texts, numbers, true, false or null"
    return None


def unfit_metric(measurement: Measurement, name: str, machine: Machine) -> str | None:
    """Why a gated metric of a case, by its full name, can't be recorded for this machine, or None."""
    sample = measurement.samples.get(name)
    if sample is None:
        return f"unmeasured: {measurement.unmeasured.get(name, 'no launch measured it')}"
    if len(sample.launches) < LEAST_LAUNCHES:
        return (
            f"{len(sample.launches)} launches; a baseline needs at least {LEAST_LAUNCHES}: measure again with "
            "--slmperf-accept"
        )
    if name in ENERGY and not machine.simulated and any(board.simulated for board in measurement.boards.values()):
        return (
            "its joules are simulated: a stand-in driver told them, and they can't be recorded for a real machine "
            f"({machine.device})"
        )
    return None
