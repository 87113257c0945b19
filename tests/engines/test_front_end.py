"""Who is a server's front end, and how much of a core it takes: by a /proc made of files, and by this machine's own."""

import socket
import sys
import time

import pytest

from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.engines.front_end import TICK_NS, FrontEnd, found, sockets_at
from pytest_slmperf.engines.server import Server, free_port, taken

PORT = 8000
LISTENING, ACCEPTED, OTHER = 11, 12, 13
"""Sockets' inodes."""
ROWS = (
    (f"0100007F:{PORT:04X}", "00000000:0000", "0A", LISTENING),
    (f"0100007F:{PORT:04X}", "0100007F:C001", "01", ACCEPTED),
    ("0100007F:C001", f"0100007F:{PORT:04X}", "01", 21),  # the client's end of it
    (f"0100007F:{PORT:04X}", "0100007F:C002", "06", 0),  # ended, and nobody's
    ("0100007F:1F91", "00000000:0000", "0A", OTHER),
)
API, ENGINE, TRACKER, SHELL = 40, 41, 42, 39


class Proc:
    """A /proc of files, whose time goes on as it is told to."""

    def __init__(self, folder):
        self.path = folder
        self.now_ns = 0
        (folder / "net").mkdir()
        rows = ["  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"]
        rows += [
            f"   {n}: {local} {remote} {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 0000 100"
            for n, (local, remote, state, inode) in enumerate(ROWS)
        ]
        (folder / "net" / "tcp").write_text("\n".join(rows) + "\n")

    def process(self, pid, *, sockets=(), children=(), threads=()):
        """One with these sockets open, and these threads beside its main one."""
        task = self.path / str(pid) / "task"
        for thread in (pid, *threads):
            (task / str(thread)).mkdir(parents=True)
            (task / str(thread) / "children").write_text(" ".join(map(str, children if thread == pid else ())))
        (self.path / str(pid) / "fd").mkdir()
        for number, inode in enumerate(sockets):
            (self.path / str(pid) / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
        self.works(pid, dict.fromkeys((pid, *threads), 0.0))

    def works(self, pid, threads_s):
        """Its threads have worked for so long by now."""
        for thread, seconds in threads_s.items():
            schedstat = self.path / str(pid) / "task" / str(thread) / "schedstat"
            schedstat.write_text(f"{int(seconds * NS_PER_S)} 5 7\n")
        ticks = int(sum(threads_s.values()) * NS_PER_S / TICK_NS)
        (self.path / str(pid) / "stat").write_text(f"{pid} (a name) S 1 {pid} 0 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1\n")

    def front_end(self):
        return FrontEnd(PORT, proc=self.path, now_ns=lambda: self.now_ns)


@pytest.fixture
def proc(tmp_path):
    return Proc(tmp_path)


@pytest.fixture
def served(proc):
    """A server such as vLLM's: who takes the requests has started the engine, and what Python leaves beside both."""
    proc.process(SHELL, children=[API])
    proc.process(API, sockets=[OTHER, LISTENING, ACCEPTED], children=[ENGINE, TRACKER], threads=[50])
    proc.process(ENGINE, threads=[51, 52])
    proc.process(TRACKER)
    return proc


def test_sockets_of_a_port_are_told_apart(served):
    """Those that listen, and the server's ends of connections; neither a client's end nor one that has ended."""
    assert sockets_at(PORT, served.path) == ({f"socket:[{LISTENING}]"}, {f"socket:[{ACCEPTED}]"})
    assert sockets_at(9, served.path) == (set(), set())


def test_who_has_accepted_a_connection_is_the_front_end(served):
    """What it has started is behind it; who started it is no part of the server."""
    assert found(PORT, proc=served.path) == ({API}, {ENGINE, TRACKER})


def test_of_a_server_whose_processes_are_known_all_others_are_behind_it(served):
    """As of a launcher that starts its front end and its engine beside each other; nobody else is looked at."""
    served.process(45)
    assert found(PORT, [API, TRACKER, 45], proc=served.path) == ({API}, {TRACKER, 45})
    assert found(PORT, [TRACKER, 45], proc=served.path)[0] == set()


def test_of_several_that_listen_those_with_a_connection_are_looked_at(proc):
    """A parent that hands its socket on to each of its front ends, with the engine beside them."""
    proc.process(API, sockets=[LISTENING], children=[ENGINE, 43, 44])
    proc.process(43, sockets=[LISTENING, ACCEPTED])
    proc.process(44, sockets=[LISTENING])
    proc.process(ENGINE)
    assert found(PORT, proc=proc.path) == ({43}, {ENGINE})


def test_without_an_open_connection_all_that_listen_are(proc):
    """As of a server that closes each after its answer."""
    proc.process(API, sockets=[LISTENING], children=[ENGINE])
    proc.process(ENGINE)
    assert found(PORT, proc=proc.path) == ({API}, {ENGINE})


def test_its_busiest_thread_counts_from_look_to_look(served):
    """A thread has one core, whatever the others of its process took."""
    look = served.front_end()
    assert look.share() is None  # nothing to compare with yet
    shares = []
    for second, (main, helper) in enumerate([(0.98, 0.3), (1.1, 1.05)], 1):
        served.now_ns = second * NS_PER_S
        served.works(API, {API: main, 50: helper})
        served.works(ENGINE, {ENGINE: 0.9 * second, 51: 0.0, 52: 0.0})
        shares.append(look.share())
    assert shares == pytest.approx([0.98, 0.75])


def test_a_server_that_is_one_process_is_never_accused(proc):
    """Its engine is in it, and may take all of its threads: so is what rests beside it no engine."""
    proc.process(API, sockets=[LISTENING, ACCEPTED], children=[TRACKER], threads=[50])
    proc.process(TRACKER)
    look = proc.front_end()
    look.share()
    proc.now_ns = NS_PER_S
    proc.works(API, {API: 1.0, 50: 1.0})
    assert look.share() is None


def test_workers_that_each_have_an_engine_are_never_accused(proc):
    """They share a socket, and nothing else of the server works."""
    proc.process(SHELL, sockets=[LISTENING], children=[API, ENGINE])
    proc.process(API, sockets=[LISTENING, ACCEPTED])
    proc.process(ENGINE, sockets=[LISTENING])
    look = proc.front_end()
    look.share()
    proc.now_ns = NS_PER_S
    proc.works(API, {API: 1.0})
    proc.works(ENGINE, {ENGINE: 1.0})
    assert look.share() is None


def test_nothing_is_said_where_nobody_listens_or_all_has_ended(served, tmp_path):
    """Another user's server, one in a container, one that died."""
    assert FrontEnd(9, proc=tmp_path).share() is None
    look = served.front_end()
    look.share()
    served.now_ns = NS_PER_S
    for pid in (API, ENGINE):
        (tmp_path / str(pid)).rename(tmp_path / f"gone{pid}")
    assert look.share() is None


SERVER = """
import socket, subprocess, sys
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
engine = subprocess.Popen([sys.executable, "-c", "while True: pass"])
taken = [listening.accept() for _ in range(2)]
while True: pass
"""


def test_a_front_end_of_this_machine_is_seen():
    """A process with a connection that computes, and another one behind it."""
    port = free_port()
    server = Server([sys.executable, "-c", SERVER, str(port)], name="a server")
    server.start()
    try:
        server.wait_until_ready(lambda: None if taken("127.0.0.1", port) else "nobody listens", 30)
        with socket.create_connection(("127.0.0.1", port)):
            look = FrontEnd(port)
            assert look.share() is None
            share, until_s = None, time.monotonic() + 30
            while share is None and time.monotonic() < until_s:
                time.sleep(0.1)
                share = look.share()
        assert share is not None
        assert 0 < share < 1.1
    finally:
        server.stop()
