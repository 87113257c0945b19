"""A server that an engine starts: readiness, its log, its end, and all that can go wrong before."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable
from pytest_slmperf.engines.address import device_of_url, is_local
from pytest_slmperf.engines.server import (
    Server,
    command_of,
    free_port,
    hidden,
    taken,
)

SERVES = """
import socket, sys, time
print("loading", flush=True)
listening = socket.create_server(("127.0.0.1", {port}))
print("ready", flush=True)
time.sleep(60)
"""
WITH_CHILD = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
)


@pytest.fixture
def started():
    """Starts a server of this Python code; it is stopped at the end."""
    servers = []

    def start(code, **how):
        server = Server([sys.executable, "-c", code], name="the server", **how)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


def listens(port):
    return lambda: None if taken("127.0.0.1", port) else "nobody listens"


def printed(server, what):
    """Wait until it has printed that, and return all that it printed."""
    server.wait_until_ready(lambda: None if what in server.log() else "silent", 20)
    return server.log()


def gone(pid):
    deadline = time.monotonic() + 10
    while (
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    ):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_server_is_waited_for_and_ended(started):
    """It is ready once it answers, and nothing listens any more after it was stopped."""
    port = free_port()
    server = started(SERVES.format(port=port))
    server.wait_until_ready(listens(port), 20)
    pid = server.pid
    server.stop()
    assert gone(pid)
    assert not taken("127.0.0.1", port)


def test_what_it_started_ends_with_it(started):
    """All of its process group is ended, not only the process that was started."""
    server = started(WITH_CHILD)
    child = int(printed(server, "\n"))
    server.stop()
    assert gone(child)


def test_one_that_ignores_the_end_is_killed(started):
    """SIGTERM is not all that it gets."""
    server = started(STUBBORN, term_limit_s=0.2)
    printed(server, "deaf")
    pid = server.pid
    server.stop()
    assert gone(pid)


def test_its_memory_is_waited_for(started):
    """A device gives memory back after the processes that had it have ended."""
    server = started("import time; time.sleep(60)")
    answers = iter([False, False, True])
    server.stop(released=lambda: next(answers))
    assert next(answers, "asked until it was true") == "asked until it was true"


def test_a_command_that_is_not_there():
    """The message names it."""
    with pytest.raises(EngineUnavailable, match=r"mine: /nowhere/vllm cannot be started \(No such file"):
        Server(["/nowhere/vllm"], name="mine").start()


def test_one_that_ends_before_it_is_ready_shows_its_log(started):
    """The last lines say what went wrong."""
    server = started("import sys; print('loading', flush=True); sys.exit('no such model')")
    with pytest.raises(EngineFailed, match=r"(?s)ended before it was ready \(exit code 1\).*loading.*no such model"):
        server.wait_until_ready(lambda: "nobody listens", 20)


@pytest.mark.parametrize(
    "line",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
        "std::bad_alloc",
    ],
)
def test_memory_that_runs_out_at_the_start_is_said_to_be_memory(started, line):
    """By what torch, vLLM and C++ print."""
    server = started(f"import sys; sys.exit({line!r})")
    with pytest.raises(MemoryError, match="ended before it was ready"):
        server.wait_until_ready(lambda: "nobody listens", 20)


def test_one_killed_at_the_start(started):
    """The signal is named."""
    server = started("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(EngineFailed, match=r"ended before it was ready \(signal SIGKILL; often"):
        server.wait_until_ready(lambda: "nobody listens", 20)


def test_one_that_is_never_ready(started):
    """The limit, and what it answered last, are named."""
    server = started("import time; print('loading', flush=True); time.sleep(60)")
    printed(server, "loading")
    with pytest.raises(EngineFailed, match=r"(?s)not ready within 0.2 s \(HTTP 503\).*start_limit_s.*loading"):
        server.wait_until_ready(lambda: "HTTP 503", 0.2)


def test_a_port_in_use(started):
    """The server that finds its port taken is not mistaken for the one that answers there."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = started(SERVES.format(port=port))
        with pytest.raises(
            EngineFailed, match="its port is in use, maybe by a server that an earlier crash left behind"
        ):
            server.wait_until_ready(lambda: "HTTP 404", 20)


def test_one_that_dies_later(started):
    """How it died is said, and its last lines are there."""
    server = started("print('bye', flush=True); import time; time.sleep(60)")
    printed(server, "bye")
    os.kill(server.pid, signal.SIGSEGV)
    deadline = time.monotonic() + 10
    while server.ended() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(EngineFailed, match=r"(?s)the server died: signal SIGSEGV.*bye"):
        server.check()


def test_a_log_is_kept_where_it_is_asked_for(started, tmp_path):
    """After what is there already, and only this server's part is shown."""
    log = tmp_path / "server.log"
    log.write_text("an earlier one\n")
    server = started("print('hello', flush=True); import time; time.sleep(60)", log=log)
    assert printed(server, "hello") == "hello\n"
    server.stop()
    assert log.read_text() == "an earlier one\nhello\n"


def test_a_log_that_cannot_be_written(tmp_path):
    """The message names it."""
    with pytest.raises(EngineUnavailable, match=r"log .*nowhere/server.log can't be written"):
        Server(["true"], name="mine", log=tmp_path / "nowhere" / "server.log").start()


def test_a_secret_is_not_repeated(started):
    """vLLM prints its arguments, the key among them."""
    key = "sk-123"
    server = started(f"print('args: api_key={key}', flush=True); import time; time.sleep(60)", secret=key)
    assert printed(server, "args") == "args: api_key=***\n"
    assert hidden(key, "") == key


def test_values_are_filled_into_a_command():
    """Each stays one word, and other braces are left alone."""
    words = command_of(
        "vllm serve {model} --port {port} --json '{\"a\": 1}'", {"model": "/models/my model", "port": "8001"}
    )
    assert words == ["vllm", "serve", "/models/my model", "--port", "8001", "--json", '{"a": 1}']


@pytest.mark.parametrize("template", ["", "  ", "vllm 'serve"])
def test_a_command_that_is_none(template):
    """An unclosed quote, or nothing."""
    with pytest.raises(EngineUnavailable, match="command"):
        command_of(template, {})


def test_ports():
    """A free one is free, and one that somebody listens on is taken."""
    port = free_port()
    assert not taken("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)):
        assert taken("127.0.0.1", port)


@pytest.mark.parametrize(
    ("url", "device"),
    [
        ("http://127.0.0.1:8000/v1", None),
        ("http://localhost:8000/v1", None),
        ("http://[::1]:8000/v1", None),
        ("http://0.0.0.0:8000/v1", None),
        ("http://10.0.0.7:8000/v1", "remote:10.0.0.7:8000"),
        ("https://llm.example.org/v1", "remote:llm.example.org:443"),
        ("http://llm.example.org/v1", "remote:llm.example.org:80"),
        ("http://llm.example.org:port/v1", "remote:llm.example.org"),
    ],
)
def test_where_a_url_leads(url, device):
    """Another machine is called by its address, which a baseline then holds for."""
    assert device_of_url(url) == device


def test_names_of_this_machine():
    """Whatever the loopback's addresses look like."""
    assert is_local("LOCALHOST")
    assert is_local("127.1.2.3")
    assert not is_local("example.org")
