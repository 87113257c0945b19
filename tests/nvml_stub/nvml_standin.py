"""Builds the stand-in for NVIDIA's driver library, and loads it under the real pynvml.

In this process by loading it first (the dynamic linker then finds it by its name), in a child by LD_LIBRARY_PATH.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

SONAME = "libnvidia-ml.so.1"
SCENARIO = "NVML_STUB_SCENARIO"
"""Environment variable that names the scenario's file."""
SOURCES = Path(__file__).parent
NS_PER_S = 1_000_000_000
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-fvisibility=hidden")


class NoCompiler(Exception):
    """The stand-in can't be built here."""


@cache
def library() -> Path:
    """The built library, made once for each state of its sources. Raises NoCompiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not sys.platform.startswith("linux") or compiler is None:
        raise NoCompiler("the stand-in driver needs Linux and a C compiler (cc)")
    files = sorted(SOURCES.glob("*.[ch]"))
    state = hashlib.sha256(b"\0".join([" ".join((compiler, *FLAGS)).encode(), *(file.read_bytes() for file in files)]))
    ours = Path(tempfile.gettempdir()) / f"slmperf-nvml-stub-{os.getuid()}"
    ours.mkdir(mode=0o700, exist_ok=True)
    if ours.stat().st_uid != os.getuid():
        raise NoCompiler(f"{ours} belongs to somebody else, and what lies in it would be loaded")
    built = ours / state.hexdigest()[:16] / SONAME
    if not built.exists():
        built.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            made = Path(folder) / SONAME
            sources = [str(file) for file in files if file.suffix == ".c"]
            subprocess.run([compiler, *FLAGS, f"-Wl,-soname,{SONAME}", "-o", made, *sources, "-lm"], check=True)
            made.rename(built)  # at once, for tests that run side by side
    return built


class VirtualClock:
    """A clock that only moves when it is told to: eight bytes of a file, nanoseconds, shared with the driver."""

    def __init__(self, path: Path, at_ns: int = 0) -> None:
        self.path = path
        path.write_bytes(at_ns.to_bytes(8, sys.byteorder))
        self._file = path.open("r+b", buffering=0)

    def now_ns(self) -> int:
        """What time it is."""
        self._file.seek(0)
        return int.from_bytes(self._file.read(8), sys.byteorder)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.set_ns(self.now_ns() + round(seconds * NS_PER_S))

    def set_ns(self, at_ns: int) -> None:
        """Let it be this time."""
        self._file.seek(0)
        self._file.write(at_ns.to_bytes(8, sys.byteorder))

    def close(self) -> None:
        """Close the file; the driver keeps its own."""
        self._file.close()


def write_scenario(
    path: Path, statements: Iterable[str], *, clock: VirtualClock | None = None, epoch_ns: int | None = None
) -> Path:
    """A scenario's file. Its seconds count from `epoch_ns`: by default from now, on a virtual clock from 0."""
    if epoch_ns is None:
        epoch_ns = 0 if clock else time.monotonic_ns()
    head = [f"epoch {epoch_ns}", *([f"clock {clock.path}"] if clock else [])]
    path.write_text("\n".join([*head, *statements, ""]), encoding="utf-8")
    return path


def write_recording(path: Path, moves: Iterable[tuple[float, float]]) -> Path:
    """A recording that the statement `replay` knows, from the moves of a counter: when (ns), and to how many joules."""
    rows = [f"{at_ns / NS_PER_S:.9f},{joules:.3f}" for at_ns, joules in moves]
    path.write_text("\n".join(["seconds,joules", *rows, ""]), encoding="utf-8")
    return path


def environment(scenario: Path) -> Mapping[str, str]:
    """What a child process needs to find the stand-in as the driver's library, whatever it uses it with."""
    before = os.environ.get("LD_LIBRARY_PATH")
    folders = [str(library().parent), *([before] if before else [])]
    return {"LD_LIBRARY_PATH": ":".join(folders), SCENARIO: str(scenario)}


def load() -> ctypes.CDLL:
    """The library in this process, found from now on by whoever asks for the driver's. Without a scenario in the
    environment it says that no driver is loaded.
    """
    stub = ctypes.CDLL(str(library()), mode=ctypes.RTLD_GLOBAL)
    stub.nvmlstub_true_joules.restype = ctypes.c_double
    stub.nvmlstub_true_joules.argtypes = [ctypes.c_uint, ctypes.c_int64, ctypes.c_int64]
    stub.nvmlstub_say.restype = ctypes.c_char_p
    stub.nvmlstub_say.argtypes = [ctypes.c_char_p]
    stub.nvmlstub_size_of.restype = ctypes.c_size_t
    stub.nvmlstub_size_of.argtypes = [ctypes.c_char_p]
    return stub


def log_load(path: Path, load: float, *, pid: int | None = None, at_ns: int | None = None) -> None:
    """Tell the driver how busy an engine is from now on, 0 to 1: one line, appended at once."""
    line = f"{pid or os.getpid()} {time.monotonic_ns() if at_ns is None else at_ns} {load}\n"
    with path.open("ab", buffering=0) as log:
        log.write(line.encode())
