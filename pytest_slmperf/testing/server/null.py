"""A model that takes no time: for measuring what a client can send."""

from contextlib import suppress
from dataclasses import replace
from functools import lru_cache

from aiohttp import web

from pytest_slmperf.testing.server import api
from pytest_slmperf.testing.server.api import Asked, Refused, Writer
from pytest_slmperf.testing.server.options import Options

REMEMBERED = 4096
"""Answers that are kept as they are written, by what was asked for."""
IDENTITY = "cmpl-null"


class NullService:
    """Answers at once, the same to the same request, and keeps no truth."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=api.BODY_LIMIT)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post(api.COMPLETIONS, self._generate)
        app.router.add_post(api.CHAT, self._generate)
        return app

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response(api.models(self._options))

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        chat = request.path == api.CHAT
        try:
            asking = api.asked(await request.read(), self._options, chat=chat)
        except Refused as refused:
            return web.json_response(refused.body, status=refused.status)
        answer = _answer(replace(asking, prompt=range(len(asking.prompt))), self._options)
        if not asking.stream:
            return web.Response(body=answer[0], content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": api.EVENT_STREAM})
        with suppress(ConnectionResetError):  # the client has gone
            await response.prepare(request)
            for part in answer:
                await response.write(part)
            await response.write_eof()
        return response


@lru_cache(REMEMBERED)
def _answer(asking: Asked, options: Options) -> tuple[bytes, ...]:
    """What is written for a request, write by write."""
    writer = Writer(asking, IDENTITY, model=options.model)
    usage = api.usage(asking, asking.tokens, cached=None)
    if not asking.stream:
        return (writer.whole(asking.tokens, "length", usage),)
    events = [writer.opening()] if asking.chat else []
    left = asking.tokens
    while left:
        tokens = min(left, options.tokens_per_chunk)
        left -= tokens
        events.append(writer.chunk(tokens, None if left else "length"))
    events[-1] += writer.closing(usage if asking.include_usage else None)
    at_once = options.events_per_write or len(events)
    return tuple(b"".join(events[first : first + at_once]) for first in range(0, len(events), at_once))
