"""Puts the stand-in for NVIDIA's MPS on a PATH, and makes clients of it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).with_name("control.py")
PROGRAMS = ("nvidia-cuda-mps-control", "nvidia-cuda-mps-server")
CLIENT = """
import os, socket, sys
talk = socket.socket(socket.AF_UNIX)
try:
    talk.connect(os.environ["CUDA_MPS_PIPE_DIRECTORY"] + "/control")
    talk.sendall(b"attach")
    talk.recv(100)
except OSError:
    pass  # as CUDA does, it goes on without MPS
print(os.getpid(), flush=True)
sys.stdin.read()
"""
OUTSIDER = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"


def install(folder: Path) -> str:
    """Write the programs into this folder. Returns a PATH that begins with it."""
    for name in PROGRAMS:
        # One word after the interpreter is all that the kernel passes on; by `env` the process had another name.
        (folder / name).write_text(f"#!{sys.executable} -IS\n{SOURCE.read_text()}")
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"


@contextmanager
def process(program: str, environment: Mapping[str, str], *, below: bool = False) -> Iterator[tuple[int, int]]:
    """A process that runs this until the end. Gives its id and that of the one that uses CUDA: the same, or with
    `below` one that it has started, as a server does with its engine.
    """
    command = [sys.executable, "-IS", "-c", program]
    if below:
        command = [shutil.which("sh") or "sh", "-c", '"$@"; true', "sh", *command]
    started = {**os.environ, **environment}
    with subprocess.Popen(command, env=started, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin
        assert running.stdout
        try:
            yield running.pid, int(running.stdout.readline())
        finally:
            running.stdin.close()
