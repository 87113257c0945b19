"""A server of the OpenAI API with ways of its own: texts only, a template around them, and no say in the length."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "peculiar"
AFTER_AN_ANSWER_S = 0.002
"""After which the connection may end: the next request is on its way by then."""


@contextmanager
def peculiar(
    *, tokens_per_word: float, tokens_besides: int, natural_tokens: int, breaks_off: bool = False, scores: bool = False
) -> Iterator[str]:
    """Serve until the end of the block; gives the API's address.

    With `scores`, it tells them where it is asked to. One that `breaks_off` closes the connection a moment after each
    answer and doesn't say so, as llama.cpp's does.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version, sys_version = ("peculiar", "llama.cpp")[breaks_off], ""

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            listed = {"object": "list", "data": [{"id": MODEL, "owned_by": "library"}]}
            known = {"/v1/models": listed, "/api/version": {"version": "0.6"}}
            self.answer(200 if self.path in known else 404, known.get(self.path, {"error": "page not found"}))

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not isinstance(asked["prompt"], str):
                self.answer(400, {"error": {"message": "prompt: a text"}})
            elif "ignore_eos" in asked:
                self.answer(400, {"error": {"message": "unknown field ignore_eos"}})
            else:
                self.stream(asked)

        def stream(self, asked: dict[str, object]) -> None:
            tokens = min(natural_tokens, int(str(asked["max_tokens"])))
            prompt = tokens_besides + round(tokens_per_word * len(str(asked["prompt"]).split()))
            score = {"tokens": [" x"], "token_logprobs": [-0.5]}
            told = [{"logprobs": score}] * (scores and "logprobs" in asked)
            choice = {"text": " x", "finish_reason": None} | dict(*told)
            events = [{"model": MODEL, "choices": [choice]}] * tokens
            events.append({"model": MODEL, "choices": [{"text": "", "finish_reason": "stop"}]})
            usage = {"prompt_tokens": prompt, "completion_tokens": tokens}
            events.append({"model": MODEL, "choices": [], "usage": usage})
            body = b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in events)
            self.send(200, "text/event-stream", body + b"data: [DONE]\r\n\r\n")
            time.sleep(AFTER_AN_ANSWER_S)
            self.close_connection |= breaks_off

        def answer(self, status: int, body: object) -> None:
            self.send(status, "application/json", json.dumps(body).encode())

        def send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:  # as the client asked
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            serving.join()
