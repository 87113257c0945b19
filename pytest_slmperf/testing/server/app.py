"""The server's answers over HTTP."""

import asyncio
import hmac
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from aiohttp import web

from pytest_slmperf.testing.server import api
from pytest_slmperf.testing.server.api import Asked, Refused, Writer
from pytest_slmperf.testing.server.batching import Batch, Counts, Job
from pytest_slmperf.testing.server.faults import Faults
from pytest_slmperf.testing.server.options import Options
from pytest_slmperf.testing.server.truth import Received, TruthFile

OTHER_MODEL = "another-model"
REFUSALS = {
    "too_many_requests": Refused(429, "RateLimitError", "Too many requests; try again later."),
    "unavailable": Refused(503, "ServiceUnavailableError", "The service is temporarily unavailable."),
    "server_error": Refused(500, "InternalServerError", "EngineCore encountered an issue."),
}
FAILURE = api.error_body(500, "InternalServerError", "EngineCore encountered an issue.")
PAGE = "<!DOCTYPE html><html><head><title>Welcome</title></head><body>It works!</body></html>"
RESET = struct.pack("ii", 1, 0)
"""Linger for no time: closing sends a reset."""


class Service:
    """Serves requests from one running batch."""

    def __init__(self, options: Options, restart: Callable[[], None]) -> None:
        self._options = options
        self._restart = restart
        self._batch = Batch(options)
        self._faults = Faults(options)
        self._truth = TruthFile(options.truth)
        self._received = 0
        self._started_at = time.time()
        self._began_ns = time.monotonic_ns()

    def application(self) -> web.Application:
        """The routes, behind readiness and the key."""
        app = web.Application(client_max_size=api.BODY_LIMIT, middlewares=[self._door])
        app.cleanup_ctx.append(self._stepping)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/version", self._version)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post(api.COMPLETIONS, self._generate)
        app.router.add_post(api.CHAT, self._generate)
        return app

    async def _stepping(self, _app: web.Application) -> AsyncIterator[None]:
        stepping = asyncio.create_task(self._batch.run())
        yield
        self._batch.close()
        stepping.cancel()
        with suppress(asyncio.CancelledError):
            await stepping

    @web.middleware
    async def _door(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not self._ready():
            return web.Response(status=503)
        key = self._options.api_key
        if key is not None and request.path.startswith("/v1"):
            given = request.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
                return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    def _ready(self) -> bool:
        elapsed_s = (time.monotonic_ns() - self._began_ns) / 1e9
        return not self._options.never_ready and elapsed_s >= self._options.ready_after_s

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": "0"})

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response(api.models(self._options))

    async def _metrics(self, _request: web.Request) -> web.Response:
        text = exposition(self._batch.counts, model=self._options.model, started_at=self._started_at)
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        received = self._note(request)
        try:
            try:
                if fault := next((one for one in received.faults if one in REFUSALS), None):
                    raise REFUSALS[fault]
                asking = api.asked(await request.read(), self._options, chat=request.path == api.CHAT)
            except Refused as refused:
                received.status = refused.status
                retry = {"Retry-After": "1"} if refused.status in (429, 503) else None
                return web.json_response(refused.body, status=refused.status, headers=retry)
            received.streamed, received.asked_tokens = asking.stream, asking.tokens
            received.prompt_tokens = len(asking.prompt)
            if "hang" in received.faults:
                await asyncio.Event().wait()
            if "html" in received.faults:
                return web.Response(text=PAGE, content_type="text/html")
            return await self._answer(request, asking, received)
        finally:
            self._truth.keep(received)

    def _note(self, request: web.Request) -> Received:
        now_ns = time.monotonic_ns()
        self._received += 1
        if self._options.dies_after is not None and self._received > self._options.dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._options.restarts_after is not None and self._received > self._options.restarts_after:
            self._restart()
        kind = "chatcmpl" if request.path == api.CHAT else "cmpl"
        return Received(
            index=self._received,
            path=request.path,
            received_ns=now_ns,
            id=f"{kind}-{request.headers.get('X-Request-Id') or f'{os.getpid()}-{self._received}'}",
            faults=self._faults.of(self._received),
        )

    async def _answer(self, request: web.Request, asking: Asked, received: Received) -> web.StreamResponse:
        tokens = self._length(asking, received)
        job = Job(asking.prompt, sys.maxsize if "endless" in received.faults else tokens)
        answering = Answering(self._options, asking, received, job)
        self._batch.enter(job)
        try:
            return await (answering.streamed(request) if asking.stream else answering.whole(request))
        finally:
            self._batch.leave(job)
            received.admitted_ns, received.cached_tokens = job.admitted_ns, job.cached

    def _length(self, asking: Asked, received: Received) -> int:
        tokens = asking.tokens
        if self._options.natural_tokens is not None and not asking.exact:
            tokens = min(tokens, self._options.natural_tokens)
        return max(1, tokens // 2) if "short" in received.faults else tokens


class Answering:
    """One request's answer, with its faults."""

    def __init__(self, options: Options, asking: Asked, received: Received, job: Job) -> None:
        if "no_usage" in received.faults:
            asking = replace(asking, include_usage=False, continuous_usage=False)
        self._options = options
        self._asking = asking
        self._received = received
        self._job = job
        model = OTHER_MODEL if "other_model" in received.faults else options.model
        self._writer = Writer(asking, received.id, model=model)

    def _has(self, fault: str) -> bool:
        return fault in self._received.faults

    async def streamed(self, request: web.Request) -> web.StreamResponse:
        """Send the tokens as they come."""
        response = web.StreamResponse(headers={"Content-Type": api.EVENT_STREAM})
        with suppress(ConnectionResetError):  # the client has gone
            await self._stream(request, response)
        return response

    async def _stream(self, request: web.Request, response: web.StreamResponse) -> None:
        await response.prepare(request)
        limit = self._job.limit
        sent = 0
        before = self._writer.opening()
        while sent < limit:
            tokens, due_ns = await self._next(min(self._options.tokens_per_chunk, limit - sent))
            if await self._goes_wrong(request, response, sent, tokens):
                return
            sent += tokens
            event = before + self._event(tokens, self._reason(sent) if sent == limit else None)
            before = b""
            self._stamp(tokens, due_ns)
            await response.write(event)
        await response.write(self._writer.closing(self._usage(sent) if self._asking.include_usage else None))
        await response.write_eof()
        self._received.ended_ns = time.monotonic_ns()

    async def whole(self, request: web.Request) -> web.StreamResponse:
        """Send the answer when all its tokens are there."""
        tokens, due_ns = await self._next(self._job.limit)
        if self._has("stall"):
            await asyncio.sleep(self._options.stall_s)
        if self._has("reset"):
            _reset(request)
            return web.Response()
        if self._has("error_event"):
            return web.json_response(FAILURE, status=500)
        usage = None if self._has("no_usage") else self._usage(tokens)
        body = self._writer.whole(tokens, self._reason(tokens), usage)
        if self._has("broken_json") or self._has("half_event") or self._has("cut"):
            body = body[: len(body) // 2]
        response = web.Response(body=body, content_type="application/json")
        self._stamp(tokens, due_ns)
        with suppress(ConnectionResetError):
            await response.prepare(request)
            await response.write_eof()
            self._received.ended_ns = time.monotonic_ns()
        return response

    async def _next(self, tokens: float) -> tuple[int, int]:
        """Wait for so many tokens. How many, and when the last was due."""
        due_ns, got = 0, 0
        while got < tokens:
            due_ns = await self._job.tokens.get()
            got += 1
            if self._received.prefilled_ns is None:
                self._received.prefilled_ns = due_ns
        return got, due_ns

    def _stamp(self, tokens: int, due_ns: int) -> None:
        now_ns = time.monotonic_ns()
        self._received.chunk_ns.append(now_ns)
        self._received.chunk_tokens.append(tokens)
        self._received.late_ns = max(self._received.late_ns, now_ns - due_ns)

    def _reason(self, tokens: int) -> str:
        return "length" if tokens >= self._asking.tokens else "stop"

    def _usage(self, tokens: int) -> dict[str, Any]:
        cached = self._job.cached if self._options.prefix_cache else None
        return api.usage(self._asking, tokens + self._has("wrong_usage"), cached=cached)

    def _event(self, tokens: int, finish_reason: str | None) -> bytes:
        event = self._writer.chunk(tokens, finish_reason)
        return event.replace(b'"choices":[', b'"choices":[[', 1) if self._has("broken_json") else event

    async def _goes_wrong(self, request: web.Request, response: web.StreamResponse, sent: int, tokens: int) -> bool:
        """What befalls an answer in its middle. Whether it ends there."""
        middle = min(self._job.limit, self._asking.tokens) // 2
        if not sent <= middle < sent + tokens:
            return False
        if self._has("stall"):
            await asyncio.sleep(self._options.stall_s)
        if self._has("reset"):
            _reset(request)
        elif self._has("half_event"):
            event = self._event(tokens, None)
            await response.write(event[: len(event) // 2])
            if request.transport is not None:
                request.transport.close()
        elif self._has("cut"):
            await response.write_eof()
        elif self._has("error_event"):
            await response.write(api.event(FAILURE) + api.DONE)
            await response.write_eof()
        else:
            return False
        return True


def _reset(request: web.Request) -> None:
    """Break the connection off, so that the client reads a reset."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        request.transport.abort()


def exposition(counts: Counts, *, model: str, started_at: float) -> str:
    """The counters by vLLM's names, in Prometheus' text format."""
    labels = f'{{engine="0",model_name="{model}"}}'
    kinds = [
        ("gauge", "vllm:num_requests_running", labels, counts.running),
        ("gauge", "vllm:num_requests_waiting", labels, counts.waiting),
        ("counter", "vllm:num_preemptions_total", labels, counts.preemptions),
        ("counter", "vllm:prefix_cache_queries_total", labels, counts.queried_tokens),
        ("counter", "vllm:prefix_cache_hits_total", labels, counts.cached_tokens),
        ("gauge", "process_start_time_seconds", "", started_at),
    ]
    return "".join(f"# TYPE {name} {kind}\n{name}{marks} {float(value)}\n" for kind, name, marks, value in kinds)
