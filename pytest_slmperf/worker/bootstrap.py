"""The first thing that runs in an engine's process, started by its path with any Python interpreter.

    python bootstrap.py PACKAGE_DIR READ_FD WRITE_FD PARENT_PID CORES

That interpreter's environment need not have this package installed, and must not see the rest of ours (its own
ctranslate2 is to be imported, not the one that lies beside this file), so the package is registered under its name
instead of being found on a path. Imports nothing of ours before that. Runs on interpreters that are too old for the
package, to be able to say so.
"""

import ctypes
import importlib.util
import os
import select
import signal
import sys

OLDEST = (3, 11)
PR_SET_PDEATHSIG = 1


def die_with(parent_pid: int) -> None:
    """Be killed when the thread that started this process ends, however it ends: a batch reads no pipe."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it ended before the kernel was asked
        os._exit(1)


def guard_group(read_fd: int, write_fd: int) -> int:
    """Start a process that kills this one's whole group when the launch is gone, and return its id.

    The kernel ends this process with its parent, but not what an engine has started: a server's workers, say. Nobody
    but the launch holds the other end of the pipe, so its end is seen there, without reading what others are to read.
    """
    guard = os.fork()
    if guard:
        return guard
    os.close(write_fd)  # or the launch would never see that the engine has died
    gone = select.poll()
    gone.register(read_fd, 0)  # the hang-up alone
    gone.poll()
    os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def register(package_dir: str) -> None:
    """Make `import pytest_slmperf` mean the package in this folder."""
    spec = importlib.util.spec_from_file_location(
        "pytest_slmperf", f"{package_dir}/__init__.py", submodule_search_locations=[package_dir]
    )
    if spec is None or spec.loader is None:
        sys.exit(f"{package_dir} is no package")
    module = importlib.util.module_from_spec(spec)
    sys.modules["pytest_slmperf"] = module
    spec.loader.exec_module(module)


def main(package_dir: str, read_fd: str, write_fd: str, parent_pid: str, cores: str) -> None:
    """Tie this process to its parent and its cores, then hand over to the worker."""
    die_with(int(parent_pid))
    guard = guard_group(int(read_fd), int(write_fd))
    if sys.version_info < OLDEST:
        sys.exit("pytest-slmperf needs Python {}.{} or newer".format(*OLDEST))
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    for inherited in (read_fd, write_fd):  # an engine's own children must not keep the pipe open
        os.set_inheritable(int(inherited), False)  # noqa: FBT003 - the only way to call it
    sys.path.pop(0)  # this file's folder, which nobody wants to import from
    register(package_dir)
    from pytest_slmperf.worker.conversation import converse  # noqa: PLC0415 - importable only now

    converse(int(read_fd), int(write_fd))
    os.kill(guard, signal.SIGKILL)  # nobody is left to be guarded, and a child that nobody waits for would stay
    os.waitpid(guard, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
