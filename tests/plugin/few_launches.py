"""A baseline of few launches, stored as if there had been as many as a recording takes: for what a gate makes of it."""

import json
from collections.abc import Callable
from dataclasses import replace

from projects import Project

from pytest_slmperf.core import gate
from pytest_slmperf.core.baselines.recordable import LEAST_LAUNCHES
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.report import document
from pytest_slmperf.run.accept import Terms, accept
from pytest_slmperf.run.store import BaselineStore

MEASURED = ("--slmperf-no-gate", "--slmperf-report=report.json")
"""The options of a run that `store` takes."""


def longer(measurement: Measurement) -> Measurement:
    """The measurement with its launches again and again, as many as are recorded at least."""
    samples = {name: (one.launches * LEAST_LAUNCHES)[:LEAST_LAUNCHES] for name, one in measurement.samples.items()}
    return replace(measurement, samples={name: Sample(launches) for name, launches in samples.items()})


def store(project: Project, said: str, made: Callable[[Measurement], Measurement] = longer) -> str:
    """Store what a run reported, each case as it is `made` longer. Returns what it said, which must be no failure."""
    assert said.endswith("exit code 0"), said
    run = document.outcome(json.loads((project.path / "report.json").read_text()))
    sweeps = []
    for sweep in run.sweeps:
        cases = {name: replace(case, measurement=made(case.measurement)) for name, case in sweep.cases.items()}
        sweeps.append(replace(sweep, cases=cases))
    terms = Terms(gate.Policy(tolerance=0.1, max_launches=8), supported=False, recorded=run.started_at)
    accept(BaselineStore(project.path / "baselines"), run.machine, sweeps, terms)
    return said
