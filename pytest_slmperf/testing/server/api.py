"""What the API's requests ask for, and how its answers are written down: as vLLM's server does."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_slmperf.testing.server.options import Options

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
DEFAULT_TOKENS = 16
EVENT_STREAM = "text/event-stream; charset=utf-8"
BODY_LIMIT = 1 << 28
"""Bytes of a request."""
DONE = b"data: [DONE]\n\n"
FIRST_TOKEN_ID = 100


class Refused(Exception):
    """A request that gets an error for an answer."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, kind, message)


def error_body(status: int, kind: str, message: str) -> dict[str, Any]:
    """An error as the API says it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def event(body: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that can be served."""

    chat: bool
    model: str
    prompt: Sequence[object]
    """Token ids, or the words of a text: a word is a token."""
    tokens: int
    exact: bool
    """Whether so many must come, whatever the model would rather."""
    stream: bool
    include_usage: bool
    continuous_usage: bool
    token_ids: bool


def asked(body: bytes, options: Options, *, chat: bool) -> Asked:
    """What a request asks for. Raises Refused."""
    try:
        given = json.loads(body)
    except ValueError as error:
        raise Refused(400, "BadRequestError", f"the body is no JSON: {error}") from error
    if not isinstance(given, dict):
        raise Refused(400, "BadRequestError", "the body is no JSON object")
    if (model := given.get("model", options.model)) != options.model:
        raise Refused(404, "NotFoundError", f"The model `{model}` does not exist.")
    if given.get("n", 1) != 1:
        raise Refused(400, "BadRequestError", "n: this server gives one answer")
    tokens = given.get("max_completion_tokens", given.get("max_tokens"))
    tokens = DEFAULT_TOKENS if tokens is None else tokens
    if not isinstance(tokens, int) or tokens < 1:
        raise Refused(400, "BadRequestError", f"max_tokens must be at least 1, got {tokens!r}.")
    prompt = _messages(given.get("messages")) if chat else _prompt(given.get("prompt"))
    if len(prompt) + tokens > options.context_tokens:
        raise Refused(
            400,
            "BadRequestError",
            f"This model's maximum context length is {options.context_tokens} tokens. However, you requested {tokens} "
            f"output tokens and your prompt contains at least {len(prompt)} input tokens, for a total of at least "
            f"{len(prompt) + tokens} tokens. Please reduce the length of the input prompt or the number of requested "
            "output tokens.",
        )
    streaming = given.get("stream_options") or {}
    return Asked(
        chat=chat,
        model=options.model,
        prompt=prompt,
        tokens=tokens,
        exact=bool(given.get("ignore_eos")) or (given.get("min_tokens") or 0) >= tokens,
        stream=bool(given.get("stream")),
        include_usage=bool(streaming.get("include_usage")),
        continuous_usage=bool(streaming.get("continuous_usage_stats")),
        token_ids=bool(given.get("return_token_ids")),
    )


def _prompt(prompt: object) -> Sequence[object]:
    match prompt:
        case (str() as text) | [str() as text]:
            words: Sequence[object] = text.split()
        case [list() as ids] | ([int(), *_] as ids):
            words = ids
        case _:
            words = []
    if len(set(map(type, words))) != 1 or not isinstance(words[0], str | int):
        raise Refused(400, "BadRequestError", "prompt: one text or one list of token ids, not empty")
    return words


def _messages(messages: object) -> Sequence[object]:
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "BadRequestError", "messages: a list, not empty")
    words: list[object] = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        parts = [{"text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list):
            raise Refused(400, "BadRequestError", "messages: each has a content")
        words += [word for part in parts for word in str(part.get("text", "")).split()]
    return words


class Writer:
    """Writes the answer to one request."""

    def __init__(self, request: Asked, identity: str, *, model: str) -> None:
        self._asked = request
        self._head: dict[str, Any] = {
            "id": identity,
            "object": _kind(request),
            "created": int(time.time()),
            "model": model,
        }
        self._written = 0

    def opening(self) -> bytes:
        """What comes before the first token: in a chat, the role."""
        if not self._asked.chat:
            return b""
        choice: dict[str, Any] = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return self._event({"choices": [choice]})

    def chunk(self, tokens: int, finish_reason: str | None) -> bytes:
        """The event that carries the next tokens."""
        first = self._written
        self._written += tokens
        choice: dict[str, Any] = {"index": 0}
        text = _text(first, self._written)
        choice |= {"delta": {"content": text}} if self._asked.chat else {"text": text}
        choice |= {"logprobs": None, "finish_reason": finish_reason, "stop_reason": None}
        if self._asked.token_ids:
            choice["token_ids"] = _ids(first, self._written)
            if not first and not self._asked.chat:
                choice["prompt_token_ids"] = list(self._asked.prompt)
        rest: dict[str, Any] = {"choices": [choice]}
        if self._asked.continuous_usage:
            rest["usage"] = _usage(len(self._asked.prompt), self._written)
        return self._event(rest)

    def closing(self, usage: Mapping[str, Any] | None) -> bytes:
        """What follows the last token: what was used, where that was asked for, and the stream's end."""
        told = self._event({"choices": [], "usage": usage}) if usage is not None else b""
        return told + DONE

    def whole(self, tokens: int, finish_reason: str, usage: Mapping[str, Any] | None) -> bytes:
        """The answer in one piece."""
        text = _text(0, tokens)
        choice: dict[str, Any] = {"index": 0}
        choice |= {"message": {"role": "assistant", "content": text}} if self._asked.chat else {"text": text}
        choice |= {"logprobs": None, "finish_reason": finish_reason, "stop_reason": None}
        if self._asked.token_ids:
            choice["token_ids"] = _ids(0, tokens)
        body = self._head | {"choices": [choice]}
        if usage is not None:
            body["usage"] = usage
        if self._asked.chat:
            body["object"] = "chat.completion"
        return json.dumps(body).encode()

    def _event(self, rest: Mapping[str, Any]) -> bytes:
        return event({**self._head, **rest})


def _kind(request: Asked) -> str:
    return "chat.completion.chunk" if request.chat else "text_completion"


def usage(request: Asked, tokens: int, *, cached: int | None) -> dict[str, Any]:
    """What a request has used; `cached` is None where the server tells nothing of a cache."""
    used = _usage(len(request.prompt), tokens)
    return used if cached is None else used | {"prompt_tokens_details": {"cached_tokens": cached}}


def _usage(prompt: int, tokens: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + tokens, "completion_tokens": tokens}


def _text(first: int, end: int) -> str:
    return "".join(f" w{number}" for number in range(first, end))


def _ids(first: int, end: int) -> list[int]:
    return list(range(FIRST_TOKEN_ID + first, FIRST_TOKEN_ID + end))


def models(options: Options) -> dict[str, Any]:
    """The answer of /v1/models."""
    card = {"id": options.model, "object": "model", "created": int(time.time()), "owned_by": "vllm"}
    card |= {"root": options.model, "parent": None, "max_model_len": options.context_tokens}
    return {"object": "list", "data": [card]}
