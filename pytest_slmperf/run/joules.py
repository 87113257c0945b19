"""The joules of a run: with which meter they are counted, and what becomes of them where nothing tells them."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property

from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.metrics import BOARD, ENERGY
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.engines.address import RAY
from pytest_slmperf.run.devices import Device
from pytest_slmperf.run.metering import Metering, elsewhere, open_nvml, open_rapl, open_ray
from pytest_slmperf.run.settings import Settings

OF_A_GPU = "a GPU's driver tells it, and the engine runs on a CPU"


class Joules:
    """Lives as long as the run, and costs nothing until somebody asks for them. `close` gives the meter back."""

    def __init__(self, settings: Settings, machine: Machine, device: Device) -> None:
        self._settings = settings
        self._machine = machine
        self._device = device
        self._opened = ExitStack()
        self._launched = False

    @cached_property
    def metering(self) -> Metering:
        """Opened once, and kept to the end of the run: a driver that nobody uses may unload."""
        settings = self._settings
        window_s, lead_in_s = settings.window_s, settings.lead_in_s
        if self._device.kind.startswith(RAY):
            metering = open_ray(self._device.kind.removeprefix(RAY), window_s=window_s, lead_in_s=lead_in_s)
        elif self._machine.kind == "remote":
            metering = elsewhere(window_s=window_s, lead_in_s=lead_in_s)
        elif self._machine.kind == "cpu":
            metering = open_rapl(window_s=window_s, lead_in_s=lead_in_s)
        else:
            metering = open_nvml(
                window_s=window_s,
                lead_in_s=lead_in_s,
                index=self._device.index,
                count=self._device.count,
                slices=self._device.slices,
                seen_s=settings.sensor_seen_s,
            )
        self._opened.callback(metering.close)
        return metering

    def before_launches(self, *, to_come: bool) -> None:
        """Told before each campaign. The boards' idle power is measured before the run's first engine, where joules are
        `to_come` of this sweep or a later one, or never.
        """
        if to_come and not self._launched:
            self.metering.measure_idle_power()
        self._launched = True

    def unmetered(self, here: Sweep) -> Mapping[str, str]:
        """Metrics that no meter tells here, each with the reason, where that skips their tests and isn't red."""
        if self._settings.without_meter(here, self._machine) == "red":
            return {}
        missing = self.metering.source.missing
        if missing:
            return dict.fromkeys((*ENERGY, *BOARD), missing)
        return dict.fromkeys(BOARD, OF_A_GPU) if self._machine.kind == "cpu" else {}

    def check_recordable(self, here: Sweep, unmetered: Mapping[str, str]) -> None:
        """Before 20 launches, not after: raises UsageError where joules are gated, none can be recorded and they aren't
        among the `unmetered` that nobody misses.
        """
        if unmetered.keys() >= set(here.metered):
            return
        meter = self.metering.source
        why = meter.missing
        if meter.simulated and not self._machine.simulated:
            why = f"a stand-in driver tells them, so they are simulated, and {self._machine.device} is a real machine"
        if why:
            skip = ', or record the rest with missing_meter="skip"' if meter.missing else ""
            raise UsageError(
                f"nothing can be recorded: {here.name} gates {', '.join(here.metered)}, and {why}. Take them out of "
                f"gate={{…}} on this machine{skip}"
            )

    def close(self) -> None:
        """Give the meter back, where one was opened."""
        self._opened.close()
