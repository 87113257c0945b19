"""How wrong joules per token are where the truth is known: python benchmarks/energy_accuracy.py [WINDOWS].

The meter runs over the real pynvml and the stand-in driver of tests/nvml_stub, on a virtual clock, so that an hour
takes seconds and the true energy is known. The load decodes: steps of 23 ms, 430 W in their first half and 300 W in
their second. The counter is updated every 100 ms, give or take 1 ms; a call takes so long, give or take 30 %, and its
value is of any moment of it. `edge` is the error of the meter (rms), `plain` that of two plain looks. `stated` is the
meter's own standard uncertainty, and `covered` how often its 95 % interval holds the truth. `bursts` adds
prefills: 300 W for a while, at odd times. A part-time sensor sees 25 ms of every 100. Two looks are up to an update
further apart than the table says: at a multiple of the counter's period, most of their errors would cancel.

`zeus` is the real package, where it is installed (pip install --group zeus): ZeusMonitor's joules from begin_window to
end_window, over the tokens between the middles of these two calls, which is the best that can be made of them. It knows
no virtual clock and needs none: of its own times nothing is used.

With --cpu it measures, in real time, what the meter costs: CPU time as a share of a core, and one look.
"""

import argparse
import importlib.util
import math
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

for folder in (".", "tests/nvml_stub"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))

import nvml_standin  # noqa: E402 - found by the two lines above
import pynvml  # noqa: E402

from pytest_slmperf.core.energy.tally import BATCH_SWING, STEP_SWING, Work  # noqa: E402
from pytest_slmperf.core.energy.window import Energy, Terms, energy_of  # noqa: E402
from pytest_slmperf.meters.nvml import NvmlMeter, Pace  # noqa: E402

NS = 1_000_000_000
Value = TypeVar("Value")
TOKENS = 64
LEAD_IN_S = 0.1
BURSTS = ("wave 0.7071 0.06 300", "wave 1.1313 0.04 300 0.2", "wave 2.3719 0.05 300 0.5")
PART_TIME_S = 0.025


@dataclass(frozen=True)
class Setting:
    """One row of the table, but for the window's length."""

    name: str
    call_s: float = 0.003
    step_s: float = 0.023
    statements: tuple[str, ...] = ()
    seen_s: float | None = None
    batch_steps: int | None = None
    """Only whole batches are known, of so many steps; their first tenth is a prefill."""

    @property
    def work_s(self) -> float:
        """Length of what is known of the work."""
        return self.step_s * (self.batch_steps or 1)


SETTINGS = (
    Setting("calls of 0.7 ms", call_s=0.0007),
    Setting("calls of 3 ms"),
    Setting("calls of 10 ms", call_s=0.010),
    Setting("calls of 30 ms", call_s=0.030),
    Setting("whole batches of 0.46 s", statements=("wave 0.46 0.1 200",), batch_steps=20),
    Setting("whole batches of 1.38 s", statements=("wave 1.38 0.1 200",), batch_steps=60),
    Setting("bursts", statements=BURSTS),
    Setting("part time, 23 ms steps", statements=(f"sensor {PART_TIME_S}",), seen_s=PART_TIME_S),
    Setting("part time, bursts", statements=(f"sensor {PART_TIME_S}", *BURSTS), seen_s=PART_TIME_S),
    Setting("part time, 20 ms steps", step_s=0.020, statements=(f"sensor {PART_TIME_S}",), seen_s=PART_TIME_S),
)


@dataclass
class Errors:
    """Of many windows."""

    edge: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    zeus: list[float] = field(default_factory=list)
    """Empty where it is not installed."""
    stated: list[float] = field(default_factory=list)
    covered: int = 0
    none: int = 0


