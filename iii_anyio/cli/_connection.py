"""How commands reach the engine: as an ordinary worker that registers nothing and gives up at once.

Below: ``open_worker``. Above: the commands that call functions.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import urlsplit

import anyio
import typer
from anyio import create_task_group

from .._identity import resolve_engine_url
from .._protocol.codec import from_json
from ..errors import ConnectError, DecodeError
from ..options import InitOptions, ReconnectionConfig, TelemetryOptions
from ..worker import Worker, open_worker
from ._errors import ADDRESS_ADVICE, CommandError, ExitCode, usage_errors

__all__ = ("Json", "Url", "connected", "following", "json_argument", "shown_url")

CONNECT_TIMEOUT: Final = 5.0
"""Seconds for TCP, TLS and handshake, and again for the engine to accept us."""
_numbers: Final = itertools.count(1)

Url: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--url", "-u", metavar="WS_URL", help="The engine. Default: III_URL, else ws://127.0.0.1:49134.",
    ),
]  # fmt: skip
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="For machines: JSON on stdout, errors as JSON too.")]


def shown_url(url: str | None = None) -> str:
    """An engine's address without what may be secret: credentials, path parameters, query."""
    parts = urlsplit(resolve_engine_url(url))
    _, _, place = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{place}{parts.path}"


@asynccontextmanager
async def connected(
    url: str | None, command: str, *, reconnect: bool = False, namespace: str | None = None
) -> AsyncGenerator[Worker]:
    """A worker that the engine has accepted.

    Args:
        url: Of the engine.
        command: Of the name by which others see it, ``iii-cli:<command>:<pid>:<n>`` (E-38).
        reconnect: Connect again when the link drops; without it the block is left by an error.
        namespace: Where the command's own functions live; by default ``III_NAMESPACE``.

    Raises:
        ConnectError: Also when the engine refuses our credentials.
        CommandError: The address is none, or the connection was lost later.
    """
    options = InitOptions(
        worker_name=f"iii-cli:{command}:{os.getpid()}:{next(_numbers)}",
        worker_description=f"iii-anyio {command}",
        namespace=namespace,
        reconnection_config=ReconnectionConfig(max_retries=-1 if reconnect else 0),
        telemetry=TelemetryOptions(framework="iii-anyio-cli"),
        connect_timeout=CONNECT_TIMEOUT,
        shutdown_timeout=2.0,
        handle_signals=False,
        process_marker=False,
    )
    is_ready = False
    with _without_worker_name():
        try:
            async with AsyncExitStack() as stack:
                with usage_errors(ADDRESS_ADVICE):
                    worker = await stack.enter_async_context(open_worker(resolve_engine_url(url), options))
                await worker.wait_ready()
                is_ready = True
                yield worker
        except ConnectError as exc:
            if not is_ready:
                raise
            advice = "What was asked for may have been done: look before you repeat it."
            message = f"the connection to {shown_url(url)} was lost: {exc.reason}"
            raise CommandError(ExitCode.NO_CONNECTION, message, advice) from exc


@asynccontextmanager
async def following(url: str | None, command: str, *, namespace: str | None = None) -> AsyncGenerator[Worker]:
    """The same for commands that watch: later interruptions are bridged, and Ctrl-C or SIGTERM ends the block.

    The engine has to be there at the beginning: what is wrong with an address never gets better.
    """
    async with connected(url, command, namespace=namespace):
        pass
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with create_task_group() as tasks:

            async def obey() -> None:
                async for _ in signals:
                    tasks.cancel_scope.cancel()
                    return

            tasks.start_soon(obey, name="iii-cli signals")
            async with connected(url, command, reconnect=True, namespace=namespace) as worker:
                yield worker
            tasks.cancel_scope.cancel()


@contextmanager
def _without_worker_name() -> Generator[None]:
    """``III_WORKER_NAME`` is the application's, goes before our own, and is taken while the application runs (E-35)."""
    name = os.environ.pop("III_WORKER_NAME", None)
    try:
        yield
    finally:
        if name is not None:
            os.environ["III_WORKER_NAME"] = name


def json_argument(text: str) -> Any:
    """The value of a JSON argument: the text itself, ``@file``, or ``-`` for stdin.

    Raises:
        CommandError: No JSON, or no such file.
    """
    where = "the argument"
    try:
        if text == "-":
            where, content = "stdin", sys.stdin.buffer.read()
        elif text.startswith("@"):
            where, content = text[1:], Path(text[1:]).read_bytes()
        else:
            content = text.encode("utf-8", "surrogateescape")
    except OSError as exc:
        raise CommandError(ExitCode.USAGE, f"cannot read {where}: {exc.strerror}", "@FILE names a file.") from exc
    try:
        return from_json(content)
    except DecodeError as exc:
        advice = """Quote it for the shell: '{"name": "Ada"}', or '"text"' for a string. @FILE and - read it."""
        raise CommandError(ExitCode.USAGE, f"{where} is not JSON: {exc}", advice) from exc
