"""An engine's process, as the launch sees it: started, asked, and dead at the end."""

import fcntl
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

from pytest_slmperf import worker
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineDied, EngineFailed, EngineHung, EngineUnavailable, LaunchError
from pytest_slmperf.core.launch import LAUNCH_VARIABLE
from pytest_slmperf.core.protocol import BadMessage, Failed, Hello, Message, OtherVersion, Stop, decode, encode
from pytest_slmperf.engines.ending import LIGHTER, how_it_ended
from pytest_slmperf.pool import mps
from pytest_slmperf.worker.bootstrap import ids

BOOTSTRAP = Path(worker.__file__).with_name("bootstrap.py")
PACKAGE = BOOTSTRAP.parent.parent
FAMILY_VARIABLE = "SLMPERF_FAMILY"
"""Has another value in each engine's environment, and so in that of all that the engine starts."""
HELLO_LIMIT_S = 60.0
"""An interpreter that has not said hello by then is none of ours, whatever the policy allows an engine."""
STOP_LIMIT_S = 5.0
END_LIMIT_S = 10.0
"""So long the guard may take to end what the engine has started; a driver may hold a process on a GPU for seconds."""
OUTPUT_LIMIT = 1 << 20
"""Bytes of output that are kept on disk; of more, the last part is."""
OUTPUT_KEPT = 1 << 16
LAST_LINES = 15
CHUNK = 1 << 20
LONGEST_LINE = 1 << 28
WATCH_OUTPUT_EVERY_S = 1.0

M = TypeVar("M", bound=Message)


