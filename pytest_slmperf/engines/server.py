"""A server that an engine starts for its launch: a port for it, its process, its log and its end.

The server is a child of the engine's process, so the guard that ends that one ends the server too, and all that it has
started, whatever becomes of the run (see worker/bootstrap.py).
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable
from pytest_slmperf.engines.ending import how_it_ended

ASK_EVERY_S = 0.05
"""Its start is timed, so this is how exactly that is known."""
TERM_LIMIT_S = 3.0
"""So long it may take to end by itself; the launch gives its engine five seconds, and then kills all."""
KILL_LIMIT_S = 10.0
"""A driver may hold a process on a GPU for seconds."""
RELEASE_LIMIT_S = 30.0
CONNECT_LIMIT_S = 1.0
LOG_READ = 1 << 16
LAST_LINES = 15
_NO_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|MemoryError|No available memory for the cache|can't allocate memory|bad_alloc",
    re.IGNORECASE,
)
"""What servers print when they end for want of memory: torch, vLLM, C++."""
_PORT_TAKEN = re.compile(r"address already in use|EADDRINUSE|couldn't bind", re.IGNORECASE)

Answers = Callable[[], str | None]
"""Asks a server whether it can take a request: None if so, or else what it says instead. Returns within a second."""


class Server:
    """One server's process, from its start to its end."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        secret: str = "",
        term_limit_s: float = TERM_LIMIT_S,
    ) -> None:
        """`environment` is added to this process's. What it prints goes to `log`, after what is there, or to a file
        that is gone at the end. `secret` is never repeated from it.
        """
        self._term_limit_s = term_limit_s
        self._command = list(command)
        self._name = name
        self._environment = dict(environment or {})
        self._path = log
        self._secret = secret
        self._log: IO[bytes] | None = None
        self._log_began = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return at once. Raises EngineUnavailable where the command can't be run."""
        try:
            self._log = tempfile.TemporaryFile(prefix="slmperf-") if self._path is None else self._path.open("ab+")  # noqa: SIM115 - until the end
        except OSError as error:
            raise EngineUnavailable(f"the server's log {self._path} can't be written: {error.strerror}") from error
        self._log_began = self._log.seek(0, os.SEEK_END)
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )
        except OSError as error:
            self.stop()
            raise EngineUnavailable(
                f"{self._name}: {self._command[0]} cannot be started ({error.strerror}); is it installed in the "
                "environment that the tests run in?"
            ) from error

    @property
    def pid(self) -> int:
        """Of what was started; 0 before."""
        return self._process.pid if self._process else 0

    def wait_until_ready(self, answers: Answers, limit_s: float) -> None:
        """Block until it can take a request.

        Raises EngineFailed where it ends before or takes longer than `limit_s`, with the end of its log, and
        MemoryError where that log speaks of memory.
        """
        deadline = time.monotonic() + limit_s
        while (why := answers()) is not None:
            self._check_start()
            if time.monotonic() > deadline:
                raise EngineFailed(
                    f"{self._name} was not ready within {limit_s:g} s ({why}); if it is only slow, raise "
                    f"start_limit_s{self.last_lines()}"
                )
            time.sleep(ASK_EVERY_S)
        self._check_start()  # what answered may be another server on its port, while ours found that taken

    def _check_start(self) -> None:
        how = self.ended()
        if how is None:
            return
        text = self.log()
        ended = f"{self._name} ended before it was ready ({how})"
        if _PORT_TAKEN.search(text):
            raise EngineFailed(
                f"{ended}: its port is in use, maybe by a server that an earlier crash left behind; end that one"
                f"{self.last_lines()}"
            )
        if _NO_MEMORY.search(text):
            raise MemoryError(f"{ended}{self.last_lines()}")
        raise EngineFailed(f"{ended}{self.last_lines()}")

    def check(self) -> None:
        """Raises EngineFailed, with the end of its log, if it has ended by itself."""
        how = self.ended()
        if how is not None:
            raise EngineFailed(f"{self._name} died: {how}{self.last_lines()}")

    def ended(self) -> str | None:
        """How it ended: `exit code 1`, `signal SIGKILL`; None while it runs."""
        code = self._process.poll() if self._process else None
        return None if code is None else how_it_ended(code)

    def log(self) -> str:
        """The last part of what this server printed, without the secret."""
        if self._log is None:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        begin = max(self._log_began, size - LOG_READ)
        return hidden(os.pread(self._log.fileno(), max(0, size - begin), begin).decode(errors="replace"), self._secret)

    def whole_log(self) -> str:
        """All that this server printed, without the secret."""
        if self._log is None:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        text = os.pread(self._log.fileno(), size - self._log_began, self._log_began).decode(errors="replace")
        return hidden(text, self._secret)

    def last_lines(self) -> str:
        """The last lines of its log, for the end of a message; an empty text where it printed nothing."""
        lines = [line for line in self.log().splitlines() if line.strip()][-LAST_LINES:]
        return "".join(["\nits last lines:", *(f"\n    {line}" for line in lines)]) if lines else ""

    def stop(self, *, released: Callable[[], bool] | None = None) -> None:
        """End it and all of its process group: by SIGTERM, and by SIGKILL where that takes too long.

        Waits until `released` says that its memory is back, on a device where that comes later than the end of the
        processes. What has left the group is ended with the launch, by its guard.
        """
        process, self._process = self._process, None
        if process is not None:
            _signal_group(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(self._term_limit_s)
            _signal_group(process.pid, signal.SIGKILL)  # also those whose leader has ended
            with suppress(subprocess.TimeoutExpired):
                process.wait(KILL_LIMIT_S)
            deadline = time.monotonic() + RELEASE_LIMIT_S
            while released and not released() and time.monotonic() < deadline:
                time.sleep(ASK_EVERY_S)
        if self._log is not None:
            self._log.close()
            self._log = None


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def hidden(text: str, secret: str) -> str:
    """The text without the secret."""
    return text.replace(secret, "***") if secret else text


def shown_boards(first: int, count: int) -> str:
    """CUDA_VISIBLE_DEVICES for a server on so many of the GPUs that this process may see, from this one on. Of one that
    isn't there the number, for the server to say that it lacks.
    """
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = seen.split(",") if seen else []
    return ",".join(names[place] if place < len(names) else str(place) for place in range(first, first + count))


def command_of(template: str, values: Mapping[str, str]) -> list[str]:
    """The words of a command line, with `{port}` and the like filled in.

    Split before that, so that a value with a blank stays one word. Braces around anything else are left: servers take
    JSON as arguments. Raises EngineUnavailable for what no shell would take.
    """
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise EngineUnavailable(f"command={template!r}: {error}") from error
    if not words:
        raise EngineUnavailable("command is empty")
    for name, value in values.items():
        words = [word.replace(f"{{{name}}}", value) for word in words]
    return words


def free_port() -> int:
    """A TCP port that nobody listens on. Another process may take it before its server does, so ask right before."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def taken(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    with suppress(OSError), socket.create_connection((host, port), CONNECT_LIMIT_S):
        return True
    return False
