"""What is sent to a server of the OpenAI API, and what its answers mean. Pure; msgspec reads and writes the JSON."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from zlib import crc32

import msgspec

from pytest_slmperf.core.answers import NOT_FINITE
from pytest_slmperf.core.engine import Answer, Request, Stamp
from pytest_slmperf.core.errors import RequestFailed
from pytest_slmperf.core.load.traffic import CACHED_TOKENS, PREEMPTIONS, QUERIED_TOKENS, RUNNING, STARTED_AT, WAITING

SHOWN = 300
"""Characters that are repeated of what a server says."""
DONE = b"[DONE]"
PARTS_BEYOND = 2
"""Parts of an answer beyond the tokens asked for, from which on it is one without an end. A last one may be empty."""
PROMPT_ERROR = 0.05
"""Share by which a text may hold other numbers of tokens than were asked for: its tokenizer is on the server."""

_ENGLISH = """
the of and to in is it you that he was for on are with as his they be at one have this from or had by hot word but what
some we can out other were all there when up use your how said an each she which do their time if will way about many
then them write would like so these her long make thing see him two has look more day could go come did number sound no
most people my over know water than call first who may down side been now find
"""
WORDS = tuple(_ENGLISH.split())
"""Common English words: nearly every vocabulary has a token for each of them with the blank before it."""

_COUNTERS = {
    "vllm:num_requests_running": RUNNING,
    "vllm:num_requests_waiting": WAITING,
    "vllm:num_preemptions_total": PREEMPTIONS,
    "vllm:prefix_cache_hits_total": CACHED_TOKENS,
    "vllm:prefix_cache_queries_total": QUERIED_TOKENS,
    "sglang:num_running_reqs": RUNNING,
    "sglang:num_queue_reqs": WAITING,
    "sglang:cached_tokens_total": CACHED_TOKENS,
    "sglang:prompt_tokens_total": QUERIED_TOKENS,
    "llamacpp:requests_processing": RUNNING,
    "llamacpp:requests_deferred": WAITING,
    "llamacpp:prompt_tokens_cached_total": CACHED_TOKENS,
    "process_start_time_seconds": STARTED_AT,
}
_NAMES = tuple(_COUNTERS)


def counters_of(exposition: str) -> dict[str, float]:
    """Counters from Prometheus' text format, as vLLM, SGLang and llama.cpp name them; summed over their labels.

    A parser of the whole format takes 10 ms for vLLM's thousand lines, and requests would be sent late meanwhile.
    """
    found: dict[str, float] = {}
    for line in exposition.splitlines():
        if not line.startswith(_NAMES):
            continue
        labelled, _, after = line.rpartition("}")
        name, _, plain = line.partition(" ")
        counter = _COUNTERS.get(labelled.partition("{")[0] if labelled else name)
        value = (after if labelled else plain).split()  # a time may follow
        if counter and value:
            found[counter] = found.get(counter, 0.0) + float(value[0])
    return found


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """Tokens as the server counts them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    role: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: Any = None
    """Of each token its text and score, in one of three forms; null where nobody asked."""


class Event(msgspec.Struct):
    """One event of a streamed answer: what we read of it."""

    choices: list[_Choice] = []
    usage: Usage | None = None
    model: str | None = None
    error: Any = None
    message: Any = None
    """Of an error, as older servers tell it."""


_event = msgspec.json.Decoder(Event).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server wants to be asked, as it was found out at its start."""

    model: str
    api: Literal["completions", "chat"] = "completions"
    ids: bool = True
    """Whether prompts are token ids; else they are texts."""
    forced: bool = True
    """Whether it is told to go on to the length that was asked for."""
    token_ids: bool = False
    """Whether it is to tell the ids of its tokens: then a part that holds several says how many."""
    logprobs: bool = False
    """Whether it is to tell text and score of each token."""
    tokens_per_word: float | None = None
    """Of a text; None where nobody has looked yet."""
    tokens_besides: float = 0.0
    """What the server puts around a text, as a chat's template."""
    answers_as: str = ""
    """The model that its answers name; empty where that isn't known yet, or they don't."""

    @property
    def path(self) -> str:
        """Below the API's address."""
        return "/chat/completions" if self.api == "chat" else "/completions"


