"""How a process ended, in words."""

import signal
from collections.abc import Mapping

_SIGNALS = {member.value: member.name for member in signal.Signals}
_HINTS: Mapping[int, str] = {
    signal.SIGKILL: "; often that is the kernel's out-of-memory killer (see dmesg): try a smaller batch",
    signal.SIGILL: "; the engine was built for another CPU",
}


def how_it_ended(code: int) -> str:
    """Of an exit code as `subprocess` gives it, negative for a signal: `exit code 3`, `signal SIGSEGV`, with what often
    is the cause of some.
    """
    if code >= 0:
        return f"exit code {code}"
    return f"signal {_SIGNALS.get(-code, -code)}{_HINTS.get(-code, '')}"
