"""Any server that speaks the OpenAI API with streaming: one that runs, or one that a command line starts.

`vllm serve`, SGLang, llama.cpp's server, TensorRT-LLM, Ollama, a cluster's address. The only file that sends HTTP
requests, by aiohttp.

How a server wants to be asked is found out at its start by a few short requests: whether it takes token ids as a prompt
(else prompts are texts of common words, whose number is set by the server's own count), whether it can be told to go on
to the length that was asked for, and whether it tells the ids of its tokens. What was found is part of the facts'
settings.
"""

import asyncio
import errno
import os
import resource
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from pytest_slmperf.core.engine import Answer, EngineFacts, EngineSpec, Request, Served, Stamp, model_name
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable, RequestFailed
from pytest_slmperf.core.load.prompts import FIRST_ORDINARY_TOKEN
from pytest_slmperf.core.load.traffic import FRONT_END
from pytest_slmperf.core.machine import SIMULATED
from pytest_slmperf.engines.address import device_of_url, is_local, port_of
from pytest_slmperf.engines.aside import step_aside
from pytest_slmperf.engines.front_end import FrontEnd
from pytest_slmperf.engines.openai_api import (
    Dialect,
    Reading,
    body_of,
    counters_of,
    models_of,
    refusal_of,
    shown,
    version_of,
)
from pytest_slmperf.engines.openai_options import (
    APIS,
    DEVICES,
    PROXIES,
    USUAL_KEY,
    Options,
    key_of,
    proxy_of,
    trusted_by,
    url_of,
)
from pytest_slmperf.engines.options import options_of, refuse_unknown
from pytest_slmperf.engines.processes import forget_peaks, library_bytes_of, on_gpu, peak_bytes, tree
from pytest_slmperf.engines.server import (
    Server,
    command_of,
    hidden,
    shown_boards,
    taken,
)
from pytest_slmperf.engines.streaming import Streaming

ASSUMED_CONTEXT = 2_048
"""Context of a model of which neither the server nor the option says it."""
ASK_LIMIT_S = 2.0
"""Answers to questions other than for tokens come at once, or not."""
KEEP_ALIVE_S = 3.0
"""An idle connection is used again for so long: less than the 5 s of vLLM's server, or some would break on use."""
READ_AT_ONCE = 1 << 18
REFUSAL_LIMIT = 1 << 16
"""Bytes that are read of what isn't an answer."""
PROBE_TOKENS = 4
SHORT_PROMPT, LONG_PROMPT = 8, 40
"""Tokens, or words of the two texts by which a server's tokenizer is found out."""
AFTER_A_BREAK_S = 0.05
"""A server's connections break a moment before its process is seen to have ended."""
NO_TIME = tuple(f"HTTP {status}:" for status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE))
BUSY_PAUSES_S = (0.1, 0.3)
LOCKED_OUT = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
UNKNOWN = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)
EVENT_STREAM = "text/event-stream"
BREAKS_OFF = ("llama.cpp",)
"""Servers that close a connection after each streamed answer and don't say so, by their header: a request that was
already on its way on it would fail.
"""
AS_SERVED = "as served"
"""The dtype of a server that doesn't say it."""


def create(spec: EngineSpec) -> "OpenAI":
    """The engine of a spec, not started. Raises EngineUnavailable for options that can't be."""
    return OpenAI(spec, options_of(Options, spec))