class Bench:
    """A driver on a virtual clock, and a load that decodes on it."""

    def __init__(self, folder: Path, setting: Setting, seed: int) -> None:
        self.stub = nvml_standin.load()
        self.clock = nvml_standin.VirtualClock(folder / "clock", NS)
        self._draw = random.Random(seed)
        self._setting = setting
        self._work_ns = round(setting.work_s * NS)
        statements = (
            "period 0.1 0.02", f"seed {seed}", f"delay DeviceGetTotalEnergyConsumption {setting.call_s} 0.3",
            "power 0 300", f"wave {setting.step_s} 0.5 130", *setting.statements,
        )  # fmt: skip
        scenario = nvml_standin.write_scenario(folder / "scenario", statements, clock=self.clock)
        os.environ[nvml_standin.SCENARIO] = str(scenario)
        pace = Pace(cpu_share=math.inf, sample_every_s=1e6)
        self.meter = NvmlMeter(pace=pace, seen_s=setting.seen_s, clock=self.clock.now_ns, sleep=self._oversleep)
        self.meter.open()
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        self._zeus = zeus_monitor()

    def close(self) -> None:
        """End the session."""
        self.meter.close()
        self.clock.close()

    def window(self, seconds: float, errors: Errors) -> None:
        """Measure one window in both ways."""
        self.clock.sleep(self._draw.uniform(0.05, 0.35))
        began = self.clock.now_ns()
        recording = self.meter.watch(seconds + LEAD_IN_S + 0.2)
        energy = energy_of(recording.traces, self._work(began, self.clock.now_ns()), Terms(LEAD_IN_S, least_s=0.3))
        if isinstance(energy, Energy):
            quantity = energy.metrics()["joules_per_output_token"]
            true = self._truth(energy.boards[0].from_ns, energy.boards[0].to_ns)
            errors.edge.append(quantity.value / true - 1)
            errors.stated.append(quantity.uncertainty.random)
            low, high = quantity.interval
            errors.covered += low <= true <= high
        else:
            errors.none += 1
        self.clock.sleep(self._draw.uniform(0, 0.1))
        begin_ns, begin_mj = self._timed(self._look)
        self.clock.sleep(seconds + self._draw.uniform(0, 0.1))
        end_ns, end_mj = self._timed(self._look)
        errors.plain.append(self._error((end_mj - begin_mj) / 1000, begin_ns, end_ns))
        if self._zeus:
            self.clock.sleep(self._draw.uniform(0, 0.1))
            begin_ns, _ = self._timed(lambda: self._zeus.begin_window("window", sync_execution=False))
            self.clock.sleep(seconds + self._draw.uniform(0, 0.1))
            end_ns, measured = self._timed(lambda: self._zeus.end_window("window", sync_execution=False))
            errors.zeus.append(self._error(measured.total_energy, begin_ns, end_ns))

    def _look(self) -> int:
        read: int = pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        return read

    def _timed(self, call: Callable[[], Value]) -> tuple[float, Value]:
        """The middle of a call, and what it answered."""
        before = self.clock.now_ns()
        answer = call()
        return (before + self.clock.now_ns()) / 2, answer

    def _error(self, joules: float, from_ns: float, to_ns: float) -> float:
        """Of so many joules over the tokens between two instants."""
        return joules / ((to_ns - from_ns) / self._work_ns * TOKENS) / self._truth(from_ns, to_ns) - 1

    def _oversleep(self, seconds: float) -> None:
        self.clock.sleep(seconds + self._draw.uniform(0.00005, 0.0003))

    def _work(self, from_ns: int, to_ns: int) -> list[Work]:
        first, length = from_ns // self._work_ns * self._work_ns, self._work_ns
        swing = BATCH_SWING if self._setting.batch_steps else STEP_SWING
        return [Work(at, at + length, TOKENS, swing=swing) for at in range(first, to_ns + length, length)]

    def _truth(self, from_ns: float, to_ns: float) -> float:
        """Joules per token, each stretch of work having taken its joules for all its tokens alike."""
        joules = [self._joules(at) for at in (from_ns, to_ns)]
        return (joules[1] - joules[0]) / ((to_ns - from_ns) / self._work_ns * TOKENS)

    def _joules(self, at_ns: float) -> float:
        begin = int(at_ns // self._work_ns) * self._work_ns
        before: float = self.stub.nvmlstub_true_joules(0, 0, begin)
        within: float = self.stub.nvmlstub_true_joules(0, begin, begin + self._work_ns)
        return before + within * (at_ns - begin) / self._work_ns


def rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(value**2 for value in values) / len(values)) if values else math.nan


