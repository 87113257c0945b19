"""What the engine `openai` may be told of a server, and what follows from it: its address, key and certificates."""

import os
import re
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pytest_slmperf.core.errors import EngineUnavailable
from pytest_slmperf.core.machine import SIMULATED
from pytest_slmperf.engines.address import device_of_url
from pytest_slmperf.engines.server import free_port

APIS = ("completions", "chat")
DEVICES = ("cpu", "cuda", SIMULATED)
USUAL_KEY = "OPENAI_API_KEY"
"""The environment variable that the API's own clients read."""
VOCABULARY = 1_000
"""Prompts take token ids below this by default: every vocabulary is at least so large."""
REQUEST_LIMIT_S = 300.0
"""Half of what a launch waits for an answer: it asks for half of a batch and then the whole of it, to see the peak of
memory. So requests that are too many at once fail, and their case with them; the launch isn't killed as one that hangs.
"""
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
_KEY_IN_COMMAND = re.compile(r"api[-_]?key[= ]\s*(?!\{key\})\S", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Options:
    """What `EngineSpec.options` may hold for this engine."""

    url: str | None = None
    """The API's address, `http://HOST:PORT/v1`. With `command`, where the server that it starts will be."""
    command: str | None = None
    """Starts a server on this machine; `{port}`, `{model}`, `{dtype}`, `{threads}`, `{tensor_parallel_size}`
    and `{key}` are filled in.
    """
    device: str = "cpu"
    """What a server on this machine runs on: `cpu`, `cuda`, or `simulated` for one that only simulates a model."""
    device_index: int = 0
    tensor_parallel_size: int = 1
    """Over how many GPUs that server spreads, from `device_index` on: a run holds them all and adds up their joules."""
    api: str = "completions"
    """`completions` or `chat`."""
    served_model: str | None = None
    """The model's name on the server, where it isn't the case's."""
    key_env: str | None = None
    """The environment variable that holds the key; `OPENAI_API_KEY`, if it is set, where the server was not started."""
    context_tokens: int | None = None
    """Context of a model of which the server doesn't say it."""
    vocabulary: int = VOCABULARY
    ready: str | None = None
    """Path that answers 200 once the server is ready; `/health`, or `/v1/models` where there is none."""
    start_limit_s: float = 600.0
    request_limit_s: float = REQUEST_LIMIT_S
    log: str | None = None
    """File that keeps what a started server prints."""
    ca: str | None = None
    """File with the certificate of the authority that signed the server's."""
    verify: bool = True
    """Whether the server's certificate is checked."""
    proxy: bool = False
    """Whether requests to another machine go through the environment's proxy, which is then measured, too."""


def url_of(options: Options) -> str:
    """The API's address, with a free port where the command takes one. Raises EngineUnavailable."""
    command, url = options.command, options.url
    if url is None and command is None:
        raise EngineUnavailable("openai needs url=http://HOST:PORT/v1, or command=… that starts a server")
    if command is not None and _KEY_IN_COMMAND.search(command):
        raise EngineUnavailable(
            "command: it is recorded, so no key belongs into it; {key} is filled in from the variable key_env"
        )
    if url is None:
        if "{port}" not in (command or ""):
            raise EngineUnavailable("command: it has no {port} to fill in, and no url says where its server will be")
        return f"http://127.0.0.1:{free_port()}/v1"
    return _checked(url, started=command is not None)


def _checked(url: str, *, started: bool) -> str:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not parts.query
    except ValueError:
        known = False
    if not known:
        raise EngineUnavailable(f"url={url} is no address of an API; it looks like http://HOST:PORT/v1")
    if parts.username or parts.password:
        raise EngineUnavailable("url: it is recorded, so no name or password belongs into it; key_env names the key")
    if started and (parts.port is None or device_of_url(url) is not None):
        raise EngineUnavailable(f"url={url}: a server that a command starts is on this machine, at a port")
    return url.rstrip("/")


def key_of(options: Options) -> str:
    """The key, or an empty text; a server that is started gets one only where that is asked for.

    Raises EngineUnavailable for one that isn't there, or can't be sent.
    """
    if options.key_env is None:
        key = os.environ.get(USUAL_KEY, "") if options.command is None else ""
    elif not (key := os.environ.get(options.key_env, "")):
        raise EngineUnavailable(f"key_env={options.key_env}: the environment has no such variable")
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise EngineUnavailable(f"the key in {options.key_env or USUAL_KEY} has characters that no header may hold")
    return key


def trusted_by(options: Options) -> ssl.SSLContext:
    """Whose certificates are trusted. Raises EngineUnavailable for a file that holds none."""
    try:
        context = ssl.create_default_context(cafile=options.ca)
    except OSError as error:  # ssl's own errors are such
        raise EngineUnavailable(f"ca={options.ca}: no certificates can be read there ({error})") from error
    if not options.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def proxy_of(url: str) -> str | None:
    """The environment's proxy for an address, if it has one."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)
