"""``dev``: the development engine, and an app with it. Works without typer, so its options are a table of its own.

Below: ``iii_anyio.devengine``, ``_processes``. Above: ``_commands`` makes a typer command of the table.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import anyio

from .._protocol.codec import to_json
from ._errors import CommandError, ExitCode

__all__ = ("DevOption", "main", "typer_command")

DESCRIPTION: Final = (
    "Run the development engine, and with MODULE:OBJECT that app, started again when its files change. "
    "For production there is upstream's engine."
)


@dataclass(frozen=True, slots=True)
class DevOption:
    """One option, as argparse and typer both have it."""

    name: str
    flags: tuple[str, ...]
    """Empty for the positional argument."""
    type: Any
    """``bool`` is a switch, a ``Literal`` a choice, anything else takes a value and may be missing."""
    help: str
    metavar: str | None = None
    default: Any = None


CONSOLE_PORT: Final = 3113
OPTIONS: Final = (
    DevOption("target", (), str, "an App to serve, started again when Python files change", "MODULE[:OBJECT]"),
    DevOption(
        "config", ("--config", "-c"), Path, "configuration of the real engine; the other options go first", "FILE"
    ),
    DevOption("host", ("--host",), str, "address to listen on (default: as configured, or 127.0.0.1)"),
    DevOption(
        "port", ("--port",), int, "for workers; 0 takes a free one (default: as configured, or 49134)", "[0-65535]"
    ),
    DevOption(
        "http_port", ("--http-port",), int, "for http triggers (default: as configured, or 3111)", "[0-65535]"
    ),
    DevOption(
        "stream_port", ("--stream-port",), int, "for stream subscribers (default: as configured, or 3112)", "[0-65535]"
    ),
    DevOption("console", ("--console",), bool, "serve the console, a page to look into the engine", default=False),
    DevOption("console_port", ("--console-port",), int, "for the console, and serve it (default: 3113)", "[0-65535]"),
    DevOption("data", ("--data",), Path, "keep data there; by default nothing outlives the engine", "DIR"),
    DevOption(
        "allow_remote",
        ("--allow-remote",),
        bool,
        "listen on a host other than loopback without access control",
        default=False,
    ),
    DevOption(
        "allow_origin",
        ("--allow-origin",),
        str,
        "web pages that may connect, besides those of this machine; several with commas, * for all",
        "ORIGIN",
    ),
    DevOption(
        "backend", ("--backend",), Literal["asyncio", "trio"], "what the event loop runs on", default="asyncio"
    ),
    DevOption("no_reload", ("--no-reload",), bool, "leave the app running when its files change", default=False),
    DevOption("verbose", ("--verbose", "-v"), bool, "log every request and connection", default=False),
    DevOption("json", ("--json",), bool, "for machines: events as JSON lines on stdout", default=False),
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Parse by argparse, and run."""
    parser = argparse.ArgumentParser(prog="iii-anyio dev", description=DESCRIPTION)
    for option in OPTIONS:
        more: dict[str, Any] = {"help": option.help}
        if option.type is bool:
            more |= {"action": "store_true"}
        elif get_origin(option.type) is Literal:
            more |= {"choices": get_args(option.type), "default": option.default}
        else:
            more |= {"type": option.type, "metavar": option.metavar}
        if option.flags:
            parser.add_argument(*option.flags, dest=option.name, **more)
        else:
            parser.add_argument(option.name, nargs="?", help=option.help, metavar=option.metavar)
    return dev(**vars(parser.parse_args(arguments)))


def typer_command() -> Callable[..., None]:
    """The same for typer: a function whose signature is the table."""
    import typer

    def command(**options: Any) -> None:
        if code := dev(**options):
            raise typer.Exit(code)

    def parameter(option: DevOption) -> inspect.Parameter:
        text = option.help[0].upper() + option.help[1:] + "."
        more: dict[str, Any] = {"help": text, "show_default": option.type is not bool and option.default is not None}
        if option.type is not bool and get_origin(option.type) is not Literal:
            more["metavar"] = option.metavar
        info: Any = typer.Option(*option.flags, **more) if option.flags else typer.Argument(**more)
        kind: Any = option.type if option.default is not None else option.type | None
        annotation: Any = Annotated[kind, info]
        return inspect.Parameter(
            option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=annotation
        )

    parameters = [parameter(option) for option in OPTIONS]
    described: Any = command
    described.__signature__ = inspect.Signature(parameters)
    described.__annotations__ = {given.name: given.annotation for given in parameters}
    described.__doc__ = DESCRIPTION
    return command


