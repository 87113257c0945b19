"""Makes a board of the stand-in driver from a recording of a real one.

    python tests/nvml_stub/nvml_recording.py RECORDING FOLDER

The recording is what `nvml_probe.py idle|load` writes (a .json, or .json.gz), a program that was run on a GPU:

    slow, fast   {"edges": [[lo_us, hi_us, mJ], …], "rows": [[t_us, [average_mw, instant_mw, memory_mw], usage_mw,
                 sm_mhz, memory_mhz, celsius, reasons, [gpu_percent, memory_percent]], …], "call_us": {"p50": …}}:
                 each move of the energy counter, between two times, and now and then everything else
    table        {"Name": [value, microseconds], …}: every call once
    fields_…     {"74": value, …}: field values before and after

What could not be read is a text that begins with `!`. A call that failed on the board fails on the stand-in.
"""

import gzip
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import nvml_standin

US_PER_S = 1e6
LEAST_SLEEP_US = 50
MILLI = 1e-3
COLUMNS = (
    "power_average", "power_instant", "power_usage", "sm_clock", "memory_clock", "temperature", "reasons",
    "utilisation",
)  # fmt: skip
THROTTLES = {"sw_power_cap": "74", "sync_boost": "76", "sw_thermal": "269", "hw_thermal": "270", "power_brake": "271"}
"""Fields that count nanoseconds."""
KNOWN_ERRORS = {
    "NOT_SUPPORTED", "NO_PERMISSION", "FUNCTION_NOT_FOUND", "INVALID_ARGUMENT", "ARGUMENT_VERSION_MISMATCH",
    "DEPRECATED",
}  # fmt: skip
PASSING = ("NotFound", "Timeout", "GpuIsLost")
"""Of a moment, and not of a board: an empty list of processes is not found."""


class BadRecording(Exception):
    """The file is no recording, or a damaged one."""


def board_of(recording: Path, folder: Path, *, part: str = "slow") -> tuple[str, ...]:
    """The statements of a scenario for this board; what is replayed lies in a file of that folder.

    Raises BadRecording, with the file and the place.
    """
    told = _read(recording)
    try:
        watched = told[part]
        rows = list(_rows(watched["edges"], watched.get("rows", ())))
    except (KeyError, TypeError) as error:
        raise BadRecording(f"{recording}: it has no edges of a counter in its part {part!r}: {error}") from error
    except BadRecording as error:
        raise BadRecording(f"{recording}, {part}: {error}") from error
    replayed = folder / f"{recording.name.partition('.')[0]}.csv"
    replayed.write_text("\n".join([",".join(("seconds", "joules", *COLUMNS)), *rows, ""]), encoding="utf-8")
    return (*_board(told), *_delay(watched), *_throttles(told, watched), f"replay {replayed} ticks")


def _read(recording: Path) -> Mapping[str, Any]:
    try:
        raw = recording.read_bytes()
        told = json.loads(gzip.decompress(raw) if recording.suffix == ".gz" else raw)
    except (OSError, EOFError, ValueError) as error:
        raise BadRecording(f"{recording}: it can't be read: {error}") from error
    if not isinstance(told, dict):
        raise BadRecording(f"{recording}: it is no object of JSON")
    return told


def _rows(edges: Sequence[Any], rows: Sequence[Any]) -> Iterator[str]:
    """Lines of the replayed file: moves of the counter, and what else was read from the first of them to the last."""
    moves = [_move(number, edge) for number, edge in enumerate(edges)]
    if len(moves) < 2:
        raise BadRecording(f"its counter moved {len(moves)} times, and a replay needs two moves")
    for number, ((at, was_mj), (later, mj)) in enumerate(pairwise(moves), 1):
        if later <= at:
            raise BadRecording(f"edge {number}: it is no later than the one before")
        if mj < was_mj:
            raise BadRecording(
                f"edge {number}: the counter went back from {was_mj} to {mj} mJ, which can't be replayed"
            )
    states = [_state(number, row) for number, row in enumerate(rows)]
    first, last = moves[0][0], moves[-1][0]
    before = [cells for at, cells in states if at <= first]
    yield f"{first:.6f},{moves[0][1] * MILLI:.3f},{before[-1] if before else ',' * (len(COLUMNS) - 1)}"
    lines = [(at, f"{mj * MILLI:.3f}") for at, mj in moves[1:]]
    lines.extend((at, f",{cells}") for at, cells in states if first < at < last)
    yield from (f"{at:.6f},{cells}" for at, cells in sorted(lines))


def _move(number: int, edge: Any) -> tuple[float, int]:
    """When the counter moved, in s, and to how many mJ."""
    match edge:
        case [int(low), int(high), int(mj)] if low <= high:
            return (low + high) / 2 / US_PER_S, mj
    raise BadRecording(f"edge {number}: {json.dumps(edge)} is not [from, to, millijoules]")