def zeus_monitor() -> Any:
    """Zeus on the board that this process sees first, or None where it is not installed."""
    if importlib.util.find_spec("zeus") is None:
        return None
    from zeus.monitor import ZeusMonitor  # noqa: PLC0415

    warnings.filterwarnings("ignore", "The energy consumption of one or more GPUs was measured as zero")
    return ZeusMonitor(gpu_indices=[0], cpu_indices=[])


def errors_of(setting: Setting, length: float, windows: int) -> Errors:
    """One cell of the table."""
    errors = Errors()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), setting, seed=int(1000 * length))
        for _ in range(windows):
            bench.window(length, errors)
        bench.close()
    return errors


def cells(
    windows: int, settings: Sequence[Setting], lengths: Sequence[float]
) -> Iterator[tuple[Setting, float, Errors]]:
    """Each in a process of its own: Zeus keeps its session of the driver, and so its scenario, to a process's end."""
    asked = list(product(settings, lengths))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        found = pool.map(errors_of, *zip(*asked, strict=True), [windows] * len(asked))
        for (setting, length), errors in zip(asked, found, strict=True):
            yield setting, length, errors


def told(errors: Sequence[float]) -> str:
    """Root mean square and largest."""
    return f"{rms(errors):7.3%} {max(map(abs, errors)):6.2%}" if errors else f"{'-':>7} {'-':>6}"


def stated(errors: Errors) -> str:
    """The meter's own uncertainty, and how many windows it covered; nothing where it gave no joules."""
    if not errors.stated:
        return f"{'-':>7} {'-':>7}"
    return f"{rms(errors.stated):7.3%} {errors.covered / len(errors.edge):7.1%}"


def accuracy(windows: int, settings: Sequence[Setting], lengths: Sequence[float]) -> None:
    """Print the table."""
    three = "   ".join(f"{name:>7} {'worst':>6}" for name in ("edge", "plain", "zeus"))
    print(f"{'':26} {'window':>6}  {three}   {'stated':>7} {'covered':>7}")
    for setting, length, errors in cells(windows, settings, lengths):
        three = "   ".join(map(told, (errors.edge, errors.plain, errors.zeus)))
        print(
            f"{setting.name:26} {length:4g} s  {three}   {stated(errors)}"
            f"{f'  ({errors.none} without)' if errors.none else ''}",
            flush=True,
        )


def cost(seconds: float) -> None:
    """Print what the meter takes of a core in real time, and one look, over the stand-in driver."""
    with tempfile.TemporaryDirectory() as folder:
        nvml_standin.load()
        scenario = nvml_standin.write_scenario(Path(folder) / "scenario", ("power 0 400", "period 0.1 0.02"))
        os.environ[nvml_standin.SCENARIO] = str(scenario)
        meter = NvmlMeter()
        meter.open()
        began, began_cpu = time.monotonic(), time.process_time()
        meter.start()
        time.sleep(seconds)
        recording = meter.stop()
        took, cpu = time.monotonic() - began, time.process_time() - began_cpu
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        looks = 2000
        began = time.perf_counter()
        for _ in range(looks):
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        look_us = (time.perf_counter() - began) / looks * 1e6
        meter.close()
    edges = len(recording.traces[0].edges)
    print(f"{cpu / took:.2%} of a core in {took:.1f} s, {edges} edges; a look takes {look_us:.1f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("windows", nargs="?", type=int, default=1000)
    parser.add_argument("--seconds", type=float, nargs="*", default=[1, 2, 3, 5, 10, 30])
    parser.add_argument("--only", default="", metavar="TEXT", help="only settings with this in their name")
    parser.add_argument("--cpu", action="store_true", help="only what the meter costs, in real time")
    given = parser.parse_args()
    if given.cpu:
        cost(10)
    else:
        accuracy(given.windows, [one for one in SETTINGS if given.only in one.name], given.seconds)


if __name__ == "__main__":
    main()
