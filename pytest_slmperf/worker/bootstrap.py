"""The first thing that runs in an engine's process, started by its path with any Python interpreter.

    python bootstrap.py PACKAGE_DIR READ_FD WRITE_FD CORES

What is started stays behind as the guard, and the engine's process is its child: so nothing that the engine starts can
leave it, and all of that ends when the engine ends or the launch is gone. Where the guard itself is killed by SIGKILL,
the kernel ends the engine and the launch what the engine had started; where the launch is killed in the same moment,
nobody is left who could, and that lives on.

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
from contextlib import suppress

OLDEST = (3, 11)
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def guard(engine: int, read_fd: int) -> None:
    """Wait until the engine's process has ended, the launch is gone or asks for the end. Then end all, and this too.

    It ends as the engine did: with the same exit code, or by the same signal. Sleeps until one of these happens, so
    that it takes nothing of a round. Nobody but the launch holds the other end of the pipe, so its end is seen there,
    without reading what the engine is to read.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGCHLD, *ENDING):
        signal.signal(number, lambda *_: None)  # heard by its byte in the pipe
    heard = select.poll()
    heard.register(read_fd, 0)  # the hang-up alone
    heard.register(woken, select.POLLIN)
    status = reap(engine)
    while status is None:
        if any(descriptor == read_fd for descriptor, _ in heard.poll()) or ENDING & set(os.read(woken, 1024)):
            break
        status = reap(engine)
    end_all()
    end_as(status)


def reap(engine: int) -> "int | None":
    """Take note of every child that has ended. Returns the engine's status, if it was among them."""
    found = None
    with suppress(ChildProcessError):
        child, status = os.waitpid(-1, os.WNOHANG)
        while child:
            found = status if child == engine else found
            child, status = os.waitpid(-1, os.WNOHANG)
    return found


def end_all() -> None:
    """Kill every process that descends from this one: who loses its parent becomes a child of this one."""
    with suppress(ChildProcessError):  # so the kernel says that none is left
        os.waitpid(-1, os.WNOHANG)
        while any(list(map(kill, children()))):  # each of them, and not only the first
            os.waitpid(-1, 0)


def children() -> "list[int]":
    """Ids of this process's children, those included that have ended and were not reaped."""
    found = []
    with suppress(OSError):  # without a /proc the kernel still ends the engine
        ours = ids("self")
        for entry in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208 - a quarter of the time of a Path
            with suppress(OSError), open("/proc/" + entry + "/stat", "rb") as file:  # noqa: PTH123
                parent = file.read().rpartition(b")")[2].split()[1]
                if int(parent) == ours[0]:
                    found.append(ids(entry)[len(ours) - 1])
    return found


def ids(entry: str) -> "list[int]":
    """What a process of /proc is called in the PID namespace that /proc shows, and in each below it that it is in.

    `unshare --pid` leaves the outer /proc in place, whose numbers stand for others here. Raises OSError.
    """
    with open("/proc/" + entry + "/status", "rb") as file:  # noqa: PTH123
        status = dict(line.split(b":", 1) for line in file)
    return [int(number) for number in status.get(b"NSpid", status[b"Pid"]).split()]  # a kernel without namespaces


def kill(process: int) -> bool:
    """Kill a process. Returns whether that was possible: one that has become another user's is left."""
    try:
        os.kill(process, signal.SIGKILL)
    except OSError:
        return False
    return True


def end_as(status: "int | None") -> None:
    """End as the process with this wait status did."""
    if status is not None and os.WIFSIGNALED(status):
        prctl(PR_SET_DUMPABLE, 0)  # one core dump is enough
        with suppress(OSError):  # SIGKILL has no other action
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(1 if status is None else os.WEXITSTATUS(status))


def die_with(parent: int) -> None:
    """Be killed when this process's parent ends, however it ends: a batch reads no pipe."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os._exit(1)


def prctl(option: int, value: int) -> None:
    """Set something of this process that only Linux has."""
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


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


def main(package_dir: str, read_fd: str, write_fd: str, cores: str) -> None:
    """Leave a guard behind, go to the engine's cores, then hand over to the worker."""
    if sys.version_info < OLDEST:
        sys.exit("pytest-slmperf needs Python {}.{} or newer".format(*OLDEST))
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    parent = os.getpid()
    engine = os.fork()
    if engine:
        os.close(int(write_fd))  # or the launch would never see that the engine has died
        guard(engine, int(read_fd))
    die_with(parent)
    os.setsid()  # what concerns the engine's group is none of the guard's
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    for inherited in (read_fd, write_fd):  # an engine's own children must not keep the pipe open
        os.set_inheritable(int(inherited), False)  # noqa: FBT003 - the only way to call it
    sys.path.pop(0)  # this file's folder, which nobody wants to import from
    register(package_dir)
    from pytest_slmperf.worker.conversation import converse  # noqa: PLC0415 - importable only now

    converse(int(read_fd), int(write_fd))


if __name__ == "__main__":
    main(*sys.argv[1:])