class EngineProcess:
    """One engine's process and its guard, which ends as the engine does; see worker/bootstrap.py.

    Whatever happens, the engine is dead after it, and all that it has started. Only where the guard was killed by
    SIGKILL does a process live on that has left the engine and wiped out its own environment, or become another
    user's. Raises EngineUnavailable where the interpreter cannot be started.
    """

    def __init__(self, spec: EngineSpec, *, launch: str, cores: tuple[int, ...] | None) -> None:
        self._spec = spec
        self._python = spec.python or sys.executable
        self._launch = launch
        self._cores = cores or ()
        self._family = os.urandom(8).hex()
        self._received = bytearray()
        self.pid = 0
        """The engine's own process, known from its hello on."""
        self.root = 0
        """The guard's process: all that the engine starts descends from it."""
        self.doing = "starting"
        """What it was asked to do, for messages: `serving decode/opt-125m/batch=64, round 3 of 4`."""

    def __enter__(self) -> Self:
        read_end, theirs_to_write = os.pipe()
        theirs_to_read, write_end = os.pipe()
        self._from, self._to = read_end, write_end
        os.set_blocking(write_end, False)  # a stopped engine reads nothing, and must not stop us
        self._output: IO[bytes] = tempfile.TemporaryFile(prefix="slmperf-", buffering=0)
        self._guard: subprocess.Popen[bytes] | None = None
        self._pidfd: int | None = None
        try:
            self._spawn(theirs_to_read, theirs_to_write)
        except BaseException:
            self._end()
            raise
        finally:
            os.close(theirs_to_read)
            os.close(theirs_to_write)
        return self

    def _spawn(self, read_fd: int, write_fd: int) -> None:
        output = self._output.fileno()
        # Appending, it may be cut short here while it grows there.
        fcntl.fcntl(output, fcntl.F_SETFL, fcntl.fcntl(output, fcntl.F_GETFL) | os.O_APPEND)
        cores = ",".join(map(str, self._cores))
        command = [self._python, str(BOOTSTRAP), str(PACKAGE), str(read_fd), str(write_fd), cores]
        self.started_ns = time.monotonic_ns()
        try:
            self._guard = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=(read_fd, write_fd),
                env={**_environment(self._spec, self._launch), FAMILY_VARIABLE: self._family},
                start_new_session=True,
            )
        except OSError as error:
            raise EngineUnavailable(
                f"{self._who}: {self._python} cannot be started ({error.strerror}); "
                "name a Python interpreter, 3.11 or newer"
            ) from error
        self.root = self._guard.pid
        with suppress(OSError):  # a kernel without it: then the end of the pipe says when the engine has ended
            self._pidfd = os.pidfd_open(self._guard.pid)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._stop()
        finally:
            self._end()

    def hello(self, limit_s: float) -> Hello:
        """Wait for the interpreter. Raises EngineUnavailable unless it is one that can run the worker."""
        try:
            hello = self._answer(Hello, min(limit_s, HELLO_LIMIT_S))
        except (EngineDied, EngineHung) as error:
            raise EngineUnavailable(
                f"{self._who}: {self._python} does not run our worker; it must be a Python interpreter, 3.11 or newer\n"
                f"{error}"
            ) from error
        self.pid = hello.pid
        return hello

    def ask(self, message: Message, answer: type[M], limit_s: float) -> M:
        """Send the message and wait for its answer.

        Raises EngineHung after `limit_s`, EngineDied if the process ends, EngineFailed or EngineUnavailable if that is
        the answer, or if the answer is none.
        """
        rest = memoryview(encode(message))
        room = select.poll()
        room.register(self._to, select.POLLOUT)
        deadline = time.monotonic() + limit_s
        with suppress(BrokenPipeError):  # it has ended; how, and what it said before, is found by waiting for an answer
            while rest:
                if not room.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    raise self._hung(limit_s)
                rest = rest[os.write(self._to, rest) :]
        return self._answer(answer, limit_s)

    def _answer(self, expected: type[M], limit_s: float) -> M:
        line = self._line(limit_s)
        self._bound_output()
        try:
            message = decode(line)
        except OtherVersion as error:
            raise EngineFailed(
                f"{self._who} speaks {error}; the package was changed while it ran, so run again"
            ) from error
        except BadMessage as error:
            raise EngineFailed(
                f"{self._who} broke the protocol while {self.doing}: {error}; something in its process writes into "
                f"descriptors that it did not open{self._last_words()}"
            ) from error
        if isinstance(message, Failed):
            raise self._failure(message)
        if not isinstance(message, expected):
            raise EngineFailed(
                f"{self._who} broke the protocol while {self.doing}: "
                f"{type(message).__name__} where {expected.__name__} belongs"
            )
        return message

    def _line(self, limit_s: float) -> bytes:
        """The next line, without busy waiting, and without missing a signal."""
        deadline = time.monotonic() + limit_s
        events = select.poll()
        events.register(self._from, select.POLLIN)
        if self._pidfd is not None:
            events.register(self._pidfd, select.POLLIN)
        while (end := self._received.find(b"\n")) < 0:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._hung(limit_s)
            ready = dict(events.poll(min(left_s, WATCH_OUTPUT_EVERY_S) * 1000 + 1))
            if self._from in ready:
                chunk = os.read(self._from, CHUNK)
                if not chunk:
                    raise self._death()
                self._received += chunk
                if len(self._received) > LONGEST_LINE:
                    raise EngineFailed(f"{self._who} broke the protocol while {self.doing}: a line without an end")
            elif ready:  # it has ended, and everything it wrote is read
                raise self._death()
            else:
                self._bound_output()
        line = bytes(self._received[: end + 1])
        del self._received[: end + 1]
        return line

    def _hung(self, limit_s: float) -> EngineHung:
        return EngineHung(
            f"{self._who} gave no answer for {limit_s:g} s while {self.doing}, and was killed; "
            f"if it is only slow, raise the limit or lower the load{self._last_words()}"
        )

    def _failure(self, failed: Failed) -> LaunchError:
        match failed.cause:
            case "unavailable":
                return EngineUnavailable(f"{self._who} cannot be had here: {failed.message}")
            case "memory":
                how, way_out = "ran out of memory", f"; try {LIGHTER}, shorter prompts or a smaller dtype"
            case "answer":
                how, way_out = "answered wrongly", "; the adapter must force the output length"
            case "failed":
                how, way_out = "failed", ""
        return EngineFailed(
            f"{self._who} {how} while {self.doing}: {failed.message}{way_out}{self._last_words(failed.trace)}",
            out_of_memory=failed.cause == "memory",
        )

    def _death(self) -> LaunchError:
        how = _how_it_ended(self._ended(END_LIMIT_S))  # the pipe is closed a little before that
        return EngineDied(f"{self._who} died while {self.doing}: {how}{self._last_words()}")

    def _ended(self, limit_s: float) -> os.waitid_result | None:
        """How guard and engine ended, or None where they run on. The guard stays a zombie, and its ids its own."""
        deadline = time.monotonic() + limit_s
        while self._guard is not None and time.monotonic() < deadline:
            status = os.waitid(os.P_PID, self._guard.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if status is not None:
                return status
            time.sleep(0.002)
        return None

    @property
    def _who(self) -> str:
        elsewhere = f"; {self._spec.python}" if self._spec.python else ""
        return f"{self._spec.engine} ({self._spec.model_name}, {self._spec.dtype}{elsewhere})"

    def _last_words(self, trace: str = "") -> str:
        lines = self._tail().splitlines()[-LAST_LINES:]
        lines.extend(line for line in trace.splitlines()[-LAST_LINES:])
        return "".join(["\nits last lines:", *(f"\n    {line}" for line in lines)]) if lines else ""

    def _tail(self) -> str:
        size = os.fstat(self._output.fileno()).st_size
        kept = os.pread(self._output.fileno(), OUTPUT_KEPT, max(0, size - OUTPUT_KEPT))
        return kept.decode(errors="replace")

    def _bound_output(self) -> None:
        """Keep the last part of what it printed, where that has become much."""
        output = self._output.fileno()
        size = os.fstat(output).st_size
        if size > OUTPUT_LIMIT:
            kept = os.pread(output, OUTPUT_KEPT, size - OUTPUT_KEPT)
            os.ftruncate(output, 0)
            os.write(output, kept)

    def _stop(self) -> None:
        """Let it give back what it took. What was measured is measured, so a bad end is no error."""
        with suppress(OSError):
            os.write(self._to, encode(Stop()))
        ended = select.poll()
        ended.register(self._from if self._pidfd is None else self._pidfd, select.POLLIN)
        ended.poll(STOP_LIMIT_S * 1000)

    def _end(self) -> None:
        if self._guard is not None:
            with suppress(ProcessLookupError, ChildProcessError):  # whoever ignores SIGCHLD has nothing to wait for
                os.kill(self._guard.pid, signal.SIGTERM)  # not send_signal, which would reap it
                self._ended(END_LIMIT_S)
                os.killpg(self._guard.pid, signal.SIGKILL)  # a program that isn't Python knows nothing of guarding
            if self._guard.wait() < 0:
                _end_family(self._family)
            if self._spec.pool is not None and self._spec.pool.kind == "mps":
                mps.sweep(self.pid)  # of an engine that was killed, the folder of its daemon is left
        for descriptor in (self._from, self._to, self._pidfd):
            if descriptor is not None:
                os.close(descriptor)
        self._output.close()


def _environment(spec: EngineSpec, launch: str) -> dict[str, str]:
    """This process's environment, with what makes launches alike.

    Another environment's interpreter gets none of this one's paths: both arms would import the same engine.
    """
    threads = str(spec.threads)
    ours = ("PYTHONPATH", "PYTHONHOME") if spec.python else ()
    return {
        **{name: value for name, value in os.environ.items() if name not in ours},
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        # CUDA's own order puts the fastest board first; so its numbers are those of the driver, and of the meter.
        "CUDA_DEVICE_ORDER": os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        LAUNCH_VARIABLE: launch,
    }


def _end_family(value: str) -> None:
    """Kill all that an engine has started whose guard was killed before it could. Takes milliseconds.

    A guard that ends as an engine does that was killed isn't told from it.
    """
    variable = f"{FAMILY_VARIABLE}={value}".encode()
    deadline = time.monotonic() + END_LIMIT_S
    while sum(_kill_with(variable, entry) for entry in os.listdir("/proc") if entry.isdecimal()):  # noqa: PTH208
        if time.monotonic() > deadline:  # a driver holds it
            return
        time.sleep(0.002)  # what it has started meanwhile is found in the next turn


def _kill_with(variable: bytes, entry: str) -> bool:
    """Kill the process of /proc if it has this in its environment. Returns whether it was there to be killed."""
    environment = Path("/proc", entry, "environ")
    with suppress(OSError):
        if variable not in environment.read_bytes().split(b"\0"):
            return False
        pidfd = os.pidfd_open(ids(entry)[len(ids("self")) - 1])
        try:
            if variable in environment.read_bytes().split(b"\0"):  # still the same process
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return True
        finally:
            os.close(pidfd)
    return False


def _how_it_ended(status: os.waitid_result | None) -> str:
    if status is None:
        return "it closed its end of the pipe and runs on"
    return how_it_ended(status.si_status if status.si_code == os.CLD_EXITED else -status.si_status)