def body_of(request: Request, dialect: Dialect) -> bytes:
    """A request as it is sent. Raises RequestFailed for a prompt that is too short for what goes around it."""
    body: dict[str, object] = {"model": dialect.model, "max_tokens": request.output_tokens, "stream": True}
    body["stream_options"] = {"include_usage": True}
    body["temperature"] = 0
    if dialect.api == "chat":
        body["messages"] = [{"role": "user", "content": text_of(request.prompt, dialect)}]
    else:
        body["prompt"] = request.prompt if dialect.ids else text_of(request.prompt, dialect)
    if dialect.forced:
        body["ignore_eos"] = True
        body["min_tokens"] = request.output_tokens
    if dialect.token_ids:
        body["return_token_ids"] = True
    if dialect.logprobs:
        body["logprobs"] = True if dialect.api == "chat" else 1
    return _encode(body)


def text_of(prompt: Sequence[int], dialect: Dialect) -> str:
    """A text of as many tokens as the prompt has, as nearly as the server's counts told; its ids choose the words.

    Raises RequestFailed where what the server puts around it is longer than that.
    """
    words = round((len(prompt) - dialect.tokens_besides) / (dialect.tokens_per_word or 1))
    if words < 1:
        raise RequestFailed(
            f"a prompt of {len(prompt)} tokens is impossible: the server puts {dialect.tokens_besides:g} around it"
        )
    known = len(WORDS)
    return " ".join(WORDS[prompt[place % len(prompt)] % known] for place in range(words))


class Reading:
    """One streamed answer while it comes in."""

    def __init__(self, request: Request, dialect: Dialect, stamp: Stamp, *, keeps: bool = False) -> None:
        """`keeps`: the tokens, too, as far as the server tells them."""
        self._asked = request.output_tokens
        self._prompt = len(request.prompt)
        self._dialect = dialect
        self._stamp = stamp
        self._keeps = keeps
        self._tail = b""
        self._finished = False
        self._usage: Usage | None = None
        self.parts = 0
        """Parts that held output."""
        self.tells_tokens = False
        """Whether it said how many tokens a part holds."""
        self.tokens: list[int] = []
        """Those it told, where they are kept."""
        self.model: str | None = None

    def feed(self, data: bytes) -> None:
        """Take in what came, and stamp each part that holds output. Raises RequestFailed.

        Each line of an event stream that carries data is a whole event: the API's JSON has no line breaks.
        """
        if self._tail:
            data = self._tail + data
        lines = data.split(b"\n")
        self._tail = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:])

    def _event(self, data: bytes) -> None:
        if data.strip() == DONE:
            self._finished = True
            return
        try:
            event = _event(data)
        except ValueError as error:  # msgspec's own are such
            raise RequestFailed(
                f"its answer holds an event that is none of the API ({error}): {shown(data)}"
            ) from error
        if event.error or (event.message and not event.choices):
            raise RequestFailed(f"its answer broke off with an error: {message_of(event.error or event.message)}")
        if event.choices:
            if event.model is not None and event.model != self.model:
                self._named(event.model)
            self._part(event.choices[0])
        if event.usage is not None:
            self._usage = event.usage

    def _part(self, choice: _Choice) -> None:
        if self._keeps:
            self.tokens += told_tokens(choice)
        if _holds_output(choice, chat=self._dialect.api == "chat", missing=self.parts < self._asked):
            self.parts += 1
            tokens = len(choice.token_ids) if choice.token_ids else 0
            self._stamp(tokens)
            self.tells_tokens = tokens > 0
            if self.parts > self._asked + PARTS_BEYOND:
                raise RequestFailed(f"its answer has no end: {self._asked} tokens were asked for, and more come")
        if choice.finish_reason is not None:
            self._finished = True

    def _named(self, model: str) -> None:
        expected = self._dialect.answers_as or self.model
        if expected and model != expected:
            raise RequestFailed(f"another model answered: {model}, where {expected} did before")
        self.model = model

    def end(self) -> Answer:
        """The answer, once all of it is in. Raises RequestFailed for one that isn't whole or whose counts can't be."""
        if self._tail.startswith(b"data:"):
            self.feed(b"\n")
        usage = self._usage
        if not self._finished:
            raise RequestFailed(f"its answer broke off after {self.parts} parts")
        if usage is None:
            raise RequestFailed(
                "its answer doesn't say how many tokens it has (usage); the server has to understand "
                'stream_options={"include_usage": true}, and tokens are never guessed from the parts of an answer'
            )
        if usage.completion_tokens > self._asked:
            raise RequestFailed(f"it counts {usage.completion_tokens} tokens where {self._asked} were asked for")
        if self.parts > usage.completion_tokens + PARTS_BEYOND:
            raise RequestFailed(f"it counts {usage.completion_tokens} tokens, and sent {self.parts} parts with output")
        if usage.completion_tokens and not self.parts:
            raise RequestFailed(f"it counts {usage.completion_tokens} tokens, and no part of its answer held any")
        details = usage.prompt_tokens_details
        cached = details.cached_tokens if details else None
        return Answer(usage.completion_tokens, self._prompt_tokens(usage.prompt_tokens), cached or 0)

    def _prompt_tokens(self, told: int) -> int:
        if self._dialect.ids:
            beyond = 1.0  # a start token
        elif self._dialect.tokens_per_word is None:
            beyond = math.inf
        else:
            beyond = max(2, PROMPT_ERROR * self._prompt)
        if abs(told - self._prompt) > beyond:
            raise RequestFailed(f"it read {told} prompt tokens where {self._prompt} were sent")
        return told


