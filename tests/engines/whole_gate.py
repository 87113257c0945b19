"""The whole gate of shipped suites on a real engine: recorded, judged without a loss, and judged with one.

Each run is a process of its own, as a user starts it, and the suites' files are the shipped ones: a project's settings
say which model and sizes the engine has.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SUITES = Path(__file__).parents[2] / "suites"
TRIES = 3
"""Of a run that others on the machine disturbed, and that says so: it is wrong about nothing, and undecided."""
PASSED, UNDECIDED = {"unchanged", "improved"}, {"inconclusive", "void"}
TESTS = "test_throughput or test_each_token"
"""What is judged of each suite: tokens a second, and the time from token to token."""


class WholeGate:
    """A project with some of the suites, and an engine as a command line names it."""

    def __init__(self, folder: Path, engine: str, sweeps: Mapping[str, str]) -> None:
        """`sweeps` are the suites by the name of the sweep that is set, each with what the settings say of it."""
        self._folder, self._engine = folder, engine
        self._runs = 0
        self.said = ""
        """By the last run."""
        set_of = "\n".join(f"sweep.{name} = {{ {said} }}" for name, said in sweeps.items())
        (folder / "pyproject.toml").write_text(
            '[tool.slmperf]\ntolerance = "supported"\nvoid_retries = 20\ntraffic_s = 1.0\n\n'
            f"[[tool.slmperf.machine]]\nwhen = {{}}\n{set_of}\n",
            encoding="utf-8",
        )
        for name in sweeps:
            suite = SUITES / f"test_{name}.py"
            (folder / suite.name).write_text(suite.read_text(encoding="utf-8"), encoding="utf-8")

    def record(self) -> None:
        """Store a baseline, with the tolerance that the engine's noise supports."""
        for _ in range(TRIES):
            code, _ = self._run("--slmperf-accept")
            if not code:
                return
        raise AssertionError(self.said)

    def judged(self, *, loss: float = 0.0) -> dict[str, int]:
        """How many verdicts of each kind there are in a run that decides all. None before it may be wrong: without a
        loss nothing is `regressed`, and with one nothing passes.
        """
        wrong = PASSED if loss else {"regressed"}
        for _ in range(TRIES):
            code, counts = self._run(*([f"--slmperf-engine={self._engine},slowed={loss}"] if loss else []))
            assert not wrong & counts.keys(), self.said
            assert code == int(not counts.keys() <= PASSED), self.said
            if not UNDECIDED & counts.keys():
                break
        return counts

    def _run(self, *options: str) -> tuple[int, dict[str, int]]:
        self._runs += 1
        log, report = (self._folder / f"{self._runs}.{kind}" for kind in ("log", "json"))
        command = [sys.executable, "-m", "pytest", "--slmperf", f"--slmperf-engine={self._engine}", "-k", TESTS]
        # Under tox, pytest's cache would be tox's.
        outside = {name: value for name, value in os.environ.items() if name != "TOX_ENV_DIR"}
        with log.open("w") as to:
            done = subprocess.run(
                [*command, "-p", "no:randomly", f"--slmperf-report={report}", *options],
                cwd=self._folder,
                env=outside,
                stdout=to,
                stderr=subprocess.STDOUT,
                check=False,
            )
        self.said = log.read_text(encoding="utf-8")
        assert report.exists(), self.said
        return done.returncode, json.loads(report.read_text(encoding="utf-8"))["counts"]
