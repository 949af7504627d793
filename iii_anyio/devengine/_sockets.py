"""Sockets of the engine's servers: bound when the engine starts, with errors that name the port."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketListener

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from ._config import Address

__all__ = ("accepting", "bind", "bracketed", "listen")


async def listen(host: str, port: int) -> SocketListener:
    """Listen for workers.

    Raises:
        OSError: The port is taken, or the host is none of this machine.
    """
    try:
        listener = (await anyio.create_tcp_listener(local_host=host, local_port=port)).listeners[0]
    except OSError as exc:
        raise _not_bound(exc, host, port, "port") from exc
    assert isinstance(listener, SocketListener)
    return listener


def bind(stack: AsyncExitStack, address: Address | None, parameter: str) -> tuple[socket.socket | None, str]:
    """Bind a socket that is closed with ``stack``; returns it and what goes into a URL.

    Raises:
        OSError: As ``listen``; ``parameter`` is what the port is called.
    """
    if address is None:
        return None, ""
    sock = stack.enter_context(_bound(address.host, address.port, parameter))
    return sock, f"{bracketed(address.host)}:{sock.getsockname()[1]}"


async def accepting(sock: socket.socket) -> SocketListener:
    """Begin to listen on a socket that is bound; it is the listener's then, and closed if that fails."""
    try:
        sock.listen(128)
        return await SocketListener.from_socket(sock)
    except BaseException:
        sock.close()
        raise


def bracketed(host: str) -> str:
    """A host as URLs have it."""
    return f"[{host}]" if ":" in host else host


def _bound(host: str, port: int, parameter: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as exc:
        sock.close()
        raise _not_bound(exc, host, port, parameter) from exc
    return sock


def _not_bound(exc: OSError, host: str, port: int, parameter: str) -> OSError:
    return OSError(exc.errno, f"{parameter} {port} on {host}: {os.strerror(exc.errno or 0)}")
