"""``python -m iii_anyio dev``: the development engine from a shell.

Exit status: 0 after Ctrl-C or SIGTERM, 1 when the engine cannot start, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path

import anyio

from ._version import __version__

__all__ = ("main",)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m iii_anyio", description="Tools of the iii_anyio SDK.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    dev = commands.add_parser("dev", help="run the development engine", description="Run the development engine.")
    dev.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    dev.add_argument("--port", type=_port, default=49134, help="for workers; 0 takes a free one (default: %(default)s)")
    dev.add_argument("--http-port", type=_port, default=3111, help="for http triggers (default: %(default)s)")
    dev.add_argument("--stream-port", type=_port, default=3112, help="for stream subscribers (default: %(default)s)")
    dev.add_argument("--data", type=Path, metavar="DIR", help="where durable data goes; nothing is durable yet")
    dev.add_argument(
        "--allow-remote", action="store_true", help="listen on a host other than loopback, without any access control"
    )
    dev.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    dev.add_argument("-v", "--verbose", action="store_true", help="log every request and connection")
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)-7s %(name)s: %(message)s"
    )
    try:
        anyio.run(_dev, options, backend=options.backend)
    except (ImportError, OSError, ValueError) as exc:
        print(f"the engine cannot start: {exc}", file=sys.stderr)  # noqa: T201 - a command line talks
        return 1
    return 0


async def _dev(options: argparse.Namespace) -> None:
    from .devengine import open_engine

    if options.data is not None:
        options.data.mkdir(parents=True, exist_ok=True)
    engine = open_engine(
        host=options.host,
        port=options.port,
        http_port=options.http_port,
        stream_port=options.stream_port,
        allow_remote=options.allow_remote,
    )
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with engine:
            print(f"workers  {engine.url}\nHTTP     {engine.http_url}\nCtrl-C ends it.", flush=True)  # noqa: T201
            async for _ in signals:
                return


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not between 0 and 65535")
    return port


if __name__ == "__main__":
    sys.exit(main())
