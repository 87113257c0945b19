"""The command: `python -m pytest_slmperf.testing.server --port 0 …`."""

import argparse
import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.testing import server
from pytest_slmperf.testing.server.options import Options

BACKLOG = 4096
OUT_OF_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB "
    "of which 11.38 MiB is free.\n"
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_DP0': 1}"
)


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop. The exit status is 1 for a start that failed, 2 for options that can't be."""
    options = _options(arguments)
    if failure := _failing_start(options):
        sys.stderr.write(f"{failure}\n")
        return 1
    try:
        listener = _bound(options)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    bound = replace(options, port=listener.getsockname()[1])
    try:
        import uvloop  # noqa: PLC0415 - the failing starts above need it not

        with _others(bound) if bound.processes > 1 else nullcontext():
            uvloop.run(_serve(bound, listener))
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{error}: the testing server takes the extra openai, and trustme for tls\n")
        return 1
    return 0


def _options(arguments: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m pytest_slmperf.testing.server",
        description=server.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = get_type_hints(Options)
    for one in fields(Options):
        flag = f"--{one.name.replace('_', '-')}"
        if kinds[one.name] is bool:
            parser.add_argument(flag, action="store_true")
        else:
            kind = next(kind for kind in (get_args(kinds[one.name]) or (kinds[one.name],)) if kind is not type(None))
            parser.add_argument(flag, type=kind, default=one.default, metavar=kind.__name__.upper())
    given: dict[str, Any] = vars(parser.parse_args(arguments))
    try:
        return Options(**given)
    except UsageError as error:
        parser.error(str(error))


def _failing_start(options: Options) -> str:
    if options.out_of_memory:
        return OUT_OF_MEMORY
    if options.refuses_model:
        return f"ValueError: Model architectures of {options.model!r} are not supported for now."
    return ""


def _bound(options: Options) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in options.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if options.processes > 1 or options.shares_port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((options.host, options.port))
    except OSError:
        listener.close()
        raise
    return listener


@contextmanager
def _others(options: Options) -> Iterator[None]:
    """The other processes that listen at the port; they end with this one, however it ends."""
    alike = replace(options, processes=1, shares_port=True, until_stdin_closes=True)
    command = [sys.executable, "-m", server.__name__, *alike.arguments()]
    with ExitStack() as others:
        started = [
            others.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for _ in range(options.processes - 1)
        ]
        for other in started:
            others.callback(other.terminate)
            if other.stdout is not None:
                other.stdout.readline()
        yield


async def _serve(options: Options, listener: socket.socket) -> None:
    from aiohttp import web  # noqa: PLC0415

    from pytest_slmperf.testing.server.app import Service  # noqa: PLC0415
    from pytest_slmperf.testing.server.null import NullService  # noqa: PLC0415

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stopped.set)
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if options.ignores_sigterm else stopped.set)
    if options.until_stdin_closes:
        loop.add_reader(sys.stdin.fileno(), stopped.set)
    service = NullService(options) if options.null else Service(options, restart=lambda: _restart(options))
    # A client that goes takes its request with it.
    runner = web.AppRunner(
        service.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1, keepalive_timeout=75
    )
    await runner.setup()
    site = web.SockSite(runner, listener, ssl_context=_certified(options) if options.tls else None, backlog=BACKLOG)
    if options.listens_after_s:
        _announce(options)
        with suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), options.listens_after_s)
        await site.start()
    else:
        await site.start()
        _announce(options)
    await stopped.wait()
    await runner.cleanup()


def _announce(options: Options) -> None:
    sys.stdout.write(f"{'https' if options.tls else 'http'}://{options.host}:{options.port}\n")
    sys.stdout.flush()


def _restart(options: Options) -> None:
    """Become a new server at the same address: every connection breaks off, and what was counted is forgotten."""
    again = replace(options, restarts_after=None)
    command = [sys.executable, "-m", server.__name__, *again.arguments()]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is meant


def _certified(options: Options) -> ssl.SSLContext:
    """With a certificate of an authority that nobody knows."""
    import trustme  # noqa: PLC0415

    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(options.host, "localhost").configure_cert(context)
    if options.tls_authority is not None:
        with tempfile.NamedTemporaryFile(dir=Path(options.tls_authority).parent, delete=False) as written:
            written.write(authority.cert_pem.bytes())
        Path(written.name).replace(options.tls_authority)
    return context
