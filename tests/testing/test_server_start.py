"""How the testing server starts, dies, starts again and ends."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from asking import ask, request

from pytest_slmperf.core.errors import EngineFailed
from pytest_slmperf.testing.server import Options, serving
from pytest_slmperf.testing.server.command import main

COMMAND = (sys.executable, "-m", "pytest_slmperf.testing.server")


def until(condition, limit_s=20.0):
    """Wait for it."""
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def health(server):
    """The status, or None where there is no connection."""
    try:
        return request(server, "/health").status
    except OSError:
        return None


def test_a_server_is_ready_only_after_a_while(serve):
    """Till then all it says is 503."""
    server = serve(ready_after_s=1.5)
    assert health(server) == request(server, "/v1/models").status == ask(server).status == 503
    until(lambda: health(server) == 200)
    assert ask(server).status == 200


def test_a_server_is_never_ready(serve):
    """However long one waits."""
    assert health(serve(never_ready=True)) == 503


def test_a_server_listens_only_after_a_while(serve):
    """Till then connections are refused, though its address is known."""
    server = serve(listens_after_s=1.5)
    assert health(server) is None
    until(lambda: health(server) == 200)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"out_of_memory": True}, "CUDA out of memory"),
        ({"refuses_model": True, "model": "odd"}, "architectures of 'odd' are not supported"),
    ],
)
def test_a_server_ends_before_it_listens(options, said):
    """With a message and exit code 1."""
    with pytest.raises(EngineFailed, match=said), serving(Options(**options)):
        raise AssertionError("it did start")


def test_a_port_is_in_use(server, capsys):
    """The second server says so, and ends with exit code 1."""
    assert main(["--port", str(server.port)]) == 1
    assert "Address already in use" in capsys.readouterr().err


def test_options_that_can_not_be_end_the_command(capsys):
    """With exit code 2 and the reason."""
    with pytest.raises(SystemExit) as ended:
        main(["--reset", "1.5"])
    assert ended.value.code == 2
    assert "a share of the requests" in capsys.readouterr().err


def test_a_server_dies_in_the_middle(serve):
    """The request after those that it lives for kills it, and those under way break off; their truth is lost."""
    server = serve(dies_after=2, step_s=0.02)
    assert ask(server, tokens=1).done
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(ask, server, tokens=200)
        until(lambda: _runs(server))
        with pytest.raises(ConnectionResetError):
            ask(server)
        assert under_way.result().error is not None
    assert server.process.wait(10) == -signal.SIGKILL
    assert [one.index for one in server.received(1)] == [1]


def test_a_server_starts_again(serve):
    """At the same address, once, with another start time; what was under way breaks off."""
    server = serve(restarts_after=1)
    before = started_at(server)
    assert ask(server).done
    with pytest.raises(ConnectionResetError):
        ask(server)
    until(lambda: health(server) == 200)
    assert started_at(server) > before
    assert all(ask(server).done for _ in range(3))


def started_at(server):
    """As /metrics tells."""
    return float(request(server, "/metrics").body.split()[-1])


def test_a_certificate_is_of_nobody_who_is_known(serve, tmp_path):
    """A client that trusts its own authorities refuses it; one that is given the authority doesn't."""
    pytest.importorskip("trustme")
    authority = tmp_path / "authority.pem"
    server = serve(tls=True, tls_authority=str(authority))
    assert server.url.startswith("https://127.0.0.1:")
    with pytest.raises(ssl.SSLCertVerificationError):
        request(server, "/health")
    trusting = ssl.create_default_context(cafile=str(authority))
    assert request(server, "/health", context=trusting).status == 200


def test_a_server_ends_in_order(serve):
    """What was under way is broken off, and the truth says so."""
    server = serve(step_s=0.05)
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(ask, server, tokens=200)
        until(lambda: _runs(server))
        server.stop()
        assert not under_way.result().done
    assert server.process.returncode == 0
    (truth,) = server.received(1)
    assert (truth.asked_tokens, truth.ended_ns) == (200, None)


def _runs(server):
    return request(server, "/metrics").body.splitlines()[1].endswith(b" 1.0")


def test_a_server_ends_in_the_middle_of_a_long_step(serve):
    """It doesn't wait for it."""
    server = serve(step_s=60)
    with pytest.raises(TimeoutError):
        request(server, "/v1/completions", {"prompt": [1]}, limit_s=0.2)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 5


def test_the_extra_is_asked_for_where_it_is_missing():
    """By the command, with exit code 1."""
    code = (
        "import sys; sys.modules['uvloop'] = None\n"
        "from pytest_slmperf.testing.server.command import main; sys.exit(main([]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "takes the extra openai" in done.stderr


def test_a_server_may_have_to_be_killed(serve):
    """SIGTERM leaves it as it was."""
    server = serve(ignores_sigterm=True)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert health(server) == 200
    server.kill()
    assert server.process.returncode == -signal.SIGKILL


def test_the_command_prints_its_address_and_stops_when_told():
    """One line, once it listens; SIGTERM ends it with exit code 0."""
    with subprocess.Popen([*COMMAND, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().strip()
        host, _, port = address.removeprefix("http://").partition(":")
        socket.create_connection((host, int(port)), timeout=10).close()
        process.terminate()
        assert process.wait(10) == 0


def test_a_server_ends_with_who_started_it(tmp_path):
    """Also where that one is killed."""
    code = (
        "import sys, time; from pytest_slmperf.testing.server import *\n"
        "with serving() as server: print(server.process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as starter:
        pid = int(starter.stdout.readline())
        starter.kill()
    until(lambda: not _lives(pid))


def _lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return ") Z " not in Path(f"/proc/{pid}/stat").read_text()


@pytest.mark.parametrize("more", [{}, {"events_per_write": 1}, {"processes": 2}])
def test_the_null_model_answers_at_once(serve, more):
    """With all that was asked for, streamed or whole."""
    server = serve(null=True, **more)
    for _ in range(3):
        answer = ask(server, tokens=5)
        assert (answer.text, answer.usage["completion_tokens"], answer.done) == (" w0 w1 w2 w3 w4", 5, True)
        assert answer.usage["prompt_tokens"] == 3
    assert ask(server, tokens=2, stream=False).json["choices"][0]["text"] == " w0 w1"
    assert ask(server, tokens=0.5).status == 400
    chat = {"messages": [{"role": "user", "content": "now"}], "max_tokens": 2, "stream": True}
    assert len(request(server, "/v1/chat/completions", chat).tokens) == 3
    assert request(server, "/health").status == 200


def test_the_processes_of_the_null_model_end_together(serve):
    """Whether the first is told to stop or is killed."""
    for end in ("stop", "kill"):
        server = serve(null=True, processes=3)
        pids = _children(server.process.pid)
        assert len(pids) == 2
        getattr(server, end)()
        until(lambda pids=pids: not any(_lives(pid) for pid in pids))


def _children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
