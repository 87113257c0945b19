"""Gathers what a diagnosis of this machine needs: looks at it while it rests, then launches an engine a few times."""

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import BaselineError, DeviceBusy, EngineUnavailable, UsageError
from pytest_slmperf.core.explain import GPU as ON_GPU
from pytest_slmperf.core.explain import cores_named
from pytest_slmperf.core.fitness.cpu import cpu_lines
from pytest_slmperf.core.fitness.diagnosis import Diagnosis, Grade, Line, bandwidth_line, baselines_line, engines_line
from pytest_slmperf.core.fitness.gpu import BoardWatch, board_lines, no_board, told_by_zeus
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.engines import registry
from pytest_slmperf.run import fingerprint
from pytest_slmperf.run.devices import VISIBLE, Device, HeldDevices, boards_at, device_of, machine_of
from pytest_slmperf.run.joules import Joules
from pytest_slmperf.run.noise import Noise, Wanted, measure_noise, named
from pytest_slmperf.run.roofs import Roofs
from pytest_slmperf.run.store import BaselineStore
from pytest_slmperf.run.watching import board_is_plugged_in, hidden_board, look_at_board, look_at_packages, watch_cpu

GPU = "cuda"
CPU_S, PACKAGES_S, BOARD_S = 1.0, 0.5, 1.5
"""How long the CPU is looked at, then its energy counters, and then the board."""


def diagnose(wanted: Wanted, say: Callable[[str], object]) -> Diagnosis:
    """Look at this machine. `say` is told what takes its time."""
    here, settings, spec = fingerprint.probe(), wanted.settings, wanted.spec
    device = device_of(spec.engine, spec.options, spec.pool)
    try:
        machine = machine_of(device)
    except (EngineUnavailable, UsageError):  # the line of its board says why
        machine = here
    say("looking at this machine while it rests, for a few seconds")
    of_cpu = cpu_lines(here, watch_cpu(CPU_S), spec.cores)
    packages = look_at_packages(PACKAGES_S, settings.window_s)
    bandwidth = bandwidth_of(machine, device, spec)
    # Beside an engine on the CPU, the first board that CUDA may see.
    boards, noise = boards_at(device.index), Noise()
    seen = look_at_board(boards, BOARD_S) if boards else None
    with closing(Joules(settings, machine, device)) as joules:  # what a run of this engine would count, by its meter
        by_zeus = joules.metering.source.source == "zeus"
        missing = next((one.missing for one in registry.available() if one.name == spec.engine), "")
        if wanted.noise_s and not missing:
            say(f"launching {named(spec)} again and again for {wanted.noise_s:g} s")
            held = HeldDevices(wait_s=min(settings.lock_wait_s, wanted.noise_s), say=say)
            noise = measure_noise(wanted, joules.metering, held)
    if by_zeus and machine.kind == "cpu":
        packages = told_by_zeus("cpu meter", "no joules of the CPU's packages by themselves")
    if isinstance(seen, BoardWatch):
        traces = tuple(one for one in noise.loaded if seen.trace and one.board == seen.trace.board)
        watch = replace(seen, loaded=traces, by_zeus=by_zeus and machine.kind != "cpu")
        of_board = board_lines(watch, window_s=settings.window_s, seen_s=settings.sensor_seen_s)
    elif seen:
        needed, absent = device.kind == GPU, seen.nothing_installed
        of_board = (no_board(str(seen), needed=needed, absent=absent, plugged_in=board_is_plugged_in()),)
    else:
        of_board = (hidden_board(device.index, os.environ[VISIBLE], needed=device.kind == GPU),)
    engines, stored = found_engines(wanted.default, spec.engine), stored_line(wanted.baselines, machine, spec.engine)
    return Diagnosis(machine, (*of_cpu, *bandwidth, packages, *of_board, *noise.lines, engines, stored))


def bandwidth_of(machine: Machine, device: Device, spec: EngineSpec) -> tuple[Line, ...]:
    """How fast what the engine runs on reads and multiplies: of cores measured, anew, and kept for the next runs."""
    roofs = Roofs(machine)
    if machine.kind == "cuda":
        return (bandwidth_line(machine.device, roofs.known.get(ON_GPU)),)
    if machine.kind != "cpu" or device.kind != "cpu":
        return ()
    try:
        with closing(HeldDevices(wait_s=0.0, say=lambda _: None)) as held:
            held.hold([device])
            cores = held.cores(spec) or ()
            return (bandwidth_line(cores_named(len(cores)), roofs.measure(cores)),)
    except (DeviceBusy, UsageError) as error:
        return (Line("bandwidth", Grade.NOT_SEEN, f"not measured: {error}"),)


def found_engines(default: str | None, asked: str) -> Line:
    """The engines of this interpreter, with the versions of their packages; whether the one `asked` for is of them."""
    engines = registry.available()
    installed = {one.name: _engine_version(one.name) for one in engines if one.usable}
    return engines_line(installed, {one.name: one.missing for one in engines if one.missing}, default, asked)


def _engine_version(name: str) -> str:
    """The versions of what an engine needs, or of the package that registers it; empty where they can't be had."""
    if name in registry.BUILT_IN:
        needs = registry.BUILT_IN[name].needs
        return ", ".join(filter(None, (_version(need, alone=len(needs) == 1) for need in needs)))
    points = entry_points(group=registry.ENTRY_POINTS, name=name)
    return next((point.dist.version for point in points if point.dist), "")


def _version(package: str, *, alone: bool) -> str:
    try:
        found = version(package)
    except PackageNotFoundError:
        return ""
    return found if alone else f"{package} {found}"


def stored_line(folder: Path, machine: Machine, engine: str) -> Line:
    """What is stored that this machine and engine can be compared with."""
    try:
        files = [stored.file for stored in BaselineStore(folder).files()]
    except BaselineError as error:
        return Line("baselines", Grade.BLOCKS, str(error))
    return baselines_line(str(folder), files, machine, engine)
