"""The plan of a run, and the bill of a comparison: what its sweeps will take here, said before the first launch."""

from dataclasses import dataclass

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.run import plan
from pytest_slmperf.run.briefing import Bench, most_launches, round_policy
from pytest_slmperf.run.coverage import Coverage
from pytest_slmperf.run.options import Options
from pytest_slmperf.run.settings import Settings
from pytest_slmperf.run.specs import Engines
from pytest_slmperf.run.sweeps import SweepsHere


@dataclass(frozen=True)
class Planning:
    """A run before it begins."""

    options: Options
    settings: Settings
    engines: Engines
    sweeps: SweepsHere
    bench: Bench

    def lines(self, coverage: Coverage) -> list[str]:
        """The cases, launches and time that the selected tests will take."""
        cost = self._cost(arms=2 if self.options.other_python else 1)
        said = []
        for sweep in coverage.selected:
            try:
                said += plan.lines(self._planned(sweep, coverage), cost, self.bench.misfit)
            except UsageError as error:  # the test that measures it is red for the same
                said.append(f"slmperf: {sweep.name}: {error}")
        return said

    def bill(self, sweep: Sweep, candidate: EngineSpec) -> list[str]:
        """The same of a comparison side by side, as if the other arm took what this one does."""
        cases = {case: case.variant.of(candidate) for case in sweep.cases([candidate.model_name])}
        planned = plan.Planned(sweep, cases, round_policy(sweep, self.settings), joules=bool(sweep.metered))
        return plan.lines(planned, self._cost(arms=2), self.bench.misfit)

    def _cost(self, *, arms: int) -> plan.Cost:
        return plan.Cost(
            self.options.mode,
            arms=arms,
            settings=self.settings,
            max_launches=most_launches(self.options, self.settings),
            device=self.bench.machine.kind,
            cores=self.bench.cores,
        )

    def _planned(self, sweep: Sweep, coverage: Coverage) -> plan.Planned:
        here = self.sweeps.resolved(sweep)
        engines = {spec.model_name: spec for spec in self.engines.of(here)} if here.model else {}
        cases = [case for case in here.cases(engines or [plan.UNNAMED]) if coverage.wants(sweep, case)]
        metered = coverage.counts_joules(sweep, here)
        return plan.Planned(
            here,
            {case: case.variant.of(engines[case.model]) if engines else None for case in cases},
            round_policy(here, self.settings),
            joules=metered,
            nothing_left=here.nothing_left(self.sweeps.unmetered(here, engines.values()) if metered else {}),
        )
