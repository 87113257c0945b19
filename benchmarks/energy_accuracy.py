"""How wrong joules per token are where the truth is known: python benchmarks/energy_accuracy.py [WINDOWS].

The meter runs over the real pynvml and the stand-in driver of tests/nvml_stub, on a virtual clock, so that an hour
takes seconds and the true energy is known. The load decodes: steps of 23 ms, 430 W in their first half and 300 W in
their second. The counter is updated every 100 ms, give or take 1 ms; a call takes so long, give or take 30 %, and its
value is of any moment of it. `edge` is the error of the meter (rms), `plain` that of two plain looks. `stated` is the
meter's own standard uncertainty, and `covered` how often its 95 % interval holds the truth. `bursts` adds
prefills: 300 W for a while, at odd times. A part-time sensor sees 25 ms of every 100.

With --cpu it measures, in real time, what the meter costs: CPU time as a share of a core, and one look.
"""

import argparse
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

for folder in (".", "tests/nvml_stub"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))

import nvml_standin  # noqa: E402 - found by the two lines above
import pynvml  # noqa: E402

from pytest_slmperf.core.energy import Energy, Terms, energy_of  # noqa: E402
from pytest_slmperf.core.tally import BATCH_SWING, STEP_SWING, Work  # noqa: E402
from pytest_slmperf.meters.nvml import NvmlMeter, Pace  # noqa: E402

NS = 1_000_000_000
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

    edge: list[float]
    plain: list[float]
    stated: list[float]
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
        begin_ns, begin_mj = self._look()
        self.clock.sleep(seconds)
        end_ns, end_mj = self._look()
        value = (end_mj - begin_mj) / 1000 / ((end_ns - begin_ns) / self._work_ns * TOKENS)
        errors.plain.append(value / self._truth(begin_ns, end_ns) - 1)

    def _look(self) -> tuple[float, int]:
        before = self.clock.now_ns()
        read = pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        return (before + self.clock.now_ns()) / 2, read

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


def accuracy(windows: int, lengths: Sequence[float]) -> None:
    """Print the table."""
    print(f"{'':26} {'window':>6}  {'edge':>7} {'worst':>6} {'stated':>7} {'covered':>7}   {'plain':>7} {'worst':>6}")
    for setting in SETTINGS:
        for length in lengths:
            with tempfile.TemporaryDirectory() as folder:
                bench, errors = Bench(Path(folder), setting, seed=int(1000 * length)), Errors([], [], [])
                for _ in range(windows):
                    bench.window(length, errors)
                bench.close()
            print(
                f"{setting.name:26} {length:4g} s  {rms(errors.edge):7.3%} {max(map(abs, errors.edge)):6.2%} "
                f"{rms(errors.stated):7.3%} {errors.covered / len(errors.edge):7.1%}   {rms(errors.plain):7.3%} "
                f"{max(map(abs, errors.plain)):6.2%}{f'  ({errors.none} without)' if errors.none else ''}",
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
    parser.add_argument("--cpu", action="store_true", help="only what the meter costs, in real time")
    given = parser.parse_args()
    if given.cpu:
        cost(10)
    else:
        accuracy(given.windows, given.seconds)


if __name__ == "__main__":
    main()
