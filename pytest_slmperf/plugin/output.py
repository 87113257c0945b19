"""Standard output that can't be written, as on a full disk: a run goes on, says so once, and is not green."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from pytest_slmperf.run.lost_output import discard, unwritable

if TYPE_CHECKING:
    import pytest


class WatchedOutput:
    """Stands before the file that pytest's terminal writes to, from the session's start to the process' end.

    pytest takes an error there for its own, and would end before what took an hour is in a report. A reader of a pipe
    that goes away is none of these errors: it wants the run to end, and pytest does that.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.lost = False
        """Whether something that was written came to nobody."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the file has
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        """Write at once: a buffer would tell only after the run's exit code is known."""
        try:
            written = self._file.write(text)
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            self._give_up(error)
            return len(text)
        return written

    def flush(self) -> None:
        """All is written; what was in the buffer before is not lost in silence either."""
        self.write("")

    def _give_up(self, error: OSError) -> None:
        if not self.lost:
            self.lost = True
            with suppress(OSError):
                sys.stderr.write(f"slmperf: {unwritable(error)}\n")
        discard(self._file)


def watch(config: pytest.Config) -> WatchedOutput | None:
    """Put one before the terminal of this pytest; None where it has none, as on a worker of pytest-xdist."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return None
    writer = reporter._tw  # noqa: SLF001 - pytest offers no other way to the file that it writes to
    writer._file = WatchedOutput(writer._file)  # noqa: SLF001 - the same
    watched: WatchedOutput = writer._file  # noqa: SLF001 - the same
    return watched
