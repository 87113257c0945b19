"""How a process ended, in words."""

import signal
from collections.abc import Mapping

LIGHTER = "a smaller batch or a lower rate"
"""What takes less memory, of a load that nobody names."""
_SIGNALS = {member.value: member.name for member in signal.Signals}
_HINTS: Mapping[int, str] = {
    signal.SIGKILL: "; often that is the kernel's out-of-memory killer (see dmesg): try {lighter}",
    signal.SIGILL: "; the engine was built for another CPU",
}


def how_it_ended(code: int, lighter: str = LIGHTER) -> str:
    """Of an exit code as `subprocess` gives it, negative for a signal: `exit code 3`, `signal SIGSEGV`, with what often
    is the cause of some. `lighter` is a load that would take less memory.
    """
    if code >= 0:
        return f"exit code {code}"
    return f"signal {_SIGNALS.get(-code, -code)}{_HINTS.get(-code, '').format(lighter=lighter)}"