def _state(number: int, row: Any) -> tuple[float, str]:
    """When it was read, in s, and what, as cells."""
    match row:
        case [int(at), [average, instant, *_], usage, sm, memory, celsius, reasons, rates]:
            busy = rates[0] if isinstance(rates, list) and rates else None
            milliwatts = [one * MILLI if _is_number(one) else None for one in (average, instant, usage)]
            cells = [*milliwatts, sm, memory, celsius, reasons, busy]
            return at / US_PER_S, ",".join(f"{cell:g}" if _is_number(cell) else "" for cell in cells)
    raise BadRecording(f"row {number}: {json.dumps(row)} is not what was read at a time")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _board(told: Mapping[str, Any]) -> Iterator[str]:
    """What it is, how it is set, and which calls fail on it."""
    answers = {name: answer[0] for name, answer in told.get("table", {}).items() if isinstance(answer, list) and answer}
    known = {name: value for name, value in answers.items() if not _failed(value)}

    def of(name: str, statement: str, scale: float = 1) -> Iterator[str]:
        if name in known:
            value = known[name]
            yield f"{statement} {value * scale:g}" if _is_number(value) and scale != 1 else f"{statement} {value}"

    def switch(name: str, statement: str) -> Iterator[str]:
        value = known.get(name)
        value = value[0] if isinstance(value, list) else value
        if value is not None:
            yield f"{statement} {'on' if value else 'off'}"

    for name, statement in (
        ("SystemGetDriverVersion", "driver"), ("SystemGetCudaDriverVersion_v2", "cuda"), ("Name", "name"),
        ("UUID", "uuid"), ("VbiosVersion", "vbios"), ("MaxClockInfo(1)", "max_sm_clock"),
        ("ApplicationsClock(1)", "application_clock"), ("ComputeMode", "compute_mode"),
        ("VirtualizationMode", "virtualization"), ("TotalEccErrors(1,0)", "ecc_uncorrected 0"),
    ):  # fmt: skip
        yield from of(name, statement)
    yield from of("PowerManagementDefaultLimit", "default_power_limit", MILLI)
    yield from of("EnforcedPowerLimit", "power_limit 0", MILLI)
    yield from switch("PersistenceMode", "persistence")
    yield from switch("EccMode", "ecc")
    memory = known.get("MemoryInfo")
    if isinstance(memory, dict):
        yield from (f"memory_total {memory['total']}", f"memory_used 0 {memory['used']}")
    link = [known.get(f"MaxPcieLink{what}") for what in ("Generation", "Width")]
    if all(map(_is_number, link)):
        yield f"pcie {link[0]} {link[1]}"
    gpm = told.get("gpm")
    yield f"gpm {'on' if isinstance(gpm, dict) and gpm.get('supported') else 'off'}"
    yield from _failures(answers, told.get("fields_after", {}))


def _failed(value: object) -> bool:
    return isinstance(value, str) and value.startswith("!")


def _failures(answers: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[str]:
    """A call that failed whatever it was asked for, and field values of the whole board."""
    calls: dict[str, list[str]] = {}
    for name, value in answers.items():
        symbol = "DeviceGetMemoryInfo_v2" if name.startswith("MemoryInfo(") else name.partition("(")[0]
        symbol = symbol if symbol.startswith(("System", "DeviceGet")) else f"DeviceGet{symbol}"
        kind = value.partition(":")[0].removeprefix("!NVMLError_") if _failed(value) else ""
        calls.setdefault(symbol, []).append(kind)
    for symbol, kinds in calls.items():
        if all(kinds) and kinds[0] not in PASSING:
            yield f"fail {symbol} {_error(re.sub(r'(?<!^)(?=[A-Z])', '_', kinds[0]))}"
    for number, value in fields.items():
        if _failed(value) and number.isdecimal():
            yield f"fail field:{number} {_error(value[1:].replace(' ', '_'))}"


def _error(name: str) -> str:
    return name.upper() if name.upper() in KNOWN_ERRORS else "UNKNOWN"


def _delay(watched: Mapping[str, Any]) -> Iterator[str]:
    """How long the energy call took, where a process can sleep as short."""
    took = watched.get("call_us") or {}
    if (took.get("p50") or 0) >= LEAST_SLEEP_US:
        jitter = min(1.0, max(0.0, (took.get("p90") or 0) / took["p50"] - 1))
        yield f"delay DeviceGetTotalEnergyConsumption {took['p50'] / US_PER_S:g} {jitter:.3f}"


def _throttles(told: Mapping[str, Any], watched: Mapping[str, Any]) -> Iterator[str]:
    """The share of the time in which the board was slowed down; the mask of reasons is replayed."""
    before, after = (told.get(f"fields_{when}") or {} for when in ("before", "after"))
    for kind, number in THROTTLES.items():
        ends = before.get(number), after.get(number)
        if all(map(_is_number, ends)) and ends[1] > ends[0] and watched.get("seconds"):
            yield f"throttle {kind} 0 - {min(1.0, (ends[1] - ends[0]) / 1e9 / watched['seconds']):.6f}"


def main() -> None:
    """Write the scenario, and say how a process sees the board."""
    recording, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    try:
        statements = board_of(recording, folder.resolve())
    except BadRecording as error:
        sys.exit(str(error))
    scenario = nvml_standin.write_scenario(folder.resolve() / "scenario", statements)
    named = " ".join(f"{name}={value}" for name, value in nvml_standin.environment(scenario).items())
    sys.stdout.write(f"{named}\n")


if __name__ == "__main__":
    main()
