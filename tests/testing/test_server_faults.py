"""Each fault of the testing server, as a client sees it."""

import json
import socket
from http.client import HTTPException
from itertools import pairwise

import pytest
from asking import ask, request

from pytest_slmperf.testing.server.faults import Faults
from pytest_slmperf.testing.server.options import SHARES, Options


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ("too_many_requests", 429, "RateLimitError"),
        ("unavailable", 503, "ServiceUnavailableError"),
        ("server_error", 500, "InternalServerError"),
    ],
)
def test_a_request_is_refused(serve, fault, status, kind):
    """With the error object of the API, and a truth that says so."""
    server = serve(**{fault: 1})
    answer = ask(server)
    assert (answer.status, answer.json["error"]["type"]) == (status, kind)
    (truth,) = server.received(1)
    assert (truth.status, truth.faults, truth.chunk_ns, truth.ended_ns) == (status, (fault,), [], None)


def test_a_page_comes_instead_of_an_answer(serve):
    """As from a proxy, with status 200."""
    answer = ask(serve(html=1))
    assert (answer.status, answer.kind) == (200, "text/html; charset=utf-8")
    assert answer.body.startswith(b"<!DOCTYPE html>")


def test_no_answer_comes(serve):
    """Until the client gives up."""
    server = serve(hang=1)
    with pytest.raises(TimeoutError):
        request(server, "/v1/completions", {"prompt": [1]}, limit_s=0.3)
    assert server.received(1)[0].ended_ns is None


def test_an_answer_stalls(serve):
    """In its middle, for as long as is asked for, and goes on."""
    answer = ask(serve(stall=1, stall_s=0.4), tokens=6)
    gaps = [(after - before) / 1e9 for before, after in pairwise(answer.at_ns)]
    assert max(gaps) == gaps[2] >= 0.35
    assert len(answer.tokens) == 6


def test_a_connection_is_reset(serve):
    """In the middle of a stream; and before an answer that comes whole."""
    server = serve(reset=1)
    answer = ask(server, tokens=6)
    assert isinstance(answer.error, ConnectionResetError)
    assert len(answer.tokens) <= 3
    with pytest.raises((ConnectionResetError, HTTPException)):
        ask(server, tokens=6, stream=False)
    assert [(one.output_tokens, one.ended_ns) for one in server.received(2)] == [(3, None), (0, None)]


def test_an_event_is_cut_in_half(serve):
    """And the connection closed, before the stream's end."""
    answer = ask(serve(half_event=1), tokens=6)
    assert isinstance(answer.error, HTTPException)
    assert (len(answer.tokens), answer.done) == (3, False)


def test_a_stream_ends_in_its_middle(serve):
    """In good order as HTTP goes, so that only what is missing tells."""
    answer = ask(serve(cut=1), tokens=6)
    assert answer.error is None
    assert (len(answer.tokens), answer.usage, answer.done) == (3, None, False)


def test_an_error_comes_inside_a_stream(serve):
    """After some tokens, though the status was 200; an answer that comes whole fails."""
    server = serve(error_event=1)
    answer = ask(server, tokens=6)
    assert (answer.status, len(answer.tokens), answer.done) == (200, 3, True)
    assert answer.events[-1]["error"]["code"] == 500
    assert ask(server, tokens=6, stream=False).status == 500


def test_events_are_no_json(serve):
    """None of them, nor an answer that comes whole."""
    server = serve(broken_json=1)
    assert {type(event) for event in ask(server, stream_options=None).events} == {str}
    with pytest.raises(json.JSONDecodeError):
        _ = ask(server, stream=False).json


def test_an_answer_is_shorter_than_asked_for(serve):
    """Though a full one was forced; its usage is the truth."""
    answer = ask(serve(short=1), tokens=8)
    assert (len(answer.tokens), answer.usage["completion_tokens"]) == (4, 4)
    assert answer.tokens[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_stream_never_ends(serve):
    """Till the client goes; then the server lets go of it, and its truth says what was sent."""
    server = serve(endless=1)
    body = json.dumps({"prompt": [1], "max_tokens": 2, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head + body)
        read = b""
        while read.count(b"data: ") < 30:
            read += connection.recv(65536)
    (truth,) = server.received(1)
    assert truth.output_tokens >= 30
    assert (truth.asked_tokens, truth.ended_ns) == (2, None)
    assert request(server, "/metrics").body.splitlines()[1].endswith(b" 0.0")


def test_usage_is_wrong_or_missing(serve):
    """Streamed and whole."""
    wrong, silent = serve(wrong_usage=1), serve(no_usage=1)
    assert ask(wrong, tokens=6).usage["completion_tokens"] == 7
    assert ask(wrong, tokens=6, stream=False).json["usage"]["completion_tokens"] == 7
    continuous = {"include_usage": True, "continuous_usage_stats": True}
    assert not any("usage" in event for event in ask(silent, tokens=6, stream_options=continuous).events)
    assert "usage" not in ask(silent, tokens=6, stream=False).json


def test_another_model_answers(serve):
    """By the name in its answers."""
    server = serve(other_model=1)
    assert {event["model"] for event in ask(server).events} == {"another-model"}
    assert ask(server, stream=False).json["model"] == "another-model"


def test_faults_befall_a_share_or_every_nth():
    """A share is drawn with the seed, each fault's apart from the others'; a whole number counts."""
    faults = Faults(Options(reset=0.2, seed=1))
    drawn = [faults.of(index) for index in range(1, 1001)]
    assert 150 < sum("reset" in one for one in drawn) < 250
    both = Faults(Options(reset=0.2, stall=0.5, seed=1))
    assert [("reset" in both.of(index)) for index in range(1, 1001)] == ["reset" in one for one in drawn]
    counted = Faults(Options(cut=3, short=2))
    assert [counted.of(index) for index in range(1, 7)] == [
        (), ("short",), ("cut",), ("short",), (), ("cut", "short"),
    ]  # fmt: skip


def test_only_some_requests_are_hit(serve):
    """The others are served as if nothing were."""
    server = serve(cut=2)
    assert [ask(server).done for _ in range(4)] == [True, False, True, False]
    assert [one.faults for one in server.received(4)] == [(), ("cut",), (), ("cut",)]


def test_every_fault_is_an_option():
    """That is off unless asked for."""
    assert all(getattr(Options(), name) == 0 for name in SHARES)
