"""A server in a process of its own, for as long as a test wants it."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_slmperf.core.errors import EngineFailed
from pytest_slmperf.testing.server import truth
from pytest_slmperf.testing.server.options import Options
from pytest_slmperf.testing.server.truth import Received

STOP_LIMIT_S = 10.0
TRUTH_LIMIT_S = 5.0
POLL_S = 0.005


@dataclass(frozen=True)
class Server:
    """A running one."""

    address: str
    """As in `http://127.0.0.1:40123`."""
    process: "subprocess.Popen[str]"
    truth_file: Path
    log_file: Path
    """What it wrote to stderr."""

    @property
    def url(self) -> str:
        """What a client's base URL is."""
        return f"{self.address}/v1"

    @property
    def port(self) -> int:
        """Of the address."""
        return int(self.address.rpartition(":")[2])

    def received(self, requests: int = 0) -> list[Received]:
        """What became of each request that has ended, in the order in which they came.

        Waits until there are so many, 5 s at most: a client may have its answer a moment before the server has written
        down that it sent it. Raises TimeoutError.
        """
        limit = time.monotonic() + TRUTH_LIMIT_S
        while len(ended := truth.read(self.truth_file)) < requests:
            if time.monotonic() > limit:
                raise TimeoutError(f"{len(ended)} of {requests} requests have ended")
            time.sleep(POLL_S)
        return ended

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Have it end in order, by force after 10 s."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def serving(options: Options | None = None) -> Iterator[Server]:
    """Start a server, and stop it at the end of the block; it ends by itself where this process dies.

    Blocks until the address is known, not until the server is ready. Raises EngineFailed, with what it wrote, where it
    ends before that.
    """
    with tempfile.TemporaryDirectory(prefix="slmperf-server-") as folder:
        given = options or Options()
        truth_file = Path(given.truth or f"{folder}/truth.jsonl")
        told = replace(given, truth=None if given.null else str(truth_file), until_stdin_closes=True)
        log = Path(folder, "log")
        command = [sys.executable, "-m", "pytest_slmperf.testing.server", *told.arguments()]
        with (
            log.open("wb") as written,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=written, text=True
            ) as process,
        ):
            if process.stdout is None:
                raise AssertionError("it was opened as a pipe")
            address = process.stdout.readline().strip()
            if not address:
                process.wait()
                raise EngineFailed(f"the testing server didn't start: {log.read_text().strip()}")
            server = Server(address, process, truth_file, log)
            try:
                yield server
            finally:
                server.stop()