class OpenAI(Streaming):
    """A server, and the connections to it."""

    def __init__(self, spec: EngineSpec, options: Options, *, environment: Mapping[str, str] | None = None) -> None:
        """`environment` is for a server that is started, on top of this process's."""
        super().__init__()
        refuse_unknown(spec, "device", options.device, DEVICES)
        refuse_unknown(spec, "api", options.api, APIS)
        self._spec, self._options = spec, options
        self._environment = dict(environment or {})
        self._key = key_of(options)
        self._url = url_of(options)
        self._proxy = options.proxy and device_of_url(self._url) is not None
        self._through = proxy_of(self._url) if self._proxy else None
        self._trusted = trusted_by(options) if self._url.startswith("https:") else True
        if "device" in spec.options and device_of_url(self._url) is not None:
            raise EngineUnavailable(f"device is of a server on this machine, and {self._url} is on another")
        self._session: aiohttp.ClientSession
        self._server: Server | None = None
        self._dialect = Dialect(options.served_model or spec.model, "chat" if options.api == "chat" else "completions")
        self._target = URL(self._url + self._dialect.path)
        """Where requests are sent."""
        self._lasts = True
        """Whether a connection outlasts a streamed answer."""
        self._tells_counters = True
        self._front_end: FrontEnd | None = None
        self._counts_memory = False
        self._lengths: list[tuple[int, int]] = []
        self._processes: tuple[int, ...] = ()
        self._libraries_bytes = 0

    @property
    def server(self) -> Server | None:
        """The server that was started, if there is one."""
        return self._server

    # Start

    def start(self) -> EngineFacts:
        """Start the server if that is asked for, wait until it is ready, and find out how it wants to be asked.

        Raises EngineUnavailable for a server that isn't there, doesn't serve the model or doesn't let us in;
        EngineFailed and MemoryError as `Server.wait_until_ready` does, and EngineFailed for one whose answers are none.
        """
        began_s = time.monotonic()
        if self._options.command is not None:
            self._launch(self._options.command)
        self._wait_until_ready()
        facts = self.run(self._introduced())
        if self._server is not None and facts.device != "cuda" and on_gpu(tree(self._server.pid)):
            raise EngineUnavailable(
                "the server that the command starts runs on a GPU: device=cuda says so, or its samples would be taken "
                "for those of a CPU"
            )
        if facts.device == SIMULATED:
            facts = replace(facts, startup_s=time.monotonic() - began_s)
        self._counts_memory = self._server is not None and facts.device == "cpu"
        return facts

    def _launch(self, template: str) -> None:
        self._refuse_leftover()
        command = command_of(
            template,
            {
                "port": str(urlsplit(self._url).port),
                "model": self._spec.model,
                "dtype": self._spec.dtype,
                "threads": str(self._spec.threads),
                "tensor_parallel_size": str(self._options.tensor_parallel_size),
                "key": self._key,
            },
        )
        environment = dict(self._environment)
        if self._options.device == "cuda" and (self._options.device_index or self._options.tensor_parallel_size > 1):
            shown = shown_boards(self._options.device_index, self._options.tensor_parallel_size)
            environment["CUDA_VISIBLE_DEVICES"] = shown
        self._server = Server(
            command,
            name=Path(command[0]).name,
            environment=environment,
            log=Path(self._options.log).expanduser() if self._options.log else None,
            secret=self._key,
        )
        self._server.start()
        step_aside(os.sched_getaffinity(0))  # the server was started on them, and stays there

    def _refuse_leftover(self) -> None:
        """A server that is there already would be measured in place of the one that is to be started."""
        parts = urlsplit(self._url)
        if taken(parts.hostname or "", parts.port or 80):
            raise EngineFailed(
                f"somebody listens at {self._url} before the server was started, maybe a server that an earlier crash "
                "left behind: end that one, or let {port} in the command choose a free port"
            )

    def _wait_until_ready(self) -> None:
        if self._server is not None:
            self._server.wait_until_ready(lambda: self.run(self._unready()), self._options.start_limit_s)
            return
        self.run(self._loaded())

    async def _loaded(self) -> None:
        """Wait for a server that runs: it may still load its model, but it has to be there."""
        try:
            async with asyncio.timeout(self._options.start_limit_s):
                while (why := await self._unready(there=True)) is not None:
                    await asyncio.sleep(ASK_LIMIT_S / 10)
        except TimeoutError:
            raise EngineFailed(
                f"{self._url} was not ready within {self._options.start_limit_s:g} s ({why}); if it is only slow, "
                "raise start_limit_s"
            ) from None

    async def _unready(self, *, there: bool = False) -> str | None:
        """Why the server can't take a request yet, or None. Raises EngineUnavailable for an untrusted certificate, and
        with `there` where nobody listens.
        """
        try:
            if self._options.ready is not None:
                status, _ = await self._got(self._root(self._options.ready))
            else:
                status, _ = await self._got(self._root("/health"))
                if status in UNKNOWN:
                    status, _ = await self._got(URL(self._url + "/models"))
        except aiohttp.ClientConnectorCertificateError as error:
            raise EngineUnavailable(
                f"{self._url}: its certificate isn't trusted ({error.certificate_error}): ca=FILE names the authority "
                "that signed it, verify=false trusts any"
            ) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            if there and isinstance(error, aiohttp.ClientConnectorError):
                raise EngineUnavailable(
                    f"{self._url}: nobody answers there ({error.os_error}){self._unused_proxy()}"
                ) from error
            return str(error) or type(error).__name__
        # A server that wants a key is ready; one that is there and knows no models never will be, and is told so next.
        final = (*LOCKED_OUT, *UNKNOWN) if there and self._options.ready is None else LOCKED_OUT
        ready = status < HTTPStatus.BAD_REQUEST or status in final
        return None if ready else f"HTTP {status}"

    def _unused_proxy(self) -> str:
        names = [name for name in PROXIES if os.environ.get(name)]
        if not names or self._proxy:
            return ""
        if is_local(urlsplit(self._url).hostname or ""):
            return f"; {names[0]} is set, and isn't used for this machine"
        return f"; {names[0]} is set and not used: proxy=true goes through it, and measures it"

    async def _introduced(self) -> EngineFacts:
        context, owner = await self._found_model()
        await self._find_dialect()
        version = await self._version()
        if is_local(urlsplit(self._url).hostname or ""):
            # Now: connections to it are open, and nothing is timed but its start.
            self._front_end = FrontEnd(port_of(self._url), tuple(tree(self._server.pid)) if self._server else None)
        dialect = self._dialect
        settings: dict[str, str | int | float | bool] = {
            "prompts": "ids" if dialect.ids else "text",
            "ignore_eos": dialect.forced,
        }
        if dialect.token_ids:
            settings["token_ids"] = True
        if not self._lasts:
            settings["keep_alive"] = False
        if self._proxy:
            settings["proxy"] = True
        return EngineFacts(
            version=" ".join(filter(None, (owner, version))) or "unknown",
            device=device_of_url(self._url) or self._options.device,
            dtype=self._spec.dtype if "{dtype}" in (self._options.command or "") else AS_SERVED,
            weights=f"served:{dialect.model}",
            context_tokens=self._options.context_tokens or context or ASSUMED_CONTEXT,
            vocabulary=self._options.vocabulary,
            settings=settings,
            own_process=False,
        )

    async def _found_model(self) -> tuple[int | None, str]:
        """Choose the model's name on the server. Its context and owner, where the server says them."""
        status, body = await self._told(URL(self._url + "/models"))
        if status in LOCKED_OUT:
            raise EngineUnavailable(self._locked_out(status, refusal_of(body)))
        named = self._options.served_model
        try:
            listed = models_of(body)
        except ValueError as error:
            if named is None:
                raise EngineUnavailable(
                    f"{self._url}/models lists no models (HTTP {status}: {self._hidden(shown(body))}): is this the "
                    "address of an OpenAI API, with its /v1? If so, served_model=NAME names the model"
                ) from error
            listed = []
        served = {model.id: model for model in listed}
        wanted = [named] if named else [self._spec.model, self._spec.model_name]
        name = next((one for one in wanted if one in served), None)
        if name is None and (served or not named):
            raise EngineUnavailable(
                f"{self._url} serves {', '.join(served) or 'no model'}, and not {named or self._spec.model}: "
                "served_model=NAME says which of them is meant"
            )
        self._dialect = replace(self._dialect, model=name or named or self._spec.model)
        model = served.get(name or "")
        return (model.context_tokens, model.owned_by or "") if model else (None, "")

    async def _version(self) -> str:
        for path in ("/version", "/api/version", "/props"):  # vLLM, Ollama, llama.cpp
            status, body = await self._told(self._root(path))
            if status == HTTPStatus.OK and (version := version_of(body)):
                return version
        return ""

    async def _find_dialect(self) -> None:
        """Try the ways of asking, best first, until one is answered. Raises EngineFailed with the first's error."""
        first = ""
        for ids in (False,) if self._dialect.api == "chat" else (True, False):
            for forced in (True, False):
                self._dialect = replace(self._dialect, ids=ids, forced=forced)
                try:
                    await self._found_out()
                except RequestFailed as error:
                    first = first or str(error)
                    if str(error).startswith(NO_TIME):
                        break
                else:
                    return
        raise EngineFailed(f"{self._url} can't be measured: {first}")

    async def _found_out(self) -> None:
        """Try this way of asking, and set what else it takes. Raises RequestFailed."""
        self._dialect = replace(self._dialect, token_ids=False)
        answer, reading = await self._try(SHORT_PROMPT)
        plain = self._dialect
        self._dialect = replace(plain, token_ids=True)
        try:  # vLLM joins parts where its front end is late, and then tells how many tokens each has
            _, telling = await self._try(SHORT_PROMPT)
            tells = telling.tells_tokens
        except RequestFailed:
            tells = False
        self._dialect = replace(plain, token_ids=tells)
        if not self._dialect.ids:
            longer, _ = await self._try(LONG_PROMPT)
            per_word = (longer.prompt_tokens - answer.prompt_tokens) / (LONG_PROMPT - SHORT_PROMPT)
            if per_word <= 0:
                raise RequestFailed("it counts no more prompt tokens for a longer prompt")
            besides = answer.prompt_tokens - per_word * SHORT_PROMPT
            self._dialect = replace(self._dialect, tokens_per_word=per_word, tokens_besides=besides)
        model, asked = reading.model or "", self._dialect.model
        if model and not model.startswith(asked) and model_name(model) != model_name(asked):
            raise EngineFailed(f"{self._url} was asked for {asked}, and {model} answered")
        self._dialect = replace(self._dialect, answers_as=model)

    async def _try(self, prompt_tokens: int) -> tuple[Answer, Reading]:
        """A few tokens, as it is asked now. A server that has no time is asked again: that is no answer to the way."""
        prompt = tuple(range(FIRST_ORDINARY_TOKEN, FIRST_ORDINARY_TOKEN + prompt_tokens))
        for pause_s in BUSY_PAUSES_S:
            try:
                return await self._exchanged(Request(prompt, PROBE_TOKENS), lambda _: None)
            except RequestFailed as error:
                if not str(error).startswith(NO_TIME):
                    raise
            await asyncio.sleep(pause_s)
        return await self._exchanged(Request(prompt, PROBE_TOKENS), lambda _: None)

    # Requests

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Keep connections open between requests, as many as there are at once, where the server does."""
        _allow_many_connections()
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, ssl=self._trusted)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        async with aiohttp.ClientSession(
            connector=connector,
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._options.request_limit_s),
            read_bufsize=READ_AT_ONCE,
        ) as self._session:
            yield

    async def batch(self, batch: Sequence[Request], *, observe: bool) -> Served:
        """Send all requests of a batch at once, and wait until the last answer is whole. Raises EngineFailed.

        The peak of memory is that of batches of the same lengths: another batch may have taken more before.
        """
        lengths = [(len(request.prompt), request.output_tokens) for request in batch]
        if self._counts_memory and self._server is not None and lengths != self._lengths:
            self._lengths = lengths
            self._processes = tuple(tree(self._server.pid))
            self._libraries_bytes = self._libraries_bytes or library_bytes_of(self._processes)
            self._counts_memory = forget_peaks(self._processes) is None
        return await super().batch(batch, observe=observe)

    def peak_memory_bytes(self) -> int | None:
        """Of all processes of a server that was started on a CPU, without their libraries' pages."""
        return peak_bytes(self._processes) - self._libraries_bytes if self._counts_memory else None

    async def stream(self, request: Request, stamp: Stamp) -> Answer:
        """Send a request and read its answer to the end.

        Raises RequestFailed, and EngineFailed for a server that has died, wants a key or doesn't know the model.
        """
        answer, _ = await self._exchanged(request, stamp)
        return answer

    def answer(self, batch: Sequence[Request]) -> tuple[tuple[int, ...], ...] | None:
        """What the server tells of its tokens, all requests sent at once: their ids, where it does, or else a checksum
        of each one's text as it stands beside their scores (`logprobs`).

        None for a server that tells neither. Raises EngineFailed.
        """
        return self.run(self._answered(batch))

    async def _answered(self, batch: Sequence[Request]) -> tuple[tuple[int, ...], ...] | None:
        refused: RequestFailed | None = None
        for scores in (True, False):  # a server may refuse to tell scores, and tell ids
            telling = replace(self._dialect, logprobs=scores)
            sent = (self._exchanged(request, lambda _: None, telling) for request in batch)
            answered = await asyncio.gather(*sent, return_exceptions=True)
            whole = [one for one in answered if not isinstance(one, BaseException)]
            for error in answered:
                if isinstance(error, RequestFailed):
                    refused = error
                elif isinstance(error, BaseException):
                    raise error
            if len(whole) == len(batch) and all(len(told.tokens) == one.output_tokens for one, told in whole):
                return tuple(tuple(told.tokens) for _, told in whole)
        if len(whole) < len(batch):
            raise EngineFailed(f"a request failed whose tokens were to be told: {refused}") from refused
        return None

    async def _exchanged(
        self, request: Request, stamp: Stamp, telling: Dialect | None = None
    ) -> tuple[Answer, Reading]:
        """The answer, and what was seen of it: the tokens, too, if it is `telling` them. Raises what `stream` does."""
        dialect = telling or self._dialect
        reading = Reading(request, dialect, stamp, keeps=telling is not None)
        body = body_of(request, dialect)
        try:
            headers = None if self._lasts else {"Connection": "close"}
            response = await self._session.post(
                self._target, data=body, headers=headers, proxy=self._through, allow_redirects=False
            )
            try:
                streams = response.headers.get("Content-Type", "").startswith(EVENT_STREAM)
                if response.status != HTTPStatus.OK or not streams:
                    await self._raise_refusal(response)
                read = response.content.readany
                while data := await read():
                    reading.feed(data)
                return reading.end(), reading
            except BaseException:
                response.close()  # or the rest of it would be read as the next answer
                raise
        except TimeoutError as error:
            raise RequestFailed(f"no whole answer within {self._options.request_limit_s:g} s") from error
        except aiohttp.ClientConnectorError as error:
            await self._raise_if_dead()
            way_out = ": raise the limit of open files, ulimit -n" if error.errno == errno.EMFILE else ""
            raise RequestFailed(f"no connection to {self._url} could be made ({error.os_error}){way_out}") from error
        except aiohttp.ClientError as error:
            await self._raise_if_dead()
            raise RequestFailed(
                f"the connection broke after {reading.parts} parts of its answer ({str(error) or type(error).__name__})"
            ) from error
        except RequestFailed as error:
            raise RequestFailed(self._hidden(str(error))) from error

    async def _raise_refusal(self, response: aiohttp.ClientResponse) -> None:
        """Raise what an answer that isn't a stream of events says."""
        body = await response.content.read(REFUSAL_LIMIT)
        said = self._hidden(refusal_of(body))
        status = response.status
        if status == HTTPStatus.OK:
            kind = response.headers.get("Content-Type", "nothing")
            raise RequestFailed(f"it answered with {kind} where a stream of events belongs: {said}")
        if status in LOCKED_OUT:
            raise EngineFailed(self._locked_out(status, said))
        if status == HTTPStatus.NOT_FOUND:
            raise EngineFailed(f"{self._target} answered HTTP 404: {said}")
        raise RequestFailed(f"HTTP {status}: {said}")

    async def _raise_if_dead(self) -> None:
        if self._server is not None:
            await asyncio.sleep(AFTER_A_BREAK_S)
            self._server.check()

    def _locked_out(self, status: int, said: str) -> str:
        told = f"{self._url} lets nobody in without a key (HTTP {status}: {self._hidden(said)})"
        if self._key:
            return f"{told}, and not with that of {self._options.key_env or USUAL_KEY}"
        return f"{told}: put it into the environment as {USUAL_KEY}, or name its variable with key_env=NAME"

    def front_end(self) -> float | None:
        """See `core.engine.Fronted`: of a server on this machine that has its engine in processes of its own."""
        return self._front_end.share() if self._front_end else None

    async def counters(self) -> Mapping[str, float]:
        """What /metrics says, where there is one, by the names of vLLM, SGLang and llama.cpp, and how busy its front
        end is seen to be.
        """
        told = await self._exposed()
        share = self.front_end()
        return told if share is None else {**told, FRONT_END: share}

    async def _exposed(self) -> Mapping[str, float]:
        if not self._tells_counters:
            return {}
        try:
            status, body = await self._got(self._root("/metrics"))
        except (aiohttp.ClientError, TimeoutError):
            return {}
        if status == HTTPStatus.NOT_FOUND:
            self._tells_counters = False
        return counters_of(body.decode(errors="replace")) if status == HTTPStatus.OK else {}

    async def _told(self, url: URL) -> tuple[int, bytes]:
        """Status and body of a question at the start. Raises EngineFailed where there is no answer."""
        try:
            return await self._got(url)
        except (aiohttp.ClientError, TimeoutError) as error:
            await self._raise_if_dead()
            raise EngineFailed(f"{url} gave no answer ({error!r})") from error

    async def _got(self, url: URL) -> tuple[int, bytes]:
        limit = aiohttp.ClientTimeout(total=ASK_LIMIT_S)
        async with self._session.get(url, timeout=limit, proxy=self._through, allow_redirects=False) as response:
            self._lasts = response.headers.get("Server", "").strip() not in BREAKS_OFF  # aiohttp 3.12 keeps blanks
            return response.status, await response.read()

    def _root(self, path: str) -> URL:
        """A path of the server, and not of its API."""
        return URL(self._url.removesuffix("/v1") + path)

    def _hidden(self, text: str) -> str:
        return hidden(text, self._key)

    # End

    def stop(self) -> None:
        """Close the connections, and end the server that was started."""
        try:
            self.disconnect()
        finally:
            if self._server is not None:
                self._server.stop()


def _allow_many_connections() -> None:
    """Each request under way has a connection, and a shell allows a process 1,024 files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
