"""A run's sweeps on this machine: what its settings, the tier, its meter and its baselines make of each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import SuiteError, UsageError
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.core.sweeps.workload import StaticBatch
from pytest_slmperf.run.joules import Joules
from pytest_slmperf.run.options import Options
from pytest_slmperf.run.settings import Settings
from pytest_slmperf.run.stored import StoredCases


@dataclass(frozen=True)
class SweepsHere:
    """What a suite declared is one thing, and what is measured of it here another."""

    options: Options
    settings: Settings
    machine: Machine
    joules: Joules
    stored: StoredCases

    def resolved(self, sweep: Sweep) -> Sweep:
        """The sweep as this machine's settings and the tier change it."""
        here = self.of_every_tier(sweep)
        return here.ends if self.options.tier == "quick" else here

    def of_every_tier(self, sweep: Sweep) -> Sweep:
        """The same with what only the tier leaves out. Raises SuiteError that names settings that make no sense."""
        axes = self.settings.sweep_on(sweep.name, self.machine)
        try:
            return sweep.on(axes)
        except UsageError as error:
            raise SuiteError(f"{self.settings.where_on(sweep.name, self.machine)}: {error}") from error

    def left_out(self, sweep: Sweep, here: Sweep, specs: Iterable[EngineSpec]) -> dict[str, str]:
        """Cases that only the tier doesn't measure: what is stored of them is not stale."""
        if self.options.tier != "quick":
            return {}
        models = [spec.model_name for spec in specs]
        left_out = set(self.of_every_tier(sweep).cases(models)) - set(here.cases(models))
        return dict.fromkeys(sorted(case.name for case in left_out), "the tier quick leaves it out")

    def unmetered(self, here: Sweep, specs: Iterable[EngineSpec]) -> Mapping[str, str]:
        """See Joules.unmetered. Where nobody set that it skips, what the baseline gates is red without its meter."""
        unmetered = self.joules.unmetered(here)
        skips = self.options.other_python or self.options.mode == "report" or self.settings.says_of_meter(here)
        if not unmetered or skips:
            return unmetered
        held = self._gated_by_baseline(here, specs)
        return {name: reason for name, reason in unmetered.items() if name not in held}

    def timed_with_joules(self, here: Sweep, specs: Iterable[EngineSpec], unmetered: Mapping[str, str]) -> bool:
        """Whether the throughput of static batches is read from the stretch in which joules are counted: where some
        are gated and not skipped, or where the baseline's was.
        """
        if not isinstance(here.workload, StaticBatch):
            return False
        gated = set(here.metered)
        of_baseline = set() if self.options.mode == "accept" else self._gated_by_baseline(here, specs)
        return bool(gated - unmetered.keys() or gated & of_baseline)

    def _gated_by_baseline(self, here: Sweep, specs: Iterable[EngineSpec]) -> set[str]:
        """The metrics that what is stored gates."""
        return {name for spec in specs for name in self.stored.gated(spec.engine, here.name)}
