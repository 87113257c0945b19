"""A stand-in for NVIDIA's `nvidia-cuda-mps-control` and its server: the same command line, and no GPU.

`-d` starts a daemon that leaves its parent, as the real one does; without it the lines of the standard input are asked
of the daemon of CUDA_MPS_PIPE_DIRECTORY. A process becomes a client by a connection to the socket `control`, on which
it says `attach`. With the first the daemon starts a server: the same program by another name. What MPS_STANDIN_FAULT
names goes wrong: `start` or `quit`. Runs with `python -IS`, so that it starts fast.
"""

import os
import select
import signal
import socket
import struct
import sys

PIPE = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")  # noqa: S108 - as the real one
SOCKET, PID_FILE = f"{PIPE}/control", f"{PIPE}/nvidia-cuda-mps-control.pid"
FAULT = os.environ.get("MPS_STANDIN_FAULT", "")
SERVER = "nvidia-cuda-mps-server"


def start() -> None:
    """Become a daemon, unless one runs."""
    if FAULT == "start":
        sys.exit("Cannot find any usable device")
    try:
        connection().close()
    except OSError:
        pass
    else:
        sys.exit("An instance of this daemon is already running")
    if os.path.exists(SOCKET):  # noqa: PTH110 - of one that was killed
        os.unlink(SOCKET)  # noqa: PTH108
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET)
    listener.listen()
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    with open(PID_FILE, "w") as file:  # noqa: PTH123
        file.write(str(os.getpid()))
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    with open(f"{os.environ['CUDA_MPS_LOG_DIRECTORY']}/control.log", "w") as log:  # noqa: PTH123
        log.write(f"devices {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    if FAULT == "quit":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve(listener)


def serve(listener: socket.socket) -> None:
    """Answer until somebody says `quit`."""
    clients: dict[socket.socket, int] = {}
    open_now = [listener]
    server = 0
    while True:
        for ready in select.select(open_now, [], [])[0]:
            if ready is listener:
                open_now.append(listener.accept()[0])
                continue
            words = ready.recv(4096).decode().split()
            if not words:
                open_now.remove(ready)
                clients.pop(ready, None)
                ready.close()
            elif words[0] == "attach":
                peer = ready.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
                clients[ready] = struct.unpack("3i", peer)[0]
                server = server or os.spawnv(os.P_NOWAIT, f"{os.path.dirname(sys.argv[0])}/{SERVER}", [SERVER])  # noqa: PTH120, S606
                ready.sendall(b"attached\n")
            elif words[0] == "quit" and FAULT != "quit":
                if server:
                    os.kill(server, signal.SIGTERM)
                os._exit(0)
            else:
                listed = [server] if words[0] == "get_server_list" and server else []
                if words[0] == "get_client_list":
                    listed = list(clients.values())
                ready.sendall("".join(f"{pid}\n" for pid in listed).encode() or b"\n")


def connection() -> socket.socket:
    """To the daemon. Raises OSError where there is none."""
    talk = socket.socket(socket.AF_UNIX)
    talk.connect(SOCKET)
    return talk


def ask() -> None:
    """Ask the daemon what the standard input says."""
    for line in sys.stdin:
        try:
            with connection() as talk:
                talk.sendall(line.encode())
                sys.stdout.write(talk.recv(4096).decode())
        except OSError:
            sys.exit("Cannot find MPS control daemon process")


if sys.argv[0].endswith(SERVER):
    signal.pause()
elif sys.argv[1:] == ["-d"]:
    start()
else:
    ask()