def told_tokens(choice: _Choice) -> Iterator[int]:
    """The tokens of a part, where it tells them: their ids, or else a checksum of each one's text.

    NOT_FINITE for one whose score is no finite number: JSON has none, so that servers write null.
    """
    told = choice.logprobs if isinstance(choice.logprobs, dict) else {}
    content = told.get("content") or ()  # of a chat, and of llama.cpp
    texts = told.get("tokens") or [one.get("token") for one in content]
    scores = told.get("token_logprobs") or [one.get("logprob") for one in content]
    ids: Sequence[object] = choice.token_ids or [one.get("id") for one in content] or [None] * len(texts)
    for place, known in enumerate(ids):
        if place < len(scores) and not (isinstance(scores[place], int | float) and math.isfinite(scores[place])):
            yield NOT_FINITE
        else:
            yield known if isinstance(known, int) else crc32(str(texts[place]).encode())


def _holds_output(choice: _Choice, *, chat: bool, missing: bool) -> bool:
    """Whether a part holds output.

    A token may have no text: it is half of a character, or the server has no tokenizer. So a part without a text
    counts, but for the one that opens a chat, and the one that ends an answer whose tokens have all come.
    """
    if choice.token_ids is not None:
        return bool(choice.token_ids)
    delta = choice.delta
    if choice.text or (delta is not None and (delta.content or delta.reasoning_content or delta.reasoning)):
        return True
    if choice.finish_reason is not None:
        return choice.finish_reason == "length" and not chat and missing
    return not chat or (delta is not None and delta.role is None)


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None
    owned_by: str | None = None
    meta: Any = None
    """llama.cpp's, which tells the context of a slot; other servers may mean anything by it."""

    @property
    def context_tokens(self) -> int | None:
        """Prompt and output tokens that a request may have together, where the server says it, in whichever way."""
        told = self.meta.get("n_ctx") if isinstance(self.meta, dict) else None
        return self.max_model_len or (told if isinstance(told, int) else None)


class _Models(msgspec.Struct):
    data: list[_Model]


def models_of(body: bytes) -> list[_Model]:
    """What /v1/models lists. Raises ValueError for anything else."""
    return msgspec.json.decode(body, type=_Models).data


class _Version(msgspec.Struct):
    version: str = ""
    build_info: str = ""
    """llama.cpp's."""


def version_of(body: bytes) -> str:
    """What /version or llama.cpp's /props say; empty where they say nothing."""
    try:
        told = msgspec.json.decode(body, type=_Version)
    except ValueError:
        return ""
    return told.version or told.build_info


def message_of(error: object) -> str:
    """What an error says, in whichever form a server wraps it."""
    while isinstance(error, dict):
        error = error.get("error") or error.get("message") or error.get("detail") or str(error)
    return shown(str(error))


def refusal_of(body: bytes) -> str:
    """What the body of a refusal says."""
    try:
        return message_of(msgspec.json.decode(body))
    except ValueError:
        return shown(body)


def shown(said: str | bytes) -> str:
    """The beginning of what a server said, in one line."""
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"
