"""Every error that this package raises on purpose, as far as others are to catch it.

SlmperfError                  anything we can explain; its message names the way out
├── UsageError                an option, a setting or a suite is wrong (pytest's exit code 4)
│   └── SuiteError            a comparison or a declaration in a suite makes no sense
├── BadSample                 values that no measurement can have (in `core.sample`)
├── Unwritable                standard output is closed, or its disk is full (in `cli.output`)
├── BaselineError             a stored file is missing, damaged, of the future, or refuses what it is given
├── DeviceBusy                another job measures on this device
├── MeterUnavailable          there is nothing here to read joules from
└── LaunchError               an engine's process did not do what it was asked
    ├── EngineUnavailable     the engine, the model or the dtype cannot be had here
    ├── EngineFailed          the engine raised, ran out of memory or answered wrongly
    ├── EngineDied            the process ended by itself or by a signal
    └── EngineHung            the process gave no answer in time

`NotJudged` stands beside the tree: a verdict raises it where nothing is to be judged (recording, `--slmperf-no-gate`),
and the plugin turns it into a skip. So do those that never leave the room that catches them: what the two ends of a
worker's pipe tell each other (`core.protocol.BadMessage`, `worker.serving.WrongAnswer`), a replacement of files that
stopped half-way (`run.replacing.HalfReplacedError`, an OSError), the red of a run's own test
(`plugin.check.RunIncomplete`, an AssertionError), and a request of many that failed (`RequestFailed`): it is counted,
and the others go on.
"""


class SlmperfError(Exception):
    """Root of the tree above."""


class UsageError(SlmperfError):
    """An option, a setting or a suite is wrong."""


class SuiteError(UsageError):
    """A comparison or a declaration in a suite makes no sense."""


class BaselineError(SlmperfError):
    """A stored file is missing, damaged, from the future, or refuses what it is given."""


class DeviceBusy(SlmperfError):
    """Another job measures on this device."""


class MeterUnavailable(SlmperfError):
    """There is nothing on this machine to read joules from, or it can't be read."""

    def __init__(self, reason: str, *, nothing_installed: bool = False) -> None:
        """`nothing_installed`: there is nothing that could read it, so nothing is broken."""
        super().__init__(reason)
        self.nothing_installed = nothing_installed


class LaunchError(SlmperfError):
    """An engine's process did not do what it was asked."""


class EngineUnavailable(LaunchError):
    """The engine, the model or the dtype cannot be had on this machine."""


class EngineFailed(LaunchError):
    """The engine raised, ran out of memory or answered wrongly."""

    def __init__(self, reason: str, *, out_of_memory: bool = False) -> None:
        """`out_of_memory`: it would be so again."""
        super().__init__(reason)
        self.out_of_memory = out_of_memory


class EngineDied(LaunchError):
    """The engine's process ended by itself or by a signal."""


class EngineHung(LaunchError):
    """The engine's process gave no answer in time."""


class NotJudged(Exception):
    """Asked for the truth of a verdict in a run that does not judge."""


class RequestFailed(Exception):
    """One request of many has no whole answer; the text says why, without what was secret in it."""

    replica = 0
    """Which replica of a pool it was sent to, counted from 1; 0 for an engine that is none."""
