"""A plain client of the testing server, on the standard library: another one than those that it is to test."""

import http.client
import json
import ssl
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

LIMIT_S = 20


@dataclass
class Answer:
    """What came back."""

    status: int
    kind: str = ""
    body: bytes = b""
    events: list = field(default_factory=list)
    """The parsed JSON of each event; a text where it is none."""
    at_ns: list = field(default_factory=list)
    done: bool = False
    error: Exception | None = None

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def tokens(self):
        """The chunks that hold output."""
        return [event for event in self.events if isinstance(event, dict) and event.get("choices")]

    @property
    def text(self):
        return "".join(event["choices"][0]["text"] for event in self.tokens)

    @property
    def usage(self):
        return next((event["usage"] for event in self.events if event.get("choices") == []), None)


def request(server, path, body=None, *, key=None, context=None, limit_s=LIMIT_S):
    """Send a request, and read all that comes."""
    address = urlsplit(server.address)
    if address.scheme == "https":
        connection = http.client.HTTPSConnection(
            address.hostname, address.port, timeout=limit_s, context=context or ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=limit_s)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    try:
        connection.request("GET" if data is None else "POST", path, body=data, headers=headers)
        response = connection.getresponse()
        answer = Answer(response.status, response.headers.get("Content-Type", ""))
        try:
            _read(response, answer)
        except (OSError, http.client.HTTPException) as error:
            answer.error = error
        return answer
    finally:
        connection.close()


def _read(response, answer):
    if not answer.kind.startswith("text/event-stream"):
        answer.body = response.read()
        return
    rest = b""
    while read := response.read1():
        now_ns = time.monotonic_ns()
        *events, rest = (rest + read).split(b"\n\n")
        answer.done |= b"data: [DONE]" in events
        for event in events:
            if event != b"data: [DONE]":
                answer.at_ns.append(now_ns)
                answer.events.append(_parsed(event))


def _parsed(event):
    try:
        return json.loads(event.removeprefix(b"data: "))
    except ValueError:
        return event.decode()


def ask(server, *, tokens=6, prompt=(1, 2, 3), stream=True, **more):
    """A completion, streamed with its usage."""
    body = {"model": "tiny", "prompt": list(prompt), "max_tokens": tokens, "ignore_eos": True, "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    return request(server, "/v1/completions", body | more)