def dev(
    *,
    target: str | None,
    config: Path | None,
    host: str | None,
    port: int | None,
    http_port: int | None,
    stream_port: int | None,
    console: bool,
    console_port: int | None,
    data: Path | None,
    allow_remote: bool,
    allow_origin: str | None,
    backend: Literal["asyncio", "trio"],
    no_reload: bool,
    verbose: bool,
    json: bool,
) -> int:
    """Run the engine until Ctrl-C or SIGTERM, and return the exit code."""
    if console and console_port is None:
        console_port = CONSOLE_PORT if port != 0 else 0
    ports = {"port": port, "http_port": http_port, "stream_port": stream_port, "console_port": console_port}
    changes: Callable[[], AsyncIterator[set[Any]]] | None = None
    try:
        for name, number in ports.items():
            if number is not None and not 0 <= number <= 65535:
                flag = "--" + name.replace("_", "-")
                raise CommandError(ExitCode.USAGE, f"{flag} {number} is not between 0 and 65535")
        if target is not None and not no_reload:
            from ._processes import watched

            changes = watched(["."])
    except CommandError as exc:
        _complain(exc, as_json=json)
        return exc.code
    from ._serving import log_to_stderr

    log_to_stderr(logging.INFO if verbose else logging.WARNING)
    arguments: dict[str, Any] = {name: value for name, value in ports.items() if value is not None}
    arguments |= {"config": config, "host": host, "data": data, "allow_remote": allow_remote}
    if allow_origin is not None:
        arguments["allowed_origins"] = [origin.strip() for origin in allow_origin.split(",")]
    try:
        return anyio.run(partial(_serve, arguments, target, changes, as_json=json), backend=backend)
    except (ImportError, OSError, ValueError) as exc:
        advice = ""
        if isinstance(exc, ImportError):
            advice = "pip install 'iii-anyio[engine]'"
        elif isinstance(exc, OSError) and "port" in str(exc):
            advice = (
                "Another engine may be running. Other ports: --port, --http-port, --stream-port, --console-port; "
                "0 takes a free one."
            )
        _complain(CommandError(ExitCode.FAILED, f"the engine cannot start: {exc}", advice), as_json=json)
        return ExitCode.FAILED


async def _serve(
    arguments: dict[str, Any],
    target: str | None,
    changes: Callable[[], AsyncIterator[set[Any]]] | None,
    *,
    as_json: bool,
) -> int:
    from ..devengine import open_engine
    from ._serving import Settings, say

    async with open_engine(**arguments) as engine:
        facts = {"urls": list(engine.urls), "http_url": engine.http_url, "stream_url": engine.stream_url}
        if engine.console_url:
            facts["console_url"] = engine.console_url
        lines = [
            *(f"workers  {url}" for url in engine.urls),
            f"HTTP     {engine.http_url or 'not configured'}",
            f"streams  {engine.stream_url or 'not configured'}",
            *([f"console  {engine.console_url}"] if engine.console_url else []),
            "Ctrl-C ends it.",
        ]
        text = to_json({"event": "listening", **facts}).decode() if as_json else "\n".join(lines)
        show = partial(print, text, flush=True)  # a command line talks
        if target is None:
            # First the receiver: who reads the lines may send a signal at once.
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                show()
                async for _ in signals:
                    return ExitCode.OK
        show()
        from ._processes import Keeper, child_of

        child = child_of(Settings(target=target or "", as_json=as_json), engine.url)
        if engine.console_url:
            child.environment.setdefault("OTEL_ENABLED", "true")  # the console shows what workers tell of calls
        return await Keeper([child], tell=partial(say, as_json=as_json), changes=changes).run()


def _complain(error: CommandError, *, as_json: bool) -> None:
    body = {"message": error.message, "advice": error.advice or None, "exit_code": int(error.code)}
    text = to_json({"error": body}).decode() if as_json else f"Error: {error.message}\n{error.advice}".rstrip()
    print(text, file=sys.stderr)  # noqa: T201 - see above
